//! Row 10: `kill -9` of PostgreSQL, Kafka, the keyring, each service and the region's operator, one after the other, while
//! all services are written to. Nothing acknowledged is lost and nothing is there twice.
//!
//! A part serves again when something that was begun after it was killed, and that cannot be without it, is acknowledged.

mod read_back;
mod writers;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};

use self::writers::{Journal, Kind};
use crate::node::{self, docker};
use crate::rows::{OPERATORS, Outcome};
use crate::world::{Site, World, until};

/// For the whole row.
const ROW: Duration = Duration::from_secs(330);
/// For one part.
const SERVES: Duration = Duration::from_secs(60);
/// For all of them; the rest of the row's time is for reading back.
const ALL_SERVE: Duration = Duration::from_secs(270);
/// A container that ended less than this ago is started anew with a delay that grows, which says nothing of the part.
const FORGOTTEN: SignedDuration = SignedDuration::from_mins(11);

/// Something that can be killed.
struct Part {
    name: &'static str,
    label: &'static str,
    proof: Proof,
}

/// What shows that it serves.
enum Proof {
    /// Each of these writes is acknowledged.
    Acknowledges(&'static [Kind]),
    /// A batch that was acknowledged afterwards is in the database.
    Stores,
    /// It is ready: nothing that it does is asked for from outside.
    Ready,
    /// It renews its lease.
    Leads,
}

const STORED_IN_POSTGRES: &[Kind] = &[
    Kind::Account,
    Kind::Consent,
    Kind::Workout,
    Kind::Follow,
    Kind::Campaign,
];
const PARTS: &[Part] = &[
    service("postgres", "app.kubernetes.io/name=postgres", STORED_IN_POSTGRES),
    service("kafka", "app.kubernetes.io/name=kafka", &[Kind::Batch]),
    // An account needs a key that nobody has seen yet.
    service("keyring", "app.kubernetes.io/name=keyring", &[Kind::Account]),
    service("identity", "app.kubernetes.io/name=identity", &[Kind::Account]),
    service("consent", "app.kubernetes.io/name=consent", &[Kind::Consent]),
    service("training", "app.kubernetes.io/name=training", &[Kind::Workout]),
    service("telemetry", "app.kubernetes.io/name=telemetry", &[Kind::Batch]),
    Part {
        name: "telemetry-writer",
        label: "meridian.sh/component=telemetry-writer",
        proof: Proof::Stores,
    },
    service("social", "app.kubernetes.io/name=social", &[Kind::Follow]),
    service("promotions", "app.kubernetes.io/name=promotions", &[Kind::Campaign]),
    Part {
        name: "replicator",
        label: "app.kubernetes.io/name=replicator",
        proof: Proof::Ready,
    },
    service("gateway", "app.kubernetes.io/name=gateway", Kind::ALL),
    Part {
        name: "operator",
        label: "app.kubernetes.io/name=meridian-operator",
        proof: Proof::Leads,
    },
];

const fn service(name: &'static str, label: &'static str, kinds: &'static [Kind]) -> Part {
    Part {
        name,
        label,
        proof: Proof::Acknowledges(kinds),
    }
}

pub async fn prove(world: &World) -> Result<Outcome> {
    let proved = tokio::time::timeout(ROW, killed_while_written_to(world)).await;
    proved.with_context(|| format!("not proved within {} s", ROW.as_secs()))?
}

async fn killed_while_written_to(world: &World) -> Result<Outcome> {
    let eu = &world.eu;
    let journal = Journal::default();
    let people = writers::People::gather(eu).await?;
    let (took, written) = tokio::try_join!(kill_all(eu, &journal), writers::write_all(eu, &people, &journal))?;
    let kept = written.read_back(eu, &people).await?;
    Ok(Outcome::Proved(format!(
        "serving again after {took}; {kept}, all there once; {} requests repeated",
        journal.repeated.get()
    )))
}

/// Kills one part after the other and tells how long each was away. The writers stop when it is over.
async fn kill_all(site: &Site, journal: &Journal) -> Result<String> {
    let began = Instant::now();
    let mut took = String::new();
    for kind in Kind::ALL {
        acknowledged(journal, *kind, began, SERVES)
            .await
            .context("before anything was killed")?;
    }
    for part in PARTS {
        let left = ALL_SERVE.saturating_sub(began.elapsed());
        let away = kill(site, journal, part, left.min(SERVES))
            .await
            .with_context(|| format!("{} was killed (before it: {took})", part.name))?;
        eprintln!("    {} serves again after {:.1} s", part.name, away.as_secs_f64());
        let comma = if took.is_empty() { "" } else { ", " };
        write!(took, "{comma}{} {:.1} s", part.name, away.as_secs_f64())?;
    }
    journal.stop.set(true);
    Ok(took)
}

/// Kills it and waits until it serves again; then also until all its pods are ready, which is not counted.
async fn kill(site: &Site, journal: &Journal, part: &Part, limit: Duration) -> Result<Duration> {
    renew(site, part, limit).await?;
    let before = containers(site, part).await?;
    ensure!(!before.is_empty(), "{} has no pod", part.name);
    for container in &before {
        container.kill(site).await?;
    }
    // The demo runs on this machine: its clock is ours.
    let (killed, killed_at) = (Instant::now(), Timestamp::now());
    match part.proof {
        Proof::Acknowledges(kinds) => {
            for kind in kinds {
                acknowledged(journal, *kind, killed, limit).await?;
            }
        }
        Proof::Stores => stored(site, journal, killed, limit).await?,
        Proof::Ready => restarted(site, part, &before, limit).await?,
        Proof::Leads => leads(site, killed_at, limit).await?,
    }
    let away = killed.elapsed();
    restarted(site, part, &before, limit).await?;
    Ok(away)
}

/// Kills one of the parts, whichever the number says, and waits for nothing. Gives its name.
pub(super) async fn kill_any(site: &Site, number: usize) -> Result<&'static str> {
    let part = &PARTS[number % PARTS.len()];
    renew(site, part, ROW).await?;
    for container in containers(site, part).await? {
        container.kill(site).await?;
    }
    Ok(part.name)
}

