//! Who runs a region's PostgreSQL and Kafka, as its RegionStack says it, and why what it says is not laid down.
//!
//! A mode is never replaced by another: where the operator that it needs is missing the stack is held and says so, and a
//! region that lives in one mode stays in it, since its data does not move by an edit.

use super::validate::{Invalid, named, namespace};
use crate::manifest::{CONFIG_MAP, KAFKA_CLUSTER, KAFKA_NODE_POOL, Kind, ObjectKey, POSTGRES_CLUSTER, STATEFUL_SET};
use crate::watch::Cache;
use meridian_policy::RegionName;
use serde_json::{Value, json};
use std::fmt;
use std::net::IpAddr;

/// Size of a volume where the stack says none.
const STORAGE: &str = "10Gi";
/// What is written of CloudNativePG's kinds.
const CLOUD_NATIVE_PG: &[Kind] = &[POSTGRES_CLUSTER];
/// And of Strimzi's.
const STRIMZI: &[Kind] = &[KAFKA_CLUSTER, KAFKA_NODE_POOL];
/// How many there are of what others run, each on a node of its own.
const REPLICAS: u32 = 3;
/// ConfigMap that says in which modes a region lives.
pub const MODES: &str = "data-plane";

/// Who runs what a region keeps its data in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataPlane {
    /// PostgreSQL.
    pub postgres: Postgres,
    /// Kafka.
    pub kafka: Kafka,
}

/// Who runs PostgreSQL, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Postgres {
    /// This operator: one instance.
    #[default]
    Embedded,
    /// CloudNativePG's.
    CloudNativePg(CloudNativePg),
    /// Somebody else, outside of the cluster and inside the jurisdiction.
    External(External),
}

/// What somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Where it is.
    pub address: Address,
    /// The networks in which it is: nothing else can be reached.
    pub networks: Vec<String>,
    /// The Secret in the region's namespace with whom it is verified by, and what is shown to it.
    pub secret: String,
}

/// Host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name, or an IPv4 address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// PostgreSQL as CloudNativePG is to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct CloudNativePg {
    /// How many, of which one writes.
    pub instances: u32,
    /// Size of each one's volume.
    pub storage: String,
    /// Its image; CloudNativePG's own when absent.
    pub image: Option<String>,
    /// `resources` of the container.
    pub resources: Value,
    /// Where the WAL is archived; nowhere when absent.
    pub object_store: Option<String>,
}

/// Who runs Kafka, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Kafka {
    /// This operator: one broker.
    #[default]
    Embedded,
    /// Strimzi's.
    Strimzi(Strimzi),
}

/// Kafka as Strimzi is to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct Strimzi {
    /// How many nodes.
    pub replicas: u32,
    /// Size of each one's volume.
    pub storage: String,
    /// Its image; Strimzi's own when absent.
    pub image: Option<String>,
    /// `resources` of the container.
    pub resources: Value,
}

/// The operators of others that this cluster has, and whose resources this operator may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operators {
    /// CloudNativePG's.
    pub cloud_native_pg: bool,
    /// Strimzi's.
    pub strimzi: bool,
}

impl Operators {
    /// The kinds of theirs that are written, and watched.
    #[must_use]
    pub fn kinds(self) -> Vec<Kind> {
        let theirs = [(self.cloud_native_pg, CLOUD_NATIVE_PG), (self.strimzi, STRIMZI)];
        let there = theirs.into_iter().filter(|(there, _)| *there);
        there.flat_map(|(_, kinds)| kinds).copied().collect()
    }
}

impl Postgres {
    /// The mode, as the stack says it.
    #[must_use]
    pub const fn mode(&self) -> &'static str {
        match self {
            Self::Embedded => "Embedded",
            Self::CloudNativePg(_) => "CloudNativePG",
            Self::External(_) => "External",
        }
    }
}

impl Kafka {
    /// The mode, as the stack says it.
    #[must_use]
    pub const fn mode(&self) -> &'static str {
        match self {
            Self::Embedded => "Embedded",
            Self::Strimzi(_) => "Strimzi",
        }
    }
}

