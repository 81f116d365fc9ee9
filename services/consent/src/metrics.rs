//! What is counted. No label says who.

use meridian_kit::metrics::Metrics as Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::domain::standing::State;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StateLabel {
    state: &'static str,
}

/// The service's own metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    changes: Family<StateLabel, Counter>,
    /// Permits that were opened.
    pub permits_opened: Counter,
    /// Permits that were refused.
    pub permits_refused: Counter,
    /// How long withdrawals waited for open permits.
    pub withdrawal_wait: Histogram,
}

impl Metrics {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            changes: registry.register(
                "meridian_consent_changes",
                "Consents granted and withdrawn, objections and restrictions set and lifted",
                Family::default(),
            ),
            permits_opened: registry.counter("meridian_consent_permits_opened", "Permits to deliver that were opened"),
            permits_refused: registry.counter(
                "meridian_consent_permits_refused",
                "Permits to deliver that were refused",
            ),
            withdrawal_wait: registry.durations(
                "meridian_consent_withdrawal_wait_seconds",
                "How long withdrawals waited for open permits",
            ),
        }
    }

    /// Counts an objection or a restriction that was set or lifted.
    pub fn limit_changed(&self, state: &'static str) {
        self.changes.get_or_create(&StateLabel { state }).inc();
    }

    /// Counts a change.
    pub fn changed(&self, state: State) {
        self.changes.get_or_create(&StateLabel { state: state.as_str() }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_metric_labels() {
        let registry = Registry::new("consent");
        Metrics::new(&registry).changed(State::Granted);
        meridian_kit::testing::catalogue::assert_labels("consent", &registry.encode());
    }
}
