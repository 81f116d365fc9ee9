//! Consumers: at least once from Kafka, once in effect through the inbox, never losing and never stuck for ever.
//!
//! Records are taken in rounds, small ones unless they are handled in bulk. Within a round, events of one subject are handled one after the other, events of
//! different subjects side by side; the group's offsets are stored for the next commit when the whole round is done.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{Consumer as _, ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError as Raw;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::handler::{BatchHandler, Handler};
use super::identity::Changes;
use super::settle::{Counts, Record, Worker, batch};
use super::told::{self, KnownBrokers, TOLD_EVERY_MS};
use super::{Kafka, KafkaError};
use crate::db::Pool;
use crate::metrics::LagLabels;
use crate::residency::Homes;
use crate::start::{Start, StartError};

/// Records of one round that are handled one by one.
const ROUND: usize = 64;
/// How long to wait after an error of the broker.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a consumer may take to leave its group. Without a broker it takes for ever.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);
/// How often offsets of settled rounds are committed, in milliseconds.
const COMMIT_EVERY_MS: &str = "200";

/// Hears what librdkafka tells of itself.
struct Watch {
    group: String,
    prefix: String,
    lag: Family<LagLabels, Gauge>,
    brokers: KnownBrokers,
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, reason: &str) {
        told::log(level, kind, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.hear(&statistics);
        for (name, topic) in statistics.topics {
            for (partition, state) in topic.partitions {
                let topic = name.strip_prefix(&self.prefix).unwrap_or(&name).to_owned();
                let labels = LagLabels {
                    group: self.group.clone(),
                    topic,
                    partition,
                };
                if state.consumer_lag < 0 {
                    // Another member's partition.
                    self.lag.remove(&labels);
                } else {
                    self.lag.get_or_create(&labels).set(state.consumer_lag);
                }
            }
        }
    }

    fn error(&self, error: Raw, reason: &str) {
        tracing::warn!(group = self.group, %error, reason, "Kafka has a problem; reading goes on when it is over");
    }
}

impl ConsumerContext for Watch {}

/// Reads topics as the service's consumer group.
pub struct Consumer {
    kafka: Kafka,
    group: String,
    topics: Vec<String>,
    pool: Option<Pool>,
    homes: Homes,
    stop: CancellationToken,
    counts: Counts,
    lag: Family<LagLabels, Gauge>,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Consumer")
            .field("group", &self.group)
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    /// A consumer of these topics, in the group named after the service.
    ///
    /// # Errors
    /// None yet; it connects when it runs.
    pub fn new(start: &Start, topics: &[&str]) -> Result<Self, StartError> {
        Self::in_group(start, start.service(), topics)
    }

