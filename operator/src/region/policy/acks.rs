//! Acknowledgements of cut edges, kept in RegionStack's status so that the hub sees them. Kept means written: the caller
//! is told so only after the API server has it.

use crate::apply::{Applier, ApplyError};
use crate::manifest::{ObjectKey, REGION_STACK};
use kube::api::{Patch, PatchParams};
use meridian_kit::policy_feed::Ack;
use meridian_policy::RegionName;
use serde_json::{Value, json};

/// Tries when others write the same status at the same time.
const TRIES: u32 = 8;
/// How many are kept; the oldest revisions go first.
const KEPT: usize = 512;

/// Where acknowledgements go.
#[derive(Clone)]
pub struct Acks {
    applier: Applier,
    region: RegionName,
}

impl Acks {
    /// For the RegionStack of this region.
    #[must_use]
    pub fn new(applier: Applier, region: RegionName) -> Self {
        Self { applier, region }
    }

    /// Keeps one. Repeating it changes nothing.
    ///
    /// # Errors
    /// When it could not be written; repeat it.
    pub async fn record(&self, ack: &Ack) -> Result<(), ApplyError> {
        let key = ObjectKey::cluster(REGION_STACK, self.region.as_str());
        let entry = serde_json::to_value(ack).unwrap_or(Value::Null);
        let mut tries = 0;
        loop {
            tries += 1;
            let Some(stack) = self.applier.read(&key).await? else {
                return Ok(());
            };
            let kept = stack
                .data
                .pointer("/status/acks")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            let Some(acks) = merge(&kept, &entry) else {
                return Ok(());
            };
            // The resource version makes this a compare-and-swap: two acknowledgements never overwrite each other.
            let version = stack.metadata.resource_version.clone();
            let patch = json!({"metadata": {"resourceVersion": version}, "status": {"acks": acks}});
            let params = PatchParams {
                field_manager: Some("meridian-region-acks".to_owned()),
                ..PatchParams::default()
            };
            let api = self.applier.api(&key);
            match self
                .applier
                .write("ack", &key, api.patch_status(&key.name, &params, &Patch::Merge(&patch)))
                .await
            {
                Ok(_) => return Ok(()),
                Err(ApplyError::Api { source, .. })
                    if tries < TRIES && matches!(source.as_ref(), kube::Error::Api(s) if s.is_conflict()) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn revision(ack: &Value) -> u64 {
    ack["revision"].as_u64().unwrap_or(0)
}

/// The acknowledgements with a new one, one per edge and role; `None` when nothing would change: it is there already, or
/// a newer one of the same edge and role is.
fn merge(kept: &[Value], ack: &Value) -> Option<Vec<Value>> {
    let same = |other: &&Value| other["edge"] == ack["edge"] && other["role"] == ack["role"];
    if kept
        .iter()
        .find(same)
        .is_some_and(|old| old == ack || revision(old) > revision(ack))
    {
        return None;
    }
    let mut acks: Vec<Value> = kept.iter().filter(|other| !same(other)).cloned().collect();
    acks.push(ack.clone());
    acks.sort_by_key(|a| std::cmp::Reverse(revision(a)));
    acks.truncate(KEPT);
    acks.sort_by_key(|a| (a["edge"].to_string(), a["role"].to_string()));
    Some(acks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(edge: &str, role: &str, revision: u64, purged: u64) -> Value {
        json!({"edge": edge, "role": role, "revision": revision, "purged": purged, "sinks": ["table"]})
    }

    #[test]
    fn there_is_one_per_edge_and_role_and_a_repetition_changes_nothing() {
        let one = merge(&[], &ack("e", "importer", 3, 5)).unwrap();
        assert_eq!(merge(&one, &ack("e", "importer", 3, 5)), None);
        let two = merge(&one, &ack("e", "exporter", 3, 0)).unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(merge(&two, &ack("e", "importer", 4, 0)).unwrap().len(), 2);
    }

    #[test]
    fn a_late_acknowledgement_of_an_older_revision_does_not_replace_a_newer_one() {
        let kept = [ack("e", "importer", 4, 5)];
        assert_eq!(merge(&kept, &ack("e", "importer", 3, 5)), None);
    }
}
