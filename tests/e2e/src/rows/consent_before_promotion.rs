//! Row 4: no promotion before consent, exactly one after it; once a withdrawal is acknowledged no delivery starts.
//!
//! Each "none" is looked at when the platform has decided, not after a while: the campaign was launched, everybody was
//! looked through, no question about the athlete is open, and somebody else who consented did receive it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::athlete::{Athlete, expect};
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

/// A campaign that was launched.
struct Campaign {
    id: Uuid,
    title: String,
}

/// The tenant's marketing client.
struct Marketer {
    token: String,
}

impl Marketer {
    async fn sign_in(site: &Site) -> Result<Self> {
        let name = format!("marketing-{}", site.tenant);
        let secrets: Api<Secret> = Api::namespaced(site.cluster.client.clone(), &site.namespace());
        let mut data = secrets
            .get(&name)
            .await
            .with_context(|| format!("Secret {name}"))?
            .data
            .unwrap_or_default();
        let mut part = |key: &str| -> Result<String> {
            let bytes = data
                .remove(key)
                .with_context(|| format!("Secret {name} has no {key}"))?;
            String::from_utf8(bytes.0).with_context(|| format!("{key} of Secret {name} is no text"))
        };
        let body = json!({ "client_id": part("client-id")?, "client_secret": part("client-secret")? });
        let request = site
            .http
            .post(format!("{}/api/v1/service-tokens", site.url))
            .json(&body);
        let request = request.header("Meridian-Tenant", site.tenant);
        let answer = expect(request, StatusCode::OK, "the marketing client's token").await?;
        let token = answer["access_token"]
            .as_str()
            .context("no access_token for the marketing client")?;
        Ok(Self {
            token: token.to_owned(),
        })
    }

    /// Makes a campaign for everybody and launches it.
    async fn launch(&self, site: &Site) -> Result<Campaign> {
        let title = format!("New shoes {}", Uuid::new_v4().simple());
        let name = format!("proof-{}", Uuid::new_v4().simple());
        let body = json!({ "name": name, "title": title, "body": "Half price.", "segment": { "all": true } });
        let answer = self.post(site, "/api/v1/campaigns", &body, StatusCode::CREATED).await?;
        let id = answer["id"]
            .as_str()
            .and_then(|id| id.parse().ok())
            .context("a campaign has an id")?;
        let campaign = Campaign { id, title };
        self.relaunch(site, &campaign).await?;
        Ok(campaign)
    }

    async fn relaunch(&self, site: &Site, campaign: &Campaign) -> Result<()> {
        let path = format!("/api/v1/campaigns/{}/launch", campaign.id);
        self.post(site, &path, &json!({}), StatusCode::ACCEPTED).await?;
        Ok(())
    }

    async fn post(&self, site: &Site, path: &str, body: &Value, status: StatusCode) -> Result<Value> {
        let request = site
            .http
            .post(format!("{}{path}", site.url))
            .bearer_auth(&self.token)
            .json(body);
        expect(request, status, &format!("POST {path}")).await
    }
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
        let seen = query(site, &sql).await?;
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
        Ok((query(site, &sql).await? == expected).then_some(()))
    })
    .await
}

/// Deliveries of any campaign to the athlete since that moment, as the database has them.
async fn delivered_after(site: &Site, athlete: &Athlete, moment: Timestamp) -> Result<i64> {
    let sql = format!(
        "select count(*) from delivery where subject = '{}' and delivered_at > '{moment}'",
        athlete.subject
    );
    let count = query(site, &sql).await?;
    count
        .parse()
        .with_context(|| format!("the promotions database answered {count:?}"))
}

/// Deliveries of any campaign to the athlete, as the database has them.
async fn delivered(site: &Site, athlete: &Athlete) -> Result<i64> {
    let count = query(
        site,
        &format!("select count(*) from delivery where subject = '{}'", athlete.subject),
    )
    .await?;
    count
        .parse()
        .with_context(|| format!("the promotions database answered {count:?}"))
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

async fn query(site: &Site, sql: &str) -> Result<String> {
    let answer = site.cluster.kubectl.psql(&site.namespace(), "promotions", sql).await?;
    Ok(answer.trim().to_owned())
}
