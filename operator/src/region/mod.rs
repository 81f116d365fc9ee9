//! The region role: lays one region down in this cluster, scales its writers, and tells its services the policy.
//!
//! | module | what it is for |
//! |---|---|
//! | [`stack`] | RegionStack → everything that a region runs |
//! | [`ingest`] | IngestPool → writers, as many as the backlog needs |
//! | [`metrics_api`] | what a HorizontalPodAutoscaler asks about the writers |
//! | [`policy`] | which policy is in force, whether it is fresh, and the feed that tells services |
//! | [`identity`] | the operator's own certificate, and the region's token keys |
//! | [`kafka`] | how the operator comes to Kafka, and the access control lists that it keeps there |
//!
//! It goes on without the hub: it knows only custom resources in its own cluster. Only the leader writes; every replica
//! serves the feed, from what is written down.

pub mod identity;
pub mod ingest;
pub mod kafka;
pub mod metrics_api;
pub mod policy;
pub mod stack;

use crate::admin::{self, Readiness};
use crate::apply::Applier;
use crate::election::{Election, Timing, end_writes};
use crate::events::Events;
use crate::manifest::{
    AUTOSCALER, CONFIG_MAP, DEPLOYMENT, DISRUPTION_BUDGET, INGEST_POOL, JOB, Kind, LIMIT_RANGE, NAMESPACE,
    NETWORK_POLICY, ObjectKey, REGION_LABEL, REGION_STACK, RESOURCE_QUOTA, SCALED_OBJECT, SECRET, SERVICE,
    SERVICE_ACCOUNT, STATEFUL_SET, TENANT_PLACEMENT,
};
use crate::metrics::Metrics;
use crate::reconcile::{self, Bounds, Queue};
use crate::tasks::{RunError, Tasks, cancel_on_signal};
use crate::watch::{Cache, OnChange, Selection, follow};
use identity::{Identity, TokenKeys};
use ingest::Pools;
use kafka::Reach;
use kube::api::DynamicObject;
use kube::{Client, ResourceExt};
use meridian_kit::tls::{Accept, Tls};
use meridian_policy::RegionName;
use policy::acks::Acks;
use policy::backlog::Backlogs;
use policy::feed::{self, Feed};
use policy::verified::Verifications;
use stack::data_plane::Operators;
use stack::kept::Kept;
use stack::validate::{Images, NodePorts};
use stack::{Served, Stacks, secrets};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How the region role is started.
#[derive(Clone, Debug)]
pub struct RegionArgs {
    /// The operator's own namespace.
    pub namespace: String,
    /// This replica.
    pub identity: String,
    /// The one region of this cluster; without it, the first RegionStack seen decides.
    pub region: Option<RegionName>,
    /// Images to run.
    pub images: Images,
    /// Whose help there is with data planes.
    pub operators: Operators,
    /// How the region is reached from outside the cluster.
    pub node_ports: NodePorts,
    /// Where the policy feed listens; a role without it serves nobody, asks nobody for the token keys, and keeps no rights in
    /// Kafka.
    pub feed_listen: Option<SocketAddr>,
    /// Where HorizontalPodAutoscalers ask, through the API server; without it, nothing is told them.
    pub metrics_api_listen: Option<SocketAddr>,
    /// Where health and metrics are served.
    pub admin_listen: SocketAddr,
    /// A folder of this process's own for its certificate; on a memory volume.
    pub scratch: PathBuf,
    /// Brokers instead of the region's own, for an operator outside the cluster.
    pub brokers: Option<String>,
}

/// Kinds that the region role writes, and watches by its label.
pub const WRITTEN: &[Kind] = &[
    NAMESPACE,
    CONFIG_MAP,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    RESOURCE_QUOTA,
    LIMIT_RANGE,
    DEPLOYMENT,
    STATEFUL_SET,
    JOB,
    DISRUPTION_BUDGET,
    AUTOSCALER,
    NETWORK_POLICY,
];
/// Kinds that it writes where they are there.
pub const OPTIONAL: &[Kind] = &[SCALED_OBJECT];
/// Kinds that it is asked by, and watches all of.
pub const ASKED: &[Kind] = &[REGION_STACK, TENANT_PLACEMENT, INGEST_POOL];

/// Events come in bursts; a pass a little later sees them all.
const SETTLE: Duration = Duration::from_millis(50);
const LEASE: &str = "meridian-region";

