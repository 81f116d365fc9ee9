//! What happens to records and clients when the region's CA is rotated, and when a region comes from a release whose
//! services spoke in clear.

use crate::broker::{Region, authority, stack};
use crate::load::{Seen, Writing, consumer};
use meridian_kit::kafka::{Kafka, Topic};
use meridian_kit::testing::until;
use meridian_operator::region::ingest::observe::Lens;
use meridian_operator::region::stack::plan::kafka;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "training.events";

/// What the last release's broker was given.
const BEFORE: &str = "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@localhost:9093\n\
    listeners=CLIENT://:9092,CONTROLLER://localhost:9093\nadvertised.listeners=CLIENT://kafka.meridian-eu.svc:9092\n\
    listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT\ninter.broker.listener.name=CLIENT\n\
    controller.listener.names=CONTROLLER\nlog.dirs=/var/lib/kafka/data\nauto.create.topics.enable=false\n\
    default.replication.factor=1\nmin.insync.replicas=1\noffsets.topic.replication.factor=1\n\
    offsets.topic.num.partitions=4\ntransaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
    transaction.state.log.num.partitions=4\nlog.flush.interval.messages=1\ngroup.initial.rebalance.delay.ms=0\n\
    log.cleaner.dedupe.buffer.size=4194304\n";

/// Sends a record, again and again while the broker is away.
async fn send(kafka: &Kafka, payload: &str) {
    let (producer, began) = (kafka.producer().unwrap(), Instant::now());
    while let Err(error) = producer.send(TOPIC, "key", payload.as_bytes()).await {
        assert!(began.elapsed() < PATIENCE, "{error}");
    }
}

async fn make_topic(kafka: &Kafka) {
    let began = Instant::now();
    while let Err(error) = kafka.ensure_topics(&[Topic::events(TOPIC)]).await {
        assert!(began.elapsed() < PATIENCE, "{error}");
    }
}

/// So many records of the topic, read by a service that may read it.
async fn records(kafka: Kafka, count: usize) -> Vec<String> {
    let reading = move || {
        let consumer: BaseConsumer = kafka
            .config()
            .set("group.id", "social")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        consumer.subscribe(&[TOPIC]).unwrap();
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

/// Services live through all of it with the clients that they began with, and look at their files again, as they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_rotation_of_the_ca_services_go_on_writing_and_reading_and_lose_nothing() {
    let mut region = Region::new();
    region.start(&stack(false));
    region.ready().await;
    let writers = region.tls("tls-training");
    let training = Kafka::mutual(&writers, &[region.address()], "", "training");
    make_topic(&training).await;
    let seen = Seen::default();
    let reading = consumer(&region, "social", TOPIC, &seen).await;
    let writing = Writing::begin(training.producer().unwrap(), TOPIC);
    let stale = Kafka::mutual(&region.tls("tls-training"), &[region.address()], "", "training");
    let reload = || {
        assert!(writers.reload().unwrap());
        assert!(reading.tls().reload().unwrap());
    };
    let goes_on = || async { seen.has(writing.acknowledged_more().await).await };
    goes_on().await;

    let next = authority();
    let both = format!("{}{}", next.certificate(), region.authority.certificate());
    region.authority = next;
    // Staged: everybody trusts both, and the old one has issued everything. Services trust the old one alone yet.
    region.trust(&both);
    region.start(&stack(false));
    goes_on().await;
    reload();
    goes_on().await;
    // Promoted: the new one issues. Services have certificates of the old one yet.
    region.issue(&both);
    region.start(&stack(false));
    goes_on().await;
    reload();
    goes_on().await;
    // Retired: the old one is trusted no more.
    region.trust(region.authority.certificate());
    region.start(&stack(false));
    goes_on().await;
    reload();

    seen.has(writing.end().await).await;
    reading.end().await;
    // Who did not look at its files again is not let in: the others are, by their new certificates.
    let late = stale.producer().unwrap();
    assert!(late.send(TOPIC, "key", b"late").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_of_a_release_in_clear_comes_to_certificates_and_loses_no_acknowledged_record() {
    let mut region = Region::new();
    region.start_with(BEFORE);
    let before = Kafka::plain(&region.in_clear(), "", "training");
    make_topic(&before).await;
    send(&before, "in clear").await;

    // Kafka is laid down first: services of both releases are there.
    region.start(&stack(true));
    region.ready().await;
    let now = region.kafka("training");
    send(&before, "in clear, beside").await;
    send(&now, "under a certificate").await;

    // The last pod of the release before is gone.
    region.start(&stack(false));
    send(&now, "under a certificate alone").await;
    let late = before.producer().unwrap();
    assert!(late.send(TOPIC, "key", b"in clear, late").await.is_err());

    assert_eq!(
        records(region.kafka("social"), 4).await,
        [
            "in clear",
            "in clear, beside",
            "under a certificate",
            "under a certificate alone"
        ]
    );
}

/// On a node that is short of processor time the controller misses what its own broker says, takes it for gone, and has it again
/// a moment later. Whoever asks meanwhile is told that there is no broker at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_were_told_that_there_is_no_broker_go_on_writing_and_reading_once_there_is() {
    let mut region = Region::new();
    region.start(&stack(false));
    region.ready().await;
    let training = region.kafka("training");
    make_topic(&training).await;
    let seen = Seen::default();
    let reading = consumer(&region, "social", TOPIC, &seen).await;
    let writing = Writing::begin(training.producer().unwrap(), TOPIC);
    seen.has(writing.acknowledged_more().await).await;
    let ends = Lens::new(region.kafka("region-operator"), "social");
    let looked = || async { ends.look(&[TOPIC.to_owned()]).await.ok() };
    until(looked).await.unwrap();

    // Taken for gone two thirds of the time: it says that it is there three times as seldom as it should.
    let config = kafka::config(&stack(false));
    let properties = config["data"]["server.properties"].as_str().unwrap();
    region.start_with(&format!(
        "{properties}\nbroker.session.timeout.ms=1000\nbroker.heartbeat.interval.ms=3000\n"
    ));
    let told = region.until_logged("because its session has timed out", 4);
    let asking = async {
        loop {
            looked().await;
        }
    };
    tokio::select! { () = told => {}, () = asking => {} }
    region.start(&stack(false));
    region.up().await;
    seen.has(writing.acknowledged_more().await).await;
    until(looked).await.unwrap();
    seen.has(writing.end().await).await;
    reading.end().await;
}
