//! Producers: idempotent, acknowledged by all replicas, bounded in memory.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError as Raw, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use tokio::sync::{RwLock, RwLockReadGuard};

use super::identity::Changes;
use super::reports::{Client, Report, Reports};
use super::told::TOLD_EVERY_MS;
use super::{Kafka, KafkaError};
use crate::headers::TRACEPARENT;

/// How long a record may wait to be taken, in milliseconds. One that is not taken within this time is reported lost to
/// whoever sent it, who sends it again.
const TAKEN_WITHIN_MS: u64 = 30_000;
/// What a client that is replaced is given for what it still has: then each of its records is taken, or reported lost.
const EMPTIED_WITHIN: Duration = Duration::from_millis(TAKEN_WITHIN_MS + 5_000);

/// A producer. Cheap to clone.
#[derive(Clone)]
pub struct Producer {
    kafka: Kafka,
    // Read while a record is enqueued, so that none is put into a client that is being replaced.
    made: Arc<RwLock<Made>>,
    renewed: bool,
}

struct Made {
    client: Client,
    changes: Changes,
}

impl fmt::Debug for Producer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Producer")
            .field("kafka", &self.kafka)
            .finish_non_exhaustive()
    }
}

/// A record to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Where to.
    pub topic: &'a str,
    /// Records of one key stay in their order.
    pub key: &'a str,
    /// What.
    pub payload: &'a [u8],
}

/// A record on its way; await it to learn that the broker has it.
pub type Delivery = std::pin::Pin<Box<dyn Future<Output = Result<(), KafkaError>> + Send>>;

impl Kafka {
    /// A producer.
    ///
    /// # Errors
    /// When librdkafka refuses the set-up.
    pub fn producer(&self) -> Result<Producer, KafkaError> {
        Ok(Producer {
            kafka: self.clone(),
            made: Arc::new(RwLock::new(self.open_producer()?)),
            renewed: false,
        })
    }

    fn open_producer(&self) -> Result<Made, KafkaError> {
        let changes = self.identity.changes();
        let mut config = self.config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.codec", "none") // sealed bytes do not compress
            .set("linger.ms", "5")
            .set("statistics.interval.ms", TOLD_EVERY_MS)
            .set("message.timeout.ms", TAKEN_WITHIN_MS.to_string())
            .set("message.max.bytes", "1000000")
            .set("queue.buffering.max.messages", "20000")
            .set("queue.buffering.max.kbytes", "8192");
        let client = Client::open(&config, self.known_brokers()).map_err(KafkaError::Setup)?;
        Ok(Made { client, changes })
    }
}

impl Made {
    /// Why it failed for good: it takes nothing any more.
    fn failed(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.client.failed()
    }
}

impl Producer {
    /// Replaces a client that failed for good (it was refused its producer's id before it had its rights, for one) and takes
    /// nothing any more. For those to whom it is nothing that a record is taken while an earlier one of its key was lost.
    #[must_use]
    pub fn renewed(self) -> Self {
        Self { renewed: true, ..self }
    }

