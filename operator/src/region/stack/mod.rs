//! RegionStack: lays a region's stack down and keeps it.
//!
//! observe ([`observe`]) → validate ([`validate`]) → plan ([`plan`], pure) → apply (here, phase by phase as
//! [`progress`] allows, and changes of what runs service by service as [`rollout`] says) → status ([`status`]).

pub mod data_plane;
mod error;
pub mod images;
pub mod kept;
pub mod observe;
pub mod plan;
pub mod progress;
mod removal;
pub mod rollout;
pub mod rotate;
pub mod secrets;
pub mod status;
mod stuck;
pub mod validate;

use super::identity::TokenKeys;
use super::policy::feed::Feed;
use super::policy::hold::{self, Refusal};
use crate::apply::{Applied, Applier, ApplyError, Purpose};
use crate::conditions::Observation;
use crate::events::{Events, Reason};
use crate::manifest::{Manifest, ObjectKey, REGION_STACK, SECRET};
use crate::reconcile::{Outcome, Pass};
use crate::trace;
pub use error::StackError;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kept::Kept;
use meridian_policy::{RegionName, RegionPolicy};
use rollout::State;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use validate::{Images, Invalid, NodePorts, Request, Stack};

/// Fields of a RegionStack's status that other parts of the region write: what is in them is none of this controller's.
const OF_OTHER_WRITERS: &[&str] = &["acks", "backlog", "evidence", "verified"];
/// Writes of one phase that are under way at the same time.
const WRITES_AT_ONCE: usize = 8;
/// A look without any event, for certificates that come due.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// What a pass did and found.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// How many objects were written.
    pub written: usize,
    /// What the next phase waits for.
    pub waiting: Option<String>,
    /// Conditions of the parts.
    pub parts: Vec<Observation>,
    /// What was asked for and refused.
    pub refusals: Vec<Refusal>,
    /// What the region is verified by.
    pub ca_certificate: Option<String>,
    /// What is under way with its CA.
    pub rotation: Option<Observation>,
    /// Counts for status.
    pub counts: Option<Value>,
    /// The change that is being rolled out.
    pub rollout: Option<Canary>,
    /// Why the rollout does not go on.
    pub halted: Option<String>,
    /// Nothing was done on request.
    pub paused: bool,
    /// When the next certificate, or the next step of a rotation, is due.
    pub next_renewal: Option<Timestamp>,
}

/// The service that gets a change first; status remembers it from pass to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// Digest of the change.
    pub change: String,
    /// The service.
    pub service: String,
}

impl Canary {
    fn remembered(object: &Value) -> Option<Self> {
        let text = |key: &str| object["status"]["rollout"][key].as_str().map(ToOwned::to_owned);
        Some(Self {
            change: text("change")?,
            service: text("canary")?,
        })
    }
}

/// What a rollout did in this pass.
#[derive(Debug, Default)]
struct Rolled {
    written: usize,
    canary: Option<Canary>,
    keep: Vec<String>,
}

/// The controller.
#[derive(Clone)]
pub struct Stacks {
    /// Writes into this cluster.
    pub applier: Applier,
    /// Tells people.
    pub events: Events,
    /// Images to run.
    pub images: Images,
    /// How regions are reached from outside the cluster.
    pub node_ports: NodePorts,
    /// What services are told.
    pub feed: Feed,
    /// The region's token keys.
    pub token_keys: TokenKeys,
    /// The one region of this cluster.
    pub served: Served,
    /// What was last reported about each region, so that Events tell changes and not passes.
    pub reported: Arc<Mutex<BTreeMap<String, String>>>,
    /// What the last pass left for the next.
    pub kept: Kept,
}

/// Which region this cluster is: the one given at the start, or the first one seen.
#[derive(Clone, Default)]
pub struct Served(Arc<OnceLock<RegionName>>);

impl Served {
    /// A fixed one.
    #[must_use]
    pub fn fixed(region: Option<RegionName>) -> Self {
        let served = Self::default();
        if let Some(region) = region {
            // A new cell is empty.
            let _ = served.0.set(region);
        }
        served
    }

    /// The region, once it is known.
    #[must_use]
    pub fn get(&self) -> Option<&RegionName> {
        self.0.get()
    }