/// The work queues of the two controllers.
#[derive(Clone)]
struct Queues {
    stacks: Queue<String>,
    pools: Queue<String>,
}

impl Queues {
    /// Asks for a pass over whatever depends on a changed object.
    fn changed(&self, key: &ObjectKey, object: Option<&DynamicObject>) {
        let region = || {
            let labelled = object.and_then(|o| o.labels().get(REGION_LABEL).cloned());
            labelled.or_else(|| Some(key.namespace.as_deref()?.strip_prefix("meridian-")?.to_owned()))
        };
        match key.kind {
            REGION_STACK => self.stacks.after(key.name.clone(), SETTLE),
            INGEST_POOL => {
                self.pools.after(key.name.clone(), SETTLE);
                // Its settings are telemetry's too.
                let region = object.and_then(|o| o.data["spec"]["region"].as_str().map(ToOwned::to_owned));
                region.into_iter().for_each(|region| self.stacks.after(region, SETTLE));
            }
            NAMESPACE => self
                .stacks
                .after(key.name.trim_start_matches("meridian-").to_owned(), SETTLE),
            // What a driver says of itself, every few seconds, is no business of the stack.
            AUTOSCALER | SCALED_OBJECT => {
                if let Some(pool) = key.name.strip_prefix("ingest-") {
                    self.pools.after(pool.to_owned(), SETTLE);
                }
            }
            kind => {
                if let Some(pool) = key.name.strip_prefix("ingest-").filter(|_| kind == DEPLOYMENT) {
                    self.pools.after(pool.to_owned(), SETTLE);
                }
                if let Some(region) = region() {
                    self.stacks.after(region, SETTLE);
                }
            }
        }
    }
}

/// Runs the region role until SIGTERM.
///
/// # Errors
/// See [`RunError`].
pub async fn run_region(args: RegionArgs) -> Result<(), RunError> {
    let client = Client::try_default().await.map_err(|error| start_error(&error))?;
    run_with(client, args, CancellationToken::new()).await
}

fn start_error(error: &dyn std::fmt::Display) -> RunError {
    RunError::Start {
        role: "region",
        cause: error.to_string(),
    }
}

