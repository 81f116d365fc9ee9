//! Whose records lie in the region's topics. An event says in clear whose it is and by which edge it came; what it tells is
//! sealed (services/kit, `event`), dead letters like all others; of a copy that could not be handled these say where it lies,
//! and it is found there. The verifier has no key, and reads no more than that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use meridian_kit::event::Event;
use meridian_kit::kafka::{DeadCopy, is_dead_letter};
use meridian_policy::vocabulary::DataClass;
use meridian_policy::{EdgeId, RegionPolicy, TenantId};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::{Events, PATIENCE, Partition, Topic, unseen};
use crate::rows::{Lawful, named};
use crate::tally::Tally;
use crate::{Check, Report, VerifyError};

/// Records at either end of a partition that are looked at, when it holds more than twice as many: what stayed too long is at
/// one end, and what was smuggled in lately at the other.
const AT_EITHER_END: i64 = 50_000;

/// Looks into the topics.
pub(crate) async fn look(
    events: &Events,
    topics: &[Topic],
    policy: &RegionPolicy,
    lawful: &Lawful<'_>,
    report: &mut Report,
) -> Result<(), VerifyError> {
    for topic in topics {
        report.looked.topics += 1;
        let (mut tally, mut classes) = (Tally::default(), BTreeSet::new());
        for part in parts(&topic.partitions, AT_EITHER_END) {
            let client = events.client().map_err(unseen(&topic.name))?;
            let reading = Reading::new(client, &topic.name, &part)?;
            let read = tokio::task::spawn_blocking(move || reading.all());
            for (kind, count) in read.await.unwrap_or_else(|ended| Err(VerifyError::Ended(ended)))? {
                tally.saw(count);
                if let Some((check, of)) = kind.wrong(policy, lawful) {
                    tally.find(check, &of, count);
                    classes.insert(kind.class().unwrap_or(DataClass::Identity));
                }
            }
        }
        report.looked.records += tally.seen();
        tally.tell(&format!("kafka: topic {}", topic.name), &classes, report);
    }
    Ok(())
}

/// What to read, so that of each partition at most twice `end` records are: each part from an offset up to another.
fn parts(partitions: &[Partition], end: i64) -> Vec<Vec<Partition>> {
    let whole = |partition: &Partition| partition.high - partition.low <= 2 * end;
    let first = partitions.iter().map(|partition| Partition {
        high: if whole(partition) {
            partition.high
        } else {
            partition.low + end
        },
        ..*partition
    });
    let last = partitions
        .iter()
        .filter(|partition| !whole(partition))
        .map(|partition| Partition {
            low: partition.high - end,
            ..*partition
        });
    let there = |part: &Partition| part.low < part.high;
    let parts = [first.filter(there).collect::<Vec<_>>(), last.collect()];
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

/// What a record says of itself: records that say the same are counted as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// An event.
    Sealed {
        tenant: String,
        epoch: u64,
        region: String,
        class: DataClass,
        /// Edge and origin.
        copied: Option<(String, String)>,
    },
    /// Where a copy lies that could not be handled. It says nothing of anybody.
    DeadCopy,
    /// Something that is no event, or whose payload is not sealed.
    Unsealed,
}

impl Kind {
    /// Of a record in that topic.
    fn of(topic: &str, record: &[u8]) -> Self {
        match Event::from_bytes(record) {
            Ok(event) if event.is_sealed() => Self::Sealed {
                tenant: event.tenant.to_string(),
                epoch: event.epoch.get(),
                region: event.region.to_string(),
                class: event.class,
                copied: event
                    .edge
                    .zip(event.origin)
                    .map(|(edge, origin)| (edge.to_string(), origin.to_string())),
            },
            Err(_) if is_dead_letter(topic) && DeadCopy::from_bytes(record).is_some() => Self::DeadCopy,
            _ => Self::Unsealed,
        }
    }

    fn class(&self) -> Option<DataClass> {
        match self {
            Self::Sealed { class, .. } => Some(*class),
            Self::DeadCopy | Self::Unsealed => None,
        }
    }

