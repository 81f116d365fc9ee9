//! Row 17: somebody puts a row of an eu tenant into us's database by hand, around every service and every guard. One run of
//! `meridian verify` names the table, the tenant and the classes; the region says so by itself; without the row it is clean.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::athlete::Athlete;
use crate::rows::{Outcome, condition};
use crate::world::{Site, World, until};

/// The verifier looks about once a minute, and the status is written a moment after.
const SAID: Duration = Duration::from_secs(150);
const TABLE: &str = "social.workout";

pub async fn prove(world: &World) -> Result<Outcome> {
    Athlete::register(&world.us, "Ann").await?;
    let clean = verify(&world.us).await?;
    ensure!(clean.code == 0, "before anything was smuggled: {}", clean.report);
    let rows = clean.report["looked"]["rows"].as_u64().unwrap_or_default();
    ensure!(rows > 0, "the verifier counted no rows: {}", clean.report);

    by_hand(
        world,
        "insert into workout (tenant, epoch, workout_id, author, version, status, feed_at, summary) \
         values ('stride-eu', 1, gen_random_uuid(), gen_random_uuid(), 1, 'completed', now(), 'smuggled')",
    )
    .await?;
    let seen = tokio::select! {
        seen = found(world) => seen,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    by_hand(world, "delete from workout where summary = 'smuggled'").await?;
    let seen = seen?;
    let clean = verify(&world.us).await?;
    ensure!(clean.code == 0, "after the row was taken away: {}", clean.report);
    Ok(Outcome::Proved(format!(
        "{rows} rows in us clean; then {seen}; clean again without it"
    )))
}

async fn found(world: &World) -> Result<String> {
    let run = verify(&world.us).await?;
    let found = run.report["findings"].as_array().context("a report has findings")?;
    let [finding] = found.as_slice() else {
        bail!("one finding was expected: {}", run.report)
    };
    ensure!(run.code == 1, "with a violation it ended with {}", run.code);
    ensure!(
        finding["check"] == "foreign-rows" && finding["place"] == TABLE && finding["of"] == "stride-eu",
        "it found {finding}"
    );
    until(SAID, "ResidencyVerified False of us", || async {
        let told = ["get", "rstack", "us", "-o", "json"];
        let stack: Value = serde_json::from_str(&world.us.cluster.kubectl.run(&told).await?)?;
        if condition(&stack, "ResidencyVerified") != "False" {
            bail!("it is {:?}", condition(&stack, "ResidencyVerified"));
        }
        Ok(Some(()))
    })
    .await?;
    Ok(format!(
        "one run found {} of {} in {TABLE} ({}), and us's ResidencyVerified is False",
        finding["count"], finding["of"], finding["classes"]
    ))
}

/// What a run of the verifier came to.
pub(in crate::rows) struct Run {
    /// 0: nothing was found.
    pub(in crate::rows) code: i32,
    /// What it says.
    pub(in crate::rows) report: Value,
}

/// `meridian verify`, beside the verifier of a region.
pub(in crate::rows) async fn verify(site: &Site) -> Result<Run> {
    let namespace = site.namespace();
    let mut command = site.cluster.kubectl.command();
    command.args(["-n", &namespace, "exec", "deploy/verifier", "-c", "verifier", "--"]);
    command.args(["/usr/local/bin/meridian", "verify"]);
    let done = command.output().await.context("kubectl cannot be started")?;
    let said = String::from_utf8_lossy(&done.stdout);
    let report = serde_json::from_str(&said)
        .with_context(|| format!("no report: {said}{}", String::from_utf8_lossy(&done.stderr)))?;
    // kubectl ends with the code of what it ran.
    let code = done.status.code().context("kubectl was killed")?;
    Ok(Run { code, report })
}

/// As an administrator of the database could: no trigger and no policy holds.
async fn by_hand(world: &World, sql: &str) -> Result<()> {
    let sql = format!("set session_replication_role = replica; {sql}");
    world.us.query("social", &sql).await.map(drop)
}
