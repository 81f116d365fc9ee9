//! Kafka of the region: topics, producers, consumers. Events are sealed before they come here.

mod access;
mod broker;
mod consumer;
mod dead_copy;
mod handler;
mod identity;
mod producer;
mod reports;
mod settle;
mod told;
mod topics;

pub use access::{Access, AccessError, Acl, Operation, Resource};
pub use broker::{BROKER, Broker, NotABroker};
pub use consumer::Consumer;
pub use dead_copy::DeadCopy;
pub use handler::{BatchHandler, Consumed, Failure, Handled, Handler};
pub use identity::Current;
pub use producer::{Delivery, Outgoing, Producer};
pub use topics::{Cleanup, Topic, dead_letter, is_dead_letter};

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError as Raw;

use crate::tls::Tls;
use identity::Identity;
use told::KnownBrokers;

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
    identity: Identity,
    prefix: String,
    service: &'static str,
}

impl Kafka {
    /// For a service, as whom its certificate says; `prefix` is put before every topic and group.
    #[must_use]
    pub fn mutual(tls: &Tls, brokers: &[Broker], prefix: &str, service: &'static str) -> Self {
        let brokers: Vec<String> = brokers.iter().map(ToString::to_string).collect();
        Self {
            brokers: brokers.join(","),
            identity: Identity::Mutual(tls.clone()),
            prefix: prefix.to_owned(),
            service,
        }
    }

    /// For a service of a test, as nobody: the broker must take whoever comes.
    #[must_use]
    pub fn plain(brokers: &str, prefix: &str, service: &'static str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            identity: Identity::Nobody,
            prefix: prefix.to_owned(),
            service,
        }
    }

    /// The name that a topic has on the broker.
    #[must_use]
    pub fn topic_name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    /// For a client that is about to be made.
    fn known_brokers(&self) -> KnownBrokers {
        KnownBrokers::new(&self.brokers)
    }

    pub(crate) fn service(&self) -> &'static str {
        self.service
    }

    /// What every client begins with, under this process's certificate of now; for questions to the broker that neither a
    /// producer nor a consumer asks. Whoever keeps the client holds it in a [`Current`].
    #[must_use]
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", self.service)
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "5000")
            // What producers and consumers say goes to our log.
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Warning);
        self.identity.show(&mut config);
        config
    }
}
