//! Topics and how long they keep what.

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;

use super::{Kafka, KafkaError};

/// What a topic does with old records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cleanup {
    /// Deletes them after so many days.
    DeleteAfterDays(u32),
    /// Keeps the last of each key.
    Compact,
}

/// A topic as it should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions; only ever raised.
    pub partitions: i32,
    /// What happens to old records.
    pub cleanup: Cleanup,
}

impl Topic {
    /// Integration events: 90 days.
    #[must_use]
    pub fn events(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            partitions: 4,
            cleanup: Cleanup::DeleteAfterDays(90),
        }
    }

    /// The last state of each key.
    #[must_use]
    pub fn compacted(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            partitions: 4,
            cleanup: Cleanup::Compact,
        }
    }
}

const DEAD_LETTER: &str = ".dead-letter";

/// Where a service's events go that it cannot handle, sealed as they were; of copies, where they lie ([`super::DeadCopy`]).
#[must_use]
pub fn dead_letter(service: &str) -> String {
    format!("{service}{DEAD_LETTER}")
}

/// Whether a topic is one of those.
#[must_use]
pub fn is_dead_letter(topic: &str) -> bool {
    topic.ends_with(DEAD_LETTER)
}

impl Kafka {
    /// Makes the topics that are missing and adds partitions where there are too few.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    pub async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), KafkaError> {
        let admin: AdminClient<DefaultClientContext> = self.config().create().map_err(KafkaError::Setup)?;
        let options = AdminOptions::new().operation_timeout(Some(std::time::Duration::from_secs(10)));
        for topic in topics {
            let name = self.topic_name(&topic.name);
            let problem = |problem: String| KafkaError::Topic {
                topic: topic.name.clone(),
                problem,
            };
            let days;
            // -1: as many replicas as the cluster's default, 1 in the demo and 3 in production.
            let new = NewTopic::new(&name, topic.partitions, TopicReplication::Fixed(-1));
            let new = match topic.cleanup {
                Cleanup::DeleteAfterDays(count) => {
                    days = (u64::from(count) * 24 * 60 * 60 * 1000).to_string();
                    new.set("cleanup.policy", "delete").set("retention.ms", &days)
                }
                Cleanup::Compact => new.set("cleanup.policy", "compact"),
            };
            let made = admin
                .create_topics([&new], &options)
                .await
                .map_err(|error| problem(error.to_string()))?;
            match made.into_iter().next() {
                Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
                    self.widen(&admin, &options, topic, &name).await?
                }
                Some(Err((_, code))) => return Err(problem(code.to_string())),
                _ => {}
            }
        }
        Ok(())
    }

    async fn widen(
        &self,
        admin: &AdminClient<DefaultClientContext>,
        options: &AdminOptions,
        topic: &Topic,
        name: &str,
    ) -> Result<(), KafkaError> {
        let problem = |problem: String| KafkaError::Topic {
            topic: topic.name.clone(),
            problem,
        };
        let wanted = usize::try_from(topic.partitions).unwrap_or(1);
        let partitions = NewPartitions::new(name, wanted);
        let widened = admin
            .create_partitions([&partitions], options)
            .await
            .map_err(|error| problem(error.to_string()))?;
        match widened.into_iter().next() {
            // It has as many, or more.
            Some(Err((_, RDKafkaErrorCode::InvalidPartitions))) | Some(Ok(_)) | None => Ok(()),
            Some(Err((_, code))) => Err(problem(code.to_string())),
        }
    }
}
