//! Events leave a service through its database: they are stored with the change that they tell of, and a relay hands them
//! to Kafka afterwards. Nothing that was committed is lost, whatever dies in between; what is sent twice has the same id.

mod at_hand;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use sqlx::postgres::PgListener;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::at_hand::Serving;
pub use self::at_hand::{Appended, AtHand};
use crate::db::{self, TenantTx};
use crate::event::{EVENT_LIMIT_BYTES, Event};
use crate::kafka::{Kafka, Outgoing, Producer};
use crate::start::{Start, StartError};

/// Events in flight to the broker at once.
const BATCH: usize = 500;
/// How often the outbox is looked at even when nobody woke the relay.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often a standby looks whether the active relay is gone.
const STANDBY_EVERY: Duration = Duration::from_secs(1);
/// The key of the advisory lock that makes a relay the active one of its database.
const LOCK: i64 = 0x6d65_7269_6469_616e;

/// Appends an event to the outbox, inside the transaction that makes it true. Its Kafka key is the data subject, so one
/// subject's events stay in order. A transaction that appends for several subjects does so in the subjects' order, or
/// two of them may wait for each other (PostgreSQL then ends one, which repeats).
///
/// # Errors
/// When the row is refused or the event is too large.
pub async fn append(tx: &mut TenantTx, topic: &str, event: &Event) -> Result<(), db::Error> {
    append_keyed(tx, topic, &event.data_subject.to_string(), event).await
}

/// As [`append`] with a key of the caller's, for compacted topics.
///
/// # Errors
/// When the row is refused or the event is too large.
pub async fn append_keyed(tx: &mut TenantTx, topic: &str, key: &str, event: &Event) -> Result<(), db::Error> {
    append_all_keyed(tx, topic, key, &[event]).await?;
    Ok(())
}

/// As [`append_keyed`] for events of one key, in their order, with one statement. Gives what [`AtHand::keep`] takes once the
/// transaction has committed.
///
/// # Errors
/// When a row is refused or an event is too large.
pub async fn append_all_keyed(
    tx: &mut TenantTx,
    topic: &str,
    key: &str,
    events: &[&Event],
) -> Result<Appended, db::Error> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let (bytes, places) = Event::all_to_bytes(events.iter().copied());
    if let Some(large) = places.iter().map(Range::len).find(|length| *length > EVENT_LIMIT_BYTES) {
        return Err(db::Error::Statement(format!("an event of {large} bytes is too large")));
    }
    let events: Vec<&[u8]> = places.iter().cloned().map(|place| &bytes[place]).collect();
    let query = "select meridian_append_all($1, $2, $3, $4)";
    let rows: Vec<i64> = sqlx::query_scalar_with(query, db::room_for(&events))
        .bind(topic)
        .bind(key)
        .bind(&ids)
        .bind(events)
        .fetch_one(tx.conn())
        .await?;
    if rows.len() != ids.len() {
        return Err(db::Error::Statement(format!(
            "{} events have {} rows",
            ids.len(),
            rows.len()
        )));
    }
    let holds = bytes.capacity();
    let bytes = Bytes::from(bytes);
    let rows = rows.into_iter().zip(ids).zip(places);
    Ok(Appended::new(
        rows.map(|((row, id), place)| (row, id, bytes.slice(place))),
        holds,
    ))
}

struct Row {
    id: i64,
    topic: Arc<str>,
    key: Arc<str>,
    event: Bytes,
}

impl Row {
    fn record(&self) -> Outgoing<'_> {
        Outgoing {
            topic: &self.topic,
            key: &self.key,
            payload: &self.event,
        }
    }
}

/// Why a round ended early. The relay says so and begins again.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Database(#[from] db::Error),
    #[error(transparent)]
    Kafka(#[from] crate::kafka::KafkaError),
    /// Cannot be: only of those that are at hand no event is read.
    #[error("the row {0} was neither read nor at hand")]
    NotRead(i64),
}

impl From<sqlx::Error> for RelayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// What the relay is doing, for readiness.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Starting = 0,
    Standby = 1,
    Active = 2,
    Failing = 3,
}

/// Moves a database's outbox to Kafka. Any number may run; one at a time is active, the one that holds the database's
/// advisory lock on its own connection. When that connection breaks the lock is gone with it, and another takes over.
#[derive(Debug)]
pub struct Relay {
    url: crate::config::Secret,
    kafka: Kafka,
    stop: CancellationToken,
    mode: Arc<AtomicU8>,
    pending: Gauge,
    relayed: Counter,
    failures: Arc<AtomicI64>,
    at_hand: AtHand,
}

