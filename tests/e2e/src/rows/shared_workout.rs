//! Row 5: a workout that an EU athlete shares reaches a us reader holding exactly the edge's fields, when the edge is lawful
//! and the athlete consented. Without the consent nothing arrives: the border has refused it, and its evidence says so.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::athlete::Athlete;
use crate::rows::Outcome;
use crate::rows::real_ride::{self, Uploaded};
use crate::world::{Site, World, until};

/// The edge of the demo: what `regions/local/40-tenants.yaml` lets out.
pub(super) const EDGE: &str = "stride-eu.workout-summary.us";
const FIELDS: [&str; 4] = ["distance_meters", "duration_sec", "sport_type", "start_day"];
const ARRIVES: Duration = Duration::from_secs(30);

pub async fn prove(world: &World) -> Result<Outcome> {
    let reader = Athlete::register(&world.us, "Joe").await?;
    let athlete = Athlete::register(&world.eu, "Ida").await?;
    edge_is_open(world).await?;

    let before = imported(&world.us, &reader).await?;
    let entries = last_evidence(&world.eu).await?;
    let copies = copies(&world.us).await?;
    share(&world.eu, &athlete).await?;
    let rule = refusal(&world.eu, entries).await?;
    ensure!(
        rule.starts_with("consent:"),
        "without consent it was refused, but for {rule}"
    );
    ensure!(
        ids(&imported(&world.us, &reader).await?) == ids(&before),
        "something arrived in us without consent"
    );
    ensure!(
        self::copies(&world.us).await? == copies,
        "us's tables hold a copy without consent"
    );

    consent(&world.eu, &athlete).await?;
    let sent = share(&world.eu, &athlete).await?;
    let item = arrival(&world.us, &reader, &before).await?;
    exactly_the_fields(&item, &athlete, &sent)?;
    let now = imported(&world.us, &reader).await?;
    let new = now
        .iter()
        .filter(|item| !ids(&before).contains(&item["id"].to_string()))
        .count();
    ensure!(
        new == 1,
        "{new} items arrived for the one workout that was consented to"
    );
    Ok(Outcome::Proved(format!(
        "refused by {rule}, then with consent in us: {}",
        item["workout"]
    )))
}

/// Waits until both sides have the edge in force.
pub(super) async fn edge_is_open(world: &World) -> Result<()> {
    for (site, table) in [(&world.eu, "export_edge"), (&world.us, "import_edge")] {
        let sql = format!("select state from {table} where edge = '{EDGE}'");
        until(
            Duration::from_secs(60),
            &format!("the edge {EDGE} in force at {}", site.region),
            || async {
                let state = site.query("replicator", &sql).await?;
                if state != "open" {
                    bail!("its state is {state:?}");
                }
                Ok(Some(()))
            },
        )
        .await?;
    }
    Ok(())
}

/// A reader in us, who sees what an athlete of eu just shared with consent.
pub(super) async fn reader_and_sharer(world: &World) -> Result<(Athlete, Athlete)> {
    let reader = Athlete::register(&world.us, "Joe").await?;
    let athlete = Athlete::register(&world.eu, "Ida").await?;
    edge_is_open(world).await?;
    consent(&world.eu, &athlete).await?;
    let before = imported(&world.us, &reader).await?;
    share(&world.eu, &athlete).await?;
    arrival(&world.us, &reader, &before).await?;
    Ok((reader, athlete))
}

/// The athlete consents to cross-border sharing of workout summaries.
pub(super) async fn consent(site: &Site, athlete: &Athlete) -> Result<()> {
    let body = json!({ "purpose": "cross-border-sharing", "class": "workout-summary", "action": "grant" });
    athlete
        .send(site, Method::POST, "/api/v1/consents", &body, StatusCode::CREATED)
        .await?;
    Ok(())
}

/// Rides, uploads, and shares it with the community.
pub(super) async fn share(site: &Site, athlete: &Athlete) -> Result<Uploaded> {
    let uploaded = real_ride::upload(site, athlete, &real_ride::ride()).await?;
    let body = json!({ "workout_id": uploaded.workout, "audience": "community" });
    // Social learns of the workout a moment after the upload's answer, and says so until then.
    until(ARRIVES, "the upload in social", || async {
        let request = athlete.request(site, Method::POST, "/api/v1/shares").json(&body);
        let answer = request
            .header("Idempotency-Key", Uuid::new_v4().to_string())
            .send()
            .await?;
        match answer.status() {
            StatusCode::CREATED => Ok(Some(())),
            status => bail!("POST /api/v1/shares: {status}: {}", answer.text().await?),
        }
    })
    .await?;
    Ok(uploaded)
}

