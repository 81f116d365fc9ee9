//! A hub and two member clusters with three regions, and the people who write resources.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::FutureExt as _;
use meridian_operator::hub::approval::Requirement;
use meridian_operator::hub::members::Connector;
use meridian_operator::hub::{HubArgs, run_among};
use meridian_operator::manifest::{FITNESS_REGION, JURISDICTION, Kind, PARTY, TENANT_DATA_RESIDENCY};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::Server;
use crate::api::request::Ask;
use crate::faults::Faults;
use crate::laws::{Laws, cluster};
use crate::planned::resource;
use crate::process::{self, Process};
use crate::regions;

pub const SYSTEM: &str = "meridian-system";
pub const REGIONS: &str = "meridian.sh/fitnessregions";
pub const TENANTS: &str = "meridian.sh/tenantdataresidencies";
pub const WEBHOOKS: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";
pub const WEBHOOK_SECRET: &str = "meridian-webhook-tls";
pub const STACKS: &str = "meridian.sh/regionstacks";

pub fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// What a file of `regions/` holds.
fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regions").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text);
    documents
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// By resource and name: what people keep in their repository.
type Manifests = BTreeMap<(String, String), Value>;

pub struct World {
    pub faults: Arc<Faults>,
    pub laws: Arc<Laws>,
    pub hub: Arc<Server>,
    pub members: BTreeMap<&'static str, Arc<Server>>,
    pub manifests: Mutex<Manifests>,
    pub people: Process,
    /// The CA that a rotation was asked to replace.
    pub replaced: Mutex<Option<String>>,
    /// Names of the incidents that there must be.
    pub incidents: Mutex<BTreeSet<String>>,
    lives: Arc<Mutex<BTreeMap<&'static str, Process>>>,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl World {
    /// With laws, parties and kubeconfigs, and nothing that runs.
    pub fn new(seed: u64) -> Arc<Self> {
        let (faults, laws) = (Arc::new(Faults::new(seed)), Arc::new(Laws::default()));
        let server = |name| Server::new(name, faults.clone(), laws.clone());
        let world = Arc::new(Self {
            hub: server("hub"),
            members: ["eu", "us"].map(|name| (name, server(name))).into(),
            faults,
            laws,
            manifests: Mutex::default(),
            people: Process::new("people"),
            replaced: Mutex::default(),
            incidents: Mutex::default(),
            lives: Arc::default(),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        for (name, member) in &world.members {
            world.found(member);
            let node = json!({"metadata": {"name": format!("node-of-{name}"), "labels": {}}});
            member.perform(&world.people, &Ask::create("/nodes", "", node)).unwrap();
            world.spawn(regions::obey(member.clone()));
        }
        for (kind, file) in [
            (JURISDICTION, "jurisdictions/eu.yaml"),
            (JURISDICTION, "jurisdictions/us.yaml"),
            (PARTY, "local/10-parties.yaml"),
        ] {
            documents(file)
                .into_iter()
                .for_each(|document| world.keep(kind, document));
        }
        world.found(&world.hub);
        world.install_webhook();
        world.give_everything();
        world
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().spawn(task);
    }

    fn found(&self, server: &Server) {
        let namespace = json!({"metadata": {"name": SYSTEM}});
        server
            .perform(&self.people, &Ask::create("/namespaces", "", namespace))
            .unwrap();
    }

    /// What the chart installs of the webhook: the CA is the hub's to write.
    fn install_webhook(&self) {
        let configuration = json!({"metadata": {"name": "meridian"}, "webhooks": [
            {"name": "policy.meridian.sh", "clientConfig": {"service": {"name": "meridian-webhook", "namespace": SYSTEM}}},
        ]});
        self.hub
            .perform(&self.people, &Ask::create(WEBHOOKS, "", configuration))
            .unwrap();
    }

    /// Asks for the webhook's CA to be replaced, with steps of a few seconds.
    pub fn rotate(&self) {
        let asked =
            json!({"metadata": {"annotations": {"meridian.sh/rotate": "now", "meridian.sh/rotation-pause": "4"}}});
        let secret = self.hub.store().get("/secrets", SYSTEM, WEBHOOK_SECRET);
        if let Some(secret) = secret {
            *self.replaced.lock().unwrap() = Some(authorities(&secret)[0].clone());
            let _ = self
                .hub
                .perform(&self.people, &Ask::merge("/secrets", SYSTEM, WEBHOOK_SECRET, asked));
        }
    }

    /// Commits a manifest; it is applied by itself.
    fn keep(&self, kind: Kind, manifest: Value) {
        let name = manifest["metadata"]["name"].as_str().unwrap().to_owned();
        self.manifests.lock().unwrap().insert((resource(kind), name), manifest);
    }

    /// Commits and applies it.
    pub fn apply(&self, kind: Kind, manifest: Value) {
        let name = manifest["metadata"]["name"].as_str().unwrap().to_owned();
        self.keep(kind, manifest.clone());
        let ask = Ask::apply(&resource(kind), "", &name, manifest);
        self.hub.perform(&self.people, &ask).unwrap();
    }

    /// Kubeconfigs, and everything that is in the repository.
    pub fn give_everything(&self) {
        for name in self.members.keys() {
            self.give_kubeconfig(name, 1);
        }
        for ((resource, name), manifest) in self.manifests.lock().unwrap().clone() {
            self.hub
                .perform(&self.people, &Ask::apply(&resource, "", &name, manifest))
                .unwrap();
        }
    }

    pub fn give_kubeconfig(&self, member: &str, serial: u64) {
        let name = format!("member-{member}");
        let kubeconfig = BASE64.encode(format!("{member} {serial}"));
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": SYSTEM},
            "data": {"kubeconfig": kubeconfig}});
        self.hub
            .perform(&self.people, &Ask::apply("/secrets", SYSTEM, &name, secret))
            .unwrap();
    }

