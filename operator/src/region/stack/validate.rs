//! From what a RegionStack says to a [`Stack`] that can be planned without further questions.

use super::data_plane::DataPlane;
use super::rotate::Asked;
use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL, OWNER_UID_LABEL, REGION_LABEL};
use crate::policy_form;
use crate::region::ingest::validate::Settings;
use meridian_crds::Rollout;
use meridian_policy::{PolicyRevision, RegionName, RegionPolicy};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How one service is run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuning {
    /// Replicas; the component's default when absent.
    pub replicas: Option<u32>,
    /// `resources` of the container; the component's default when absent.
    pub resources: Option<Value>,
    /// Its image; the region's when absent.
    pub image: Option<String>,
}

/// The images of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// All services.
    pub meridian: String,
    /// PostgreSQL.
    pub postgres: String,
    /// Kafka.
    pub kafka: String,
}

/// A validated region stack: the one input of every plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    /// UID of the RegionStack.
    pub uid: String,
    /// The region.
    pub region: RegionName,
    /// What runs.
    pub images: Images,
    /// Host name of the public certificate.
    pub public_host: String,
    /// Who runs PostgreSQL and Kafka.
    pub data_plane: DataPlane,
    /// Per service.
    pub tuning: BTreeMap<String, Tuning>,
    /// The policy in force.
    pub policy: RegionPolicy,
    /// What the region's IngestPool tells telemetry.
    pub ingest: Option<Settings>,
    /// How it is reached from outside the cluster.
    pub node_ports: NodePorts,
    /// Seconds in which a changed service must become available.
    pub deadline_seconds: u32,
    /// Whether pods of a release before are there, which speak to Kafka in clear and as nobody.
    pub kafka_in_clear: bool,
}

/// How gateway and replicator are reached from outside the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodePorts {
    /// On the ports that every member uses: a cluster is one region.
    #[default]
    Fixed,
    /// On ports that the API server picks: several regions share a control plane (tests, benchmarks).
    Allocated,
}

impl Stack {
    /// The namespace of everything that the plan holds.
    #[must_use]
    pub fn namespace(&self) -> String {
        namespace(&self.region)
    }

    /// Name and labels of an object; `component` says which part of the stack it belongs to.
    #[must_use]
    pub fn metadata(&self, name: &str, component: &str) -> Value {
        json!({"name": name, "labels": {
            "app.kubernetes.io/name": name,
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/part-of": "meridian",
            MANAGED_BY_LABEL: MANAGED_BY,
            REGION_LABEL: self.region,
            OWNER_UID_LABEL: self.uid,
        }})
    }
}

/// Why a RegionStack cannot be planned. Only a change of it can help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A field does not parse.
    #[error("{field} is not valid: {cause}")]
    Field {
        /// Where.
        field: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// Name and content disagree.
    #[error("RegionStack {name} says that it is region {region}; they must be the same")]
    Misnamed {
        /// Of the object.
        name: String,
        /// In its spec.
        region: RegionName,
    },
    /// A data plane that this version does not lay down.
    #[error("{field}.mode {mode} is not laid down by this version")]
    DataPlane {
        /// Which.
        field: &'static str,
        /// What was asked for.
        mode: String,
    },
    /// Another region is served here already.
    #[error("this cluster is region {served}; a member cluster belongs to one region")]
    SecondRegion {
        /// The one.
        served: RegionName,
    },
    /// No policy can be in force.
    #[error("no policy can be in force: {0}")]
    NoPolicy(String),
}

/// A RegionStack as its own words say it, but for its policy ([`policy`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// UID of the RegionStack.
    pub uid: String,
    /// The region.
    pub region: RegionName,
    /// The images to run.
    pub images: Images,
    /// Host name of the public certificate.
    pub public_host: String,
    /// Where the gateway is reached.
    pub public_url: String,
    /// Where peers reach the replicator.
    pub peer_url: Option<String>,
    /// Who runs PostgreSQL and Kafka.
    pub data_plane: DataPlane,
    /// Per service.
    pub tuning: BTreeMap<String, Tuning>,
    /// Nothing is to be changed.
    pub paused: bool,
    /// Seconds in which a changed service must become available.
    pub deadline_seconds: u32,
    /// What is said of the CA's rotation.
    pub rotation: Asked,
}

