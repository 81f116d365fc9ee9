//! The verifier at a region's broker, under its own certificate and with no more rights than it has: what each test plants, it
//! must find; and before, nothing.

use crate::broker::{Region, stack};
use meridian_kit::SubjectId;
use meridian_kit::event::{Draft, Event, EventSource, Imported};
use meridian_kit::kafka::{Access, Acl, Kafka, Operation, Resource, Topic};
use meridian_kit::subject_keys::{KeyScope, SubjectKey};
use meridian_operator::region::stack::plan::{access, kafka};
use meridian_policy::{DataClass, Epoch, RegionPolicy};
use meridian_verifier::{Check, Events, Finding, Planned, Report, VerifyError, verify_events};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use uuid::Uuid;
use zeroize::Zeroizing;

/// One broker for all tests here; each takes away what it planted.
static REGION: OnceCell<Mutex<Region>> = OnceCell::const_new();

const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: &str = "training.events";
const DEAD: &str = "social.dead-letter";
const IMPORTS: &str = "imports.events";
const EDGE: &str = "stride-us.workout-summary.eu";

/// The region, as long as no other test is at it.
async fn region() -> MutexGuard<'static, Region> {
    let made = REGION.get_or_init(|| async {
        let mut region = Region::new();
        region.start(&stack(false));
        region.ready().await;
        for (owner, topic) in [("training", EVENTS), ("social", DEAD), ("replicator", IMPORTS)] {
            let topics = [Topic::events(topic)];
            region.kafka(owner).ensure_topics(&topics).await.unwrap();
        }
        Mutex::new(region)
    });
    made.await.lock().await
}

fn events(region: &Region) -> Events {
    Events {
        kafka: region.kafka("verifier"),
        lists: Some((region.tls("tls-verifier"), region.address())),
        planned: Planned {
            topics: access::topics(),
            groups: access::groups(),
            acls: access::acls(),
        },
    }
}

/// One tenant has its home in eu, and one edge arrives there.
fn policy() -> RegionPolicy {
    let edge = json!({
        "id": EDGE, "tenant": "stride-us", "organization": "stride", "from": "us", "to": "eu",
        "exporter": "stride-inc", "importer": "stride-europe", "importer_tenant": "stride-eu",
        "class": "workout-summary", "purposes": ["cross-border-sharing"], "fields": ["sport_type"],
        "mechanism": "NotRestricted", "instrument": "none is needed",
        "effective_from": "2020-01-01T00:00:00Z", "expires": "2100-01-01T00:00:00Z", "ends_with": "mechanism-expired",
        "pseudonymise": true, "onward": false, "needs_consent": true, "framework": "Other", "rule": "NotRestricted", "epoch": 1
    });
    serde_json::from_value(json!({
        "region": "eu", "jurisdiction": "eu", "revision": 7, "public_url": "https://eu.example", "issuer": "https://eu.example",
        "countries_served": ["DE"], "homes": [{"tenant": "stride-eu", "organization": "stride", "epoch": 3}],
        "directory": [], "peers": [], "exports": [], "imports": [edge], "retention": {}
    }))
    .unwrap()
}

async fn look(region: &Region) -> Report {
    verify_events(&events(region), &policy(), jiff::Timestamp::now())
        .await
        .unwrap()
}

/// What is found, in the words of a test: check, place, of whom, how many.
async fn found(region: &Region) -> Vec<(Check, String, Option<String>, u64)> {
    let told = |finding: Finding| (finding.check, finding.place, finding.of, finding.count);
    look(region).await.findings.into_iter().map(told).collect()
}

/// A finding in a topic.
fn one(check: Check, topic: &str, of: &str, count: u64) -> (Check, String, Option<String>, u64) {
    (check, format!("kafka: topic {topic}"), Some(of.to_owned()), count)
}

