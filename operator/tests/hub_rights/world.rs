//! A hub and its member as the chart makes them: accounts, roles, bindings; and the demo's regions, both in one member.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::FutureExt;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use meridian_kit::testing::free_address;
use meridian_operator::RunError;
use meridian_operator::hub::approval::Requirement;
use meridian_operator::hub::{HubArgs, run_with};
use meridian_operator::manifest::{
    FITNESS_REGION, INGEST_POOL, JURISDICTION, Kind, PARTY, REGION_STACK, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bed::{client_of, install_custom_resources, install_custom_resources_of_a_member, kubeconfig, until};
use crate::rendered::{self, SYSTEM};

pub const HUB: &str = "MERIDIAN_TEST_KUBECONFIG";
pub const MEMBER: &str = "MERIDIAN_TEST_MEMBER_KUBECONFIG";
/// What the hub is in a member.
pub const HUB_ACCOUNT: &str = "meridian-hub";
/// What an operator of either role is in its own cluster.
pub const OPERATOR_ACCOUNT: &str = "meridian-operator";

const RBAC: &[&str] = &[
    "ServiceAccount",
    "Lease",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
];
const ADMISSION: &[&str] = &["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];

/// The two API servers are one world: one test at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// The API servers, with what the chart installs for accounts and rights.
pub struct Clusters {
    pub hub: Client,
    pub member: Client,
    _turn: MutexGuard<'static, ()>,
}

impl Clusters {
    pub async fn new() -> Self {
        let turn = TURN.lock().await;
        let (hub, member) = (client_of(&kubeconfig(HUB)).await, client_of(&kubeconfig(MEMBER)).await);
        install_custom_resources(&hub).await;
        install_custom_resources_of_a_member(&member).await;
        for (client, role) in [(&hub, "hub"), (&member, "region")] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}});
            rendered::apply(client, &namespace).await;
            rendered::install(client, role, RBAC).await;
        }
        Self {
            hub,
            member,
            _turn: turn,
        }
    }

    /// Runs this while the member's admission policy is in force, and takes the policy away however it ends: what other
    /// tests write there is not the hub's.
    pub async fn under_admission(&self, body: impl Future<Output = ()>) {
        rendered::install(&self.member, "region", ADMISSION).await;
        let refused = || async { self.placement_may_be_made(&self.member).await.is_err() };
        until("the admission policy is in force", refused).await;
        let ended = AssertUnwindSafe(body).catch_unwind().await;
        for object in rendered::documents("region") {
            if ADMISSION.contains(&object["kind"].as_str().unwrap()) {
                let name = object["metadata"]["name"].as_str().unwrap();
                let _ = rendered::api_of(&self.member, &object)
                    .delete(name, &DeleteParams::default())
                    .await;
            }
        }
        let allowed = || async { self.placement_may_be_made(&self.member).await.is_ok() };
        until("the admission policy is gone", allowed).await;
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    }

    async fn placement_may_be_made(&self, client: &Client) -> Result<(), kube::Error> {
        let params = PatchParams {
            dry_run: true,
            ..PatchParams::apply("probe").force()
        };
        let object = placement("default", "probe");
        let api = rendered::api_of(client, &object);
        api.patch("probe", &params, &Patch::Apply(&object)).await.map(drop)
    }
}

/// A placement of this tenant, in form.
pub fn placement(namespace: &str, tenant: &str) -> Value {
    json!({
        "apiVersion": TENANT_PLACEMENT.api_version(), "kind": TENANT_PLACEMENT.kind,
        "metadata": {"name": tenant, "namespace": namespace},
        "spec": {"tenant": tenant, "organization": "stride", "home": "eu", "epoch": 1, "revision": 1, "edges": []},
    })
}

/// A token of an account; it ends with the Secret, if it is bound to one.
pub async fn token(client: &Client, account: &str, bound_to: Option<&Secret>) -> String {
    let mut request = json!({"spec": {"audiences": []}});
    if let Some(secret) = bound_to {
        request["spec"]["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Secret",
            "name": secret.name_any(), "uid": secret.uid()});
    }
    let request: TokenRequest = serde_json::from_value(request).unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM);
    let made = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .unwrap();
    made.status.unwrap().token.unwrap()
}

/// The kubeconfig of a test's API server with this token in the place of the administrator's.
pub fn kubeconfig_with(variable: &str, token: &str) -> Value {
    let text = std::fs::read_to_string(kubeconfig(variable)).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({"token": token});
    config
}

