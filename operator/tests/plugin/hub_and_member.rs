//! A hub and a member on real API servers, with the rights that the chart gives and no other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use meridian_kit::testing::free_address;
use meridian_operator::hub::approval::Requirement;
use meridian_operator::hub::{HubArgs, run_with};
use meridian_operator::manifest::{
    FITNESS_REGION, INGEST_POOL, JURISDICTION, Kind, LEASE, NAMESPACE, PARTY, REGION_STACK, SECRET, SERVICE_ACCOUNT,
    TENANT_DATA_RESIDENCY, TENANT_PLACEMENT,
};
use meridian_operator::plugin::reach::Reach;
use meridian_operator::plugin::{self, Output};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::bed::{
    client, client_of, fresh_region, install_custom_resources, install_custom_resources_of_a_member, kubeconfig, until,
};

static ALONE: Mutex<()> = Mutex::const_new(());

const HUB: &str = "MERIDIAN_TEST_KUBECONFIG";
pub const MEMBER: &str = "MERIDIAN_TEST_MEMBER_KUBECONFIG";

/// The rules of a role in the chart, whichever values it is rendered with.
fn rules_in_the_chart(file: &str, name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/meridian/templates")
        .join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let role = text
        .split("---")
        .find(|document| document.contains(&format!("name: {name}\n")) && document.contains("\nrules:\n"))
        .unwrap_or_else(|| panic!("no role {name} in {file}"));
    let rules: Vec<&str> = role
        .lines()
        .skip_while(|line| *line != "rules:")
        .filter(|line| !line.contains("{{"))
        .collect();
    let rules: Value = serde_yaml::from_str(&rules.join("\n")).unwrap();
    rules["rules"].clone()
}

/// The same, but nothing may be written.
fn only_to_read(mut rules: Value) -> Value {
    for rule in rules.as_array_mut().unwrap() {
        rule["verbs"] = json!(["get", "list", "watch"]);
    }
    rules
}

/// Two regions under two laws, both in one member, one tenant in each, and the hub role that looks after them.
pub struct Bed {
    /// A plan is about everything on the hub, so there is one bed at a time.
    _alone: MutexGuard<'static, ()>,
    hub: Client,
    pub member: Client,
    pub name: String,
    system: String,
    pub dir: PathBuf,
    pub stop: CancellationToken,
}

