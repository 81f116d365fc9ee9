//! How a record is settled: handled once, recognized as handled, or put aside. Nothing else ends it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::handler::{BatchHandler, Consumed, Failure, Handled, Handler};
use super::{DeadCopy, Kafka, Producer, dead_letter};
use crate::db::{Pool, TenantTx};
use crate::event::{Event, NotAnEvent};
use crate::inbox;
use crate::metrics::ConsumedLabels;
use crate::residency::Homes;
use crate::trace::Context;

/// Subjects handled side by side.
const SIDE_BY_SIDE: usize = 4;
/// Attempts before an event that keeps failing for its own reasons goes to the dead letters (about 25 s).
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A record as it came.
pub(super) struct Record {
    pub(super) topic: String,
    /// Partition and offset.
    pub(super) place: (i32, i64),
    pub(super) key: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// Handles events one by one.
pub(super) struct Worker<H> {
    pub(super) handler: H,
    pub(super) pool: Pool,
    pub(super) dead: Producer,
    pub(super) homes: Homes,
    pub(super) group: String,
    pub(super) kafka: Kafka,
    pub(super) counts: Counts,
    pub(super) stop: CancellationToken,
}

impl<H: Handler> Worker<H> {
    /// Settles the records of a round; `None` when the process is to stop before that.
    pub(super) async fn round(&self, records: Vec<Record>) -> Option<()> {
        let mut by_key: HashMap<Vec<u8>, Vec<Record>> = HashMap::new();
        for record in records {
            by_key.entry(record.key.clone()).or_default().push(record);
        }
        let handled = futures::stream::iter(by_key.into_values())
            .map(|records| async move {
                for record in records {
                    self.one(&record).await?;
                }
                Some(())
            })
            .buffer_unordered(SIDE_BY_SIDE);
        handled
            .all(|done| std::future::ready(done.is_some()))
            .await
            .then_some(())
    }

    async fn one(&self, record: &Record) -> Option<()> {
        let outcome = match Event::from_bytes(&record.payload) {
            Ok(event) => {
                let traceparent = event.traceparent.as_deref();
                let span = tracing::info_span!(
                    "event",
                    otel.kind = "consumer",
                    topic = record.topic,
                    event_type = event.kind
                );
                let context = Context::from_traceparent(traceparent).adopt_event(&span, traceparent);
                crate::trace::within(context, self.until_settled(record, &event).instrument(span)).await?
            }
            Err(error) => self.bury(record, None, &error.to_string()).await?,
        };
        self.counts.count(&record.topic, outcome);
        Some(())
    }

    /// Tries an event until it is handled, ignored or dead; `None` when the process is to stop.
    async fn until_settled(&self, record: &Record, event: &Event) -> Option<&'static str> {
        let mut attempt = 0_u32;
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match self.attempt(event).await {
                Ok(outcome) => return Some(outcome),
                Err(failure) => failure,
            };
            match &failure {
                Failure::Dead(reason) => return self.bury(record, Some(event), reason).await,
                Failure::Retry(reason) => {
                    attempt += 1;
                    if attempt >= ATTEMPTS {
                        return self.bury(record, Some(event), reason).await;
                    }
                }
                Failure::Unavailable(_) => {}
            }
            let delay_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            let event_id = event.id.to_string();
            tracing::warn!(event_id, topic = record.topic, error = %failure, attempt, delay_ms, "an event was not handled; trying again");
            self.stop.run_until_cancelled(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(&self, event: &Event) -> Result<&'static str, Failure> {
        let scope = self.homes.scope(&event.tenant);
        // The policy may be a moment behind; after the attempts the dead letters tell of the event.
        let scope =
            scope.ok_or_else(|| Failure::Retry("the event's tenant is not at home in this region".to_owned()))?;
        let mut tx = TenantTx::begin(&self.pool, &scope).await?;
        if inbox::mark(&mut tx, &self.group, &[event.id]).await?.is_empty() {
            return Ok("repeated");
        }
        let handled = self.handler.handle(event, &mut tx).await?;
        tx.commit().await?;
        Ok(match handled {
            Handled::Done => "done",
            Handled::Ignored => "ignored",
        })
    }

    async fn bury(&self, record: &Record, event: Option<&Event>, reason: &str) -> Option<&'static str> {
        bury(&self.dead, &self.kafka, &self.stop, record, event, reason).await
    }
}

/// Puts a record aside as it is, of a copy where it lies, and returns only when the broker has it: only then may it count as
/// settled.
async fn bury(
    dead: &Producer,
    kafka: &Kafka,
    stop: &CancellationToken,
    record: &Record,
    event: Option<&Event>,
    reason: &str,
) -> Option<&'static str> {
    let topic = dead_letter(kafka.service());
    let event_id = event.map(|event| event.id.to_string());
    tracing::error!(
        event_id,
        topic = record.topic,
        reason,
        "an event cannot be handled and goes to the dead letters"
    );
    let copy = DeadCopy::of(&record.payload, &record.topic, record.place);
    let (key, payload) = match &copy {
        Some(copy) => (Cow::from(copy.edge().as_str()), Cow::from(copy.to_bytes())),
        None => (String::from_utf8_lossy(&record.key), Cow::from(&record.payload)),
    };
    loop {
        match dead.send(&topic, &key, &payload).await {
            Ok(()) => return Some("dead"),
            Err(error) => tracing::error!(%error, "a dead letter was not taken; trying again"),
        }
        stop.run_until_cancelled(tokio::time::sleep(LONGEST_PAUSE)).await?;
    }
}

