//! Events leave in order and none is lost, whoever dies; a consumer has each effect once.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "tests fail by panicking")]

mod at_hand;
#[path = "../common/mod.rs"]
mod common;
mod consumer;

use std::collections::BTreeSet;

use common::{NOTES, append, fenced, key, note_event};
use meridian_kit::db::{Pool, TenantTx};
use meridian_kit::event::Event;
use meridian_kit::kafka::Topic;
use meridian_kit::outbox::{AtHand, Relay, append_all_keyed};
use meridian_kit::service::{self, Parts};
use meridian_kit::testing::{Region, until};
use meridian_kit::{Start, StartError, SubjectId};

async fn relay_only(start: Start) -> Result<(), StartError> {
    relay_telling(start, |_| {}).await
}

/// Its events at hand are the caller's to fill.
async fn relay_telling(start: Start, tell: impl FnOnce(AtHand)) -> Result<(), StartError> {
    start.database()?;
    let relay = Relay::new(&start)?;
    tell(relay.at_hand());
    service::serve(
        start,
        Parts::without_server()
            .topics(vec![Topic::events("notes.events"), Topic::events("notes.others")])
            .background("the relay", relay.run()),
    )
    .await
}

async fn waiting(pool: &Pool) -> i64 {
    sqlx::query_scalar("select count(*) from outbox")
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn empties(pool: &Pool) {
    until(|| async { (waiting(pool).await == 0).then_some(()) })
        .await
        .expect("the outbox empties");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_subject_arrive_in_the_order_of_their_commits() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let database = region.database("training", NOTES).await;
    region.run("training", relay_only).await;
    let scope = fenced(&database.pool()).await;
    let subjects = [SubjectId::random(), SubjectId::random(), SubjectId::random()];
    for sequence in 1..=40 {
        for subject in subjects {
            append(&database.pool(), &scope, &note_event(&key(subject), sequence)).await;
        }
    }
    let events = region.events("notes.events", 120).await;
    for subject in subjects {
        let order: Vec<u64> = events
            .iter()
            .filter(|event| event.data_subject == subject)
            .map(|event| event.sequence)
            .collect();
        assert_eq!(order, (1..=40).collect::<Vec<_>>());
    }
    empties(&database.superuser_pool()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_appended_at_once_arrive_in_their_order() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let database = region.database("training", NOTES).await;
    region.run("training", relay_only).await;
    let scope = fenced(&database.pool()).await;
    let subject = key(SubjectId::random());
    let events: Vec<Event> = (1..=150).map(|sequence| note_event(&subject, sequence)).collect();
    for batch in events.chunks(50) {
        let mut tx = TenantTx::begin(&database.pool(), &scope).await.unwrap();
        let batch: Vec<&Event> = batch.iter().collect();
        append_all_keyed(&mut tx, "notes.events", "one-key", &batch)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(region.events("notes.events", 150).await, events);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_has_its_own_topic_and_key_whatever_those_before_it_have() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let database = region.database("training", NOTES).await;
    let scope = fenced(&database.pool()).await;
    let subject = key(SubjectId::random());
    let (events, others) = ("notes.events", "notes.others");
    let places = [
        (events, "1"),
        (events, "1"),
        (others, "1"),
        (others, "2"),
        (events, "2"),
        (events, "1"),
        (others, "1"),
    ];
    // All of them lie there when the relay begins: it takes them together.
    for (sequence, (topic, key)) in (1..).zip(places) {
        let mut tx = TenantTx::begin(&database.pool(), &scope).await.unwrap();
        let event = note_event(&subject, sequence);
        meridian_kit::outbox::append_keyed(&mut tx, topic, key, &event)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
    region.run("training", relay_only).await;
    for topic in [events, others] {
        let placed = (1..).zip(places).filter(|(_, (placed, _))| *placed == topic);
        let expected: BTreeSet<(u64, String)> = placed.map(|(sequence, (_, key))| (sequence, key.to_owned())).collect();
        let records = region.keyed_records(topic, expected.len()).await;
        let read = records.into_iter().map(|(key, record)| {
            let event = Event::from_bytes(&record).unwrap();
            (event.sequence, String::from_utf8(key).unwrap())
        });
        assert_eq!(read.collect::<BTreeSet<_>>(), expected, "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_rolled_back_is_never_sent() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let database = region.database("training", NOTES).await;
    region.run("training", relay_only).await;
    let scope = fenced(&database.pool()).await;
    let subject = key(SubjectId::random());
    let mut tx = TenantTx::begin(&database.pool(), &scope).await.unwrap();
    meridian_kit::outbox::append(&mut tx, "notes.events", &note_event(&subject, 1))
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    append(&database.pool(), &scope, &note_event(&subject, 2)).await;
    assert_eq!(region.events("notes.events", 1).await[0].sequence, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_relay_dies_between_sending_and_deleting() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let database = region.database("training", NOTES).await;
    let (pool, root) = (database.pool(), database.superuser_pool());
    let scope = fenced(&pool).await;
    let subject = key(SubjectId::random());
    let events: Vec<Event> = (1..=20).map(|sequence| note_event(&subject, sequence)).collect();
    for event in &events {
        append(&pool, &scope, event).await;
    }
    // A lock on the rows lets the relay send them and makes it wait before it deletes them.
    let mut blocker = root.begin().await.unwrap();
    sqlx::query("select * from outbox for share")
        .execute(&mut *blocker)
        .await
        .unwrap();
    region.run("training", relay_only).await;
    assert_eq!(region.events("notes.events", 20).await.len(), 20);
    region.kill("training").await;
    // What the server makes of a client that is gone: its statement is cancelled, nothing was deleted.
    sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'meridian-relay'")
        .execute(&root)
        .await
        .unwrap();
    blocker.rollback().await.unwrap();
    assert_eq!(waiting(&root).await, 20);

    region.run("training", relay_only).await;
    let sent = region.events("notes.events", 40).await;
    for (index, event) in events.iter().enumerate() {
        assert_eq!(sent[index].id, event.id, "in order the first time");
        assert_eq!(sent[20 + index].id, event.id, "and the same event again");
    }
    empties(&root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_relay_is_active_and_another_takes_over_when_it_dies() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let database = region.database("training", NOTES).await;
    // The second runs as another process would: same database, an address of its own.
    region.run("training", relay_only).await;
    let url = meridian_kit::config::Secret::new(database.url());
    let second = region.start_with("telemetry-writer", |config| config.database_url = Some(url));
    region.run_start(second, relay_only).await;
    let readiness = |service: &'static str| {
        let start = region.running(service);
        async move {
            let findings = start.readiness().findings().await;
            findings
                .into_iter()
                .find(|finding| finding.name == "relay")
                .unwrap()
                .message
        }
    };
    let settled = until(|| async {
        let modes = (readiness("training").await, readiness("telemetry-writer").await);
        let one_active = [&modes.0, &modes.1]
            .iter()
            .filter(|mode| mode.as_str() == "active")
            .count()
            == 1;
        let one_standby = [&modes.0, &modes.1].iter().any(|mode| mode.starts_with("standing by"));
        (one_active && one_standby).then_some(modes)
    })
    .await
    .expect("one active, one standing by");
    let active = if settled.0 == "active" {
        "training"
    } else {
        "telemetry-writer"
    };
    let other = if settled.0 == "active" {
        "telemetry-writer"
    } else {
        "training"
    };
    region.kill(active).await;
    until(|| async { (readiness(other).await == "active").then_some(()) })
        .await
        .expect("the other takes over");
    let scope = fenced(&database.pool()).await;
    append(&database.pool(), &scope, &note_event(&key(SubjectId::random()), 1)).await;
    assert_eq!(region.events("notes.events", 1).await.len(), 1);
}
