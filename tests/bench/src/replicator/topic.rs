//! A topic on a broker from outside: how many records it has taken.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

const ANSWER: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Counts a topic's records.
pub struct Counted {
    consumer: BaseConsumer,
    topic: String,
}

impl Counted {
    /// Of the topic of this name on a broker.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(broker: &str, topic: &str) -> Result<Self> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", broker)
            .set("client.id", "bench")
            .set("group.id", "bench")
            .create()
            .context("a Kafka client cannot be made")?;
        let topic = topic.to_owned();
        Ok(Self { consumer, topic })
    }

    /// How many records were ever put into it; none while it is not there.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn records(&self) -> Result<u64> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), ANSWER)?;
        let mut records = 0;
        for topic in metadata.topics().iter().filter(|topic| topic.error().is_none()) {
            for partition in topic.partitions() {
                let (_, end) = self.consumer.fetch_watermarks(&self.topic, partition.id(), ANSWER)?;
                records += u64::try_from(end).unwrap_or_default();
            }
        }
        Ok(records)
    }

    /// Waits until it has so many. A topic that was made just now has no leader for a moment, and nobody can be asked.
    ///
    /// # Errors
    /// When it has not in time.
    pub async fn reaches(&self, count: u64, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let records = self.records();
            if records.as_ref().is_ok_and(|records| *records >= count) {
                return Ok(());
            }
            if begun.elapsed() > patience {
                let records = records?;
                bail!("{} has {records} of {count} records after {patience:?}", self.topic);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
