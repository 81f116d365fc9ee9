//! Producers: idempotent, acknowledged by all replicas, bounded in memory.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use rdkafka::error::{KafkaError as Raw, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{Kafka, KafkaError};
use crate::headers::TRACEPARENT;

/// A producer. Cheap to clone.
#[derive(Clone)]
pub struct Producer {
    kafka: Kafka,
    inner: FutureProducer,
}

impl fmt::Debug for Producer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Producer")
            .field("kafka", &self.kafka)
            .finish_non_exhaustive()
    }
}

/// A record on its way; await it to learn that the broker has it.
pub type Delivery = std::pin::Pin<Box<dyn Future<Output = Result<(), KafkaError>> + Send>>;

impl Kafka {
    /// A producer.
    ///
    /// # Errors
    /// When librdkafka refuses the set-up.
    pub fn producer(&self) -> Result<Producer, KafkaError> {
        let mut config = self.config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.codec", "none") // sealed bytes do not compress
            .set("linger.ms", "5")
            // A record that is not taken within this time is reported lost to whoever sent it, who sends it again.
            .set("message.timeout.ms", "30000")
            .set("message.max.bytes", "1000000")
            .set("queue.buffering.max.messages", "20000")
            .set("queue.buffering.max.kbytes", "8192");
        let inner = config.create().map_err(KafkaError::Setup)?;
        Ok(Producer {
            kafka: self.clone(),
            inner,
        })
    }
}

impl Producer {
    /// Puts a record into the queue, waiting while the queue is full, and returns its delivery. Records of one key that
    /// are enqueued one after the other arrive in that order.
    ///
    /// # Errors
    /// When the record can never be sent.
    pub async fn enqueue(&self, topic: &str, key: &str, payload: &[u8]) -> Result<Delivery, KafkaError> {
        let name = self.kafka.topic_name(topic);
        let mut record = FutureRecord::to(&name).key(key).payload(payload);
        if let Some(context) = crate::trace::current() {
            let (header_name, traceparent) = (TRACEPARENT, context.traceparent());
            let header = rdkafka::message::Header {
                key: header_name.as_str(),
                value: Some(&traceparent),
            };
            record = record.headers(rdkafka::message::OwnedHeaders::new().insert(header));
        }
        loop {
            match self.inner.send_result(record) {
                Ok(delivery) => {
                    let topic = topic.to_owned();
                    return Ok(Box::pin(async move {
                        match delivery.await {
                            Ok(Ok(_)) => Ok(()),
                            Ok(Err((error, _))) => Err(KafkaError::Produce { topic, error }),
                            Err(_) => Err(KafkaError::Produce {
                                topic,
                                error: Raw::Canceled,
                            }),
                        }
                    }));
                }
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

    /// How many records wait in the queue or for the broker.
    #[must_use]
    pub fn in_flight(&self) -> i32 {
        use rdkafka::producer::Producer as _;
        self.inner.in_flight_count()
    }
}
