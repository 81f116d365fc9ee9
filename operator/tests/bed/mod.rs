//! A region role on a real API server: its caches, its writer, and a kubelet that says that every pod is fine.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]
#![allow(dead_code, reason = "each test file uses its part")]

pub mod hubs;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::{Client, Config, ResourceExt};
use meridian_kit::testing::pause;
use meridian_operator::apply::Applier;
use meridian_operator::election::Leadership;
use meridian_operator::events::Events;
use meridian_operator::manifest::{self, Kind, ObjectKey};
use meridian_operator::metrics::Metrics;
use meridian_operator::reconcile::Pass;
use meridian_operator::region::identity::TokenKeys;
use meridian_operator::region::policy::feed::Feed;
use meridian_operator::region::stack::kept::Kept;
use meridian_operator::region::stack::validate::{Images, NodePorts};
use meridian_operator::region::stack::{Served, StackError, Stacks};
use meridian_operator::watch::{Cache, OnChange, Selection, follow};
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// The annotation with the hash of the definition that was applied.
const HASH_OF_CONTENT: &str = "meridian.sh/test-hash-of-content";

pub const KINDS: &[Kind] = &[
    manifest::NAMESPACE,
    manifest::CONFIG_MAP,
    manifest::SECRET,
    manifest::SERVICE,
    manifest::SERVICE_ACCOUNT,
    manifest::RESOURCE_QUOTA,
    manifest::LIMIT_RANGE,
    manifest::DEPLOYMENT,
    manifest::STATEFUL_SET,
    manifest::JOB,
    manifest::DISRUPTION_BUDGET,
    manifest::AUTOSCALER,
    manifest::NETWORK_POLICY,
];
const ASKED: &[Kind] = &[
    manifest::REGION_STACK,
    manifest::TENANT_PLACEMENT,
    manifest::INGEST_POOL,
];

/// The path of a test kubeconfig: `MERIDIAN_TEST_KUBECONFIG`, `MERIDIAN_TEST_MEMBER_KUBECONFIG`.
pub fn kubeconfig(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run `cargo xtask test`"))
}

pub async fn client() -> Client {
    client_of(&kubeconfig("MERIDIAN_TEST_KUBECONFIG")).await
}

pub async fn client_of(path: &str) -> Client {
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    meridian_kit::tls::install_crypto_provider();
    Client::try_from(config).unwrap()
}

/// Waits until a look says yes.
pub async fn until<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let began = Instant::now();
    while !look().await {
        assert!(began.elapsed() < LIMIT, "not within {} s: {what}", LIMIT.as_secs());
        pause(began).await;
    }
}

pub async fn install_custom_resources(client: &Client) {
    install(client, &meridian_crds::all_crds()).await;
}

/// What a member has: it is no hub.
pub fn custom_resources_of_a_member() -> Vec<CustomResourceDefinition> {
    let mut crds = meridian_crds::all_crds();
    crds.retain(|crd| ["RegionStack", "TenantPlacement", "IngestPool"].contains(&crd.spec.names.kind.as_str()));
    crds
}

pub async fn install_custom_resources_of_a_member(client: &Client) {
    install(client, &custom_resources_of_a_member()).await;
}

/// Applies those that an earlier test has not: there is little that costs an API server as much as a definition.
pub async fn install(client: &Client, crds: &[CustomResourceDefinition]) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let there = api.list_metadata(&ListParams::default()).await.unwrap();
    for crd in crds {
        let (name, hash) = (crd.name_any(), hash_of(crd));
        let same = |known: &PartialObjectMeta<_>| {
            known.name_any() == name && known.annotations().get(HASH_OF_CONTENT) == Some(&hash)
        };
        if there.iter().any(same) {
            continue;
        }
        let mut crd = crd.clone();
        crd.annotations_mut().insert(HASH_OF_CONTENT.to_owned(), hash.clone());
        let params = PatchParams::apply("test").force();
        api.patch(&name, &params, &Patch::Apply(crd)).await.unwrap();
    }
    for crd in crds {
        until("the custom resources are served", || async {
            let seen = api.get(&crd.name_any()).await.unwrap();
            let conditions = seen.status.and_then(|s| s.conditions).unwrap_or_default();
            conditions
                .iter()
                .any(|c| c.type_ == "Established" && c.status == "True")
        })
        .await;
    }
}

