//! What the RegionStack says of itself after a pass, whether that went well or not.

use super::validate::{Images, Invalid, Request};
use super::{Canary, Done, StackError};
use crate::conditions::{Observation, Standing, merge};
use crate::policy_form::PACKED;
use crate::region::policy::hold::Refusal;
use crate::region::policy::verified;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

/// Reason of a rollout that does not go on.
pub const ROLLOUT_HALTED: &str = "RolloutHalted";

/// What a pass knows besides its own outcome.
pub struct Facts {
    /// The region's token keys.
    pub token_keys: Option<Value>,
    /// Whether a fresh policy lease is held.
    pub lease_valid: bool,
    /// The revision that services are served.
    pub applied_revision: Option<u64>,
    /// Whether the namespace is there.
    pub namespace_ready: bool,
}

/// How the pass ended, for kstatus.
#[must_use]
pub fn standing(result: &Result<Done, StackError>) -> Standing {
    match result {
        Err(StackError::Invalid(Invalid::SecondRegion { .. })) => failed("OneRegionPerCluster", result),
        Err(error @ StackError::Invalid(_)) => failed(error.reason(), result),
        Err(error) if error.needs_somebody() => failed(error.reason(), result),
        Err(error) => Standing::InProgress(error.to_string()),
        Ok(done) if done.paused => {
            Standing::InProgress("paused: nothing is changed until spec.paused is false".to_owned())
        }
        Ok(done) => {
            let failed = done.parts.iter().find(|part| part.reason == "Failed");
            let waiting = done.parts.iter().find(|part| !part.holds());
            match (failed, waiting, &done.waiting) {
                _ if done.halted.is_some() => Standing::Failed {
                    reason: ROLLOUT_HALTED,
                    message: done.halted.clone().unwrap_or_default(),
                },
                (Some(part), _, _) => Standing::Failed {
                    reason: "WorkloadFailed",
                    message: part.message.clone(),
                },
                (None, _, Some(what)) => Standing::InProgress(what.clone()),
                (None, Some(part), None) => Standing::InProgress(part.message.clone()),
                (None, None, None) => Standing::Current,
            }
        }
    }
}

fn failed(reason: &'static str, result: &Result<Done, StackError>) -> Standing {
    let message = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    Standing::Failed { reason, message }
}

/// The whole status, but for `acks` and `evidence`, which have a writer of their own.
#[must_use]
pub fn status(
    object: &Value,
    request: Option<&Request>,
    result: &Result<Done, StackError>,
    facts: &Facts,
    now: Timestamp,
) -> Value {
    let previous: Vec<Condition> = serde_json::from_value(object["status"]["conditions"].clone()).unwrap_or_default();
    let generation = object["metadata"]["generation"].as_i64();
    let standing = standing(result);
    let whole = standing == Standing::Current;
    let mut observations = standing.observations();
    match result {
        Ok(done) => {
            observations.extend(done.parts.iter().cloned());
            observations.push(residency(&done.refusals));
            observations.extend(done.rotation.clone());
        }
        Err(error) => {
            // What could not be looked at is said to be unknown, not to be as it was.
            let unknown = |kind| {
                Observation::new(
                    kind,
                    crate::conditions::Status::Unknown,
                    error.reason(),
                    error.to_string(),
                )
            };
            observations.push(match error {
                StackError::Held(held) => Observation::new("DataPlaneReady", false, held.reason(), held.to_string()),
                _ => unknown("DataPlaneReady"),
            });
            observations.extend(["MigrationsComplete", "ServicesReady", "ResidencyEnforced"].map(unknown));
        }
    }
    observations.push(verified::condition(&object["status"]["verified"], now));
    observations.push(match facts.lease_valid {
        true => Observation::new(
            "PolicyFresh",
            true,
            "LeaseHeld",
            "the hub vouches for the policy in force",
        ),
        false => Observation::new(
            "PolicyFresh",
            false,
            "NoLease",
            "no fresh lease from the hub: nothing is transferred",
        ),
    });
    let mut status = json!({
        "observedGeneration": generation,
        "conditions": merge(&previous, &observations, generation, now),
        "namespaceReady": facts.namespace_ready, "policyForms": [PACKED],
    });
    // What was reached before stays said when this pass could not look again.
    let mut keep = |key: &str, value: Option<Value>| {
        let value = value.or_else(|| Some(object["status"][key].clone()).filter(|v| !v.is_null()));
        if let Some(value) = value {
            status[key] = value;
        }
    };
    let done = result.as_ref().ok();
    keep(
        "images",
        request.filter(|_| whole).map(|request| images(&request.images)),
    );
    if done.is_none_or(|done| done.paused) {
        keep("rollout", None);
    }
    keep("appliedRevision", facts.applied_revision.map(Value::from));
    keep("caBundle", done.and_then(|d| d.ca_certificate.clone()).map(Value::from));
    keep("jwks", facts.token_keys.clone());
    keep("endpoints", request.map(endpoints));
    keep("counts", done.and_then(|d| d.counts.clone()));
    if let Some(canary) = done.and_then(|done| done.rollout.as_ref()) {
        status["rollout"] = rollout(canary);
    }
    status
}

