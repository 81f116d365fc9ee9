//! `kubectl meridian plan`: what would change if files were applied, cluster by cluster, and what makes it lawful or refuses
//! it.
//!
//! Two policies are compiled by the hub's own functions, from the hub as it is and as it would be, and the hub's own plans
//! are made of both; the difference is the answer. Everything but reading the files is pure, and nothing is written.
//!
//! | module | what it is for |
//! |---|---|
//! | [`files`] | the resources in the files |
//! | `schema` | what the API server makes of a resource |
//! | [`admit`] | the answer to each resource: the hub as it would be |
//! | [`edges`] | what opens, closes or is refused |
//! | [`clusters`] | what the hub would write into each member |
//! | [`fields`] | differences, field by field |
//! | `render` | all of it for people |

pub mod admit;
pub mod clusters;
pub mod edges;
pub mod fields;
pub mod files;
mod render;
mod schema;

use jiff::Timestamp;
use meridian_policy::{Catalogue, CompiledPolicy, HeldPolicy, compile, openings};
use serde::Serialize;

pub use admit::{Admitted, admit};
pub use files::{FileError, Files, parse, read};

pub(super) use files::unreadable;

use super::observe::Members;
use super::{CHANGES, REFUSED};
use crate::hub::source::{Seen, gather};
use crate::watch::Cache;
use admit::ResourceRow;
use clusters::ClusterRow;
use edges::EdgeRow;

/// What would become of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is not there.
    Created,
    /// It differs.
    Changed,
    /// It is as it would be.
    Unchanged,
    /// It is there and no longer wanted.
    Removed,
    /// It would not be accepted.
    Refused,
}

/// A plan in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing would change.
    NoChange,
    /// Something would.
    Changes,
    /// Something is refused, or could not be found out.
    Refused,
}

impl Verdict {
    /// The exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::NoChange => 0,
            Self::Changes => CHANGES,
            Self::Refused => REFUSED,
        }
    }
}

/// The whole plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanReport {
    /// In one word.
    pub verdict: Verdict,
    /// The resources of the files, in their order.
    pub resources: Vec<ResourceRow>,
    /// Objects of the files that are not of this platform.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
    /// Edges that would open, change, close or be refused.
    pub edges: Vec<EdgeRow>,
    /// What would open, and so needs another person's approval where the hub requires that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs_approval: Vec<String>,
    /// The members, by region: only those where something would happen or is refused.
    pub clusters: Vec<ClusterRow>,
}

/// The difference between the hub as it is and as it would be. Pure.
#[must_use]
pub fn report(hub: &Cache, admitted: Admitted, members: &Members, now: Timestamp) -> PlanReport {
    let (before, after) = (policy(hub, members, now), policy(&admitted.hub, members, now));
    let mut clusters = clusters::clusters(&admitted.hub, &after, members, now);
    for (row, old) in paired(&mut clusters, &clusters::clusters(hub, &before, members, now)) {
        let same = clusters::wanted(hub, &before, &row.region) == clusters::wanted(&admitted.hub, &after, &row.region);
        row.refused_already = same && row.refusal.is_some() && row.refusal == old.refusal;
        for copy in &mut row.copies {
            copy.under_way = old.copies.contains(copy);
        }
    }
    clusters.retain(|row| row.refusal.is_some() || !row.copies.is_empty());
    let mut report = PlanReport {
        verdict: Verdict::NoChange,
        resources: admitted.resources,
        passed_over: admitted.passed_over,
        edges: edges::edges(&before, &after),
        needs_approval: opens(&before, &after, now),
        clusters,
    };
    report.verdict = verdict(&report);
    report
}

/// What the hub asks another person for: in what is opened, nothing is taken for held that the hub has not in force.
fn opens(before: &CompiledPolicy, after: &CompiledPolicy, now: Timestamp) -> Vec<String> {
    let fields = Catalogue::embedded().transferable();
    openings(before.source(), after.source(), &HeldPolicy::default(), &fields, now)
}

/// The policy as the hub would compile it from these resources. A member that could not be looked at is to it as one that
/// the hub cannot ask.
fn policy(hub: &Cache, members: &Members, now: Timestamp) -> CompiledPolicy {
    let seen = |cluster: &str| Seen {
        held: members.get(cluster).and_then(|held| held.as_ref().ok()).cloned(),
        awaited: false,
    };
    // Nothing is awaited, so there is always a source.
    compile(&gather(hub, seen).unwrap_or_default(), now)
}

/// Each row with the row of the same region before.
fn paired<'a>(
    rows: &'a mut [ClusterRow],
    before: &'a [ClusterRow],
) -> impl Iterator<Item = (&'a mut ClusterRow, &'a ClusterRow)> {
    rows.iter_mut().filter_map(move |row| {
        let old = before
            .iter()
            .find(|old| old.region == row.region && old.cluster == row.cluster)?;
        Some((row, old))
    })
}

fn verdict(report: &PlanReport) -> Verdict {
    let refused = report.resources.iter().any(|row| row.action == Action::Refused)
        || report
            .clusters
            .iter()
            .any(|row| row.refusal.is_some() && !row.refused_already);
    let changes = report.resources.iter().any(|row| row.action != Action::Unchanged)
        || report
            .clusters
            .iter()
            .flat_map(|row| &row.copies)
            .any(|copy| !copy.under_way)
        || !report.edges.is_empty();
    match (refused, changes) {
        (true, _) => Verdict::Refused,
        (false, true) => Verdict::Changes,
        (false, false) => Verdict::NoChange,
    }
}

#[cfg(test)]
mod tests;
