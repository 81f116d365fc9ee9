//! What the region's Kafka has that nobody planned: topics, consumer groups, rights, and settings by which records leave it.
//! Whose records lie in the topics is [`records`](crate::records)'s.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use meridian_kit::kafka::{Access, Acl, Broker, Kafka};
use meridian_kit::tls::Tls;
use meridian_kit::{Start, config::Brokers};
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use crate::{Check, Report, VerifyError};

/// The longest that a broker may take for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// How long a broker may read what it kept of groups.
const STARTS: Duration = Duration::from_secs(15);
/// How soon it is asked again meanwhile.
const AGAIN: Duration = Duration::from_millis(200);

/// Topics that the broker makes for itself. What it keeps of groups shows as groups.
const OF_THE_BROKER: &[&str] = &["__consumer_offsets", "__transaction_state", "__share_group_state"];

const AUTHORIZER: &str = "authorizer.class.name";
/// Settings of a broker, and the value under which it asks its lists, makes no topic by accident, and keeps what it has. Those
/// that the authorizer alone knows (`super.users`) a broker tells nobody.
const SETTINGS: &[(&str, &str)] = &[
    (AUTHORIZER, "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    ("auto.create.topics.enable", "false"),
    ("remote.log.storage.system.enable", "false"),
];
/// A topic's setting: whether its old records are moved to where somebody else keeps them.
const TIERED: &str = "remote.storage.enable";

/// What was planned for a region's Kafka: nothing else may be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// Topics that a component owns.
    pub topics: BTreeSet<String>,
    /// Groups that a component reads in.
    pub groups: BTreeSet<String>,
    /// Who may do what.
    pub acls: BTreeSet<Acl>,
}

/// A region's Kafka.
#[derive(Clone, Debug)]
pub struct Events {
    /// How it is reached.
    pub kafka: Kafka,
    /// The same for the lists of who may do what. None for a broker that has none, of a test.
    pub lists: Option<(Tls, Broker)>,
    /// What was planned.
    pub planned: Planned,
}

impl Events {
    /// As this process reaches it.
    #[must_use]
    pub fn of(start: &Start, planned: Planned) -> Self {
        let lists = match &start.config().kafka {
            Brokers::Mutual(brokers) => brokers.first().map(|broker| (start.tls().clone(), broker.clone())),
            Brokers::Plain(_) => None,
        };
        Self {
            kafka: start.kafka(),
            lists,
            planned,
        }
    }

    /// A client that only asks. It is of no group that anybody else is of, and commits nothing.
    pub(crate) fn client(&self) -> KafkaResult<BaseConsumer> {
        self.kafka
            .config()
            .set("group.id", "verifier")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("fetch.message.max.bytes", "1048576")
            .set("queued.max.messages.kbytes", "8192")
            .create()
    }
}

/// A topic of the broker, with its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) partitions: Vec<Partition>,
}

/// A partition: the offsets of its first record, and after its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) number: i32,
    pub(crate) low: i64,
    pub(crate) high: i64,
}

impl Topic {
    /// Offsets in use: at least as many as records.
    fn records(&self) -> u64 {
        let each = self.partitions.iter().map(|partition| partition.high - partition.low);
        each.map(i64::unsigned_abs).sum()
    }
}

/// What the broker says that it has.
struct There {
    brokers: Vec<i32>,
    topics: Vec<Topic>,
    groups: Vec<(String, usize)>,
}

/// Why Kafka could not be looked at.
pub(crate) fn unseen(what: &str) -> impl FnOnce(KafkaError) -> VerifyError {
    let place = format!("Kafka's {what}");
    move |source| VerifyError::KafkaUnseen { place, source }
}

/// Looks at everything but records; gives the topics that were planned, to look into.
pub(crate) async fn look(events: &Events, report: &mut Report) -> Result<Vec<Topic>, VerifyError> {
    let client = events.client().map_err(unseen("brokers"))?;
    let asked = tokio::task::spawn_blocking(move || there(&client));
    let There {
        brokers,
        topics,
        groups,
    } = asked.await.unwrap_or_else(|ended| Err(VerifyError::Ended(ended)))?;
    for (group, members) in groups {
        if !events.planned.groups.contains(&group) {
            let count = u64::try_from(members.max(1)).unwrap_or(u64::MAX);
            find(
                report,
                Check::UnknownGroup,
                format!("kafka: group {group}"),
                None,
                count,
            );
        }
    }
    let (planned, unknown): (Vec<Topic>, Vec<Topic>) = topics
        .into_iter()
        .filter(|topic| !OF_THE_BROKER.contains(&topic.name.as_str()))
        .partition(|topic| events.planned.topics.contains(&topic.name));
    for topic in unknown {
        find(
            report,
            Check::UnknownTopic,
            format!("kafka: topic {}", topic.name),
            None,
            topic.records(),
        );
    }
    settings(events, &brokers, &planned, report)
        .await
        .map_err(unseen("settings"))?;
    rights(events, report).await?;
    Ok(planned)
}

