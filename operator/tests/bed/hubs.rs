//! Hub roles, and a member in which two regions obey whoever writes their stacks.

use super::{client, client_of, install_custom_resources, install_custom_resources_of_a_member, kubeconfig, until};
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use meridian_kit::testing::free_address;
use meridian_operator::RunError;
use meridian_operator::hub::approval::Requirement;
use meridian_operator::hub::{HubArgs, run_with};
use meridian_operator::manifest::{
    FITNESS_REGION, INGEST_POOL, JURISDICTION, Kind, PARTY, POLICY_APPROVAL, REGION_STACK, TENANT_DATA_RESIDENCY,
    TENANT_PLACEMENT,
};
use meridian_operator::policy_form;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const SYSTEM: &str = "hub-rebuilt";
const ON_A_HUB: &[Kind] = &[
    TENANT_DATA_RESIDENCY,
    INGEST_POOL,
    FITNESS_REGION,
    PARTY,
    JURISDICTION,
    POLICY_APPROVAL,
];

/// The hub's resources are one world: one test at a time.
static TURN: Mutex<()> = Mutex::const_new(());

pub fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// What a file of `regions/` holds.
pub fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regions").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text);
    documents
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

async fn namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let _ = api.create(&PostParams::default(), &namespace).await;
}

/// Whatever holds them.
async fn remove_all(client: &Client, kinds: &[Kind]) {
    for kind in kinds {
        let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
        for object in all.list(&ListParams::default()).await.unwrap() {
            let api = match object.namespace() {
                Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &kind.resource()),
                None => all.clone(),
            };
            let name = object.name_any();
            let _ = api.delete(&name, &DeleteParams::default()).await;
            let bare = json!({"metadata": {"finalizers": null}});
            let _ = api.patch(&name, &PatchParams::default(), &Patch::Merge(&bare)).await;
        }
        until("they are gone", || async {
            all.list(&ListParams::default()).await.unwrap().items.is_empty()
        })
        .await;
    }
}

/// A hub role and its own control plane.
pub struct Hub {
    pub client: Client,
    pub approval: Requirement,
    running: Option<(CancellationToken, JoinHandle<Result<(), RunError>>)>,
}

impl Hub {
    /// With nothing that people write, and the members' kubeconfigs.
    pub async fn new(client: Client) -> Self {
        install_custom_resources(&client).await;
        namespace(&client, SYSTEM).await;
        let mut hub = Self {
            client,
            approval: Requirement::NotRequired,
            running: None,
        };
        hub.wipe().await;
        hub.start().await;
        hub
    }