impl Request {
    /// The stack with the policy that is in force and what the region's pool says.
    #[must_use]
    pub fn with(self, policy: RegionPolicy, ingest: Option<Settings>) -> Stack {
        let Self {
            uid,
            region,
            images,
            public_host,
            data_plane,
            tuning,
            deadline_seconds,
            ..
        } = self;
        Stack {
            uid,
            region,
            images,
            public_host,
            data_plane,
            tuning,
            policy,
            ingest,
            node_ports: NodePorts::default(),
            deadline_seconds,
            kafka_in_clear: false,
        }
    }
}

/// Parses a RegionStack; `defaults` are the images to run where it names none.
///
/// # Errors
/// See [`Invalid`].
pub fn validate(object: &Value, defaults: &Images) -> Result<Request, Invalid> {
    let spec = &object["spec"];
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let text = |field: &'static str, key: &str| match spec[key].as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Invalid::Field {
            field,
            cause: "it is missing".to_owned(),
        }),
    };
    let region: RegionName = parse("spec.region", &spec["region"])?;
    if region.as_str() != name {
        return Err(Invalid::Misnamed {
            name: name.to_owned(),
            region,
        });
    }
    parse::<PolicyRevision>("spec.revision", &spec["revision"])?;
    let rollout: Option<Rollout> = parse("spec.rollout", &spec["rollout"])?;
    let named = |image: &Value, default: &str| named(image).unwrap_or_else(|| default.to_owned());
    Ok(Request {
        uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        images: Images {
            meridian: named(&spec["image"], &defaults.meridian),
            postgres: named(&spec["dataPlane"]["postgres"]["image"], &defaults.postgres),
            kafka: named(&spec["dataPlane"]["kafka"]["image"], &defaults.kafka),
        },
        public_host: text("spec.publicHost", "publicHost")?,
        public_url: text("spec.publicUrl", "publicUrl")?,
        peer_url: spec["peerUrl"].as_str().map(ToOwned::to_owned),
        data_plane: DataPlane::parse(&spec["dataPlane"])?,
        tuning: tuning(&spec["services"])?,
        paused: spec["paused"].as_bool().unwrap_or(false),
        deadline_seconds: rollout.unwrap_or_default().deadline_seconds,
        rotation: Asked::of(object),
        region,
    })
}

/// The policy that a RegionStack asks for.
///
/// # Errors
/// Why it is not understood.
pub fn policy(spec: &Value) -> Result<RegionPolicy, String> {
    // The revision is the stack's; a policy compiled before it was allocated may not know it yet.
    let revision: PolicyRevision = parse("spec.revision", &spec["revision"]).map_err(|error| error.to_string())?;
    let policy = policy_form::read(&spec["policy"]).map_err(|error| error.to_string())?;
    Ok(RegionPolicy { revision, ..policy })
}

fn parse<T: serde::de::DeserializeOwned>(field: &'static str, value: &Value) -> Result<T, Invalid> {
    serde_json::from_value(value.clone()).map_err(|e| Invalid::Field {
        field,
        cause: e.to_string(),
    })
}

pub(super) fn named(image: &Value) -> Option<String> {
    image.as_str().filter(|image| !image.is_empty()).map(ToOwned::to_owned)
}

/// `services` as a map by name or as a list of `{name, …}`.
fn tuning(services: &Value) -> Result<BTreeMap<String, Tuning>, Invalid> {
    let one = |name: &str, value: &Value| {
        let replicas = match &value["replicas"] {
            Value::Null => None,
            value => Some(parse::<u32>("spec.services.replicas", value)?),
        };
        let resources = value["resources"]
            .as_object()
            .filter(|r| !r.is_empty())
            .map(|r| Value::Object(r.clone()));
        let image = named(&value["image"]);
        Ok((
            name.to_owned(),
            Tuning {
                replicas,
                resources,
                image,
            },
        ))
    };
    match services {
        Value::Object(map) => map.iter().map(|(name, value)| one(name, value)).collect(),
        Value::Array(list) => list
            .iter()
            .map(|value| one(value["name"].as_str().unwrap_or_default(), value))
            .collect(),
        _ => Ok(BTreeMap::new()),
    }
}

