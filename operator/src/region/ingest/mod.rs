//! IngestPool: the writers of telemetry, as many as the backlog needs.
//!
//! observe ([`observe`], as often as [`pace`] says) → validate ([`validate`]) → plan ([`plan`], [`scale`], [`driver`], pure)
//! → apply ([`drive`] for who scales) and status (here). Drivers ask for `desired` by [`served`].

mod drive;
pub mod driver;
pub mod observe;
pub mod pace;
pub mod plan;
pub mod scale;
pub mod served;
pub mod validate;

use super::kafka::Reach;
use super::stack::validate::{Images, namespace};
use super::stack::{images, observe as stack_observe, progress, secrets, validate as stack_validate};
use crate::apply::{Applied, Applier, ApplyError, Purpose, observed};
use crate::conditions::{Observation, Standing, Status, merge};
use crate::events::{Events, Reason};
use crate::manifest::{DEPLOYMENT, INGEST_POOL, NotAManifest, ObjectKey, SECRET};
use crate::reconcile::{Outcome, Pass};
use crate::trace;
use drive::Driven;
use driver::Held;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use meridian_kit::tls::TlsError;
use observe::{Lens, LookError, Offsets, flow};
use pace::Look;
use scale::{CappedBy, History, Load, desired};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use validate::{Driver, Invalid, Pool};

/// The consumer group of all writers.
const GROUP: &str = "telemetry-writer";

/// Why a pass over a pool failed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Its content.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Its region is not laid down here.
    #[error("region {0} is not laid down in this cluster yet")]
    NoStack(String),
    /// A write.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Kafka.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The certificate that is shown to Kafka.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A defect of a plan.
    #[error(transparent)]
    Plan(#[from] NotAManifest),
}

/// What is remembered of a pool between looks.
#[derive(Default)]
struct Memory {
    lens: Option<Lens>,
    offsets: Option<Offsets>,
    look: Option<Look>,
    told: Option<Look>,
    history: History,
    /// When something of a former driver was seen last.
    handed_over: Option<Instant>,
    /// Why it was not scaled, as far as that was reported.
    held: Option<Held>,
}

/// The controller.
#[derive(Clone)]
pub struct Pools {
    /// Writes into this cluster.
    pub applier: Applier,
    /// Tells people.
    pub events: Events,
    /// Images to run.
    pub images: Images,
    /// How Kafka is reached.
    pub reach: Reach,
    began: Instant,
    memory: Arc<Mutex<BTreeMap<String, Memory>>>,
}

/// What a pass found.
#[derive(Debug)]
struct Found {
    look: Look,
    told: Look,
    replicas: u32,
    ready: bool,
    paused: bool,
    driven: Driven,
    written: usize,
}

impl Pools {
    /// A controller that has seen nothing yet.
    #[must_use]
    pub fn new(applier: Applier, events: Events, images: Images, reach: Reach) -> Self {
        Self {
            applier,
            events,
            images,
            reach,
            began: Instant::now(),
            memory: Arc::default(),
        }
    }

