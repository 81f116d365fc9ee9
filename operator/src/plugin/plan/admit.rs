//! What the hub's API server would say to each resource, in the order in which they would be applied. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
use meridian_policy::Violation;
use serde::Serialize;
use serde_json::Value;

use super::Action;
use super::fields::{FieldChange, changes};
use super::files::{Applied, Files};
use crate::apply::observed;
use crate::hub::departure::FINALIZER;
use crate::hub::{admission, source};
use crate::manifest::TENANT_DATA_RESIDENCY;
use crate::plugin::explain::advice;
use crate::watch::Cache;

/// The UID of what does not exist yet.
const UNBORN: &str = "given-when-created";
/// What refuses where no rule of the policy does: what the resource's definition asks for.
const DEFINITION: &str = "resource-definition";

/// The hub as it would be, and what becomes of each resource.
pub struct Admitted {
    /// With everything that would be accepted.
    pub hub: Cache,
    /// In the order of the files.
    pub resources: Vec<ResourceRow>,
    /// Objects that are not of this platform.
    pub passed_over: Vec<String>,
}

/// A resource of the files.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRow {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What would become of it.
    pub action: Action,
    /// Which fields would change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// What refuses it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// Something that refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The rule, or for what is no matter of policy a reason in one word.
    pub rule: String,
    /// The field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// In a sentence, with the article of law where there is one.
    pub message: String,
    /// What would change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_to_do: Option<&'static str>,
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Self {
            rule: violation.rule.to_string(),
            path: Some(violation.path),
            message: violation.message,
            what_to_do: Some(advice(violation.rule)),
        }
    }
}

/// Applies the resources one after the other to a copy of the hub, as far as they are accepted.
#[must_use]
pub fn admit(hub: &Cache, files: Files, now: Timestamp) -> Admitted {
    let after = hub.copied();
    let resources = files
        .resources
        .iter()
        .map(|applied| {
            let live = after.get(&applied.key);
            let stored = stored(live.as_deref(), applied);
            let row = judged(live.as_ref(), applied, &stored, &after, now);
            if row.refusals.is_empty() {
                after.put(applied.key.clone(), stored);
            }
            row
        })
        .collect();
    Admitted {
        hub: after,
        resources,
        passed_over: files.passed_over,
    }
}

/// What would be stored: the file's spec, labels and annotations on what is there.
fn stored(live: Option<&DynamicObject>, applied: &Applied) -> DynamicObject {
    let mut stored = applied.object.clone();
    let Some(live) = live else {
        stored.metadata.uid = Some(UNBORN.to_owned());
        stored.metadata.generation = Some(1);
        // The hub puts it there before it compiles a tenant that is new.
        if applied.key.kind == TENANT_DATA_RESIDENCY {
            stored.finalizers_mut().push(FINALIZER.to_owned());
        }
        return stored;
    };
    let given = std::mem::replace(&mut stored.metadata, live.metadata.clone());
    for (kept, given) in [
        (&mut stored.metadata.labels, given.labels),
        (&mut stored.metadata.annotations, given.annotations),
    ] {
        kept.get_or_insert_default().extend(given.unwrap_or_default());
    }
    // Without a version it is newer than whatever is known.
    stored.metadata.resource_version = None;
    if live.data["spec"] != stored.data["spec"] {
        stored.metadata.generation = live.metadata.generation.map(|generation| generation + 1);
    }
    if !live.data["status"].is_null() {
        stored.data["status"] = live.data["status"].clone();
    }
    stored
}

fn judged(
    live: Option<&Arc<DynamicObject>>,
    applied: &Applied,
    stored: &DynamicObject,
    hub: &Cache,
    now: Timestamp,
) -> ResourceRow {
    let kind = applied.key.kind;
    let (old, new) = (live.map(|live| observed(live)), observed(stored));
    let fields = told(old.as_ref().unwrap_or(&Value::Null), &new);
    let source = source::for_review(hub);
    let refusals: Vec<Refusal> = match admission::judge(kind.kind, stored, live.map(Arc::as_ref), &source, now) {
        Ok(violations) => violations.into_iter().map(Refusal::from).collect(),
        Err(unreadable) => vec![Refusal {
            rule: DEFINITION.to_owned(),
            path: None,
            message: unreadable,
            what_to_do: None,
        }],
    };
    let action = match (refusals.is_empty(), old.is_some(), fields.is_empty()) {
        (false, _, _) => Action::Refused,
        (true, false, _) => Action::Created,
        (true, true, false) => Action::Changed,
        (true, true, true) => Action::Unchanged,
    };
    ResourceRow {
        kind: kind.kind,
        name: applied.key.name.clone(),
        action,
        fields,
        refusals,
    }
}

/// What people wrote and would see changed: the spec, labels and annotations.
fn told(old: &Value, new: &Value) -> Vec<FieldChange> {
    ["labels", "annotations"]
        .into_iter()
        .flat_map(|map| changes(&format!("metadata.{map}"), &old["metadata"][map], &new["metadata"][map]))
        .chain(changes("spec", &old["spec"], &new["spec"]))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::{ObjectKey, PARTY};

    #[test]
    fn what_is_there_keeps_its_uid_and_what_others_wrote_and_its_generation_grows_with_its_spec() {
        let live: DynamicObject = serde_json::from_value(json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "Party",
            "metadata": {"name": "p", "uid": "u", "generation": 4, "labels": {"team": "a"}}, "spec": {"country": "DE"}}))
        .unwrap();
        let given = json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "Party",
            "metadata": {"name": "p", "labels": {"tier": "b"}}, "spec": {"country": "FR"}});
        let applied = Applied {
            key: ObjectKey::cluster(PARTY, "p"),
            object: serde_json::from_value(given).unwrap(),
        };
        let stored = observed(&stored(Some(&live), &applied));
        assert_eq!(stored["metadata"]["uid"], "u");
        assert_eq!(stored["metadata"]["generation"], 5);
        assert_eq!(stored["metadata"]["labels"], json!({"team": "a", "tier": "b"}));
        assert_eq!(stored["spec"]["country"], "FR");
    }
}
