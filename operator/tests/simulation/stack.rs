//! A member cluster in which the region role lays a stack down, and who writes there besides: a hub, a kubelet, people.

use meridian_operator::region::stack::data_plane::Operators;
use meridian_operator::region::stack::validate::{Images, NodePorts};
use meridian_operator::region::{RegionArgs, run_with};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::api::request::Ask;
use crate::api::store::{Event, Key};
use crate::api::{Observer, Server, fields};
use crate::faults::Faults;
use crate::process::{self, Process};
use crate::settled::{nothing_broken, nothing_written, until_as_planned};
use crate::world::{SYSTEM, anywhere};

const STACKS: &str = "meridian.sh/regionstacks";
const REGION: &str = "eu";
const SPACE: &str = "meridian-eu";
const DEPLOYMENTS: &str = "apps/deployments";
const JOBS: &str = "batch/jobs";

/// What must hold of a stack after every change.
#[derive(Default)]
pub struct Rules(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    broken: Vec<String>,
    writes: Vec<String>,
    revision: u64,
    policy: u64,
    /// Credentials as they were made.
    credentials: BTreeMap<String, Value>,
    /// By name: image, and whether it is complete.
    jobs: BTreeMap<String, (String, bool)>,
}

impl Observer for Rules {
    fn sent(&self, _: &Server, _: &Process, _: &Ask) {}

    fn endless(&self) {
        self.0.lock().unwrap().broken.push("requests without end".to_owned());
    }

    fn changed(&self, _: &Server, by: &Process, ask: &Ask, event: &Event) {
        let mut seen = self.0.lock().unwrap();
        if by.role.starts_with("region") && event.key.resource != "coordination.k8s.io/leases" {
            let what = fields::difference(event.before.as_deref(), event.after.as_deref());
            seen.writes.push(format!("{:?} {}: {what}", ask.verb, event.key));
            seen.by_the_role(event);
        }
        seen.whoever(event);
    }
}

impl Seen {
    fn by_the_role(&mut self, event: &Event) {
        let Key {
            resource,
            namespace,
            name,
        } = &event.key;
        let elsewhere = namespace != SPACE
            && !(resource == "/namespaces" && name == SPACE)
            && !(resource == STACKS && name == REGION);
        if elsewhere {
            self.broken.push(format!("{} is none of the region's", event.key));
        }
        let Some(after) = &event.after else {
            if resource == "/secrets" {
                self.broken
                    .push(format!("{} is removed, and data may depend on it", event.key));
            }
            return;
        };
        if resource == STACKS {
            let applied = after["status"]["appliedRevision"].as_u64().unwrap_or(self.revision);
            if applied < self.revision {
                self.broken.push(format!(
                    "the applied revision falls from {} to {applied}",
                    self.revision
                ));
            }
            self.revision = applied.max(self.revision);
        }
        if resource == "/configmaps"
            && let Some(policy) = after["data"]["policy.json"].as_str()
        {
            let policy: Value = serde_json::from_str(policy).unwrap_or_default();
            let revision = policy["revision"].as_u64().unwrap_or_default();
            if revision < self.policy {
                self.broken.push(format!(
                    "the policy written down falls from {} to {revision}",
                    self.policy
                ));
            }
            self.policy = revision.max(self.policy);
        }
        if resource == DEPLOYMENTS {
            let before = event.before.as_ref().map(|before| image(before));
            self.migrated_before(name, before, &image(after));
        }
    }

    /// A service gets an image only after every migration of that image is done.
    fn migrated_before(&mut self, name: &str, before: Option<String>, image: &str) {
        let due = self.jobs.values().filter(|(of, _)| of == image);
        let done = due.clone().count() > 0 && due.clone().all(|(_, complete)| *complete);
        if before.as_deref() != Some(image) && !done {
            self.broken.push(format!(
                "{name} gets {image} before its migrations are done: {:?}",
                self.jobs
            ));
        }
    }

    fn whoever(&mut self, event: &Event) {
        let name = &event.key.name;
        match (event.key.resource.as_str(), &event.after) {
            ("/secrets", Some(after)) if !name.starts_with("tls-") => {
                let made = self
                    .credentials
                    .entry(name.clone())
                    .or_insert_with(|| after["data"].clone());
                if *made != after["data"] {
                    self.broken.push(format!("credential {name} is another one"));
                }
            }
            (JOBS, Some(after)) => {
                let complete = after["status"]["conditions"][0]["type"] == "Complete";
                self.jobs.insert(name.clone(), (image(after), complete));
            }
            (JOBS, None) => drop(self.jobs.remove(name)),
            _ => {}
        }
    }
}

