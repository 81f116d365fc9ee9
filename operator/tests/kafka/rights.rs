//! Who is let in, and who may do what.

use crate::broker::{Region, authority, stack};
use meridian_kit::kafka::{Access, AccessError, Acl, Current, Kafka, KafkaError, Operation, Resource, Topic};
use meridian_operator::region::ingest::observe::Lens;
use meridian_operator::region::kafka::correct;
use meridian_operator::region::stack::plan::access;
use meridian_operator::region::stack::secrets::Wanted;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError as Raw, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a question is asked that may have no answer.
const ASKED_FOR: Duration = Duration::from_secs(10);

/// One broker for all tests here: none of them changes it for another.
static REGION: OnceCell<Region> = OnceCell::const_new();

async fn region() -> &'static Region {
    REGION
        .get_or_init(|| async {
            let mut region = Region::new();
            region.start(&stack(false));
            region.ready().await;
            region
        })
        .await
}

/// A consumer that begins at the beginning.
fn consumer(kafka: &Kafka, group: &str, topic: &str) -> BaseConsumer {
    let consumer: BaseConsumer = kafka
        .config()
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("topic.metadata.refresh.interval.ms", "500")
        .create()
        .unwrap();
    consumer.subscribe(&[topic]).unwrap();
    consumer
}

/// The first record, or the refusal, that a consumer is given.
async fn first(consumer: BaseConsumer) -> Result<Vec<u8>, RDKafkaErrorCode> {
    let polling = move || {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let refused = |error: &Raw| {
                use RDKafkaErrorCode::{GroupAuthorizationFailed, TopicAuthorizationFailed};
                let code = error.rdkafka_error_code()?;
                matches!(code, GroupAuthorizationFailed | TopicAuthorizationFailed).then_some(code)
            };
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(record)) => return Ok(record.payload().unwrap_or_default().to_vec()),
                // Any other error: not there yet, or a coordinator that is still being chosen.
                Some(Err(error)) if refused(&error).is_some() => return Err(refused(&error).unwrap()),
                Some(Err(_)) | None => {}
            }
        }
        panic!("neither a record nor a refusal in {PATIENCE:?}")
    };
    tokio::task::spawn_blocking(polling).await.unwrap()
}

async fn told(kafka: &Kafka, topic: &str, payload: &[u8]) {
    kafka.ensure_topics(&[Topic::events(topic)]).await.unwrap();
    kafka.producer().unwrap().send(topic, "key", payload).await.unwrap();
}

