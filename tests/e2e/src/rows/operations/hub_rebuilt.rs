//! Row 16: the hub's cluster is removed with all that it knew, and made anew from the manifests. Epochs and revisions do not
//! fall, nothing is purged or opened, no pod of a region is started anew, and what is shared then arrives.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::{SETTLES, pods, undisturbed};
use crate::node::{docker, name};
use crate::rows::Outcome;
use crate::rows::shared_workout::{EDGE, copies, edge_is_open, ids, imported, reader_and_sharer, share};
use crate::world::{Site, World, until};

/// What waited for the hub is tried again as soon as there is a fresh policy.
const ARRIVES: Duration = Duration::from_secs(60);

pub async fn prove(world: &World) -> Result<Outcome> {
    let (reader, athlete) = reader_and_sharer(world).await.context("with the hub there")?;
    let sites = [&world.eu, &world.us];
    let mut before = Vec::new();
    for site in sites {
        before.push((heights(site).await?, pods(site).await?, purges(site).await?));
    }
    let stored = copies(&world.us).await?;
    ensure!(stored.0 > 0, "us holds no copy that a purge could take");
    let known = ids(&imported(&world.us, &reader).await?);

    let began = Instant::now();
    docker(&["rm", "--force", "--volumes", &name("hub")]).await?;
    rebuild(world).await?;
    let installed = began.elapsed();
    // Another hub: the addresses are the same, the authorities are not.
    let world = world.connect_again().await?;
    super::all_ready(&world, SETTLES).await?;
    let ready = began.elapsed();

    for (site, (heights, pods, purged)) in [&world.eu, &world.us].into_iter().zip(&before) {
        not_lower(heights, &self::heights(site).await?).with_context(|| format!("in {}", site.region))?;
        undisturbed(site, pods).await?;
        ensure!(purges(site).await? == *purged, "{} purged something", site.region);
    }
    let now = copies(&world.us).await?;
    ensure!(
        now.0 >= stored.0 && now.1 >= stored.1,
        "copies in us are gone: {stored:?} were {now:?}"
    );
    edge_is_open(&world).await?;
    share(&world.eu, &athlete).await?;
    until(
        ARRIVES,
        "what was shared after the hub was rebuilt, in us's feed",
        || async {
            let now = ids(&imported(&world.us, &reader).await?);
            Ok(now.iter().any(|id| !known.contains(id)).then_some(()))
        },
    )
    .await?;
    Ok(Outcome::Proved(format!(
        "hub removed and installed anew from the manifests in {} s, everything Ready after {} s; no epoch or revision lower, nothing purged, no pod of eu or us started anew, {} copies still there, the next share arrived",
        installed.as_secs(),
        ready.as_secs(),
        stored.0
    )))
}

/// As `cargo xtask up` makes a hub that is missing.
async fn rebuild(world: &World) -> Result<()> {
    let program = world
        .xtask
        .as_ref()
        .context("`--xtask` names no program that makes the hub anew")?;
    let done = Command::new(program)
        .arg("make-clusters-whole")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("xtask cannot be started")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "the hub was not made anew: {}", said.trim());
    Ok(())
}

/// What only grows, by what it belongs to: the epochs of tenants and the revisions of the policy, as a member knows them.
async fn heights(site: &Site) -> Result<BTreeMap<String, u64>> {
    let told = ["get", "tenantplacements,regionstacks", "--all-namespaces", "-o", "json"];
    let told: Value = serde_json::from_str(&site.cluster.kubectl.run(&told).await?)?;
    let mut heights = BTreeMap::new();
    for object in told["items"].as_array().context("a list")? {
        for height in ["epoch", "epochFloor", "revision"] {
            if let Some(value) = object["spec"][height].as_u64() {
                heights.insert(
                    format!("{height} of {} {}", object["kind"], object["metadata"]["name"]),
                    value,
                );
            }
        }
    }
    ensure!(heights.len() >= 3, "{} tells only {heights:?}", site.region);
    Ok(heights)
}

fn not_lower(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Result<()> {
    for (what, height) in before {
        let now = now.get(what).with_context(|| format!("the {what} is gone"))?;
        ensure!(now >= height, "the {what} fell from {height} to {now}");
    }
    Ok(())
}

/// How often the region's replicator recorded that an edge was cut, or a purge.
async fn purges(site: &Site) -> Result<u64> {
    let sql = format!("select count(*) from evidence where edge = '{EDGE}' and kind in ('cut', 'purge')");
    site.count("replicator", &sql).await
}
