//! TenantDataResidency → its status: which edges the policy allows, which it refuses and by which rule, and the epoch.
//! The placements themselves are written by the region's pass, which sees all tenants of a member at once.
//!
//! One that is deleted stays until [`departure`] says that nothing of it is left in any member.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use meridian_crds::ClosingEdge;
use meridian_policy::{CompiledEdge, CompiledPolicy, EdgeId, Rule, Shared, TenantFacts, TenantResidencySpec};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Hub;
use super::approval::{APPROVED, others};
use super::closing::{self, Ends};
use super::compiled::Compiled;
use super::departure::{self, CLOSING, Departure, FINALIZER, LEAVING, View, Waiting};
use super::instruments;
use super::reports::newly_refused;
use super::source::{self, Departing};
use crate::apply::{Applied, ApplyError, observed};
use crate::conditions::{Observation, Standing};
use crate::finalizer;
use crate::manifest::{ObjectKey, TENANT_DATA_RESIDENCY};
use crate::reconcile::{Outcome, Pass};
use crate::trace;

/// What refuses an edge that nobody else has approved: no rule of the policy.
const NOT_APPROVED: &str = "not-approved";
/// Edges and violations told in status; `explain` gives the rest.
const TOLD: usize = 50;
/// How soon it is looked again whether an older policy is still in use.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One pass over a tenant.
///
/// # Errors
/// When the status could not be written.
pub async fn reconcile(hub: Arc<Hub>, name: String) -> Result<Pass, ApplyError> {
    let key = ObjectKey::cluster(TENANT_DATA_RESIDENCY, &name);
    let Some(live) = hub.cache.get(&key) else {
        hub.reports.forget(&key);
        return Ok(Pass::of(Outcome::Gone));
    };
    let object = observed(&live);
    trace::about(&object);
    if finalizer::is_deleting(&object) {
        return leave(&hub, &key, &object).await;
    }
    // Told in status as ever when it cannot be written; the pass fails all the same, and is repeated.
    let held = finalizer::hold(&hub.applier, &key, &object, FINALIZER).await;
    let Some(compiled) = hub.newest.get() else {
        held?;
        return Ok(Pass::of(Outcome::Waiting));
    };
    let asked = || Departing::of(&hub.cache).asked(&live);
    let judged = || judge(&object, asked, &compiled);
    let Some(verdict) = trace::step("plan").in_scope(judged) else {
        held?;
        return Ok(Pass::of(Outcome::Waiting));
    };
    let mut status = verdict.status;
    status["observedGeneration"] = object["metadata"]["generation"].clone();
    let observations: Vec<Observation> = verdict
        .standing
        .observations()
        .into_iter()
        .chain(verdict.residency)
        .collect();
    status["conditions"] = json!(hub.conditions(&object, &observations));
    let written = hub
        .applier
        .apply_status(&key, &others(&object["status"]), status.clone())
        .await?;
    held?;
    for rule in newly_refused(&object["status"], &status) {
        hub.metrics.refused(rule);
    }
    hub.tell(&key, &object, &status, None).await;
    Ok(Pass::of(match (written, verdict.standing) {
        (Applied::Unchanged, Standing::Current) => Outcome::Steady,
        (Applied::Unchanged, Standing::InProgress(_)) => Outcome::Waiting,
        (Applied::Unchanged, Standing::Failed { .. }) => Outcome::Refused,
        _ => Outcome::Progressed,
    }))
}

/// One pass over a tenant that is being deleted. What it waits for happens in the regions' passes.
async fn leave(hub: &Hub, key: &ObjectKey, object: &Value) -> Result<Pass, ApplyError> {
    if !finalizer::is_held(object, FINALIZER) {
        return Ok(Pass::of(Outcome::Gone));
    }
    let left = object["status"]["phase"] == LEAVING;
    let closing = to_close(hub, &key.name, object);
    let looked = match &closing {
        Some(closing) => look(hub, &key.name, object, left, closing),
        None => Departure::Closing(Waiting {
            reason: "MembersUnknown",
            message: "the members have not been listed yet, so that its edges are not known".to_owned(),
        }),
    };
    // No watch tells when the last pass that works with an older policy has ended.
    let older = hub.newest.in_use().len() > 1;
    let (phase, waiting) = match looked {
        Departure::Closing(waiting) => (CLOSING, waiting),
        Departure::Leaving(waiting) => (LEAVING, waiting),
        Departure::Done => {
            finalizer::release(&hub.applier, key, object, FINALIZER).await?;
            tracing::info!(resource = %key, "the tenant has left");
            return Ok(Pass::of(Outcome::Gone));
        }
    };
    let mut observations = Standing::InProgress(waiting.message.clone()).observations();
    observations.push(Observation::new("Removable", false, waiting.reason, waiting.message));
    let mut status = json!({
        "phase": phase, "edgesAllowed": 0, "edgesRefused": 0,
        "observedGeneration": object["metadata"]["generation"],
        "conditions": hub.conditions(object, &observations),
    });
    if let Some(closing) = closing {
        status["closing"] = json!(closing);
    }
    // It only grows, also while the tenant goes.
    if !object["status"]["epoch"].is_null() {
        status["epoch"] = object["status"]["epoch"].clone();
    }
    let observed = others(&object["status"]);
    let written = hub.applier.apply_status(key, &observed, status).await?;
    let pass = Pass::of(match written {
        Applied::Unchanged => Outcome::Waiting,
        Applied::Created | Applied::Changed => Outcome::Progressed,
    });
    Ok(if older { pass.again(LOOK_AGAIN) } else { pass })
}