/// Every component makes, writes and reads what is its own, and nothing else of the table is in its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_makes_and_writes_its_topics_and_reads_those_that_it_may() {
    let region = region().await;
    told(&region.kafka("training"), "training.events", b"a workout").await;
    let read = first(consumer(&region.kafka("social"), "social", "training.events")).await;
    assert_eq!(read.as_deref(), Ok(&b"a workout"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_refused_to_write_anothers_topic() {
    let region = region().await;
    told(&region.kafka("consent"), "consent.state", b"consent").await;
    // The right to write something of its own is not one to write this.
    let refused = region
        .kafka("promotions")
        .producer()
        .unwrap()
        .send("consent.state", "key", b"forged")
        .await;
    let Err(KafkaError::Produce {
        error: Raw::MessageProduction(code),
        ..
    }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(code, RDKafkaErrorCode::TopicAuthorizationFailed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_refused_to_read_anothers_topic() {
    let region = region().await;
    told(&region.kafka("identity"), "identity.events", b"an athlete").await;
    let read = first(consumer(&region.kafka("promotions"), "promotions", "identity.events")).await;
    assert_eq!(read, Err(RDKafkaErrorCode::TopicAuthorizationFailed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_refused_to_read_as_anothers_group() {
    let region = region().await;
    told(&region.kafka("social"), "social.events", b"a share").await;
    // It may read the topic: only the group is another's.
    let read = first(consumer(&region.kafka("replicator"), "social", "social.events")).await;
    assert_eq!(read, Err(RDKafkaErrorCode::GroupAuthorizationFailed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_refused_to_make_a_topic_that_is_not_its_own() {
    let region = region().await;
    let refused = region
        .kafka("training")
        .ensure_topics(&[Topic::events("scratch")])
        .await;
    assert!(
        matches!(&refused, Err(KafkaError::Topic { problem, .. }) if problem.contains("Authorization")),
        "{refused:?}"
    );
}

/// Whether librdkafka learns anything of the cluster.
async fn is_answered(kafka: Kafka) -> bool {
    let asking = move || {
        let client: BaseConsumer = kafka.config().create().unwrap();
        client.fetch_metadata(None, Duration::from_secs(5)).is_ok()
    };
    tokio::task::spawn_blocking(asking).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_let_in_without_a_certificate() {
    let region = region().await;
    assert!(is_answered(region.kafka("training")).await);
    assert!(!is_answered(Kafka::plain(&region.address().to_string(), "", "training")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_let_in_by_another_authority_or_under_a_name_that_no_component_has() {
    let region = region().await;
    let bundle = region.authority.certificate();
    let named = |secret: &str| Wanted {
        secret: secret.to_owned(),
        dns: vec!["training".to_owned()],
        uri: Some("meridian://eu/training".to_owned()),
    };
    region.issue_one(&authority(), &named("tls-training"), bundle, "of-another-authority");
    region.issue_one(&region.authority, &named("somebody"), bundle, "of-no-component");
    for folder in ["of-another-authority", "of-no-component"] {
        let kafka = Kafka::mutual(&region.tls(folder), &[region.address()], "", "training");
        assert!(!is_answered(kafka).await, "{folder}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_not_believed_where_its_certificate_names_another_host() {
    let region = region().await;
    let kafka = Kafka::mutual(&region.tls("tls-training"), &[region.unnamed_address()], "", "training");
    assert!(!is_answered(kafka).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_may_neither_see_nor_change_who_may_do_what() {
    const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
    let region = region().await;
    let mut lists = Access::connect(&region.tls("tls-training"), &region.address())
        .await
        .unwrap();
    let wish = Acl::allow("training", Operation::Read, Resource::Topic("social.events".to_owned()));
    let code = |refused: Result<(), AccessError>| match refused {
        Err(AccessError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(lists.list().await.map(drop)), CLUSTER_AUTHORIZATION_FAILED);
    assert_eq!(code(lists.add([&wish]).await), CLUSTER_AUTHORIZATION_FAILED);
    assert_eq!(code(lists.remove(&access::acls()).await), CLUSTER_AUTHORIZATION_FAILED);
    let mut operators = Access::connect(&region.tls("tls-region-operator"), &region.address())
        .await
        .unwrap();
    assert!(!operators.list().await.unwrap().contains(&wish));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_reads_how_far_the_writers_are() {
    let region = region().await;
    told(&region.kafka("telemetry"), "telemetry.samples", b"samples").await;
    let lens = Lens::new(region.kafka("region-operator"), "telemetry-writer");
    let offsets = lens.look(&["telemetry.samples".to_owned()]).await.unwrap();
    assert_eq!((offsets.partitions, offsets.ends, offsets.committed), (4, 1, 0));
}

/// Every record of a topic, in order, once there are so many in its one used partition.
async fn records(kafka: Kafka, topic: &'static str, count: usize) -> Vec<String> {
    let reading = move || {
        let consumer: BaseConsumer = kafka
            .config()
            .set("group.id", kafka.topic_name("social"))
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let mut from = rdkafka::TopicPartitionList::new();
        for partition in 0..4 {
            from.add_partition_offset(topic, partition, rdkafka::Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&from).unwrap();
        let (mut all, began) = (Vec::new(), Instant::now());
        while all.len() < count {
            assert!(began.elapsed() < PATIENCE, "only {all:?}");
            if let Some(Ok(record)) = consumer.poll(Duration::from_millis(200)) {
                all.push(String::from_utf8(record.payload().unwrap_or_default().to_vec()).unwrap());
            }
        }
        all
    };
    tokio::task::spawn_blocking(reading).await.unwrap()
}

/// A folder of a service's own, with a certificate as the region's CA gives it to this component.
fn renew(region: &Region, folder: &str, component: &str) {
    let wanted = Wanted {
        secret: format!("tls-{component}"),
        dns: vec![component.to_owned()],
        uri: Some(format!("meridian://eu/{component}")),
    };
    region.issue_one(&region.authority, &wanted, region.authority.certificate(), folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_renewed_while_records_are_under_way_loses_none_and_changes_no_order() {
    const TOPIC: &str = "imports.events";
    let region = region().await;
    renew(region, "renewed", "replicator");
    let tls = region.tls("renewed");
    let replicator = Kafka::mutual(&tls, &[region.address()], "", "replicator");
    replicator.ensure_topics(&[Topic::events(TOPIC)]).await.unwrap();
    let producer = replicator.producer().unwrap();
    let (mut expected, mut under_way) = (Vec::new(), Vec::new());
    for number in 0..600 {
        if number % 150 == 75 {
            renew(region, "renewed", "replicator");
            assert!(tls.reload().unwrap());
        }
        expected.push(number.to_string());
        let payload = number.to_string();
        under_way.push(producer.enqueue(TOPIC, "key", payload.as_bytes()).await.unwrap());
    }
    for delivery in under_way {
        delivery.await.unwrap();
    }
    assert_eq!(records(region.kafka("social"), TOPIC, 600).await, expected);
}

/// That the certificate is another can be seen from outside by whom the broker takes the service for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_and_a_kept_client_come_under_the_certificate_of_now() {
    let region = region().await;
    told(&region.kafka("social"), "social.events", b"a share").await;
    told(&region.kafka("identity"), "identity.events", b"an athlete").await;
    renew(region, "another", "social");
    let tls = region.tls("another");
    let kafka = Kafka::mutual(&tls, &[region.address()], "", "social");
    let producer = kafka.producer().unwrap();
    let kept = Current::new(kafka, |kafka| {
        kafka.config().create::<BaseConsumer>().map_err(KafkaError::Setup)
    });
    let sees = |topic: &'static str| {
        let kept = kept.clone();
        let ends = move |client: &BaseConsumer| client.fetch_watermarks(topic, 0, ASKED_FOR);
        let asking = move || kept.ask(ends).is_ok();
        async move { tokio::task::spawn_blocking(asking).await.unwrap() }
    };
    producer.send("social.events", "key", b"a share").await.unwrap();
    assert!(sees("social.events").await && sees("identity.events").await);

    renew(region, "another", "identity");
    assert!(tls.reload().unwrap());
    assert!(producer.send("social.events", "key", b"a share").await.is_err());
    producer.send("identity.events", "key", b"an athlete").await.unwrap();
    assert!(!sees("social.events").await && sees("identity.events").await);
}

/// As tests of a whole region and people at its broker use them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafkas_own_tools_beside_the_broker_may_do_everything() {
    let region = region().await;
    let topics = "org.apache.kafka.tools.TopicCommand";
    let create = ["--create", "--topic", "by-hand", "--partitions", "1"];
    region.tool(topics, "--command-config", &create, "");
    let producer = "org.apache.kafka.tools.ConsoleProducer";
    region.tool(producer, "--producer.config", &["--topic", "by-hand"], "one\ntwo\n");
    let offsets = "org.apache.kafka.tools.GetOffsetShell";
    let told = region.tool(offsets, "--command-config", &["--topic", "by-hand"], "");
    assert_eq!(told.trim(), "by-hand:0:2");
}

/// On a broker of its own: while the lists are wrong, tests beside it would see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_changed_by_hand_is_put_right() {
    let mut region = Region::new();
    region.start(&stack(false));
    region.ready().await;
    let (tls, address) = (region.tls("tls-region-operator"), region.address());
    let mut lists = Access::connect(&tls, &address).await.unwrap();
    let everything = Resource::Other {
        kind: 2,
        pattern: 4,
        name: "social".to_owned(),
    };
    let added = [
        Acl::allow("training", Operation::Read, Resource::Topic("social.events".to_owned())),
        Acl::allow("training", Operation::Other(2), everything),
        Acl {
            allowed: false,
            host: "10.0.0.1".to_owned(),
            ..Acl::allow("social", Operation::Read, Resource::Topic("imports.events".to_owned()))
        },
    ];
    lists.add(&added).await.unwrap();
    let missing = Acl::allow("social", Operation::Read, Resource::Group("social".to_owned()));
    lists.remove([&missing]).await.unwrap();
    let mut changed = access::acls();
    changed.remove(&missing);
    changed.extend(added.iter().cloned());
    region.until_listed(&changed).await;

    let corrected = correct(&tls, &address).await.unwrap();
    assert_eq!(corrected.removed, added.into());
    assert_eq!(corrected.added, [missing].into());
    region.until_listed(&access::acls()).await;
}

/// As a service that is quicker than the operator: its rights come a moment after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_was_refused_goes_on_as_soon_as_it_has_its_rights() {
    let mut region = Region::new();
    region.start(&stack(false));
    region.up().await;
    let telemetry = region.kafka("telemetry");
    let producer = telemetry.producer().unwrap().renewed();
    // The broker has no list yet.
    assert!(producer.send("telemetry.samples", "key", b"refused").await.is_err());
    region.ready().await;
    telemetry
        .ensure_topics(&[Topic::events("telemetry.samples")])
        .await
        .unwrap();
    let began = Instant::now();
    while let Err(error) = producer.send("telemetry.samples", "key", b"samples").await {
        assert!(began.elapsed() < PATIENCE, "{error}");
    }
}
