//! The kind clusters of the demo: `hub`, `eu` and `us`.

mod kubeconfig;
mod node;
mod spec;

use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::docker::{docker, engine};
use crate::images::data::{self, Data};
use crate::images::{self, oci};
use crate::paths::Paths;
use crate::progress::{self, Log, output, succeeds};
use crate::registry;
use crate::tools;

pub use spec::{CLUSTERS, Spec};

/// The name that kind expects of its network.
const NETWORK: &str = "kind";

/// The clusters as they were found or made.
pub struct Clusters {
    /// The PostgreSQL and Kafka images that every node holds.
    pub data: Data,
    /// Whether one of them was not up before, or not as it should be.
    pub changed: bool,
}

/// Brings up every cluster: keeps the healthy ones, starts the stopped ones, makes the missing and half-made ones.
///
/// # Errors
/// When the engine, the node image or a cluster cannot be had; with the place of the log.
pub fn up(paths: &Paths, cache: &Cache) -> Result<Clusters> {
    let _alone = cache.lock("clusters")?;
    engine::ensure(paths, cache)?;
    let kind = tools::path(paths, cache, "kind")?;
    for client in tools::CLIENTS {
        tools::path(paths, cache, client)?;
    }
    let (data, node_image) = if registry::reachable() {
        (registry::data_images(paths)?, None)
    } else {
        let data = data::images(paths, cache)?;
        let tag = images::node::tag(paths, cache, &data)?;
        (data, Some(tag))
    };
    // Ports are looked at before anything is made, so that a wrong one costs seconds.
    let plans = CLUSTERS
        .iter()
        .map(|spec| plan(spec, node_image.as_deref()))
        .collect::<Result<Vec<_>>>()?;
    let changed = plans.iter().any(|plan| plan.action != Action::Keep);
    let kubectl = tools::path(paths, cache, "kubectl")?;
    ensure_network()?;
    thread::scope(|scope| {
        let running: Vec<_> = plans
            .iter()
            .map(|plan| {
                let (kind, kubectl) = (kind.as_path(), kubectl.as_path());
                scope.spawn(move || node::carry_out(paths, plan, kind, kubectl))
            })
            .collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    if let Some(tag) = &node_image {
        images::node::remove_older(tag);
    }
    if node_image.is_none() {
        let tags = [data.postgres.tag.as_str(), data.kafka.tag.as_str()];
        load_stock(paths, &kind, &tags)?;
    }
    Ok(Clusters { data, changed })
}

/// The network that the nodes share. kind would give it IPv6 as well, which the pods of our node image do not have: they
/// would be given addresses of their neighbours that they cannot reach.
fn ensure_network() -> Result<()> {
    if succeeds(&mut docker(["network", "inspect", NETWORK])) {
        return Ok(());
    }
    let masquerade = "com.docker.network.bridge.enable_ip_masquerade=true";
    output(&mut docker([
        "network",
        "create",
        "--driver=bridge",
        "--opt",
        masquerade,
        NETWORK,
    ]))
    .map(drop)
    .context("the clusters' network cannot be made")
}

/// What must happen to one cluster.
pub struct Plan<'a> {
    spec: &'a Spec,
    image: Option<String>,
    /// The hash of what the cluster is made from; a cluster with another one is made anew.
    key: String,
    action: Action,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Keep,
    Start,
    Make,
}

fn plan<'a>(spec: &'a Spec, image: Option<&str>) -> Result<Plan<'a>> {
    let key = spec.key(image);
    let action = match node::state(spec)? {
        node::State::Running if node::is_whole(spec, &key) => Action::Keep,
        // Whether a stopped node is whole shows only once it runs again.
        node::State::Stopped => Action::Start,
        node::State::Running | node::State::Absent => Action::Make,
    };
    if action == Action::Make {
        spec.check_ports(&node::published_by_docker(spec)?)?;
    }
    Ok(Plan {
        spec,
        image: image.map(str::to_owned),
        key,
        action,
    })
}

/// Loads images into every node's containerd, where they are not yet.
///
/// # Errors
/// When an archive cannot be made or imported.
pub fn load(paths: &Paths, cache: &Cache, name: &str, images: &[oci::Image]) -> Result<()> {
    let missing: Vec<&Spec> = CLUSTERS
        .iter()
        .filter(|spec| !images.iter().all(|image| node::holds(spec, &image.tag)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let archive = oci::archive(cache, &format!("archive-{name}"), images)?;
    let log = Log::fresh(paths, &format!("load-{name}"))?;
    progress::step(
        &format!("loading {name} into {} clusters", missing.len()),
        Some(log.shown()),
        || {
            thread::scope(|scope| {
                let running: Vec<_> = missing
                    .iter()
                    .map(|spec| {
                        let (archive, log) = (&archive, &log);
                        scope.spawn(move || images::node::import(&spec.node(), archive, log))
                    })
                    .collect();
                running
                    .into_iter()
                    .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        },
    )
}

fn load_stock(paths: &Paths, kind: &std::path::Path, tags: &[&str]) -> Result<()> {
    let log = Log::fresh(paths, "load-stock")?;
    for spec in CLUSTERS {
        if tags.iter().all(|tag| node::holds(spec, tag)) {
            continue;
        }
        progress::step(&format!("loading images into {}", spec.name), Some(log.shown()), || {
            log.run(
                Command::new(kind)
                    .args(["load", "docker-image", "--name", spec.name])
                    .args(tags),
            )
        })?;
    }
    Ok(())
}

/// Removes every cluster of ours, also half-made ones, and the containers that image building left.
///
/// # Errors
/// When the engine refuses.
pub fn down(paths: &Paths, cache: &Cache) -> Result<()> {
    if !succeeds(&mut docker(["version"])) {
        return Ok(());
    }
    let _alone = cache.lock("clusters")?;
    let began = Instant::now();
    let kind = tools::path(paths, cache, "kind")?;
    kubeconfig::remove_stale_lock();
    for spec in CLUSTERS {
        // kind also takes the cluster out of the kubeconfig; it does that for an absent one too.
        output(Command::new(&kind).args(["delete", "cluster", "--name", spec.name]))
            .with_context(|| format!("the cluster {} cannot be removed", spec.name))?;
    }
    succeeds(&mut docker(["rm", "--force", "--volumes", "meridian-node-image"]));
    succeeds(&mut docker(["network", "rm", NETWORK]));
    progress::say(&format!("clusters removed in {:.1} s", began.elapsed().as_secs_f32()));
    Ok(())
}

/// Removes the images of ours from the engine.
///
/// # Errors
/// When the engine cannot be asked.
pub fn remove_images() -> Result<()> {
    if !succeeds(&mut docker(["version"])) {
        return Ok(());
    }
    let listed = output(&mut docker(["images", "--format", "{{.Repository}}:{{.Tag}}"]))?;
    let ours: Vec<&str> = listed.lines().filter(|tag| tag.starts_with(images::PREFIX)).collect();
    if !ours.is_empty() && !succeeds(docker(["rmi", "--force"]).args(&ours)) {
        bail!(
            "these images cannot be removed; something still uses them: {}",
            ours.join(", ")
        );
    }
    Ok(())
}
