//! Row 9: the hub's node is stopped. eu serves on, its region role keeps what is planned and its pool scales; when the policy lease ends,
//! transfers stop and what is shared waits; when the hub is back the lease is renewed and what waited arrives.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::athlete::{Athlete, login};
use crate::node::{docker, docker_at_last};
use crate::rows::Outcome;
use crate::rows::shared_workout::{EDGE, copies, imported, reader_and_sharer, share};
use crate::rows::{OPERATORS, condition, ready, real_ride, scaled_ingest};
use crate::world::{Site, World, until};

const HUB: &str = "hub-control-plane";
/// A renewal counts for 20 s, and the status is written a moment after it ended.
const LEASE_ENDS: Duration = Duration::from_secs(60);
const CORRECTED: Duration = Duration::from_secs(60);
/// A control plane starts, elects, and its operator looks at every member.
const BACK: Duration = Duration::from_secs(150);
/// What waits for a fresh policy is tried as soon as there is one.
const HELD_ARRIVES: Duration = Duration::from_secs(30);
/// Not needed to write and share a workout, so that the other proofs of this row do not wait for it.
const DRIFTER: &str = "promotions";

pub async fn prove(world: &World) -> Result<Outcome> {
    let (reader, athlete) = reader_and_sharer(world).await.context("with the hub there")?;

    let began = Instant::now();
    let hub = Stopped::stop().await?;
    // Interrupted or failed, the hub is started again all the same.
    let without = tokio::select! {
        seen = without_hub(world, &reader, &athlete) => seen,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let away = began.elapsed();
    let stale = renewal(&world.eu).await;
    hub.start().await?;
    let Held { seen, items, ended } = without?;
    let stale = stale?;

    let started = Instant::now();
    until(BACK, "a renewed policy lease in eu", || async {
        Ok((renewal(&world.eu).await? != stale).then_some(()))
    })
    .await?;
    for site in [&world.eu, &world.us] {
        fresh(site, "True", BACK).await?;
    }
    let renewed = started.elapsed();
    let known: Vec<&Value> = items.iter().map(|item| &item["id"]).collect();
    let what = "what was held back while the hub was away, in us's feed";
    until(HELD_ARRIVES, what, || async {
        let now = imported(&world.us, &reader).await?;
        Ok(now.iter().any(|item| !known.contains(&&item["id"])).then_some(()))
    })
    .await?;
    let arrived = started.elapsed();
    ready(world, "fitnessregions", BACK).await?;
    Ok(Outcome::Proved(format!(
        "hub away for {} s: {seen}; PolicyFresh False in eu and us after {} s, a share from then on waited, nothing new in us; hub back: lease renewed after {} s, the held share arrived after {} s, FitnessRegions Ready",
        away.as_secs(),
        ended.as_secs(),
        renewed.as_secs(),
        arrived.as_secs()
    )))
}

struct Held {
    seen: String,
    /// What us showed of eu when the hub came back.
    items: Vec<Value>,
    ended: Duration,
}

async fn without_hub(world: &World, reader: &Athlete, athlete: &Athlete) -> Result<Held> {
    let began = Instant::now();
    let (eu, us) = (&world.eu, &world.us);
    serves(eu).await.context("eu without the hub")?;
    let corrected = corrects(eu).await.context("eu's region role without the hub")?;
    let few = scaled_ingest::at_rest(eu, scaled_ingest::SHRINKS).await?;
    let grown = scaled_ingest::grow(eu, few)
        .await
        .context("eu's pool without the hub")?;

    for site in [eu, us] {
        fresh(site, "False", LEASE_ENDS).await?;
    }
    let ended = began.elapsed();
    let items = imported(us, reader).await?;
    let stored = copies(us).await?;
    let evidence = evidence(eu).await?;
    // Tried, and put off: not merely on its way.
    let sql = format!(
        "select count(*) from delivery where tenant = '{}' and edge = '{EDGE}' and attempts > 1",
        eu.tenant
    );
    let waiting = async || eu.count("replicator", &sql).await;
    let others = waiting().await?;
    share(eu, athlete)
        .await
        .context("writing and sharing without a lease")?;
    until(LEASE_ENDS, "the share among the deliveries that wait", || async {
        Ok((waiting().await? > others).then_some(()))
    })
    .await?;
    ensure!(
        self::evidence(eu).await? == evidence,
        "evidence was recorded without a lease: something was sent or refused"
    );
    let now = imported(us, reader).await?;
    ensure!(
        now.len() == items.len() && copies(us).await? == stored,
        "something arrived in us without a lease"
    );
    ensure!(
        !hub_runs().await?,
        "the hub came back while it was to be away: what was seen says nothing"
    );
    Ok(Held {
        seen: format!(
            "eu registered, signed in, stored and read back a ride; {corrected}; load made its {few} writer {}",
            grown.writers
        ),
        items,
        ended,
    })
}

/// A new athlete registers, signs in anew, changes the profile, uploads a ride and reads all of it back.
async fn serves(site: &Site) -> Result<()> {
    let mut athlete = Athlete::register(site, "Lea").await?;
    athlete.token = login(site, site.tenant, &athlete.email, &athlete.password).await?;
    let version = athlete.get(site, "/api/v1/me").await?["version"].clone();
    let change = json!({ "bio": "without a hub", "expected_version": version });
    athlete
        .send(site, Method::PATCH, "/api/v1/me", &change, StatusCode::OK)
        .await?;
    let me = athlete.get(site, "/api/v1/me").await?;
    ensure!(me["bio"] == "without a hub", "the profile was not written");
    real_ride::upload(site, &athlete, &real_ride::ride()).await?;
    Ok(())
}

/// Takes a NetworkPolicy away and scales a Deployment to nothing; both are the region role's to put right.
async fn corrects(site: &Site) -> Result<String> {
    let namespace = site.namespace();
    let kubectl = &site.cluster.kubectl;
    let get = async |kind: &str| -> Result<Value> {
        let told = kubectl
            .run(&["-n", &namespace, "get", kind, DRIFTER, "-o", "json"])
            .await?;
        serde_json::from_str(&told).with_context(|| format!("the {kind} {DRIFTER}"))
    };
    let policy = get("networkpolicy").await?;
    let replicas = get("deployment").await?["spec"]["replicas"].clone();
    let began = Instant::now();
    kubectl
        .run(&["-n", &namespace, "delete", "networkpolicy", DRIFTER])
        .await?;
    kubectl
        .run(&["-n", &namespace, "scale", "deployment", DRIFTER, "--replicas=0"])
        .await?;
    until(CORRECTED, "the NetworkPolicy put back", || async {
        let now = get("networkpolicy").await?;
        ensure!(now["spec"] == policy["spec"], "it is back with another spec");
        Ok((now["metadata"]["uid"] != policy["metadata"]["uid"]).then_some(()))
    })
    .await?;
    until(CORRECTED, "the Deployment scaled back and available", || async {
        let now = get("deployment").await?;
        let status = &now["status"];
        let current = status["observedGeneration"] == now["metadata"]["generation"];
        Ok((now["spec"]["replicas"] == replicas && current && status["availableReplicas"] == replicas).then_some(()))
    })
    .await?;
    Ok(format!(
        "a deleted NetworkPolicy and a Deployment scaled to 0 were put right in {} s",
        began.elapsed().as_secs()
    ))
}

/// Waits until the RegionStack says whether the hub vouches for the policy in force.
async fn fresh(site: &Site, status: &str, limit: Duration) -> Result<()> {
    let what = format!("PolicyFresh {status} in {}", site.region);
    until(limit, &what, || async {
        let told = site
            .cluster
            .kubectl
            .run(&["get", "rstack", site.region, "-o", "json"])
            .await?;
        let stack: Value = serde_json::from_str(&told).context("the RegionStack")?;
        let now = condition(&stack, "PolicyFresh");
        if now != status {
            bail!("it is {now:?}");
        }
        Ok(Some(()))
    })
    .await
}

/// When the hub last renewed the region's policy lease, by the hub's clock.
async fn renewal(site: &Site) -> Result<String> {
    let path = "jsonpath={.spec.renewTime}";
    let command = ["-n", OPERATORS, "get", "lease", "meridian-policy", "-o", path];
    site.cluster.kubectl.run(&command).await
}

async fn evidence(site: &Site) -> Result<u64> {
    let of = |table| format!("(select count(*) from {table} where edge = '{EDGE}')");
    let sql = format!("select {} + {}", of("evidence_chain"), of("evidence_pending"));
    site.count("replicator", &sql).await
}

/// The hub's node, stopped. Started again even when the proof panics.
struct Stopped {
    armed: bool,
}

impl Stopped {
    async fn stop() -> Result<Self> {
        let stopped = Self { armed: true };
        docker(&["stop", "--time", "5", HUB]).await?;
        Ok(stopped)
    }

    async fn start(mut self) -> Result<()> {
        docker(&["start", HUB])
            .await
            .with_context(|| format!("the hub is still stopped; run `docker start {HUB}`"))?;
        self.armed = false;
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.armed {
            docker_at_last(&["start", HUB]);
        }
    }
}

async fn hub_runs() -> Result<bool> {
    let state = docker(&["inspect", "--format", "{{.State.Running}}", HUB]).await?;
    Ok(state.trim() == "true")
}