/// Settles the records of a round in bulk; `None` when the process is to stop before that.
pub(super) async fn batch<H: BatchHandler>(
    handler: &H,
    dead: &Producer,
    kafka: &Kafka,
    counts: &Counts,
    stop: &CancellationToken,
    records: Vec<Record>,
) -> Option<()> {
    let mut events = Vec::with_capacity(records.len());
    let mut sources = Vec::with_capacity(records.len());
    for record in records {
        match read(&record.payload) {
            Ok((event, rewritten)) => {
                events.push(Arc::new(event));
                sources.push((record, rewritten));
            }
            Err(error) => {
                let outcome = bury(dead, kafka, stop, &record, None, &error.to_string()).await?;
                counts.count(&record.topic, outcome);
            }
        }
    }
    let consumed: Vec<Consumed<'_>> = events
        .iter()
        .zip(&sources)
        .map(|(event, (record, rewritten))| Consumed {
            event,
            bytes: rewritten.as_ref().unwrap_or(&record.payload),
        })
        .collect();
    match settle_batch(handler, stop, &consumed).await? {
        Ok(()) => {
            for of_topic in sources.chunk_by(|(one, _), (next, _)| one.topic == next.topic) {
                if let Some((record, _)) = of_topic.first() {
                    counts.count_all(&record.topic, "done", of_topic.len());
                }
            }
        }
        // One bad event must not take the others with it: each is tried alone, and only what fails alone is put aside.
        Err(_) => {
            for (one, (record, _)) in consumed.iter().zip(&sources) {
                let outcome = match settle_batch(handler, stop, std::slice::from_ref(one)).await? {
                    Ok(()) => "done",
                    Err(reason) => bury(dead, kafka, stop, record, Some(one.event), &reason).await?,
                };
                counts.count(&record.topic, outcome);
            }
        }
    }
    Some(())
}

/// An event, and it written anew where the payload may hold what is no event's: an attribute that is not ours, in clear
/// perhaps, gets into no table.
fn read(payload: &[u8]) -> Result<(Event, Option<Vec<u8>>), NotAnEvent> {
    match Event::as_written(payload) {
        Some(event) => Ok((event, None)),
        None => Event::from_bytes(payload).map(|event| {
            let bytes = event.to_bytes();
            (event, Some(bytes))
        }),
    }
}

/// Tries a batch until it is stored or known not to work; `None` when the process is to stop.
async fn settle_batch<H: BatchHandler>(
    handler: &H,
    stop: &CancellationToken,
    events: &[Consumed<'_>],
) -> Option<Result<(), String>> {
    if events.is_empty() {
        return Some(Ok(()));
    }
    let mut attempt = 0_u32;
    let mut pause = FIRST_PAUSE;
    loop {
        match handler.handle(events).await {
            Ok(()) => return Some(Ok(())),
            Err(Failure::Dead(reason)) => return Some(Err(reason)),
            Err(Failure::Retry(reason)) => {
                attempt += 1;
                if attempt >= ATTEMPTS {
                    return Some(Err(reason));
                }
                tracing::warn!(
                    error = reason,
                    attempt,
                    count = events.len(),
                    "a batch was not stored; trying again"
                );
            }
            Err(Failure::Unavailable(reason)) => {
                tracing::warn!(
                    error = reason,
                    count = events.len(),
                    "a batch waits for something that is away"
                );
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(pause)).await?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Counts what became of records.
#[derive(Clone)]
pub(super) struct Counts {
    pub(super) group: String,
    pub(super) consumed: Family<ConsumedLabels, Counter>,
}

impl Counts {
    fn count(&self, topic: &str, outcome: &'static str) {
        self.count_all(topic, outcome, 1);
    }

    fn count_all(&self, topic: &str, outcome: &'static str, count: usize) {
        let labels = ConsumedLabels {
            group: self.group.clone(),
            topic: topic.to_owned(),
            outcome,
        };
        self.consumed.get_or_create(&labels).inc_by(count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_events_is_not_in_the_bytes_that_are_kept() {
        let (event, _) = crate::event::tests::event();
        let bytes = event.to_bytes();
        assert_eq!(read(&bytes), Ok((event.clone(), None)));
        let noted = [b"{\"note\":\"ada\",", &bytes[1..]].concat();
        assert_eq!(read(&noted), Ok((event, Some(bytes))));
        assert!(read(b"{}").is_err());
    }
}
