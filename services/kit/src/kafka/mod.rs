//! Kafka of the region: topics, producers, consumers. Events are sealed before they come here.

mod consumer;
mod handler;
mod producer;
mod settle;
mod topics;

pub use consumer::Consumer;
pub use handler::{BatchHandler, Failure, Handled, Handler};
pub use producer::{Delivery, Producer};
pub use topics::{Cleanup, Topic, dead_letter};

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError as Raw;

/// Why Kafka could not do it.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// A client cannot be made.
    #[error("a Kafka client cannot be made: {0}")]
    Setup(Raw),
    /// The broker did not take a record.
    #[error("Kafka did not take a record for {topic}: {error}")]
    Produce {
        /// Where to.
        topic: String,
        /// Why.
        error: Raw,
    },
    /// A record is larger than the broker takes.
    #[error("a record of {bytes} bytes for {topic} is too large")]
    TooLarge {
        /// Where to.
        topic: String,
        /// Its size.
        bytes: usize,
    },
    /// A topic cannot be made or changed.
    #[error("topic {topic} cannot be made: {problem}")]
    Topic {
        /// Which.
        topic: String,
        /// Why.
        problem: String,
    },
    /// Nothing can be received.
    #[error("Kafka cannot be read: {0}")]
    Consume(Raw),
    /// What was handled cannot be marked so.
    #[error("Kafka did not take the group's offsets: {0}")]
    Commit(Raw),
}

/// Makes clients of the region's Kafka for one service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Kafka {
    brokers: String,
    prefix: String,
    service: &'static str,
}

impl Kafka {
    /// For a service; `prefix` is put before every topic and group.
    #[must_use]
    pub fn new(brokers: &str, prefix: &str, service: &'static str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            prefix: prefix.to_owned(),
            service,
        }
    }

    /// The name that a topic has on the broker.
    #[must_use]
    pub fn topic_name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    pub(crate) fn service(&self) -> &'static str {
        self.service
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", self.service)
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "5000")
            // librdkafka's own lines go through `tracing`, from warnings up.
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Warning);
        config
    }
}
