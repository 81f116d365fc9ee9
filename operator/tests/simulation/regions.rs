//! In the place of the regions' own operators and replicators: they obey, each after a while, refuse what goes backwards, and
//! acknowledge every edge that is cut.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

use crate::api::Server;
use crate::api::request::Ask;
use crate::process::Process;

const STACKS: &str = "meridian.sh/regionstacks";

/// What a region's replicator knows of edges: by region, edge and role, the acknowledgement once it is cut.
type Cuts = BTreeMap<(String, String, &'static str), Option<Value>>;

pub async fn obey(server: Arc<Server>) {
    let process = Process::new("somebody's region");
    let (mut cuts, mut due) = (Cuts::new(), BTreeMap::<(String, u64), Instant>::new());
    let mut looked = server.store().version();
    let mut seen = None;
    loop {
        let version = server.store().version();
        let is_due = |at: &Instant| seen.is_none_or(|(_, then)| *at > then) && *at <= Instant::now();
        if seen.is_some_and(|(known, _)| known == version) && !due.values().any(is_due) {
            sleep(Duration::from_millis(200)).await;
            continue;
        }
        seen = Some((version, Instant::now()));
        // No edge is so short that its replicator has not had it.
        loop {
            let event = server.store().after(STACKS, looked);
            match event {
                Ok(Some(event)) => {
                    looked = event.version;
                    if let Some(stack) = &event.after {
                        open(&mut cuts, &event.key.name, stack);
                    }
                }
                Ok(None) => break,
                Err(()) => looked = server.store().version(),
            }
        }
        let stacks = server.store().all(STACKS);
        for (key, stack) in stacks {
            if !stack["metadata"]["deletionTimestamp"].is_null() {
                continue;
            }
            open(&mut cuts, &key.name, &stack);
            let revision = stack["spec"]["revision"].as_u64().unwrap_or_default();
            let lag = || {
                Duration::from_millis(server.faults.draw(|rng| {
                    if rng.u8(..8) == 0 {
                        rng.u64(..15_000)
                    } else {
                        rng.u64(..500)
                    }
                }))
            };
            let at = *due
                .entry((key.name.clone(), revision))
                .or_insert_with(|| Instant::now() + lag());
            let applied = stack["status"]["appliedRevision"].as_u64().unwrap_or_default();
            if Instant::now() < at || revision < applied {
                continue;
            }
            let status = json!({
                "namespaceReady": true, "appliedRevision": revision, "caBundle": format!("the CA of {}", key.name),
                "jwks": {"keys": []}, "acks": acknowledged(&mut cuts, &key.name, &stack),
                "conditions": [condition(&stack, "Ready"), condition(&stack, "DataPlaneReady")],
            });
            let same = status
                .as_object()
                .into_iter()
                .flatten()
                .all(|(name, value)| stack["status"][name.as_str()] == *value);
            if !same {
                let namespace = format!("meridian-{}", key.name);
                let _ = server.perform(
                    &process,
                    &Ask::create("/namespaces", "", json!({"metadata": {"name": namespace}})),
                );
                let told = Ask::merge_status(STACKS, &key.name, json!({"status": status}));
                let _ = server.perform(&process, &told);
            }
        }
        server.store().purge_namespaces();
        server.tell();
        sleep(Duration::from_millis(200)).await;
    }
}

fn condition(stack: &Value, kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "AsPlanned", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": stack["metadata"]["generation"]})
}

fn edges(stack: &Value) -> impl Iterator<Item = (&'static str, &str)> {
    [("exporter", "exports"), ("importer", "imports")]
        .into_iter()
        .flat_map(move |(role, way)| {
            let list = stack["spec"]["policy"][way].as_array().into_iter().flatten();
            list.filter_map(move |edge| Some((role, edge["id"].as_str()?)))
        })
}

fn open(cuts: &mut Cuts, region: &str, stack: &Value) {
    for (role, edge) in edges(stack) {
        cuts.insert((region.to_owned(), edge.to_owned(), role), None);
    }
}

/// Also what came and went unseen, and anew what did so since, where the hub asks about it.
fn asked(cuts: &mut Cuts, region: &str, stack: &Value) {
    for edge in stack["spec"]["policy"]["closing"].as_array().into_iter().flatten() {
        let role = if edge["from"] == region { "exporter" } else { "importer" };
        let key = (
            region.to_owned(),
            edge["id"].as_str().unwrap_or_default().to_owned(),
            role,
        );
        let ack = cuts.entry(key).or_default();
        if ack
            .as_ref()
            .is_some_and(|ack| ack["revision"].as_u64() <= edge["revision"].as_u64())
        {
            *ack = None;
        }
    }
}

fn acknowledged(cuts: &mut Cuts, region: &str, stack: &Value) -> Vec<Value> {
    asked(cuts, region, stack);
    let open: BTreeSet<_> = edges(stack).collect();
    let mut acks = Vec::new();
    for ((of, edge, role), ack) in cuts {
        if of != region {
            continue;
        }
        if !open.contains(&(*role, edge.as_str())) && ack.is_none() {
            *ack = Some(
                json!({"edge": edge, "role": role, "revision": stack["spec"]["revision"], "purged": 1, "sinks": ["replicator"]}),
            );
        }
        acks.extend(ack.clone());
    }
    acks
}
