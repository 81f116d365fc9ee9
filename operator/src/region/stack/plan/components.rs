//! The one table of what a region runs and who may talk to whom. NetworkPolicies, credentials, certificates, migrations
//! and Deployments are all derived from it.

use super::super::data_plane::{Kafka, Postgres};
use super::super::secrets::{Credential, Wanted};
use super::super::validate::Stack;
use super::{external, strimzi};

/// How a component is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// A Deployment of the services' image.
    Deployment,
    /// A StatefulSet of the services' image, with a volume.
    StatefulSet,
    /// Something else that only has network edges here (data plane, jobs, writers).
    Elsewhere,
}

/// One component of a region.
#[derive(Clone, Copy, Debug)]
pub struct Component {
    /// Its name: of its workload, Service, certificate and database.
    pub name: &'static str,
    /// How it is run.
    pub workload: Workload,
    /// Components that it opens connections to. Nothing else is reachable for it but DNS and the policy feed.
    pub calls: &'static [&'static str],
    /// Port that others reach it on.
    pub port: u16,
    /// Whether it has a database of its own.
    pub database: bool,
    /// Whether the network outside the cluster reaches it, on this node port.
    pub node_port: Option<u16>,
    /// Whether it follows the policy feed (all of our own processes that serve).
    pub follows_policy: bool,
    /// Memory: requested and limit.
    pub memory: (&'static str, &'static str),
}

/// Label on pods that NetworkPolicies select by.
pub const COMPONENT_LABEL: &str = "meridian.sh/component";

const fn service(name: &'static str, calls: &'static [&'static str]) -> Component {
    Component {
        name,
        workload: Workload::Deployment,
        calls,
        port: 8443,
        database: true,
        node_port: None,
        follows_policy: true,
        memory: ("48Mi", "256Mi"),
    }
}

/// Everything that runs in a region.
pub const COMPONENTS: &[Component] = &[
    Component {
        workload: Workload::Elsewhere,
        port: 5432,
        database: false,
        follows_policy: false,
        ..service("postgres", &[])
    },
    Component {
        workload: Workload::Elsewhere,
        port: 9094,
        database: false,
        follows_policy: false,
        ..service("kafka", &[])
    },
    Component {
        workload: Workload::Elsewhere,
        database: false,
        follows_policy: false,
        ..service("migrate", &["postgres"])
    },
    Component {
        workload: Workload::StatefulSet,
        database: false,
        ..service("keyring", &[])
    },
    service("identity", &["postgres", "kafka", "keyring"]),
    service("consent", &["postgres", "kafka", "keyring", "identity"]),
    Component {
        memory: ("64Mi", "512Mi"),
        ..service("training", &["postgres", "kafka", "keyring", "identity", "telemetry"])
    },
    Component {
        memory: ("64Mi", "512Mi"),
        ..service("telemetry", &["postgres", "kafka", "keyring", "identity"])
    },
    Component {
        workload: Workload::Elsewhere,
        database: false,
        ..service("telemetry-writer", &["postgres", "kafka", "keyring"])
    },
    service("social", &["postgres", "kafka", "keyring", "identity"]),
    service("promotions", &["postgres", "kafka", "keyring", "identity", "consent"]),
    Component {
        node_port: Some(30_444),
        ..service("replicator", &["postgres", "kafka", "keyring", "identity", "consent"])
    },
    Component {
        database: false,
        ..service(VERIFIER, &["postgres", "kafka"])
    },
    Component {
        database: false,
        node_port: Some(30_443),
        ..service(
            "gateway",
            &["identity", "consent", "training", "telemetry", "social", "promotions"],
        )
    },
];

/// Name of the component that lets requests in; it comes up last.
pub const GATEWAY: &str = "gateway";
/// Name of the component that alone reaches other regions.
pub const REPLICATOR: &str = "replicator";
/// Name of the component that looks at what is in the region's databases and topics.
pub const VERIFIER: &str = "verifier";
/// Name of the component that keeps subjects' keys.
pub const KEYRING: &str = "keyring";

/// Components that keep evidence: each signs its own chain.
pub const WITH_EVIDENCE: [&str; 2] = ["consent", REPLICATOR];

/// Components run as `workload`.
pub fn run_as(workload: Workload) -> impl Iterator<Item = &'static Component> {
    COMPONENTS.iter().filter(move |c| c.workload == workload)
}

/// Components with a database.
pub fn with_database() -> impl Iterator<Item = &'static Component> {
    COMPONENTS.iter().filter(|c| c.database)
}