    /// The client under the certificate of now.
    async fn client(&self) -> Result<RwLockReadGuard<'_, Made>, KafkaError> {
        loop {
            let made = self.made.read().await;
            if !self.is_over(&made) {
                return Ok(made);
            }
            drop(made);
            self.replace().await?;
        }
    }

    /// A client that failed for good is left to whom that matters, also when the certificate has changed.
    fn is_over(&self, made: &Made) -> bool {
        if made.changes.any() {
            self.renewed || made.failed().is_none()
        } else {
            self.renewed && made.failed().is_some()
        }
    }

    /// Waits until the client has nothing under way, and takes another: what was enqueued before arrives before.
    async fn replace(&self) -> Result<(), KafkaError> {
        let mut made = Arc::clone(&self.made).write_owned().await;
        // Somebody else was quicker.
        if !self.is_over(&made) {
            return Ok(());
        }
        if let Some((code, reason)) = made.failed() {
            tracing::warn!(error = %code, reason, "a Kafka producer failed for good and is replaced");
        }
        let next = self.kafka.open_producer()?;
        // Who enqueues may give up meanwhile: the replacement goes on without it. Emptying and dropping block.
        let replacing = tokio::task::spawn_blocking(move || {
            if let Err(error) = made.client.flush(EMPTIED_WITHIN) {
                tracing::warn!(%error, "records of a Kafka producer that is replaced are reported lost");
            }
            *made = next;
        });
        // It ends early only with the runtime.
        let _ = replacing.await;
        Ok(())
    }

    /// Puts a record into the queue, waiting while the queue is full, and returns its delivery. Records of one key that
    /// are enqueued one after the other arrive in that order.
    ///
    /// # Errors
    /// When the record can never be sent.
    pub async fn enqueue(&self, topic: &str, key: &str, payload: &[u8]) -> Result<Delivery, KafkaError> {
        let reports = Reports::of(1);
        let made = self.client().await?;
        let name = self.kafka.topic_name(topic);
        self.put(&made, &name, Outgoing { topic, key, payload }, Report::new(&reports, 0))
            .await?;
        let topic = topic.to_owned();
        Ok(Box::pin(async move {
            match reports.all().await.pop() {
                Some((_, error)) => Err(KafkaError::Produce { topic, error }),
                None => Ok(()),
            }
        }))
    }

    /// Sends records in their order, and returns when all replicas have each or it is lost. The outcomes are in the records'
    /// order.
    ///
    /// # Errors
    /// When a record can never be sent. Those before it may arrive.
    pub async fn send_all(&self, records: &[Outgoing<'_>]) -> Result<Vec<Result<(), KafkaError>>, KafkaError> {
        let reports = Reports::of(records.len());
        let made = self.client().await?;
        let (mut topic, mut name) = ("", String::new());
        for (place, record) in records.iter().enumerate() {
            // Those of a topic mostly come one after the other.
            if record.topic != topic {
                (topic, name) = (record.topic, self.kafka.topic_name(record.topic));
            }
            self.put(&made, &name, *record, Report::new(&reports, place)).await?;
        }
        // Whoever replaces the client waits for what is under way himself.
        drop(made);
        let mut outcomes: Vec<Result<(), KafkaError>> = records.iter().map(|_| Ok(())).collect();
        for (place, error) in reports.all().await {
            let topic = records.get(place).map(|record| record.topic.to_owned());
            if let (Some(outcome), Some(topic)) = (outcomes.get_mut(place), topic) {
                *outcome = Err(KafkaError::Produce { topic, error });
            }
        }
        Ok(outcomes)
    }

    /// Puts a record into a client's queue, waiting while it is full. `name` is what its topic is called at the broker.
    async fn put(&self, made: &Made, name: &str, record: Outgoing<'_>, report: Report) -> Result<(), KafkaError> {
        let Outgoing { topic, key, payload } = record;
        let mut record = BaseRecord::with_opaque_to(name, Box::new(report))
            .key(key)
            .payload(payload);
        if let Some(context) = crate::trace::current() {
            let (header_name, traceparent) = (TRACEPARENT, context.traceparent());
            let header = Header {
                key: header_name.as_str(),
                value: Some(&traceparent),
            };
            record = record.headers(OwnedHeaders::new().insert(header));
        }
        loop {
            match made.client.send(record) {
                Ok(()) => return Ok(()),
                Err((Raw::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err((Raw::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                    return Err(KafkaError::TooLarge {
                        topic: topic.to_owned(),
                        bytes: payload.len(),
                    });
                }
                Err((error, _)) => {
                    return Err(KafkaError::Produce {
                        topic: topic.to_owned(),
                        error,
                    });
                }
            }
        }
    }

    /// Sends a record and returns when all replicas have it.
    ///
    /// # Errors
    /// When the broker did not take it; send it again.
    pub async fn send(&self, topic: &str, key: &str, payload: &[u8]) -> Result<(), KafkaError> {
        self.enqueue(topic, key, payload).await?.await
    }
}
