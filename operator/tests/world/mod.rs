//! A hub role between two real API servers, with the demo's resources, and regions in the member that obey it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]
#![allow(dead_code, reason = "each test file uses its part")]

use super::bed::{self, install_custom_resources, install_custom_resources_of_a_member, until};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use meridian_kit::testing::free_address;
use meridian_operator::RunError;
use meridian_operator::hub::approval::Requirement;
use meridian_operator::hub::departure::FINALIZER;
use meridian_operator::hub::{HubArgs, run_with};
use meridian_operator::manifest::{
    FITNESS_REGION, INGEST_POOL, JURISDICTION, Kind, PARTY, REGION_STACK, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT,
};
use meridian_operator::policy_form;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Mutex as Turn, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The hub's namespace.
pub const SYSTEM: &str = "hub-system";

pub fn kubeconfig_of_the_member() -> String {
    let path = std::env::var("MERIDIAN_TEST_MEMBER_KUBECONFIG")
        .unwrap_or_else(|_| panic!("MERIDIAN_TEST_MEMBER_KUBECONFIG is not set: run `cargo xtask test`"));
    std::fs::read_to_string(path).unwrap()
}

async fn client_of_the_member() -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig_of_the_member()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// The hub's resources are one world: one test at a time.
static TURN: Turn<()> = Turn::const_new(());

/// A hub role, and a member in which two regions obey it: they make their namespaces, apply what is written, unless they
/// are told to be slow, and acknowledge what they have purged, unless they are told to be mute.
pub struct World {
    pub hub: Client,
    pub member: Client,
    manners: Manners,
    admin: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
    regions: JoinHandle<()>,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    pub async fn new() -> Self {
        Self::among(bed::client().await, &kubeconfig_of_the_member()).await
    }

    /// With a hub role that reaches its own API server by this client, and the member of region us by this kubeconfig.
    pub async fn among(role: Client, us: &str) -> Self {
        let turn = TURN.lock().await;
        let hub = bed::client().await;
        let member = client_of_the_member().await;
        install_custom_resources(&hub).await;
        install_custom_resources_of_a_member(&member).await;
        for client in [&hub, &member] {
            namespace(client, SYSTEM).await;
        }
        let (admin, stop, running) = start(&role);
        let manners = Manners::default();
        let regions = tokio::spawn(regions(member.clone(), manners.clone()));
        let world = Self {
            hub,
            member,
            manners,
            admin,
            stop,
            running,
            regions,
            _turn: turn,
        };
        world.give_kubeconfig("eu", &kubeconfig_of_the_member()).await;
        world.give_kubeconfig("us", us).await;
        for (kind, file) in [
            (JURISDICTION, "jurisdictions/eu.yaml"),
            (JURISDICTION, "jurisdictions/us.yaml"),
            (JURISDICTION, "jurisdictions/uk.yaml"),
            (PARTY, "local/10-parties.yaml"),
        ] {
            world.apply(kind, file).await;
        }
        world
    }

    /// The demo's regions, tenants and pools, placed.
    pub async fn with_tenants() -> Self {
        Self::new().await.settled().await
    }

    /// The same in this world.
    pub async fn settled(self) -> Self {
        self.apply(FITNESS_REGION, "local/30-regions.yaml").await;
        self.apply(TENANT_DATA_RESIDENCY, "local/40-tenants.yaml").await;
        self.apply(INGEST_POOL, "local/50-pools.yaml").await;
        until("an edge is placed in both regions", || async {
            let home = self.placement("eu", "stride-eu").await;
            let away = self.placement("us", "stride-eu").await;
            home.is_some_and(|home| count(&home["spec"]["edges"]) == 1) && away.is_some()
        })
        .await;
        // A region acknowledges the cut of edges that it has applied, not of those that came and went unseen.
        until("both ends apply the edge", || async {
            let (eu, us) = (self.held(REGION_STACK, "eu").await, self.held(REGION_STACK, "us").await);
            let applied = |stack: Option<Value>, way: &str| {
                let stack = stack.unwrap_or_default();
                let is_applied = stack["status"]["appliedRevision"] == stack["spec"]["revision"];
                is_applied && count(&stack["spec"]["policy"][way]) == 1
            };
            applied(eu, "exports") && applied(us, "imports")
        })
        .await;
        until("the pools are copied", || async {
            self.held(INGEST_POOL, "us-telemetry").await.is_some()
        })
        .await;
        self
    }

