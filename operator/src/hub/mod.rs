//! The hub role: compiles the policy and writes into each member what its region must be, and nothing else.
//!
//! | module | what it is for |
//! |---|---|
//! | [`source`] | what the policy is compiled from |
//! | [`gathered`] | gathering that, again and again |
//! | [`approval`] | what of it is in force: what widens waits for another person |
//! | [`compiled`] | compiling it anew when that changes, or when something in it begins or ends |
//! | [`changed`] | whom a newly compiled policy concerns |
//! | [`region`] | FitnessRegion → RegionStack and TenantPlacements in its member |
//! | [`residency`] | TenantDataResidency → status |
//! | [`departure`] | what a deleted tenant still waits for |
//! | [`closing`] | the edges that this closes, and who has acknowledged it |
//! | [`reports`] | what there is to tell of all these, as Events |
//! | [`instruments`] | whether what edges rest on is in force, and how soon it ends |
//! | [`incident`] | PrivacyIncidents: opened for what regions' verifiers find, and their legal clocks |
//! | [`pool`] | IngestPool → its copy in the member, and status back |
//! | [`lease`] | the lease that lets a member transfer |
//! | [`trust`] | rotation of a region's CA: who has been told |
//! | [`members`] | the member clusters |
//! | [`adopt`] | what a hub does in members that know more than it does |
//! | [`admission`], [`webhook`] | the policy's answer at `kubectl apply` |

pub mod admission;
pub mod adopt;
pub mod approval;
pub mod changed;
pub mod closing;
pub mod compiled;
pub mod departure;
pub mod gathered;
pub mod incident;
pub mod instruments;
pub mod lease;
pub mod members;
pub mod pool;
pub mod region;
pub mod reports;
pub mod residency;
pub mod source;
pub mod trust;
pub mod webhook;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use meridian_policy::{PolicySource, TenantId};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Readiness};
use crate::apply::{Applier, ApplyError};
use crate::conditions::{self, Observation};
use crate::election::{self, Election, Leadership, Timing};
use crate::events::Events;
use crate::manifest::{
    FITNESS_REGION, INGEST_POOL, JURISDICTION, Kind, ObjectKey, PARTY, POLICY_APPROVAL, PRIVACY_INCIDENT, REGION_STACK,
    SECRET, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT,
};
use crate::metrics::Metrics;
use crate::reconcile::{self, Bounds, Queue};
use crate::tasks::{RunError, Tasks, cancel_on_signal};
use crate::watch::{Cache, OnChange, Selection, follow, list};

use adopt::claim::{self, Claimant};
use approval::{Approvals, Requirement};
use changed::Concerned;
use closing::Stacks;
use compiled::{Gather, Gathered, Newest};
use gathered::Gatherer;
use lease::Ledger;
use members::{Connector, MemberChange, Members, OnMemberChange};
use reports::{News, Reports};
use trust::Rotating;

/// The kinds that people write on the hub.
pub(crate) const RESOURCES: &[Kind] = &[JURISDICTION, PARTY, FITNESS_REGION, TENANT_DATA_RESIDENCY, INGEST_POOL];

/// The Lease that elects the leader among the hub's replicas.
const ELECTION: &str = "meridian-hub";

/// Regions that are laid down at the same time: a pass mostly waits for its member's answers.
const REGIONS_AT_ONCE: usize = 8;
/// How much later than to its regions a new policy is told in the status of its tenants: what enforces goes first.
const STATUS_AFTER: Duration = Duration::from_millis(300);

/// How the hub role is started.
#[derive(Clone, Debug)]
pub struct HubArgs {
    /// The operator's own namespace, here and in the members.
    pub namespace: String,
    /// This replica.
    pub identity: String,
    /// Where the webhook listens.
    pub webhook_listen: SocketAddr,
    /// Where health and metrics are served.
    pub admin_listen: SocketAddr,
    /// Whether what widens the policy waits for another person.
    pub approval: Requirement,
}

/// What every part of the hub role sees.
pub struct Hub {
    namespace: String,
    cache: Cache,
    applier: Applier,
    members: Members,
    newest: Newest,
    ledger: Ledger,
    pace: region::Pace,
    leadership: Leadership,
    readiness: Readiness,
    metrics: Metrics,
    reports: Reports,
    approval: Requirement,
    rotating: Rotating,
}

