//! Row 11: `kubectl meridian` answers what a person asks the running platform, with the exit code that a script goes by.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::rows::Outcome;
use crate::world::World;

const MEMBERS: [&str; 4] = ["--member", "eu=kind-eu", "--member", "us=kind-us"];

pub async fn prove(world: &World) -> Result<Outcome> {
    super::all_ready(world, super::SETTLES).await?;
    let status = ask(&[&["status"], MEMBERS.as_slice()].concat(), 0).await?;
    ensure!(status.contains("Everything is Ready."), "status says {status}");

    let lawful = ask(&["explain", "stride-eu", "workout-summary", "eu", "us"], 0).await?;
    ensure!(lawful.contains("SCC"), "explain names no mechanism: {lawful}");
    let refused = ask(&["explain", "stride-eu", "health", "eu", "us"], 1).await?;
    let article = refused.lines().find(|line| line.contains("Art"));
    let article = article
        .with_context(|| format!("explain names no article: {refused}"))?
        .trim();

    let nothing = ask(
        &[&["plan", "-f", "regions/local/40-tenants.yaml"], MEMBERS.as_slice()].concat(),
        0,
    )
    .await?;
    let unlawful = [&["plan", "-f", "regions/local/refused"], MEMBERS.as_slice()].concat();
    let unlawful = ask(&unlawful, 1).await?;
    ensure!(unlawful.contains("class-not-listed"), "plan names no rule: {unlawful}");
    Ok(Outcome::Proved(format!(
        "status: everything is Ready; explain: workout-summary lawful by SCC, health refused ({article}); plan of what is there: {}; plan of health to us: refused by class-not-listed",
        nothing.trim().lines().last().unwrap_or("nothing")
    )))
}

/// As a person types it; the exit code is part of the answer.
async fn ask(question: &[&str], code: i32) -> Result<String> {
    let answer = Command::new("kubectl")
        .arg("meridian")
        .args(question)
        .args(["--context", "kind-hub"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("kubectl cannot be started")?;
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    ensure!(
        answer.status.code() == Some(code),
        "kubectl meridian {} ended with {} instead of {code}: {said}{}",
        question.join(" "),
        answer.status,
        String::from_utf8_lossy(&answer.stderr)
    );
    Ok(said)
}
