//! The API servers that `cargo xtask bench` started, and clients of them that count what they send.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use meridian_operator::manifest::{Kind, ObjectKey};
use tower::util::MapRequestLayer;

use crate::process;

/// Who writes what the bench itself needs.
pub const MANAGER: &str = "meridian-bench";
/// Requests of the bench itself that are under way at the same time.
const AT_ONCE: usize = 16;

/// Requests that a client has sent, by method. Clones share the count.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<BTreeMap<String, u64>>>);

impl Requests {
    fn sent(&self, method: &http::Method) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(method.to_string()).or_default() += 1;
    }

    /// How many by now: reads (GET, which lists and watches are too) and writes (everything else).
    pub fn so_far(&self) -> (u64, u64) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u64 = counts.values().sum();
        let reads = counts.get("GET").copied().unwrap_or_default();
        (reads, all - reads)
    }
}

/// One API server.
#[derive(Clone)]
pub struct Server {
    /// The file that reaches it.
    pub kubeconfig: PathBuf,
    /// The bench's own client.
    pub client: Client,
}

impl Server {
    async fn at(kubeconfig: &Path) -> Result<Self> {
        let client = Client::try_from(config(kubeconfig).await?)?;
        Ok(Self {
            kubeconfig: kubeconfig.to_path_buf(),
            client,
        })
    }

    /// Another client, whose requests are counted.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn counted(&self) -> Result<(Client, Requests)> {
        let requests = Requests::default();
        let counting = requests.clone();
        let layer = MapRequestLayer::new(move |request: http::Request<Body>| {
            counting.sent(request.method());
            request
        });
        let builder = ClientBuilder::try_from(config(&self.kubeconfig).await?)?;
        Ok((builder.with_layer(&layer).build(), requests))
    }

    /// The API of a kind there: of one namespace, or where the kind has none or `namespace` is empty, of the cluster.
    pub fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        let resource = kind.resource();
        if kind.namespaced && !namespace.is_empty() {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    /// Writes an object by server-side apply.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn put(&self, kind: Kind, object: &serde_json::Value) -> Result<DynamicObject> {
        let text = |pointer: &str| object.pointer(pointer).and_then(serde_json::Value::as_str);
        let (name, namespace) = (text("/metadata/name"), text("/metadata/namespace"));
        let name = name.context("an object without a name")?;
        let params = PatchParams::apply(MANAGER).force();
        let written = self
            .api(kind, namespace.unwrap_or_default())
            .patch(name, &params, &Patch::Apply(object))
            .await;
        written.with_context(|| format!("{} {name} cannot be written", kind.kind))
    }

    /// Writes many objects of one kind, several at once.
    ///
    /// # Errors
    /// The first one that is not accepted.
    pub async fn put_all(&self, kind: Kind, objects: Vec<serde_json::Value>) -> Result<()> {
        let writes = objects.into_iter().map(|object| {
            let server = self.clone();
            async move { server.put(kind, &object).await.map(drop) }
        });
        futures::stream::iter(writes)
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    }

    /// One object, straight from the API server.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn get(&self, key: &ObjectKey) -> Result<Option<DynamicObject>> {
        let api = self.api(key.kind, key.namespace.as_deref().unwrap_or_default());
        api.get_opt(&key.name)
            .await
            .with_context(|| format!("{key} cannot be read"))
    }
}

async fn config(kubeconfig: &Path) -> Result<Config> {
    let shown = kubeconfig.display();
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("{shown} is no kubeconfig"))?;
    Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("{shown} is no kubeconfig"))
}

/// A hub's API server, and those that the members share.
pub struct Servers {
    /// The hub's.
    pub hub: Server,
    /// The members', at most four.
    pub members: Vec<Server>,
    /// Process ids of all of them, and of their etcd.
    processes: Vec<u32>,
}

impl Servers {
    /// What `cargo xtask bench` started.
    ///
    /// # Errors
    /// When it started nothing.
    pub async fn from_env() -> Result<Self> {
        let of = |name: &str| env::var_os(name).with_context(|| format!("{name} is not set: run `cargo xtask bench`"));
        let hub = Server::at(Path::new(&of("MERIDIAN_BENCH_HUB")?)).await?;
        let mut members = Vec::new();
        for kubeconfig in env::split_paths(&of("MERIDIAN_BENCH_MEMBERS")?) {
            members.push(Server::at(&kubeconfig).await?);
        }
        if members.is_empty() {
            bail!("MERIDIAN_BENCH_MEMBERS names no API server");
        }
        let processes = of("MERIDIAN_BENCH_PROCESSES")?;
        let processes = processes.to_string_lossy();
        let processes = processes
            .split(':')
            .map(str::parse::<u32>)
            .collect::<Result<Vec<_>, _>>();
        Ok(Self {
            hub,
            members,
            processes: processes.context("MERIDIAN_BENCH_PROCESSES: process ids separated by colons")?,
        })
    }

    /// The processor time that they and their etcd have used.
    ///
    /// # Errors
    /// When one of them has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.processes.iter().map(|pid| process::cpu_time(*pid)).sum()
    }

    /// Installs the custom resources everywhere, and waits until they are served.
    ///
    /// # Errors
    /// When an API server does not serve them within a minute.
    pub async fn install_custom_resources(&self) -> Result<()> {
        for server in std::iter::once(&self.hub).chain(&self.members) {
            let api: Api<CustomResourceDefinition> = Api::all(server.client.clone());
            for crd in meridian_crds::all_crds() {
                let params = PatchParams::apply(MANAGER).force();
                api.patch(&crd.name_any(), &params, &Patch::Apply(&crd)).await?;
            }
            for crd in meridian_crds::all_crds() {
                until("the custom resources are served", Duration::from_secs(60), || async {
                    let conditions = api.get(&crd.name_any()).await?.status.and_then(|status| status.conditions);
                    let established = |c: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionCondition| {
                        c.type_ == "Established" && c.status == "True"
                    };
                    Ok(conditions.unwrap_or_default().iter().any(established))
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// Looks until the look says yes.
///
/// # Errors
/// When a look fails, or none says yes in time.
pub async fn until<F: Future<Output = Result<bool>>>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> Result<()> {
    let began = Instant::now();
    while !look().await? {
        if began.elapsed() > limit {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
