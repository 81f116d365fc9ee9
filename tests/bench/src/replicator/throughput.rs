//! Events per second of processor time, both ends of the border together, against MirrorMaker 2.
//!
//! Both copy the same shared workouts of 1 KiB between the same two brokers, in turns. Ours does all of what it does in
//! production: each event is queued in the exporter's database, judged by the policy, opened, cut to the edge's fields,
//! pseudonymised, sealed anew and delivered under a permit of the consent service, its delivery recorded as evidence on both
//! sides; the importer judges it again and relays it from its database. MirrorMaker copies records as they are, from a twin of
//! the topic, so that neither works in the other's turn.
//!
//! Counted is what the kernel counts for their processes (user and system mode, all threads) from before the first event of a
//! turn is written until the last one is in the target's topic, and for ours until every row of its is settled and linked into
//! the evidence as well. Stores (brokers, PostgreSQL) count for neither. Nor do start-ups: turns of the same size that are not
//! counted go before, and many of MirrorMaker alone, in which the JVM compiles what is hot. It takes some: in its first turn
//! MirrorMaker uses three times as much as in its fifth, and only after some 300,000 events, half of that. Services that the
//! replicators ask (keyrings, consent) are told apart.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use meridian_kit::kafka::{Producer, Topic};
use meridian_kit::testing::Database;

use super::border::{Border, IMPORTS, SHARES, Used, variable};
use super::mirror;
use super::service::Service;
use super::topic::Counted;
use crate::Programs;
use crate::measure::{compare, median};
use crate::report::{Bound, Metric, Report};

const ATHLETES: usize = 500;
const EVENTS: usize = 20_000;
/// Turns that are not counted: of MirrorMaker alone, then of both. And those that are.
const COMPILING: usize = 20;
const WARMING: usize = 3;
const TURNS: usize = 7;
const TWIN: &str = "social.twin";
/// How long a turn may last.
const PATIENCE: Duration = Duration::from_secs(180);

/// Measures the rates.
///
/// # Errors
/// When a program does not start, or events are lost.
pub async fn measure(programs: &Programs, report: &mut Report) -> Result<()> {
    let folder = report.logs("replicator-logs")?;
    let mut border = Border::new(programs, &folder, ATHLETES).await?;
    let mut ours = Ours::new(&border)?;
    let mut peer = Peer::start(programs, &border, &folder).await?;
    let mut pairs = Vec::new();
    let mut asked = Vec::new();
    let mut compiling = Vec::new();
    for _ in 0..COMPILING {
        compiling.push(peer.turn(&border.eu.events(EVENTS)?).await?);
    }
    eprintln!("replicator: MirrorMaker alone, turn by turn: {compiling:?}");
    for turn in 0..WARMING + TURNS {
        let events = border.eu.events(EVENTS)?;
        let used = ours.turn(&mut border, &events).await?;
        let mirrored = peer.turn(&events).await?;
        eprintln!("replicator: turn {turn}: {used}MirrorMaker {mirrored:?}");
        if turn >= WARMING {
            pairs.push((rate(used.by_ends()), rate(mirrored)));
            asked.push(rate(used.by_ends() + used.by_asked()));
        }
    }
    let compared = compare(&pairs).context("no turn was measured")?;
    report.add(Metric {
        name: "events of 1 KiB per CPU second, both ends, by MirrorMaker 2's".to_owned(),
        ours: compared.ours,
        peer: Some(compared.peer),
        ratio: Some(compared.ratio),
        unit: "1/s",
        bound: Bound::RatioAtLeast(1.0),
    })?;
    let with_asked = median(&asked).context("no turn was measured")?;
    let name = "the same with keyrings and consent";
    report.add(Metric::own(name, with_asked, "1/s", Bound::Reported))
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand events")]
fn rate(used: Duration) -> f64 {
    EVENTS as f64 / used.as_secs_f64()
}

/// Writes records, and returns when the broker has all.
///
/// # Errors
/// When it has not.
pub async fn produce(producer: &Producer, topic: &str, events: &[(String, Vec<u8>)]) -> Result<()> {
    let mut sent = Vec::with_capacity(events.len());
    for (key, event) in events {
        sent.push(producer.enqueue(topic, key, event).await?);
    }
    for delivery in sent {
        delivery.await?;
    }
    Ok(())
}

/// The replicators' side.
struct Ours {
    producer: Producer,
    arrived: Counted,
    expected: u64,
}

impl Ours {
    fn new(border: &Border) -> Result<Self> {
        let topic = border.us.kafka("replicator").topic_name(IMPORTS);
        Ok(Self {
            producer: border.eu.region.kafka("social").producer()?,
            arrived: Counted::new(&variable("MERIDIAN_BENCH_OTHER_KAFKA")?, &topic)?,
            expected: 0,
        })
    }

    /// What our processes used.
    async fn turn(&mut self, border: &mut Border, events: &[(String, Vec<u8>)]) -> Result<Used> {
        let before = border.used()?;
        produce(&self.producer, SHARES, events).await?;
        self.expected += events.len() as u64;
        self.arrived.reaches(self.expected, PATIENCE).await?;
        for (database, tables) in [
            (&border.eu.exports, &["delivery", "evidence_pending"][..]),
            (&border.imports, &["outbox", "evidence_pending"][..]),
        ] {
            for table in tables {
                empty(database, table).await?;
            }
        }
        let used = border.used()?.since(&before);
        let records = self.arrived.records()?;
        if records != self.expected {
            bail!("{records} events arrived of {}", self.expected);
        }
        Ok(used)
    }
}

async fn empty(database: &Database, table: &str) -> Result<()> {
    let pool = database.superuser_pool();
    let query = format!("select count(*) from {table}");
    for _ in 0..600 {
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query.clone()))
            .fetch_one(&pool)
            .await?;
        if rows == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("{table} is not empty after everything arrived")
}

/// MirrorMaker's side.
struct Peer {
    service: Service,
    producer: Producer,
    arrived: Counted,
    expected: u64,
}

impl Peer {
    async fn start(programs: &Programs, border: &Border, folder: &Path) -> Result<Self> {
        let kafka = border.eu.region.kafka("social");
        kafka.ensure_topics(&[Topic::events(TWIN)]).await?;
        let (from, to) = (
            variable("MERIDIAN_TEST_KAFKA")?,
            variable("MERIDIAN_BENCH_OTHER_KAFKA")?,
        );
        let topic = kafka.topic_name(TWIN);
        Ok(Self {
            service: mirror::start(programs, &topic, &from, &to, folder)?,
            producer: kafka.producer()?,
            arrived: Counted::new(&to, &mirror::target_of(&topic))?,
            expected: 0,
        })
    }

    async fn turn(&mut self, events: &[(String, Vec<u8>)]) -> Result<Duration> {
        let before = self.service.cpu()?;
        produce(&self.producer, TWIN, events).await?;
        self.expected += events.len() as u64;
        self.arrived.reaches(self.expected, PATIENCE).await?;
        Ok(self.service.cpu()? - before)
    }
}
