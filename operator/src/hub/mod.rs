//! The hub role: compiles the policy and writes into each member what its region must be, and nothing else.
//!
//! | module | what it is for |
//! |---|---|
//! | [`source`] | what the policy is compiled from |
//! | [`compiled`] | compiling it anew when that changes, or when something in it begins or ends |
//! | [`region`] | FitnessRegion → RegionStack and TenantPlacements in its member |
//! | [`residency`] | TenantDataResidency → status |
//! | [`departure`] | what a deleted tenant still waits for |
//! | [`pool`] | IngestPool → its copy in the member, and status back |
//! | [`lease`] | the lease that lets a member transfer |
//! | [`members`] | the member clusters |
//! | [`admission`], [`webhook`] | the policy's answer at `kubectl apply` |

pub mod admission;
pub mod compiled;
pub mod departure;
pub mod lease;
pub mod members;
pub mod pool;
pub mod region;
pub mod residency;
pub mod source;
pub mod webhook;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use meridian_policy::PolicySource;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Readiness};
use crate::apply::Applier;
use crate::conditions::{self, Observation};
use crate::election::{Election, Leadership, Timing};
use crate::manifest::{
    FITNESS_REGION, INGEST_POOL, JURISDICTION, Kind, ObjectKey, PARTY, SECRET, TENANT_DATA_RESIDENCY,
};
use crate::metrics::Metrics;
use crate::reconcile::{self, Bounds, Queue};
use crate::tasks::{RunError, Tasks, cancel_on_signal};
use crate::watch::{Cache, OnChange, Selection, follow, list};

use compiled::Newest;
use lease::Ledger;
use members::Members;

/// The kinds that people write on the hub.
pub(crate) const RESOURCES: &[Kind] = &[JURISDICTION, PARTY, FITNESS_REGION, TENANT_DATA_RESIDENCY, INGEST_POOL];

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
}

/// What every part of the hub role sees.
pub struct Hub {
    namespace: String,
    cache: Cache,
    applier: Applier,
    members: Members,
    newest: Newest,
    ledger: Ledger,
    leadership: Leadership,
    readiness: Readiness,
}

impl Hub {
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

    /// Members that no region names any more are forgotten.
    fn forget_unnamed_members(&self) {
        self.members.retain(&source::member_names(&self.cache));
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
}

impl Queues {
    fn everything(&self, cache: &Cache) {
        for (kind, queue) in [
            (FITNESS_REGION, &self.regions),
            (TENANT_DATA_RESIDENCY, &self.tenants),
            (INGEST_POOL, &self.pools),
        ] {
            for (key, _) in cache.of_kind(kind) {
                queue.now(key.name);
            }
        }
    }

    fn resource_changed(&self, key: &ObjectKey, cache: &Cache) {
        match key.kind {
            FITNESS_REGION => {
                self.regions.now(key.name.clone());
                self.deleted(cache, TENANT_DATA_RESIDENCY, &self.tenants);
            }
            TENANT_DATA_RESIDENCY => {
                self.tenants.now(key.name.clone());
                self.deleted(cache, FITNESS_REGION, &self.regions);
            }
            INGEST_POOL => self.pools.now(key.name.clone()),
            // A kubeconfig may have come, changed or gone.
            SECRET => cache
                .of_kind(FITNESS_REGION)
                .into_iter()
                .for_each(|(key, _)| self.regions.now(key.name)),
            _ => {}
        }
    }

    /// Something in a member has changed.
    fn member_changed(&self, cache: &Cache) {
        for (kind, queue) in [(FITNESS_REGION, &self.regions), (INGEST_POOL, &self.pools)] {
            cache.of_kind(kind).into_iter().for_each(|(key, _)| queue.now(key.name));
        }
        self.deleted(cache, TENANT_DATA_RESIDENCY, &self.tenants);
    }

