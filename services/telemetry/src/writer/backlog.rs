//! How much of the topic the writers have not stored yet: the broker's end of each partition against the group's commits.

use std::sync::Arc;
use std::time::Duration;

use meridian_kit::kafka::{Current, Kafka, KafkaError};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

use crate::{TOPIC, WRITERS};

/// For one question to the broker.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks. Cheap to clone; connects when first asked.
#[derive(Clone)]
pub struct Backlog {
    topic: Arc<str>,
    client: Current<BaseConsumer>,
}

impl std::fmt::Debug for Backlog {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Backlog")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl Backlog {
    /// For the region's Kafka.
    #[must_use]
    pub fn new(kafka: Kafka) -> Self {
        Self {
            topic: kafka.topic_name(TOPIC).into(),
            client: Current::new(kafka, client),
        }
    }

    /// Batches that the broker has and no writer has stored. Zero means: everything that was acknowledged before this was
    /// asked is stored.
    ///
    /// # Errors
    /// When the broker cannot be asked.
    pub async fn batches(&self) -> Result<i64, KafkaError> {
        let this = self.clone();
        // The client blocks while it asks.
        let asked = tokio::task::spawn_blocking(move || this.client.ask(|client| this.count(client))).await;
        asked.unwrap_or_else(|_| Err(KafkaError::Consume(rdkafka::error::KafkaError::Canceled)))
    }

    fn count(&self, client: &BaseConsumer) -> KafkaResult<i64> {
        let metadata = client.fetch_metadata(Some(&self.topic), PATIENCE)?;
        let partitions = metadata.topics().iter().find(|topic| topic.name() == &*self.topic);
        let partitions: Vec<i32> = partitions
            .iter()
            .flat_map(|topic| topic.partitions())
            .map(|one| one.id())
            .collect();
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in &partitions {
            list.add_partition(&self.topic, *partition);
        }
        // The ends first: what is committed afterwards can only make the answer smaller than it was, never hide a batch
        // that was there when we were asked.
        let mut ends = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let (low, high) = client.fetch_watermarks(&self.topic, partition, PATIENCE)?;
            ends.push((partition, low, high));
        }
        let committed = client.committed_offsets(list, PATIENCE)?;
        let behind = ends.into_iter().map(|(partition, low, high)| {
            let at = committed.find_partition(&self.topic, partition).map(|one| one.offset());
            let stored = match at {
                Some(Offset::Offset(next)) => next.max(low),
                _ => low,
            };
            (high - stored).max(0)
        });
        Ok(behind.sum())
    }
}

/// It never subscribes: it reads the group's commits and is no member of it.
fn client(kafka: &Kafka) -> Result<BaseConsumer, KafkaError> {
    let mut config = kafka.config();
    config
        .set("group.id", kafka.topic_name(WRITERS))
        .set("client.id", "telemetry-backlog")
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false")
        .set_log_level(rdkafka::config::RDKafkaLogLevel::Error);
    config.create().map_err(KafkaError::Setup)
}
