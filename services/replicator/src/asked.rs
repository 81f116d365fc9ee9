//! Which edges the policy asks to acknowledge as closed, and which of these this process has seen to already. What is owed
//! is on record in the database; a process that starts anew only reports once more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use meridian_policy::{CutEdge, EdgeId, PolicyRevision, RegionPolicy};

/// The cuts that were seen to: each edge with the last revision that had it.
#[derive(Debug, Default)]
pub struct Asked(Mutex<HashMap<EdgeId, PolicyRevision>>);

impl Asked {
    fn seen_to(&self) -> MutexGuard<'_, HashMap<EdgeId, PolicyRevision>> {
        // Every change of the map is a single call: a poisoned lock still guards a whole map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cuts of a policy that are new here, of those that concern somebody.
    pub fn of(&self, policy: &RegionPolicy, concerns: impl Fn(&CutEdge) -> bool) -> Vec<CutEdge> {
        if policy.closing.is_empty() {
            return Vec::new();
        }
        let seen_to = self.seen_to();
        let asked = policy.closing.iter().filter(|edge| concerns(edge));
        let new = asked.filter(|edge| seen_to.get(&edge.id).is_none_or(|known| *known != edge.revision));
        new.cloned().collect()
    }

    /// These are seen to. What the policy does not ask any more is forgotten.
    pub fn remember(&self, policy: &RegionPolicy, edges: &[CutEdge]) {
        if edges.is_empty() {
            return;
        }
        let mut seen_to = self.seen_to();
        seen_to.retain(|id, _| policy.closing.iter().any(|edge| edge.id == *id));
        seen_to.extend(edges.iter().map(|edge| (edge.id.clone(), edge.revision)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(closing: &[(&str, u64)]) -> RegionPolicy {
        let closing: Vec<_> = closing
            .iter()
            .map(|(id, revision)| {
                serde_json::json!({"id": id, "tenant": "stride-eu", "importer_tenant": "stride-us", "from": "eu",
                    "to": "us", "revision": revision})
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "region": "eu", "jurisdiction": "eu", "revision": 9, "public_url": "https://eu.example",
            "issuer": "https://eu.example", "countries_served": ["DE"], "homes": [], "directory": [], "peers": [],
            "exports": [], "imports": [], "retention": {}, "closing": closing,
        }))
        .expect("a policy")
    }

    #[test]
    fn a_cut_is_seen_to_once_and_again_when_the_edge_was_there_again() {
        let (asked, first) = (Asked::default(), policy(&[("stride-eu.health.us", 4)]));
        let new = |policy: &RegionPolicy| asked.of(policy, |edge| edge.tenant.as_str() == "stride-eu");
        assert_eq!(new(&first).len(), 1);
        asked.remember(&first, &new(&first));
        assert!(new(&first).is_empty());
        assert_eq!(new(&policy(&[("stride-eu.health.us", 7)])).len(), 1);
    }
}