/// The credentials of a stack.
#[must_use]
pub fn credentials(stack: &Stack) -> Vec<Credential> {
    let databases = with_database().flat_map(|c| {
        [
            Credential::Owner(c.name.to_owned()),
            Credential::Runtime(c.name.to_owned()),
        ]
    });
    let marketing = stack
        .policy
        .homes
        .iter()
        .map(|home| Credential::Marketing(home.tenant.clone()));
    let maker = match stack.data_plane.postgres {
        Postgres::Embedded => Some(Credential::Superuser),
        Postgres::CloudNativePg(_) => Some(Credential::Administrator),
        // Somebody else's, and nothing that is made here.
        Postgres::External(_) => None,
    };
    [
        Credential::Verifier,
        Credential::Pepper("identity".to_owned()),
        Credential::KeyEncryption,
    ]
    .into_iter()
    .chain(maker)
    .chain(WITH_EVIDENCE.map(|name| Credential::Evidence(name.to_owned())))
    .chain(databases)
    .chain(marketing)
    .collect()
}

/// The certificates of a stack.
#[must_use]
pub fn certificates(stack: &Stack) -> Vec<Wanted> {
    let namespace = stack.namespace();
    let named = |name: &str| vec![name.to_owned(), format!("{name}.{namespace}.svc")];
    let identity = |service: &str| Some(format!("meridian://{}/{service}", stack.region));
    let of = |service: &str| Wanted {
        secret: format!("tls-{service}"),
        dns: named(service),
        uri: identity(service),
    };
    let mut wanted: Vec<_> = COMPONENTS
        .iter()
        .filter(|c| c.follows_policy)
        .map(|c| of(c.name))
        .collect();
    if external::of(stack, "postgres").is_none() {
        wanted.push(Wanted {
            uri: None,
            ..of("postgres")
        });
    }
    let mut kafka = of("kafka");
    if let Kafka::Strimzi(strimzi) = &stack.data_plane.kafka {
        kafka.dns.extend(strimzi::node_names(stack, strimzi));
    }
    wanted.push(kafka);
    wanted.push(Wanted {
        secret: PUBLIC_CERTIFICATE.to_owned(),
        dns: vec![stack.public_host.clone()],
        uri: None,
    });
    wanted.push(Wanted {
        secret: OPERATOR_CERTIFICATE.to_owned(),
        dns: vec![
            "region-operator".to_owned(),
            "region-operator.meridian-system.svc".to_owned(),
        ],
        uri: identity("region-operator"),
    });
    wanted
}

/// Secret with the certificate that athletes see.
pub const PUBLIC_CERTIFICATE: &str = "tls-gateway-public";
/// Secret with the certificate of the operator's policy feed.
pub const OPERATOR_CERTIFICATE: &str = "tls-region-operator";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_call_names_a_component_and_nobody_calls_the_gateway() {
        let names: BTreeSet<_> = COMPONENTS.iter().map(|c| c.name).collect();
        for component in COMPONENTS {
            assert!(
                component.calls.iter().all(|callee| names.contains(callee)),
                "{}",
                component.name
            );
            assert!(!component.calls.contains(&GATEWAY), "{}", component.name);
        }
        assert_eq!(names.len(), COMPONENTS.len());
    }

    #[test]
    fn the_gateway_reaches_no_store() {
        let gateway = COMPONENTS.iter().find(|c| c.name == GATEWAY).unwrap();
        assert!(
            ["postgres", "kafka", KEYRING]
                .iter()
                .all(|store| !gateway.calls.contains(store))
        );
    }

    #[test]
    fn who_has_a_database_reaches_postgres_and_the_owner_role_is_not_the_runtime_role() {
        assert!(with_database().all(|c| c.calls.contains(&"postgres")));
        let stack = super::super::super::validate::example();
        let secrets: BTreeSet<_> = credentials(&stack).iter().map(Credential::secret).collect();
        assert!(secrets.contains("db-identity") && secrets.contains("db-identity-owner"));
        assert!(secrets.contains("marketing-stride-eu"));
    }

    #[test]
    fn a_certificate_names_exactly_one_service_of_one_region() {
        let certificates = certificates(&super::super::super::validate::example());
        let training = certificates.iter().find(|w| w.secret == "tls-training").unwrap();
        assert_eq!(training.dns, ["training", "training.meridian-eu.svc"]);
        assert_eq!(training.uri.as_deref(), Some("meridian://eu/training"));
    }
}
