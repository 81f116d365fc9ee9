//! From what an IngestPool says to a [`Pool`] that can be planned and scaled.

use super::scale::Limits;
use crate::region::stack::plan::pods::env;
use meridian_policy::RegionName;
use serde_json::Value;
use std::time::Duration;

/// Why a pool cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A field.
    #[error("{field} is not valid: {cause}")]
    Field {
        /// Where.
        field: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// A driver that this version does not have.
    #[error("spec.scaling.driver {0} is not there in this version; use Direct, HPA or KEDA")]
    Driver(String),
}

/// Who sets the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// This operator.
    Direct,
    /// A HorizontalPodAutoscaler.
    Hpa,
    /// KEDA.
    Keda,
}

impl Driver {
    /// As a spec names it; nothing when this version does not have it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "Direct" => Some(Self::Direct),
            "HPA" => Some(Self::Hpa),
            "KEDA" => Some(Self::Keda),
            _ => None,
        }
    }
}

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// UID of the IngestPool.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Whose data it takes.
    pub region: RegionName,
    /// The topics.
    pub streams: Vec<String>,
    /// Who sets its replicas.
    pub driver: Driver,
    /// Nothing is changed, by anybody of ours.
    pub paused: bool,
    /// Bounds.
    pub limits: Limits,
    /// What the API and the writers are told.
    pub settings: Settings,
    /// `resources` of a writer's container; the platform's default when absent.
    pub resources: Option<Value>,
}

/// What processes of telemetry are told about a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Partitions of the topics.
    pub partitions: u32,
    /// Samples per second of one device; unset leaves the service's default.
    pub per_device: Option<u32>,
    /// Samples per second of one tenant; unset means no limit.
    pub per_tenant: Option<u32>,
}

impl Settings {
    /// As variables.
    #[must_use]
    pub fn env(&self) -> Vec<Value> {
        let quota = |name: &str, quota: Option<u32>| quota.map(|q| env(name, &q.to_string()));
        [
            Some(env("MERIDIAN_INGEST_PARTITIONS", &self.partitions.to_string())),
            quota("MERIDIAN_INGEST_SUBJECT_SAMPLES_PER_SECOND", self.per_device),
            quota("MERIDIAN_INGEST_TENANT_SAMPLES_PER_SECOND", self.per_tenant),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The topic of samples: what a pool without streams takes.
const SAMPLES: &str = "telemetry.samples";

/// Parses an IngestPool.
///
/// # Errors
/// See [`Invalid`].
pub fn validate(object: &Value) -> Result<Pool, Invalid> {
    let spec = &object["spec"];
    let scaling = &spec["scaling"];
    let region = serde_json::from_value(spec["region"].clone()).map_err(|e| Invalid::Field {
        field: "spec.region",
        cause: e.to_string(),
    })?;
    let driver = scaling["driver"].as_str().unwrap_or("Direct");
    let driver = Driver::named(driver).ok_or_else(|| Invalid::Driver(driver.to_owned()))?;
    let partitions = number("spec.partitions", &spec["partitions"])?.unwrap_or(6).max(1);
    let min = number("spec.scaling.min", &scaling["min"])?.unwrap_or(1);
    let max = number("spec.scaling.max", &scaling["max"])?.unwrap_or(min.max(1));
    if min > max {
        return Err(Invalid::Field {
            field: "spec.scaling",
            cause: format!("min {min} is greater than max {max}"),
        });
    }
    if driver == Driver::Hpa && min == 0 {
        return Err(Invalid::Field {
            field: "spec.scaling.min",
            cause: "a HorizontalPodAutoscaler does not scale from zero; say 1 at least, or another driver".to_owned(),
        });
    }
    let seconds = |field, value: &Value, default: u32| {
        Ok(Duration::from_secs(u64::from(number(field, value)?.unwrap_or(default))))
    };
    let down = match &scaling["stabilization"] {
        Value::Object(map) => map.get("scaleDownSeconds").cloned().unwrap_or(Value::Null),
        value => value.clone(),
    };
    let up = &scaling["stabilization"]["scaleUpSeconds"];
    let stabilization = if down.is_null() {
        scaling["stabilizationSeconds"].clone()
    } else {
        down
    };
    let quotas = &spec["quotas"];
    Ok(Pool {
        uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        region,
        streams: streams(&spec["streams"]),
        driver,
        paused: spec["paused"].as_bool().unwrap_or(false),
        limits: Limits {
            min,
            max,
            partitions,
            target_drain: seconds("spec.scaling.targetDrainSeconds", &scaling["targetDrainSeconds"], 30)?,
            scale_up_after: seconds("spec.scaling.stabilization", up, 0)?,
            scale_down_after: seconds("spec.scaling.stabilization", &stabilization, 60)?,
        },
        settings: Settings {
            partitions,
            per_device: number(
                "spec.quotas.perDevicePerSecond",
                first(quotas, "perDevicePerSecond", "deviceSamplesPerSecond"),
            )?,
            per_tenant: number(
                "spec.quotas.perTenantPerSecond",
                first(quotas, "perTenantPerSecond", "tenantSamplesPerSecond"),
            )?,
        },
        resources: spec["resources"].is_object().then(|| spec["resources"].clone()),
    })
}

fn first<'a>(value: &'a Value, name: &str, older: &str) -> &'a Value {
    if value[name].is_null() {
        &value[older]
    } else {
        &value[name]
    }
}

/// Topics of the streams: `samples` is short for its topic.
fn streams(value: &Value) -> Vec<String> {
    let topic = |stream: &str| {
        if stream.contains('.') {
            stream.to_owned()
        } else {
            format!("telemetry.{stream}")
        }
    };
    let named: Vec<String> = value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| Some(topic(s.as_str()?)))
        .collect();
    if named.is_empty() {
        vec![SAMPLES.to_owned()]
    } else {
        named
    }
}

