//! The kind clusters of the demo: `hub`, `eu` and `us`.

mod found;
mod kubeconfig;
mod node;
mod spec;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::docker::{docker, engine};
use crate::images::data::{self, Data};
use crate::images::{self, oci};
use crate::paths::Paths;
use crate::preflight;
use crate::progress::{self, Log, output, succeeds};
use crate::registry;
use crate::tools;

pub use found::Found;
pub use spec::{CLUSTERS, SPARE, Spec, all};

use found::Action;

/// The name that kind expects of its network.
const NETWORK: &str = "kind";

/// The label by which a network that was made here is known.
const MADE_HERE: &str = "sh.meridian.made-by=xtask";

/// The label that kind gives to a cluster's containers.
pub const LABEL: &str = "io.x-k8s.kind.cluster";

/// The clusters as they were found or made.
pub struct Clusters {
    /// The PostgreSQL and Kafka images that every node holds.
    pub data: Data,
    /// Whether one of them was not up before, or not as it should be.
    pub changed: bool,
    /// The containers that they are: others when a cluster is made anew.
    pub containers: Vec<String>,
}

/// Brings up every cluster of the demo: keeps the healthy ones, starts the stopped ones, makes the missing and half-made
/// ones.
///
/// # Errors
/// When the engine, the node image or a cluster cannot be had; with the place of the log.
pub fn up(paths: &Paths, cache: &Cache) -> Result<Clusters> {
    bring_up(paths, cache, &CLUSTERS.iter().collect::<Vec<_>>())
}

/// Brings up the demo's clusters and one more.
///
/// # Errors
/// Those of [`up`], and when there is no spare cluster of that name.
pub fn up_with(paths: &Paths, cache: &Cache, name: &str) -> Result<Clusters> {
    let spare = SPARE.iter().find(|spec| spec.name == name);
    let Some(spare) = spare else {
        let names: Vec<&str> = SPARE.iter().map(|spec| spec.name).collect();
        bail!("no spare cluster is called {name}; there is {}", names.join(", "));
    };
    bring_up(paths, cache, &CLUSTERS.iter().chain([spare]).collect::<Vec<_>>())
}

fn bring_up(paths: &Paths, cache: &Cache, wanted: &[&'static Spec]) -> Result<Clusters> {
    let _alone = cache.lock("clusters")?;
    kubeconfig::check_writable()?;
    preflight::demo(paths, cache)?;
    engine::ensure(paths, cache)?;
    // Looked at before anything is built, so that a wrong port or a foreign cluster costs seconds.
    let mut present = Vec::new();
    for &spec in wanted {
        let found = found::find(spec)?;
        found::refuse_foreign(cache, spec, found.as_ref())?;
        found::check_ports(spec, found.as_ref())?;
        present.extend(found);
    }
    let stock = registry::stock(&present);
    if !stock {
        preflight::images(paths, cache)?;
    }
    let kind = tools::path(paths, cache, "kind")?;
    for client in tools::CLIENTS {
        tools::path(paths, cache, client)?;
    }
    let kubectl = tools::path(paths, cache, "kubectl")?;
    kubeconfig::check_readable(&kubectl)?;
    let (data, node_image) = if stock {
        (registry::data_images(paths)?, None)
    } else {
        let data = data::images(paths, cache)?;
        let tag = images::node::tag(paths, cache, &data)?;
        (data, Some(tag))
    };
    let plans = each(wanted.iter().copied(), |spec| plan(cache, spec, node_image.as_deref()))?;
    let changed = plans.iter().any(|plan| plan.action != Action::Keep);
    ensure_network()?;
    each(plans.iter(), |plan| {
        node::carry_out(paths, cache, plan, &kind, &kubectl)
    })?;
    if let Some(tag) = &node_image {
        images::node::remove_older(tag);
    }
    if node_image.is_none() {
        let tags = [data.postgres.tag.as_str(), data.kafka.tag.as_str()];
        load_stock(paths, &kind, wanted, &tags)?;
    }
    let containers = each(wanted.iter().copied(), found::containers)?.concat();
    Ok(Clusters {
        data,
        changed,
        containers,
    })
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
        "--label",
        MADE_HERE,
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

fn plan<'a>(cache: &Cache, spec: &'a Spec, image: Option<&str>) -> Result<Plan<'a>> {
    let key = spec.key(image);
    let found = found::find(spec)?;
    found::refuse_foreign(cache, spec, found.as_ref())?;
    let action = found::decide(found.as_ref(), || node::is_whole(spec, &key))?;
    if action != Action::Keep {
        found::check_ports(spec, found.as_ref())?;
    }
    Ok(Plan {
        spec,
        image: image.map(str::to_owned),
        key,
        action,
    })
}

/// Does the same for each, all at once; fails with the first error once all have ended.
pub fn each<I: Send, T: Send>(items: impl Iterator<Item = I>, work: impl Fn(I) -> Result<T> + Sync) -> Result<Vec<T>> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = items.map(|item| scope.spawn(move || work(item))).collect();
        let ended: Vec<Result<T>> = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        ended.into_iter().collect()
    })
}