    /// One pass.
    ///
    /// # Errors
    /// What failed, after status has been told.
    pub async fn reconcile(self, name: String) -> Result<Pass, PoolError> {
        let key = ObjectKey::cluster(INGEST_POOL, &name);
        let Some(object) = self.applier.cache().get(&key) else {
            return self.remove(&name).await;
        };
        let object = observed(&object);
        trace::about(&object);
        let result = match validate::validate(&object) {
            Ok(pool) => self.run(&pool, &object).await,
            Err(invalid) => Err(invalid.into()),
        };
        let status = status(&object, &result, Timestamp::now());
        let told = self.applier.apply_status(&key, &object["status"], status).await;
        match result {
            Ok(found) => {
                let written = found.written + usize::from(told? != Applied::Unchanged);
                let outcome = if written == 0 {
                    Outcome::Steady
                } else {
                    Outcome::Progressed
                };
                Ok(Pass::of(outcome).again(found.look.next(Instant::now()).unwrap_or(Duration::ZERO)))
            }
            Err(PoolError::Invalid(error)) => {
                told?;
                tracing::warn!(pool = %name, error = %error, "refused");
                Ok(Pass::of(Outcome::Refused))
            }
            // Not there yet: the region's stack says why; it is looked at again soon.
            Err(PoolError::NoStack(_)) => Ok(Pass::of(Outcome::Waiting).again(pace::IDLE)),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, pool: &Pool, object: &Value) -> Result<Found, PoolError> {
        let dismissed = self.dismiss_others(pool).await?;
        let cache = self.applier.cache();
        let missing = || PoolError::NoStack(pool.region.to_string());
        let stack = stack_observe::stack(cache, pool.region.as_str()).ok_or_else(missing)?;
        let held = stack_observe::held_policy(cache, &pool.region).ok_or_else(missing)?;
        let migrated = stack["status"]["conditions"].as_array().into_iter().flatten();
        if !migrated
            .into_iter()
            .any(|c| c["type"] == "MigrationsComplete" && c["status"] == "True")
        {
            return Err(missing());
        }
        let running = stack_observe::running(cache, &pool.region);
        let unnamed = images::unnamed(&stack, &running, &self.images);
        let mut request = stack_validate::validate(&stack, &unnamed).map_err(|_| missing())?;
        // Writers get a new image when every service has it.
        if let Some(image) = images::rolled_out(&stack) {
            request.images.meridian = image;
        }
        let secret = cache
            .get(&ObjectKey::namespaced(SECRET, &namespace(&pool.region), "db-telemetry"))
            .ok_or_else(missing)?;
        let digest = secrets::digest(&secrets::content(&observed(&secret)));
        let stack = request.with(held, None);
        let writers = plan::writers(&stack, pool, &digest)?;
        let mut written = 0;
        if !pool.paused {
            written += usize::from(self.applier.apply(Purpose::RegionIngest, &writers).await? != Applied::Unchanged);
        }

        let deployment = cache.get(writers.key()).map(|d| observed(&d)).unwrap_or(Value::Null);
        let number = |pointer: &str| {
            deployment
                .pointer(pointer)
                .and_then(Value::as_u64)
                .and_then(|n| u32::try_from(n).ok())
        };
        let (asked, ready) = (
            number("/spec/replicas").unwrap_or(1),
            number("/status/readyReplicas").unwrap_or(0),
        );
        let mut driven = match pool.paused {
            true => Driven::paused(),
            false => self.drive(pool, &stack, writers.key(), asked).await?,
        };
        let look = self.decide(pool, ready, asked).await?;
        let scales = pool.driver == Driver::Direct && !pool.paused && driven.held.is_none();
        if scales && look.decision.desired != asked {
            driven.held_by(self.rival(pool).await?);
            if driven.held.is_none() {
                self.scale_as_decided(object, writers.key(), asked, &look).await?;
                written += 1;
            }
        }
        self.report_held(pool, object, driven.held.as_ref()).await;
        let there = progress::of(writers.key(), Some(&deployment)) == progress::Progress::Ready;
        Ok(Found {
            look,
            told: self.with_memory(pool, |memory| *memory.told.insert(look.to_tell(memory.told))),
            replicas: ready,
            ready: there && driver::follows(pool.driver, look.decision.desired, asked),
            paused: pool.paused,
            written: written + dismissed + driven.written,
            driven,
        })
    }

    async fn scale_as_decided(
        &self,
        object: &Value,
        writers: &ObjectKey,
        asked: u32,
        look: &Look,
    ) -> Result<(), PoolError> {
        let desired = look.decision.desired;
        self.scale(writers, desired).await?;
        let note = format!("{asked} → {desired} writers: lag {}", look.flow.lag);
        self.events.report(&reference(object), Reason::Scaled, &note).await;
        Ok(())
    }

    /// Tells once why a pool is not scaled. A hand-over is no news: it ends by itself.
    async fn report_held(&self, pool: &Pool, object: &Value, held: Option<&Held>) {
        let held = held.filter(|held| !matches!(held, Held::HandingOver(_)));
        let is_new = self.with_memory(pool, |memory| {
            let is_new = memory.held.as_ref() != held;
            memory.held = held.cloned();
            is_new
        });
        if let (Some(held), true) = (held, is_new) {
            let about = reference(object);
            self.events.report(&about, Reason::ScalingHeld, &held.message()).await;
        }
    }

    /// Looks at Kafka, when that is due, and decides. What could not be looked at is not scaled.
    async fn decide(&self, pool: &Pool, ready: u32, asked: u32) -> Result<Look, PoolError> {
        let last = self.with_memory(pool, |memory| memory.look);
        if let Some(look) = last.filter(|look| look.next(Instant::now()).is_some()) {
            return Ok(look);
        }
        let lens = self.lens(pool).await?;
        let offsets = lens.look(&pool.streams).await?;
        let mut limits = pool.limits;
        if offsets.partitions > 0 {
            limits.partitions = offsets.partitions;
        }
        Ok(self.with_memory(pool, |memory| {
            let flow = flow(memory.offsets.as_ref(), &offsets);
            memory.offsets = Some(offsets);
            let load = Load {
                at: offsets.at.saturating_duration_since(self.began),
                lag: flow.lag,
                arrival_rate: flow.arrival_rate,
                drain_rate: flow.drain_rate,
                replicas: asked,
                ready,
            };
            *memory.look.insert(Look {
                at: offsets.at,
                flow,
                decision: desired(&load, &limits, &mut memory.history),
            })
        }))
    }

    fn with_memory<T>(&self, pool: &Pool, use_it: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        use_it(memory.entry(pool.name.clone()).or_default())
    }

    async fn lens(&self, pool: &Pool) -> Result<Lens, PoolError> {
        if let Some(lens) = self.with_memory(pool, |memory| memory.lens.clone()) {
            return Ok(lens);
        }
        let lens = Lens::new(self.reach.kafka().await?, GROUP);
        Ok(self.with_memory(pool, |memory| memory.lens.insert(lens).clone()))
    }

    async fn scale(&self, key: &ObjectKey, replicas: u32) -> Result<(), PoolError> {
        let body = json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {"name": key.name, "namespace": key.namespace}, "spec": {"replicas": replicas},
        });
        let params = PatchParams::apply(Purpose::RegionScale.manager()).force();
        self.applier
            .write(
                "scale",
                key,
                self.applier
                    .api(key)
                    .patch_scale(&key.name, &params, &Patch::Apply(&body)),
            )
            .await?;
        tracing::info!(resource = %key, replicas, "scaled");
        Ok(())
    }

    /// The pool is gone: so are its writers. What they had not stored stays in Kafka for the next pool.
    async fn remove(&self, name: &str) -> Result<Pass, PoolError> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.dismiss(name, None).await?;
        let named = plan::deployment_name(name);
        let writers = self.applier.cache().of_kind(DEPLOYMENT).into_iter();
        let orphans = writers.filter(|(key, object)| {
            let pool = object.metadata.labels.as_ref().and_then(|l| l.get(plan::POOL_LABEL));
            key.name == named && pool.is_some_and(|pool| pool == name)
        });
        for (key, object) in orphans {
            self.applier.delete(&key, object.metadata.uid.clone()).await?;
        }
        Ok(Pass::of(Outcome::Gone))
    }
}

