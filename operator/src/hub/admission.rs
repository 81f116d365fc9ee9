//! The validating webhook: the policy's own answer at `kubectl apply`. The controllers decide again from what is stored, so
//! a webhook that is gone changes nothing but the time at which a mistake is seen.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use jiff::Timestamp;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use meridian_crds::{FitnessRegionSpec, PrivacyIncidentSpec};
use meridian_policy::{
    JurisdictionSpec, PartySpec, PolicySource, Rule, TenantResidencySpec, Violation, review, review_change,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::incident::admit;
use super::region::stands_under_its_law;
use super::source::region_facts;

/// Answers one review, and says which rules of the policy refuse it. Pure: the source is what the hub knows now.
#[must_use]
pub fn answer(
    request: &AdmissionRequest<DynamicObject>,
    source: &PolicySource,
    now: Timestamp,
) -> (AdmissionResponse, BTreeSet<Rule>) {
    let (response, none) = (AdmissionResponse::from(request), BTreeSet::new());
    let Some(object) = &request.object else {
        return (response, none);
    };
    let old = request
        .old_object
        .as_ref()
        .filter(|_| request.operation == Operation::Update);
    match judge(&request.kind.kind, object, old, source, now) {
        Ok(violations) if violations.is_empty() => (response, none),
        Ok(violations) => {
            let rules = violations.iter().map(|violation| violation.rule).collect();
            (response.deny(sentence(&violations)), rules)
        }
        Err(unreadable) => (response.deny(unreadable), none),
    }
}

/// What the policy has against an object, created or changed from `old`.
///
/// # Errors
/// Which field cannot be read, or which cluster lies where the region's law does not hold.
pub(crate) fn judge(
    kind: &str,
    object: &DynamicObject,
    old: Option<&DynamicObject>,
    source: &PolicySource,
    now: Timestamp,
) -> Result<Vec<Violation>, String> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    // As the chart's match condition says to the API server, which then does not even ask.
    // A label, an annotation, a finalizer: whatever is wrong was wrong before, and must not be held fast by it.
    if old.is_some_and(|old| old.data["spec"] == object.data["spec"]) {
        return Ok(Vec::new());
    }
    match kind {
        "TenantDataResidency" => {
            let new: TenantResidencySpec = spec(object)?;
            match old.map(spec::<TenantResidencySpec>) {
                // What is wrong already may stay while something else is narrowed: revoking is never refused.
                Some(Ok(old)) => Ok(review_change(&old, &new, source, now)),
                _ => Ok(review(&new, source, now)),
            }
        }
        "FitnessRegion" => {
            let facts = region_facts(name, &object.data["spec"], None)?;
            // Clusters that are as they were may stay while something else is changed: the law may have gone from there since.
            if old.is_none_or(|old| old.data["spec"]["clusters"] != object.data["spec"]["clusters"]) {
                let region: FitnessRegionSpec = spec(object)?;
                let law = source.jurisdictions.get(&region.jurisdiction);
                stands_under_its_law(name, &region, law).map_err(|refused| refused.to_string())?;
            }
            Ok(meridian_policy::review_region(&facts, source))
        }
        // A law or a party may always change: what depends on it becomes Violating, and its edges are cut.
        "Jurisdiction" => spec::<JurisdictionSpec>(object).map(|_| Vec::new()),
        "Party" => spec::<PartySpec>(object).map(|_| Vec::new()),
        "PrivacyIncident" => {
            let new: PrivacyIncidentSpec = spec(object)?;
            match old.map(spec::<PrivacyIncidentSpec>) {
                Some(Ok(old)) => admit::change(&old, &new, source, now).map(|()| Vec::new()),
                _ => Ok(Vec::new()),
            }
        }
        _ => Ok(Vec::new()),
    }
}

fn spec<T: DeserializeOwned>(object: &DynamicObject) -> Result<T, String> {
    T::deserialize(&object.data["spec"]).map_err(|error| format!("spec cannot be read: {error}"))
}

fn sentence(violations: &[Violation]) -> String {
    let each: Vec<String> = violations
        .iter()
        .take(8)
        .map(|found| format!("{}: {} ({})", found.rule, found.message, found.path))
        .collect();
    let more = violations.len().saturating_sub(each.len());
    if more == 0 {
        each.join("; ")
    } else {
        format!("{}; and {more} more", each.join("; "))
    }
}

/// Parses a map of named specs; what does not parse is left out, which can only refuse.
pub(super) fn named<K: FromStr + Ord, T: DeserializeOwned>(
    objects: impl Iterator<Item = (String, Value)>,
) -> BTreeMap<K, T> {
    objects
        .filter_map(|(name, spec)| Some((name.parse().ok()?, T::deserialize(&spec).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use kube::core::admission::AdmissionReview;
    use serde_json::json;

    use super::*;

    fn update(old: &Value, new: &Value) -> AdmissionRequest<DynamicObject> {
        let object = |spec: &Value, finalizers: Value| {
            json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "FitnessRegion",
                "metadata": {"name": "eu", "finalizers": finalizers}, "spec": spec})
        };
        let kind = json!({"group": "meridian.sh", "version": "v1alpha1", "kind": "FitnessRegion"});
        let resource = json!({"group": "meridian.sh", "version": "v1alpha1", "resource": "fitnessregions"});
        let review: AdmissionReview<DynamicObject> = serde_json::from_value(json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "1", "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
                "name": "eu", "operation": "UPDATE", "userInfo": {"username": "somebody"}, "dryRun": false,
                "oldObject": object(old, json!(["meridian.sh/members"])), "object": object(new, json!([])),
            },
        }))
        .unwrap();
        review.try_into().unwrap()
    }

    #[test]
    fn a_finalizer_comes_off_a_resource_that_the_policy_would_refuse() {
        let unreadable = json!({"jurisdiction": "nowhere"});
        let source = PolicySource::default();
        let (answer, _) = answer(&update(&unreadable, &unreadable), &source, Timestamp::UNIX_EPOCH);
        assert!(answer.allowed, "{answer:?}");
    }

    #[test]
    fn a_changed_spec_is_judged() {
        let source = PolicySource::default();
        let request = update(&json!({"jurisdiction": "eu"}), &json!({"jurisdiction": "nowhere"}));
        assert!(!answer(&request, &source, Timestamp::UNIX_EPOCH).0.allowed);
    }
}