    pub async fn apply(&self, kind: Kind, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regions").join(file);
        let text = std::fs::read_to_string(path).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).unwrap();
            let name = object["metadata"]["name"].as_str().unwrap();
            let params = PatchParams::apply("somebody").force();
            self.asked(kind)
                .patch(name, &params, &Patch::Apply(&object))
                .await
                .unwrap();
        }
    }

    pub async fn give_kubeconfig(&self, region: &str, text: &str) {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(format!("member-{region}")),
                ..ObjectMeta::default()
            },
            data: Some([("kubeconfig".to_owned(), ByteString(text.into()))].into()),
            ..Secret::default()
        };
        let secrets: Api<Secret> = Api::namespaced(self.hub.clone(), SYSTEM);
        let params = PatchParams::apply("somebody").force();
        secrets
            .patch(&format!("member-{region}"), &params, &Patch::Apply(&secret))
            .await
            .unwrap();
    }

    pub fn asked(&self, kind: Kind) -> Api<DynamicObject> {
        Api::all_with(self.hub.clone(), &kind.resource())
    }

    pub async fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        let found = self.asked(kind).get_opt(name).await.unwrap()?;
        Some(serde_json::to_value(found).unwrap())
    }

    /// Deletes a resource of the hub as `kubectl delete --wait=false` does.
    pub async fn delete(&self, kind: Kind, name: &str) {
        self.asked(kind).delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub async fn is_gone(&self, kind: Kind, name: &str) {
        until(&format!("{} {name} is gone", kind.kind), || async {
            self.get(kind, name).await.is_none()
        })
        .await;
    }

    /// What holds a resource that was deleted.
    pub async fn held_for(&self, kind: Kind, name: &str, reason: &str) -> String {
        let removable = |object: &Value| {
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions
                .into_iter()
                .find(|condition| condition["type"] == "Removable")
        };
        until(&format!("{} {name} is held for {reason}", kind.kind), || async {
            let object = self.get(kind, name).await.expect("it is held");
            removable(&object).is_some_and(|condition| condition["reason"] == reason)
        })
        .await;
        let object = self.get(kind, name).await.expect("it is held");
        let condition = removable(&object).unwrap();
        assert_eq!(condition["status"], "False");
        condition["message"].as_str().unwrap().to_owned()
    }

    pub async fn held(&self, kind: Kind, name: &str) -> Option<Value> {
        let api: Api<DynamicObject> = Api::all_with(self.member.clone(), &kind.resource());
        let mut object = serde_json::to_value(api.get_opt(name).await.unwrap()?).unwrap();
        policy_form::open(&mut object["spec"]["policy"]).unwrap();
        Some(object)
    }

    pub async fn placement(&self, region: &str, tenant: &str) -> Option<Value> {
        let namespace = format!("meridian-{region}");
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.member.clone(), &namespace, &TENANT_PLACEMENT.resource());
        Some(serde_json::to_value(api.get_opt(tenant).await.unwrap()?).unwrap())
    }

    pub fn be_slow(&self, region: &str) {
        self.manners.slow.lock().unwrap().insert(region.to_owned());
    }

    /// Purges take their time there.
    pub fn be_mute(&self, region: &str) {
        self.manners.mute.lock().unwrap().insert(region.to_owned());
    }

    pub fn speak(&self, region: &str) {
        self.manners.mute.lock().unwrap().remove(region);
    }

    /// Its operator is of a version that tells its replicator nothing of edges that are to be acknowledged.
    pub fn be_unaware(&self, region: &str) {
        self.manners.unaware.lock().unwrap().insert(region.to_owned());
    }

    pub async fn is_still_home(&self, tenant: &str) {
        let held = self.get(TENANT_DATA_RESIDENCY, tenant).await.expect("it is held");
        assert_eq!(held["status"]["phase"], "Closing");
        let homes = self.held(REGION_STACK, "eu").await.unwrap()["spec"]["policy"]["homes"].clone();
        assert_eq!(homes[0]["tenant"], tenant);
    }

    pub fn catch_up(&self, region: &str) {
        self.manners.slow.lock().unwrap().remove(region);
    }

    pub async fn metrics(&self) -> String {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http.get(format!("http://{}/metrics", self.admin)).send().await.unwrap();
        answer.text().await.unwrap()
    }

    pub async fn is_ready(&self) -> bool {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http.get(format!("http://{}/readyz", self.admin)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Deletes what is left, and ends the hub.
    pub async fn end(self) {
        for kind in [TENANT_DATA_RESIDENCY, INGEST_POOL, FITNESS_REGION] {
            for object in self.asked(kind).list(&ListParams::default()).await.unwrap() {
                self.delete(kind, &object.name_any()).await;
                self.is_gone(kind, &object.name_any()).await;
            }
        }
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.regions.abort();
    }

    /// Ends the hub where it stands, and starts another process of it.
    pub async fn restart(&mut self) {
        self.stop.cancel();
        (&mut self.running).await.unwrap().unwrap();
        (self.admin, self.stop, self.running) = start(&self.hub);
    }

    /// A kubeconfig of the member with which nothing answers.
    pub fn nowhere() -> String {
        let kubeconfig = kubeconfig_of_the_member();
        let parsed = serde_json::from_str::<Value>(&kubeconfig).unwrap();
        let server = parsed["clusters"][0]["cluster"]["server"].as_str().unwrap();
        kubeconfig.replace(server, &format!("https://{}", free_address()))
    }

    pub async fn regions_are_laid_down(&self) {
        self.apply(FITNESS_REGION, "local/30-regions.yaml").await;
        until("the region is laid down", || async {
            self.held(REGION_STACK, "us").await.is_some()
        })
        .await;
    }

    pub async fn merge(&self, kind: Kind, name: &str, patch: &Value) -> kube::Result<DynamicObject> {
        let params = PatchParams::default();
        self.asked(kind).patch(name, &params, &Patch::Merge(patch)).await
    }

    pub async fn is_held(&self, kind: Kind, name: &str) -> bool {
        let object = self.get(kind, name).await.unwrap_or_default();
        object["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|finalizers| finalizers.iter().any(|finalizer| finalizer == FINALIZER))
    }
}

pub fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

pub async fn namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let _ = api.create(&PostParams::default(), &namespace).await;
}

fn start(hub: &Client) -> (SocketAddr, CancellationToken, JoinHandle<Result<(), RunError>>) {
    let (admin, stop) = (free_address(), CancellationToken::new());
    let args = HubArgs {
        namespace: SYSTEM.to_owned(),
        identity: "hub-0".to_owned(),
        webhook_listen: free_address(),
        admin_listen: admin,
        approval: Requirement::NotRequired,
    };
    let running = tokio::spawn(run_with(hub.clone(), args, stop.clone()));
    (admin, stop, running)
}

/// Which regions behave otherwise than the rest.
#[derive(Clone, Default)]
struct Manners {
    slow: Arc<Mutex<BTreeSet<String>>>,
    mute: Arc<Mutex<BTreeSet<String>>>,
    unaware: Arc<Mutex<BTreeSet<String>>>,
}

impl Manners {
    fn is(such: &Mutex<BTreeSet<String>>, region: &str) -> bool {
        such.lock().unwrap().contains(region)
    }
}

/// In the place of the regions' own operators and replicators.
async fn regions(member: Client, manners: Manners) {
    let stacks: Api<DynamicObject> = Api::all_with(member.clone(), &REGION_STACK.resource());
    let mut cuts = Cuts::default();
    loop {
        // The API server's cache will do: this looks again.
        for mut stack in stacks
            .list(&ListParams::default().match_any())
            .await
            .unwrap_or_else(|error| panic!("{error}"))
        {
            policy_form::open(&mut stack.data["spec"]["policy"]).unwrap();
            let name = stack.name_any();
            if Manners::is(&manners.slow, &name) {
                continue;
            }
            let slow = manners.slow.lock().unwrap().clone();
            let silent: BTreeSet<String> = slow.union(&manners.mute.lock().unwrap()).cloned().collect();
            let wanted = json!({
                "namespaceReady": true, "appliedRevision": stack.data["spec"]["revision"], "policyForms": ["packed"],
                "acks": cuts.acknowledged(&name, &stack.data["spec"], &silent, Manners::is(&manners.unaware, &name)),
            });
            let unchanged = |field: &str| stack.data["status"][field] == wanted[field];
            if ["appliedRevision", "acks"].into_iter().all(unchanged) {
                continue;
            }
            namespace(&member, &format!("meridian-{name}")).await;
            // It may be gone meanwhile.
            let _ = stacks
                .patch_status(
                    &name,
                    &PatchParams::default(),
                    &Patch::Merge(&json!({"status": wanted})),
                )
                .await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the regions' replicators know of edges: by region, edge and role, the region at the other end and the
/// acknowledgement, once the edge is cut.
#[derive(Default)]
struct Cuts(BTreeMap<(String, String, &'static str), (String, Option<Value>)>);

impl Cuts {
    /// A silent importer acknowledges nothing, and its exporter only that no delivery starts any more.
    fn acknowledged(&mut self, region: &str, spec: &Value, silent: &BTreeSet<String>, unaware: bool) -> Value {
        let mut open = BTreeSet::new();
        for (role, way, end) in [("exporter", "exports", "to"), ("importer", "imports", "from")] {
            for edge in spec["policy"][way].as_array().unwrap() {
                let (id, other) = (edge["id"].as_str().unwrap(), edge[end].as_str().unwrap());
                let key = (region.to_owned(), id.to_owned(), role);
                self.0.insert(key.clone(), (other.to_owned(), None));
                open.insert(key);
            }
        }
        let closing = spec["policy"]["closing"].as_array().into_iter().flatten();
        for edge in closing.filter(|_| !unaware) {
            let (role, end) = match edge["from"] == region {
                true => ("exporter", "to"),
                false => ("importer", "from"),
            };
            let key = (region.to_owned(), edge["id"].as_str().unwrap().to_owned(), role);
            let other = edge[end].as_str().unwrap().to_owned();
            let (_, ack) = self.0.entry(key).or_insert((other, None));
            // Also what came and went unseen, and anew what did so since.
            if ack
                .as_ref()
                .is_some_and(|ack| ack["revision"].as_u64() <= edge["revision"].as_u64())
            {
                *ack = None;
            }
        }
        let mut acks = Vec::new();
        for ((of, edge, role), (other, ack)) in &mut self.0 {
            if of != region {
                continue;
            }
            let importer = if *role == "importer" { region } else { other.as_str() };
            let purged = !silent.contains(importer);
            let is_open = open.contains(&(of.clone(), edge.clone(), *role));
            let is_final = |ack: &Value| count(&ack["sinks"]) > 0;
            if !is_open && (purged || *role == "exporter") && !ack.as_ref().is_some_and(is_final) {
                let sinks = if purged { json!(["replicator"]) } else { json!([]) };
                *ack = Some(json!({
                    "edge": edge, "role": role, "revision": spec["revision"], "purged": u64::from(purged), "sinks": sinks,
                }));
            }
            acks.extend(ack.clone());
        }
        json!(acks)
    }
}
