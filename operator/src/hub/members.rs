//! The member clusters: a client each, a cache each, and whether they answer.
//!
//! A member is connected by the kubeconfig in its Secret and again whenever that changes; the old connection's watches end
//! with it. One member that does not answer degrades its own region and holds up nothing else: every request to it is
//! bounded, and what was last seen of it stays readable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use kube::Client;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::adopt::claim::{Claim, Claimant, Holder};
use super::source::Seen;
use crate::apply::Applier;
use crate::election::Leadership;
use crate::manifest::{INGEST_POOL, Kind, NODE, ObjectKey, REGION_LABEL, REGION_STACK, TENANT_PLACEMENT};
use crate::member::{MemberError, connect};
use crate::metrics::Metrics;
use crate::watch::{Cache, OnChange, Selection, follow};

/// How often a member is asked whether it is there.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How long it may take to answer that.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// How long a member that answers may take to be listed before all others go on without it.
const AWAITED: Duration = Duration::from_secs(30);
/// What the hub reads in a member.
pub const OBSERVED: &[Kind] = &[REGION_STACK, TENANT_PLACEMENT, INGEST_POOL, NODE];

/// What is told of a member.
#[derive(Clone, Copy, Debug)]
pub enum MemberChange<'a> {
    /// It is seen otherwise as a whole: it answers or does not, or has been listed.
    Whole,
    /// One of its objects is told of.
    Object {
        /// Which.
        key: &'a ObjectKey,
        /// It is as the hub has written it itself.
        known: bool,
    },
}

/// Hears the name of a member in which something that the hub reads has changed, and what.
pub type OnMemberChange = Arc<dyn Fn(&str, MemberChange<'_>) + Send + Sync>;

/// Whether a member answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not asked yet.
    Unknown,
    /// The last probe was answered.
    Reachable,
    /// It was not; why.
    Unreachable(String),
}

/// Makes a client for the member with this name, of its kubeconfig.
pub type Connector = Arc<dyn Fn(String, String) -> BoxFuture<'static, Result<Client, MemberError>> + Send + Sync>;

/// The one that reaches members over the network.
#[must_use]
pub fn connector() -> Connector {
    Arc::new(|name, kubeconfig| Box::pin(async move { connect(&name, &kubeconfig).await }))
}

/// A connected member.
pub struct Member {
    /// Name of the cluster.
    pub name: String,
    /// Writes into it and remembers what is there.
    pub applier: Applier,
    fingerprint: [u8; 32],
    since: Instant,
    health: Arc<Mutex<Health>>,
    claim: Option<Claim>,
    stop: CancellationToken,
}

impl Member {
    /// Whether it answers, as of the last probe.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is there.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        self.applier.cache()
    }

    /// Whether everything the hub reads has been listed once, and it was looked which hub writes there.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.cache().is_synced(OBSERVED) && self.holder() != Holder::Unasked
    }

    /// Which hub writes there. Where nobody claims members, nobody else does either.
    #[must_use]
    pub fn holder(&self) -> Holder {
        self.claim.as_ref().map_or(Holder::Us, Claim::holder)
    }
}

/// All members, by name of the cluster. Clones share them.
#[derive(Clone)]
pub struct Members {
    connected: Arc<Mutex<BTreeMap<String, Arc<Member>>>>,
    refused: Arc<Mutex<BTreeSet<String>>>,
    claimant: Arc<OnceLock<Claimant>>,
    leadership: Leadership,
    metrics: Metrics,
    on_change: OnMemberChange,
    connector: Connector,
    spawn: mpsc::UnboundedSender<MemberTask>,
}

/// A watch or a probe of one member.
pub struct MemberTask {
    stop: CancellationToken,
    work: BoxFuture<'static, ()>,
}

