//! The topic of samples on a real broker, whose backlog pools are scaled by.
#![allow(dead_code, reason = "each test binary uses a part")]

use crate::bed::until;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::types::RDKafkaErrorCode;

pub const TOPIC: &str = "telemetry.samples";
const PARTITIONS: i32 = 6;

pub fn broker() -> String {
    std::env::var("MERIDIAN_TEST_KAFKA")
        .expect("MERIDIAN_TEST_KAFKA is not set: run `cargo xtask parts kafka apiserver`")
}

fn admin() -> AdminClient<DefaultClientContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker());
    config.create().expect("a client")
}

/// Makes the topic, unless it is there.
pub async fn make() {
    until("the topic is there", || async {
        let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
        let made = admin().create_topics([&topic], &AdminOptions::new()).await;
        let made = made.expect("an answer").remove(0);
        matches!(made, Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)))
    })
    .await;
}

/// Takes the topic away, with the work that nobody did.
pub async fn remove() {
    until("the topic is gone", || async {
        let gone = admin().delete_topics(&[TOPIC], &AdminOptions::new()).await;
        let gone = gone.expect("an answer").remove(0);
        matches!(gone, Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)))
    })
    .await;
}
