//! What the operator counts. Labels are kinds, controllers and outcomes: closed sets, never names of tenants or people.

use jiff::Timestamp;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
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
struct RegionLabel {
    region: String,
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
    incidents_open: Family<RegionLabel, Gauge>,
    incident_deadline: Family<RegionLabel, Gauge>,
    /// By name, which is no label: the region, and the next deadline.
    incidents: Arc<Mutex<BTreeMap<String, OpenIncident>>>,
}

/// The region of an open incident, and its next deadline.
type OpenIncident = (String, Option<Timestamp>);

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
        let (incidents_open, incident_deadline) = (Family::default(), Family::default());
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
        registry.register(
            "incidents_open",
            "PrivacyIncidents that are not closed, or whose notices are owed",
            incidents_open.clone(),
        );
        registry.register(
            "incident_deadline_seconds",
            "Seconds until the next legal deadline of an open PrivacyIncident; negative once it has passed",
            incident_deadline.clone(),
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
            incidents_open,
            incident_deadline,
            incidents: Arc::default(),
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

    /// A PrivacyIncident is open, and its next deadline, if a law names one, is then.
    pub fn incident_open(&self, name: &str, region: &str, due: Option<Timestamp>) {
        let mut incidents = self.incidents.lock().unwrap_or_else(PoisonError::into_inner);
        incidents.insert(name.to_owned(), (region.to_owned(), due));
    }

    /// A PrivacyIncident is closed, or no longer there.
    pub fn incident_gone(&self, name: &str) {
        let mut incidents = self.incidents.lock().unwrap_or_else(PoisonError::into_inner);
        incidents.remove(name);
    }

    /// How long is left depends on when it is asked.
    fn count_incidents(&self, now: Timestamp) {
        let incidents = self.incidents.lock().unwrap_or_else(PoisonError::into_inner);
        self.incidents_open.clear();
        self.incident_deadline.clear();
        let mut next: BTreeMap<&str, Timestamp> = BTreeMap::new();
        for (region, due) in incidents.values() {
            let label = RegionLabel { region: region.clone() };
            self.incidents_open.get_or_create(&label).inc();
            if let Some(due) = *due {
                let first = next.entry(region).or_insert(due);
                *first = due.min(*first);
            }
        }
        for (region, due) in next {
            let region = region.to_owned();
            let left = due.as_second().saturating_sub(now.as_second());
            self.incident_deadline.get_or_create(&RegionLabel { region }).set(left);
        }
    }

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.count_incidents(Timestamp::now());
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
    fn the_next_deadline_of_a_region_counts_until_its_incidents_are_closed() {
        let (metrics, now) = (Metrics::default(), Timestamp::UNIX_EPOCH);
        let after = |seconds: i64| Some(Timestamp::from_second(seconds).unwrap());
        metrics.incident_open("a", "eu", after(90));
        metrics.incident_open("b", "eu", after(-30));
        metrics.incident_open("c", "us", None);
        let left = |region: &str| {
            metrics.count_incidents(now);
            let label = RegionLabel {
                region: region.to_owned(),
            };
            let open = metrics.incidents_open.get(&label).map(|gauge| gauge.get());
            (open, metrics.incident_deadline.get(&label).map(|gauge| gauge.get()))
        };
        assert_eq!(left("eu"), (Some(2), Some(-30)));
        assert_eq!(left("us"), (Some(1), None));
        metrics.incident_gone("b");
        assert_eq!(left("eu"), (Some(1), Some(90)));
        metrics.incident_gone("a");
        assert_eq!(left("eu"), (None, None));
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
        metrics.incident_open("eu.stride-eu.20261127t120000z", "eu", Some(Timestamp::now()));
        meridian_kit::testing::catalogue::assert_labels("operator", &metrics.render());
    }
}
