//! Which images are in force. Pure.
//!
//! An upgrade of the operator brings other default images; a region that names none keeps what it runs all the same, until
//! it names one or says that it follows the operator (docs/adr/0013).

use super::validate::Images;
use meridian_crds::{Rollout, UnnamedImage};
use serde_json::Value;

/// What workloads that are there run, by image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The service that is changed last: mid-rollout it still has the older one.
    pub meridian: Option<String>,
    /// PostgreSQL.
    pub postgres: Option<String>,
    /// Kafka.
    pub kafka: Option<String>,
}

/// The images that a RegionStack runs where its spec names none: those of its last whole rollout; without a record of one,
/// those that run; for a region that is new, the operator's.
#[must_use]
pub fn unnamed(object: &Value, running: &Running, operators: &Images) -> Images {
    let rollout: Rollout = serde_json::from_value(object["spec"]["rollout"].clone()).unwrap_or_default();
    if rollout.unnamed_image == UnnamedImage::FollowsOperator {
        return operators.clone();
    }
    let choose = |name: &str, running: &Option<String>, operators: &str| {
        let recorded = object["status"]["images"][name]
            .as_str()
            .filter(|image| !image.is_empty());
        recorded.or(running.as_deref()).unwrap_or(operators).to_owned()
    };
    Images {
        meridian: choose("meridian", &running.meridian, &operators.meridian),
        postgres: choose("postgres", &running.postgres, &operators.postgres),
        kafka: choose("kafka", &running.kafka, &operators.kafka),
    }
}

/// The services' image of the last whole rollout.
#[must_use]
pub fn rolled_out(object: &Value) -> Option<String> {
    object["status"]["images"]["meridian"].as_str().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn images(version: &str) -> Images {
        Images {
            meridian: format!("m:{version}"),
            postgres: format!("p:{version}"),
            kafka: format!("k:{version}"),
        }
    }

    fn recorded() -> Value {
        json!({"spec": {}, "status": {"images": {"meridian": "m:1", "postgres": "p:1", "kafka": "k:1"}}})
    }

    #[test]
    fn a_newer_operators_images_are_not_taken_by_a_region_that_has_some() {
        assert_eq!(unnamed(&recorded(), &Running::default(), &images("2")), images("1"));
        assert_eq!(unnamed(&json!({}), &Running::default(), &images("2")), images("2"));
    }

    #[test]
    fn without_a_record_what_runs_is_adopted() {
        let running = Running {
            meridian: Some("m:0".into()),
            postgres: Some("p:0".into()),
            kafka: None,
        };
        let adopted = unnamed(&json!({}), &running, &images("2"));
        assert_eq!((adopted.meridian.as_str(), adopted.postgres.as_str()), ("m:0", "p:0"));
        assert_eq!(adopted.kafka, "k:2");
    }

    #[test]
    fn a_region_that_follows_the_operator_does() {
        let mut object = recorded();
        object["spec"]["rollout"] = json!({"unnamedImage": "FollowsOperator"});
        assert_eq!(unnamed(&object, &Running::default(), &images("2")), images("2"));
    }
}
