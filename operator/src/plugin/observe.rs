//! What is there: the hub's resources, and of the members what the hub role reads of them.

use std::collections::BTreeMap;

use futures::future::join_all;
use kube::Client;
use kube::api::{Api, DynamicObject};
use meridian_crds::ClusterMember;

use super::PluginError;
use super::reach::Reach;
use crate::apply::observed;
use crate::hub::members::OBSERVED;
use crate::hub::region::{RegionError, decoded};
use crate::hub::{RESOURCES, lease, source};
use crate::manifest::{Kind, LEASE, PRIVACY_INCIDENT, REGION_STACK, SECRET};
use crate::member::connect;
use crate::watch::{Cache, list};

/// The hub.
pub struct Hub {
    pub(super) client: Client,
    /// Every resource that people write there.
    pub cache: Cache,
}

/// Why a member could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// In one word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

/// What each member holds, by name of the cluster.
pub type Members = BTreeMap<String, Result<Cache, Silence>>;
/// How each member's policy stands, by name of the cluster.
pub type States = BTreeMap<String, Result<State, Silence>>;

/// How a member's policy stands.
pub struct State {
    /// Its RegionStacks.
    pub stacks: Cache,
    /// Its policy lease, if there is one.
    pub lease: Option<DynamicObject>,
}

/// Reads the hub.
///
/// # Errors
/// When it cannot be reached or read, or is no hub.
pub async fn hub(reach: &Reach) -> Result<Hub, PluginError> {
    read(reach, &[]).await
}

/// Reads the hub, and the incidents that it holds.
///
/// # Errors
/// When it cannot be reached or read, or is no hub.
pub async fn hub_and_incidents(reach: &Reach) -> Result<Hub, PluginError> {
    read(reach, &[PRIVACY_INCIDENT]).await
}

async fn read(reach: &Reach, besides: &[Kind]) -> Result<Hub, PluginError> {
    let (client, context) = reach.hub().await?;
    let cache = Cache::default();
    let mut missing = Vec::new();
    for kind in RESOURCES.iter().chain(besides) {
        match list(&client, *kind, &cache).await {
            Ok(()) => {}
            // A chart of before has no definition of it.
            Err(kube::Error::Api(status)) if status.code == 404 && *kind == PRIVACY_INCIDENT => {}
            Err(kube::Error::Api(status)) if status.code == 404 => missing.push(kind.kind.to_owned()),
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                return Err(PluginError::Forbidden {
                    context,
                    kind: kind.kind,
                    cause: status.message.clone(),
                });
            }
            Err(error) => {
                let cause = sentence(&error);
                return Err(PluginError::Unreachable { context, cause });
            }
        }
    }
    if missing.is_empty() {
        Ok(Hub { client, cache })
    } else {
        Err(PluginError::NotInstalled {
            context,
            kinds: missing,
        })
    }
}

/// Reads what the members of every region that `resources` holds hold. `resources` may be ahead of the hub.
pub async fn members(reach: &Reach, hub: &Hub, resources: &Cache) -> Members {
    let reads = clusters(resources)
        .into_iter()
        .map(|(name, (region, cluster))| async move {
            let held = held(reach, hub, &region, &cluster).await;
            (name, held)
        });
    join_all(reads).await.into_iter().collect()
}

async fn held(reach: &Reach, hub: &Hub, region: &str, cluster: &ClusterMember) -> Result<Cache, Silence> {
    let client = member(reach, hub, region, cluster).await?;
    let cache = Cache::default();
    for kind in OBSERVED {
        list(&client, *kind, &cache)
            .await
            .map_err(|error| silence(&cluster.name, *kind, &error))?;
    }
    Ok(cache)
}

/// Reads how the policy stands in the members of every region.
pub async fn states(reach: &Reach, hub: &Hub) -> States {
    let reads = clusters(&hub.cache)
        .into_iter()
        .map(|(name, (region, cluster))| async move {
            let state = state(reach, hub, &region, &cluster).await;
            (name, state)
        });
    join_all(reads).await.into_iter().collect()
}

