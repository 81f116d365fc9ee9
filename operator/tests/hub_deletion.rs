//! The hub role between two real API servers, a hub's and a member's: what becomes of a member when a region or a tenant is
//! deleted (`cargo xtask parts apiserver member -- cargo test -p meridian-operator`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;

use bed::{install_custom_resources, install_custom_resources_of_a_member, until};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use meridian_operator::RunError;
use meridian_operator::hub::departure::FINALIZER;
use meridian_operator::hub::{HubArgs, run_with};
use meridian_operator::manifest::{
    FITNESS_REGION, INGEST_POOL, JURISDICTION, Kind, PARTY, REGION_STACK, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Mutex as Turn, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SYSTEM: &str = "hub-deletion";

fn custom_resources() -> Vec<CustomResourceDefinition> {
    meridian_crds::all_crds()
}

fn kubeconfig_of_the_member() -> String {
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

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// The hub's resources are one world: one test at a time.
static TURN: Turn<()> = Turn::const_new(());

/// A hub role, and a member in which two regions obey it: they make their namespaces, apply what is written, unless they
/// are told to be slow, and acknowledge what they have purged, unless they are told to be mute.
struct World {
    hub: Client,
    member: Client,
    slow: Arc<Mutex<BTreeSet<String>>>,
    mute: Arc<Mutex<BTreeSet<String>>>,
    admin: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
    regions: JoinHandle<()>,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    async fn new() -> Self {
        let turn = TURN.lock().await;
        let hub = bed::client().await;
        let member = client_of_the_member().await;
        install_custom_resources(&hub).await;
        install_custom_resources_of_a_member(&member).await;
        for client in [&hub, &member] {
            namespace(client, SYSTEM).await;
        }
        let (admin, stop) = (free_address(), CancellationToken::new());
        let args = HubArgs {
            namespace: SYSTEM.to_owned(),
            identity: "hub-0".to_owned(),
            webhook_listen: free_address(),
            admin_listen: admin,
        };
        let running = tokio::spawn(run_with(hub.clone(), args, stop.clone()));
        let slow = Arc::new(Mutex::new(BTreeSet::new()));
        let mute = Arc::new(Mutex::new(BTreeSet::new()));
        let regions = tokio::spawn(regions(member.clone(), slow.clone(), mute.clone()));
        let world = Self {
            hub,
            member,
            slow,
            mute,
            admin,
            stop,
            running,
            regions,
            _turn: turn,
        };
        for region in ["eu", "us"] {
            world.give_kubeconfig(region, &kubeconfig_of_the_member()).await;
        }
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
    async fn with_tenants() -> Self {
        let world = Self::new().await;
        world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
        world.apply(TENANT_DATA_RESIDENCY, "local/40-tenants.yaml").await;
        world.apply(INGEST_POOL, "local/50-pools.yaml").await;
        until("an edge is placed in both regions", || async {
            let home = world.placement("eu", "stride-eu").await;
            let away = world.placement("us", "stride-eu").await;
            home.is_some_and(|home| count(&home["spec"]["edges"]) == 1) && away.is_some()
        })
        .await;
        until("the pools are copied", || async {
            world.held(INGEST_POOL, "us-telemetry").await.is_some()
        })
        .await;
        world
    }

    async fn apply(&self, kind: Kind, file: &str) {
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

    async fn give_kubeconfig(&self, region: &str, text: &str) {
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

    fn asked(&self, kind: Kind) -> Api<DynamicObject> {
        Api::all_with(self.hub.clone(), &kind.resource())
    }

    async fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        let found = self.asked(kind).get_opt(name).await.unwrap()?;
        Some(serde_json::to_value(found).unwrap())
    }

    /// Deletes a resource of the hub as `kubectl delete --wait=false` does.
    async fn delete(&self, kind: Kind, name: &str) {
        self.asked(kind).delete(name, &DeleteParams::default()).await.unwrap();
    }

    async fn is_gone(&self, kind: Kind, name: &str) {
        until(&format!("{} {name} is gone", kind.kind), || async {
            self.get(kind, name).await.is_none()
        })
        .await;
    }

    /// What holds a resource that was deleted.
    async fn held_for(&self, kind: Kind, name: &str, reason: &str) -> String {
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

    async fn held(&self, kind: Kind, name: &str) -> Option<Value> {
        let api: Api<DynamicObject> = Api::all_with(self.member.clone(), &kind.resource());
        Some(serde_json::to_value(api.get_opt(name).await.unwrap()?).unwrap())
    }

    async fn placement(&self, region: &str, tenant: &str) -> Option<Value> {
        let namespace = format!("meridian-{region}");
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.member.clone(), &namespace, &TENANT_PLACEMENT.resource());
        Some(serde_json::to_value(api.get_opt(tenant).await.unwrap()?).unwrap())
    }

    fn be_slow(&self, region: &str) {
        self.slow.lock().unwrap().insert(region.to_owned());
    }

    /// Purges take their time there.
    fn be_mute(&self, region: &str) {
        self.mute.lock().unwrap().insert(region.to_owned());
    }

    fn speak(&self, region: &str) {
        self.mute.lock().unwrap().remove(region);
    }

    async fn is_still_home(&self, tenant: &str) {
        let held = self.get(TENANT_DATA_RESIDENCY, tenant).await.expect("it is held");
        assert_eq!(held["status"]["phase"], "Closing");
        let homes = self.held(REGION_STACK, "eu").await.unwrap()["spec"]["policy"]["homes"].clone();
        assert_eq!(homes[0]["tenant"], tenant);
    }

    fn catch_up(&self, region: &str) {
        self.slow.lock().unwrap().remove(region);
    }

    async fn metrics(&self) -> String {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http.get(format!("http://{}/metrics", self.admin)).send().await.unwrap();
        answer.text().await.unwrap()
    }

    /// Deletes what is left, and ends the hub.
    async fn end(self) {
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

    /// A kubeconfig of the member with which nothing answers.
    fn nowhere() -> String {
        let kubeconfig = kubeconfig_of_the_member();
        let parsed = serde_json::from_str::<Value>(&kubeconfig).unwrap();
        let server = parsed["clusters"][0]["cluster"]["server"].as_str().unwrap();
        kubeconfig.replace(server, &format!("https://{}", free_address()))
    }

    async fn regions_are_laid_down(&self) {
        self.apply(FITNESS_REGION, "local/30-regions.yaml").await;
        until("the region is laid down", || async {
            self.held(REGION_STACK, "us").await.is_some()
        })
        .await;
    }

    async fn merge(&self, kind: Kind, name: &str, patch: &Value) -> kube::Result<DynamicObject> {
        let params = PatchParams::default();
        self.asked(kind).patch(name, &params, &Patch::Merge(patch)).await
    }

    async fn is_held(&self, kind: Kind, name: &str) -> bool {
        let object = self.get(kind, name).await.unwrap_or_default();
        object["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|finalizers| finalizers.iter().any(|finalizer| finalizer == FINALIZER))
    }
}

fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

async fn namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let _ = api.create(&PostParams::default(), &namespace).await;
}

/// In the place of the regions' own operators and replicators.
async fn regions(member: Client, slow: Arc<Mutex<BTreeSet<String>>>, mute: Arc<Mutex<BTreeSet<String>>>) {
    let stacks: Api<DynamicObject> = Api::all_with(member.clone(), &REGION_STACK.resource());
    let mut cuts = Cuts::default();
    loop {
        for stack in stacks
            .list(&ListParams::default())
            .await
            .unwrap_or_else(|error| panic!("{error}"))
        {
            let name = stack.name_any();
            if slow.lock().unwrap().contains(&name) {
                continue;
            }
            let silent: BTreeSet<String> = slow.lock().unwrap().union(&mute.lock().unwrap()).cloned().collect();
            let wanted = json!({
                "namespaceReady": true, "appliedRevision": stack.data["spec"]["revision"],
                "acks": cuts.acknowledged(&name, &stack.data["spec"], &silent),
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
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the regions' replicators know of edges: by region, edge and role, the region at the other end and the
/// acknowledgement, once the edge is cut.
#[derive(Default)]
struct Cuts(BTreeMap<(String, String, &'static str), (String, Option<Value>)>);

impl Cuts {
    /// A silent importer acknowledges nothing, and its exporter only that no delivery starts any more.
    fn acknowledged(&mut self, region: &str, spec: &Value, silent: &BTreeSet<String>) -> Value {
        let mut open = BTreeSet::new();
        for (role, way, end) in [("exporter", "exports", "to"), ("importer", "imports", "from")] {
            for edge in spec["policy"][way].as_array().unwrap() {
                let (id, other) = (edge["id"].as_str().unwrap(), edge[end].as_str().unwrap());
                let key = (region.to_owned(), id.to_owned(), role);
                self.0.insert(key.clone(), (other.to_owned(), None));
                open.insert(key);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_goes_only_after_its_edges_are_closed_at_both_ends() {
    let world = World::with_tenants().await;
    world.be_slow("us");
    world.delete(TENANT_DATA_RESIDENCY, "stride-eu").await;

    let message = world.held_for(TENANT_DATA_RESIDENCY, "stride-eu", "EdgesOpen").await;
    assert!(message.contains("us"), "{message}");
    until("the edge is closed", || async {
        let home = world.placement("eu", "stride-eu").await;
        home.is_some_and(|home| count(&home["spec"]["edges"]) == 0)
            && world.placement("us", "stride-eu").await.is_none()
    })
    .await;
    let imports = world.held(REGION_STACK, "us").await.unwrap()["spec"]["policy"]["imports"].clone();
    assert_eq!(count(&imports), 0);
    // The importer has not applied that: the tenant stays at home, so that both ends can purge.
    world.is_still_home("stride-eu").await;

    // It applies it, and its purge goes on: nobody has acknowledged it yet.
    world.be_mute("us");
    world.catch_up("us");
    until("the importer applies that the edge is closed", || async {
        let stack = world.held(REGION_STACK, "us").await.unwrap();
        stack["status"]["appliedRevision"] == stack["spec"]["revision"]
    })
    .await;
    until("the acknowledgement is waited for", || async {
        let message = world.held_for(TENANT_DATA_RESIDENCY, "stride-eu", "EdgesOpen").await;
        message.contains("has not acknowledged yet that edge stride-eu.")
    })
    .await;
    world.is_still_home("stride-eu").await;

    world.speak("us");
    world.is_gone(TENANT_DATA_RESIDENCY, "stride-eu").await;
    assert!(world.placement("eu", "stride-eu").await.is_none());
    let homes = world.held(REGION_STACK, "eu").await.unwrap()["spec"]["policy"]["homes"].clone();
    assert_eq!(count(&homes), 0);
    assert!(
        world.placement("us", "stride-us").await.is_some(),
        "another tenant stays where it is"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_held_by_its_tenants_and_then_taken_out_of_its_member_without_its_data() {
    let world = World::with_tenants().await;
    let data: Api<ConfigMap> = Api::namespaced(world.member.clone(), "meridian-us");
    let kept: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "what-the-stack-laid-down"}})).unwrap();
    let _ = data.create(&PostParams::default(), &kept).await;
    world.delete(FITNESS_REGION, "us").await;

    let message = world.held_for(FITNESS_REGION, "us", "TenantsHomed").await;
    assert!(
        message.starts_with("1 tenant has its home here (stride-us)"),
        "{message}"
    );
    for (kind, name) in [(REGION_STACK, "us"), (INGEST_POOL, "us-telemetry")] {
        assert!(
            world.held(kind, name).await.is_some(),
            "{name} stays while it is needed"
        );
    }
    assert!(world.metrics().await.contains("member=\"us\""));

    // Nobody moves in any more.
    let late = json!({
        "apiVersion": TENANT_DATA_RESIDENCY.api_version(), "kind": TENANT_DATA_RESIDENCY.kind, "metadata": {"name": "late-us"},
        "spec": {"tenant": "late-us", "organization": "late", "home": {"region": "us"}, "classes": []},
    });
    let params = PatchParams::apply("somebody").force();
    let tenants = world.asked(TENANT_DATA_RESIDENCY);
    tenants.patch("late-us", &params, &Patch::Apply(&late)).await.unwrap();
    until("the tenant waits", || async {
        let late = world.get(TENANT_DATA_RESIDENCY, "late-us").await.unwrap();
        late["status"]["phase"] == "Pending"
    })
    .await;
    assert!(world.placement("us", "late-us").await.is_none());

    for tenant in ["late-us", "stride-us"] {
        world.delete(TENANT_DATA_RESIDENCY, tenant).await;
        world.is_gone(TENANT_DATA_RESIDENCY, tenant).await;
    }
    world.is_gone(FITNESS_REGION, "us").await;
    for (kind, name) in [(REGION_STACK, "us"), (INGEST_POOL, "us-telemetry")] {
        assert!(world.held(kind, name).await.is_none(), "{name} is taken out");
    }
    for tenant in ["stride-us", "stride-eu"] {
        assert!(world.placement("us", tenant).await.is_none(), "{tenant}");
    }
    assert!(data.get_opt("what-the-stack-laid-down").await.unwrap().is_some());
    // Its neighbour in the same cluster notices nothing but that an edge has ended.
    assert!(world.held(REGION_STACK, "eu").await.is_some());
    assert!(world.placement("eu", "stride-eu").await.is_some());

    // Nobody names its member any more; when somebody does again, it is connected anew.
    until("the member is forgotten", || async {
        !world.metrics().await.contains("member=\"us\"")
    })
    .await;
    world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
    until("the region is laid down again", || async {
        world.held(REGION_STACK, "us").await.is_some() && world.held(INGEST_POOL, "us-telemetry").await.is_some()
    })
    .await;
    assert!(world.metrics().await.contains("member=\"us\""));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_answer_holds_the_deletion_and_says_so() {
    let world = World::new().await;
    world.regions_are_laid_down().await;
    world.give_kubeconfig("us", &World::nowhere()).await;
    world.delete(FITNESS_REGION, "us").await;

    let message = world.held_for(FITNESS_REGION, "us", "MemberUnreachable").await;
    assert!(
        message.starts_with("cluster us of region us does not answer"),
        "{message}"
    );
    assert!(message.contains(FINALIZER), "{message}");
    assert!(world.held(REGION_STACK, "us").await.is_some());

    world.give_kubeconfig("us", &kubeconfig_of_the_member()).await;
    world.is_gone(FITNESS_REGION, "us").await;
    assert!(world.held(REGION_STACK, "us").await.is_none());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_never_reached_its_member_goes_at_once() {
    let world = World::new().await;
    world.give_kubeconfig("us", &World::nowhere()).await;
    world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
    until("its member is found not to answer", || async {
        let region = world.get(FITNESS_REGION, "us").await.unwrap();
        let conditions = region["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == "ClustersReachable" && condition["status"] == "False")
    })
    .await;
    assert!(!world.is_held(FITNESS_REGION, "us").await);
    world.delete(FITNESS_REGION, "us").await;
    world.is_gone(FITNESS_REGION, "us").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deletion_policy_that_holds_is_the_one_that_was_written_last() {
    let world = World::new().await;
    world.regions_are_laid_down().await;
    // Its operator may hold it like this for a while.
    let stacks: Api<DynamicObject> = Api::all_with(world.member.clone(), &REGION_STACK.resource());
    let finalizers = |finalizers: Value| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    let params = PatchParams::default();
    stacks
        .patch("us", &params, &finalizers(json!(["test.meridian.sh/looked-at"])))
        .await
        .unwrap();

    world.give_kubeconfig("us", &World::nowhere()).await;
    until("its member is gone", || async {
        let region = world.get(FITNESS_REGION, "us").await.unwrap();
        region["status"]["clustersReachable"] == "0/1"
    })
    .await;
    world
        .merge(FITNESS_REGION, "us", &json!({"spec": {"deletionPolicy": "Delete"}}))
        .await
        .unwrap();
    world.delete(FITNESS_REGION, "us").await;
    world.held_for(FITNESS_REGION, "us", "MemberUnreachable").await;
    world.give_kubeconfig("us", &kubeconfig_of_the_member()).await;
    until("the stack is deleted", || async {
        let stack = world.held(REGION_STACK, "us").await.unwrap();
        !stack["metadata"]["deletionTimestamp"].is_null()
    })
    .await;
    let stack = world.held(REGION_STACK, "us").await.unwrap();
    assert_eq!(stack["spec"]["deletionPolicy"], "Delete");
    assert_eq!(stack["status"]["appliedRevision"], stack["spec"]["revision"]);
    stacks.patch("us", &params, &finalizers(Value::Null)).await.unwrap();
    world.is_gone(FITNESS_REGION, "us").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_is_gone_keeps_no_finalizer_from_being_written() {
    let world = World::new().await;
    world.regions_are_laid_down().await;
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/meridian/templates/hub/webhook.yaml");
    let chart = std::fs::read_to_string(chart).unwrap();
    let expression = chart.lines().find_map(|line| line.trim().strip_prefix("expression: "));
    let configuration: ValidatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": SYSTEM},
        "webhooks": [{
            "name": "policy.meridian.sh", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 1, "clientConfig": {"url": format!("https://{}", free_address())},
            "rules": [{"apiGroups": ["meridian.sh"], "apiVersions": ["v1alpha1"], "operations": ["CREATE", "UPDATE"],
                "resources": ["fitnessregions"], "scope": "Cluster"}],
            "matchConditions": [{"name": "spec-changes", "expression": expression.expect("the chart has one")}],
        }],
    }))
    .unwrap();
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(world.hub.clone());
    configurations
        .create(&PostParams::default(), &configuration)
        .await
        .unwrap();
    // Another one each time: the API server may not ask yet.
    let paused = AtomicBool::new(true);
    until("a changed spec is refused, as nobody can review it", || async {
        let patch = json!({"spec": {"paused": paused.fetch_not(Ordering::Relaxed)}});
        world.merge(FITNESS_REGION, "us", &patch).await.is_err()
    })
    .await;
    world
        .merge(FITNESS_REGION, "us", &json!({"metadata": {"finalizers": null}}))
        .await
        .unwrap();
    until("the finalizer is back", || world.is_held(FITNESS_REGION, "us")).await;
    world.delete(FITNESS_REGION, "us").await;
    world.is_gone(FITNESS_REGION, "us").await;
    configurations.delete(SYSTEM, &DeleteParams::default()).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_goes_also_when_its_law_was_deleted_with_it() {
    let world = World::with_tenants().await;
    world.delete(JURISDICTION, "us").await;
    world.delete(FITNESS_REGION, "us").await;
    for tenant in ["stride-us", "stride-eu"] {
        world.delete(TENANT_DATA_RESIDENCY, tenant).await;
    }
    for tenant in ["stride-us", "stride-eu"] {
        world.is_gone(TENANT_DATA_RESIDENCY, tenant).await;
    }
    world.is_gone(FITNESS_REGION, "us").await;
    assert!(world.held(REGION_STACK, "us").await.is_none());
    world.end().await;
}
