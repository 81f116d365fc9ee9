//! What waits to leave, as the replicator counts it: kept in RegionStack's status, so that the hub can say what a change of
//! the policy would stop. Counts by edge, nothing about anybody. An older CRD prunes it, and then nothing is known.

use std::cmp::Reverse;

use crate::apply::{Applier, ApplyError, merge_by};
use crate::manifest::{ObjectKey, REGION_STACK};
use kube::api::Patch;
use meridian_kit::policy_feed::Backlog;
use meridian_policy::RegionName;
use serde_json::{Value, json};

/// Edges that are told apart; what waits at the others is in the sum.
const TOLD: usize = 256;

/// Where the backlog goes.
#[derive(Clone)]
pub struct Backlogs {
    applier: Applier,
    region: RegionName,
}

impl Backlogs {
    /// For the RegionStack of this region.
    #[must_use]
    pub fn new(applier: Applier, region: RegionName) -> Self {
        Self { applier, region }
    }

    /// Keeps the newest. The same again is not written.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn record(&self, backlog: &Backlog) -> Result<(), ApplyError> {
        let key = ObjectKey::cluster(REGION_STACK, self.region.as_str());
        let Some(stack) = self.applier.read(&key).await? else {
            return Ok(());
        };
        let told = told(backlog);
        if stack.data["status"]["backlog"] == told {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"status": {"backlog": told}}));
        let params = merge_by("meridian-region-backlog");
        let api = self.applier.api(&key);
        let write = api.patch_status(&key.name, &params, &patch);
        self.applier.write("backlog", &key, write).await?;
        Ok(())
    }
}

/// As the status has it: the edges with most first chosen, then in the order of their names.
fn told(backlog: &Backlog) -> Value {
    let total: u64 = backlog.waiting.values().sum();
    let mut edges: Vec<_> = backlog.waiting.iter().filter(|(_, waiting)| **waiting > 0).collect();
    edges.sort_by_key(|(_, waiting)| Reverse(**waiting));
    edges.truncate(TOLD);
    edges.sort();
    let edges: Vec<Value> = edges
        .into_iter()
        .map(|(edge, waiting)| json!({"edge": edge, "waiting": waiting}))
        .collect();
    json!({"waiting": total, "edges": edges})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(counts: impl IntoIterator<Item = (String, u64)>) -> Backlog {
        Backlog {
            waiting: counts
                .into_iter()
                .map(|(tenant, waiting)| (format!("{tenant}.health.us").parse().unwrap(), waiting))
                .collect(),
        }
    }

    #[test]
    fn edges_for_which_nothing_waits_are_left_out() {
        let told = told(&backlog([
            ("b".to_owned(), 2),
            ("a".to_owned(), 3),
            ("c".to_owned(), 0),
        ]));
        assert_eq!(
            told,
            json!({"waiting": 5, "edges": [{"edge": "a.health.us", "waiting": 3}, {"edge": "b.health.us", "waiting": 2}]})
        );
    }

    #[test]
    fn of_too_many_edges_those_with_most_are_told_and_the_sum_counts_all() {
        let told = told(&backlog((1..=300).map(|n| (format!("t{n:03}"), n))));
        assert_eq!(told["waiting"], 300 * 301 / 2);
        let edges = told["edges"].as_array().unwrap();
        assert_eq!(edges.len(), TOLD);
        assert_eq!(edges[0]["edge"], "t045.health.us");
    }
}
