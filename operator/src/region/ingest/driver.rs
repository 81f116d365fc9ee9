//! Who sets the replicas of a pool's writers where the operator does not: the object that says so, and who else would. Pure.
//!
//! Both drivers are given one number, the pool's `desired`, and one writer for each of it. It has waited out the pool's
//! stabilization and been kept within its bounds already, so that neither waits a second time: the windows here are
//! nothing, and the bounds only hold when the number is not to be had any more.

use super::plan::{POOL_LABEL, deployment_name};
use super::validate::{Driver, Pool};
use crate::conditions::{Observation, Standing};
use crate::manifest::{
    AUTOSCALER, DEPLOYMENT, Kind, MANAGED_BY, MANAGED_BY_LABEL, Manifest, NotAManifest, OWNER_UID_LABEL, SCALED_OBJECT,
};
use crate::region::stack::validate::Stack;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// Kinds of the objects that say who scales.
pub const KINDS: [Kind; 2] = [AUTOSCALER, SCALED_OBJECT];
/// Where a region's operator is asked over plain HTTP.
const OPERATOR_URL: &str = "http://meridian-operator.meridian-system.svc:9000";
/// How far off a HorizontalPodAutoscaler leaves the replicas where they are (Kubernetes' default).
const TOLERANCE: f64 = 0.1;

/// Name of the external metric that a pool's HorizontalPodAutoscaler asks for.
#[must_use]
pub fn metric_name(pool: &str) -> String {
    format!("ingest-desired-{pool}")
}

/// Path of the address at which KEDA asks for a pool's `desired`.
#[must_use]
pub fn path(pool: &str) -> String {
    format!("/v1/pools/{pool}/desired")
}

/// The kind of object by which a driver is told; none for the operator itself.
#[must_use]
pub const fn kind(driver: Driver) -> Option<Kind> {
    match driver {
        Driver::Direct => None,
        Driver::Hpa => Some(AUTOSCALER),
        Driver::Keda => Some(SCALED_OBJECT),
    }
}

/// The object by which the pool's driver is told; none for the operator itself.
///
/// # Errors
/// Never for a validated pool.
pub fn plan(stack: &Stack, pool: &Pool) -> Result<Option<Manifest>, NotAManifest> {
    let Some(kind) = kind(pool.driver) else {
        return Ok(None);
    };
    let name = deployment_name(&pool.name);
    let mut metadata = stack.metadata(&name, "ingest");
    metadata["namespace"] = json!(stack.namespace());
    metadata["labels"][OWNER_UID_LABEL] = json!(pool.uid);
    metadata["labels"][POOL_LABEL] = json!(pool.name);
    let spec = if pool.driver == Driver::Hpa {
        autoscaler(pool)
    } else {
        // KEDA makes a HorizontalPodAutoscaler with the labels of the ScaledObject. That one is not ours.
        let ours = [MANAGED_BY_LABEL, OWNER_UID_LABEL, POOL_LABEL].join(",");
        metadata["annotations"]["scaledobject.keda.sh/hpa-excluded-labels"] = json!(ours);
        scaled_object(pool)
    };
    Manifest::new(json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": metadata, "spec": spec,
    }))
    .map(Some)
}

fn target(pool: &Pool) -> Value {
    json!({"apiVersion": DEPLOYMENT.api_version(), "kind": DEPLOYMENT.kind, "name": deployment_name(&pool.name)})
}

fn autoscaler(pool: &Pool) -> Value {
    json!({
        "scaleTargetRef": target(pool), "minReplicas": pool.limits.min, "maxReplicas": pool.limits.ceiling(),
        "metrics": [{"type": "External", "external": {
            "metric": {"name": metric_name(&pool.name)}, "target": {"type": "AverageValue", "averageValue": "1"},
        }}],
        "behavior": behavior(pool),
    })
}

fn scaled_object(pool: &Pool) -> Value {
    json!({
        "scaleTargetRef": target(pool), "minReplicaCount": pool.limits.min, "maxReplicaCount": pool.limits.ceiling(),
        // To and from zero, which is KEDA's own doing.
        "pollingInterval": 5, "cooldownPeriod": 0,
        "advanced": {
            // Who takes over goes on with the writers that there are.
            "restoreToOriginalReplicaCount": false,
            "horizontalPodAutoscalerConfig": {"behavior": behavior(pool)},
        },
        "triggers": [{"type": "metrics-api", "metricType": "AverageValue", "metadata": {
            "url": format!("{OPERATOR_URL}{}", path(&pool.name)), "valueLocation": "desired", "targetValue": "1",
        }}],
    })
}

/// At once, and as far as `desired` says.
fn behavior(pool: &Pool) -> Value {
    let rules = json!({
        "stabilizationWindowSeconds": 0, "selectPolicy": "Max",
        "policies": [{"type": "Pods", "value": pool.limits.ceiling(), "periodSeconds": 15}],
    });
    json!({"scaleUp": rules, "scaleDown": rules})
}