    /// What is being deleted waits for others to go.
    fn deleted(&self, cache: &Cache, kind: Kind, queue: &Queue<String>) {
        let objects = cache.of_kind(kind).into_iter();
        objects
            .filter(|(_, object)| object.metadata.deletion_timestamp.is_some())
            .for_each(|(key, _)| queue.now(key.name));
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
    let (metrics, readiness) = (Metrics::default(), Readiness::default());
    readiness.expect("webhook");
    readiness.expect("caches");
    let mut election = Election::new(
        client.clone(),
        &args.namespace,
        "meridian-hub",
        &args.identity,
        Timing::default(),
        metrics.clone(),
    );
    let leadership = election.leadership();
    let queues = Queues {
        regions: Queue::new("region"),
        tenants: Queue::new("residency"),
        pools: Queue::new("pool"),
    };

    let cache = Cache::default();
    let newest = Newest::default();
    let told = (queues.clone(), cache.clone(), newest.clone());
    let member_changed = Arc::new(move |_: &str| {
        let (queues, cache, newest) = &told;
        newest.source_changed();
        queues.member_changed(cache);
    });
    let (members, member_tasks) = Members::new(leadership.clone(), metrics.clone(), member_changed);
    let hub = Arc::new(Hub {
        namespace: args.namespace.clone(),
        cache: cache.clone(),
        applier: Applier::new(client.clone(), cache.clone(), leadership.clone(), metrics.clone()),
        members: members.clone(),
        newest: newest.clone(),
        ledger: Ledger::default(),
        leadership,
        readiness: readiness.clone(),
    });

    let mut tasks = Tasks::new(shutdown.clone());
    tasks.spawn(
        "signals",
        cancel_on_signal(shutdown.clone()).map_err(|error| start_error(&error))?,
    );
    tasks.spawn(
        "admin",
        admin::serve(args.admin_listen, readiness.clone(), metrics.clone(), shutdown.clone()),
    );
    watch_resources(&mut tasks, &hub, &queues, &client);
    tasks.spawn(
        "webhook",
        webhook::serve(hub.clone(), args.webhook_listen, shutdown.clone()),
    );
    tasks.spawn("members", members::run_tasks(member_tasks, shutdown.clone()));
    let release = election.releaser();
    let (leading, works) = (hub.clone(), shutdown.clone());
    tasks.spawn("leader", async move {
        if works
            .run_until_cancelled(leading.cache.synced(RESOURCES))
            .await
            .is_none()
        {
            return Ok::<(), RunError>(());
        }
        leading.readiness.open("caches");
        if !election.acquire(&works).await {
            return Ok(());
        }
        let mut led = Tasks::new(works.clone());
        led.spawn("election", election.hold(works.clone()));
        lead(&mut led, leading, queues, metrics, args, works);
        let ended = led.run().await;
        // The last writer has stopped. Reviews that are being answered need not hold up the next leader.
        release().await;
        ended
    });
    tasks.run().await
}

fn watch_resources(tasks: &mut Tasks, hub: &Arc<Hub>, queues: &Queues, client: &Client) {
    let (told, cache, newest) = (queues.clone(), hub.cache.clone(), hub.newest.clone());
    let on_change: OnChange = Arc::new(move |key, _| {
        newest.source_changed();
        told.resource_changed(key, &cache);
    });
    for kind in RESOURCES {
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
    let secrets = Selection {
        kind: SECRET,
        namespace: Some(hub.namespace.clone()),
        labels: String::new(),
    };
    tasks.spawn_until_shutdown("watch", follow(client.clone(), secrets, hub.cache.clone(), on_change));
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
    let (gathered, announced) = (hub.clone(), (hub.clone(), queues.clone()));
    tasks.spawn(
        "compile",
        compiled::keep(
            hub.newest.clone(),
            move || {
                let ready = gathered.cache.is_synced(RESOURCES) && gathered.cache.is_synced(&[SECRET]);
                ready
                    .then(|| source::gather(&gathered.cache, |name| gathered.members.seen(name)))
                    .flatten()
            },
            move || announced.1.everything(&announced.0.cache),
            shutdown.clone(),
        ),
    );
    let serial = hub.newest.clone();
    tasks.spawn(
        "lease",
        lease::renew(
            hub.members.clone(),
            hub.ledger.clone(),
            move || serial.serial(),
            args.namespace,
            args.identity,
            shutdown.clone(),
        ),
    );
    let bounds = Bounds {
        timeout: Duration::from_secs(30),
        ..Bounds::default()
    };
    queues.everything(&hub.cache);
    let (of_regions, of_tenants, of_pools) = (hub.clone(), hub.clone(), hub);
    let region = move |name| region::reconcile(of_regions.clone(), name);
    let residency = move |name| residency::reconcile(of_tenants.clone(), name);
    let pool = move |name| pool::reconcile(of_pools.clone(), name);
    tasks.spawn(
        "region",
        reconcile::run(queues.regions, bounds, metrics.clone(), shutdown.clone(), region),
    );
    tasks.spawn(
        "residency",
        reconcile::run(queues.tenants, bounds, metrics.clone(), shutdown.clone(), residency),
    );
    tasks.spawn("pool", reconcile::run(queues.pools, bounds, metrics, shutdown, pool));
}