fn reference(object: &Value) -> ObjectReference {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
    ObjectReference {
        api_version: Some(INGEST_POOL.api_version()),
        kind: Some(INGEST_POOL.kind.to_owned()),
        name: text("/metadata/name"),
        uid: text("/metadata/uid"),
        ..ObjectReference::default()
    }
}

fn status(object: &Value, result: &Result<Found, PoolError>, now: Timestamp) -> Value {
    let previous: Vec<Condition> = serde_json::from_value(object["status"]["conditions"].clone()).unwrap_or_default();
    let generation = object["metadata"]["generation"].as_i64();
    let standing = match result {
        Ok(found) if found.paused => {
            Standing::InProgress("paused: nothing is changed until spec.paused is false".to_owned())
        }
        Ok(Found {
            driven: Driven { held: Some(held), .. },
            ..
        }) => held.standing(),
        Ok(found) if found.driven.activity.status == Status::False => {
            Standing::InProgress(format!("the driver does not scale: {}", found.driven.activity.message))
        }
        Ok(found) if found.ready => Standing::Current,
        Ok(found) => Standing::InProgress(format!(
            "{} of {} writers are ready",
            found.replicas, found.look.decision.desired
        )),
        Err(PoolError::Invalid(error)) => Standing::Failed {
            reason: "Invalid",
            message: error.to_string(),
        },
        Err(error) => Standing::InProgress(error.to_string()),
    };
    let mut observations = standing.observations();
    observations.push(match result {
        Ok(found) => match found.look.decision.capped_by {
            Some(CappedBy::Max | CappedBy::Partitions) => Observation::new(
                "Saturated",
                true,
                "Capped",
                "the load asks for more writers than the pool may have",
            ),
            _ => Observation::new("Saturated", false, "WithinBounds", ""),
        },
        Err(_) => Observation::new(
            "Saturated",
            Status::Unknown,
            "NotObserved",
            "the backlog could not be looked at",
        ),
    });
    observations.push(match result {
        Ok(found) => found.driven.activity.clone(),
        Err(error) => Observation::new("ScalingActive", Status::Unknown, "NotObserved", error.to_string()),
    });
    observations.push(Observation::paused(object));
    let mut status = json!({
        "observedGeneration": generation,
        "conditions": merge(&previous, &observations, generation, now),
    });
    match result {
        Ok(found) => {
            status["replicas"] = json!(found.replicas);
            let told = &found.told;
            status["lag"] = json!(told.flow.lag);
            status["arrivalRate"] = json!(whole(told.flow.arrival_rate));
            status["drainRate"] = json!(whole(told.flow.drain_rate));
            status["desired"] = json!(told.decision.desired);
            if let Some(capped) = told.decision.capped_by {
                status["cappedBy"] = json!(format!("{capped:?}"));
            }
        }
        // The last numbers stay said; the conditions say that they are old.
        Err(_) => {
            for key in ["replicas", "lag", "arrivalRate", "drainRate", "desired", "cappedBy"] {
                if !object["status"][key].is_null() {
                    status[key] = object["status"][key].clone();
                }
            }
        }
    }
    status
}

