//! The writer: takes sealed batches from Kafka in rounds and stores them, each once in effect. Offsets are committed after
//! the transaction; what is delivered again is known by its batch.

pub mod backlog;
mod handler;

use std::time::Duration;

use jiff::Timestamp;
use meridian_kit::db::Pool;
use meridian_kit::kafka::Consumer;
use meridian_kit::service::Parts;
use meridian_kit::{Start, StartError};
use tokio_util::sync::CancellationToken;

use self::backlog::Backlog;
use self::handler::{Chunks, Counts};
use crate::store::{make_month, month_at};
use crate::{TOPIC, WRITERS};

/// How often the backlog is looked at; the autoscaler reads it every few seconds.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often the coming months' partitions are looked after.
const AHEAD_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Partitions beyond this month's.
const MONTHS_AHEAD: usize = 2;

/// Adds the writer's parts.
pub(crate) fn parts(start: &Start, parts: Parts) -> Result<Parts, StartError> {
    let pool = start.database()?;
    let counts = Counts::new(start.metrics());
    let chunks = Chunks::new(pool.clone(), start.keyring()?, start.homes(), counts);
    let consumer = Consumer::in_group(start, WRITERS, &[TOPIC])?;
    Ok(parts
        .background("the writer", consumer.run_batches(chunks))
        .background("the backlog", watch_backlog(start.clone()))
        .background("the months ahead", keep_months_ahead(pool, start.stop())))
}

/// Every writer reports the backlog of the whole group: whoever sums the replicas' values counts it several times.
async fn watch_backlog(start: Start) -> Result<(), StartError> {
    let lag = start.metrics().gauge(
        "meridian_ingest_lag",
        "Batches that no writer has stored yet, of the whole group",
    );
    let backlog = Backlog::new(start.kafka());
    let stop = start.stop();
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        match backlog.batches().await {
            Ok(batches) => {
                lag.set(batches);
            }
            // The old value stays: a broker that is away has not emptied the topic.
            Err(error) => tracing::warn!(%error, "the backlog is not known just now"),
        }
    }
    Ok(())
}

async fn keep_months_ahead(pool: Pool, stop: CancellationToken) -> Result<(), StartError> {
    loop {
        let mut month = month_at(Timestamp::now());
        let mut pause = AHEAD_EVERY;
        for _ in 0..=MONTHS_AHEAD {
            if let Err(error) = make_month(&pool, month).await {
                tracing::warn!(%error, "a coming month's partition could not be made; trying again");
                pause = LOOK_EVERY;
            }
            month = month.next();
        }
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(());
        }
    }
}