fn find(report: &mut Report, check: Check, place: String, of: Option<String>, count: u64) {
    report.find(check, place, of, BTreeSet::new(), count);
}

fn there(client: &BaseConsumer) -> Result<There, VerifyError> {
    let metadata = client.fetch_metadata(None, PATIENCE).map_err(unseen("topics"))?;
    let mut topics = Vec::new();
    for topic in metadata.topics() {
        let mut partitions = Vec::new();
        for partition in topic.partitions() {
            let (low, high) = client
                .fetch_watermarks(topic.name(), partition.id(), PATIENCE)
                .map_err(unseen(topic.name()))?;
            partitions.push(Partition {
                number: partition.id(),
                low,
                high,
            });
        }
        topics.push(Topic {
            name: topic.name().to_owned(),
            partitions,
        });
    }
    let groups = groups(client).map_err(unseen("groups"))?;
    Ok(There {
        brokers: metadata.brokers().iter().map(|broker| broker.id()).collect(),
        topics,
        groups,
    })
}

/// Every group and how many are in it. A broker that has just started reads for a moment which groups there are.
fn groups(client: &BaseConsumer) -> KafkaResult<Vec<(String, usize)>> {
    let began = Instant::now();
    loop {
        match client.fetch_group_list(None, PATIENCE) {
            Ok(list) => {
                let groups = list.groups().iter();
                return Ok(groups
                    .map(|group| (group.name().to_owned(), group.members().len()))
                    .collect());
            }
            Err(error) if is_starting(&error) && began.elapsed() < STARTS => std::thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
}

fn is_starting(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| {
        matches!(
            code,
            RDKafkaErrorCode::CoordinatorLoadInProgress | RDKafkaErrorCode::CoordinatorNotAvailable
        )
    })
}

/// Settings of the brokers and of the topics.
async fn settings(events: &Events, brokers: &[i32], topics: &[Topic], report: &mut Report) -> KafkaResult<()> {
    let admin: AdminClient<DefaultClientContext> = events.kafka.config().create()?;
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    // One of a broker's is to be answered by that broker: librdkafka takes one of them in a question.
    for broker in brokers {
        let asked = [ResourceSpecifier::Broker(*broker)];
        for answer in admin.describe_configs(&asked, &options).await? {
            of_broker(events, &answer.map_err(KafkaError::AdminOp)?, report);
        }
    }
    let asked: Vec<ResourceSpecifier<'_>> = topics
        .iter()
        .map(|topic| ResourceSpecifier::Topic(&topic.name))
        .collect();
    if asked.is_empty() {
        return Ok(());
    }
    for answer in admin.describe_configs(&asked, &options).await? {
        of_topic(&answer.map_err(KafkaError::AdminOp)?, report);
    }
    Ok(())
}

fn value<'a>(of: &'a ConfigResource, name: &str) -> Option<&'a str> {
    of.get(name)?.value.as_deref()
}

fn of_broker(events: &Events, broker: &ConfigResource, report: &mut Report) {
    // A test's broker has no lists, and nobody to keep from them.
    let settings = SETTINGS
        .iter()
        .filter(|(name, _)| events.lists.is_some() || *name != AUTHORIZER);
    for (name, allowed) in settings {
        // One that this version of the broker does not have lets nothing out.
        if value(broker, name).is_some_and(|value| value != *allowed) {
            find(report, Check::Setting, format!("kafka: {name}"), None, 1);
        }
    }
}

fn of_topic(topic: &ConfigResource, report: &mut Report) {
    let OwnedResourceSpecifier::Topic(name) = &topic.specifier else {
        return;
    };
    if value(topic, TIERED) == Some("true") {
        let place = format!("kafka: topic {name}");
        find(report, Check::WayOut, place, Some(TIERED.to_owned()), 1);
    }
}

/// Rights that nobody planned. Those that are missing let nothing out.
async fn rights(events: &Events, report: &mut Report) -> Result<(), VerifyError> {
    let Some((tls, broker)) = &events.lists else {
        return Ok(());
    };
    let mut lists = Access::connect(tls, broker).await?;
    for acl in lists.list().await? {
        // What an entry forbids lets nobody do anything.
        if acl.allowed && !events.planned.acls.contains(&acl) {
            find(
                report,
                Check::OpenToOthers,
                "kafka".to_owned(),
                Some(acl.to_string()),
                1,
            );
        }
    }
    Ok(())
}
