//! Row 4: no promotion before consent, exactly one after it; once a withdrawal is acknowledged no delivery starts.
//!
//! Each "none" is looked at when the platform has decided, not after a while: the campaign was launched, everybody was
//! looked through, no question about the athlete is open, and somebody else who consented did receive it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::athlete::Athlete;
use crate::marketer::{Campaign, Marketer};
use crate::rows::Outcome;
use crate::world::{Site, World, until};

const DECIDED: Duration = Duration::from_secs(30);

pub async fn prove(world: &World) -> Result<Outcome> {
    let eu = &world.eu;
    let marketer = Marketer::sign_in(eu).await?;
    let (athlete, other) = (
        Athlete::register(eu, "Carla").await?,
        Athlete::register(eu, "Otto").await?,
    );
    // Somebody who consented shows that a campaign was delivered at all.
    consent(eu, &other, "grant").await?;
    heard(eu, &other, true).await?;

    let first = marketer.launch(eu).await?;
    decided(eu, &first, &[&athlete, &other]).await?;
    ensure!(
        inbox(eu, &other, &first).await? == 1,
        "who consented has not received the campaign"
    );
    let before = delivered(eu, &athlete).await?;
    ensure!(
        before == 0 && inbox(eu, &athlete, &first).await? == 0,
        "{before} promotions before any consent"
    );

    consent(eu, &athlete, "grant").await?;
    until(DECIDED, "a promotion after the consent", || async {
        Ok((inbox(eu, &athlete, &first).await? > 0).then_some(()))
    })
    .await?;
    marketer.relaunch(eu, &first).await?;
    decided(eu, &first, &[&athlete, &other]).await?;
    let after = inbox(eu, &athlete, &first).await?;
    ensure!(after == 1, "{after} deliveries of one campaign after the consent");

    consent(eu, &athlete, "withdraw").await?;
    // The demo runs on this machine: its clock is ours.
    let acknowledged = Timestamp::now();
    let second = marketer.launch(eu).await?;
    decided(eu, &second, &[&athlete, &other]).await?;
    heard(eu, &athlete, false).await?;
    ensure!(
        inbox(eu, &other, &second).await? == 1,
        "who still consents has not received the second campaign"
    );
    let (late, listed) = (
        delivered_after(eu, &athlete, acknowledged).await?,
        inbox(eu, &athlete, &second).await?,
    );
    ensure!(
        late == 0 && listed == 0,
        "{late} deliveries started after the withdrawal was acknowledged, {listed} of the new campaign"
    );
    Ok(Outcome::Proved(
        "0 before consent, 1 after it (launched twice), 0 of a campaign launched after the withdrawal's acknowledgement, which another athlete received".to_owned(),
    ))
}

/// Grants or withdraws the consent to promotions; returns when that is acknowledged.
async fn consent(site: &Site, athlete: &Athlete, action: &str) -> Result<()> {
    let body = json!({ "purpose": "marketing", "class": "promotion", "action": action });
    athlete
        .send(site, Method::POST, "/api/v1/consents", &body, StatusCode::CREATED)
        .await?;
    Ok(())
}

/// Waits until the campaign has been decided about these athletes: everybody looked through, no question open.
async fn decided(site: &Site, campaign: &Campaign, athletes: &[&Athlete]) -> Result<()> {
    let subjects: Vec<String> = athletes
        .iter()
        .map(|athlete| format!("'{}'", athlete.subject))
        .collect();
    let sql = format!(
        "select (select state from campaign where id = '{id}'), \
         (select count(*) from pending where campaign = '{id}' and subject in ({}))",
        subjects.join(","),
        id = campaign.id
    );
    until(DECIDED, "the end of a campaign's evaluation", || async {
        let seen = site.query("promotions", &sql).await?;
        ensure!(seen == "launched|0", "state and open questions are {seen}");
        Ok(Some(()))
    })
    .await
}

/// Waits until the delivering part itself has heard of the athlete's decision, and no question about the athlete is open.
async fn heard(site: &Site, athlete: &Athlete, granted: bool) -> Result<()> {
    let sql = format!(
        "select (select promotion from athlete where subject = '{0}'), (select count(*) from pending where subject = '{0}')",
        athlete.subject
    );
    let expected = if granted { "t|0" } else { "f|0" };
    until(DECIDED, "the athlete's decision in promotions", || async {
        Ok((site.query("promotions", &sql).await? == expected).then_some(()))
    })
    .await
}

/// Deliveries of any campaign to the athlete since that moment, as the database has them.
async fn delivered_after(site: &Site, athlete: &Athlete, moment: Timestamp) -> Result<u64> {
    let sql = format!(
        "select count(*) from delivery where subject = '{}' and delivered_at > '{moment}'",
        athlete.subject
    );
    site.count("promotions", &sql).await
}

/// Deliveries of any campaign to the athlete, as the database has them.
async fn delivered(site: &Site, athlete: &Athlete) -> Result<u64> {
    let sql = format!("select count(*) from delivery where subject = '{}'", athlete.subject);
    site.count("promotions", &sql).await
}

/// How often the campaign is in the athlete's inbox, on all its pages.
async fn inbox(site: &Site, athlete: &Athlete, campaign: &Campaign) -> Result<usize> {
    let (mut found, mut cursor) = (0, String::new());
    loop {
        let page = athlete.get(site, &format!("/api/v1/promotions{cursor}")).await?;
        let promotions = page["promotions"].as_array().context("an inbox has promotions")?;
        found += promotions
            .iter()
            .filter(|promotion| promotion["title"] == campaign.title.as_str())
            .count();
        match page["next"].as_str() {
            Some(next) => cursor = format!("?cursor={next}"),
            None => return Ok(found),
        }
    }
}