/// What of other regions is in the reader's community feed, all pages.
pub(super) async fn imported(site: &Site, reader: &Athlete) -> Result<Vec<Value>> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = reader
            .get(site, &format!("/api/v1/feed?scope=community{cursor}"))
            .await?;
        let items = page["items"].as_array().context("a feed has items")?;
        found.extend(items.iter().filter(|item| item["origin"] != Value::Null).cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(found),
        }
    }
}

/// Waits for an item that was not there before.
pub(super) async fn arrival(site: &Site, reader: &Athlete, before: &[Value]) -> Result<Value> {
    let known = ids(before);
    until(ARRIVES, "a shared workout in the other region's feed", || async {
        let items = imported(site, reader).await?;
        Ok(items.into_iter().find(|item| !known.contains(&item["id"].to_string())))
    })
    .await
}

/// Copies of the edge in the region's tables: the replicator's and social's.
pub(super) async fn copies(site: &Site) -> Result<(u64, u64)> {
    let count = async |database: &str, table: &str| {
        let sql = format!("select count(*) from {table} where edge = '{EDGE}'");
        site.count(database, &sql).await
    };
    Ok((
        count("replicator", "imported_event").await?,
        count("social", "imported_workout").await?,
    ))
}

/// As the feed names them.
pub(super) fn ids(items: &[Value]) -> BTreeSet<String> {
    items.iter().map(|item| item["id"].to_string()).collect()
}

async fn last_evidence(site: &Site) -> Result<i64> {
    let sql = format!(
        "select coalesce(max(seq), 0) from evidence_chain where tenant = '{}'",
        site.tenant
    );
    site.query("replicator", &sql)
        .await?
        .parse()
        .context("the number of the last entry of evidence")
}

/// Waits for the evidence of what became of the delivery, which must be a refusal, and gives its rule.
async fn refusal(site: &Site, after: i64) -> Result<String> {
    let sql = format!(
        "select kind, rule from evidence_chain where tenant = '{}' and edge = '{EDGE}' and seq > {after} order by seq limit 1",
        site.tenant
    );
    let entry = until(ARRIVES, "evidence of the refusal", || async {
        Ok(Some(site.query("replicator", &sql).await?).filter(|entry| !entry.is_empty()))
    })
    .await?;
    let (kind, rule) = entry.split_once('|').context("an entry has a kind and a rule")?;
    ensure!(
        kind == "refusal",
        "without consent the evidence records a {kind} by {rule}"
    );
    Ok(rule.to_owned())
}

/// The whole item: an id of its own, where it is from, and the edge's fields as the workout has them.
fn exactly_the_fields(item: &Value, athlete: &Athlete, sent: &Uploaded) -> Result<()> {
    let keys = |value: &Value| {
        value
            .as_object()
            .map(|map| map.keys().cloned().collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let mut outer = keys(item);
    outer.sort();
    ensure!(outer == ["id", "origin", "workout"], "the item holds {outer:?}");
    ensure!(item["origin"] == "eu", "the item's origin is {}", item["origin"]);
    let mut inner = keys(&item["workout"]);
    inner.sort();
    ensure!(
        inner == FIELDS,
        "the workout holds {inner:?}, the edge lets out {FIELDS:?}"
    );
    for id in [sent.workout, athlete.subject] {
        ensure!(
            !item.to_string().contains(&id.to_string()),
            "the item names the workout or the athlete as eu does"
        );
    }
    let (got, really) = (&item["workout"], &sent.summary);
    ensure!(
        got["sport_type"] == really["sport_type"],
        "sport_type is {}",
        got["sport_type"]
    );
    for field in ["distance_meters", "duration_sec"] {
        let (got, really) = (got[field].as_f64(), really[field].as_f64());
        ensure!(
            got.is_some() && got == really,
            "{field} is {got:?}, in eu it is {really:?}"
        );
    }
    let day = really["start_time"]
        .as_str()
        .and_then(|time| time.split('T').next())
        .context("a workout has a start_time")?;
    ensure!(
        got["start_day"] == day,
        "start_day is {}, in eu it is {day}",
        got["start_day"]
    );
    Ok(())
}