/// Why a data plane is not laid down, though its stack can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    /// Its operator is not there.
    #[error(
        "{mode} needs {definition}, which this cluster does not serve, or not to this operator: install {mode} here, and \
         the chart with {value}=true"
    )]
    DefinitionMissing {
        /// What was asked for.
        mode: &'static str,
        /// The name of the definition.
        definition: String,
        /// The chart's value.
        value: &'static str,
    },
    /// The region lives in another mode.
    #[error(
        "{part} of this region is {living} and cannot become {asked}: data does not move by an edit; ask for {living}, or \
         create another region and migrate the tenants"
    )]
    ModeChanged {
        /// PostgreSQL or Kafka.
        part: &'static str,
        /// As it is.
        living: String,
        /// As it was asked for.
        asked: &'static str,
    },
}

impl Held {
    /// For conditions and events.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::DefinitionMissing { .. } => "DefinitionMissing",
            Self::ModeChanged { .. } => "ModeChanged",
        }
    }
}

impl DataPlane {
    /// Reads it from a stack's spec.
    ///
    /// # Errors
    /// When a mode is none that this version lays down.
    pub fn parse(spec: &Value) -> Result<Self, Invalid> {
        Ok(Self {
            postgres: postgres(&spec["postgres"])?,
            kafka: kafka(&spec["kafka"])?,
        })
    }

    /// Why it is not laid down in a cluster, if anything holds it.
    #[must_use]
    pub fn held(&self, cache: &Cache, region: &RegionName) -> Option<Held> {
        let parts = self.parts();
        let changed = parts.iter().find_map(|part| {
            let living = living(cache, region, part).filter(|living| living != part.mode)?;
            Some(Held::ModeChanged {
                part: part.title,
                living,
                asked: part.mode,
            })
        });
        let missing = || {
            parts.iter().find_map(|part| {
                let kind = part.needs.iter().find(|kind| !cache.is_synced(&[**kind]))?;
                Some(Held::DefinitionMissing {
                    mode: part.mode,
                    definition: format!("{}.{}", kind.plural, kind.group),
                    value: part.value,
                })
            })
        };
        changed.or_else(missing)
    }

    fn parts(&self) -> [Part; 2] {
        [
            Part {
                name: "postgres",
                title: "PostgreSQL",
                mode: self.postgres.mode(),
                needs: match self.postgres {
                    Postgres::CloudNativePg(_) => CLOUD_NATIVE_PG,
                    Postgres::Embedded | Postgres::External(_) => &[],
                },
                value: "dataPlane.cloudNativePG",
                alive: &[(STATEFUL_SET, "Embedded"), (POSTGRES_CLUSTER, "CloudNativePG")],
            },
            Part {
                name: "kafka",
                title: "Kafka",
                mode: self.kafka.mode(),
                needs: match self.kafka {
                    Kafka::Strimzi(_) => STRIMZI,
                    Kafka::Embedded => &[],
                },
                value: "dataPlane.strimzi",
                alive: &[(STATEFUL_SET, "Embedded"), (KAFKA_CLUSTER, "Strimzi")],
            },
        ]
    }

    /// In which modes a region lives from now on.
    #[must_use]
    pub fn modes(&self) -> Value {
        self.parts()
            .iter()
            .map(|part| (part.name.to_owned(), json!(part.mode)))
            .collect()
    }
}

/// One half of a data plane.
struct Part {
    /// Of its workload, and in [`MODES`].
    name: &'static str,
    title: &'static str,
    mode: &'static str,
    /// What its mode writes of other operators' kinds.
    needs: &'static [Kind],
    /// The chart's value that gives the right to.
    value: &'static str,
    /// What shows in which mode a region lives that has not written it down.
    alive: &'static [(Kind, &'static str)],
}

/// The mode that a region lives in; nothing when it is new.
fn living(cache: &Cache, region: &RegionName, part: &Part) -> Option<String> {
    let space = namespace(region);
    let written = cache.get(&ObjectKey::namespaced(CONFIG_MAP, &space, MODES));
    let written = written.and_then(|modes| modes.data["data"][part.name].as_str().map(ToOwned::to_owned));
    let there = |(kind, mode): &(Kind, &str)| {
        let workload = cache.identity(&ObjectKey::namespaced(*kind, &space, part.name));
        workload.map(|_| (*mode).to_owned())
    };
    written.or_else(|| part.alive.iter().find_map(there))
}