pub async fn client_with(config: &Value) -> Client {
    let config = Kubeconfig::from_yaml(&config.to_string()).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// Clusters with a hub role that runs as the chart's account, and regions that obey it.
pub struct World {
    pub clusters: Clusters,
    /// Where its webhook listens.
    #[allow(dead_code, reason = "not every test has the API server ask it")]
    pub webhook: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
    regions: JoinHandle<()>,
}

impl World {
    /// With laws and parties, and a kubeconfig for each member, but no region.
    pub async fn new() -> Self {
        let clusters = Clusters::new().await;
        let stop = CancellationToken::new();
        let webhook = free_address();
        let args = HubArgs {
            namespace: SYSTEM.to_owned(),
            identity: "hub-0".to_owned(),
            webhook_listen: webhook,
            admin_listen: free_address(),
            approval: Requirement::NotRequired,
        };
        let own = kubeconfig_with(HUB, &token(&clusters.hub, OPERATOR_ACCOUNT, None).await);
        let running = tokio::spawn(run_with(client_with(&own).await, args, stop.clone()));
        let regions = tokio::spawn(regions(clusters.member.clone()));
        let world = Self {
            clusters,
            webhook,
            stop,
            running,
            regions,
        };
        for region in ["eu", "us"] {
            world.give(region, &world.member_kubeconfig().await).await;
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

    /// What the chart's notes tell people to give to the hub.
    pub async fn member_kubeconfig(&self) -> Value {
        kubeconfig_with(MEMBER, &token(&self.clusters.member, HUB_ACCOUNT, None).await)
    }

    pub async fn apply(&self, kind: Kind, file: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regions").join(file);
        let text = std::fs::read_to_string(path).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).unwrap();
            let name = object["metadata"]["name"].as_str().unwrap();
            let params = PatchParams::apply("somebody").force();
            let asked = self.asked(kind);
            asked.patch(name, &params, &Patch::Apply(&object)).await.unwrap();
        }
    }

    /// Gives the hub this kubeconfig for a region's member.
    pub async fn give(&self, region: &str, config: &Value) {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"kubeconfig": config.to_string()},
            "metadata": {"name": format!("member-{region}"), "namespace": SYSTEM}});
        rendered::apply(&self.clusters.hub, &secret).await;
    }

    pub fn asked(&self, kind: Kind) -> Api<DynamicObject> {
        Api::all_with(self.clusters.hub.clone(), &kind.resource())
    }

    pub fn held(&self, kind: Kind) -> Api<DynamicObject> {
        Api::all_with(self.clusters.member.clone(), &kind.resource())
    }

    pub async fn is_laid_down(&self, region: &str) {
        until(&format!("{region} is laid down"), || async {
            let stack = self.held(REGION_STACK).get_opt(region).await.unwrap();
            stack.is_some_and(|stack| stack.metadata.deletion_timestamp.is_none())
        })
        .await;
    }

    pub async fn condition(&self, region: &str, kind: &str) -> Option<Value> {
        let object = self.asked(FITNESS_REGION).get_opt(region).await.unwrap()?;
        let conditions = object.data["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|condition| condition["type"] == kind)
    }

    /// Until this condition says so; gives how long that took.
    pub async fn says(&self, region: &str, kind: &str, status: &str) -> Duration {
        let began = Instant::now();
        until(&format!("{kind} of {region} is {status}"), || async {
            let condition = self.condition(region, kind).await;
            condition.is_some_and(|condition| condition["status"] == status)
        })
        .await;
        began.elapsed()
    }

    /// Until the region is refused for this reason with these words; gives the whole message.
    pub async fn is_refused(&self, region: &str, reason: &str, words: &str) -> String {
        let message = |condition: Option<Value>| {
            let condition = condition.filter(|c| c["status"] == "True" && c["reason"] == reason)?;
            let message = condition["message"].as_str()?.to_owned();
            message.contains(words).then_some(message)
        };
        until(&format!("{region} is refused for {reason}, {words}"), || async {
            message(self.condition(region, "Stalled").await).is_some()
        })
        .await;
        message(self.condition(region, "Stalled").await).expect("it was refused a moment ago")
    }

    /// Deletes everything, through the hub, and ends it.
    pub async fn end(self) {
        for kind in [TENANT_DATA_RESIDENCY, INGEST_POOL, FITNESS_REGION] {
            let asked = self.asked(kind);
            for object in asked.list(&ListParams::default()).await.unwrap() {
                let name = object.name_any();
                match asked.delete(&name, &DeleteParams::default()).await {
                    // The test deleted it, and it has gone since it was listed.
                    Err(kube::Error::Api(status)) if status.is_not_found() => {}
                    deleted => drop(deleted.unwrap()),
                }
                until(&format!("{} {name} is gone", kind.kind), || async {
                    asked.get_opt(&name).await.unwrap().is_none()
                })
                .await;
            }
        }
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.regions.abort();
    }
}

/// In the place of the regions' own operators: namespaces, revisions applied, and cuts acknowledged.
async fn regions(member: Client) {
    let stacks: Api<DynamicObject> = Api::all_with(member.clone(), &REGION_STACK.resource());
    loop {
        // The API server's cache will do: this looks again.
        for stack in stacks.list(&ListParams::default().match_any()).await.unwrap() {
            let spec = &stack.data["spec"];
            let revision = &spec["revision"];
            if *revision == stack.data["status"]["appliedRevision"] {
                continue;
            }
            let closing = spec["policy"]["closing"].as_array().into_iter().flatten();
            let acks: Vec<Value> = closing
                .map(|edge| {
                    let role = if edge["from"] == spec["region"] { "exporter" } else { "importer" };
                    json!({"edge": edge["id"], "role": role, "revision": revision, "purged": 0, "sinks": ["replicator"]})
                })
                .collect();
            let region = stack.name_any();
            let namespace =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("meridian-{region}")}});
            rendered::apply(&member, &namespace).await;
            let status = json!({"status": {"namespaceReady": true, "appliedRevision": revision, "acks": acks}});
            // It may be gone meanwhile.
            let _ = stacks
                .patch_status(&region, &PatchParams::default(), &Patch::Merge(&status))
                .await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
