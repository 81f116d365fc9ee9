//! Rotation of a region's CA, as the hub sees it: the region says what it is verified by, every peer is told with its policy,
//! and the region is told which peers apply that ([`crate::region::stack::rotate`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use meridian_policy::RegionName;
use serde::Deserialize;
use serde_json::{Value, json};
use x509_parser::pem::Pem;

use super::closing::Stacks;
use super::source::settled;
use crate::manifest::{Manifest, NotAManifest};
use crate::policy_form;
use crate::rotation::{PAUSE_ANNOTATION, ROTATE_ANNOTATION, blocks, digest};

/// Regions whose CA is being rotated: a pass over one is due whenever another applies something. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Rotating(Arc<Mutex<BTreeSet<String>>>);

impl Rotating {
    /// What a pass has seen of a region.
    pub(super) fn saw(&self, region: &str, stack: &Value) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rotating(stack).is_some() {
            known.insert(region.to_owned());
        } else {
            known.remove(region);
        }
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A region's stack with what concerns its rotation, where there is any: who has been told, and what the FitnessRegion's
/// annotations ask for. None of it is of the policy, nor of its revision.
pub(crate) fn with_rotation(
    stack: Manifest,
    region: &RegionName,
    object: &Value,
    existing: &Value,
    stacks: impl FnOnce() -> Stacks,
) -> Result<Manifest, NotAManifest> {
    let told = trusted_by(region, existing, stacks);
    let asked = [ROTATE_ANNOTATION, PAUSE_ANNOTATION].into_iter().filter_map(|name| {
        let text = object["metadata"]["annotations"][name].as_str()?;
        Some((name, text))
    });
    let asked: Vec<_> = asked.collect();
    if told.is_empty() && asked.is_empty() {
        return Ok(stack);
    }
    let mut body = stack.body().clone();
    if !told.is_empty() {
        body["spec"]["trustedBy"] = json!(told);
    }
    for (name, text) in asked {
        body["metadata"]["annotations"][name] = json!(text);
    }
    Manifest::new(body)
}

/// What a region is verified by while its CA is being rotated.
fn rotating(stack: &Value) -> Option<&str> {
    let bundle = stack["status"]["caBundle"].as_str()?;
    (blocks(bundle).len() > 1).then_some(bundle)
}

/// The peers that verify a region by what it says now, each with a digest of that; none while its CA is not rotated. Whoever
/// was once told stays in it: no region goes back to an older policy.
fn trusted_by(region: &RegionName, stack: &Value, stacks: impl FnOnce() -> Stacks) -> BTreeMap<RegionName, String> {
    let Some(bundle) = rotating(stack) else {
        return BTreeMap::new();
    };
    let digest = digest(bundle);
    let mut told: BTreeMap<RegionName, String> = BTreeMap::deserialize(&stack["spec"]["trustedBy"]).unwrap_or_default();
    told.retain(|_, known| *known == digest);
    let applies = |peer: &Value| {
        let known = policy_form::peers(&peer["spec"]["policy"]);
        peer["status"]["appliedRevision"].is_u64()
            && settled(peer)
            && known
                .iter()
                .any(|known| known["region"] == region.as_str() && known["ca_pem"] == bundle)
    };
    for (name, peer) in stacks() {
        if name != *region && peer.is_some_and(|peer| applies(&peer)) {
            told.insert(name, digest.clone());
        }
    }
    told
}

/// Whether one bundle of a region was said after another: it holds a newer CA, or fewer beside the same newest.
pub(super) fn is_newer(one: &str, other: &str) -> bool {
    let age = |bundle: &str| {
        let issued = Pem::iter_from_buffer(bundle.as_bytes()).filter_map(|pem| {
            let pem = pem.ok()?;
            Some(pem.parse_x509().ok()?.validity().not_before.timestamp())
        });
        let issued: Vec<i64> = issued.collect();
        (issued.iter().max().copied(), std::cmp::Reverse(issued.len()))
    };
    one != other && age(one) > age(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::stack::secrets::Authority;
    use jiff::Timestamp;

    fn authority(second: i64) -> String {
        let made = Authority::new(&"eu".parse().unwrap(), Timestamp::from_second(second).unwrap());
        made.unwrap().certificate().to_owned()
    }

    fn peer(ca_pem: &str, written: u64, applied: Option<u64>) -> Option<Value> {
        Some(json!({
            "spec": {"revision": written, "policy": {"peers": [{"region": "eu", "ca_pem": ca_pem}]}},
            "status": {"appliedRevision": applied},
        }))
    }

    #[test]
    fn a_peer_counts_once_it_applies_the_bundle_and_from_then_on() {
        let (old, new) = (authority(1_000), authority(2_000));
        let both = format!("{old}{new}");
        let region: RegionName = "eu".parse().unwrap();
        let stack = json!({"status": {"caBundle": both}});
        let told = |stack: &Value, us: Option<Value>| {
            let stacks = Stacks::from([("eu".parse().unwrap(), None), ("us".parse().unwrap(), us)]);
            trusted_by(&region, stack, || stacks)
        };
        assert!(told(&stack, None).is_empty(), "it cannot be asked");
        assert!(told(&stack, peer(&old, 1, Some(1))).is_empty(), "it has the old one");
        assert!(
            told(&stack, peer(&both, 2, Some(1))).is_empty(),
            "it does not apply it yet"
        );
        assert!(told(&stack, peer(&both, 2, None)).is_empty(), "it applies nothing yet");
        let known = told(&stack, peer(&both, 2, Some(2)));
        assert_eq!(known, BTreeMap::from([("us".parse().unwrap(), digest(&both))]));

        let mut stack = stack;
        stack["spec"]["trustedBy"] = json!(known);
        assert_eq!(
            told(&stack, peer(&both, 3, Some(2))),
            known,
            "something else is on its way there"
        );
        stack["status"]["caBundle"] = json!(format!("{both}{}", authority(3_000)));
        assert!(
            told(&stack, peer(&both, 3, Some(2))).is_empty(),
            "of another bundle it knows nothing"
        );
    }

    #[test]
    fn a_region_that_is_not_rotated_is_told_nothing_and_nobody_is_asked() {
        let stack = json!({"status": {"caBundle": authority(1_000)}, "spec": {"trustedBy": {"us": "x"}}});
        let told = trusted_by(&"eu".parse().unwrap(), &stack, || panic!("nobody is asked"));
        assert!(told.is_empty());
    }

    #[test]
    fn a_request_is_passed_on_and_a_stack_without_one_stays_as_it_is() {
        let stack = || {
            Manifest::new(json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "RegionStack",
                "metadata": {"name": "eu", "annotations": {"a": "b"}}, "spec": {}}))
        };
        let with = |annotations: Value| {
            let object = json!({"metadata": {"annotations": annotations}});
            with_rotation(
                stack().unwrap(),
                &"eu".parse().unwrap(),
                &object,
                &Value::Null,
                Stacks::new,
            )
            .unwrap()
        };
        assert_eq!(with(json!({"other": "1"})), stack().unwrap());
        let asked = with(json!({ROTATE_ANNOTATION: "1", "other": "1"}));
        assert_eq!(
            asked.body()["metadata"]["annotations"],
            json!({"a": "b", ROTATE_ANNOTATION: "1"})
        );
    }

    #[test]
    fn the_bundle_that_was_said_last_is_known_by_its_newest_ca_and_then_by_what_is_retired() {
        let (old, new) = (authority(1_000), authority(2_000));
        let both = format!("{old}{new}");
        assert!(is_newer(&both, &old) && !is_newer(&old, &both));
        assert!(is_newer(&new, &both) && !is_newer(&both, &new));
        assert!(!is_newer(&both, &both));
        assert!(is_newer(&old, "no bundle") && !is_newer("no bundle", &old));
    }
}