fn number(field: &'static str, value: &Value) -> Result<Option<u32>, Invalid> {
    if value.is_null() {
        return Ok(None);
    }
    serde_json::from_value(value.clone())
        .map(Some)
        .map_err(|e| Invalid::Field {
            field,
            cause: e.to_string(),
        })
}

/// A valid pool for the tests of this crate.
#[cfg(test)]
pub(crate) fn example() -> Pool {
    let object = serde_json::json!({"metadata": {"name": "samples", "uid": "pool-uid"},
        "spec": {"region": "eu", "partitions": 6, "scaling": {"min": 1, "max": 4, "targetDrainSeconds": 10, "stabilizationSeconds": 30}}});
    validate(&object).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pool_without_streams_takes_samples() {
        assert_eq!(example().streams, [SAMPLES]);
        assert_eq!(example().limits.scale_down_after, Duration::from_secs(30));
    }

    #[test]
    fn a_minimum_above_the_maximum_or_an_unknown_driver_is_refused() {
        let with = |scaling: Value| {
            validate(&json!({"metadata": {"name": "p"}, "spec": {"region": "eu", "scaling": scaling}}))
        };
        assert!(matches!(
            with(json!({"min": 3, "max": 2})),
            Err(Invalid::Field {
                field: "spec.scaling",
                ..
            })
        ));
        assert_eq!(with(json!({"driver": "VPA"})), Err(Invalid::Driver("VPA".into())));
    }

    #[test]
    fn a_pool_that_an_autoscaler_scales_has_a_writer_to_begin_with() {
        let with = |driver: &str, min: u32| {
            let scaling = json!({"driver": driver, "min": min, "max": 2});
            validate(&json!({"metadata": {"name": "p"}, "spec": {"region": "eu", "scaling": scaling}}))
        };
        assert!(matches!(
            with("HPA", 0),
            Err(Invalid::Field {
                field: "spec.scaling.min",
                ..
            })
        ));
        for (driver, min, taken) in [
            ("HPA", 1, Driver::Hpa),
            ("KEDA", 0, Driver::Keda),
            ("Direct", 0, Driver::Direct),
        ] {
            assert_eq!(with(driver, min).map(|pool| pool.driver), Ok(taken));
        }
    }
}