    /// As it is when its etcd is gone: what is made anew has another UID.
    async fn wipe(&self) {
        remove_all(&self.client, ON_A_HUB).await;
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), SYSTEM);
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), SYSTEM);
        let _ = leases.delete("meridian-hub", &DeleteParams::default()).await;
        for region in ["eu", "us"] {
            let _ = secrets
                .delete(&format!("member-{region}"), &DeleteParams::default())
                .await;
        }
    }

    pub async fn start(&mut self) {
        let stop = CancellationToken::new();
        let args = HubArgs {
            namespace: SYSTEM.to_owned(),
            identity: "hub-0".to_owned(),
            webhook_listen: free_address(),
            admin_listen: free_address(),
            approval: self.approval,
        };
        let running = tokio::spawn(run_with(self.client.clone(), args, stop.clone()));
        self.running = Some((stop, running));
    }

    pub async fn stop(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    /// Kubeconfigs, jurisdictions and parties: what comes before regions.
    pub async fn found(&self) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), SYSTEM);
        let text = std::fs::read_to_string(kubeconfig("MERIDIAN_TEST_MEMBER_KUBECONFIG")).unwrap();
        for region in ["eu", "us"] {
            let name = format!("member-{region}");
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    ..ObjectMeta::default()
                },
                data: Some([("kubeconfig".to_owned(), ByteString(text.clone().into()))].into()),
                ..Secret::default()
            };
            let params = PatchParams::apply("somebody").force();
            secrets.patch(&name, &params, &Patch::Apply(&secret)).await.unwrap();
        }
        for (kind, file) in [
            (JURISDICTION, "jurisdictions/eu.yaml"),
            (JURISDICTION, "jurisdictions/us.yaml"),
            (JURISDICTION, "jurisdictions/uk.yaml"),
            (PARTY, "local/10-parties.yaml"),
        ] {
            self.apply_file(kind, file).await;
        }
    }

    pub async fn apply_file(&self, kind: Kind, file: &str) {
        for document in documents(file) {
            self.apply(kind, &document).await;
        }
    }

    pub async fn apply(&self, kind: Kind, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let params = PatchParams::apply("somebody").force();
        let api = self.api(kind);
        api.patch(name, &params, &Patch::Apply(object)).await.unwrap();
    }

    pub async fn patch(&self, kind: Kind, name: &str, patch: &Value) {
        let params = PatchParams::default();
        self.api(kind).patch(name, &params, &Patch::Merge(patch)).await.unwrap();
    }

    pub async fn delete(&self, kind: Kind, name: &str) {
        self.api(kind).delete(name, &DeleteParams::default()).await.unwrap();
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &kind.resource())
    }

    pub async fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        let found = self.api(kind).get_opt(name).await.unwrap()?;
        Some(serde_json::to_value(found).unwrap())
    }

    /// What a region says that is not ready for this reason.
    pub async fn told(&self, region: &str, reason: &str) -> String {
        let ready = || async {
            let object = self.get(FITNESS_REGION, region).await.unwrap_or_default();
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
            ready.unwrap_or_default()
        };
        until(&format!("{region} says {reason}"), || async {
            ready().await["reason"] == reason
        })
        .await;
        ready().await["message"].as_str().unwrap_or_default().to_owned()
    }

    /// Leaves its control plane as one that was never a hub.
    pub async fn leave(mut self) {
        self.stop().await;
        self.wipe().await;
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for kind in ON_A_HUB.iter().filter(|kind| **kind != INGEST_POOL) {
            let name = format!("{}.{}", kind.plural, kind.group);
            crds.delete(&name, &DeleteParams::default()).await.unwrap();
            until("it is no hub", || async {
                crds.get_opt(&name).await.unwrap().is_none()
            })
            .await;
        }
    }
}

/// A hub, and a member with the demo's regions, which make their namespaces and keys and apply what is written.
pub struct World {
    pub hub: Hub,
    pub member: Client,
    regions: JoinHandle<()>,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// The demo, with an edge from one region to the other, a lease, and nothing left to do.
    pub async fn settled() -> Self {
        let turn = TURN.lock().await;
        let member = client_of(&kubeconfig("MERIDIAN_TEST_MEMBER_KUBECONFIG")).await;
        install_custom_resources_of_a_member(&member).await;
        namespace(&member, SYSTEM).await;
        let world = Self {
            hub: Hub::new(client().await).await,
            regions: tokio::spawn(obey(member.clone())),
            member,
            _turn: turn,
        };
        world.clear_the_member().await;
        world.hub.found().await;
        world.hub.apply_file(FITNESS_REGION, "local/30-regions.yaml").await;
        world
            .hub
            .apply_file(TENANT_DATA_RESIDENCY, "local/40-tenants.yaml")
            .await;
        until("both regions have their edge and know each other", || async {
            let mut known = world.placement("us", "stride-eu").await.is_some();
            for (region, way) in [("eu", "exports"), ("us", "imports")] {
                let stack = world.stack(region).await;
                let policy = &stack["spec"]["policy"];
                known &= count(&policy[way]) == 1 && count(&policy["peers"][0]["tenants"]) == 1;
                known &= stack["spec"]["revision"] == stack["status"]["appliedRevision"];
            }
            known && !world.renewed().await.is_null()
        })
        .await;
        world
    }

    async fn clear_the_member(&self) {
        remove_all(&self.member, &[REGION_STACK, TENANT_PLACEMENT, INGEST_POOL]).await;
        let _ = self.leases().delete("meridian-policy", &DeleteParams::default()).await;
    }

    pub async fn lose_the_hub(&mut self) {
        self.hub.stop().await;
        self.hub.wipe().await;
    }

    pub async fn rebuild_without_tenants(&mut self) {
        self.hub.start().await;
        self.hub.found().await;
        self.hub.apply_file(FITNESS_REGION, "local/30-regions.yaml").await;
    }