impl Bed {
    pub async fn new() -> Self {
        let alone = ALONE.lock().await;
        let (hub, member) = (client().await, client_of(&kubeconfig(MEMBER)).await);
        install_custom_resources(&hub).await;
        install_custom_resources_of_a_member(&member).await;
        let name = fresh_region();
        let dir = std::env::temp_dir().join(format!("meridian-plugin-{name}"));
        std::fs::create_dir_all(&dir).unwrap();
        let bed = Self {
            _alone: alone,
            system: format!("system-{name}"),
            hub,
            member,
            name,
            dir,
            stop: CancellationToken::new(),
        };
        for client in [&bed.hub, &bed.member] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": bed.system}});
            bed.put(client, NAMESPACE, None, namespace).await;
        }
        // The chart makes the lease, so that the hub needs no right to.
        let lease =
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "meridian-policy"}});
        bed.put(&bed.member, LEASE, Some(&bed.system), lease).await;
        bed.give_the_hub_its_members().await;
        bed
    }

    async fn put(&self, client: &Client, kind: Kind, namespace: Option<&str>, object: Value) -> DynamicObject {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let params = PatchParams::apply("somebody").force();
        let api = api(client, kind, namespace);
        api.patch(&name, &params, &Patch::Apply(&object)).await.unwrap()
    }

    /// A kubeconfig of an account with these rights, everywhere and in the operator's namespace, and no other.
    async fn credential(&self, client: &Client, variable: &str, account: &str, rules: [Value; 2]) -> Value {
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
        self.put(client, SERVICE_ACCOUNT, Some(&self.system), object).await;
        let rbac = |kind, plural, namespaced| Kind {
            group: "rbac.authorization.k8s.io",
            version: "v1",
            kind,
            plural,
            namespaced,
        };
        let [everywhere, here] = rules;
        let subjects = json!([{"kind": "ServiceAccount", "name": account, "namespace": self.system}]);
        for (role_kind, binding_kind, namespace, rules) in [
            (
                rbac("ClusterRole", "clusterroles", false),
                rbac("ClusterRoleBinding", "clusterrolebindings", false),
                None,
                everywhere,
            ),
            (
                rbac("Role", "roles", true),
                rbac("RoleBinding", "rolebindings", true),
                Some(self.system.as_str()),
                here,
            ),
        ] {
            let name = format!("{account}-{}", self.name);
            let version = "rbac.authorization.k8s.io/v1";
            let object =
                json!({"apiVersion": version, "kind": role_kind.kind, "metadata": {"name": name}, "rules": rules});
            self.put(client, role_kind, namespace, object).await;
            let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind.kind, "name": name});
            let object = json!({"apiVersion": version, "kind": binding_kind.kind, "metadata": {"name": name},
                "roleRef": role, "subjects": subjects});
            self.put(client, binding_kind, namespace, object).await;
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &self.system);
        let request: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": []}})).unwrap();
        let token = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .unwrap();
        let text = std::fs::read_to_string(kubeconfig(variable)).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["users"][0]["user"] = json!({"token": token.status.unwrap().token});
        config
    }

    async fn give_the_hub_its_members(&self) {
        let rules = ["meridian-hub-access", "meridian-hub-lease"]
            .map(|role| rules_in_the_chart("region/hub-access.yaml", role));
        let config = self.credential(&self.member, MEMBER, "meridian-hub", rules).await;
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "member"},
            "stringData": {"kubeconfig": config.to_string()}});
        self.put(&self.hub, SECRET, Some(&self.system), secret).await;
    }

    /// The plugin of somebody who may read what the hub role may read.
    pub async fn reach(&self) -> Reach {
        let rules = [
            rules_in_the_chart("hub/role.yaml", "meridian-operator-hub"),
            rules_in_the_chart("operator.yaml", "meridian-operator"),
        ];
        let config = self.credential(&self.hub, HUB, "person", rules.map(only_to_read)).await;
        let path = self.dir.join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        Reach {
            kubeconfig: Some(path),
            context: None,
            namespace: self.system.clone(),
            members: BTreeMap::new(),
        }
    }

    pub fn start_the_hub(&self) -> tokio::task::JoinHandle<()> {
        let args = HubArgs {
            namespace: self.system.clone(),
            identity: "hub".to_owned(),
            webhook_listen: free_address(),
            admin_listen: free_address(),
            approval: Requirement::NotRequired,
        };
        let (client, stop) = (self.hub.clone(), self.stop.clone());
        tokio::spawn(async move { run_with(client, args, stop).await.unwrap() })
    }

    /// The resources of this bed, with what tenant `a` lets go to `b`.
    fn resources(&self, edges: &Value) -> Vec<(Kind, Value)> {
        let n = &self.name;
        let of = |kind: Kind, name: String, spec: Value| {
            let metadata = json!({"name": name});
            (
                kind,
                json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": metadata, "spec": spec}),
            )
        };
        let law = |side: &str, mechanisms: Value| {
            let (framework, country) = if side == "a" { ("GDPR", "DE") } else { ("Other", "US") };
            of(
                JURISDICTION,
                format!("{n}{side}"),
                json!({"law": "a law", "framework": framework, "countries": [country],
                "ageOfDigitalConsent": {"default": 16}, "mechanisms": mechanisms}),
            )
        };
        let region = |side: &str, country: &str| {
            let host = format!("{n}{side}.localhost");
            of(
                FITNESS_REGION,
                format!("{n}{side}"),
                json!({"jurisdiction": format!("{n}{side}"), "operatedBy": format!("{n}-party"),
                "countriesServed": [country], "clusters": [{"name": format!("{n}{side}"), "role": "Primary", "country": country,
                    "kubeconfigSecret": {"name": "member"}}],
                "gateway": {"host": host, "publicUrl": format!("https://{host}:8443"), "peerUrl": format!("https://{host}:30444")}}),
            )
        };
        let tenant = |side: &str, classes: Value| {
            of(
                TENANT_DATA_RESIDENCY,
                format!("{n}-t{side}"),
                json!({"organization": format!("{n}-org"),
                "tenant": format!("{n}-t{side}"), "home": {"region": format!("{n}{side}")}, "classes": classes}),
            )
        };
        let offer = json!([{"to": format!("{n}b"), "mechanism": "SCC", "instrument": "SCC 2021/914 module 1",
            "classes": ["workout-summary"], "effectiveFrom": "2021-06-27T00:00:00Z"}]);
        let party = json!({"legalName": "A Company", "role": "Controller", "country": "DE"});
        let pool = json!({"region": format!("{n}a"), "partitions": 4, "scaling": {"min": 1, "max": 2}});
        vec![
            law("a", offer),
            law("b", json!([])),
            of(PARTY, format!("{n}-party"), party),
            region("a", "DE"),
            region("b", "US"),
            tenant("b", json!([])),
            tenant("a", edges.clone()),
            of(INGEST_POOL, format!("{n}-pool"), pool),
        ]
    }

    pub fn shared(&self) -> Value {
        json!([{"class": "workout-summary", "replicateTo": [{"region": format!("{}b", self.name),
            "purposes": ["cross-border-sharing"], "fields": ["sport_type", "distance_meters"], "mechanism": "SCC",
            "instrument": "SCC 2021/914 module 1", "pseudonymise": true,
            "tia": {"digest": format!("sha256:{}", "ab".repeat(32)), "reviewBy": "2035-12-31T00:00:00Z"},
            "expires": "2036-01-01T00:00:00Z"}]}])
    }

    /// The same resources in a file.
    pub fn file(&self, name: &str, edges: &Value) -> PathBuf {
        let documents: Vec<String> = self
            .resources(edges)
            .iter()
            .map(|(_, object)| object.to_string())
            .collect();
        let path = self.dir.join(name);
        std::fs::write(&path, documents.join("\n---\n")).unwrap();
        path
    }

    pub async fn apply(&self, edges: &Value) {
        for (kind, object) in self.resources(edges) {
            self.put(&self.hub, kind, None, object).await;
        }
    }

    /// Tenant `b` alone changes: it keeps workouts for so many days.
    pub async fn keep_for(&self, edges: &Value, days: u32) {
        let name = format!("{}-tb", self.name);
        let mut resources = self.resources(edges).into_iter();
        let (kind, mut object) = resources
            .find(|(_, object)| object["metadata"]["name"] == name.as_str())
            .unwrap();
        object["spec"]["retention"] = json!({"workout-summary": days});
        self.put(&self.hub, kind, None, object).await;
    }

    /// A resource of this bed on the hub.
    pub fn on_the_hub(&self, kind: Kind, suffix: &str) -> OnTheHub {
        OnTheHub {
            api: api(&self.hub, kind, None),
            name: format!("{}{suffix}", self.name),
        }
    }

    /// Region `a` says more of itself, as its operator would.
    pub async fn say_of_region_a(&self, status: Value) {
        let stacks = api(&self.member, REGION_STACK, None);
        let patch = Patch::Merge(json!({ "status": status }));
        let name = format!("{}a", self.name);
        stacks
            .patch_status(&name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    pub async fn stack(&self, side: &str) -> Option<DynamicObject> {
        let stacks = api(&self.member, REGION_STACK, None);
        stacks.get_opt(&format!("{}{side}", self.name)).await.unwrap()
    }

    /// What a region's operator would say: it applies what is written. False while a region has no stack to speak of.
    pub async fn the_regions_answer(&self) -> bool {
        self.answer(false).await
    }

    /// `purged`: they also acknowledge every edge that they are asked about.
    async fn answer(&self, purged: bool) -> bool {
        let mut both = true;
        for side in ["a", "b"] {
            let Some(stack) = self.stack(side).await else {
                both = false;
                continue;
            };
            let region = format!("{}{side}", self.name);
            let namespace =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("meridian-{region}")}});
            self.put(&self.member, NAMESPACE, None, namespace).await;
            let revision = &stack.data["spec"]["revision"];
            let mut status = json!({"status": {"appliedRevision": revision, "namespaceReady": true,
                "caBundle": format!("ca of {region}"), "jwks": {"keys": []}}});
            if purged {
                let closing = stack.data["spec"]["policy"]["closing"].as_array().into_iter().flatten();
                let acks = closing.map(|edge| {
                    let role = if edge["from"] == *region { "exporter" } else { "importer" };
                    json!({"edge": edge["id"], "role": role, "revision": revision, "purged": 0, "sinks": ["replicator"]})
                });
                status["status"]["acks"] = acks.collect();
            }
            let stacks = api(&self.member, REGION_STACK, None);
            match stacks
                .patch_status(&region, &PatchParams::default(), &Patch::Merge(&status))
                .await
            {
                Ok(_) => {}
                // The hub has deleted it since it was read.
                Err(kube::Error::Api(refusal)) if refusal.code == 404 => both = false,
                Err(error) => panic!("status of {region}: {error}"),
            }
        }
        both
    }

    /// Versions of everything of this bed that a plan is about, on the hub and in the member.
    pub async fn versions(&self) -> Vec<String> {
        let hub =
            [JURISDICTION, PARTY, FITNESS_REGION, TENANT_DATA_RESIDENCY, INGEST_POOL].map(|kind| (&self.hub, kind));
        let member = [REGION_STACK, TENANT_PLACEMENT, INGEST_POOL].map(|kind| (&self.member, kind));
        let mut versions = Vec::new();
        for (client, kind) in hub.into_iter().chain(member) {
            let listed = api(client, kind, None).list(&ListParams::default()).await.unwrap();
            let ours = listed.iter().filter(|object| object.name_any().starts_with(&self.name));
            versions.extend(
                ours.map(|object| format!("{} {} {:?}", kind.kind, object.name_any(), object.metadata.generation)),
            );
        }
        versions
    }

    /// What the plan says of a file, as the machine reads it.
    pub async fn plan(&self, reach: &Reach, file: &Path) -> (u8, Value) {
        let answer = plugin::plan(reach, &[file.to_owned()], Output::Json).await.unwrap();
        (answer.code, serde_json::from_str(&answer.text).unwrap())
    }

    /// Until the hub and the regions have done all that they would do.
    pub async fn settle(&self, reach: &Reach, file: &Path) {
        until("the hub has done what was planned", || async {
            let answered = self.the_regions_answer().await;
            let (code, report) = self.plan(reach, file).await;
            answered && code == 0 && self.copies(&report).is_empty()
        })
        .await;
    }

    /// Leaves a hub behind that knows nothing of this bed. The hub role must run: it holds what has traces in members.
    pub async fn clear(&self) {
        // Tenants before the regions that they are at home in, and those before their laws.
        for (kind, object) in self.resources(&json!([])).into_iter().rev() {
            let name = object["metadata"]["name"].as_str().unwrap();
            let resources = api(&self.hub, kind, None);
            resources.delete(name, &DeleteParams::default()).await.unwrap();
            until("the resource is gone", || async {
                self.answer(true).await;
                resources.get_opt(name).await.unwrap().is_none()
            })
            .await;
        }
    }

    /// The copies in the members of this bed's regions, as sentences.
    pub fn copies(&self, report: &Value) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let clusters = report["clusters"].as_array().unwrap().iter();
        let ours = clusters.filter(|cluster| text(&cluster["region"]).starts_with(&self.name));
        let copies = ours.flat_map(|cluster| cluster["copies"].as_array().unwrap());
        copies
            .map(|copy| {
                format!(
                    "{} {} {}",
                    text(&copy["action"]),
                    text(&copy["kind"]),
                    text(&copy["name"])
                )
                .replace(&self.name, "r")
            })
            .collect()
    }
}

/// One resource on the hub.
pub struct OnTheHub {
    api: Api<DynamicObject>,
    name: String,
}

impl OnTheHub {
    pub async fn get(&self) -> DynamicObject {
        self.api.get(&self.name).await.unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn api(client: &Client, kind: Kind, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind.resource()),
        None => Api::all_with(client.clone(), &kind.resource()),
    }
}