fn event(region: &str, tenant: &str, epoch: u64) -> Event {
    let key = SubjectKey::from_bytes(
        tenant.parse().unwrap(),
        SubjectId(Uuid::nil()),
        KeyScope::Personal,
        Zeroizing::new([7; 32]),
    );
    let draft = Draft {
        kind: "sh.meridian.workout.completed.v1",
        stream: "w-1".to_owned(),
        sequence: 1,
        class: DataClass::WorkoutSummary,
        epoch: Epoch(epoch),
    };
    let source = EventSource::new(region.parse().unwrap(), "training");
    Event::sealed(&source, draft, &key, &json!({"distance_meters": 4217.5})).unwrap()
}

fn copy(edge: &str) -> Event {
    event("eu", "stride-eu", 3).imported(Imported {
        origin: "us".parse().unwrap(),
        edge: edge.parse().unwrap(),
        expires: "2100-01-01T00:00:00Z".parse().unwrap(),
    })
}

async fn put(region: &Region, owner: &'static str, topic: &str, records: &[Vec<u8>]) {
    let producer = region.kafka(owner).producer().unwrap();
    for record in records {
        producer.send(topic, "key", record).await.unwrap();
    }
}

fn admin(kafka: &Kafka) -> AdminClient<DefaultClientContext> {
    kafka.config().create().unwrap()
}

/// Deletes the records of topics.
async fn empty(region: &Region, topics: &[&str]) {
    let mut all = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..4 {
            all.add_partition_offset(topic, partition, Offset::End).unwrap();
        }
    }
    let admin = admin(&region.kafka("region-operator"));
    admin.delete_records(&all, &AdminOptions::new()).await.unwrap();
    until_clean(region).await;
}