impl Hub {
    /// What the policy is compiled from cannot be known before these were listed.
    fn is_listed(&self) -> bool {
        let approvals = self.approval == Requirement::NotRequired || self.cache.is_synced(&[POLICY_APPROVAL]);
        approvals && self.cache.is_synced(RESOURCES) && self.cache.is_synced(&[SECRET])
    }

    fn conditions(&self, object: &Value, observations: &[Observation]) -> Vec<Condition> {
        let previous: Vec<Condition> =
            serde_json::from_value(object["status"]["conditions"].clone()).unwrap_or_default();
        conditions::merge(
            &previous,
            observations,
            object["metadata"]["generation"].as_i64(),
            Timestamp::now(),
        )
    }

    /// Tells of an object what is new: that a write failed, or what the status that it has now says.
    async fn tell(&self, key: &ObjectKey, object: &Value, status: &Value, failed: Option<&ApplyError>) -> bool {
        let news = match failed {
            Some(error) => News::of_error(error),
            None => News::of_status(status),
        };
        match news {
            Some(news) => self.reports.tell(key, object, news).await,
            None => false,
        }
    }

    /// Members that no region names any more are forgotten.
    fn forget_unnamed_members(&self) {
        self.members.retain(&source::member_names(&self.cache));
    }

    /// Every region's stack, as far as its member was listed.
    fn stacks(&self) -> Stacks {
        closing::stacks(&self.cache, |member| self.members.seen(member).known().cloned())
    }

    /// What the caches hold; nothing before the first listing.
    fn source_for_review(&self) -> Option<PolicySource> {
        self.cache.is_synced(RESOURCES).then(|| source::for_review(&self.cache))
    }

    /// What the API server holds now.
    async fn fresh_source(&self) -> Result<PolicySource, kube::Error> {
        let fresh = Cache::default();
        for kind in [JURISDICTION, PARTY, FITNESS_REGION, TENANT_DATA_RESIDENCY] {
            list(self.applier.client(), kind, &fresh).await?;
        }
        Ok(source::for_review(&fresh))
    }
}

/// The work queues of the controllers.
#[derive(Clone)]
struct Queues {
    regions: Queue<String>,
    tenants: Queue<String>,
    pools: Queue<String>,
    /// By region: what its verifier has found.
    findings: Queue<String>,
    incidents: Queue<String>,
    rotating: Rotating,
}

impl Queues {
    fn everything(&self, cache: &Cache) {
        for (kind, queue) in [
            (FITNESS_REGION, &self.regions),
            (TENANT_DATA_RESIDENCY, &self.tenants),
            (INGEST_POOL, &self.pools),
            (FITNESS_REGION, &self.findings),
            (PRIVACY_INCIDENT, &self.incidents),
        ] {
            for key in cache.keys_of(kind) {
                queue.now(key.name);
            }
        }
    }

    /// A new policy: a pass over whom it concerns.
    fn policy_changed(&self, cache: &Cache, concerned: &Concerned) {
        match concerned {
            Concerned::Everybody => self.everything(cache),
            Concerned::Only { regions, tenants } => {
                regions.iter().for_each(|region| self.regions.now(region.to_string()));
                let later = |tenant: &TenantId| self.tenants.after(tenant.to_string(), STATUS_AFTER);
                tenants.iter().for_each(later);
            }
        }
    }

    /// Something was told of a resource. What is `known` is what the pass over it has written itself, and needs no other
    /// pass: only a deletion goes on by what it has written down.
    fn resource_changed(&self, key: &ObjectKey, known: bool, cache: &Cache) {
        let news = || !known || cache.identity(key).is_some_and(|identity| identity.deleting);
        let pass = |queue: &Queue<String>| {
            if news() {
                queue.now(key.name.clone());
            }
        };
        match key.kind {
            FITNESS_REGION => {
                pass(&self.regions);
                self.deleted(cache, TENANT_DATA_RESIDENCY, &self.tenants);
                self.deleted(cache, INGEST_POOL, &self.pools);
                self.ends_are_told(cache, key);
            }
            TENANT_DATA_RESIDENCY => {
                pass(&self.tenants);
                self.deleted(cache, FITNESS_REGION, &self.regions);
                self.ends_are_told(cache, key);
            }
            INGEST_POOL => pass(&self.pools),
            PRIVACY_INCIDENT => pass(&self.incidents),
            // Its terms may be others now.
            JURISDICTION => cache
                .keys_of(PRIVACY_INCIDENT)
                .into_iter()
                .for_each(|key| self.incidents.now(key.name)),
            // A kubeconfig may have come, changed or gone.
            SECRET => cache
                .keys_of(FITNESS_REGION)
                .into_iter()
                .for_each(|key| self.regions.now(key.name)),
            _ => {}
        }
    }

