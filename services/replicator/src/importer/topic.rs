//! The records of `imports.events` themselves: where the topic ends, how far its readers are, and deleting up to there.

use std::time::Duration;

use meridian_kit::kafka::Kafka;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::TOPIC;
use crate::store::imports::Offsets;

const PATIENCE: Duration = Duration::from_secs(5);

/// Why the topic could not be looked at or deleted from.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopicError {
    #[error("imports.events cannot be reached: {0}")]
    Kafka(#[from] KafkaError),
    #[error("records of imports.events were not deleted: {0}")]
    NotDeleted(String),
    #[error("the work on imports.events was broken off")]
    BrokenOff,
}

/// The topic on the region's broker.
#[derive(Clone, Debug)]
pub(super) struct ImportsTopic(Kafka);

impl ImportsTopic {
    pub(super) fn new(kafka: Kafka) -> Self {
        Self(kafka)
    }

    fn name(&self) -> String {
        self.0.topic_name(TOPIC)
    }

    fn config(&self) -> ClientConfig {
        let mut config = self.0.config();
        config.set("client.id", "replicator-purge");
        config
    }

    /// Where each partition ends now.
    pub(super) async fn ends(&self) -> Result<Offsets, TopicError> {
        let this = self.clone();
        blocking(move || {
            let consumer: BaseConsumer = this.config().create()?;
            let name = this.name();
            let metadata = consumer.fetch_metadata(Some(&name), PATIENCE)?;
            let mut ends = Offsets::new();
            for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
                let (_, end) = consumer.fetch_watermarks(&name, partition.id(), PATIENCE)?;
                ends.insert(partition.id(), end);
            }
            Ok(ends)
        })
        .await
    }

    /// Whether every group has committed what lies before these offsets.
    pub(super) async fn passed(&self, groups: &[&str], upto: &Offsets) -> Result<bool, TopicError> {
        let groups: Vec<String> = groups.iter().map(|group| self.0.topic_name(group)).collect();
        let (this, upto) = (self.clone(), upto.clone());
        blocking(move || {
            for group in &groups {
                let consumer: BaseConsumer = this.config().set("group.id", group).create()?;
                let mut list = TopicPartitionList::new();
                for partition in upto.keys() {
                    list.add_partition(&this.name(), *partition);
                }
                let committed = consumer.committed_offsets(list, PATIENCE)?;
                for (partition, end) in &upto {
                    let committed = committed
                        .find_partition(&this.name(), *partition)
                        .map(|found| found.offset());
                    let (first, _) = consumer.fetch_watermarks(&this.name(), *partition, PATIENCE)?;
                    // A partition in which nothing lies before the offset has nothing to commit.
                    let reached = matches!(committed, Some(Offset::Offset(next)) if next >= *end) || first >= *end;
                    if !reached {
                        return Ok(false);
                    }
                }
            }
            Ok(true)
        })
        .await
    }

    /// Deletes what lies before these offsets.
    pub(super) async fn delete_upto(&self, upto: &Offsets) -> Result<(), TopicError> {
        let admin: AdminClient<DefaultClientContext> = self.config().create()?;
        let name = self.name();
        let mut list = TopicPartitionList::new();
        for (partition, end) in upto.iter().filter(|(_, end)| **end > 0) {
            list.add_partition_offset(&name, *partition, Offset::Offset(*end))?;
        }
        if list.count() == 0 {
            return Ok(());
        }
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let deleted = admin.delete_records(&list, &options).await?;
        for partition in deleted.elements() {
            if let Err(error) = partition.error() {
                return Err(TopicError::NotDeleted(error.to_string()));
            }
        }
        Ok(())
    }
}

/// librdkafka's questions about offsets block the thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, TopicError> {
    Ok(tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| TopicError::BrokenOff)??)
}