    fn claim(&self, region: &RegionName) -> Result<(), Invalid> {
        let served = self.0.get_or_init(|| region.clone());
        if served == region {
            Ok(())
        } else {
            Err(Invalid::SecondRegion { served: served.clone() })
        }
    }
}

impl Stacks {
    /// One pass.
    ///
    /// # Errors
    /// What failed, after status has been told.
    pub async fn reconcile(self, name: String) -> Result<Pass, StackError> {
        let cache = self.applier.cache();
        let Some(object) = self.kept.stack(cache, &name) else {
            return Ok(Pass::of(Outcome::Gone));
        };
        trace::about(&object);
        if let Some(pass) = self.end(&name, &object).await? {
            return Ok(pass);
        }
        if let Some(keys) = object.pointer("/status/jwks") {
            self.token_keys.recall(keys);
        }
        let request = trace::step("observe").in_scope(|| self.validated(&name, &object));
        let result = match &request {
            Ok(request) => {
                let asked = trace::step("policy").in_scope(|| self.kept.asked(&object["spec"]));
                self.lay_down(request.clone(), asked, Canary::remembered(&object)).await
            }
            Err(invalid) => Err(invalid.clone().into()),
        };
        let region = request.as_ref().ok().map(|r| &r.region);
        let facts = status::Facts {
            token_keys: self.token_keys.get(),
            lease_valid: self.feed.lease_valid(),
            applied_revision: self.feed.policy().map(|p| p.revision.0).filter(|_| result.is_ok()),
            namespace_ready: region.is_some_and(|region| observe::namespace_ready(cache, region)),
        };
        let status = status::status(&object, request.as_ref().ok(), &result, &facts, Timestamp::now());
        let mut seen = object["status"].clone();
        if let Some(map) = seen.as_object_mut() {
            for theirs in OF_OTHER_WRITERS {
                map.remove(*theirs);
            }
        }
        let told = self
            .applier
            .apply_status(&ObjectKey::cluster(REGION_STACK, &name), &seen, status)
            .await;
        self.report(&object, &name, &result).await;
        let done = match result {
            Ok(done) => done,
            Err(error) if matches!(error, StackError::Invalid(_) | StackError::Held(_)) => {
                told?;
                tracing::warn!(region = %name, error = %error, "refused");
                return Ok(Pass::of(Outcome::Refused));
            }
            Err(error) => return Err(error),
        };
        let written = done.written + usize::from(told? != Applied::Unchanged);
        let outcome = match (written, &done.waiting) {
            (0, None) => Outcome::Steady,
            (0, Some(_)) => Outcome::Waiting,
            _ => Outcome::Progressed,
        };
        let due = done
            .next_renewal
            .and_then(|at| Duration::try_from(at.duration_since(Timestamp::now())).ok());
        Ok(Pass::of(outcome).again(due.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)))
    }

    fn validated(&self, name: &str, object: &Value) -> Result<Request, Invalid> {
        let running = name
            .parse()
            .map(|region| observe::running(self.applier.cache(), &region));
        let images = images::unnamed(object, &running.unwrap_or_default(), &self.images);
        validate::validate(object, &images)
    }

    async fn lay_down(
        &self,
        request: Request,
        asked: Result<RegionPolicy, String>,
        remembered: Option<Canary>,
    ) -> Result<Done, StackError> {
        self.served.claim(&request.region)?;
        let cache = self.applier.cache();
        let (region, rotation) = (request.region.clone(), request.rotation.clone());
        let held = self.kept.held_policy(cache, &region);
        let asked = asked.as_ref().map_err(String::as_str);
        let (policy, refusals) = hold::decide(&region, held.as_ref(), asked, &observe::placements(cache, &region));
        let policy =
            policy.ok_or_else(|| Invalid::NoPolicy(refusals.first().map(ToString::to_string).unwrap_or_default()))?;
        let counts = counts(&policy);
        let paused = request.paused;
        let stack = Stack {
            node_ports: self.node_ports,
            kafka_in_clear: observe::kafka_in_clear(cache, &region),
            ..request.with(policy, observe::ingest(cache, &region))
        };
        let mut written = self.policy_first(&stack).await?;
        if paused {
            return Ok(Done {
                written,
                refusals,
                counts: Some(counts),
                paused: true,
                ..Done::default()
            });
        }
        if let Some(held) = stack.data_plane.held(cache, &region) {
            return Err(held.into());
        }
        let secrets = self.kept.secrets(&self.applier, &stack, Timestamp::now()).await?;
        written += secrets.written;
        let plan = trace::step("plan").in_scope(|| self.kept.plan(&stack, &secrets.material))?;
        let (mut reached, mut waiting) = progress::reached(&plan, cache);
        let halted = self.has_failed(&plan, remembered.as_ref())?;
        let mut rolled = Rolled {
            canary: remembered.clone(),
            ..Rolled::default()
        };
        for (index, phase) in plan.phases.iter().enumerate() {
            if index >= reached || !rolled.keep.is_empty() {
                break;
            }
            let now = if phase.name == "services" {
                rolled = self.roll_out(&plan, remembered.as_ref()).await?;
                rolled.written
            } else {
                let settled = |manifest: &Manifest| self.applier.is_as_planned(manifest).unwrap_or(false);
                self.apply_all(rollout::of_phase(phase, halted, cache, settled)).await?
            };
            if now > 0 {
                // What was just changed is not ready yet: an upgrade goes phase by phase as a first start does, and
                // stops at the first phase that does not become healthy.
                (reached, waiting) = progress::reached(&plan, cache);
            }
            written += now;
        }
        written += stuck::free(&self.applier, &plan).await?;
        written += self.prune(&stack, &plan, &secrets.material).await?;
        if let (Some(canary), false) = (&rolled.canary, rolled.keep.is_empty()) {
            waiting = Some(format!("{} wait for {}", rolled.keep.join(", "), canary.service));
        }
        let parts = progress::conditions(&plan, cache);
        let any_failed = parts.iter().any(|part| part.reason == "Failed");
        // What runs and reads its certificate only when it starts has started anew, and everything else is written.
        let ready = written == 0 && parts.iter().any(|part| part.kind == "DataPlaneReady" && part.holds());
        let rotated = self.rotate(&stack, &rotation, &secrets, ready).await?;
        written += rotated.written;
        let again = rotated.again.and_then(|again| Timestamp::now().checked_add(again).ok());
        Ok(Done {
            written,
            rotation: rotated.condition,
            waiting,
            halted: any_failed.then(|| rollout::halt(&plan, cache)).flatten(),
            rollout: rolled.canary,
            parts,
            refusals,
            ca_certificate: Some(secrets.material.ca_certificate),
            counts: Some(counts),
            paused: false,
            next_renewal: Some(again.map_or(secrets.next_renewal, |again| again.min(secrets.next_renewal))),
        })
    }

    /// Whether the service that was to show that this change works has shown that it does not.
    fn has_failed(&self, plan: &plan::Plan, remembered: Option<&Canary>) -> Result<bool, ApplyError> {
        // Most of the time nothing is rolled out, and nothing needs to be looked at.
        let Some(canary) = remembered else { return Ok(false) };
        let services = rollout::together(plan);
        if canary.change != rollout::change(&services) {
            return Ok(false);
        }
        let manifest = services
            .into_iter()
            .find(|manifest| manifest.key().name == canary.service);
        let state = manifest.map(|manifest| rollout::state(manifest, self.applier.cache()));
        Ok(state.transpose()? == Some(State::Changed(progress::Progress::Failed)))
    }

    /// Takes a change of services as far as it may go now.
    async fn roll_out(&self, plan: &plan::Plan, remembered: Option<&Canary>) -> Result<Rolled, StackError> {
        let services = rollout::together(plan);
        let mut as_planned = services.iter().map(|manifest| self.applier.is_as_planned(manifest));
        if as_planned.try_fold(true, |all, one| Ok::<_, ApplyError>(all && one?))? {
            return Ok(Rolled::default());
        }
        let states = rollout::states(&services, self.applier.cache())?;
        let change = rollout::change(&services);
        let known = remembered.filter(|canary| canary.change == change);
        let place = |canary: &Canary| {
            services
                .iter()
                .position(|manifest| manifest.key().name == canary.service)
        };
        let step = rollout::step(&states, known.and_then(place));
        let name = |index: usize| services.get(index).map(|manifest| manifest.key().name.clone());
        Ok(Rolled {
            written: self.apply_all(&rollout::pick(&services, &step.write)).await?,
            canary: step.canary.and_then(name).map(|service| Canary { change, service }),
            keep: step.keep.into_iter().filter_map(name).collect(),
        })
    }

    /// The policy before anything else: a revocation must not wait for certificates and rollouts. It is written down
    /// before services hear it, so that a restart cannot fall behind what they were told.
    async fn policy_first(&self, stack: &Stack) -> Result<usize, StackError> {
        let mut written = self.apply_all([&plan::namespace(stack)?]).await?;
        let policy = self.kept.policy(stack)?;
        let applied = self.applier.apply_long(Purpose::RegionStack, &policy).await?;
        written += usize::from(applied != Applied::Unchanged);
        self.feed.publish(&stack.policy);
        Ok(written)
    }

    async fn apply_all(&self, manifests: impl IntoIterator<Item = &Manifest>) -> Result<usize, ApplyError> {
        let failed = Arc::new(AtomicBool::new(false));
        let one = |manifest: Manifest| {
            let (applier, failed) = (self.applier.clone(), failed.clone());
            async move {
                // What is under way is waited for: an API server that is left in the middle of a write may have counted it
                // against a quota, and made nothing.
                if failed.load(Ordering::Relaxed) {
                    return Ok(Applied::Unchanged);
                }
                let applied = applier.apply(Purpose::RegionStack, &manifest).await;
                failed.fetch_or(applied.is_err(), Ordering::Relaxed);
                applied
            }
        };
        let all = manifests.into_iter();
        let differing = all.filter(|manifest| !self.applier.is_settled(manifest));
        let writes: Vec<_> = differing.cloned().map(one).collect();
        let ended: Vec<Result<Applied, ApplyError>> = futures::stream::iter(writes)
            .buffer_unordered(WRITES_AT_ONCE)
            .collect()
            .await;
        let applied: Vec<Applied> = ended.into_iter().collect::<Result<_, _>>()?;
        Ok(applied
            .into_iter()
            .filter(|applied| *applied != Applied::Unchanged)
            .count())
    }

    /// Removes what has left the plan. Secrets that data depends on are never removed by a plan.
    async fn prune(&self, stack: &Stack, plan: &plan::Plan, material: &plan::Material) -> Result<usize, ApplyError> {
        let keep = |key: &ObjectKey| match key.kind {
            SECRET => !key.name.starts_with("marketing-") || material.digests.contains_key(&key.name),
            _ => plan.has(key),
        };
        Ok(self.applier.prune_unless(&stack.uid, keep).await?.len())
    }

    async fn report(&self, object: &Value, name: &str, result: &Result<Done, StackError>) {
        let (reason, note) = match (result, status::standing(result)) {
            (Err(error), _) => (error.event(), error.to_string()),
            (Ok(_), crate::conditions::Standing::Failed { reason, message }) => match reason {
                status::ROLLOUT_HALTED => (Reason::RolloutHalted, message),
                _ => (Reason::MigrationFailed, message),
            },
            (Ok(done), _) if !done.refusals.is_empty() => (
                match done.refusals.first().map(Refusal::reason) {
                    Some("PolicyNotUnderstood") => Reason::Invalid,
                    _ => Reason::DecreaseRefused,
                },
                done.refusals
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; "),
            ),
            (Ok(_), crate::conditions::Standing::Current) => (Reason::Ready, "the region is as planned".to_owned()),
            (Ok(_), crate::conditions::Standing::InProgress(_)) => return,
        };
        let line = format!("{reason:?} {note}");
        let known = self
            .reported
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), line.clone());
        if known.as_ref() == Some(&line) {
            return;
        }
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        self.events.report(&reference(name, uid), reason, &note).await;
    }

    async fn tell_of_rotation(&self, stack: &Stack, sentence: &str) {
        let stack = reference(stack.region.as_str(), &stack.uid);
        self.events.report(&stack, Reason::CertificateIssued, sentence).await;
    }
}

pub(super) fn reference(region: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(REGION_STACK.api_version()),
        kind: Some(REGION_STACK.kind.to_owned()),
        name: Some(region.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

fn counts(policy: &RegionPolicy) -> Value {
    json!({"tenants": policy.homes.len(), "exports": policy.exports.len(), "imports": policy.imports.len()})
}