    /// Something was told of a member: only what reads it gets a pass, and what is being deleted, which waits for all of
    /// them. A hundred members change all the time, and a pass over each of them for each change of one would leave no time
    /// for that one.
    fn member_changed(&self, cache: &Cache, member: &str, change: MemberChange<'_>) {
        match change {
            // The pass that wrote it knows.
            MemberChange::Object { known: true, .. } => {}
            MemberChange::Object { key, .. } if key.kind == REGION_STACK => {
                self.regions.now(key.name.clone());
                self.findings.now(key.name.clone());
                self.rotating
                    .names()
                    .into_iter()
                    .for_each(|name| self.regions.now(name));
            }
            MemberChange::Object { key, .. } if key.kind == TENANT_PLACEMENT => {
                let space = key.namespace.as_deref();
                if let Some(region) = space.and_then(|space| space.strip_prefix("meridian-")) {
                    self.regions.now(region.to_owned());
                }
            }
            MemberChange::Object { key, .. } if key.kind == INGEST_POOL => self.pools.now(key.name.clone()),
            // A node, or the member as a whole.
            MemberChange::Object { .. } | MemberChange::Whole => self.whole_member_changed(cache, member),
        }
        self.deleted(cache, FITNESS_REGION, &self.regions);
        self.deleted(cache, TENANT_DATA_RESIDENCY, &self.tenants);
    }

    fn whole_member_changed(&self, cache: &Cache, member: &str) {
        let concerned = source::regions_in(cache, member);
        for (key, pool) in cache.of_kind(INGEST_POOL) {
            if pool.data["spec"]["region"]
                .as_str()
                .is_some_and(|region| concerned.contains(region))
            {
                self.pools.now(key.name);
            }
        }
        for region in concerned {
            self.findings.now(region.clone());
            self.regions.now(region);
        }
    }

    /// Both ends of an edge that a deletion closes are told to acknowledge it.
    fn ends_are_told(&self, cache: &Cache, key: &ObjectKey) {
        let deleted = cache.identity(key).filter(|identity| identity.deleting);
        let closing = deleted.and_then(|_| closing::recorded(&cache.get(key)?.data));
        for edge in closing.into_iter().flatten() {
            self.regions.now(edge.from.to_string());
            self.regions.now(edge.to.to_string());
        }
    }

    /// What is being deleted waits for others to go.
    fn deleted(&self, cache: &Cache, kind: Kind, queue: &Queue<String>) {
        cache.deleting(kind).into_iter().for_each(|key| queue.now(key.name));
    }
}

fn start_error(error: &dyn std::fmt::Display) -> RunError {
    RunError::Start {
        role: "hub",
        cause: error.to_string(),
    }
}

/// Runs the hub role until SIGTERM.
///
/// # Errors
/// See [`RunError`].
pub async fn run_hub(args: HubArgs) -> Result<(), RunError> {
    let client = Client::try_default().await.map_err(|error| start_error(&error))?;
    run_with(client, args, CancellationToken::new()).await
}

/// Runs the hub role with this client until shutdown.
///
/// # Errors
/// See [`RunError`].
pub async fn run_with(client: Client, args: HubArgs, shutdown: CancellationToken) -> Result<(), RunError> {
    run_among(client, members::connector(), args, shutdown).await
}

