//! Row 8: health data to us, which the Jurisdiction does not list, is refused at `kubectl apply` with the rule's name; with
//! the webhook gone the controller refuses it in status.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::rows::Outcome;
use crate::world::{World, until};

/// The rule that the demo's unlawful tenant breaks.
pub(super) const RULE: &str = "class-not-listed";
const WEBHOOK: &str = "validatingwebhookconfiguration/meridian";

pub async fn prove(world: &World) -> Result<Outcome> {
    let kubectl = &world.hub.kubectl;
    let refused = include_str!("../../../../regions/local/refused/health-to-us.yaml");
    let lawful = include_str!("../../../../regions/local/40-tenants.yaml");

    let answer = kubectl.apply(refused).await?;
    ensure!(!answer.accepted, "kubectl apply accepted health data to us");
    ensure!(
        answer.complaint.contains(RULE),
        "the refusal does not name the rule {RULE}: {}",
        answer.complaint
    );

    let webhook = kubectl.run(&["get", WEBHOOK, "-o", "json"]).await?;
    kubectl.run(&["delete", WEBHOOK]).await?;
    let seen = without_webhook(kubectl, refused).await;
    // Whatever was seen, the demo is put back as it was.
    let restored = restore(kubectl, &webhook, lawful).await;
    let message = seen?;
    restored?;
    Ok(Outcome::Proved(format!(
        "kubectl apply: {RULE}; without the webhook, status: {message}"
    )))
}

async fn without_webhook(kubectl: &Kubectl, refused: &str) -> Result<String> {
    let answer = kubectl.apply(refused).await?;
    ensure!(
        answer.accepted,
        "without the webhook, kubectl apply still says {}",
        answer.complaint
    );
    until(Duration::from_secs(30), "the controller's refusal", || async {
        let tenant: Value = serde_json::from_str(&kubectl.run(&["get", "tdr", "stride-eu", "-o", "json"]).await?)?;
        let edges = tenant["status"]["edges"].as_array().cloned().unwrap_or_default();
        let health = edges
            .iter()
            .find(|edge| edge["class"] == "health" && edge["to"] == "us");
        Ok(health
            .filter(|edge| edge["rule"].as_str().is_some_and(|rule| rule == RULE))
            .map(|edge| format!("{} to us {} ({})", edge["class"], edge["decision"], edge["rule"])))
    })
    .await
}

async fn restore(kubectl: &Kubectl, webhook: &str, lawful: &str) -> Result<()> {
    let answer = kubectl.apply(lawful).await?;
    ensure!(answer.accepted, "the lawful tenant was refused: {}", answer.complaint);
    let mut webhook: Value = serde_json::from_str(webhook).context("the webhook configuration")?;
    for field in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "managedFields",
    ] {
        if let Some(metadata) = webhook["metadata"].as_object_mut() {
            metadata.remove(field);
        }
    }
    let answer = kubectl
        .try_run(&["create", "-f", "-"], Some(&webhook.to_string()))
        .await?;
    ensure!(
        answer.accepted,
        "the webhook configuration could not be put back: {}",
        answer.complaint
    );
    Ok(())
}