async fn state(reach: &Reach, hub: &Hub, region: &str, cluster: &ClusterMember) -> Result<State, Silence> {
    let client = member(reach, hub, region, cluster).await?;
    let stacks = Cache::default();
    list(&client, REGION_STACK, &stacks)
        .await
        .map_err(|error| silence(&cluster.name, REGION_STACK, &error))?;
    let leases: Api<DynamicObject> = Api::namespaced_with(client, &reach.namespace, &LEASE.resource());
    let lease = leases
        .get_opt(lease::NAME)
        .await
        .map_err(|error| silence(&cluster.name, LEASE, &error))?;
    Ok(State { stacks, lease })
}

/// The clusters that the hub writes into, with the first region that names each.
fn clusters(resources: &Cache) -> BTreeMap<String, (String, ClusterMember)> {
    let mut clusters = BTreeMap::new();
    for (region, spec) in source::regions(resources) {
        if let Some(cluster) = spec.primary() {
            clusters
                .entry(cluster.name.clone())
                .or_insert_with(|| (region.to_string(), cluster.clone()));
        }
    }
    clusters
}

/// A client for a member: by the person's own context, or as the hub does.
async fn member(reach: &Reach, hub: &Hub, region: &str, cluster: &ClusterMember) -> Result<Client, Silence> {
    let own = reach.member(&cluster.name).await.map_err(|error| Silence {
        reason: "ContextUnusable",
        message: error.to_string(),
    })?;
    if let Some(client) = own {
        return Ok(client);
    }
    let secret = &cluster.kubeconfig_secret;
    let refused = |error: RegionError| Silence {
        reason: error.reason(),
        message: error.to_string(),
    };
    let secrets: Api<DynamicObject> = Api::namespaced_with(hub.client.clone(), &reach.namespace, &SECRET.resource());
    let found = secrets.get_opt(&secret.name).await.map_err(|error| Silence {
        reason: "KubeconfigUnreadable",
        message: format!(
            "Secret {}/{} with the kubeconfig of cluster {name} cannot be read: {}; name a context of your own with --member {name}=CONTEXT",
            reach.namespace,
            secret.name,
            sentence(&error),
            name = cluster.name,
        ),
    })?;
    let kubeconfig = found.and_then(|found| decoded(&observed(&found)["data"][secret.key.as_str()]));
    let Some(kubeconfig) = kubeconfig else {
        return Err(refused(RegionError::NoKubeconfig {
            region: region.to_owned(),
            secret: format!("{}/{}", reach.namespace, secret.name),
            key: secret.key.clone(),
            cluster: cluster.name.clone(),
        }));
    };
    connect(&cluster.name, &kubeconfig)
        .await
        .map_err(|error| refused(RegionError::Member(error)))
}

fn silence(cluster: &str, kind: Kind, error: &kube::Error) -> Silence {
    match error {
        kube::Error::Api(status) if status.code == 404 => Silence {
            reason: "NotInstalled",
            message: format!(
                "the custom resource {} is not installed in cluster {cluster}; install the chart there with role=region",
                kind.kind
            ),
        },
        kube::Error::Api(status) => Silence {
            reason: "MemberRefuses",
            message: format!(
                "cluster {cluster} does not let {} be read: {}",
                kind.kind, status.message
            ),
        },
        error => Silence {
            reason: "MemberUnreachable",
            message: format!(
                "cluster {cluster} does not answer: {}; where it can only be reached from the hub, name a context of your own with --member {cluster}=CONTEXT",
                sentence(error)
            ),
        },
    }
}

/// The error and what caused it: a client's own sentence alone hides that a name did not resolve.
fn sentence(error: &kube::Error) -> String {
    let mut said = vec![error.to_string()];
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        let text = deeper.to_string();
        if !said.iter().any(|known| known.contains(&text)) {
            said.push(text);
        }
        cause = deeper.source();
    }
    said.join(": ")
}