/// Runs the hub role with this client until shutdown, with members that this connector reaches.
///
/// # Errors
/// See [`RunError`].
pub async fn run_among(
    client: Client,
    connector: Connector,
    args: HubArgs,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let (metrics, readiness) = (Metrics::default(), Readiness::default());
    readiness.expect("webhook");
    readiness.expect("caches");
    let mut election = Election::new(
        client.clone(),
        &args.namespace,
        ELECTION,
        &args.identity,
        Timing::default(),
        metrics.clone(),
    );
    let leadership = election.leadership();
    let queues = Queues {
        regions: Queue::new("region"),
        tenants: Queue::new("residency"),
        pools: Queue::new("pool"),
        findings: Queue::new("findings"),
        incidents: Queue::new("incident"),
        rotating: Rotating::default(),
    };

    let cache = Cache::packing(&[TENANT_DATA_RESIDENCY]);
    let newest = Newest::default();
    let told = (queues.clone(), cache.clone(), newest.clone());
    let member_changed: OnMemberChange = Arc::new(move |member, change| {
        let (queues, cache, newest) = &told;
        // What the hub has written there itself, it has from the policy.
        if !matches!(change, MemberChange::Object { known: true, .. }) {
            newest.source_changed();
        }
        queues.member_changed(cache, member, change);
    });
    let (members, member_tasks) = Members::new(leadership.clone(), metrics.clone(), member_changed, connector);
    let hub = Arc::new(Hub {
        namespace: args.namespace.clone(),
        cache: cache.clone(),
        applier: Applier::new(client.clone(), cache.clone(), leadership.clone(), metrics.clone()),
        members: members.clone(),
        newest: newest.clone(),
        ledger: Ledger::default(),
        pace: region::Pace::default(),
        leadership,
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        reports: Reports::new(Events::new(
            client.clone(),
            "meridian-hub",
            &args.identity,
            metrics.clone(),
        )),
        approval: args.approval,
        rotating: queues.rotating.clone(),
    });

    let mut tasks = Tasks::new(shutdown.clone());
    tasks.spawn(
        "signals",
        cancel_on_signal(shutdown.clone()).map_err(|error| start_error(&error))?,
    );
    tasks.spawn(
        "admin",
        admin::serve(
            args.admin_listen,
            readiness.clone(),
            metrics.clone(),
            axum::Router::new(),
            shutdown.clone(),
        ),
    );
    watch_resources(&mut tasks, &hub, &queues, &client);
    tasks.spawn(
        "webhook",
        webhook::serve(hub.clone(), args.webhook_listen, shutdown.clone()),
    );
    // What writes stops once the last write has been answered: one that is dropped may be done when another replica leads.
    let stop = CancellationToken::new();
    tasks.spawn("members", members::run_tasks(member_tasks, stop.clone()));
    tasks.spawn(
        "writes",
        election::end_writes(hub.leadership.clone(), shutdown.clone(), stop.clone()),
    );
    let release = election.releaser();
    let (leading, works, asked) = (hub.clone(), shutdown.clone(), client);
    tasks.spawn("leader", async move {
        if works
            .run_until_cancelled(async {
                leading.cache.synced(RESOURCES).await;
                // Of members whose kubeconfigs it has not seen yet it would say that they have none.
                leading.cache.synced(&[SECRET]).await;
            })
            .await
            .is_none()
        {
            return Ok::<(), RunError>(());
        }
        leading.readiness.open("caches");
        if !election.acquire(&works).await {
            return Ok(());
        }
        let identity = claim::identity(&asked, &args.namespace, ELECTION, &leading.leadership).await;
        leading.members.claim_as(Claimant {
            hub: identity.map_err(|error| start_error(&error))?,
            namespace: args.namespace.clone(),
        });
        let stop = stop.child_token();
        let mut led = Tasks::new(stop.clone());
        led.spawn("election", election.hold(stop.clone()));
        lead(&mut led, leading, queues, metrics, args, stop);
        led.run().await?;
        // The last writer has stopped. Reviews that are being answered need not hold up the next leader. What failed may have
        // left a write under way: then the lease runs out instead.
        release().await;
        Ok(())
    });
    tasks.run().await
}