impl Relay {
    /// The relay of a service's database.
    ///
    /// # Errors
    /// When the service has no database.
    pub fn new(start: &Start) -> Result<Self, StartError> {
        start.database()?;
        let url = start
            .config()
            .database_url
            .clone()
            .unwrap_or_else(|| crate::config::Secret::new(""));
        let metrics = start.metrics();
        let relay = Self {
            url,
            kafka: start.kafka(),
            stop: start.stop(),
            mode: Arc::new(AtomicU8::new(Mode::Starting as u8)),
            pending: metrics.gauge(
                "meridian_outbox_pending",
                "Events that wait for the broker, up to one batch",
            ),
            relayed: metrics.counter("meridian_outbox_relayed", "Events that the broker took"),
            failures: Arc::default(),
            at_hand: AtHand::default(),
        };
        let (mode, failures) = (Arc::clone(&relay.mode), Arc::clone(&relay.failures));
        start.readiness().register("relay", move || {
            let failures = failures.load(Ordering::Relaxed);
            std::future::ready(match mode.load(Ordering::Relaxed) {
                mode if mode == Mode::Active as u8 => Ok("active".to_owned()),
                mode if mode == Mode::Standby as u8 => Ok("standing by; another relay is active".to_owned()),
                // Writes go on while the broker is away: the outbox keeps them. The message tells, the status does not.
                mode if mode == Mode::Failing as u8 => Ok(format!("failing, {failures} times in a row; events wait")),
                _ => Ok("starting".to_owned()),
            })
        });
        Ok(relay)
    }

    /// Where it finds events that this process has just committed.
    #[must_use]
    pub fn at_hand(&self) -> AtHand {
        self.at_hand.clone()
    }

    fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// Runs until the process stops.
    ///
    /// # Errors
    /// Never; it begins again after each failure.
    pub async fn run(self) -> Result<(), std::convert::Infallible> {
        let mut pause = Duration::from_millis(200);
        loop {
            let before = self.relayed.get();
            let round = self.stop.run_until_cancelled(self.session()).await;
            let Some(Err(error)) = round else { return Ok(()) };
            self.set_mode(Mode::Failing);
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "the relay lost its database or broker; events wait, and it begins again");
            let progressed = self.relayed.get() > before;
            pause = if progressed {
                Duration::from_millis(200)
            } else {
                (pause * 2).min(Duration::from_secs(5))
            };
            if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// One life of the database connection: become active, then relay until something breaks.
    async fn session(&self) -> Result<(), RelayError> {
        let options = db::options(self.url.expose(), "meridian-relay")?.options([("statement_timeout", "15s")]);
        let mut connection = PgConnection::connect_with(&options).await?;
        while !try_lock(&mut connection).await? {
            self.set_mode(Mode::Standby);
            tokio::time::sleep(STANDBY_EVERY).await;
        }
        sqlx::query("set meridian.relay = 'on'")
            .execute(&mut connection)
            .await?;
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(options);
        let mut wake = PgListener::connect_with(&pool).await?;
        wake.listen("meridian_outbox").await?;
        // A new producer for each life: what an old one still had in its queue is gone with it and is sent again from
        // the table, with the same ids.
        let producer = self.kafka.producer()?;
        self.set_mode(Mode::Active);
        self.failures.store(0, Ordering::Relaxed);
        let at_hand = self.at_hand.serve();
        loop {
            let rows = waiting(&mut connection, &at_hand).await?;
            self.pending.set(i64::try_from(rows.len()).unwrap_or(i64::MAX));
            if rows.is_empty() {
                // Woken by a commit; looking anyway now and then, since a notification may be lost with its connection.
                tokio::select! {
                    notified = wake.recv() => { notified?; }
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                continue;
            }
            self.relay(&mut connection, &producer, rows).await?;
        }
    }

    async fn relay(
        &self,
        connection: &mut PgConnection,
        producer: &Producer,
        rows: Vec<Row>,
    ) -> Result<(), RelayError> {
        // In order and without waiting for each: the idempotent producer keeps the order of each partition, also when it
        // repeats.
        let records: Vec<Outgoing<'_>> = rows.iter().map(Row::record).collect();
        let outcomes = producer.send_all(&records).await?;
        let (acknowledged, failure) = acknowledged_prefixes(&rows, outcomes);
        if !acknowledged.is_empty() {
            sqlx::query("delete from outbox where id = any($1)")
                .bind(&acknowledged)
                .execute(connection)
                .await?;
            self.relayed.inc_by(acknowledged.len() as u64);
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// What may be deleted: of each key, the events before the first that the broker did not take. Deleting a later one would
/// let it be seen before an earlier one that is sent again.
fn acknowledged_prefixes<E>(rows: &[Row], outcomes: Vec<Result<(), E>>) -> (Vec<i64>, Option<E>) {
    let mut stuck: HashSet<(&str, &str)> = HashSet::new();
    let mut acknowledged = Vec::with_capacity(rows.len());
    let mut failure = None;
    for (row, outcome) in rows.iter().zip(outcomes) {
        let key = (&*row.topic, &*row.key);
        match outcome {
            Ok(()) if !stuck.contains(&key) => acknowledged.push(row.id),
            Ok(()) => {}
            Err(error) => {
                stuck.insert(key);
                failure.get_or_insert(error);
            }
        }
    }
    (acknowledged, failure)
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(connection)
        .await
}

/// What waits, as one row of columns: a row of its own for each event costs this side more than the event does. Topic and key
/// are said where they are others than those of the event before. The event of a row that is at hand ($2, with the event's id
/// in $3) is left out.
const WAITING: &str = "select coalesce(array_agg(id order by id), '{}'), coalesce(array_agg(topic order by id), '{}'), \
                       coalesce(array_agg(key order by id), '{}'), coalesce(array_agg(event order by id), '{}') \
                       from (select first.id, case when kept.id is null then event end as event, \
                       nullif(topic, lag(topic) over w) as topic, nullif(key, lag(key) over w) as key \
                       from (select id, topic, key, event_id, event from outbox order by id limit $1) as first \
                       left join unnest($2::bigint[], $3::uuid[]) as kept (id, event_id) \
                       on kept.id = first.id and kept.event_id = first.event_id \
                       window w as (order by first.id)) as waiting";

async fn waiting(connection: &mut PgConnection, at_hand: &Serving<'_>) -> Result<Vec<Row>, RelayError> {
    type Columns = (Vec<i64>, Vec<Option<String>>, Vec<Option<String>>, Vec<Option<Vec<u8>>>);
    let mut offered = at_hand.first(BATCH);
    let (offered_ids, event_ids): (Vec<i64>, Vec<Uuid>) =
        offered.iter().map(|(id, of_row)| (*id, of_row.event_id)).unzip();
    let (ids, topics, keys, events): Columns = sqlx::query_as(WAITING)
        .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
        .bind(offered_ids)
        .bind(event_ids)
        .fetch_one(connection)
        .await?;
    // What is sent now, and what the table has no more: an answer that is not full is all that there is.
    let last_offered = offered.keys().last().filter(|_| ids.len() < BATCH);
    if let Some(last) = last_offered.max(ids.last()) {
        at_hand.forget_through(*last);
    }
    let rows = ids.into_iter().zip(topics).zip(keys).zip(events);
    let (mut last_topic, mut last_key) = (Arc::default(), Arc::default());
    let mut waiting = Vec::with_capacity(rows.len());
    for (((id, topic), key), event) in rows {
        let (topic, key) = (said(topic, &mut last_topic), said(key, &mut last_key));
        let event = event.map(Bytes::from);
        let event = event.or_else(|| offered.remove(&id).map(|of_row| of_row.event));
        let event = event.ok_or(RelayError::NotRead(id))?;
        waiting.push(Row { id, topic, key, event });
    }
    Ok(waiting)
}

/// What is said, or was said last.
fn said(text: Option<String>, last: &mut Arc<str>) -> Arc<str> {
    if let Some(text) = text {
        *last = text.into();
    }
    Arc::clone(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, key: &str) -> Row {
        Row {
            id,
            topic: "t".into(),
            key: key.into(),
            event: Bytes::new(),
        }
    }

    #[test]
    fn only_what_precedes_a_failure_of_its_key_is_deleted() {
        let rows = [row(1, "a"), row(2, "b"), row(3, "a"), row(4, "a"), row(5, "b")];
        let outcomes = vec![Ok(()), Ok(()), Err("lost"), Ok(()), Ok(())];
        assert_eq!(acknowledged_prefixes(&rows, outcomes), (vec![1, 2, 5], Some("lost")));
    }

    #[test]
    fn all_is_deleted_when_all_was_taken() {
        let rows = [row(1, "a"), row(2, "a")];
        assert_eq!(
            acknowledged_prefixes::<()>(&rows, vec![Ok(()), Ok(())]),
            (vec![1, 2], None)
        );
    }
}
