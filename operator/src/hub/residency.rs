//! TenantDataResidency → its status: which edges the policy allows, which it refuses and by which rule, and the epoch.
//! The placements themselves are written by the region's pass, which sees all tenants of a member at once.

use std::sync::Arc;

use jiff::Timestamp;
use meridian_policy::{CompiledPolicy, EdgeId, Rule, TenantFacts, TenantResidencySpec};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Hub;
use crate::apply::{ApplyError, observed};
use crate::conditions::{Observation, Standing};
use crate::manifest::{ObjectKey, TENANT_DATA_RESIDENCY};
use crate::reconcile::{Outcome, Pass};

/// Edges and violations told in status; `explain` gives the rest.
const TOLD: usize = 50;

/// One pass over a tenant.
///
/// # Errors
/// When the status could not be written.
pub async fn reconcile(hub: Arc<Hub>, name: String) -> Result<Pass, ApplyError> {
    let key = ObjectKey::cluster(TENANT_DATA_RESIDENCY, &name);
    let Some(object) = hub.cache.get(&key) else {
        return Ok(Pass::of(Outcome::Gone));
    };
    let object = observed(&object);
    let Some(compiled) = hub.newest.get() else {
        return Ok(Pass::of(Outcome::Waiting));
    };
    let verdict = judge(&object, &compiled.policy, compiled.at);
    let mut status = verdict.status;
    status["observedGeneration"] = object["metadata"]["generation"].clone();
    let observations: Vec<Observation> = verdict
        .standing
        .observations()
        .into_iter()
        .chain(verdict.residency)
        .collect();
    status["conditions"] = json!(hub.conditions(&object, &observations));
    let written = hub.applier.apply_status(&key, &object["status"], status).await?;
    Ok(Pass::of(match (written, verdict.standing) {
        (crate::apply::Applied::Unchanged, Standing::Current) => Outcome::Steady,
        (crate::apply::Applied::Unchanged, Standing::InProgress(_)) => Outcome::Waiting,
        (crate::apply::Applied::Unchanged, Standing::Failed { .. }) => Outcome::Refused,
        _ => Outcome::Progressed,
    }))
}

struct Verdict {
    status: Value,
    standing: Standing,
    residency: Option<Observation>,
}

fn judge(object: &Value, policy: &CompiledPolicy, now: Timestamp) -> Verdict {
    let unreadable = |message: String| Verdict {
        status: json!({"phase": "Refused"}),
        standing: Standing::Failed {
            reason: "Invalid",
            message,
        },
        residency: None,
    };
    let spec = match TenantResidencySpec::deserialize(&object["spec"]) {
        Ok(spec) => spec,
        Err(error) => return unreadable(format!("spec cannot be read: {error}")),
    };
    match policy.source().tenants.get(&spec.tenant) {
        // Compiled from an older spec: the next compile is on its way and triggers this tenant again.
        Some(facts) if facts.spec == spec => decided(facts, policy, now),
        _ => Verdict {
            status: json!({"phase": "Pending"}),
            standing: Standing::InProgress("its home cannot be asked for the epoch yet".to_owned()),
            residency: None,
        },
    }
}

fn decided(facts: &TenantFacts, policy: &CompiledPolicy, now: Timestamp) -> Verdict {
    let edges = edges(&facts.spec, policy);
    let allowed = edges.iter().filter(|edge| edge["decision"] == "Allowed").count();
    let violations: Vec<Value> = policy
        .violations_of(&facts.spec.tenant, now)
        .into_iter()
        .take(TOLD)
        .map(|found| json!({"rule": found.rule, "path": found.path, "message": found.message}))
        .collect();
    let first = violations
        .first()
        .map(|found| format!("{}: {}", text(&found["rule"]), text(&found["message"])));
    let (phase, standing, residency) = match first {
        None => (
            "Active",
            Standing::Current,
            Observation::new("ResidencyLawful", true, "Lawful", ""),
        ),
        Some(message) => (
            "Violating",
            Standing::Failed {
                reason: "PolicyRefused",
                message: message.clone(),
            },
            Observation::new("ResidencyLawful", false, "PolicyRefused", message),
        ),
    };
    Verdict {
        status: json!({
            "phase": phase, "epoch": facts.epoch, "edgesAllowed": allowed, "edgesRefused": edges.len() - allowed,
            "edges": edges.into_iter().take(TOLD).collect::<Vec<_>>(), "violations": violations,
        }),
        standing,
        residency: Some(residency),
    }
}

fn edges(spec: &TenantResidencySpec, policy: &CompiledPolicy) -> Vec<Value> {
    let asked = spec
        .classes
        .iter()
        .flat_map(|class| class.replicate_to.iter().map(move |to| (class.class, to)));
    asked
        .map(|(class, to)| {
            let id = EdgeId::new(&spec.tenant, class, &to.region);
            match (policy.edge(&id), policy.refusals_of(&id).first()) {
                (Some(edge), _) => json!({
                    "class": class, "to": to.region, "decision": "Allowed", "rule": edge.rule,
                    "mechanism": edge.mechanism, "instrument": edge.instrument, "expires": edge.expires,
                }),
                (None, Some(denial)) => json!({
                    "class": class, "to": to.region, "decision": "Refused", "rule": denial.rule, "reason": denial.reason,
                }),
                (None, None) => json!({"class": class, "to": to.region, "decision": "Refused", "rule": Rule::NoEdge}),
            }
        })
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
