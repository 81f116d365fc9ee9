//! How far a resource is approved, as its status says; and that status as it should be.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::DynamicObject;
use meridian_crds::WaitingChange;
use serde::Deserialize;
use serde_json::{Value, json};

use jiff::Timestamp;

use super::decide::{Candidate, Decision, Record};
use super::part::Part;
use super::people::AUTHORS_ANNOTATION;
use crate::conditions::{self, Observation};
use crate::manifest::{Kind, ObjectKey};

/// The condition that says whether what is written is in force.
pub const APPROVED: &str = "Approved";
/// Its reason while a change waits.
pub const NEEDS_APPROVAL: &str = "WideningNeedsApproval";

/// What is remembered of a resource: little, while it is in force as it is written.
pub(super) struct Resource {
    uid: String,
    generation: i64,
    deleting: bool,
    stamps: String,
    state: State,
    recorded: bool,
}

enum State {
    /// In force as it is written, and its status says so.
    Settled,
    /// Anything else, and what is recorded of it.
    Open(Option<Box<Record>>),
}

impl Resource {
    pub(super) fn of(object: &DynamicObject, kind: Kind) -> Self {
        let record = record(object, kind);
        let approval = &object.data["status"]["approval"];
        let settled = record.as_ref().is_some_and(|record| {
            Part::read(kind, &object.data["spec"]).as_ref() == Some(&record.part)
                && approval["waiting"].is_null()
                && condition(&object.data["status"]).is_some_and(|condition| condition["status"] == "True")
        });
        Self {
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            deleting: object.metadata.deletion_timestamp.is_some(),
            stamps: object
                .annotations()
                .get(AUTHORS_ANNOTATION)
                .cloned()
                .unwrap_or_default(),
            recorded: !approval.is_null(),
            state: if settled {
                State::Settled
            } else {
                State::Open(record.map(Box::new))
            },
        }
    }

    /// Whether anything is recorded of it.
    pub(super) fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// What has to be decided of it; nothing where it is in force as it is written. `own`: what was decided last, which its
    /// status may not say yet.
    pub(super) fn candidate(&self, key: &ObjectKey, own: Option<&(String, Record)>) -> Option<Candidate> {
        let State::Open(record) = &self.state else { return None };
        let own = own.filter(|(uid, _)| *uid == self.uid).map(|(_, record)| record);
        Some(Candidate {
            key: key.clone(),
            uid: self.uid.clone(),
            generation: self.generation,
            deleting: self.deleting,
            stamps: self.stamps.clone(),
            record: own.or(record.as_deref()).cloned(),
        })
    }
}

fn record(object: &DynamicObject, kind: Kind) -> Option<Record> {
    let approval = &object.data["status"]["approval"];
    Some(Record {
        part: Part::read(kind, approval.get("inForce")?)?,
        generation: approval["generation"].as_i64().unwrap_or_default(),
        approved_by: Deserialize::deserialize(&approval["approvedBy"]).unwrap_or_default(),
    })
}

fn condition(status: &Value) -> Option<&Value> {
    let conditions = status["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == APPROVED)
}

/// A status without what is said here: whoever writes the rest of it does not compare this.
pub(crate) fn others(status: &Value) -> Value {
    let mut rest = status.clone();
    if let Some(rest) = rest.as_object_mut() {
        rest.remove("approval");
    }
    if let Some(conditions) = rest["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != APPROVED);
    }
    rest
}

/// What the status has to say; nothing where it says so.
pub(super) fn told(object: &DynamicObject, decision: &Decision, now: Timestamp) -> Option<Value> {
    let status = &object.data["status"];
    let observation = match (&decision.waiting, &decision.record) {
        (Some(waiting), _) => Observation::new(APPROVED, false, NEEDS_APPROVAL, sentence(&decision.key, waiting)),
        (None, Some(record)) if !record.approved_by.is_empty() => {
            let message = format!("approved by {}", record.approved_by.join(", "));
            Observation::new(APPROVED, true, "Approved", message)
        }
        (None, _) => Observation::new(APPROVED, true, "NothingWidens", "it opened nothing that was not open"),
    };
    let waiting: Option<WaitingChange> = Deserialize::deserialize(&status["approval"]["waiting"]).ok().flatten();
    let said = condition(status).is_some_and(|said| {
        said["status"] == observation.status.as_str() && said["message"] == observation.message.as_str()
    });
    if said && record(object, decision.key.kind) == decision.record && waiting == decision.waiting {
        return None;
    }
    let previous: Vec<Condition> = serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
    let mut approval = json!({});
    if let Some(record) = &decision.record {
        approval["inForce"] = record.part.to_value();
        approval["generation"] = json!(record.generation);
        approval["approvedBy"] = json!(record.approved_by);
    }
    if let Some(waiting) = &decision.waiting {
        approval["waiting"] = json!(waiting);
    }
    let conditions = conditions::merge(&previous, &[observation], object.metadata.generation, now);
    Some(json!({ "approval": approval, "conditions": conditions }))
}

fn sentence(key: &ObjectKey, waiting: &WaitingChange) -> String {
    let who = match (waiting.written_by.is_empty(), waiting.approved_by.is_empty()) {
        (false, _) => format!("another person than {} approves it", waiting.written_by.join(", ")),
        (true, true) => "two people approve it, since it is not known who wrote it".to_owned(),
        (true, false) => format!(
            "another person than {} approves it, too",
            waiting.approved_by.join(", ")
        ),
    };
    format!(
        "generation {} is not in force until {who} (kubectl meridian approve {} {}). It would open {}: {}",
        waiting.generation,
        key.kind.kind.to_lowercase(),
        key.name,
        waiting.opens_count,
        waiting.opens.join(". "),
    )
}