fn images(images: &Images) -> Value {
    json!({"meridian": images.meridian, "postgres": images.postgres, "kafka": images.kafka})
}

fn rollout(canary: &Canary) -> Value {
    json!({"change": canary.change, "canary": canary.service})
}

fn endpoints(request: &Request) -> Value {
    let mut endpoints = json!({"public": request.public_url});
    if let Some(peer) = &request.peer_url {
        endpoints["peer"] = json!(peer);
    }
    endpoints
}

fn residency(refusals: &[Refusal]) -> Observation {
    match refusals.first() {
        None => Observation::new(
            "ResidencyEnforced",
            true,
            "AsPlanned",
            "network policies and the policy in force are as planned",
        ),
        Some(first) => Observation::new("ResidencyEnforced", true, first.reason(), format!("refused: {first}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_policy::PolicyRevision;

    fn facts() -> Facts {
        Facts {
            token_keys: None,
            lease_valid: false,
            applied_revision: Some(7),
            namespace_ready: true,
        }
    }

    fn condition(status: &Value, kind: &str) -> Value {
        status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["type"] == kind)
            .unwrap()
            .clone()
    }

    #[test]
    fn a_failed_pass_says_so_and_keeps_what_was_known() {
        let object = json!({"metadata": {"generation": 3}, "status": {"caBundle": "PEM"}});
        let result = Err(StackError::Invalid(Invalid::NoPolicy("x".into())));
        let status = status(&object, None, &result, &facts(), Timestamp::UNIX_EPOCH);
        assert_eq!(
            (status["caBundle"].as_str(), status["observedGeneration"].as_i64()),
            (Some("PEM"), Some(3))
        );
        assert_eq!(condition(&status, "Stalled")["status"], "True");
        assert_eq!(condition(&status, "DataPlaneReady")["status"], "Unknown");
    }

    #[test]
    fn ready_means_every_part_is_ready_and_nothing_is_waited_for() {
        let part = |holds| {
            vec![Observation::new(
                "ServicesReady",
                holds,
                "Progressing",
                "waiting for gateway",
            )]
        };
        let done = |holds| Done {
            parts: part(holds),
            ..Done::default()
        };
        assert_eq!(standing(&Ok(done(true))), Standing::Current);
        assert_eq!(
            standing(&Ok(done(false))),
            Standing::InProgress("waiting for gateway".into())
        );
        let waiting = Done {
            waiting: Some("gateway wait for identity".into()),
            ..done(true)
        };
        assert!(matches!(standing(&Ok(waiting)), Standing::InProgress(_)));
    }

    #[test]
    fn a_refused_decrease_is_said_while_the_old_policy_stays_enforced() {
        let refusal = Refusal::OlderRevision {
            asked: PolicyRevision(1),
            held: PolicyRevision(2),
        };
        let done = Done {
            refusals: vec![refusal],
            ..Done::default()
        };
        let status = status(&json!({}), None, &Ok(done), &facts(), Timestamp::UNIX_EPOCH);
        let condition = condition(&status, "ResidencyEnforced");
        assert_eq!(
            (condition["status"].as_str(), condition["reason"].as_str()),
            (Some("True"), Some("DecreaseRefused"))
        );
    }
}
