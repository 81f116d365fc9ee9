//! Acknowledgements of cut edges and checkpoints of evidence, kept in RegionStack's status so that the hub sees them. Kept means written: the caller
//! is told so only after the API server has it.

use crate::apply::{Applier, ApplyError};
use crate::manifest::{ObjectKey, REGION_STACK};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use meridian_evidence::Checkpoint;
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
        let entry = serde_json::to_value(ack).unwrap_or(Value::Null);
        self.change("acks", |kept| merge(kept, &entry)).await
    }

    /// Keeps the newest checkpoint of a chain of evidence. Repeating it changes nothing.
    ///
    /// # Errors
    /// When it could not be written; repeat it.
    pub async fn record_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), ApplyError> {
        let told = serde_json::to_value(checkpoint).unwrap_or(Value::Null);
        self.change("evidence", |kept| newest(kept, &told)).await
    }

    /// Changes a list of the status; `None` leaves it as it is.
    async fn change(
        &self,
        list: &'static str,
        change: impl Fn(&[Value]) -> Option<Vec<Value>>,
    ) -> Result<(), ApplyError> {
        let key = ObjectKey::cluster(REGION_STACK, self.region.as_str());
        let mut tries = 0;
        loop {
            tries += 1;
            let Some(stack) = self.applier.read(&key).await? else {
                return Ok(());
            };
            let kept = stack.data["status"][list].as_array().cloned().unwrap_or_default();
            let Some(changed) = change(&kept) else {
                return Ok(());
            };
            // The resource version makes this a compare-and-swap: two that are told at once never overwrite each other.
            let version = stack.metadata.resource_version.clone();
            let patch = json!({"metadata": {"resourceVersion": version}, "status": {(list): changed}});
            let params = PatchParams {
                field_manager: Some("meridian-region-acks".to_owned()),
                ..PatchParams::default()
            };
            let api = self.applier.api(&key);
            match self
                .applier
                .write(list, &key, api.patch_status(&key.name, &params, &Patch::Merge(&patch)))
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

/// The checkpoints with a new one, one per chain; `None` when it is there already, or one that was signed later.
fn newest(kept: &[Value], told: &Value) -> Option<Vec<Value>> {
    let same = |other: &&Value| other["chain"] == told["chain"];
    let signed = |checkpoint: &Value| checkpoint["at"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    if kept
        .iter()
        .find(same)
        .is_some_and(|old| old == told || signed(old) > signed(told))
    {
        return None;
    }
    let mut all: Vec<Value> = kept.iter().filter(|other| !same(other)).cloned().collect();
    all.push(told.clone());
    all.sort_by_key(|checkpoint| checkpoint["chain"].to_string());
    Some(all)
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
    fn of_each_chain_the_checkpoint_that_was_signed_last_is_kept() {
        let told = |chain: &str, at: &str, size: u64| json!({"chain": chain, "at": at, "size": size});
        let one = newest(&[], &told("eu/replicator", "2026-03-01T00:00:00Z", 5)).unwrap();
        assert_eq!(newest(&one, &one[0]), None);
        assert_eq!(newest(&one, &told("eu/replicator", "2026-02-28T23:59:59.5Z", 9)), None);
        // A chain that shrank is told as well: what that means is for the hub to say.
        let shrunk = newest(&one, &told("eu/replicator", "2026-03-01T00:00:00.000001Z", 2)).unwrap();
        assert_eq!((shrunk.len(), shrunk[0]["size"].as_u64()), (1, Some(2)));
        assert_eq!(
            newest(&one, &told("eu/consent", "2026-03-01T00:00:00Z", 1))
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn a_late_acknowledgement_of_an_older_revision_does_not_replace_a_newer_one() {
        let kept = [ack("e", "importer", 4, 5)];
        assert_eq!(merge(&kept, &ack("e", "importer", 3, 5)), None);
    }
}
