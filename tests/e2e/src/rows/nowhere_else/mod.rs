//! Row 1: an EU athlete's profile text, positions and heart rates exist in eu and nowhere in us or on the hub. The same scan
//! that finds nothing there finds, in the same pass, other canaries that were put into each kind of place in us, and finds
//! the athlete's in eu once it opens what is sealed with the athlete's keys.

mod canary;
mod keys;
mod scan;
mod smuggle;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::json;

use self::canary::{Canaries, KINDS, Opener, Scanner};
use self::keys::{contexts, keys, resolve};
use self::scan::{Report, Sink};
use crate::athlete::Athlete;
use crate::rows::cut_off::CutOff;
use crate::rows::{Outcome, real_ride};
use crate::world::{Site, World};

/// The sets of canaries: the athlete's, and those that are put into us.
const ATHLETE: usize = 0;
const DECOY: usize = 1;
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn prove(world: &World) -> Result<Outcome> {
    let mut scanner = Scanner::new(vec![Canaries::new(), Canaries::new()])?;
    let (athlete, cleaned) = tokio::join!(live(&world.eu, scanner.set(ATHLETE)), smuggle::clean(&world.us));
    let athlete = athlete?;
    // Of an earlier run that broke off.
    cleaned.context("what was put into us before")?;
    let ride = &scanner.set(ATHLETE).ride;
    let keys = keys(&world.eu, &athlete, ride)
        .await
        .context("the athlete's keys in eu's keyring")?;
    for tenant in [world.eu.tenant, world.us.tenant] {
        for answer in resolve(&world.us, tenant, &athlete, ride)
            .await
            .context("us's keyring")?
        {
            let status = &answer["status"];
            ensure!(status == "absent", "a key of the athlete is {status} in us's keyring");
        }
    }
    scanner.opener = Opener::new(&keys, contexts(&world.eu, &athlete).await?)?;
    let scanner = Arc::new(scanner);

    let (eu, hub, us) = tokio::join!(
        scan::region(&world.eu, &scanner),
        scan::hub(&world.hub, &scanner),
        us_with_canaries(&world.us, &scanner)
    );
    let eu = eu.context("the scan of eu")?;
    let hub = hub.context("the scan of the hub")?;
    let us = us?;

    in_eu(&eu)?;
    for (report, name) in [(&us, "us"), (&hub, "the hub")] {
        for (sink, found) in &report.found {
            if let Some(((_, kind), how)) = found.iter().find(|((set, _), _)| *set == ATHLETE) {
                bail!("{kind:?} of the EU athlete lies in {sink:?} of {name} ({how:?})");
            }
        }
    }
    let planted = [Sink::Tables, Sink::Topics, Sink::Volumes, Sink::Logs, Sink::Objects];
    for sink in planted {
        let found = us.found.get(&sink).context("a sink that was not scanned")?;
        for kind in KINDS {
            ensure!(
                found.contains_key(&(DECOY, kind)),
                "the scan is blind: {kind:?} put into {sink:?} of us was not found"
            );
        }
    }
    Ok(Outcome::Proved(format!(
        "eu {} MB: text, positions, heart rates in tables and topics, {}; us {} MB, hub {} MB: none of them, and no key of the athlete in us's keyring, while the same pass found all three kinds put into a table, a topic, a volume, a log and an object of us. Opened: what is sealed under this athlete's eu keys as identity, telemetry and events seal it. Raw only: other sealed values, etcd, files; in volumes compressed files are unpacked if zstd. Not read: memory, container layers, traces, what us may have sealed under keys of its own",
        megabytes(&eu),
        clear_in(&eu),
        megabytes(&us),
        megabytes(&hub),
    )))
}

/// Scans us while other canaries lie there, and leaves it as it was, whatever the scan says. The region's own verifier
/// reaches no store meanwhile: it would find what is put there, and an incident that people have to close would stay.
async fn us_with_canaries(us: &Site, scanner: &Arc<Scanner>) -> Result<Report> {
    let verifier = CutOff::component(us, "verifier").await?;
    let smuggled = async {
        smuggle::smuggle(us, scanner.set(DECOY))
            .await
            .context("putting canaries into us")?;
        scan::region(us, scanner).await.context("the scan of us")
    };
    let report = tokio::select! {
        report = smuggled => report,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let cleaned = smuggle::clean(us).await.context("taking the canaries out of us again");
    verifier.reach().await?;
    let report = report?;
    cleaned?;
    Ok(report)
}

/// Registers, writes the text into the profile, uploads the ride, and reads both back.
async fn live(site: &Site, canaries: &Canaries) -> Result<Athlete> {
    let athlete = Athlete::register(site, "Mia").await?;
    let version = athlete.get(site, "/api/v1/me").await?["version"].clone();
    let bio = format!("rides {}", canaries.text);
    let change = json!({ "bio": bio, "expected_version": version });
    athlete
        .send(site, Method::PATCH, "/api/v1/me", &change, StatusCode::OK)
        .await?;
    let me = athlete.get(site, "/api/v1/me").await?;
    ensure!(me["bio"] == bio, "the profile's text does not read back");
    real_ride::upload(site, &athlete, &canaries.ride).await?;
    Ok(athlete)
}

/// All kinds must be found in eu's tables after opening, and the ride in its topics.
fn in_eu(eu: &Report) -> Result<()> {
    let tables = eu.found.get(&Sink::Tables).context("eu's tables were not scanned")?;
    for kind in KINDS {
        let how = tables.get(&(ATHLETE, kind));
        ensure!(
            how.is_some_and(|how| how.contains("opened")),
            "the scan does not find {kind:?} in eu's tables by opening them: {how:?}"
        );
    }
    let topics = eu.found.get(&Sink::Topics).context("eu's topics were not scanned")?;
    for kind in &KINDS[1..] {
        ensure!(
            topics.contains_key(&(ATHLETE, *kind)),
            "the scan does not find {kind:?} in eu's topics"
        );
    }
    Ok(())
}

/// Where in eu the athlete's canaries lie although nobody opened anything, and how they were found there.
fn clear_in(eu: &Report) -> String {
    let in_clear = eu.found.iter().flat_map(|(sink, found)| {
        let found = found.iter().filter(|((set, _), _)| *set == ATHLETE);
        found.flat_map(move |((_, kind), how)| {
            let how = how.iter().filter(|how| **how != "opened");
            how.map(move |how| format!("{kind:?} in {sink:?} ({how})"))
        })
    });
    let in_clear: Vec<String> = in_clear.collect();
    match in_clear.is_empty() {
        true => "everywhere sealed".to_owned(),
        false => format!("and unsealed: {}", in_clear.join(", ")),
    }
}

fn megabytes(report: &Report) -> usize {
    report.bytes >> 20
}
