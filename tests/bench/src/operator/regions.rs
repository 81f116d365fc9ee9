//! What stands in for the region roles of a hundred members, so that the hub alone is measured: it reports on each
//! RegionStack what a region role reports (CA, token keys, applied revision, conditions) and lays nothing down. It also
//! remembers what each member holds, which is how the bench sees a change arrive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::core::Object;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use meridian_operator::apply::Purpose;
use meridian_operator::manifest::{REGION_STACK, TENANT_PLACEMENT};
use meridian_operator::policy_form::{self, PACKED};
use meridian_policy::RegionTrust;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::fleet::{Fleet, HOMES, region_name};
use super::stack::trust;

/// An edge, as far as the bench looks at it.
#[derive(Debug, Clone, Deserialize)]
struct Edge {
    id: String,
    expires: Timestamp,
}

#[derive(Debug, Default, Deserialize)]
struct Policy {
    exports: Vec<Edge>,
    imports: Vec<Edge>,
}

#[derive(Debug, Clone, Deserialize)]
struct StackSpec {
    revision: u64,
    policy: Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StackStatus {
    applied_revision: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
struct PlacementSpec {
    #[serde(default)]
    edges: Vec<Edge>,
}

type Edges = BTreeMap<String, Timestamp>;

/// What a member holds of a region.
#[derive(Debug, Default)]
struct Held {
    stack: Option<Stack>,
    /// By tenant: the edges of its placement.
    placements: BTreeMap<String, Edges>,
}

#[derive(Debug)]
struct Stack {
    revision: u64,
    generation: Option<i64>,
    applied: Option<u64>,
    peers: usize,
    exports: Edges,
    imports: Edges,
}

/// What all members hold. Clones share it.
#[derive(Clone)]
pub struct Seen {
    regions: Arc<Mutex<BTreeMap<String, Held>>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, region: &str, change: impl FnOnce(&mut Held)) {
        change(self.lock().entry(region.to_owned()).or_default());
        self.changes.send_modify(|count| *count += 1);
    }

    /// Waits until `edge` ends at `expires` in its exporter's stack and placement, and in its importer's stack.
    pub async fn arrived(&self, tenant: &str, edge: &str, from: &str, to: &str, expires: Timestamp) {
        let mut changes = self.changes.subscribe();
        let here = || {
            let regions = self.lock();
            let stack = |region: &str| regions.get(region).and_then(|held| held.stack.as_ref());
            let placed = regions.get(from).and_then(|held| held.placements.get(tenant));
            let at = |edges: Option<&Edges>| edges.and_then(|edges| edges.get(edge)) == Some(&expires);
            at(stack(from).map(|stack| &stack.exports)) && at(stack(to).map(|stack| &stack.imports)) && at(placed)
        };
        // The sender lives in self, so waiting ends only with the condition.
        let _ = changes.wait_for(|_| here()).await;
    }

    /// What is missing of a fleet of so many tenants, if anything: every region knows every other and applies what was
    /// written, every tenant is placed in each region of its organization, and every edge is at both of its ends.
    ///
    /// # Errors
    /// What is missing, in a sentence.
    pub fn missing(&self, regions: usize, tenants: usize) -> Result<(), String> {
        let held = self.lock();
        let stacks: Vec<&Stack> = held.values().filter_map(|held| held.stack.as_ref()).collect();
        let count = |of: fn(&Stack) -> usize| stacks.iter().map(|stack| of(stack)).sum::<usize>();
        let edges = tenants * (HOMES - 1);
        let wanted = [
            ("stacks", stacks.len(), regions),
            ("peers", count(|stack| stack.peers), regions * (regions - 1)),
            ("exports", count(|stack| stack.exports.len()), edges),
            ("imports", count(|stack| stack.imports.len()), edges),
            (
                "placements",
                held.values().map(|held| held.placements.len()).sum(),
                tenants * HOMES,
            ),
            (
                "stacks that are applied",
                stacks
                    .iter()
                    .filter(|stack| stack.applied == Some(stack.revision))
                    .count(),
                regions,
            ),
        ];
        let lacking = wanted.iter().filter(|(_, there, wanted)| there != wanted);
        let text: Vec<String> = lacking
            .map(|(what, there, wanted)| format!("{there} of {wanted} {what}"))
            .collect();
        if text.is_empty() { Ok(()) } else { Err(text.join(", ")) }
    }
}

/// The stand-ins; they end with this.
pub struct Regions {
    /// What the members hold.
    pub seen: Seen,
    _tasks: JoinSet<()>,
}

impl Regions {
    /// Starts them for every region of the fleet.
    ///
    /// # Errors
    /// When a region's CA cannot be made.
    pub fn start(fleet: &Fleet<'_>, servers: &super::servers::Servers) -> Result<Self> {
        let seen = Seen {
            regions: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
        };
        let mut tasks = JoinSet::new();
        for (index, server) in servers.members.iter().enumerate() {
            let (due, client) = (Arc::new(Notify::new()), server.client.clone());
            let mine = (0..fleet.regions()).skip(index).step_by(servers.members.len());
            let reporter = Reporter {
                client: client.clone(),
                seen: seen.clone(),
                identities: mine
                    .map(|number| {
                        let name = region_name(number);
                        let trust = trust(&name.parse()?)?;
                        Ok((name, trust))
                    })
                    .collect::<Result<_>>()?,
                due: due.clone(),
            };
            tasks.spawn(follow_stacks(client.clone(), seen.clone(), due));
            tasks.spawn(follow_placements(client, seen.clone()));
            tasks.spawn(reporter.run());
        }
        Ok(Self { seen, _tasks: tasks })
    }
}

/// Follows every object of a kind; the watch is begun anew when it ends.
async fn follow<S: DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static>(
    client: Client,
    kind: meridian_operator::manifest::Kind,
    mut heard: impl FnMut(Object<S, StackStatus>, bool),
) {
    let api: Api<Object<S, StackStatus>> = Api::all_with(client, &kind.resource());
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => heard(object, true),
            Ok(watcher::Event::Delete(object)) => heard(object, false),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => eprintln!("operator: a watch of {}s failed and is tried again: {error}", kind.kind),
        }
    }
}

