//! Acknowledgements of cut edges and checkpoints of evidence, kept in RegionStack's status so that the hub sees them. Kept
//! means written: the caller is told so only after the API server has it.

use crate::apply::{Applier, ApplyError, merge_by};
use crate::manifest::{ObjectKey, REGION_STACK};
use crate::policy_form;
use jiff::Timestamp;
use kube::api::{DynamicObject, Patch};
use meridian_evidence::Checkpoint;
use meridian_kit::policy_feed::Ack;
use meridian_policy::RegionName;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Tries with the stack as it is, when others write the same status at the same time.
const TRIES: u32 = 8;
/// How many are kept. Those of edges that the hub does not ask about (any more) make room for others, the oldest revisions
/// first.
const KEPT: usize = 512;

/// Why an acknowledgement or a checkpoint was not kept. It is repeated.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// It could not be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// There is no RegionStack to keep it in.
    #[error("there is no RegionStack {0}, in whose status it would be kept")]
    NoStack(RegionName),
    /// There is no room.
    #[error("{KEPT} acknowledgements are kept already, and the hub waits for each of them; it takes them first")]
    Full,
    /// Others were faster each time.
    #[error("others wrote into the status of the RegionStack at each of {TRIES} tries")]
    Overtaken,
}

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
    /// When it was not kept; repeat it.
    pub async fn record(&self, ack: &Ack) -> Result<(), NotKept> {
        let entry = serde_json::to_value(ack).unwrap_or(Value::Null);
        let merged = |kept: &[Value], stack: &Value| merge(kept, &entry, || asked(&stack["spec"]["policy"]));
        self.change("acks", merged).await
    }

    /// Keeps the newest checkpoint of a chain of evidence. Repeating it changes nothing.
    ///
    /// # Errors
    /// When it was not kept; repeat it.
    pub async fn record_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), NotKept> {
        let told = serde_json::to_value(checkpoint).unwrap_or(Value::Null);
        let newest = |kept: &[Value], _: &Value| newest(kept, &told).map_or(Merged::Known, Merged::Changed);
        self.change("evidence", newest).await
    }

    /// Changes a list of the status, by what the stack says: as it was last seen, or if that is not enough, as it is.
    async fn change(&self, list: &'static str, change: impl Fn(&[Value], &Value) -> Merged) -> Result<(), NotKept> {
        let key = ObjectKey::cluster(REGION_STACK, self.region.as_str());
        let seen = self.applier.cache().get(&key);
        if let Some(seen) = seen
            && let Merged::Changed(changed) = changed(&seen, list, &change)
            && self.swap(&key, &seen, list, &changed).await?
        {
            return Ok(());
        }
        for _ in 0..TRIES {
            let stack = self.applier.read(&key).await?;
            let stack = stack.ok_or_else(|| NotKept::NoStack(self.region.clone()))?;
            match changed(&stack, list, &change) {
                Merged::Known => return Ok(()),
                Merged::Full => return Err(NotKept::Full),
                Merged::Changed(changed) => {
                    if self.swap(&key, &stack, list, &changed).await? {
                        return Ok(());
                    }
                }
            }
        }
        Err(NotKept::Overtaken)
    }

    /// Writes a list over the stack that was seen; `false` when that is another one by now. Two that are told at once never
    /// overwrite each other.
    async fn swap(
        &self,
        key: &ObjectKey,
        seen: &DynamicObject,
        list: &'static str,
        changed: &[Value],
    ) -> Result<bool, NotKept> {
        let version = &seen.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "status": {(list): changed}});
        let params = merge_by("meridian-region-acks");
        let api = self.applier.api(key);
        let patch = Patch::Merge(&patch);
        let written = self
            .applier
            .write(list, key, api.patch_status(&key.name, &params, &patch));
        match written.await {
            Ok(written) => {
                self.applier.cache().put(key.clone(), written);
                Ok(true)
            }
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn changed(stack: &DynamicObject, list: &str, change: impl Fn(&[Value], &Value) -> Merged) -> Merged {
    let kept = stack.data["status"][list].as_array();
    change(kept.map_or(&[][..], Vec::as_slice), &stack.data)
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

/// What something new comes to.
#[derive(Debug, PartialEq)]
enum Merged {
    /// It is there already, or a newer one in its place is.
    Known,
    /// Kept, these are there.
    Changed(Vec<Value>),
    /// Everything that is there is waited for.
    Full,
}

/// The edges that the hub waits for, in whichever form the policy lies; nothing when nobody can know.
fn asked(policy: &Value) -> Option<BTreeSet<String>> {
    let mut policy = policy.clone();
    policy_form::open_own(&mut policy).ok()?;
    let edges = policy["closing"].as_array().into_iter().flatten();
    Some(edges.filter_map(|edge| Some(edge["id"].as_str()?.to_owned())).collect())
}

/// The acknowledgements with a new one, one per edge and role. `asked`: the edges that the hub waits for, of which it is only
/// asked where there is no room; while they are not known, it may be each of them.
fn merge(kept: &[Value], ack: &Value, asked: impl FnOnce() -> Option<BTreeSet<String>>) -> Merged {
    let same = |other: &&Value| other["edge"] == ack["edge"] && other["role"] == ack["role"];
    if kept
        .iter()
        .find(same)
        .is_some_and(|old| old == ack || revision(old) > revision(ack))
    {
        return Merged::Known;
    }
    let mut acks: Vec<Value> = kept.iter().filter(|other| !same(other)).cloned().collect();
    if acks.len() >= KEPT {
        let Some(asked) = asked() else { return Merged::Full };
        while acks.len() >= KEPT {
            let spare = |ack: &Value| !ack["edge"].as_str().is_some_and(|edge| asked.contains(edge));
            let oldest = acks
                .iter()
                .enumerate()
                .filter(|(_, ack)| spare(ack))
                .min_by_key(|(_, ack)| revision(ack));
            let Some((oldest, _)) = oldest else {
                return Merged::Full;
            };
            acks.swap_remove(oldest);
        }
    }
    acks.push(ack.clone());
    acks.sort_by_key(|a| (a["edge"].to_string(), a["role"].to_string()));
    Merged::Changed(acks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy_form::Others;
    use crate::region::stack::validate::example;

    fn ack(edge: &str, role: &str, revision: u64, purged: u64) -> Value {
        json!({"edge": edge, "role": role, "revision": revision, "purged": purged, "sinks": ["table"]})
    }

    fn merged(kept: &[Value], ack: &Value) -> Option<Vec<Value>> {
        match merge(kept, ack, || Some(BTreeSet::new())) {
            Merged::Changed(acks) => Some(acks),
            Merged::Known => None,
            Merged::Full => panic!("there is room"),
        }
    }

    #[test]
    fn there_is_one_per_edge_and_role_and_a_repetition_changes_nothing() {
        let one = merged(&[], &ack("e", "importer", 3, 5)).unwrap();
        assert_eq!(merged(&one, &ack("e", "importer", 3, 5)), None);
        let two = merged(&one, &ack("e", "exporter", 3, 0)).unwrap();
        assert_eq!(two.len(), 2);
        assert_eq!(merged(&two, &ack("e", "importer", 4, 0)).unwrap().len(), 2);
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
        assert_eq!(merged(&kept, &ack("e", "importer", 3, 5)), None);
    }

    #[test]
    fn what_the_hub_waits_for_makes_no_room_and_then_nothing_is_acknowledged() {
        let kept: Vec<Value> = (0..KEPT).map(|n| ack(&format!("e{n}"), "exporter", 7, 0)).collect();
        let new = |asked: &BTreeSet<String>| merge(&kept, &ack("new", "exporter", 7, 0), || Some(asked.clone()));
        let mut asked: BTreeSet<String> = (0..KEPT).map(|n| format!("e{n}")).collect();
        assert_eq!(new(&asked), Merged::Full);
        asked.remove("e3");
        let Merged::Changed(acks) = new(&asked) else {
            panic!("it is kept");
        };
        let has = |edge: &str| acks.iter().any(|ack| ack["edge"] == edge);
        assert_eq!((acks.len(), has("new"), has("e3")), (KEPT, true, false));
    }

    #[test]
    fn what_the_hub_waits_for_is_read_off_a_packed_policy_and_of_a_damaged_one_everything_counts() {
        let mut policy = example().policy;
        let cut = json!({"id": "stride-eu.health.us", "tenant": "stride-eu", "importer_tenant": "stride-us",
            "from": "eu", "to": "us", "revision": 3});
        policy.closing = vec![serde_json::from_value(cut).unwrap()];
        let plain = json!(policy);
        let others = policy_form::packed_others(&Others::taken_from(&mut policy)).unwrap();
        let packed = policy_form::packed(&policy, &others).unwrap();
        for form in [plain, packed] {
            assert_eq!(asked(&form), Some(BTreeSet::from(["stride-eu.health.us".to_owned()])));
        }
        let kept: Vec<Value> = (0..KEPT).map(|n| ack(&format!("e{n}"), "exporter", 7, 0)).collect();
        let damaged = json!({"packed": {"own": "?", "others": "?"}});
        assert_eq!(
            merge(&kept, &ack("new", "exporter", 7, 0), || asked(&damaged)),
            Merged::Full
        );
    }
}