    pub fn take_kubeconfig(&self, member: &str) {
        let _ = self.hub.perform(
            &self.people,
            &Ask::delete("/secrets", SYSTEM, &format!("member-{member}")),
        );
    }

    pub fn delete(&self, resource: &str, name: &str) {
        self.manifests
            .lock()
            .unwrap()
            .remove(&(resource.to_owned(), name.to_owned()));
        let _ = self.hub.perform(&self.people, &Ask::delete(resource, "", name));
    }

    /// Whether it is in the repository.
    pub fn has(&self, resource: &str, name: &str) -> bool {
        self.manifests
            .lock()
            .unwrap()
            .contains_key(&(resource.to_owned(), name.to_owned()))
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<Arc<Value>> {
        self.hub.store().get(resource, "", name)
    }

    pub fn stack(&self, region: &str) -> Option<Arc<Value>> {
        self.members[cluster(region)].store().get(STACKS, "", region)
    }

    /// Starts a replica of the hub, which is kept alive.
    pub fn start_hub(self: &Arc<Self>, role: &'static str) {
        let (world, lives, laws) = (self.clone(), self.lives.clone(), self.laws.clone());
        let run = move |process: Process, stop: CancellationToken| {
            let (client, members, of) = (world.hub.client(&process), world.members.clone(), process);
            let connector: Connector = Arc::new(move |_, kubeconfig| {
                let member = kubeconfig.split(' ').next().unwrap_or_default();
                let client = members[member].client(&of);
                async move { Ok(client) }.boxed()
            });
            let args = HubArgs {
                namespace: SYSTEM.to_owned(),
                identity: role.to_owned(),
                webhook_listen: anywhere(),
                admin_listen: anywhere(),
                approval: Requirement::NotRequired,
            };
            async move {
                run_among(client, connector, args, stop)
                    .await
                    .map_err(|error| error.to_string())
            }
        };
        let began = move |process: &Process| {
            lives.lock().unwrap().insert(role, process.clone());
        };
        let ended = move |cause: &str| {
            // Losing the lease is how a leader goes that cannot renew it.
            if !cause.contains("lease") {
                laws.say(format!("{role} ended by itself: {cause}"));
            }
        };
        self.spawn(process::keep(role, self.stop.clone(), began, ended, run));
    }

    pub fn hub_runs(&self) -> bool {
        !self.lives.lock().unwrap().is_empty()
    }

    pub fn kill(&self, role: &str) {
        if let Some(process) = self.lives.lock().unwrap().get(role) {
            process.kill();
        }
    }

    /// The hub's cluster is gone for a while, with its roles and its store; what is in the repository is applied again, and
    /// so is what was being deleted: nobody remembers that.
    pub async fn lose_the_hub(&self) {
        self.hub.reach(false);
        for resource in [TENANTS, REGIONS] {
            for (key, object) in self.hub.store().all(resource) {
                let mut manifest =
                    json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "spec": object["spec"]});
                manifest["metadata"] = json!({"name": key.name});
                self.manifests
                    .lock()
                    .unwrap()
                    .insert((key.resource, key.name), manifest);
            }
        }
        let roles: Vec<Process> = self.lives.lock().unwrap().values().cloned().collect();
        roles.iter().for_each(Process::kill);
        sleep(Duration::from_secs(25)).await;
        self.hub.store().lose_everything();
        self.laws.lost("hub");
        *self.replaced.lock().unwrap() = None;
        self.found(&self.hub);
        self.install_webhook();
        self.hub.tell();
        self.hub.reach(true);
        // Regions come before tenants, and others may take their time.
        sleep(Duration::from_millis(self.faults.draw(|rng| rng.u64(..20_000)))).await;
        self.give_everything();
    }

    /// Everything that people have is there, whatever became of it.
    pub fn mend(&self) {
        self.faults.set(0);
        self.faults.cut_off(None);
        self.hub.reach(true);
        self.members.values().for_each(|member| member.reach(true));
        for member in self.members.keys() {
            if self
                .hub
                .store()
                .get("/secrets", SYSTEM, &format!("member-{member}"))
                .is_none()
            {
                self.give_kubeconfig(member, 1);
            }
        }
    }

    /// As whoever follows the repository does: what was deleted and committed again before it was gone.
    pub fn apply_what_is_missing(&self) {
        for ((resource, name), manifest) in self.manifests.lock().unwrap().clone() {
            let found = self.get(&resource, &name);
            if found.is_none_or(|found| {
                found["metadata"]["deletionTimestamp"].is_null() && found["spec"] != manifest["spec"]
            }) {
                self.hub
                    .perform(&self.people, &Ask::apply(&resource, "", &name, manifest))
                    .unwrap();
            }
        }
    }

    /// A replicator that never had an edge acknowledges none, which the message says, and what people do then.
    pub fn let_go_by_hand(&self) {
        for resource in [TENANTS, REGIONS] {
            let all = self.hub.store().all(resource);
            for (key, object) in all {
                let deleting = !object["metadata"]["deletionTimestamp"].is_null();
                let said = object["status"]["conditions"].to_string();
                if deleting && said.contains("take the finalizer meridian.sh/members off by hand") {
                    let bare = json!({"metadata": {"finalizers": null}});
                    let _ = self
                        .hub
                        .perform(&self.people, &Ask::merge(resource, "", &key.name, bare));
                    if resource == TENANTS {
                        self.forget(&key.name);
                    }
                }
            }
        }
    }

    /// A tenant that was deleted before this hub had laid hands on it, which regions say, and what people do then.
    pub fn forget_whom_nobody_has(&self) {
        let regions = self.hub.store().all(REGIONS);
        for (_, region) in regions {
            let said = region["status"]["conditions"].to_string();
            let names = said
                .split_once("that the member holds (")
                .and_then(|(_, rest)| rest.split_once(')'));
            let names = names.filter(|_| said.contains("meridian.sh/forget-tenants="));
            for name in names.into_iter().flat_map(|(names, _)| names.split(", ")) {
                if self.get(TENANTS, name).is_none() && !self.has(TENANTS, name) {
                    self.forget(name);
                }
            }
        }
    }

    /// A region that was deleted before this hub had laid hands on it, or let go of by hand: what is left of it in its
    /// member is for people to take away.
    pub fn take_away_what_nobody_has(&self) {
        for member in self.members.values() {
            let stacks = member.store().all(STACKS);
            for (key, _) in stacks {
                if self.get(REGIONS, &key.name).is_none() && !self.has(REGIONS, &key.name) {
                    let _ = member.perform(&self.people, &Ask::delete(STACKS, "", &key.name));
                }
            }
        }
    }

    /// Says to every region that this tenant will not come back.
    fn forget(&self, tenant: &str) {
        let regions = self.hub.store().all(REGIONS);
        for (key, region) in regions {
            let uid = region["metadata"]["uid"].as_str().unwrap_or_default();
            let before = region["metadata"]["annotations"]["meridian.sh/forget-tenants"].as_str();
            let all = before
                .into_iter()
                .map(|before| format!("{before},"))
                .collect::<String>();
            let said =
                json!({"metadata": {"annotations": {"meridian.sh/forget-tenants": format!("{all}{tenant}@{uid}")}}});
            let _ = self
                .hub
                .perform(&self.people, &Ask::merge(REGIONS, "", &key.name, said));
        }
    }

    /// Two regions, an organization in both, and an edge between.
    pub fn bring_up(&self) {
        for name in ["eu", "us"] {
            self.apply(FITNESS_REGION, region(name));
        }
        self.apply(TENANT_DATA_RESIDENCY, tenant("stride", "us", false));
        self.apply(TENANT_DATA_RESIDENCY, tenant("stride", "eu", true));
    }

    /// A region's verifier finds rows of these tenants: so long ago that every clock that ends has ended.
    pub fn find(&self, region: &str, tenants: &[&str]) {
        let found: Vec<Value> = tenants
            .iter()
            .map(|tenant| {
                json!({"check": "foreign-rows", "place": "social.share", "of": tenant, "classes": ["workout-summary"], "count": 2,
                    "since": "2026-01-02T03:04:05.678Z"})
            })
            .collect();
        let told = json!({"revision": 1, "at": "2026-01-02T03:05:00Z", "tables": 1, "rows": 2, "violations": found.len(), "found": found});
        let ask = Ask::merge_status(STACKS, region, json!({"status": {"verified": told}}));
        self.members[cluster(region)].perform(&self.people, &ask).unwrap();
        let mut incidents = self.incidents.lock().unwrap();
        incidents.extend(
            tenants
                .iter()
                .map(|tenant| format!("{region}.{tenant}.20260102t030405z")),
        );
    }

    pub async fn end(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shutdown().await;
    }
}

