//! What a pool's topics and its writers' consumer group show: ends and committed offsets, and from two looks the rates.

use meridian_kit::kafka::{Current, Kafka, KafkaError};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(4);

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Kafka.
    #[error("Kafka does not say how far the writers are: {0}")]
    Kafka(#[from] KafkaError),
    /// The look panicked or was cancelled.
    #[error("the look at Kafka was cut short")]
    CutShort,
}

/// Sums over all partitions of a pool's topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// When they were read.
    pub at: Instant,
    /// Ends of the logs.
    pub ends: u64,
    /// Committed by the group; where nothing was committed, the beginning of the log.
    pub committed: u64,
    /// Partitions that there are.
    pub partitions: u32,
}

/// Reads offsets of one consumer group. Never joins the group.
#[derive(Clone)]
pub struct Lens(Current<BaseConsumer>);

impl Lens {
    /// For a group.
    #[must_use]
    pub fn new(kafka: Kafka, group: &'static str) -> Self {
        Self(Current::new(kafka, move |kafka| {
            let mut config = kafka.config();
            config
                .set("group.id", group)
                .set("enable.auto.commit", "false")
                .set("socket.timeout.ms", "4000");
            config.create().map_err(KafkaError::Setup)
        }))
    }

    /// Looks.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub async fn look(&self, topics: &[String]) -> Result<Offsets, LookError> {
        let (clients, topics) = (self.0.clone(), topics.to_vec());
        // librdkafka's queries block.
        let look = tokio::task::spawn_blocking(move || clients.ask(|client| blocking(client, &topics)));
        Ok(look.await.map_err(|_| LookError::CutShort)??)
    }
}

fn blocking(consumer: &BaseConsumer, topics: &[String]) -> KafkaResult<Offsets> {
    let mut asked = TopicPartitionList::new();
    let mut bounds = Vec::new();
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
            let (low, high) = consumer.fetch_watermarks(topic, partition.id(), TIMEOUT)?;
            asked.add_partition(topic, partition.id());
            bounds.push((topic.clone(), partition.id(), low, high));
        }
    }
    // Committed after the ends: what was stored in between makes the lag smaller, never larger than it is.
    let committed = if bounds.is_empty() {
        asked
    } else {
        consumer.committed_offsets(asked, TIMEOUT)?
    };
    let at = Instant::now();
    let count = |offset: i64| u64::try_from(offset).unwrap_or(0);
    let mut sums = Offsets {
        at,
        ends: 0,
        committed: 0,
        partitions: u32::try_from(bounds.len()).unwrap_or(u32::MAX),
    };
    for (topic, partition, low, high) in bounds {
        let known = committed.find_partition(&topic, partition).map(|p| p.offset());
        let done = match known {
            Some(Offset::Offset(offset)) => offset.clamp(low, high),
            _ => low,
        };
        sums.ends += count(high);
        sums.committed += count(done);
    }
    Ok(sums)
}

/// Lag and rates from two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// Records not yet stored.
    pub lag: u64,
    /// Records that arrived per second.
    pub arrival_rate: f64,
    /// Records that were stored per second.
    pub drain_rate: f64,
}

/// Rates are of no use over less than this.
const SHORTEST: Duration = Duration::from_millis(200);

/// What two looks say; the first look alone says the lag only. A topic made anew counts as a first look.
#[must_use]
pub fn flow(before: Option<&Offsets>, now: &Offsets) -> Flow {
    let lag = now.ends.saturating_sub(now.committed);
    let none = Flow {
        lag,
        arrival_rate: 0.0,
        drain_rate: 0.0,
    };
    let Some(before) = before.filter(|b| b.ends <= now.ends && b.committed <= now.committed) else {
        return none;
    };
    let elapsed = now.at.saturating_duration_since(before.at);
    if elapsed < SHORTEST {
        return none;
    }
    let per_second = |records: u64| precise(records) / elapsed.as_secs_f64();
    Flow {
        lag,
        arrival_rate: per_second(now.ends - before.ends),
        drain_rate: per_second(now.committed - before.committed),
    }
}

/// A count as a number to calculate with; beyond 2^53 a few records more or less do not matter.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn precise(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(base: Instant, second: u64, ends: u64, committed: u64) -> Offsets {
        Offsets {
            at: base + Duration::from_secs(second),
            ends,
            committed,
            partitions: 6,
        }
    }

    #[test]
    fn rates_are_differences_over_time() {
        let base = Instant::now();
        let (before, now) = (offsets(base, 0, 100, 40), offsets(base, 2, 300, 140));
        assert_eq!(
            flow(Some(&before), &now),
            Flow {
                lag: 160,
                arrival_rate: 100.0,
                drain_rate: 50.0
            }
        );
    }

    #[test]
    fn a_first_look_or_a_topic_made_anew_says_the_lag_only() {
        let base = Instant::now();
        let now = offsets(base, 2, 30, 10);
        for before in [None, Some(offsets(base, 0, 100, 40))] {
            assert_eq!(
                flow(before.as_ref(), &now),
                Flow {
                    lag: 20,
                    arrival_rate: 0.0,
                    drain_rate: 0.0
                }
            );
        }
    }
}