fn watch_resources(tasks: &mut Tasks, hub: &Arc<Hub>, queues: &Queues, client: &Client) {
    let (told, cache, newest) = (queues.clone(), hub.cache.clone(), hub.newest.clone());
    let on_change: OnChange = Arc::new(move |key, change| {
        newest.source_changed();
        told.resource_changed(key, change.is_known(), &cache);
    });
    let approvals: &[Kind] = match hub.approval {
        Requirement::Required => &[POLICY_APPROVAL],
        Requirement::NotRequired => &[],
    };
    for kind in RESOURCES.iter().chain(approvals) {
        let follows = follow(
            client.clone(),
            Selection::all(*kind),
            hub.cache.clone(),
            on_change.clone(),
        );
        let closes = hub.readiness.closes_at_the_end("caches");
        tasks.spawn_until_shutdown("watch", async move {
            let _closes = closes;
            follows.await;
        });
    }
    // The policy does not depend on them, and a chart of before has no definition of them.
    let (told, cache) = (queues.clone(), hub.cache.clone());
    let incident_changed: OnChange = Arc::new(move |key, change| told.resource_changed(key, change.is_known(), &cache));
    let incidents = Selection::all(PRIVACY_INCIDENT).optional();
    tasks.spawn_until_shutdown(
        "watch",
        follow(client.clone(), incidents, hub.cache.clone(), incident_changed),
    );
    let secrets = Selection {
        kind: SECRET,
        namespace: Some(hub.namespace.clone()),
        labels: String::new(),
        optional: false,
    };
    tasks.spawn_until_shutdown("watch", follow(client.clone(), secrets, hub.cache.clone(), on_change));
}

/// What the leader compiles the policy from.
struct Source {
    hub: Arc<Hub>,
    gatherer: Gatherer,
    approvals: Approvals,
}

impl Gather for Source {
    fn gather(&mut self) -> Option<Gathered> {
        let hub = &self.hub;
        hub.is_listed().then_some(())?;
        // What is written, and what of that is approved, is looked at as it was at one moment.
        let cache = match hub.approval {
            Requirement::Required => hub.cache.copied(),
            Requirement::NotRequired => hub.cache.clone(),
        };
        let written = self.gatherer.gather(&cache, |name| hub.members.seen(name))?;
        Some(match self.approvals.in_force(&cache, &written) {
            Some(approved) => Gathered {
                approved,
                written: Some(written),
            },
            None => Gathered {
                approved: written,
                written: None,
            },
        })
    }

    async fn record(&mut self) -> Option<Duration> {
        self.approvals.record().await
    }
}

/// The work that only the leader does.
fn lead(
    tasks: &mut Tasks,
    hub: Arc<Hub>,
    queues: Queues,
    metrics: Metrics,
    args: HubArgs,
    shutdown: CancellationToken,
) {
    let (expected, announced) = (hub.ledger.clone(), (hub.clone(), queues.clone()));
    let source = Source {
        gatherer: Gatherer::default(),
        approvals: Approvals::new(hub.clone()),
        hub: hub.clone(),
    };
    tasks.spawn(
        "compile",
        compiled::keep(
            hub.newest.clone(),
            source,
            move |serial, concerned| expected.expect(serial, concerned),
            move |concerned| announced.1.policy_changed(&announced.0.cache, concerned),
            shutdown.clone(),
        ),
    );
    tasks.spawn(
        "lease",
        lease::renew(
            hub.cache.clone(),
            hub.members.clone(),
            hub.ledger.clone(),
            args.namespace,
            args.identity,
            shutdown.clone(),
        ),
    );
    let bounds = Bounds {
        timeout: Duration::from_secs(30),
        ..Bounds::default()
    };
    let of_many = Bounds {
        concurrency: REGIONS_AT_ONCE,
        ..bounds
    };
    queues.everything(&hub.cache);
    let (of_regions, of_tenants, of_pools) = (hub.clone(), hub.clone(), hub.clone());
    let (of_findings, of_incidents, to_look_at) = (hub.clone(), hub, queues.incidents.clone());
    let region = move |name| region::reconcile(of_regions.clone(), name);
    let residency = move |name| residency::reconcile(of_tenants.clone(), name);
    let pool = move |name| pool::reconcile(of_pools.clone(), name);
    let findings = move |name| incident::look(of_findings.clone(), to_look_at.clone(), name);
    let incident = move |name| incident::reconcile(of_incidents.clone(), name);
    tasks.spawn(
        "findings",
        reconcile::run(queues.findings, bounds, metrics.clone(), shutdown.clone(), findings),
    );
    tasks.spawn(
        "incident",
        reconcile::run(queues.incidents, bounds, metrics.clone(), shutdown.clone(), incident),
    );
    tasks.spawn(
        "region",
        reconcile::run(queues.regions, of_many, metrics.clone(), shutdown.clone(), region),
    );
    tasks.spawn(
        "residency",
        reconcile::run(queues.tenants, bounds, metrics.clone(), shutdown.clone(), residency),
    );
    tasks.spawn("pool", reconcile::run(queues.pools, bounds, metrics, shutdown, pool));
}