/// The CAs that the webhook's Secret trusts; the first has issued what is served.
pub fn authorities(secret: &Value) -> Vec<String> {
    blocks(&secret["data"]["ca.crt"])
}

/// The CAs that API servers trust.
pub fn announced(configuration: &Value) -> Vec<String> {
    blocks(&configuration["webhooks"][0]["clientConfig"]["caBundle"])
}

fn blocks(encoded: &Value) -> Vec<String> {
    let decoded = BASE64.decode(encoded.as_str().unwrap_or_default()).unwrap_or_default();
    let text = String::from_utf8_lossy(&decoded).into_owned();
    let blocks = text.split_inclusive("-----END CERTIFICATE-----").map(str::trim);
    blocks.filter(|block| !block.is_empty()).map(str::to_owned).collect()
}

/// A region as the demo has it, under another name in the same cluster if that is asked for.
pub fn region(name: &str) -> Value {
    let of = cluster(name);
    let documents = documents("local/30-regions.yaml");
    let mut region = documents
        .into_iter()
        .find(|region| region["metadata"]["name"] == of)
        .unwrap();
    region["metadata"]["name"] = json!(name);
    region["spec"]["gateway"] = json!({"host": format!("{name}.example"), "publicUrl": format!("https://{name}.example:8443"),
        "peerUrl": format!("https://{name}.example:30444")});
    region
}

/// A tenant of an organization; with an edge to us if it is asked for.
pub fn tenant(organization: &str, home: &str, with_edge: bool) -> Value {
    let documents = documents("local/40-tenants.yaml");
    let mut tenant = documents
        .into_iter()
        .find(|tenant| tenant["metadata"]["name"] == "stride-eu")
        .unwrap();
    let name = format!("{organization}-{home}");
    tenant["metadata"]["name"] = json!(name);
    tenant["spec"]["organization"] = json!(organization);
    tenant["spec"]["tenant"] = json!(name);
    tenant["spec"]["home"]["region"] = json!(home);
    if !with_edge {
        tenant["spec"].as_object_mut().unwrap().remove("classes");
    }
    tenant
}