/// How many peers each region is told of: they are many, and looked at only when what tells of them is another text.
#[derive(Default)]
struct Counted(BTreeMap<String, (String, usize)>);

impl Counted {
    fn of(&mut self, region: &str, policy: &Value) -> usize {
        let Some(others) = policy_form::others_of(policy) else {
            return policy_form::peers(policy).len();
        };
        match self.0.get(region) {
            Some((known, count)) if known == others => *count,
            _ => {
                let count = policy_form::peers(policy).len();
                self.0.insert(region.to_owned(), (others.to_owned(), count));
                count
            }
        }
    }
}

async fn follow_stacks(client: Client, seen: Seen, due: Arc<Notify>) {
    let mut counted = Counted::default();
    follow(
        client,
        REGION_STACK,
        move |object: Object<StackSpec, StackStatus>, there| {
            let (region, generation) = (object.name_any(), object.metadata.generation);
            let edges = |edges: Vec<Edge>| edges.into_iter().map(|edge| (edge.id, edge.expires)).collect();
            let applied = object.status.unwrap_or_default().applied_revision;
            let StackSpec { revision, mut policy } = object.spec;
            let peers = counted.of(&region, &policy);
            if let Err(error) = policy_form::open_own(&mut policy) {
                eprintln!("operator: the policy of {region}: {error}");
            }
            let policy = Policy::deserialize(&policy).unwrap_or_default();
            let stack = there.then(|| Stack {
                revision,
                generation,
                applied,
                peers,
                exports: edges(policy.exports),
                imports: edges(policy.imports),
            });
            seen.change(&region, |held| held.stack = stack);
            due.notify_one();
        },
    )
    .await;
}

async fn follow_placements(client: Client, seen: Seen) {
    follow(
        client,
        TENANT_PLACEMENT,
        move |object: Object<PlacementSpec, StackStatus>, there| {
            let (tenant, space) = (object.name_any(), object.namespace().unwrap_or_default());
            let region = space.strip_prefix("meridian-").unwrap_or(&space);
            let edges = object
                .spec
                .edges
                .into_iter()
                .map(|edge| (edge.id, edge.expires))
                .collect();
            seen.change(region, |held| {
                if there {
                    held.placements.insert(tenant, edges);
                } else {
                    held.placements.remove(&tenant);
                }
            });
        },
    )
    .await;
}

/// Reports on the stacks of one API server, one at a time and each as it is then.
struct Reporter {
    client: Client,
    seen: Seen,
    /// Of the regions there.
    identities: BTreeMap<String, RegionTrust>,
    due: Arc<Notify>,
}

impl Reporter {
    async fn run(self) {
        loop {
            self.due.notified().await;
            while let Some((region, revision, generation)) = self.next() {
                if let Err(error) = self.report(&region, revision, generation).await {
                    eprintln!("operator: {error:#}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// A region whose stack has been written and not been applied.
    fn next(&self) -> Option<(String, u64, Option<i64>)> {
        let regions = self.seen.lock();
        self.identities.keys().find_map(|region| {
            let stack = regions.get(region)?.stack.as_ref()?;
            let due = stack.applied != Some(stack.revision);
            due.then(|| (region.clone(), stack.revision, stack.generation))
        })
    }

    async fn report(&self, region: &str, revision: u64, generation: Option<i64>) -> Result<()> {
        let trust = self.identities.get(region).context("a region of another API server")?;
        let body = json!({
            "apiVersion": REGION_STACK.api_version(), "kind": REGION_STACK.kind, "metadata": {"name": region},
            "status": status(trust, revision, generation),
        });
        let api: Api<Object<StackSpec, StackStatus>> = Api::all_with(self.client.clone(), &REGION_STACK.resource());
        let params = PatchParams::apply(Purpose::Status.manager()).force();
        api.patch_status(region, &params, &Patch::Apply(&body))
            .await
            .with_context(|| format!("the status of RegionStack {region}"))?;
        // The watch says it too, a little later; until then this revision must not be reported again.
        self.seen.change(region, |held| {
            if let Some(stack) = held.stack.as_mut() {
                stack.applied = stack.applied.max(Some(revision));
            }
        });
        Ok(())
    }
}

fn status(trust: &RegionTrust, revision: u64, generation: Option<i64>) -> Value {
    let condition = |kind: &str, status: &str| {
        json!({
            "type": kind, "status": status, "reason": "AsPlanned", "message": "as planned",
            "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let conditions = [
        ("Ready", "True"),
        ("Reconciling", "False"),
        ("Stalled", "False"),
        ("DataPlaneReady", "True"),
        ("MigrationsComplete", "True"),
        ("ServicesReady", "True"),
        ("ResidencyEnforced", "True"),
        ("PolicyFresh", "True"),
    ];
    json!({
        "observedGeneration": generation, "appliedRevision": revision, "namespaceReady": true, "policyForms": [PACKED],
        "caBundle": trust.ca_pem, "jwks": trust.jwks,
        "conditions": conditions.map(|(kind, status)| condition(kind, status)),
    })
}
