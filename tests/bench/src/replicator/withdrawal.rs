//! Deliveries against a withdrawal of the consent that they rest on: none starts after the withdrawal was acknowledged.
//!
//! The consent service is the platform's own, with its database. Deliverers in this program ask for permits as the replicator
//! does, in batches of several deliveries to each of several subjects, count them by the replicator's own
//! [`PermitWindow`], and start at the last moment before they close them; half of them take as long as a push across an ocean. Each subject withdraws
//! at another moment of their course. A delivery races the withdrawal of its subject when it was asked for before the
//! withdrawal was acknowledged, and had not ended when the withdrawal was sent. The race is lost when it starts after the
//! acknowledgement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use http::StatusCode;
use meridian_kit::testing::{Athlete, Client};
use meridian_replicator::domain::delivery::PermitWindow;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::border::{Exporting, change};
use super::races::{at_least, count};
use crate::Programs;
use crate::measure::percentile;
use crate::report::{Bound, Metric, Report};

/// How many races there are to be, unless others are asked for.
const RACES: usize = 1_000_000;
/// No round begins after this, unless a count was asked for.
const LASTS: Duration = Duration::from_secs(180);
/// Groups of athletes that are raced side by side.
const GROUPS: usize = 4;
/// Athletes of one group: all are in each batch of its deliverers.
const GROUP: usize = 5;
/// Deliveries to each of them in one batch.
const EACH: usize = 20;
/// How long each deliverer of a group takes between its permit and the start.
const MANNERS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(40),
    Duration::ZERO,
    Duration::from_millis(80),
];

/// One batch of deliveries, for one of its athletes.
#[derive(Clone, Copy)]
struct Attempt {
    asked: Instant,
    /// None: it was refused, or its permit had run out.
    started: Option<Instant>,
    ended: Instant,
}

/// Runs the races.
///
/// # Errors
/// When a service does not start, or does not answer.
pub async fn measure(programs: &Programs, asked: Option<usize>, report: &mut Report) -> Result<()> {
    let folder = report.logs("replicator-logs")?;
    let eu = Arc::new(Exporting::new(programs, &folder, GROUPS * GROUP).await?);
    let begun = Instant::now();
    let (mut races, mut lost, mut calls) = (0, 0, Vec::new());
    let mut round = 0;
    let wanted = asked.unwrap_or(RACES);
    while races < wanted && (asked.is_some() || begun.elapsed() < LASTS) {
        eu.consent_of_all("grant").await?;
        let groups = eu.athletes.chunks(GROUP).enumerate();
        let groups = groups.map(|(number, group)| race(&eu, group, round * GROUPS + number));
        for (sent, acknowledged, attempts) in try_join_all(groups).await?.into_iter().flatten() {
            calls.push(acknowledged.duration_since(sent).as_secs_f64() * 1000.0);
            for attempt in attempts {
                races += usize::from(attempt.asked < acknowledged && attempt.ended > sent) * EACH;
                lost += usize::from(attempt.started.is_some_and(|started| started >= acknowledged)) * EACH;
            }
        }
        round += 1;
    }
    eprintln!(
        "replicator: {races} races by {} withdrawals in {:?}",
        calls.len(),
        begun.elapsed()
    );
    let p99 = percentile(&calls, 0.99).context("nobody withdrew")?;
    report.add(count("races of a delivery and a withdrawal", races, at_least(wanted)))?;
    let name = "deliveries that started after a withdrawal was acknowledged";
    report.add(count(name, lost, Bound::AtMost(0.0)))?;
    let name = "duration of a withdrawal while deliveries are under way, p99";
    report.add(Metric::own(name, p99, "ms", Bound::AtMost(500.0)))
}

/// Each athlete's withdrawal (when it was sent, and when it was acknowledged) with the attempts at deliveries to them.
async fn race(eu: &Exporting, group: &[Athlete], number: usize) -> Result<Vec<(Instant, Instant, Vec<Attempt>)>> {
    let deliverer = eu.region.client("replicator", "consent");
    let gateway = eu.region.client("gateway", "consent");
    let deliverers = try_join_all(MANNERS.map(|manner| deliver(&deliverer, group, manner)));
    let withdrawals = try_join_all(group.iter().enumerate().map(|(place, athlete)| {
        let gateway = &gateway;
        // Moments that are spread over what a batch of the slowest lasts; 37 and 101 have no common divisor.
        let moment = (number * GROUP + place) * 37 % 101;
        async move {
            tokio::time::sleep(Duration::from_millis(u64::try_from(moment)?)).await;
            let sent = Instant::now();
            change(gateway, athlete, "withdraw").await?;
            anyhow::Ok((sent, Instant::now()))
        }
    }));
    let (delivered, withdrawn) = tokio::try_join!(deliverers, withdrawals)?;
    let of_athlete = |(place, (sent, acknowledged))| {
        let attempts = delivered
            .iter()
            .flat_map(|batches: &Vec<Vec<Attempt>>| batches.iter().map(move |batch| batch[place]));
        (sent, acknowledged, attempts.collect())
    };
    Ok(withdrawn.into_iter().enumerate().map(of_athlete).collect())
}

#[derive(Deserialize)]
struct Permits {
    valid_for_ms: u64,
    permits: Vec<Word>,
}

#[derive(Deserialize)]
struct Word {
    permit_id: Option<Uuid>,
}

/// Delivers to a whole group again and again until all of it is refused; of each batch, one attempt for each athlete.
async fn deliver(api: &Client, group: &[Athlete], manner: Duration) -> Result<Vec<Vec<Attempt>>> {
    let tenant = &group.first().context("a group has athletes")?.tenant;
    let deliveries: Vec<_> = group
        .iter()
        .flat_map(|athlete| (0..EACH).map(|_| json!({"subject": athlete.subject, "delivery_id": Uuid::new_v4()})))
        .collect();
    let question = json!({
        "tenant": tenant, "purpose": "cross-border-sharing", "class": "workout-summary", "deliverer": "replicator",
        "deliveries": deliveries,
    });
    let mut batches = Vec::new();
    loop {
        let asked = Instant::now();
        let answer = api.post("/internal/permits/open").json(&question).send().await?;
        let answer: Permits = answer.error_for_status()?.json().await?;
        if answer.permits.len() != deliveries.len() {
            bail!(
                "{} permits were answered for {} deliveries",
                answer.permits.len(),
                deliveries.len()
            );
        }
        let window = PermitWindow::new(asked, Duration::from_millis(answer.valid_for_ms));
        let open: Vec<Uuid> = answer.permits.iter().filter_map(|word| word.permit_id).collect();
        if !open.is_empty() {
            tokio::time::sleep(manner).await;
        }
        let start = Some(Instant::now()).filter(|now| window.admits(*now));
        if !open.is_empty() {
            let closing = json!({"tenant": tenant, "permits": open});
            let closed = api
                .post("/internal/permits/close")
                .json(&closing)
                .send()
                .await?
                .status();
            if closed != StatusCode::NO_CONTENT {
                bail!("permits were not closed: {closed}");
            }
        }
        let ended = Instant::now();
        let of_athlete = |words: &[Word]| Attempt {
            asked,
            // Any one of them: what matters is the latest.
            started: start.filter(|_| words.iter().any(|word| word.permit_id.is_some())),
            ended,
        };
        batches.push(answer.permits.chunks(EACH).map(of_athlete).collect());
        if open.is_empty() {
            return Ok(batches);
        }
    }
}