impl Members {
    /// The receiver goes to [`run_tasks`].
    #[must_use]
    pub fn new(
        leadership: Leadership,
        metrics: Metrics,
        on_change: OnMemberChange,
        connector: Connector,
    ) -> (Self, mpsc::UnboundedReceiver<MemberTask>) {
        // Bounded by the number of members times the few kinds of OBSERVED: a task is sent only on a new connection.
        let (spawn, tasks) = mpsc::unbounded_channel();
        (
            Self {
                connected: Arc::default(),
                refused: Arc::default(),
                claimant: Arc::default(),
                leadership,
                metrics,
                on_change,
                connector,
                spawn,
            },
            tasks,
        )
    }

    /// Members that are connected from now on are claimed for this hub before anything is written there. Only the first call
    /// counts.
    pub fn claim_as(&self, claimant: Claimant) {
        self.claimant.get_or_init(|| claimant);
    }

    /// The member as it is connected now.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Member>> {
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// The member, connected by this kubeconfig: a new connection only if the kubeconfig has changed, or other regions
    /// lie there than before. Of `regions` alone it is read what the hub has written.
    ///
    /// # Errors
    /// When the kubeconfig is refused or no client can be made of it.
    pub async fn ensure(
        &self,
        name: &str,
        kubeconfig: &str,
        regions: &BTreeSet<String>,
    ) -> Result<Arc<Member>, MemberError> {
        let regions: Vec<&str> = regions.iter().map(String::as_str).collect();
        let labels = format!("{REGION_LABEL} in ({})", regions.join(","));
        let fingerprint: [u8; 32] = Sha256::new()
            .chain_update(&labels)
            .chain_update([0])
            .chain_update(kubeconfig)
            .finalize()
            .into();
        if let Some(known) = self.get(name).filter(|member| member.fingerprint == fingerprint) {
            return Ok(known);
        }
        let client = (self.connector)(name.to_owned(), kubeconfig.to_owned()).await?;
        let claim = self.claimant.get();
        let claim = claim.map(|claimant| Claim::new(claimant.clone(), &self.leadership));
        let leadership = claim
            .as_ref()
            .map_or_else(|| self.leadership.clone(), Claim::leadership);
        let member = Arc::new(Member {
            name: name.to_owned(),
            applier: Applier::new(
                client.clone(),
                Cache::packing(&[REGION_STACK, TENANT_PLACEMENT]),
                leadership,
                self.metrics.clone(),
            ),
            fingerprint,
            since: Instant::now(),
            health: Arc::new(Mutex::new(Health::Unknown)),
            claim,
            stop: CancellationToken::new(),
        });
        self.begin(&member, client, &labels);
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let replaced = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), member.clone());
        if let Some(old) = replaced {
            old.stop.cancel();
        }
        tracing::info!(member = name, "member connected");
        Ok(member)
    }

    /// There is no way to ask this member: its kubeconfig is missing or refused. An earlier connection ends.
    pub fn refuse(&self, name: &str) {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned());
        if let Some(old) = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name)
        {
            old.stop.cancel();
            tracing::warn!(member = name, "member disconnected");
        }
    }

    /// Forgets members that no region names any more: their watches and probes end, and what was seen of them goes with
    /// them. One that is named again is connected anew.
    pub fn retain(&self, named: &BTreeSet<String>) {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name| named.contains(name));
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, member| {
                let kept = named.contains(name);
                if !kept {
                    member.stop.cancel();
                    // A probe that is just done says nothing from now on, or has said it.
                    let _said = member.health.lock().unwrap_or_else(PoisonError::into_inner);
                    self.metrics.member_gone(name);
                    tracing::info!(member = %name, "member forgotten");
                }
                kept
            });
    }

    /// Whether waiting could tell more about this member: false when it has been listed, does not answer, cannot be asked
    /// at all, or answers but has not let itself be listed for long. One that is half installed must not keep a revocation
    /// from all the others.
    #[must_use]
    pub fn is_awaited(&self, name: &str) -> bool {
        match self.get(name) {
            Some(member) => {
                let unreachable = matches!(member.health(), Health::Unreachable(_));
                !member.is_known() && !unreachable && member.since.elapsed() < AWAITED
            }
            None => !self
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(name),
        }
    }

    /// What is known of this member, for [`super::source::gather`].
    #[must_use]
    pub fn seen(&self, name: &str) -> Seen {
        Seen {
            held: self.get(name).map(|member| member.cache().clone()),
            awaited: self.is_awaited(name),
        }
    }

    fn begin(&self, member: &Arc<Member>, client: Client, labels: &str) {
        let (name, tell) = (member.name.clone(), self.on_change.clone());
        let on_change: OnChange = Arc::new(move |key, change| {
            let known = change.is_known();
            tell(&name, MemberChange::Object { key, known });
        });
        for kind in OBSERVED {
            let selection = Selection {
                // A node belongs to no region; everything else was written by a hub, with its region's label.
                labels: if *kind == NODE {
                    String::new()
                } else {
                    labels.to_owned()
                },
                ..Selection::all(*kind)
            };
            let work = follow(client.clone(), selection, member.cache().clone(), on_change.clone());
            self.run(&member.stop, work);
        }
        // The last listing may hold nothing, and then no change tells that the member is known now.
        let (name, tell, cache) = (member.name.clone(), self.on_change.clone(), member.cache().clone());
        let listed = async move {
            cache.synced(OBSERVED).await;
            tell(&name, MemberChange::Whole);
            std::future::pending().await
        };
        self.run(&member.stop, Box::pin(listed));
        if let Some(claim) = member.claim.clone() {
            let (name, tell) = (member.name.clone(), self.on_change.clone());
            let kept = claim.keep(client.clone(), move || tell(&name, MemberChange::Whole));
            self.run(&member.stop, Box::pin(kept));
        }
        let probe = probe(
            member.name.clone(),
            client,
            member.health.clone(),
            member.stop.clone(),
            self.metrics.clone(),
            self.on_change.clone(),
        );
        self.run(&member.stop, Box::pin(probe));
    }

    fn run(&self, stop: &CancellationToken, work: BoxFuture<'static, ()>) {
        // The receiver lives as long as the process; when it is gone, the process is ending.
        let _ = self.spawn.send(MemberTask {
            stop: stop.clone(),
            work,
        });
    }
}