/// Loads images into the containerd of every node that is there, where they are not yet.
///
/// # Errors
/// When an archive cannot be made or imported.
pub fn load(paths: &Paths, cache: &Cache, name: &str, images: &[oci::Image]) -> Result<()> {
    let lacks = |spec: &'static Spec| {
        if found::find(spec)?.is_none() {
            return Ok(None);
        }
        let holds = images.iter().all(|image| node::holds(spec, &image.tag));
        Ok((!holds).then_some(spec))
    };
    let missing: Vec<&Spec> = each(all(), lacks)?.into_iter().flatten().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let archive = oci::archive(cache, &format!("archive-{name}"), images)?;
    let log = Log::fresh(paths, &format!("load-{name}"))?;
    progress::step(
        &format!("loading {name} into {} clusters", missing.len()),
        Some(log.shown()),
        || {
            each(missing.iter(), |spec| {
                images::node::import(&spec.node(), &archive, &log)
            })
            .map(drop)
        },
    )
}

/// Gives an image that every node of the demo holds a second name.
///
/// # Errors
/// When a node does not hold it.
pub fn name_also(tag: &str, other: &str) -> Result<()> {
    let name = |spec: &Spec| {
        let node = spec.node();
        let again = [
            "exec",
            &node,
            "ctr",
            "--namespace",
            "k8s.io",
            "images",
            "tag",
            "--force",
            tag,
            other,
        ];
        output(&mut docker(again)).map(drop)
    };
    each(CLUSTERS.iter(), name).map(drop)
}

fn load_stock(paths: &Paths, kind: &Path, wanted: &[&Spec], tags: &[&str]) -> Result<()> {
    let log = Log::fresh(paths, "load-stock")?;
    for &spec in wanted {
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

/// Freezes the containers of clusters; [`up`] lets them go on.
///
/// # Errors
/// When the engine refuses one.
pub fn pause(containers: &[String]) -> Result<()> {
    for container in containers {
        output(&mut docker(["pause", container])).context("a cluster cannot be paused")?;
    }
    Ok(())
}

/// Removes every cluster of ours, also half-made ones, and the containers that image building left. An engine that does
/// not run although it holds clusters of ours (or `images`, which are to go too) is started for it.
///
/// # Errors
/// When the engine refuses, or nobody can tell whether there is anything to remove.
pub fn down(paths: &Paths, cache: &Cache, images: bool) -> Result<()> {
    if !engine::wake_for_removal(paths, cache, images)? {
        return Ok(());
    }
    let _alone = cache.lock("clusters")?;
    let began = Instant::now();
    let kind = tools::built(paths, cache, "kind")?;
    for spec in all() {
        remove(paths, cache, spec, kind.as_deref())
            .with_context(|| format!("the cluster {} cannot be removed", spec.name))?;
    }
    succeeds(&mut docker(["rm", "--force", "--volumes", images::node::BUILDER]));
    remove_network();
    progress::say(&format!("clusters removed in {:.1} s", began.elapsed().as_secs_f32()));
    Ok(())
}

fn remove(paths: &Paths, cache: &Cache, spec: &Spec, kind: Option<&Path>) -> Result<()> {
    if let Some(found) = found::find(spec)? {
        if !found::is_ours(cache, spec, &found) {
            progress::say(&format!(
                "the kind cluster {} stays: this project did not make it",
                spec.name
            ));
            return Ok(());
        }
        let containers = found::containers(spec)?;
        output(docker(["rm", "--force", "--volumes"]).args(containers))?;
    }
    found::remove_note(cache, spec);
    // Where kind was never built, no cluster was made whose context could be left.
    let Some(kind) = kind else { return Ok(()) };
    kubeconfig::wait_for_lock();
    let log = Log::fresh(paths, &format!("down-{}", spec.name))?;
    if let Err(error) = log.run(Command::new(kind).args(["delete", "cluster", "--name", spec.name])) {
        // The cluster is gone; a context that leads nowhere is no reason to leave the others.
        progress::say(&format!(
            "the context {} stays in the kubeconfig: {error:#}",
            spec.context()
        ));
    }
    Ok(())
}

/// Removes the clusters' network, unless it was there before or others use it.
fn remove_network() {
    let filter = format!("label={MADE_HERE}");
    let listed = output(&mut docker([
        "network",
        "ls",
        "--filter",
        &filter,
        "--format",
        "{{.Name}}",
    ]));
    if listed.is_ok_and(|names| names.lines().any(|name| name == NETWORK)) {
        succeeds(&mut docker(["network", "rm", NETWORK]));
    }
}

/// Removes the images of ours from the engine.
///
/// # Errors
/// When the engine cannot be asked.
pub fn remove_images() -> Result<()> {
    if !engine::answers() {
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
