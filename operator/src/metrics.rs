//! What the operator counts. Labels are kinds, controllers and outcomes: closed sets, never names of tenants or people.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::Duration;

/// One write request to an API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    kind: &'static str,
    verb: &'static str,
    result: &'static str,
}

/// What a write was and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// Kind written.
    pub kind: &'static str,
    /// apply, status, delete, …
    pub verb: &'static str,
    /// Whether it failed.
    pub failed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassLabels {
    controller: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabel {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemberLabel {
    member: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    rule: String,
}

/// Handles to every metric of the process; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    passes: Family<PassLabels, Histogram, fn() -> Histogram>,
    queue_depth: Family<ControllerLabel, Gauge>,
    writes: Family<WriteLabels, Counter>,
    leader: Gauge,
    events_dropped: Counter,
    member_reachable: Family<MemberLabel, Gauge>,
    refusals: Family<RuleLabel, Counter>,
    feed_watchers: Gauge,
    lease_valid: Gauge,
}

fn durations() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("meridian_operator");
        let passes = Family::new_with_constructor(durations as fn() -> Histogram);
        let (queue_depth, writes, leader) = (Family::default(), Family::default(), Gauge::default());
        let (events_dropped, member_reachable, refusals) = (Counter::default(), Family::default(), Family::default());
        let (feed_watchers, lease_valid) = (Gauge::default(), Gauge::default());
        registry.register(
            "reconcile_duration_seconds",
            "Duration of reconcile passes",
            passes.clone(),
        );
        registry.register("queue_depth", "Objects waiting for a pass", queue_depth.clone());
        registry.register("api_writes", "Write requests sent to API servers", writes.clone());
        registry.register("leader", "1 while this replica holds its role's lease", leader.clone());
        registry.register(
            "events_dropped",
            "Kubernetes Events that could not be published",
            events_dropped.clone(),
        );
        registry.register("member_reachable", "1 while a member answers", member_reachable.clone());
        registry.register("policy_refusals", "Refusals by rule of the policy", refusals.clone());
        registry.register(
            "policy_feed_watchers",
            "Services that follow the policy feed",
            feed_watchers.clone(),
        );
        registry.register(
            "policy_lease_valid",
            "1 while a fresh policy lease is known",
            lease_valid.clone(),
        );
        let registry = Arc::new(registry);
        Self {
            registry,
            passes,
            queue_depth,
            writes,
            leader,
            events_dropped,
            member_reachable,
            refusals,
            feed_watchers,
            lease_valid,
        }
    }
}

impl Metrics {
    /// A reconcile pass ended.
    pub fn pass(&self, controller: &'static str, outcome: &'static str, took: Duration) {
        self.passes
            .get_or_create(&PassLabels { controller, outcome })
            .observe(took.as_secs_f64());
    }

    /// Objects that wait for a pass.
    pub fn queue_depth(&self, controller: &'static str, depth: usize) {
        self.queue_depth
            .get_or_create(&ControllerLabel { controller })
            .set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// A write request was sent.
    pub fn write(&self, write: &Write) {
        let result = if write.failed { "failed" } else { "done" };
        self.writes
            .get_or_create(&WriteLabels {
                kind: write.kind,
                verb: write.verb,
                result,
            })
            .inc();
    }

    /// Write requests sent so far, of all kinds and verbs; what the "changes nothing, writes nothing" tests count.
    #[must_use]
    pub fn writes(&self) -> u64 {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text.lines()
            .filter(|line| line.starts_with("meridian_operator_api_writes_total"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// This replica became, or is no longer, the leader.
    pub fn leader(&self, holds: bool) {
        self.leader.set(i64::from(holds));
    }

    /// An Event could not be published.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// A member cluster answered, or did not.
    pub fn member_reachable(&self, member: &str, reachable: bool) {
        self.member_reachable
            .get_or_create(&MemberLabel {
                member: member.to_owned(),
            })
            .set(i64::from(reachable));
    }

    /// A member is no longer ours to talk to.
    pub fn member_gone(&self, member: &str) {
        self.member_reachable.remove(&MemberLabel {
            member: member.to_owned(),
        });
    }

    /// The policy refused something by this rule.
    pub fn refused(&self, rule: &str) {
        self.refusals.get_or_create(&RuleLabel { rule: rule.to_owned() }).inc();
    }

    /// A service began (`+1`) or ended (`-1`) following the policy feed.
    pub fn feed_watchers(&self, change: i64) {
        self.feed_watchers.inc_by(change);
    }

    /// Whether a fresh policy lease is known.
    pub fn lease_valid(&self, valid: bool) {
        self.lease_valid.set(i64::from(valid));
    }

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_all_kinds_are_summed_and_rendered() {
        let metrics = Metrics::default();
        metrics.write(&Write {
            kind: "Secret",
            verb: "apply",
            failed: false,
        });
        metrics.write(&Write {
            kind: "Job",
            verb: "delete",
            failed: true,
        });
        assert_eq!(metrics.writes(), 2);
        assert!(
            metrics
                .render()
                .contains(r#"api_writes_total{kind="Job",verb="delete",result="failed"} 1"#)
        );
    }

    #[test]
    fn catalogue_metric_labels() {
        let metrics = Metrics::default();
        metrics.pass("region", "done", Duration::from_millis(3));
        metrics.queue_depth("region", 1);
        metrics.write(&Write {
            kind: "Secret",
            verb: "apply",
            failed: false,
        });
        metrics.member_reachable("eu", true);
        metrics.refused("no-edge");
        meridian_kit::testing::catalogue::assert_labels("operator", &metrics.render());
    }
}