    /// By which check it should not be here, and of whom it is.
    fn wrong(&self, policy: &RegionPolicy, lawful: &Lawful<'_>) -> Option<(Check, String)> {
        let (tenant, epoch, region, copied) = match self {
            Self::Sealed {
                tenant,
                epoch,
                region,
                copied,
                ..
            } => (tenant, epoch, region, copied),
            Self::DeadCopy => return None,
            Self::Unsealed => return Some((Check::Unsealed, "what is no sealed event".to_owned())),
        };
        let tenant_named = named::<TenantId>(tenant);
        if let Some((edge, origin)) = copied {
            let lawful = lawful.lets_come(edge, tenant, origin);
            return (!lawful).then(|| {
                let of = format!("{} for {tenant_named}", named::<EdgeId>(edge));
                (Check::CopiesWithoutEdge, of)
            });
        }
        if region != policy.region.as_str() {
            // Written elsewhere, and by no edge.
            return Some((Check::ForeignRows, tenant_named.to_owned()));
        }
        lawful
            .made_here(tenant, *epoch)
            .map(|check| (check, tenant_named.to_owned()))
    }
}

/// A client that reads some partitions of a topic once.
struct Reading {
    client: BaseConsumer,
    topic: String,
    /// By partition, the offset that is not read any more.
    ends: BTreeMap<i32, i64>,
}

impl Reading {
    fn new(client: BaseConsumer, topic: &str, part: &[Partition]) -> Result<Self, VerifyError> {
        let mut from = TopicPartitionList::new();
        for partition in part {
            from.add_partition_offset(topic, partition.number, Offset::Offset(partition.low))
                .map_err(unseen(topic))?;
        }
        client.assign(&from).map_err(unseen(topic))?;
        Ok(Self {
            client,
            topic: topic.to_owned(),
            ends: part
                .iter()
                .map(|partition| (partition.number, partition.high))
                .collect(),
        })
    }

    /// How many records say what. It blocks.
    fn all(mut self) -> Result<BTreeMap<Kind, u64>, VerifyError> {
        let mut kinds = BTreeMap::new();
        let mut heard = Instant::now();
        while !self.ends.is_empty() {
            match self.client.poll(PATIENCE) {
                Some(Ok(record)) => {
                    heard = Instant::now();
                    let (partition, offset) = (record.partition(), record.offset());
                    let Some(end) = self.ends.get(&partition) else { continue };
                    if offset < *end {
                        let kind = Kind::of(&self.topic, record.payload().unwrap_or_default());
                        *kinds.entry(kind).or_default() += 1;
                    }
                    if offset + 1 >= *end {
                        self.ended(partition)?;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.ended(partition)?,
                Some(Err(error)) if is_passing(&error) && heard.elapsed() < PATIENCE => {}
                Some(Err(error)) => return Err(unseen(&self.topic)(error)),
                None => {
                    let late = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                    return Err(unseen(&self.topic)(late));
                }
            }
        }
        Ok(kinds)
    }

    /// Nothing more is read of a partition.
    fn ended(&mut self, partition: i32) -> Result<(), VerifyError> {
        if self.ends.remove(&partition).is_none() {
            return Ok(());
        }
        let mut done = TopicPartitionList::new();
        done.add_partition(&self.topic, partition);
        self.client.pause(&done).map_err(unseen(&self.topic))
    }
}

/// Whether librdkafka goes on by itself.
fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, CoordinatorNotAvailable, NotCoordinator};
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(
            code,
            AllBrokersDown | BrokerTransportFailure | CoordinatorNotAvailable | NotCoordinator
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: i32, low: i64, high: i64) -> Partition {
        Partition { number, low, high }
    }

    #[test]
    fn a_small_partition_is_read_whole_and_a_large_one_at_both_ends() {
        let all = [partition(0, 5, 5), partition(1, 5, 25), partition(2, 5, 26)];
        assert_eq!(
            parts(&all, 10),
            [
                vec![partition(1, 5, 25), partition(2, 5, 15)],
                vec![partition(2, 16, 26)]
            ]
        );
        assert!(parts(&all[..1], 10).is_empty());
    }

    #[test]
    fn what_is_no_sealed_event_is_nobodys() {
        for record in [&b""[..], b"{}", b"Ada Lovelace ran 12 km"] {
            assert_eq!(Kind::of("social.dead-letter", record), Kind::Unsealed);
        }
    }

    #[test]
    fn where_a_copy_lies_is_told_among_dead_letters_alone() {
        let told = concat!(
            r#"{"topic":"imports.events","partition":0,"offset":7,"#,
            r#""event":"00000000-0000-0000-0000-000000000000","edge":"stride-us.workout-summary.eu"}"#
        );
        let told = told.as_bytes();
        assert_eq!(Kind::of("social.dead-letter", told), Kind::DeadCopy);
        assert_eq!(Kind::of("workouts.events", told), Kind::Unsealed);
    }
}