    /// As if the tenant had moved into its home: its epoch there is higher than any hub would give.
    pub async fn move_in(&self, tenant: &str, epoch: u64) {
        let placements: Api<DynamicObject> =
            Api::namespaced_with(self.member.clone(), "meridian-eu", &TENANT_PLACEMENT.resource());
        let patch = Patch::Merge(json!({"spec": {"epoch": epoch}}));
        placements.patch(tenant, &PatchParams::default(), &patch).await.unwrap();
        until("the epoch is adopted", || async {
            let (eu, us) = (self.stack("eu").await, self.stack("us").await);
            let away = self.placement("us", tenant).await.unwrap();
            let applied = |stack: &Value| stack["spec"]["revision"] == stack["status"]["appliedRevision"];
            eu["spec"]["policy"]["homes"][0]["epoch"] == epoch
                && us["spec"]["policy"]["imports"][0]["epoch"] == epoch
                && away["spec"]["epoch"] == epoch
                && applied(&eu)
                && applied(&us)
        })
        .await;
    }

    /// Says by annotation that a region is to forget a tenant.
    pub async fn release(&self, region: &str, tenant: &str) {
        let annotations = json!({"metadata": {"annotations": {"meridian.sh/forget-tenants": tenant}}});
        self.hub.patch(FITNESS_REGION, region, &annotations).await;
    }

    /// As if another hub had written there just now, and died.
    pub async fn claim_for(&self, hub: &str) {
        let annotations = json!({"meridian.sh/hub": hub, "meridian.sh/hub-seen": "just now"});
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        let params = PatchParams::default();
        self.leases().patch("meridian-policy", &params, &patch).await.unwrap();
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.member.clone(), SYSTEM)
    }

    /// Until the hub has given signs of life, for both regions and in two rounds: by then it would have renewed the lease,
    /// too, which it does as often.
    pub async fn signs_of_life(&self) {
        let sign = || async {
            let lease = self.leases().get("meridian-policy").await.unwrap();
            lease.annotations().get("meridian.sh/hub-seen").cloned()
        };
        for _ in 0..4 {
            let before = sign().await;
            until("the hub gives a sign of life", || async { sign().await != before }).await;
        }
    }

    /// When the policy lease was renewed last.
    pub async fn renewed(&self) -> Value {
        let lease = self.leases().get_opt("meridian-policy").await.unwrap();
        serde_json::to_value(lease).unwrap()["spec"]["renewTime"].clone()
    }

    pub async fn stack(&self, region: &str) -> Value {
        let mut stack = self.member_object(REGION_STACK, region).await.unwrap_or_default();
        policy_form::open(&mut stack["spec"]["policy"]).unwrap();
        stack
    }

    pub async fn member_object(&self, kind: Kind, name: &str) -> Option<Value> {
        let api: Api<DynamicObject> = Api::all_with(self.member.clone(), &kind.resource());
        Some(serde_json::to_value(api.get_opt(name).await.unwrap()?).unwrap())
    }

    pub async fn placement(&self, region: &str, tenant: &str) -> Option<Value> {
        let namespace = format!("meridian-{region}");
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.member.clone(), &namespace, &TENANT_PLACEMENT.resource());
        Some(serde_json::to_value(api.get_opt(tenant).await.unwrap()?).unwrap())
    }

    /// From here on the test is the regions' operators; their namespaces are handed over to those.
    pub async fn hand_over_the_regions(&self) {
        self.regions.abort();
        let namespaces: Api<Namespace> = Api::all(self.member.clone());
        let adopted = Patch::Merge(json!({"metadata": {"annotations": {"meridian.sh/adopt": "true"}}}));
        for name in ["meridian-eu", "meridian-us"] {
            namespaces.patch(name, &PatchParams::default(), &adopted).await.unwrap();
        }
    }

    pub async fn end(mut self) {
        self.hub.stop().await;
        self.hub.wipe().await;
        self.clear_the_member().await;
        self.regions.abort();
    }
}

/// In the place of the regions' own operators.
async fn obey(member: Client) {
    let stacks: Api<DynamicObject> = Api::all_with(member.clone(), &REGION_STACK.resource());
    loop {
        // The API server's cache will do: this looks again.
        for stack in stacks.list(&ListParams::default().match_any()).await.unwrap() {
            let (name, revision) = (stack.name_any(), &stack.data["spec"]["revision"]);
            if stack.data["status"]["appliedRevision"] == *revision {
                continue;
            }
            namespace(&member, &format!("meridian-{name}")).await;
            let status = json!({"status": {
                "namespaceReady": true, "appliedRevision": revision, "caBundle": format!("the CA of {name}"), "jwks": {"keys": []},
                "policyForms": ["packed"],
            }});
            // It may be gone meanwhile.
            let _ = stacks
                .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
                .await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