/// What an administrator takes away is gone a moment later.
async fn until_clean(region: &Region) {
    let began = Instant::now();
    loop {
        let found = found(region).await;
        if found.is_empty() {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_where_services_have_written_what_belongs_there() {
    let region = region().await;
    let mine = [event("eu", "stride-eu", 3), event("eu", "stride-eu", 2)].map(|event| event.to_bytes());
    put(&region, "training", EVENTS, &mine).await;
    put(&region, "social", DEAD, &mine[..1]).await;
    put(&region, "replicator", IMPORTS, &[copy(EDGE).to_bytes()]).await;
    let report = look(&region).await;
    assert_eq!(report.findings, []);
    assert_eq!((report.looked.topics, report.looked.records), (3, 4));
    empty(&region, &[EVENTS, DEAD, IMPORTS]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_others_are_found_also_among_dead_letters() {
    let region = region().await;
    assert_eq!(found(&region).await, []);
    let foreign = event("eu", "stride-us", 1).to_bytes();
    put(&region, "training", EVENTS, &[foreign.clone(), foreign.clone()]).await;
    put(&region, "training", EVENTS, &[event("eu", "stride-eu", 4).to_bytes()]).await;
    // Of a tenant that is at home here, and written elsewhere.
    put(
        &region,
        "social",
        DEAD,
        &[foreign, event("us", "stride-eu", 3).to_bytes()],
    )
    .await;
    let expected = [
        one(Check::ForeignRows, DEAD, "stride-eu", 1),
        one(Check::ForeignRows, DEAD, "stride-us", 1),
        one(Check::ForeignRows, EVENTS, "stride-us", 2),
        one(Check::FutureEpoch, EVENTS, "stride-eu", 1),
    ];
    assert_eq!(found(&region).await, expected);
    let classes = look(&region).await.findings.swap_remove(0).classes;
    assert_eq!(classes, [DataClass::WorkoutSummary].into());
    empty(&region, &[EVENTS, DEAD]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_found_that_no_edge_in_force_brought() {
    let region = region().await;
    assert_eq!(found(&region).await, []);
    let copies = [copy(EDGE), copy("stride-us.health.eu")].map(|event| event.to_bytes());
    put(&region, "replicator", IMPORTS, &copies).await;
    let of = "stride-us.health.eu for stride-eu";
    assert_eq!(found(&region).await, [one(Check::CopiesWithoutEdge, IMPORTS, of, 1)]);
    empty(&region, &[IMPORTS]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_in_clear_is_found_and_not_repeated() {
    let region = region().await;
    assert_eq!(found(&region).await, []);
    let mut clear = serde_json::to_value(event("eu", "stride-eu", 3)).unwrap();
    // {"name":"Ada Lovelace","heart_rate":141}
    clear["data_base64"] = "eyJuYW1lIjoiQWRhIExvdmVsYWNlIiwiaGVhcnRfcmF0ZSI6MTQxfQ==".into();
    let records = [clear.to_string().into_bytes(), b"Ada Lovelace, 141 bpm".to_vec()];
    put(&region, "training", EVENTS, &records).await;
    let of = "what is no sealed event";
    assert_eq!(found(&region).await, [one(Check::Unsealed, EVENTS, of, 2)]);
    empty(&region, &[EVENTS]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_and_groups_that_nobody_planned_are_found() {
    let region = region().await;
    assert_eq!(found(&region).await, []);
    let operator = region.kafka("region-operator");
    operator
        .ensure_topics(&[Topic::events("analytics-export")])
        .await
        .unwrap();
    let records = [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
    put(&region, "region-operator", "analytics-export", &records).await;
    commit(operator.clone(), "partner", EVENTS).await;
    let expected = [
        (Check::UnknownTopic, "kafka: topic analytics-export".to_owned(), None, 3),
        (Check::UnknownGroup, "kafka: group partner".to_owned(), None, 1),
    ];
    assert_eq!(found(&region).await, expected);

    let admin = admin(&operator);
    admin
        .delete_topics(&["analytics-export"], &AdminOptions::new())
        .await
        .unwrap();
    admin.delete_groups(&["partner"], &AdminOptions::new()).await.unwrap();
    until_clean(&region).await;
}

/// As a group whose members have gone, and whose progress is kept.
async fn commit(kafka: Kafka, group: &'static str, topic: &'static str) {
    let committing = move || {
        let consumer: BaseConsumer = kafka.config().set("group.id", group).create().unwrap();
        let mut progress = TopicPartitionList::new();
        progress.add_partition_offset(topic, 0, Offset::Offset(0)).unwrap();
        consumer.commit(&progress, CommitMode::Sync).unwrap();
    };
    tokio::task::spawn_blocking(committing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_nobody_planned_is_found() {
    let region = region().await;
    assert_eq!(found(&region).await, []);
    let tls = region.tls("tls-region-operator");
    let mut lists = Access::connect(&tls, &region.address()).await.unwrap();
    let mut changed = access::acls();
    let added = Acl::allow("gateway", Operation::Read, Resource::Topic(EVENTS.to_owned()));
    lists.add([&added]).await.unwrap();
    changed.insert(added.clone());
    region.until_listed(&changed).await;
    let expected = (Check::OpenToOthers, "kafka".to_owned(), Some(added.to_string()), 1);
    assert_eq!(found(&region).await, [expected]);
    lists.remove([&added]).await.unwrap();
    region.until_listed(&access::acls()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_look_at_everything_says_so_instead_of_finding_nothing() {
    let region = region().await;
    let blind = Events {
        kafka: region.kafka("training"),
        lists: Some((region.tls("tls-training"), region.address())),
        ..events(&region)
    };
    let refused = verify_events(&blind, &policy(), jiff::Timestamp::now()).await;
    assert!(
        matches!(refused, Err(VerifyError::KafkaUnseen { .. } | VerifyError::Rights(_))),
        "{refused:?}"
    );
}

/// On a broker of its own: what it is set to holds for everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_makes_topics_by_accident_is_found() {
    let mut region = Region::new();
    let config = kafka::config(&stack(false));
    let properties = config["data"]["server.properties"].as_str().unwrap();
    region.start_with(&properties.replace("auto.create.topics.enable=false", "auto.create.topics.enable=true"));
    region.ready().await;
    let place = "kafka: auto.create.topics.enable".to_owned();
    assert_eq!(found(&region).await, [(Check::Setting, place, None, 1)]);
}