    /// As [`Consumer::new`] in another group, for a service that reads a topic twice.
    ///
    /// # Errors
    /// None yet; it connects when it runs.
    pub fn in_group(start: &Start, group: &str, topics: &[&str]) -> Result<Self, StartError> {
        Ok(Self {
            kafka: start.kafka(),
            group: group.to_owned(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            pool: start.opened_database(),
            homes: start.homes(),
            stop: start.stop(),
            counts: Counts {
                group: group.to_owned(),
                consumed: start.metrics().consumed(),
            },
            lag: start.metrics().lag(),
        })
    }

    fn open(&self) -> Result<StreamConsumer<Watch>, KafkaError> {
        let mut config = self.kafka.config();
        config
            .set("group.id", self.kafka.topic_name(&self.group))
            .set("statistics.interval.ms", TOLD_EVERY_MS)
            // What is committed is what a settled round stored, and nothing else. librdkafka commits it when partitions move
            // and again when a commit was lost to a rebalance: one that we sent ourselves would stay lost until the next
            // record, and the group would seem to lag for as long.
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", COMMIT_EVERY_MS)
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", "10000")
            .set("max.poll.interval.ms", "300000")
            .set("isolation.level", "read_committed")
            // An answer comes at once when there is something; an empty one need not come often.
            .set("fetch.wait.max.ms", "500")
            .set("topic.metadata.refresh.interval.ms", "30000")
            // A topic that its owner has not made yet appears later; that is no error.
            .set("allow.auto.create.topics", "false")
            .set("queued.min.messages", "1000")
            .set("queued.max.messages.kbytes", "4096")
            .set("fetch.message.max.bytes", "1048576");
        let watch = Watch {
            group: self.group.clone(),
            prefix: self.kafka.topic_name(""),
            lag: self.lag.clone(),
            brokers: self.kafka.known_brokers(),
        };
        let consumer: StreamConsumer<Watch> = config.create_with_context(watch).map_err(KafkaError::Setup)?;
        let names: Vec<String> = self.topics.iter().map(|topic| self.kafka.topic_name(topic)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        consumer.subscribe(&names).map_err(KafkaError::Setup)?;
        Ok(consumer)
    }

    /// Handles events one by one until the process stops.
    ///
    /// # Errors
    /// When Kafka fails for good, or the service has no database for the inbox.
    pub async fn run<H: Handler>(self, handler: H) -> Result<(), StartError> {
        let pool = self.pool.clone().ok_or(StartError::File {
            variable: "MERIDIAN_DATABASE_URL",
            problem: "is needed by the consumer's inbox; call Start::database before".to_owned(),
        })?;
        let dead = self.kafka.producer()?.renewed();
        let worker = Arc::new(Worker {
            handler,
            pool,
            dead,
            homes: self.homes.clone(),
            group: self.group.clone(),
            kafka: self.kafka.clone(),
            counts: self.counts.clone(),
            stop: self.stop.clone(),
        });
        self.rounds(ROUND, |records| {
            let worker = Arc::clone(&worker);
            async move { worker.round(records).await }
        })
        .await
    }

    /// Handles events in bulk until the process stops.
    ///
    /// # Errors
    /// When Kafka fails for good.
    pub async fn run_batches<H: BatchHandler>(self, handler: H) -> Result<(), StartError> {
        let dead = self.kafka.producer()?.renewed();
        let handler = Arc::new(handler);
        let (kafka, counts, stop) = (self.kafka.clone(), self.counts.clone(), self.stop.clone());
        self.rounds(H::ROUND, |records| {
            let (handler, dead, kafka) = (Arc::clone(&handler), dead.clone(), kafka.clone());
            let (counts, stop) = (counts.clone(), stop.clone());
            async move { batch(&*handler, &dead, &kafka, &counts, &stop, records).await }
        })
        .await
    }

    async fn rounds<F, R>(&self, most: usize, mut round: F) -> Result<(), StartError>
    where
        F: FnMut(Vec<Record>) -> R,
        R: Future<Output = Option<()>>,
    {
        loop {
            let mut changes = self.kafka.identity.changes();
            let consumer = self.open()?;
            let read = self.read(&consumer, &mut changes, most, &mut round).await;
            // Leaving the group commits what was settled, and blocks.
            let closing = move || {
                consumer.context().brokers.before_closing(consumer.client());
                drop(consumer);
            };
            let closed = tokio::time::timeout(CLOSED_WITHIN, tokio::task::spawn_blocking(closing));
            if closed.await.is_err() {
                tracing::warn!(
                    group = self.group,
                    "a Kafka consumer does not end while its broker is away; it is left behind"
                );
            }
            match read {
                Read::UntilStopped => return Ok(()),
                // The next one is under the certificate of now, and goes on from the commit.
                Read::UntilChanged => tracing::info!(group = self.group, "reading goes on under another certificate"),
            }
        }
    }

    /// Handles rounds of at most so many records until the process stops, or its certificate changes.
    async fn read<F, R>(
        &self,
        consumer: &StreamConsumer<Watch>,
        changes: &mut Changes,
        most: usize,
        round: &mut F,
    ) -> Read
    where
        F: FnMut(Vec<Record>) -> R,
        R: Future<Output = Option<()>>,
    {
        let prefix = self.kafka.topic_name("");
        let brokers = &consumer.context().brokers;
        let mut stream = consumer.stream().ready_chunks(most);
        loop {
            let chunk = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Read::UntilStopped,
                () = changes.next() => return Read::UntilChanged,
                () = brokers.forgotten() => {
                    brokers.remind(consumer.client());
                    continue;
                }
                chunk = stream.next() => chunk,
            };
            let Some(chunk) = chunk else { return Read::UntilStopped };
            let mut records = Vec::with_capacity(chunk.len());
            let mut offsets = Offsets::default();
            for message in chunk {
                match message {
                    Ok(message) => {
                        offsets.pass(message.topic(), message.partition(), message.offset() + 1);
                        records.push(record(&message, &prefix));
                    }
                    // Brokers come back, topics appear, rebalances end: librdkafka goes on by itself.
                    Err(error) => {
                        tracing::warn!(group = self.group, %error, "Kafka cannot be read just now");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            if records.is_empty() {
                continue;
            }
            // None: told to stop in the middle. What was not committed is delivered again, and the inbox knows it.
            if round(records).await.is_none() {
                return Read::UntilStopped;
            }
            self.settled(consumer, offsets);
        }
    }

    /// Marks a round as settled, for the next commit.
    fn settled(&self, consumer: &StreamConsumer<Watch>, offsets: Offsets) {
        let mut list = TopicPartitionList::with_capacity(offsets.0.len());
        for (topic, partition, next) in offsets.0 {
            // An offset of a record that was received is always valid.
            let _ = list.add_partition_offset(&topic, partition, Offset::Offset(next));
        }
        if let Err(error) = consumer.store_offsets(&list) {
            // The partitions went to another member meanwhile; it starts from the last commit, and the inbox knows.
            tracing::warn!(group = self.group, %error, "the offsets of a round were not taken");
        }
    }
}

/// Where a group goes on in each partition of a topic. A round has records of few partitions: looking through them is cheaper
/// than making a key for each record.
#[derive(Default)]
struct Offsets(Vec<(String, i32, i64)>);

impl Offsets {
    /// The group goes on at `next` at the earliest.
    fn pass(&mut self, topic: &str, partition: i32, next: i64) {
        let of_partition = |place: &&mut (String, i32, i64)| place.1 == partition && place.0 == topic;
        match self.0.iter_mut().find(of_partition) {
            Some((_, _, known)) => *known = next.max(*known),
            None => self.0.push((topic.to_owned(), partition, next)),
        }
    }
}

/// Why reading ended.
enum Read {
    UntilStopped,
    UntilChanged,
}

fn record(message: &BorrowedMessage<'_>, prefix: &str) -> Record {
    let topic = message
        .topic()
        .strip_prefix(prefix)
        .unwrap_or(message.topic())
        .to_owned();
    Record {
        topic,
        place: (message.partition(), message.offset()),
        key: message.key().unwrap_or_default().to_vec(),
        payload: message.payload().unwrap_or_default().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_goes_on_after_the_last_record_of_each_partition() {
        let mut offsets = Offsets::default();
        for (topic, partition, next) in [("a", 0, 3), ("a", 1, 9), ("b", 0, 7), ("a", 0, 5), ("a", 0, 4)] {
            offsets.pass(topic, partition, next);
        }
        let expected = [("a".to_owned(), 0, 5), ("a".to_owned(), 1, 9), ("b".to_owned(), 0, 7)];
        assert_eq!(offsets.0, expected);
    }
}
