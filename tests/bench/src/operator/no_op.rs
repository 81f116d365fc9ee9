//! What a reconcile costs that has nothing to change: the region role's pass over the demo's eu region, on a real API
//! server, with every object there and Ready.
//!
//! Each pass follows what most passes follow in life: an event of a workload, seen anew with nothing of ours changed.
//! Requests are counted in the client, so nothing that the API server does on its own is taken for ours. The rate is by
//! processor time of this process, watches included: what one core could do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use meridian_operator::apply::Applier;
use meridian_operator::election::Leadership;
use meridian_operator::events::Events;
use meridian_operator::manifest::{DEPLOYMENT, JOB, Kind, ObjectKey, REGION_STACK, STATEFUL_SET};
use meridian_operator::metrics::Metrics;
use meridian_operator::reconcile::Outcome;
use meridian_operator::region::identity::TokenKeys;
use meridian_operator::region::policy::feed::Feed;
use meridian_operator::region::stack::kept::Kept;
use meridian_operator::region::stack::validate::NodePorts;
use meridian_operator::region::stack::{Served, Stacks};
use meridian_operator::region::{ASKED, WRITTEN};
use meridian_operator::watch::{Cache, OnChange, Selection, follow};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::servers::{Requests, Server, Servers};
use super::stack;
use crate::process;
use crate::report::{Bound, Metric, Report};

const REGION: &str = "no-op";
const SPACE: &str = "meridian-no-op";
/// Kinds that a controller or a kubelet would report about.
const WORKLOADS: &[Kind] = &[DEPLOYMENT, STATEFUL_SET, JOB];
/// How long passes are counted, in processor time.
const MEASURED: Duration = Duration::from_secs(5);
/// How long the region may take to become Ready.
const LIMIT: Duration = Duration::from_secs(120);

/// Measures the cost of a pass that changes nothing.
///
/// # Errors
/// When the region does not become Ready, or a pass that should change nothing does.
pub async fn measure(servers: &Servers, report: &mut Report) -> Result<()> {
    let server = servers.members.first().context("an API server")?;
    let role = Role::start(server).await?;
    role.settle().await?;

    let own = std::process::id();
    let (reads, writes) = role.requests.so_far();
    let before = process::cpu_time(own)?;
    let workloads = role.workloads();
    let mut passes = 0_u32;
    let used = loop {
        let turn = passes as usize % workloads.len().max(1);
        role.see_anew(workloads.get(turn).context("no workload was laid down")?)?;
        if role.pass().await? != Outcome::Steady {
            bail!("a pass over a region that is as planned found something to do");
        }
        passes += 1;
        let used = process::cpu_time(own)?.saturating_sub(before);
        if used >= MEASURED {
            break used;
        }
    };
    let (reads, writes) = (role.requests.so_far().0 - reads, role.requests.so_far().1 - writes);
    report.add(Metric::own(
        "region role: API writes per no-op reconcile",
        per(writes, passes),
        "requests",
        Bound::AtMost(0.0),
    ))?;
    report.add(Metric::own(
        "region role: API reads per no-op reconcile",
        per(reads, passes),
        "requests",
        Bound::AtMost(0.0),
    ))?;
    report.add(Metric::own(
        "region role: no-op reconciles per second of one core",
        f64::from(passes) / used.as_secs_f64(),
        "1/s",
        Bound::AtLeast(1000.0),
    ))
}

#[expect(clippy::cast_precision_loss, reason = "a count of requests in a few seconds")]
fn per(requests: u64, passes: u32) -> f64 {
    requests as f64 / f64::from(passes.max(1))
}

/// A region role: its caches, its writer, and the stack that it is asked for.
struct Role {
    server: Server,
    stacks: Stacks,
    requests: Requests,
    // Its watches; they end with it.
    _watches: JoinSet<()>,
}