/// Whether the driver has nothing left to do with these replicas.
#[must_use]
pub fn follows(driver: Driver, desired: u32, replicas: u32) -> bool {
    let off = f64::from(desired.abs_diff(replicas));
    desired == replicas || driver != Driver::Direct && replicas > 0 && off <= TOLERANCE * f64::from(replicas)
}

/// Why nobody scales a pool. Its writers stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// What told another driver is on its way out.
    HandingOver(String),
    /// There is no KEDA in this cluster.
    NoKeda,
    /// Somebody else's object scales the writers.
    Rival(String),
}

impl Held {
    /// In a sentence.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::HandingOver(what) => {
                format!("{what} still scales the writers; the new driver begins when it is gone")
            }
            Self::NoKeda => {
                "this cluster has no ScaledObjects: install KEDA, or use another spec.scaling.driver; until \
                             then the writers stay as many as they are"
                    .to_owned()
            }
            Self::Rival(what) => format!(
                "{what} scales the writers and is not Meridian's: remove it; until then the writers stay as many as they are"
            ),
        }
    }

    /// Of the condition.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::HandingOver(_) => "HandingOver",
            Self::NoKeda => "DriverMissing",
            Self::Rival(_) => "ScaledByAnother",
        }
    }

    /// For the pool.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self {
            Self::HandingOver(_) => Standing::InProgress(self.message()),
            Self::NoKeda | Self::Rival(_) => Standing::Failed {
                reason: self.reason(),
                message: self.message(),
            },
        }
    }
}

/// Who of these, beside the pool's driver, sets the replicas of its writers.
#[must_use]
pub fn rival(pool: &Pool, autoscalers: &[DynamicObject], scaled_objects: &[DynamicObject]) -> Option<Held> {
    let writers = deployment_name(&pool.name);
    let scales = |object: &&DynamicObject| {
        let target = &object.data["spec"]["scaleTargetRef"];
        target["name"] == writers.as_str() && (target["kind"].is_null() || target["kind"] == DEPLOYMENT.kind)
    };
    let judge = |kind: Kind, made_by: Option<Driver>, name: String| {
        let what = format!("{} {name}", kind.kind);
        match made_by {
            Some(driver) if driver == pool.driver => None,
            Some(_) => Some(Held::HandingOver(what)),
            None => Some(Held::Rival(what)),
        }
    };
    let of_ours = |object: &DynamicObject| is_told_by_us(object, &pool.name);
    let scaled = scaled_objects.iter().filter(scales).filter_map(|object| {
        let made_by = of_ours(object).then_some(Driver::Keda);
        judge(SCALED_OBJECT, made_by, object.name_any())
    });
    let auto = autoscalers.iter().filter(scales).filter_map(|object| {
        let made_by = match controller(object) {
            Some((kind, name)) => (kind == SCALED_OBJECT.kind && name == writers).then_some(Driver::Keda),
            None => of_ours(object).then_some(Driver::Hpa),
        };
        judge(AUTOSCALER, made_by, object.name_any())
    });
    let mut all: Vec<Held> = scaled.chain(auto).collect();
    // What somebody has to remove is said first.
    all.sort_by_key(|held| matches!(held, Held::HandingOver(_)));
    all.into_iter().next()
}

/// Whether an object was made by us to tell a driver of this pool.
#[must_use]
pub fn is_told_by_us(object: &DynamicObject, pool: &str) -> bool {
    let label = |name: &str| object.labels().get(name).map(String::as_str);
    object.metadata.name.as_deref() == Some(deployment_name(pool).as_str())
        && label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
        && label(POOL_LABEL) == Some(pool)
        && controller(object).is_none()
}

/// Kind and name of the object that made this one.
fn controller(object: &DynamicObject) -> Option<(&str, &str)> {
    let owners = object.owner_references().iter();
    owners
        .filter(|owner| owner.controller == Some(true))
        .map(|owner| (owner.kind.as_str(), owner.name.as_str()))
        .next()
}

/// Whether what was told to the driver has effect, as its object says of itself.
#[must_use]
pub fn activity(driver: Driver, told: Option<&Value>) -> Observation {
    let (by, condition) = match driver {
        Driver::Direct => return Observation::new("ScalingActive", true, "Direct", ""),
        Driver::Hpa => ("HorizontalPodAutoscaler", "ScalingActive"),
        Driver::Keda => ("KEDA", "Ready"),
    };
    let conditions = told.and_then(|told| told["status"]["conditions"].as_array());
    let said = conditions.and_then(|all| all.iter().find(|one| one["type"] == condition));
    let message = said.and_then(|said| said["message"].as_str()).unwrap_or_default();
    match said.and_then(|said| said["status"].as_str()) {
        Some("True") => Observation::new("ScalingActive", true, by, ""),
        Some("False") => Observation::new("ScalingActive", false, by, message),
        _ => {
            let unknown = crate::conditions::Status::Unknown;
            Observation::new("ScalingActive", unknown, by, "it has not said yet whether it scales")
        }
    }
}

#[cfg(test)]
mod tests;