/// Runs the region role with this client until shutdown.
///
/// # Errors
/// See [`RunError`].
pub async fn run_with(client: Client, args: RegionArgs, shutdown: CancellationToken) -> Result<(), RunError> {
    let (metrics, readiness) = (Metrics::default(), Readiness::default());
    readiness.expect("caches");
    let mut election = Election::new(
        client.clone(),
        &args.namespace,
        LEASE,
        &args.identity,
        Timing::default(),
        metrics.clone(),
    );
    let release = election.releaser();
    let queues = Queues {
        stacks: Queue::new("stack"),
        pools: Queue::new("ingest"),
    };
    let (cache, feed, token_keys) = (Cache::default(), Feed::default(), TokenKeys::default());
    let served = Served::fixed(args.region.clone());
    let drivers = ingest::served::Pools::new(cache.clone(), served.clone());
    let identity = Identity::below(&args.scratch).map_err(|error| start_error(&error))?;
    let applier = Applier::new(client.clone(), cache.clone(), election.leadership(), metrics.clone());

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
            ingest::served::router(drivers.clone()),
            shutdown.clone(),
        ),
    );
    watch_everything(
        &mut tasks,
        &client,
        &cache,
        &queues,
        &readiness,
        &Mirror {
            feed: feed.clone(),
            identity: identity.clone(),
            served: served.clone(),
        },
        args.operators,
    );
    tasks.spawn("readiness", caches_known(cache.clone(), readiness, shutdown.clone()));
    tasks.spawn_until_shutdown(
        "other operators",
        other_operators(cache.clone(), args.operators, queues.stacks.clone()),
    );
    let lease = policy::lease::follow(
        applier.clone(),
        args.namespace.clone(),
        feed.clone(),
        metrics.clone(),
        shutdown.clone(),
    );
    tasks.spawn("policy lease", async move {
        lease.await;
        Ok::<_, String>(())
    });
    tasks.spawn(
        "lease changes",
        lease_changes(feed.clone(), queues.clone(), served.clone(), shutdown.clone()),
    );
    if let Some(listen) = args.feed_listen {
        let serving = Serving {
            applier: applier.clone(),
            feed: feed.clone(),
            token_keys: token_keys.clone(),
            stacks: queues.stacks.clone(),
        };
        tasks.spawn(
            "policy feed",
            serve_feed(serving, identity.clone(), listen, metrics.clone(), shutdown.clone()),
        );
    }
    if let Some(listen) = args.metrics_api_listen {
        let (applier, namespace) = (applier.clone(), args.namespace.clone());
        tasks.spawn(
            "metrics api",
            metrics_api::serve(applier, identity.clone(), drivers, namespace, listen, shutdown.clone()),
        );
    }

    let events = Events::new(client, "meridian-region", &args.identity, metrics.clone());
    let stacks = Stacks {
        applier: applier.clone(),
        events: events.clone(),
        images: args.images.clone(),
        node_ports: args.node_ports,
        feed,
        token_keys,
        served,
        reported: Arc::default(),
        kept: Kept::default(),
    };
    let reach = Reach::new(identity.clone(), args.brokers);
    let keeps_access = args.feed_listen.is_some();
    let pools = Pools::new(applier, events.clone(), args.images, reach);
    // What writes stops once the last write has been answered: one that is dropped may be done when another replica leads.
    let stop = CancellationToken::new();
    tasks.spawn(
        "writes",
        end_writes(election.leadership(), shutdown.clone(), stop.clone()),
    );
    tasks.spawn("controllers", async move {
        if shutdown.run_until_cancelled(listed(&cache)).await.is_none() || !election.acquire(&shutdown).await {
            return Ok(());
        }
        for (key, _) in ASKED.iter().flat_map(|kind| cache.of_kind(*kind)) {
            queues.changed(&key, None);
        }
        let bounds = Bounds {
            concurrency: 2,
            timeout: Duration::from_secs(120),
            ..Bounds::default()
        };
        let stack = reconcile::run(queues.stacks, bounds, metrics.clone(), stop.clone(), |name| {
            stacks.clone().reconcile(name)
        });
        let pool = reconcile::run(queues.pools, bounds, metrics, stop, |name| {
            pools.clone().reconcile(name)
        });
        let access = async {
            if keeps_access {
                kafka::keep_access(identity, cache.clone(), events).await;
            }
            std::future::pending::<()>().await;
        };
        // All end together: the lease is given up only after the last write.
        let ended = tokio::select! {
            biased;
            ended = stack => ended.map_err(|e| e.to_string()),
            ended = pool => ended.map_err(|e| e.to_string()),
            () = access => Ok(()),
            lost = election.hold(CancellationToken::new()) => lost.map_err(|e| e.to_string()),
        };
        // Services that still listen to the feed need not hold up the next leader.
        release().await;
        ended
    });
    tasks.run().await
}

/// What every replica takes over from what the leader has written down.
#[derive(Clone)]
struct Mirror {
    feed: Feed,
    identity: Identity,
    served: Served,
}

impl Mirror {
    fn changed(&self, cache: &Cache, key: &ObjectKey) {
        let Some(region) = self.served.get().cloned().or_else(|| only_region(cache)) else {
            return;
        };
        if key.namespace.as_deref() != Some(stack::validate::namespace(&region).as_str()) {
            return;
        }
        match (key.kind, key.name.as_str()) {
            (CONFIG_MAP, stack::plan::foundation::POLICY) => {
                let written = stack::observe::held_policy(cache, &region);
                // What was told already is never taken back by a watch event that comes late.
                let newer = |policy: &meridian_policy::RegionPolicy| {
                    self.feed.policy().is_none_or(|told| told.revision <= policy.revision)
                };
                if let Some(policy) = written.filter(newer) {
                    self.feed.publish(&policy);
                }
            }
            (SECRET, stack::plan::components::OPERATOR_CERTIFICATE) => {
                if let Some(secret) = cache.get(key) {
                    let data = secrets::content(&crate::apply::observed(&secret));
                    if let Err(error) = self.identity.install(&region, &data) {
                        tracing::error!(error = %error, "the policy feed cannot be served");
                    }
                }
            }
            _ => {}
        }
    }
}

/// The region of the only RegionStack; `None` when there are none or several.
pub(crate) fn only_region(cache: &Cache) -> Option<RegionName> {
    let stacks = cache.of_kind(REGION_STACK);
    let [(key, _)] = stacks.as_slice() else { return None };
    key.name.parse().ok()
}

