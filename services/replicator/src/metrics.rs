//! What is counted: deliveries by edge and outcome. No label can name a person.

use meridian_kit::metrics::Metrics;
use meridian_policy::EdgeId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::domain::delivery::Waiting;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    edge: String,
    rule: String,
}

/// The counters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meters {
    delivered: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    waited: Family<Labels, Counter>,
    egress: Counter,
}

impl Meters {
    /// Registers the counters.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            delivered: metrics.register(
                "meridian_replicator_delivered",
                "Copies that an importer took",
                Family::default(),
            ),
            refused: metrics.register(
                "meridian_replicator_refused",
                "Copies that did not leave, by rule",
                Family::default(),
            ),
            waited: metrics.register(
                "meridian_replicator_waited",
                "Attempts put off, by what was missing",
                Family::default(),
            ),
            egress: metrics.register(
                "meridian_replicator_egress_bytes",
                "Bytes that the sockets for copies have taken, the most that has left for other regions",
                Counter::default(),
            ),
        }
    }

    /// Counted by the sockets themselves.
    pub(crate) fn egress(&self) -> Counter {
        self.egress.clone()
    }

    pub(crate) fn delivered(&self, edge: &EdgeId, copies: u64) {
        let labels = Labels {
            edge: edge.to_string(),
            rule: "lawful".to_owned(),
        };
        self.delivered.get_or_create(&labels).inc_by(copies);
    }

    pub(crate) fn waited(&self, edge: &EdgeId, waiting: Waiting) {
        let labels = Labels {
            edge: edge.to_string(),
            rule: waiting.as_str().to_owned(),
        };
        self.waited.get_or_create(&labels).inc();
    }

    pub(crate) fn refused(&self, edge: &EdgeId, rule: &str, copies: u64) {
        let labels = Labels {
            edge: edge.to_string(),
            rule: rule.to_owned(),
        };
        self.refused.get_or_create(&labels).inc_by(copies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_metric_labels() {
        let metrics = Metrics::new("replicator");
        let meters = Meters::new(&metrics);
        let edge: EdgeId = "stride-eu.workout-summary.us".parse().unwrap();
        meters.delivered(&edge, 1);
        meters.waited(&edge, Waiting::ConsentUnreachable);
        meters.refused(&edge, "no-edge", 1);
        meridian_kit::testing::catalogue::assert_labels("replicator", &metrics.encode());
    }
}