fn unknown(field: &'static str, mode: &str) -> Invalid {
    Invalid::DataPlane {
        field,
        mode: mode.to_owned(),
    }
}

fn postgres(spec: &Value) -> Result<Postgres, Invalid> {
    match spec["mode"].as_str().unwrap_or("Embedded") {
        "Embedded" => Ok(Postgres::Embedded),
        "CloudNativePG" => Ok(Postgres::CloudNativePg(CloudNativePg {
            instances: number(&spec["instances"]).unwrap_or(REPLICAS),
            storage: named(&spec["storage"]).unwrap_or_else(|| STORAGE.to_owned()),
            image: named(&spec["image"]),
            resources: resources(&spec["resources"]),
            object_store: named(&spec["objectStore"]),
        })),
        "External" => Ok(Postgres::External(External {
            address: address(spec["address"].as_str().unwrap_or_default())?,
            networks: networks(&spec["networks"])?,
            secret: named(&spec["connectionSecret"])
                .ok_or_else(|| wrong("spec.dataPlane.postgres.connectionSecret", "it is missing"))?,
        })),
        mode => Err(unknown("spec.dataPlane.postgres", mode)),
    }
}

fn kafka(spec: &Value) -> Result<Kafka, Invalid> {
    match spec["mode"].as_str().unwrap_or("Embedded") {
        "Embedded" => Ok(Kafka::Embedded),
        "Strimzi" => Ok(Kafka::Strimzi(Strimzi {
            replicas: number(&spec["replicas"]).unwrap_or(REPLICAS),
            storage: named(&spec["storage"]).unwrap_or_else(|| STORAGE.to_owned()),
            image: named(&spec["image"]),
            resources: resources(&spec["resources"]),
        })),
        mode => Err(unknown("spec.dataPlane.kafka", mode)),
    }
}

fn wrong(field: &'static str, cause: impl Into<String>) -> Invalid {
    Invalid::Field {
        field,
        cause: cause.into(),
    }
}

fn address(text: &str) -> Result<Address, Invalid> {
    let is_name = |host: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
        !host.is_empty() && !host.starts_with('-') && host.bytes().all(known)
    };
    let parts = text.rsplit_once(':');
    let parsed = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok().filter(|port| *port > 0)?)));
    match parsed.filter(|(host, _)| is_name(host)) {
        Some((host, port)) => Ok(Address {
            host: host.to_owned(),
            port,
        }),
        None => Err(wrong(
            "spec.dataPlane.postgres.address",
            format!("{text:?} is no host and port; write it like db.example.eu:5432"),
        )),
    }
}