/// The namespace of a region.
#[must_use]
pub fn namespace(region: &RegionName) -> String {
    format!("meridian-{region}")
}

/// A small valid stack for the tests of this crate.
#[cfg(test)]
pub(crate) fn example() -> Stack {
    use meridian_crds::DEADLINE_SECONDS;

    let policy = serde_json::from_value(json!({
        "region": "eu", "jurisdiction": "eu", "revision": 7,
        "public_url": "https://eu.meridian.localhost:8443", "issuer": "https://eu.meridian.localhost:8443",
        "countries_served": ["DE", "FR"],
        "homes": [{"tenant": "stride-eu", "organization": "stride", "epoch": 1}],
        "directory": [{"region": "eu", "public_url": "https://eu.meridian.localhost:8443", "countries": ["DE", "FR"]}],
        "peers": [{"region": "us", "public_url": "https://us.meridian.localhost:9443",
            "replicator_url": "https://us-control-plane:30444", "ca_pem": "", "issuer": "https://us.meridian.localhost:9443",
            "jwks": {"keys": []}, "tenants": []}],
        "exports": [], "imports": [], "retention": {},
    }))
    .unwrap();
    Stack {
        uid: "0b4a7c1e-0000-4000-8000-000000000001".to_owned(),
        region: "eu".parse().unwrap(),
        images: Images {
            meridian: "meridian:1".into(),
            postgres: "postgres:17".into(),
            kafka: "kafka:4.1".into(),
        },
        public_host: "eu.meridian.localhost".to_owned(),
        data_plane: DataPlane::default(),
        tuning: BTreeMap::from([(
            "gateway".to_owned(),
            Tuning {
                replicas: Some(2),
                ..Tuning::default()
            },
        )]),
        policy,
        ingest: Some(Settings {
            partitions: 6,
            per_device: Some(50),
            per_tenant: None,
        }),
        node_ports: NodePorts::Fixed,
        deadline_seconds: DEADLINE_SECONDS,
        kafka_in_clear: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Images {
        Images {
            meridian: "m:1".into(),
            postgres: "p:1".into(),
            kafka: "k:1".into(),
        }
    }

    fn object() -> Value {
        let policy = serde_json::to_value(example().policy).unwrap();
        json!({"metadata": {"name": "eu", "uid": "u"}, "spec": {"region": "eu", "revision": 9, "publicHost": "h",
            "publicUrl": "https://h", "policy": policy, "services": {"gateway": {"replicas": 3}}}})
    }

    #[test]
    fn a_stack_takes_the_images_in_force_unless_it_names_others() {
        let request = validate(&object(), &images()).unwrap();
        assert_eq!(request.images, images());
        assert_eq!(policy(&object()["spec"]).unwrap().revision.0, 9);
        let mut named = object();
        named["spec"]["image"] = json!("m:2");
        named["spec"]["dataPlane"] = json!({"postgres": {"image": "p:2"}});
        named["spec"]["services"]["gateway"]["image"] = json!("m:3");
        let request = validate(&named, &images()).unwrap();
        assert_eq!(request.images.meridian, "m:2");
        assert_eq!(
            (request.images.postgres.as_str(), request.images.kafka.as_str()),
            ("p:2", "k:1")
        );
        assert_eq!(request.tuning["gateway"].image.as_deref(), Some("m:3"));
    }

    #[test]
    fn what_cannot_be_planned_is_refused_with_the_field() {
        let with = |pointer: &str, value: Value| {
            let mut object = object();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap()[key] = value;
            validate(&object, &images()).unwrap_err().to_string()
        };
        assert!(with("/spec/region", json!("us")).contains("they must be the same"));
        assert!(with("/spec/publicHost", json!("")).starts_with("spec.publicHost"));
        assert!(with("/spec/dataPlane", json!({"kafka": {"mode": "Borrowed"}})).contains("Borrowed"));
    }
}
