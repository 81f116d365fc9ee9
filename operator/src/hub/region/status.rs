//! What a FitnessRegion's status says: what its member answers, and what the last pass came to.

use jiff::Timestamp;
use meridian_crds::FitnessRegionSpec;
use meridian_policy::RegionName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::evidence::{self, Finding};
use super::{Done, RegionError, TENANTS_UNKNOWN};
use crate::conditions::{Observation, Standing, Status};
use crate::hub::departure::Waiting;
use crate::hub::members::{Health, Member};
use crate::hub::{Hub, instruments, source};
use crate::region::stack::rotate::ROTATING;

/// `held`: what a deletion waits for, when there is one. With the status comes the moment from which it says something else
/// by itself.
pub(super) fn status(
    hub: &Hub,
    name: &str,
    object: &Value,
    result: &Result<Done, RegionError>,
    held: Option<&Waiting>,
) -> (Value, Option<Timestamp>) {
    let spec = FitnessRegionSpec::deserialize(&object["spec"]).ok();
    let cluster = spec
        .and_then(|spec| spec.primary().map(|cluster| cluster.name.clone()))
        .unwrap_or_default();
    let member = hub.members.get(&cluster);
    let stack = match (result, name.parse::<RegionName>()) {
        (Ok(done), _) => done.stack.clone(),
        // What was last seen stays said, beside the condition that says why nothing newer was.
        (Err(_), Ok(region)) => member
            .as_deref()
            .and_then(|member| source::stack(member.cache(), &region))
            .unwrap_or(Value::Null),
        (Err(_), Err(_)) => Value::Null,
    };
    let health = member.as_deref().map_or(Health::Unknown, Member::health);
    let reachable = match &health {
        Health::Reachable => Observation::new(
            "ClustersReachable",
            true,
            "Answering",
            format!("cluster {cluster} answers"),
        ),
        Health::Unreachable(cause) => Observation::new(
            "ClustersReachable",
            false,
            "NotAnswering",
            format!("cluster {cluster}: {cause}"),
        ),
        Health::Unknown => Observation::new(
            "ClustersReachable",
            Status::Unknown,
            "NotAsked",
            format!("cluster {cluster} has not answered yet"),
        ),
    };
    let standing = match result {
        Err(error) if error.is_refusal() => Standing::Failed {
            reason: error.reason(),
            message: error.to_string(),
        },
        Err(error) => Standing::InProgress(error.to_string()),
        Ok(done) if done.leaving => Standing::InProgress(held.map(|held| held.message.clone()).unwrap_or_default()),
        Ok(Done {
            unknown: Some(message), ..
        }) => Standing::Failed {
            reason: TENANTS_UNKNOWN,
            message: message.clone(),
        },
        Ok(done) if done.applied() == done.revision && holds(&stack, "Ready") => Standing::Current,
        Ok(done) if done.applied() == done.revision => Standing::InProgress(message(&stack, "Ready")),
        Ok(done) => Standing::InProgress(format!(
            "revision {} is written, the region applies {}",
            done.revision,
            done.applied()
        )),
    };
    let mut observations = standing.observations();
    if let Some(held) = held {
        observations.push(Observation::new("Removable", false, held.reason, held.message.clone()));
    }
    let Finding {
        kept,
        contradicted,
        observation,
        due,
    } = evidence::compare(object, &stack["status"]["evidence"], Timestamp::now());
    observations.push(observation);
    let degraded = reachable.status == Status::False;
    observations.push(reachable);
    for kind in ["DataPlaneReady", "ServicesReady", "ResidencyEnforced"] {
        let (status, reason) = if degraded {
            (Status::Unknown, "MemberUnreachable")
        } else if holds(&stack, kind) {
            (Status::True, "Observed")
        } else {
            (Status::False, "Observed")
        };
        observations.push(Observation::new(kind, status, reason, message(&stack, kind)));
    }
    if condition(&stack, ROTATING).is_some() {
        observations.push(Observation::new(ROTATING, true, "Observed", message(&stack, ROTATING)));
    }
    // A region role of before has nothing to say of it.
    if let Some(seen) = condition(&stack, "ResidencyVerified") {
        let status = match seen["status"].as_str() {
            _ if degraded => Status::Unknown,
            Some("True") => Status::True,
            Some("False") => Status::False,
            _ => Status::Unknown,
        };
        let reason = if degraded { "MemberUnreachable" } else { "Observed" };
        observations.push(Observation::new(
            "ResidencyVerified",
            status,
            reason,
            message(&stack, "ResidencyVerified"),
        ));
    }
    observations.push(Observation::new(
        "Degraded",
        degraded,
        if degraded { "MemberUnreachable" } else { "Healthy" },
        "",
    ));
    if let (Some(compiled), Ok(region)) = (hub.newest.get(), name.parse()) {
        let instruments = compiled.policy.instruments_in(&region, compiled.at);
        observations.push(instruments::observation(&instruments));
    }
    let reachable = matches!(health, Health::Reachable);
    let mut status = json!({
        "observedGeneration": object["metadata"]["generation"],
        "conditions": hub.conditions(object, &observations),
        "clusters": [{"name": cluster, "reachable": reachable}],
        "clustersReachable": format!("{}/1", u8::from(reachable)),
    });
    for (told, seen) in [
        ("revision", &stack["spec"]["revision"]),
        ("appliedRevision", &stack["status"]["appliedRevision"]),
    ] {
        if seen.is_u64() {
            status[told] = seen.clone();
        }
    }
    if !stack["status"]["endpoints"].is_null() {
        status["endpoints"] = stack["status"]["endpoints"].clone();
    }
    for (list, found) in [("evidence", kept), ("evidenceContradicted", contradicted)] {
        if !found.is_empty() {
            status[list] = Value::Array(found);
        }
    }
    (status, due)
}

fn condition<'a>(stack: &'a Value, kind: &str) -> Option<&'a Value> {
    stack["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
}

fn holds(stack: &Value, kind: &str) -> bool {
    condition(stack, kind).is_some_and(|condition| {
        condition["status"] == "True" && condition["observedGeneration"] == stack["metadata"]["generation"]
    })
}

fn message(stack: &Value, kind: &str) -> String {
    condition(stack, kind)
        .and_then(|condition| condition["message"].as_str())
        .unwrap_or("the region has not said yet")
        .to_owned()
}