impl Role {
    async fn start(server: &Server) -> Result<Self> {
        server.put(REGION_STACK, &stack::packed_region_stack(REGION)?).await?;
        let (client, requests) = server.counted().await?;
        let (cache, metrics) = (Cache::default(), Metrics::default());
        let quiet: OnChange = Arc::new(|_, _| {});
        let mut watches = JoinSet::new();
        let managed = WRITTEN.iter().map(|kind| Selection::managed(*kind));
        for selection in managed.chain(ASKED.iter().map(|kind| Selection::all(*kind))) {
            watches.spawn(follow(client.clone(), selection, cache.clone(), quiet.clone()));
        }
        cache.synced(WRITTEN).await;
        cache.synced(ASKED).await;
        let stacks = Stacks {
            applier: Applier::new(client.clone(), cache, Leadership::alone(), metrics.clone()),
            events: Events::new(client, "meridian-bench", "meridian-bench", metrics),
            images: stack::images(),
            node_ports: NodePorts::Allocated,
            feed: Feed::default(),
            token_keys: TokenKeys::default(),
            served: Served::fixed(Some(REGION.parse()?)),
            reported: Arc::default(),
            kept: Kept::default(),
        };
        Ok(Self {
            server: server.clone(),
            stacks,
            requests,
            _watches: watches,
        })
    }

    async fn pass(&self) -> Result<Outcome> {
        Ok(self.stacks.clone().reconcile(REGION.to_owned()).await?.outcome)
    }

    /// Workloads and jobs of the region.
    fn workloads(&self) -> Vec<ObjectKey> {
        let cache = self.stacks.applier.cache();
        let all = WORKLOADS.iter().flat_map(|kind| cache.of_kind(*kind));
        let here = all.filter(|(key, _)| key.namespace.as_deref() == Some(SPACE));
        here.map(|(key, _)| key).collect()
    }

    /// As when a watch brings an object in again: the same, in a later version.
    fn see_anew(&self, key: &ObjectKey) -> Result<()> {
        let cache = self.stacks.applier.cache();
        let mut object = cache.get(key).context("a workload is gone")?.as_ref().clone();
        let version = object.resource_version().unwrap_or_default();
        let version: u64 = version
            .parse()
            .with_context(|| format!("the version of {key}: {version}"))?;
        object.metadata.resource_version = Some((version + 1).to_string());
        cache.put(key.clone(), object);
        Ok(())
    }

    /// Passes, with somebody who says that every workload is fine, until there is nothing left to do.
    async fn settle(&self) -> Result<()> {
        let (began, mut told) = (Instant::now(), BTreeSet::new());
        while self.pass().await? != Outcome::Steady {
            for key in self.workloads() {
                let Some(object) = self.stacks.applier.cache().get(&key) else {
                    continue;
                };
                let generation = object.metadata.generation.unwrap_or(1);
                if told.insert((key.clone(), generation)) {
                    self.report_done(&key, &object.data["spec"], generation).await?;
                }
            }
            if began.elapsed() > LIMIT {
                let stack = self.server.get(&ObjectKey::cluster(REGION_STACK, REGION)).await?;
                let conditions = stack.map(|stack| stack.data["status"]["conditions"].clone());
                bail!("the region is not Ready within {} s: {conditions:?}", LIMIT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn report_done(&self, key: &ObjectKey, spec: &Value, generation: i64) -> Result<()> {
        let status = json!({"status": done(key.kind, spec, generation)});
        self.server
            .api(key.kind, key.namespace.as_deref().unwrap_or_default())
            .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .with_context(|| format!("the status of {key}"))?;
        Ok(())
    }
}

/// What a controller says of a workload whose pods are all ready, or of a job that has succeeded.
fn done(kind: Kind, spec: &Value, generation: i64) -> Value {
    let replicas = spec["replicas"].as_i64().unwrap_or(1);
    match kind {
        JOB => json!({
            "conditions": [
                {"type": "SuccessCriteriaMet", "status": "True", "reason": "CompletionsReached",
                    "lastProbeTime": "2026-01-01T00:00:01Z", "lastTransitionTime": "2026-01-01T00:00:01Z"},
                {"type": "Complete", "status": "True", "reason": "CompletionsReached",
                    "lastProbeTime": "2026-01-01T00:00:01Z", "lastTransitionTime": "2026-01-01T00:00:01Z"},
            ],
            "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:01Z", "succeeded": 1,
        }),
        STATEFUL_SET => json!({
            "observedGeneration": generation, "replicas": replicas, "readyReplicas": replicas,
            "availableReplicas": replicas, "currentReplicas": replicas, "updatedReplicas": replicas,
        }),
        _ => json!({
            "observedGeneration": generation, "replicas": replicas, "readyReplicas": replicas,
            "availableReplicas": replicas, "updatedReplicas": replicas,
        }),
    }
}