fn hash_of(crd: &CustomResourceDefinition) -> String {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(crd).unwrap().hash(&mut hasher);
    hasher.finish().to_string()
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A region name that no other test has.
pub fn fresh_region() -> String {
    format!("r{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

pub fn policy(region: &str, revision: u64, epoch: u64) -> Value {
    json!({
        "region": region, "jurisdiction": "eu", "revision": revision,
        "public_url": "https://eu.meridian.localhost:8443", "issuer": "https://eu.meridian.localhost:8443",
        "countries_served": ["DE"], "homes": [{"tenant": "stride-eu", "organization": "stride", "epoch": epoch}],
        "directory": [], "peers": [], "exports": [], "imports": [], "retention": {},
    })
}

pub fn region_stack(region: &str, revision: u64, epoch: u64) -> Value {
    json!({
        "apiVersion": "meridian.sh/v1alpha1", "kind": "RegionStack", "metadata": {"name": region},
        "spec": {
            "region": region, "jurisdiction": "eu", "revision": revision, "publicHost": "eu.meridian.localhost",
            "publicUrl": "https://eu.meridian.localhost:8443", "peerUrl": "https://eu-control-plane:30444",
            "countriesServed": ["DE"], "policy": policy(region, revision, epoch),
        },
    })
}

/// One region on the test's API server.
pub struct Bed {
    pub client: Client,
    pub region: String,
    pub namespace: String,
    pub stacks: Stacks,
    pub metrics: Metrics,
    pub cache: Cache,
}

impl Bed {
    /// With a RegionStack of revision 1 and a placement of stride-eu, both not looked at yet.
    pub async fn new() -> Self {
        let client = client().await;
        install_custom_resources(&client).await;
        let region = fresh_region();
        let bed = Self::beside(client, region.clone()).await;
        bed.put(region_stack(&region, 1, 1)).await;
        bed.seen(&ObjectKey::cluster(manifest::REGION_STACK, &region)).await;
        bed
    }

    /// Another operator for the same region: its own cache and counts.
    pub async fn beside(client: Client, region: String) -> Self {
        let (cache, metrics) = (Cache::default(), Metrics::default());
        let quiet: OnChange = Arc::new(|_, _| {});
        let managed = KINDS.iter().map(|kind| Selection::managed(*kind));
        for selection in managed.chain(ASKED.iter().map(|kind| Selection::all(*kind))) {
            tokio::spawn(follow(client.clone(), selection, cache.clone(), quiet.clone()));
        }
        cache.synced(KINDS).await;
        cache.synced(ASKED).await;
        let applier = Applier::new(client.clone(), cache.clone(), Leadership::alone(), metrics.clone());
        let stacks = Stacks {
            applier,
            events: Events::new(client.clone(), "test", "test", metrics.clone()),
            images: Images {
                meridian: "meridian:1".into(),
                postgres: "postgres:17".into(),
                kafka: "kafka:4.1".into(),
            },
            node_ports: NodePorts::Allocated,
            feed: Feed::default(),
            token_keys: TokenKeys::default(),
            served: Served::fixed(Some(region.parse().unwrap())),
            reported: Arc::default(),
            kept: Kept::default(),
        };
        let namespace = format!("meridian-{region}");
        Self {
            client,
            region,
            namespace,
            stacks,
            metrics,
            cache,
        }
    }

    pub async fn pass(&self) -> Result<Pass, StackError> {
        self.stacks.clone().reconcile(self.region.clone()).await
    }

    pub fn key(&self, kind: Kind, name: &str) -> ObjectKey {
        match kind.namespaced {
            true => ObjectKey::namespaced(kind, &self.namespace, name),
            false => ObjectKey::cluster(kind, name),
        }
    }

    pub fn api(&self, key: &ObjectKey) -> Api<DynamicObject> {
        self.stacks.applier.api(key)
    }

    pub async fn get(&self, kind: Kind, name: &str) -> Option<DynamicObject> {
        let key = self.key(kind, name);
        self.api(&key).get_opt(name).await.unwrap()
    }

    pub async fn put(&self, object: Value) -> DynamicObject {
        let kind = Kind::find(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = self.key(kind, &name);
        let params = PatchParams::apply("somebody").force();
        self.api(&key)
            .patch(&name, &params, &Patch::Apply(&object))
            .await
            .unwrap()
    }

    pub async fn place(&self, epoch: u64) {
        self.put(json!({
            "apiVersion": "meridian.sh/v1alpha1", "kind": "TenantPlacement",
            "metadata": {"name": "stride-eu", "namespace": self.namespace},
            "spec": {"tenant": "stride-eu", "organization": "stride", "home": self.region, "epoch": epoch, "revision": epoch, "edges": []},
        }))
        .await;
        self.seen(&self.key(manifest::TENANT_PLACEMENT, "stride-eu")).await;
    }

    /// Until the cache has this object as the API server has it.
    pub async fn seen(&self, key: &ObjectKey) {
        until(&format!("{key} is seen"), || async {
            let live = self.api(key).get_opt(&key.name).await.unwrap();
            let known = self.cache.get(key);
            live.map(|o| o.resource_version()) == known.map(|o| o.resource_version())
        })
        .await;
    }

    /// Passes, with a kubelet, until the stack is as planned.
    pub async fn settle(&self) {
        let began = Instant::now();
        loop {
            self.pass().await.unwrap();
            self.all_pods_are_fine().await;
            if self.condition("Ready").await == "True" {
                break;
            }
            assert!(began.elapsed() < LIMIT, "not ready: {:#}", self.status().await);
            pause(began).await;
        }
        // What the controllers still write in status is not ours; until it is quiet, counts would be of two passes.
        self.quiet().await;
    }

    /// Controllers have seen everything as it is now, and write nothing any more.
    async fn quiet(&self) {
        until("every budget counts every pod", || async {
            // Nobody waits for the verifier: its pod may come after the region is Ready.
            self.all_pods_are_fine().await;
            let budgets = self.api(&self.key(manifest::DISRUPTION_BUDGET, ""));
            let budgets = budgets.list(&ListParams::default()).await.unwrap();
            budgets.iter().all(|budget| {
                let status = &budget.data["status"];
                let seen = status["observedGeneration"].as_i64() == budget.metadata.generation;
                seen && status["expectedPods"].as_i64() > Some(0) && status["currentHealthy"] == status["expectedPods"]
            })
        })
        .await;
        let (began, mut before) = (Instant::now(), self.versions().await);
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = self.versions().await;
            if now == before {
                break;
            }
            assert!(began.elapsed() < LIMIT, "the region does not become quiet");
            before = now;
        }
        for (key, _) in self.versions().await {
            self.seen(&key).await;
        }
    }

    /// Resource versions of everything of ours in the region.
    pub async fn versions(&self) -> Vec<(ObjectKey, Option<String>)> {
        let mut versions = Vec::new();
        for kind in KINDS.iter().filter(|kind| kind.namespaced) {
            let api = self.api(&self.key(*kind, ""));
            for object in api
                .list(&ListParams::default().labels("app.kubernetes.io/managed-by=meridian"))
                .await
                .unwrap()
            {
                versions.push((ObjectKey::of(*kind, &object).unwrap(), object.resource_version()));
            }
        }
        versions
    }

    pub async fn status(&self) -> Value {
        let stack = self.get(manifest::REGION_STACK, &self.region).await.unwrap();
        stack.data["status"].clone()
    }

    pub async fn condition(&self, kind: &str) -> String {
        let status = self.status().await;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|c| c["type"] == kind);
        found.and_then(|c| c["status"].as_str()).unwrap_or("missing").to_owned()
    }

    /// What a kubelet would do: jobs succeed, everything else runs and is ready.
    pub async fn all_pods_are_fine(&self) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        for pod in api.list(&ListParams::default()).await.unwrap() {
            let status = pod.status.clone().unwrap_or_default();
            if status.phase.as_deref() != Some("Pending") {
                continue;
            }
            let of_job = pod.owner_references().iter().any(|o| o.kind == "Job");
            let phase = if of_job { "Succeeded" } else { "Running" };
            let ready = if of_job { "False" } else { "True" };
            let patch = json!({"status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]}});
            let _ = api
                .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
                .await;
        }
    }

    pub async fn make_namespace(&self, name: &str) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let _ = api.create(&PostParams::default(), &namespace).await;
    }
}
