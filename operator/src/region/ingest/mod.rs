//! IngestPool: the writers of telemetry, as many as the backlog needs.
//!
//! observe ([`observe`]) → validate ([`validate`]) → plan ([`plan`], [`scale`], pure) → apply and status (here).

pub mod observe;
pub mod plan;
pub mod scale;
pub mod validate;

use super::stack::validate::{Images, namespace};
use super::stack::{observe as stack_observe, progress, secrets, validate as stack_validate};
use crate::apply::{Applied, Applier, ApplyError, Purpose, observed};
use crate::conditions::{Observation, Standing, Status, merge};
use crate::events::{Events, Reason};
use crate::manifest::{DEPLOYMENT, INGEST_POOL, NotAManifest, ObjectKey, SECRET};
use crate::reconcile::{Outcome, Pass};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use observe::{Flow, Lens, LookError, Offsets, flow};
use scale::{CappedBy, Decision, History, Load, desired};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use validate::{Invalid, Pool};

/// How often a pool is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
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
    /// A defect of a plan.
    #[error(transparent)]
    Plan(#[from] NotAManifest),
}

/// What is remembered of a pool between looks.
#[derive(Default)]
struct Memory {
    lens: Option<Lens>,
    last: Option<Offsets>,
    history: History,
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
    /// Brokers instead of the region's own; for an operator outside the cluster (tests).
    pub brokers: Option<String>,
    began: Instant,
    memory: Arc<Mutex<BTreeMap<String, Memory>>>,
}

/// What a pass found.
#[derive(Clone, Copy, Debug)]
struct Found {
    flow: Flow,
    decision: Decision,
    replicas: u32,
    ready: bool,
    written: usize,
}

impl Pools {
    /// A controller that has seen nothing yet.
    #[must_use]
    pub fn new(applier: Applier, events: Events, images: Images, brokers: Option<String>) -> Self {
        Self {
            applier,
            events,
            images,
            brokers,
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
                Ok(Pass::of(outcome).again(LOOK_EVERY))
            }
            Err(PoolError::Invalid(error)) => {
                told?;
                tracing::warn!(pool = %name, error = %error, "refused");
                Ok(Pass::of(Outcome::Refused))
            }
            // Not there yet: the region's stack says why; it is looked at again soon.
            Err(PoolError::NoStack(_)) => Ok(Pass::of(Outcome::Waiting).again(LOOK_EVERY)),
            Err(error) => Err(error),
        }
    }

    async fn run(&self, pool: &Pool, object: &Value) -> Result<Found, PoolError> {
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
        let request = stack_validate::validate(&stack, &self.images).map_err(|_| missing())?;
        let secret = cache
            .get(&ObjectKey::namespaced(SECRET, &namespace(&pool.region), "db-telemetry"))
            .ok_or_else(missing)?;
        let digest = secrets::digest(&secrets::content(&observed(&secret)));
        let writers = plan::writers(&request.with(held, None), pool, &digest)?;
        let mut written = usize::from(self.applier.apply(Purpose::RegionIngest, &writers).await? != Applied::Unchanged);

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
        let (flow, decision) = self.decide(pool, ready, asked).await?;
        if decision.desired != asked {
            self.scale(writers.key(), decision.desired).await?;
            written += 1;
            let note = format!("{asked} → {} writers: lag {}", decision.desired, flow.lag);
            self.events.report(&reference(object), Reason::Scaled, &note).await;
        }
        let there = progress::of(writers.key(), Some(&deployment)) == progress::Progress::Ready;
        Ok(Found {
            flow,
            decision,
            replicas: ready,
            ready: there && decision.desired == asked,
            written,
        })
    }

    /// Looks at Kafka and decides. What could not be looked at is not scaled.
    async fn decide(&self, pool: &Pool, ready: u32, asked: u32) -> Result<(Flow, Decision), PoolError> {
        let lens = self.lens(pool)?;
        let offsets = lens.look(&pool.streams).await?;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = memory.entry(pool.name.clone()).or_default();
        let flow = flow(memory.last.as_ref(), &offsets);
        memory.last = Some(offsets);
        let mut limits = pool.limits;
        if offsets.partitions > 0 {
            limits.partitions = offsets.partitions;
        }
        // Rates are of the writers that were there; what is asked for and not yet ready must not be asked for again.
        let load = Load {
            at: self.began.elapsed(),
            lag: flow.lag,
            arrival_rate: flow.arrival_rate,
            drain_rate: flow.drain_rate * f64::from(asked) / f64::from(ready.clamp(1, asked.max(1))),
            replicas: asked,
        };
        Ok((flow, desired(&load, &limits, &mut memory.history)))
    }

    fn lens(&self, pool: &Pool) -> Result<Lens, PoolError> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = memory.entry(pool.name.clone()).or_default();
        if let Some(lens) = &memory.lens {
            return Ok(lens.clone());
        }
        let own = format!("kafka.{}.svc:9092", namespace(&pool.region));
        let lens = Lens::new(self.brokers.as_deref().unwrap_or(&own), GROUP)?;
        memory.lens = Some(lens.clone());
        Ok(lens)
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
        let named = plan::deployment_name(name);
        let writers = self.applier.cache().of_kind(DEPLOYMENT).into_iter();
        let orphans = writers.filter(|(key, object)| {
            let pool = object.metadata.labels.as_ref().and_then(|l| l.get("meridian.sh/pool"));
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
        Ok(found) if found.ready => Standing::Current,
        Ok(found) => Standing::InProgress(format!(
            "{} of {} writers are ready",
            found.replicas, found.decision.desired
        )),
        Err(PoolError::Invalid(error)) => Standing::Failed {
            reason: "Invalid",
            message: error.to_string(),
        },
        Err(error) => Standing::InProgress(error.to_string()),
    };
    let mut observations = standing.observations();
    observations.push(match result {
        Ok(found) => match found.decision.capped_by {
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
    let mut status = json!({
        "observedGeneration": generation,
        "conditions": merge(&previous, &observations, generation, now),
    });
    match result {
        Ok(found) => {
            status["replicas"] = json!(found.replicas);
            status["lag"] = json!(found.flow.lag);
            status["arrivalRate"] = json!(whole(found.flow.arrival_rate));
            status["drainRate"] = json!(whole(found.flow.drain_rate));
            status["desired"] = json!(found.decision.desired);
            if let Some(capped) = found.decision.capped_by {
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
    use super::*;

    fn found(ready: bool, capped_by: Option<CappedBy>) -> Result<Found, PoolError> {
        let flow = Flow {
            lag: 5,
            arrival_rate: 1.4,
            drain_rate: 0.0,
        };
        Ok(Found {
            flow,
            decision: Decision { desired: 2, capped_by },
            replicas: 1,
            ready,
            written: 0,
        })
    }

    #[test]
    fn status_says_numbers_and_what_capped_them() {
        let status = status(
            &json!({}),
            &found(true, Some(CappedBy::Partitions)),
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