fn watch_everything(
    tasks: &mut Tasks,
    client: &Client,
    cache: &Cache,
    queues: &Queues,
    readiness: &Readiness,
    mirror: &Mirror,
    operators: Operators,
) {
    let selections = WRITTEN
        .iter()
        .copied()
        .chain(operators.kinds())
        .map(Selection::managed)
        .chain(OPTIONAL.iter().map(|kind| Selection::managed(*kind).optional()))
        .chain(ASKED.iter().map(|kind| Selection::all(*kind)));
    for selection in selections {
        let (queues, mirror, seen) = (queues.clone(), mirror.clone(), cache.clone());
        let on_change: OnChange = Arc::new(move |key, change| {
            let object = change.object();
            mirror.changed(&seen, key);
            if key.kind == REGION_STACK {
                // What came before the stack was known could not be told apart; look at it again.
                for (key, _) in [CONFIG_MAP, SECRET].into_iter().flat_map(|kind| seen.of_kind(kind)) {
                    mirror.changed(&seen, &key);
                }
            }
            queues.changed(key, object);
        });
        let name = selection.kind.plural;
        let (closes, follows) = (
            readiness.closes_at_the_end("caches"),
            follow(client.clone(), selection, cache.clone(), on_change),
        );
        tasks.spawn_until_shutdown(name, async move {
            let _closes = closes;
            follows.await;
        });
    }
}

async fn listed(cache: &Cache) {
    cache.synced(WRITTEN).await;
    cache.synced(ASKED).await;
}

async fn caches_known(cache: Cache, readiness: Readiness, shutdown: CancellationToken) -> Result<(), String> {
    if shutdown.run_until_cancelled(listed(&cache)).await.is_some() {
        readiness.open("caches");
        shutdown.cancelled().await;
    }
    Ok(())
}

/// Asks for a pass once a kind of another operator's is served: nobody waits for it, and who needs it is held until then.
async fn other_operators(cache: Cache, operators: Operators, stacks: Queue<String>) {
    let served = operators.kinds().into_iter().map(|kind| {
        let (cache, stacks) = (cache.clone(), stacks.clone());
        async move {
            cache.synced(&[kind]).await;
            for (key, _) in cache.of_kind(REGION_STACK) {
                stacks.after(key.name, SETTLE);
            }
        }
    });
    futures::future::join_all(served).await;
    std::future::pending().await
}

/// Asks for a pass whenever the policy lease comes or goes, so that status says it.
async fn lease_changes(feed: Feed, queues: Queues, served: Served, shutdown: CancellationToken) -> Result<(), String> {
    let (mut leases, mut valid) = (feed.leases(), false);
    while let Some(Ok(())) = shutdown.run_until_cancelled(leases.changed()).await {
        leases.mark_unchanged();
        let now = feed.lease_valid();
        if now != valid {
            valid = now;
            if let Some(region) = served.get() {
                queues.stacks.now(region.to_string());
            }
        }
    }
    Ok(())
}

struct Serving {
    applier: Applier,
    feed: Feed,
    token_keys: TokenKeys,
    stacks: Queue<String>,
}

/// Serves the policy feed as soon as there is a certificate for it.
async fn serve_feed(
    serving: Serving,
    identity: Identity,
    listen: SocketAddr,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let Some(tls) = shutdown.run_until_cancelled(identity.tls()).await else {
        return Ok(());
    };
    let tls: Tls = tls.map_err(|error| error.to_string())?;
    let config = tls
        .server_config(Accept::OwnRegion)
        .map_err(|error| error.to_string())?;
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .map_err(|error| format!("{listen}: {error}"))?;
    let acks = Acks::new(serving.applier.clone(), tls.region().clone());
    let backlogs = Backlogs::new(serving.applier.clone(), tls.region().clone());
    let verifications = Verifications::new(serving.applier, tls.region().clone());
    let router = feed::router(serving.feed, acks, backlogs, verifications, metrics);
    let server = meridian_kit::server::serve_mtls(listener, router, Arc::new(config), shutdown.clone());
    let keys = serving.token_keys.follow(tls.clone(), serving.stacks, shutdown.clone());
    let (served, (), ()) = tokio::join!(server, keys, tls.watch(shutdown.clone()));
    served.map_err(|error| error.to_string())
}