/// Records per second, whole: a finer number would make every look a write.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range before"
)]
fn whole(rate: f64) -> u64 {
    if rate.is_nan() {
        0
    } else {
        rate.round().clamp(0.0, 1e15) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::observe::Flow;
    use super::scale::Decision;
    use super::*;

    fn found(ready: bool, capped_by: Option<CappedBy>) -> Found {
        let look = Look {
            at: Instant::now(),
            flow: Flow {
                lag: 5,
                arrival_rate: 1.4,
                drain_rate: 0.0,
            },
            decision: Decision { desired: 2, capped_by },
        };
        Found {
            look,
            told: look,
            replicas: 1,
            ready,
            paused: false,
            driven: Driven {
                written: 0,
                held: None,
                activity: driver::activity(Driver::Direct, None),
            },
            written: 0,
        }
    }

    fn conditions(object: &Value, found: Found) -> BTreeMap<String, (String, String)> {
        let status = status(object, &Ok(found), Timestamp::UNIX_EPOCH);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = status["conditions"].as_array().unwrap().iter();
        all.map(|c| (text(&c["type"]), (text(&c["status"]), text(&c["message"]))))
            .collect()
    }

    #[test]
    fn a_paused_pool_says_so_and_goes_on_telling_its_numbers() {
        let object = json!({"spec": {"paused": true}});
        let paused = || Found {
            paused: true,
            driven: Driven::paused(),
            ..found(true, None)
        };
        let said = conditions(&object, paused());
        for (kind, status) in [("Ready", "False"), ("Paused", "True"), ("ScalingActive", "False")] {
            assert_eq!(said[kind].0, status, "{kind}");
        }
        assert!(said["Ready"].1.starts_with("paused"), "{:?}", said["Ready"]);
        assert_eq!(status(&object, &Ok(paused()), Timestamp::UNIX_EPOCH)["lag"], 5);
    }

    #[test]
    fn a_pool_that_nobody_scales_needs_somebody_even_when_it_has_as_many_writers_as_it_needs() {
        let mut held = found(true, None);
        held.driven.held_by(Some(Held::NoKeda));
        let said = conditions(&json!({}), held);
        assert_eq!(
            (said["Ready"].0.as_str(), said["Stalled"].0.as_str()),
            ("False", "True")
        );
        assert!(said["ScalingActive"].1.contains("KEDA"));
    }

    #[test]
    fn status_says_numbers_and_what_capped_them() {
        let status = status(
            &json!({}),
            &Ok(found(true, Some(CappedBy::Partitions))),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(
            (
                status["lag"].as_u64(),
                status["arrivalRate"].as_u64(),
                status["cappedBy"].as_str()
            ),
            (Some(5), Some(1), Some("Partitions"))
        );
    }

    #[test]
    fn a_pool_that_could_not_be_looked_at_keeps_its_numbers_and_is_not_ready() {
        let object = json!({"status": {"lag": 9}});
        let status = status(
            &object,
            &Err(PoolError::Look(LookError::CutShort)),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(status["lag"], 9);
        let ready = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["type"] == "Ready")
            .unwrap();
        assert_eq!(ready["status"], "False");
    }
}