/// Gives a part whose containers ended lately new pods.
async fn renew(site: &Site, part: &Part, limit: Duration) -> Result<()> {
    let lately = Timestamp::now() - FORGOTTEN;
    let ended_lately = |pod: &Pod| {
        let last = status(pod).and_then(|status| status.last_state.as_ref()?.terminated.as_ref());
        last.is_some_and(|ended| ended.finished_at.as_ref().is_none_or(|at| at.0 > lately))
    };
    let old: Vec<Pod> = pods(site, part).await?.into_iter().filter(ended_lately).collect();
    let api = api(site, part);
    for pod in &old {
        api.delete(&pod.name_any(), &DeleteParams::default()).await?;
    }
    until(limit, "new pods in place of those that ended lately", || async {
        let now = pods(site, part).await?;
        let gone = !now.iter().any(|pod| old.iter().any(|old| old.uid() == pod.uid()));
        let ready = now.iter().all(|pod| status(pod).is_some_and(|status| status.ready));
        Ok((gone && ready && !now.is_empty()).then_some(()))
    })
    .await
}

/// Waits for a write that was begun after that moment.
async fn acknowledged(journal: &Journal, kind: Kind, after: Instant, limit: Duration) -> Result<()> {
    until(limit, &format!("an acknowledged {kind:?}"), || async {
        Ok(journal.last(kind).is_some_and(|begun| begun > after).then_some(()))
    })
    .await
}

async fn stored(site: &Site, journal: &Journal, after: Instant, limit: Duration) -> Result<()> {
    acknowledged(journal, Kind::Batch, after, limit).await?;
    let acknowledged = journal.count(Kind::Batch);
    until(limit, "an acknowledged batch in the database", || async {
        let stored = read_back::stored_batches(site, journal.track).await?;
        if stored < acknowledged {
            bail!("{stored} of {acknowledged} batches are stored");
        }
        Ok(Some(()))
    })
    .await
}

/// The region's lease, renewed after that moment.
async fn leads(site: &Site, after: Timestamp, limit: Duration) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(site.cluster.client.clone(), OPERATORS);
    until(limit, "the operator's lease renewed", || async {
        let spec = leases.get("meridian-region").await?.spec;
        let renewed = spec.and_then(|spec| spec.renew_time);
        Ok(renewed.is_some_and(|time| time.0 > after).then_some(()))
    })
    .await
}

/// A container of a part, as it ran before it was killed.
struct Container {
    pod: String,
    id: String,
    restarts: i32,
}

fn api(site: &Site, part: &Part) -> Api<Pod> {
    let namespace = match part.proof {
        Proof::Leads => OPERATORS.to_owned(),
        _ => site.namespace(),
    };
    Api::namespaced(site.cluster.client.clone(), &namespace)
}

async fn pods(site: &Site, part: &Part) -> Result<Vec<Pod>> {
    Ok(api(site, part)
        .list(&ListParams::default().labels(part.label))
        .await?
        .items)
}

/// The one container of a pod.
fn status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

async fn containers(site: &Site, part: &Part) -> Result<Vec<Container>> {
    let pods = pods(site, part).await?;
    let running = pods.iter().filter_map(|pod| {
        let status = status(pod)?;
        Some(Container {
            pod: pod.metadata.name.clone()?,
            id: node::container(pod)?.to_owned(),
            restarts: status.restart_count,
        })
    });
    Ok(running.collect())
}

impl Container {
    /// SIGKILL to the container's own first process, by the container's id. Nothing is told to it, to the kubelet or to the
    /// API server.
    async fn kill(&self, site: &Site) -> Result<()> {
        let node = node::name(site.region);
        let kill = node::task(&node, &["kill", "--signal", "SIGKILL", &self.id]);
        docker(&kill)
            .await
            .map(drop)
            .with_context(|| format!("{} was not killed", self.pod))
    }
}

/// Waits until each container that was killed has been started anew and is ready.
async fn restarted(site: &Site, part: &Part, before: &[Container], limit: Duration) -> Result<()> {
    until(limit, "its pods started anew and ready", || async {
        let pods = pods(site, part).await?;
        for container in before {
            let pod = pods
                .iter()
                .find(|pod| pod.metadata.name.as_deref() == Some(&container.pod));
            let Some(status) = pod.and_then(status) else {
                // The pool took a writer away meanwhile.
                continue;
            };
            if status.restart_count <= container.restarts || !status.ready {
                bail!(
                    "{}: {} restarts, ready: {}",
                    container.pod,
                    status.restart_count,
                    status.ready
                );
            }
        }
        Ok(Some(()))
    })
    .await
}