fn image(workload: &Value) -> String {
    let image = workload["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
    image.unwrap_or_default().to_owned()
}

pub struct Member {
    pub faults: Arc<Faults>,
    pub rules: Arc<Rules>,
    pub server: Arc<Server>,
    hub: Process,
    wanted: Mutex<(u64, String)>,
    life: Arc<Mutex<Option<Process>>>,
    scratch: PathBuf,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl Member {
    pub fn new(seed: u64) -> Arc<Self> {
        let (faults, rules) = (Arc::new(Faults::new(seed)), Arc::new(Rules::default()));
        let server = Server::new("eu", faults.clone(), rules.clone());
        let thread = format!("{:?}-{seed}", std::thread::current().id());
        let member = Arc::new(Self {
            server,
            faults,
            rules,
            hub: Process::new("the hub"),
            wanted: Mutex::new((0, "meridian:1".to_owned())),
            life: Arc::default(),
            scratch: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(thread),
            stop: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        let namespace = json!({"metadata": {"name": SYSTEM}});
        member
            .server
            .perform(&member.hub, &Ask::create("/namespaces", "", namespace))
            .unwrap();
        let (server, faults) = (member.server.clone(), member.faults.clone());
        member.tasks.lock().unwrap().spawn(kubelet(server, faults));
        member
    }

    /// Starts the role, which is kept alive.
    pub fn start(self: &Arc<Self>) {
        let (member, life, rules) = (self.clone(), self.life.clone(), self.rules.clone());
        let run = move |process: Process, stop: CancellationToken| {
            let client = member.server.client(&process);
            let args = RegionArgs {
                namespace: SYSTEM.to_owned(),
                identity: process.role.to_owned(),
                region: Some(REGION.parse().unwrap()),
                images: Images {
                    meridian: "meridian:1".into(),
                    postgres: "postgres:17".into(),
                    kafka: "kafka:4.1".into(),
                },
                operators: Operators::default(),
                node_ports: NodePorts::Fixed,
                feed_listen: None,
                metrics_api_listen: None,
                admin_listen: anywhere(),
                scratch: member.scratch.clone(),
                brokers: None,
            };
            async move { run_with(client, args, stop).await.map_err(|error| error.to_string()) }
        };
        let began = move |process: &Process| *life.lock().unwrap() = Some(process.clone());
        let ended = move |cause: &str| {
            if !cause.contains("lease") {
                rules
                    .0
                    .lock()
                    .unwrap()
                    .broken
                    .push(format!("the role ended by itself: {cause}"));
            }
        };
        self.tasks
            .lock()
            .unwrap()
            .spawn(process::keep("region-0", self.stop.clone(), began, ended, run));
    }

    pub fn kill(&self) {
        if let Some(process) = self.life.lock().unwrap().as_ref() {
            process.kill();
        }
    }

    /// The hub writes a new revision of the stack, perhaps with another image.
    pub fn ask(&self, image: Option<&str>) {
        let (revision, image) = {
            let mut wanted = self.wanted.lock().unwrap();
            wanted.0 += 1;
            if let Some(image) = image {
                image.clone_into(&mut wanted.1);
            }
            wanted.clone()
        };
        let policy = json!({
            "region": REGION, "jurisdiction": "eu", "revision": revision, "public_url": "https://eu.example:8443",
            "issuer": "https://eu.example:8443", "countries_served": ["DE"],
            "homes": [{"tenant": "stride-eu", "organization": "stride", "epoch": 1}],
            "directory": [], "peers": [], "exports": [], "imports": [], "retention": {},
        });
        let stack = json!({
            "apiVersion": "meridian.sh/v1alpha1", "kind": "RegionStack", "metadata": {"name": REGION},
            "spec": {
                "region": REGION, "jurisdiction": "eu", "revision": revision, "publicHost": "eu.example", "image": image,
                "publicUrl": "https://eu.example:8443", "peerUrl": "https://eu.example:30444", "countriesServed": ["DE"],
                "policy": policy,
            },
        });
        self.server
            .perform(&self.hub, &Ask::apply(STACKS, "", REGION, stack))
            .unwrap();
    }

    /// Once there is a namespace for it.
    fn place(&self) {
        let placement = json!({
            "apiVersion": "meridian.sh/v1alpha1", "kind": "TenantPlacement", "metadata": {"name": "stride-eu", "namespace": SPACE},
            "spec": {"tenant": "stride-eu", "organization": "stride", "home": REGION, "epoch": 1, "revision": 1, "edges": []},
        });
        let _ = self.server.perform(
            &self.hub,
            &Ask::apply("meridian.sh/tenantplacements", SPACE, "stride-eu", placement),
        );
    }

    /// Somebody deletes something of the region's that can be made anew.
    pub fn drift(&self, what: usize) {
        let (resource, name) = [
            (DEPLOYMENTS, "identity"),
            ("/configmaps", "kafka-config"),
            ("/secrets", "tls-identity"),
            ("networking.k8s.io/networkpolicies", "default-deny"),
            ("/services", "identity"),
            ("apps/statefulsets", "kafka"),
        ][what];
        let _ = self.server.perform(&self.hub, &Ask::delete(resource, SPACE, name));
    }

    fn differs(&self) -> Option<String> {
        let stack = self.server.store().get(STACKS, "", REGION)?;
        let (revision, image) = self.wanted.lock().unwrap().clone();
        let conditions = &stack["status"]["conditions"];
        let ready = conditions.as_array().into_iter().flatten().any(|found| {
            let current = found["observedGeneration"] == stack["metadata"]["generation"];
            found["type"] == "Ready" && found["status"] == "True" && current
        });
        if !ready || stack["status"]["appliedRevision"] != revision {
            return Some(format!(
                "revision {revision} is not applied, or not ready: {}",
                stack["status"]
            ));
        }
        let deployments = self.server.store().all(DEPLOYMENTS);
        let other = deployments
            .iter()
            .find(|(_, deployment)| self::image(deployment) != image);
        other.map(|(key, _)| format!("{key} does not run {image}"))
    }

    /// Names of everything that is there.
    pub fn objects(&self) -> BTreeSet<String> {
        let resources = [
            "/configmaps",
            "/secrets",
            "/services",
            "/serviceaccounts",
            "/resourcequotas",
            "/limitranges",
            DEPLOYMENTS,
            "apps/statefulsets",
            JOBS,
            "policy/poddisruptionbudgets",
            "networking.k8s.io/networkpolicies",
        ];
        let all = resources.iter().flat_map(|resource| self.server.store().all(resource));
        // A job's name ends with a digest, of credentials among other things.
        let stable = |key: &Key| match key.name.rsplit_once('-') {
            Some((base, _)) if key.resource == JOBS => format!("{JOBS} {base}"),
            _ => key.to_string(),
        };
        all.map(|(key, _)| stable(&key)).collect()
    }

    pub fn is_lawful(&self) -> Result<(), String> {
        nothing_broken(&self.rules.0.lock().unwrap().broken)
    }

    /// Until all is as planned.
    pub async fn settles(&self) -> Result<(), String> {
        self.faults.set(0);
        self.server.reach(true);
        until_as_planned(|_| {
            self.place();
            self.is_lawful()?;
            Ok(self.differs())
        })
        .await
    }

    /// The same; then nothing is written for as long.
    pub async fn converges(&self, and_rests: Duration) -> Result<(), String> {
        self.settles().await?;
        sleep(Duration::from_secs(15)).await;
        self.rules.0.lock().unwrap().writes.clear();
        sleep(and_rests).await;
        let writes = std::mem::take(&mut self.rules.0.lock().unwrap().writes);
        nothing_written(&writes)?;
        self.is_lawful()
    }

    pub async fn end(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shutdown().await;
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// What a kubelet and the controllers of workloads say: everything becomes ready, after a while.
async fn kubelet(server: Arc<Server>, faults: Arc<Faults>) {
    let process = Process::new("the kubelet");
    let mut due: BTreeMap<(Key, u64), Instant> = BTreeMap::new();
    loop {
        for resource in [DEPLOYMENTS, "apps/statefulsets", JOBS] {
            let workloads = server.store().all(resource);
            for (key, workload) in workloads {
                let generation = workload["metadata"]["generation"].as_u64().unwrap_or_default();
                let lag = || {
                    Duration::from_millis(faults.draw(|rng| {
                        if rng.u8(..20) == 0 {
                            rng.u64(..20_000)
                        } else {
                            rng.u64(..1000)
                        }
                    }))
                };
                let at = *due
                    .entry((key.clone(), generation))
                    .or_insert_with(|| Instant::now() + lag());
                if workload["status"]["observedGeneration"] == generation || Instant::now() < at {
                    continue;
                }
                let n = workload["spec"]["replicas"].as_u64().unwrap_or(1);
                let condition = if resource == JOBS { "Complete" } else { "Available" };
                let status = json!({"observedGeneration": generation, "replicas": n, "readyReplicas": n, "updatedReplicas": n,
                    "availableReplicas": n, "conditions": [{"type": condition, "status": "True"}]});
                let mut told = Ask::merge_status(resource, &key.name, json!({"status": status}));
                told.key.namespace = key.namespace;
                let _ = server.perform(&process, &told);
            }
        }
        server.store().purge_namespaces();
        server.tell();
        sleep(Duration::from_millis(200)).await;
    }
}