/// Networks that a NetworkPolicy can name; none of them is everything.
fn networks(given: &Value) -> Result<Vec<String>, Invalid> {
    const FIELD: &str = "spec.dataPlane.postgres.networks";
    let is_network = |text: &str| {
        let Some((address, length)) = text.split_once('/') else {
            return false;
        };
        let longest = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length.parse::<u8>().is_ok_and(|length| (1..=longest).contains(&length))
    };
    let given = given.as_array().map(Vec::as_slice).unwrap_or_default();
    let networks: Vec<&str> = given
        .iter()
        .map(|network| network.as_str().unwrap_or_default())
        .collect();
    match networks.iter().find(|network| !is_network(network)) {
        Some(other) => Err(wrong(
            FIELD,
            format!("{other:?} is no network; write it like 10.20.0.0/28"),
        )),
        None if networks.is_empty() => Err(wrong(FIELD, "it is missing: nothing could be reached")),
        None => Ok(networks.into_iter().map(ToOwned::to_owned).collect()),
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

/// What is given, or what one instance needs: without any, the namespace's LimitRange would give it 256 MiB.
fn resources(given: &Value) -> Value {
    match given.as_object() {
        Some(given) if !given.is_empty() => json!(given),
        _ => json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::api::DynamicObject;

    fn asked(mode: &str) -> DataPlane {
        DataPlane::parse(&json!({"postgres": {"mode": mode}})).unwrap()
    }

    fn region() -> RegionName {
        "eu".parse().unwrap()
    }

    fn put(cache: &Cache, kind: Kind, name: &str, data: Value) {
        let mut object = DynamicObject::new(name, &kind.resource());
        object.metadata.namespace = Some("meridian-eu".to_owned());
        object.data = data;
        cache.put(ObjectKey::namespaced(kind, "meridian-eu", name), object);
    }

    #[test]
    fn cloud_native_pg_has_three_instances_unless_it_is_told_otherwise() {
        let spec = json!({"postgres": {"mode": "CloudNativePG", "objectStore": "backups"}});
        let Postgres::CloudNativePg(wanted) = DataPlane::parse(&spec).unwrap().postgres else {
            unreachable!()
        };
        assert_eq!((wanted.instances, wanted.object_store.as_deref()), (3, Some("backups")));
    }

    #[test]
    fn a_mode_that_this_version_does_not_lay_down_is_refused_with_its_field() {
        for (part, field) in [
            ("postgres", "spec.dataPlane.postgres"),
            ("kafka", "spec.dataPlane.kafka"),
        ] {
            let refused = DataPlane::parse(&json!({part: {"mode": "Borrowed"}})).unwrap_err();
            assert!(refused.to_string().starts_with(field), "{refused}");
        }
    }

    #[test]
    fn a_mode_whose_definition_is_not_served_is_held_with_its_name_and_none_takes_its_place() {
        let cache = Cache::default();
        let held = asked("CloudNativePG").held(&cache, &region()).unwrap();
        assert!(held.to_string().contains("clusters.postgresql.cnpg.io"), "{held}");
        cache.take(POSTGRES_CLUSTER, []);
        assert_eq!(asked("CloudNativePG").held(&cache, &region()), None);
        assert_eq!(asked("Embedded").held(&Cache::default(), &region()), None);
    }

    #[test]
    fn an_external_server_has_an_address_in_networks_that_are_not_everything() {
        let with = |address: &str, network: &str| {
            DataPlane::parse(&json!({"postgres": {
                "mode": "External", "address": address, "networks": [network], "connectionSecret": "their-db",
            }}))
        };
        assert!(with("db.example.eu:5432", "10.0.0.0/28").is_ok());
        assert!(with("10.0.0.4:5432", "fd00::/64").is_ok());
        for (address, network, named) in [
            ("db.example.eu", "10.0.0.0/28", "address"),
            ("db.example.eu:0", "10.0.0.0/28", "address"),
            ("u:p@db:5432", "10.0.0.0/28", "address"),
            ("db/x?sslmode=disable:5432", "10.0.0.0/28", "address"),
            ("db.example.eu:5432", "0.0.0.0/0", "networks"),
            ("db.example.eu:5432", "10.0.0.0/33", "networks"),
            ("db.example.eu:5432", "db.example.eu", "networks"),
        ] {
            let refused = with(address, network).unwrap_err().to_string();
            assert!(refused.contains(named), "{address} {network}: {refused}");
        }
    }

    #[test]
    fn every_definition_that_a_mode_needs_must_be_served() {
        let cache = Cache::default();
        let strimzi = DataPlane::parse(&json!({"kafka": {"mode": "Strimzi"}})).unwrap();
        cache.take(KAFKA_CLUSTER, []);
        let held = strimzi.held(&cache, &region()).unwrap();
        assert!(held.to_string().contains("kafkanodepools.kafka.strimzi.io"), "{held}");
        cache.take(KAFKA_NODE_POOL, []);
        assert_eq!(strimzi.held(&cache, &region()), None);
    }

    #[test]
    fn a_region_stays_in_the_mode_that_it_lives_in_whether_it_wrote_that_down_or_not() {
        let written = Cache::default();
        written.take(POSTGRES_CLUSTER, []);
        put(&written, CONFIG_MAP, MODES, json!({"data": {"postgres": "Embedded"}}));
        let seen = Cache::default();
        seen.take(POSTGRES_CLUSTER, []);
        put(&seen, STATEFUL_SET, "postgres", json!({}));
        for cache in [written, seen] {
            let held = asked("CloudNativePG").held(&cache, &region()).unwrap();
            assert_eq!(held.reason(), "ModeChanged");
            assert_eq!(asked("Embedded").held(&cache, &region()), None);
        }
    }
}