/// Runs the members' watches and probes. One that ends without having been told to is an error, which ends the process.
///
/// # Errors
/// Which task ended.
pub async fn run_tasks(
    mut tasks: mpsc::UnboundedReceiver<MemberTask>,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            task = tasks.recv() => {
                let Some(MemberTask { stop, work }) = task else { return Ok(()) };
                running.spawn(async move { stop.run_until_cancelled(work).await.is_none() });
            }
            Some(ended) = running.join_next() => match ended {
                Ok(true) => {}
                Ok(false) => return Err("a member's watch returned".to_owned()),
                Err(panic) => return Err(format!("a member's task panicked: {panic}")),
            }
        }
    }
}

async fn probe(
    name: String,
    client: Client,
    health: Arc<Mutex<Health>>,
    stop: CancellationToken,
    metrics: Metrics,
    on_change: OnMemberChange,
) {
    loop {
        let seen = match tokio::time::timeout(PROBE_LIMIT, client.apiserver_version()).await {
            Ok(Ok(_)) => Health::Reachable,
            Ok(Err(error)) => Health::Unreachable(error.to_string()),
            Err(_) => Health::Unreachable(format!("no answer within {} s", PROBE_LIMIT.as_secs())),
        };
        let changed = {
            let mut known = health.lock().unwrap_or_else(PoisonError::into_inner);
            if !stop.is_cancelled() {
                metrics.member_reachable(&name, seen == Health::Reachable);
            }
            let changed = std::mem::discriminant(&*known) != std::mem::discriminant(&seen);
            *known = seen;
            changed
        };
        if changed {
            on_change(&name, MemberChange::Whole);
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}