/// The edges from and to the tenant that are to be closed: nothing while they cannot be known.
fn to_close(hub: &Hub, tenant: &str, object: &Value) -> Option<Vec<ClosingEdge>> {
    let recorded = closing::recorded(object);
    if object["status"]["phase"] == LEAVING {
        return Some(recorded.unwrap_or_default());
    }
    // The first compile waits until every member that can be asked is listed. What is written down stays so meanwhile.
    if hub.newest.get().is_none() {
        return recorded;
    }
    let home = object["spec"]["home"]["region"].as_str().unwrap_or_default();
    let ours = |ends: Ends<'_>| {
        // Of an edge whose importer nobody remembers, every tenant at that end waits for the purge.
        ends.tenant == tenant || ends.importer.map_or(ends.to == home, |importer| importer == tenant)
    };
    Some(closing::seen(recorded, &hub.stacks(), ours, Timestamp::now()))
}

fn look(hub: &Hub, tenant: &str, object: &Value, left: bool, closing: &[ClosingEdge]) -> Departure {
    let missing = if left {
        Vec::new()
    } else {
        closing::missing(closing, &hub.stacks(), Timestamp::now())
    };
    let spec = &object["spec"];
    let home = spec["home"]["region"].as_str().unwrap_or_default();
    let asked = spec["classes"].as_array().into_iter().flatten();
    let asked = asked.filter_map(|class| class["replicateTo"].as_array()).flatten();
    let named: BTreeSet<String> = asked
        .filter_map(|to| to["region"].as_str())
        .chain([home])
        .map(ToOwned::to_owned)
        .collect();
    let views: Vec<View> = source::regions(&hub.cache)
        .iter()
        .map(|(region, spec)| {
            let member = spec.primary().and_then(|cluster| hub.members.get(&cluster.name));
            View::of(region, member.as_deref(), tenant, &missing)
        })
        .collect();
    match departure::of_tenant(left, home, &named, &views) {
        // A policy at hand may be older than the phase: with it a region's pass could place the tenant again.
        Departure::Done if hub.newest.may_say(|policy| has(policy, tenant)) => Departure::Leaving(Waiting {
            reason: "AtHome",
            message: "its edges are closed; it is leaving the policy".to_owned(),
        }),
        // And may name edges that no member has yet.
        Departure::Leaving(_) if !left && hub.newest.may_say(|policy| names(policy, tenant)) => {
            Departure::Closing(Waiting {
                reason: "EdgesOpen",
                message: "its edges are being taken out of the policy".to_owned(),
            })
        }
        departure => departure,
    }
}

fn names(policy: &CompiledPolicy, tenant: &str) -> bool {
    let ours = |edge: &CompiledEdge| edge.tenant.as_str() == tenant || edge.importer_tenant.as_str() == tenant;
    policy.edges().any(ours)
}

fn has(policy: &CompiledPolicy, tenant: &str) -> bool {
    policy.source().tenants.keys().any(|known| known.as_str() == tenant)
}

struct Verdict {
    status: Value,
    standing: Standing,
    residency: Vec<Observation>,
}

/// Nothing, while the policy is of an older spec than the object's: the compile that is on its way triggers this tenant
/// again, and until then the status stands for the generation that it names. `asked` is what the policy is to be compiled
/// from of the object, where that is not its spec: it looks at everybody who is being deleted.
fn judge(
    object: &Value,
    asked: impl FnOnce() -> Option<Shared<TenantResidencySpec>>,
    compiled: &Compiled,
) -> Option<Verdict> {
    let unreadable = |message: String| Verdict {
        status: json!({"phase": "Refused"}),
        standing: Standing::Failed {
            reason: "Invalid",
            message,
        },
        residency: Vec::new(),
    };
    let spec = match TenantResidencySpec::deserialize(&object["spec"]) {
        Ok(spec) => spec,
        Err(error) => return Some(unreadable(format!("spec cannot be read: {error}"))),
    };
    Some(match compiled.written().source().tenants.get(&spec.tenant) {
        Some(written) if *written.spec == spec || asked().as_ref() == Some(&written.spec) => {
            match compiled.policy.source().tenants.get(&spec.tenant) {
                Some(facts) => decided(&spec, facts, compiled),
                None => Verdict {
                    status: json!({"phase": "Pending"}),
                    standing: waits_for_approval(&spec),
                    residency: Vec::new(),
                },
            }
        }
        Some(_) => return None,
        None => Verdict {
            status: json!({"phase": "Pending"}),
            standing: Standing::InProgress(
                "its home cannot be asked for the epoch yet, or its finalizer is not written yet".to_owned(),
            ),
            residency: Vec::new(),
        },
    })
}

fn waits_for_approval(spec: &TenantResidencySpec) -> Standing {
    Standing::InProgress(format!(
        "what is written waits for another person's approval: see the condition {APPROVED}, and kubectl meridian approve \
         tenantdataresidency {}",
        spec.tenant
    ))
}

fn decided(spec: &TenantResidencySpec, facts: &TenantFacts, compiled: &Compiled) -> Verdict {
    let (policy, now) = (&compiled.policy, compiled.at);
    let edges = edges(spec, compiled);
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
            if compiled.waits(&spec.tenant) {
                waits_for_approval(spec)
            } else {
                Standing::Current
            },
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
        residency: vec![
            residency,
            instruments::observation(&policy.instruments_of(&facts.spec.tenant, now)),
        ],
    }
}

fn edges(spec: &TenantResidencySpec, compiled: &Compiled) -> Vec<Value> {
    let policy = &compiled.policy;
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
                (None, _) if compiled.written().edge(&id).is_some() => json!({
                    "class": class, "to": to.region, "decision": "Refused", "rule": NOT_APPROVED,
                    "reason": "it is lawful, and waits for another person's approval",
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
