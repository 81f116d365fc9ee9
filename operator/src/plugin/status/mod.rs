//! `kubectl meridian status`: is everything as it should be? [`report`] is pure; [`render`] writes it for people.

pub(super) mod read;
mod render;

use std::collections::BTreeMap;

use jiff::Timestamp;
use meridian_policy::compile;
use serde::Serialize;

use super::incidents::{self, IncidentRow};
use super::observe::States;
use crate::hub::source;
use crate::watch::Cache;

/// What is asked of the status.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Edges that close within so many days are listed.
    pub within_days: u32,
    /// Do not look at the members: what the hub says is all there is.
    pub hub_only: bool,
}

/// The whole status.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// Everything is Ready, every policy fresh, nothing violated.
    pub well: bool,
    /// What is not, a sentence each.
    pub wrong: Vec<String>,
    /// By name.
    pub regions: Vec<RegionRow>,
    /// By region; none when they were not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<MemberRow>>,
    /// By name.
    pub tenants: Vec<TenantRow>,
    /// By name.
    pub pools: Vec<PoolRow>,
    /// By tenant.
    pub violations: Vec<ViolationRow>,
    /// Those that are not closed.
    pub incidents: Vec<IncidentRow>,
    /// Within how many days.
    pub closing_within_days: u32,
    /// The first to close comes first.
    pub closing: Vec<ClosingRow>,
}

/// A condition as it stands for the generation that is there now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// In one word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

/// A FitnessRegion.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionRow {
    /// Its name.
    pub region: String,
    /// Whose law holds there.
    pub jurisdiction: String,
    /// Reachable clusters of all clusters, as the hub sees them.
    pub clusters: String,
    /// The revision written into the primary.
    pub revision: Option<u64>,
    /// The revision that the primary applies.
    pub applied_revision: Option<u64>,
    /// Whether it is as asked.
    pub ready: Condition,
}

/// The policy in the member of a region.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberRow {
    /// Of which region.
    pub region: String,
    /// The cluster.
    pub cluster: String,
    /// Whether the policy's lease holds: `Valid`, `Expired`, `Missing`, `Unknown`.
    pub lease: LeaseState,
    /// The revision that the lease vouches for.
    pub vouched_revision: Option<u64>,
    /// When the lease was renewed last, in seconds.
    pub renewed_seconds_ago: Option<i64>,
    /// How long it still holds, in seconds.
    pub valid_for_seconds: Option<i64>,
    /// What the region itself says: may it transfer.
    pub policy_fresh: Option<Condition>,
    /// Why it could not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_because: Option<String>,
}

/// Whether a lease holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum LeaseState {
    /// It does.
    Valid,
    /// It did.
    Expired,
    /// It was never renewed.
    Missing,
    /// The member could not be looked at.
    Unknown,
}

/// A TenantDataResidency.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantRow {
    /// Its name.
    pub tenant: String,
    /// Where it is written.
    pub home: String,
    /// In one word.
    pub phase: String,
    /// Of its home.
    pub epoch: Option<u64>,
    /// Edges that the policy allows.
    pub edges_allowed: Option<u64>,
    /// Edges that it refuses.
    pub edges_refused: Option<u64>,
    /// Whether it is as asked.
    pub ready: Condition,
}

/// An IngestPool.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRow {
    /// Its name.
    pub pool: String,
    /// Where it runs.
    pub region: String,
    /// Writers that are ready.
    pub replicas: Option<u64>,
    /// Writers that are wanted.
    pub desired: Option<u64>,
    /// Records that wait.
    pub lag: Option<u64>,
    /// What keeps it from growing, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capped_by: Option<String>,
    /// Whether it is as asked.
    pub ready: Condition,
}

/// Something that a tenant asks for and may not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ViolationRow {
    /// Whose.
    pub tenant: String,
    /// The rule that refuses.
    pub rule: String,
    /// The field.
    pub path: String,
    /// In a sentence.
    pub message: String,
}

/// An edge that closes soon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClosingRow {
    /// Its name.
    pub edge: String,
    /// From where.
    pub from: String,
    /// What makes it lawful until then.
    pub instrument: String,
    /// When.
    pub expires: Timestamp,
    /// In how many whole days.
    pub days_left: i64,
    /// The rule that refuses from then on.
    pub ends_with: String,
}

/// Everything that can be seen, judged at `now`. `members` is none when they were not asked for. Pure.
#[must_use]
pub fn report(hub: &Cache, members: Option<&States>, wanted: Wanted, now: Timestamp) -> StatusReport {
    let mut report = StatusReport {
        well: true,
        wrong: Vec::new(),
        regions: read::regions(hub),
        members: members.map(|members| read::members(hub, members, now)),
        tenants: read::tenants(hub),
        pools: read::pools(hub),
        violations: read::violations(hub),
        incidents: incidents::report(hub, false, now).incidents,
        closing_within_days: wanted.within_days,
        closing: closing(hub, wanted.within_days, now),
    };
    report.wrong = wrong(&report);
    report.well = report.wrong.is_empty();
    report
}

/// The edges that are open now and close within so many days. The epochs and the regions' keys, which only members know,
/// have no part in when an edge ends.
fn closing(hub: &Cache, within_days: u32, now: Timestamp) -> Vec<ClosingRow> {
    let policy = compile(&source::of_hub(hub), now);
    let mut rows: Vec<ClosingRow> = policy
        .edges()
        .map(|edge| ClosingRow {
            edge: edge.id.to_string(),
            from: edge.from.to_string(),
            instrument: format!("{} '{}'", edge.mechanism, edge.instrument),
            expires: edge.expires,
            days_left: edge.expires.duration_since(now).as_hours() / 24,
            ends_with: edge.ends_with.to_string(),
        })
        .filter(|row| row.days_left < i64::from(within_days))
        .collect();
    rows.sort_by(|a, b| (a.expires, &a.edge).cmp(&(b.expires, &b.edge)));
    rows
}

fn wrong(report: &StatusReport) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ready = |kind: &str, name: &str, ready: &Condition| {
        if ready.status != "True" {
            wrong.push(format!(
                "{kind} {name} is not Ready: {}: {}",
                ready.reason, ready.message
            ));
        }
    };
    for row in &report.regions {
        ready("FitnessRegion", &row.region, &row.ready);
    }
    for row in &report.tenants {
        ready("TenantDataResidency", &row.tenant, &row.ready);
    }
    for row in &report.pools {
        ready("IngestPool", &row.pool, &row.ready);
    }
    for row in &report.incidents {
        ready("PrivacyIncident", &row.incident, &row.ready);
    }
    // One sentence for each cluster, however many regions it holds.
    let mut leases: BTreeMap<&str, String> = BTreeMap::new();
    for row in report.members.iter().flatten() {
        let sentence = match (row.lease, &row.policy_fresh) {
            (LeaseState::Valid, Some(fresh)) if fresh.status == "False" => fresh.message.clone(),
            (LeaseState::Valid, _) => continue,
            (LeaseState::Expired, _) => {
                "its policy lease has ended: the hub does not vouch for the policy, and nothing is transferred"
                    .to_owned()
            }
            (LeaseState::Missing, _) => "it has no policy lease yet: nothing is transferred".to_owned(),
            (LeaseState::Unknown, _) => row.unknown_because.clone().unwrap_or_default(),
        };
        let sentence = match row.lease {
            LeaseState::Unknown => sentence,
            _ => format!("cluster {}: {sentence}", row.cluster),
        };
        leases.entry(&row.cluster).or_insert(sentence);
    }
    wrong.extend(leases.into_values());
    wrong
}

#[cfg(test)]
mod tests;
