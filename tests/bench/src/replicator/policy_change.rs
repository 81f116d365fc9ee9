//! Deliveries against a change of the policy that forbids them: none starts after the change was acknowledged.
//!
//! The exporter is the platform's own, with its database, keyring and consent; the importer is this program, which notes when
//! each batch arrives and takes it. Deliveries queue up while the policy may be stale; once it is current they leave, and at a
//! moment that moves through their course the edge is taken out of the policy. Each delivery that had not arrived when the
//! change was sent is one race. It is lost when the delivery arrives after the region's operator has the exporter's
//! acknowledgement: an exporter acknowledges only when every push that it had begun has ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use meridian_kit::service::{self, Parts};
use meridian_kit::testing::Region;
use meridian_replicator::wire::{Form, Leased};
use serde_json::{Value, json};

use super::border::{Exporting, SHARES, US_TENANT, edge};
use super::races::{at_least, count};
use super::throughput::produce;
use crate::Programs;
use crate::measure::percentile;
use crate::report::{Bound, Metric, Report};

const ATHLETES: usize = 200;
/// Deliveries that are queued for each change.
const QUEUED: usize = 2_500;
/// How many races there are to be, unless others are asked for.
const RACES: usize = 100_000;
/// No change begins after this, unless a count was asked for.
const LASTS: Duration = Duration::from_secs(300);
/// What the importer's place takes at once, as an importer does.
const LARGEST_BODY: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// When how many copies arrived.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<Vec<(Instant, usize)>>>);

impl Arrivals {
    fn taken(&self) -> Vec<(Instant, usize)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&self) -> usize {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(_, count)| count)
            .sum()
    }

    fn router(&self) -> Router {
        async fn batch(State(arrivals): State<Arrivals>, Json(batch): Json<Value>) -> Json<Value> {
            let count = batch["events"].as_array().map_or(0, Vec::len);
            let arrived = (Instant::now(), count);
            arrivals.0.lock().unwrap_or_else(PoisonError::into_inner).push(arrived);
            Json(json!({"stored": count, "repeated": 0}))
        }
        async fn cut() -> Json<Value> {
            Json(json!({"complete": true, "purged": 0, "sinks": ["replicator"]}))
        }
        Router::new()
            .route(
                Form::Carried.path(),
                post(batch).layer(DefaultBodyLimit::max(LARGEST_BODY)),
            )
            .route(
                "/peer/v1/leases",
                post(async || {
                    Json(Leased {
                        carried: true,
                        ..Leased::default()
                    })
                }),
            )
            .route("/peer/v1/cuts", post(cut))
            .with_state(self.clone())
    }
}

/// Runs the races.
///
/// # Errors
/// When a service does not start, or a change is not acknowledged.
pub async fn measure(programs: &Programs, asked: Option<usize>, report: &mut Report) -> Result<()> {
    let folder = report.logs("replicator-logs")?;
    let arrivals = Arrivals::default();
    let us = Region::new("us", &[US_TENANT]).await;
    let eu = Exporting::new(programs, &folder, ATHLETES).await?;
    eu.region.add_peer(&us);
    us.add_peer(&eu.region);
    let router = arrivals.router();
    us.run("replicator", |start| {
        service::serve(start, Parts::new(router).accept_peer_regions())
    })
    .await;
    eu.consent_of_all("grant").await?;
    let _replicator = eu.replicator(programs, &folder).await?;
    let begun = Instant::now();
    let (mut races, mut lost, mut changes) = (0, 0, Vec::new());
    let wanted = asked.unwrap_or(RACES);
    while races < wanted && (asked.is_some() || begun.elapsed() < LASTS) {
        let round = round(&eu, &arrivals, changes.len()).await?;
        races += round.races;
        lost += round.lost;
        changes.push(round.acknowledged_after.as_secs_f64() * 1000.0);
    }
    eprintln!(
        "replicator: {races} races by {} changes in {:?}",
        changes.len(),
        begun.elapsed()
    );
    let p99 = percentile(&changes, 0.99).context("there was no change")?;
    report.add(count(
        "races of a delivery and a change of the policy",
        races,
        at_least(wanted),
    ))?;
    let name = "deliveries that the policy forbade, after its change was acknowledged";
    report.add(count(name, lost, Bound::AtMost(0.0)))?;
    let name = "change of the policy told to the exporter until it is acknowledged, p99";
    report.add(Metric::own(name, p99, "ms", Bound::Reported))
}

struct Round {
    races: usize,
    lost: usize,
    acknowledged_after: Duration,
}

async fn round(eu: &Exporting, arrivals: &Arrivals, number: usize) -> Result<Round> {
    let edge = edge()?;
    eu.region.change_policy(|policy| policy.exports = vec![edge.clone()]);
    until("the edge opens", || rows(eu, "export_edge where state = 'open'", 1)).await?;
    eu.region.lose_lease();
    let producer = eu.region.kafka("social").producer()?;
    produce(&producer, SHARES, &eu.events(QUEUED)?).await?;
    until("all is queued", || rows(eu, "delivery", QUEUED)).await?;
    arrivals.taken();
    eu.region.renew_lease();
    until("deliveries leave", async || Ok(arrivals.count() > 0)).await?;
    // In steps of a millisecond through what a few pushes last; 37 and 97 have no common divisor.
    let step = u64::try_from(number * 37 % 97)?;
    tokio::time::sleep(Duration::from_millis(step)).await;
    let known = eu.region.timed_acks().len();
    let before = arrivals.count();
    let changed = Instant::now();
    eu.region.change_policy(|policy| policy.exports.clear());
    until("the change is acknowledged", async || {
        Ok(eu.region.timed_acks().len() > known)
    })
    .await?;
    let acks = eu.region.timed_acks();
    let (acknowledged, _) = acks.get(known).context("the acknowledgement is gone")?;
    until("every delivery has ended", || rows(eu, "delivery", 0)).await?;
    until("the cut is done", || {
        rows(eu, "export_edge where state = 'cut' and reported", 1)
    })
    .await?;
    let late = arrivals
        .taken()
        .into_iter()
        .filter(|(arrived, _)| arrived > acknowledged);
    Ok(Round {
        races: QUEUED.saturating_sub(before),
        lost: late.map(|(_, count)| count).sum(),
        acknowledged_after: acknowledged.duration_since(changed),
    })
}

/// Whether a table has so many rows.
async fn rows(eu: &Exporting, table: &str, count: usize) -> Result<bool> {
    let query = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
    let rows: i64 = sqlx::query_scalar(query).fetch_one(&eu.seen).await?;
    Ok(usize::try_from(rows).is_ok_and(|rows| rows == count))
}

async fn until<F: Future<Output = Result<bool>>>(what: &str, mut ask: impl FnMut() -> F) -> Result<()> {
    let begun = Instant::now();
    while !ask().await? {
        if begun.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
