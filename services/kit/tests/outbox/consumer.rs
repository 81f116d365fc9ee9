//! A consumer has each effect once, and what cannot be handled is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meridian_kit::db::{Pool, TenantTx};
use meridian_kit::event::{Event, Imported};
use meridian_kit::kafka::{Consumer, DeadCopy, Failure, Handled, Handler, Topic, dead_letter};
use meridian_kit::service::{self, Parts};
use meridian_kit::testing::{Region, until};
use meridian_kit::{Start, StartError, SubjectId};

use super::common::{NOTES, key, note_event};

/// Writes a note for each event, and fails as it is told.
struct Notes {
    calls: Arc<AtomicUsize>,
    failure: Option<fn(usize) -> Option<Failure>>,
}

impl Handler for Notes {
    async fn handle(&self, event: &Event, tx: &mut TenantTx) -> Result<Handled, Failure> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        sqlx::query("insert into note (id, body) values ($1, $2) on conflict (tenant, id) do update set body = note.body || '+'")
            .bind(i64::try_from(event.sequence).unwrap())
            .bind(&event.subject)
            .execute(tx.conn())
            .await?;
        match self.failure.and_then(|failure| failure(call)) {
            Some(failure) => Err(failure),
            None => Ok(Handled::Done),
        }
    }
}

async fn consume(start: Start, notes: Notes) -> Result<(), StartError> {
    start.database()?;
    let consumer = Consumer::new(&start, &["notes.events"])?;
    let topics = vec![
        Topic::events("notes.events"),
        Topic::events(&dead_letter(start.service())),
    ];
    service::serve(
        start,
        Parts::without_server()
            .topics(topics)
            .background("the consumer", consumer.run(notes)),
    )
    .await
}

async fn bodies(pool: &Pool) -> Vec<(i64, String)> {
    sqlx::query_as("select id, body from note order by id")
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_delivered_twice_has_its_effect_once() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let root = region.database("social", NOTES).await.superuser_pool();
    let subject = key(SubjectId::random());
    let producer = region.kafka("training").producer().unwrap();
    region
        .kafka("training")
        .ensure_topics(&[Topic::events("notes.events")])
        .await
        .unwrap();
    let events = [note_event(&subject, 1), note_event(&subject, 2)];
    for event in [&events[0], &events[0], &events[1], &events[0]] {
        producer
            .send("notes.events", &event.data_subject.to_string(), &event.to_bytes())
            .await
            .unwrap();
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let notes = Notes {
        calls: Arc::clone(&calls),
        failure: None,
    };
    region.run("social", |start| consume(start, notes)).await;
    let all = until(|| async {
        let bodies = bodies(&root).await;
        (bodies.len() == 2).then_some(bodies)
    });
    let all = all.await.expect("both events are handled");
    assert!(all.iter().all(|(_, body)| !body.ends_with('+')), "{all:?}");

    // A new process of the group whose offsets were lost reads everything again, and does nothing again.
    region.stop("social").await;
    let before = calls.load(Ordering::SeqCst);
    producer
        .send(
            "notes.events",
            &events[0].data_subject.to_string(),
            &note_event(&subject, 3).to_bytes(),
        )
        .await
        .unwrap();
    let again = Notes {
        calls: Arc::clone(&calls),
        failure: None,
    };
    region.run("social", |start| consume(start, again)).await;
    until(|| async { (bodies(&root).await.len() == 3).then_some(()) })
        .await
        .expect("the third is handled");
    assert_eq!(calls.load(Ordering::SeqCst), before + 1);
    let metrics = region.running("social").metrics().clone();
    let lag = r#"meridian_consumer_lag{group="social",topic="notes.events",partition="#;
    until(|| async {
        metrics
            .encode()
            .lines()
            .any(|line| line.starts_with(lag) && line.ends_with(" 0"))
            .then_some(())
    })
    .await
    .expect("what is handled is no lag");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_attempt_leaves_nothing_behind_and_is_repeated() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let root = region.database("social", NOTES).await.superuser_pool();
    let event = note_event(&key(SubjectId::random()), 1);
    region
        .kafka("training")
        .ensure_topics(&[Topic::events("notes.events")])
        .await
        .unwrap();
    let producer = region.kafka("training").producer().unwrap();
    producer.send("notes.events", "k", &event.to_bytes()).await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let twice: fn(usize) -> Option<Failure> =
        |call| (call < 2).then(|| Failure::Unavailable("the keyring is away".to_owned()));
    let notes = Notes {
        calls: Arc::clone(&calls),
        failure: Some(twice),
    };
    region.run("social", |start| consume(start, notes)).await;
    let all = until(|| async { Some(bodies(&root).await).filter(|all| !all.is_empty()) })
        .await
        .expect("it is handled");
    assert_eq!(
        (all.len(), all[0].1.ends_with('+'), calls.load(Ordering::SeqCst)),
        (1, false, 3)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_event_goes_to_the_dead_letters_as_it_came_and_blocks_nobody() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let root = region.database("social", NOTES).await.superuser_pool();
    let subject = key(SubjectId::random());
    region
        .kafka("training")
        .ensure_topics(&[Topic::events("notes.events")])
        .await
        .unwrap();
    let producer = region.kafka("training").producer().unwrap();
    let poison = note_event(&subject, 1).to_bytes();
    producer.send("notes.events", "k", b"not an event").await.unwrap();
    producer.send("notes.events", "k", &poison).await.unwrap();
    producer
        .send("notes.events", "k", &note_event(&subject, 2).to_bytes())
        .await
        .unwrap();
    let first: fn(usize) -> Option<Failure> = |call| (call == 0).then(|| Failure::Dead("it can never work".to_owned()));
    let notes = Notes {
        calls: Arc::default(),
        failure: Some(first),
    };
    region.run("social", |start| consume(start, notes)).await;
    let all = until(|| async { Some(bodies(&root).await).filter(|all| !all.is_empty()) })
        .await
        .expect("the next is handled");
    assert_eq!(all[0].0, 2);
    let dead = region.records("social.dead-letter", 2).await;
    assert_eq!(dead, vec![b"not an event".to_vec(), poison]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_copy_that_cannot_be_handled_the_dead_letters_say_where_it_lies_and_nothing_more() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let root = region.database("social", NOTES).await.superuser_pool();
    let subject = key(SubjectId::random());
    let training = region.kafka("training");
    training.ensure_topics(&[Topic::events("notes.events")]).await.unwrap();
    let producer = training.producer().unwrap();
    let copy = note_event(&subject, 1).imported(Imported {
        origin: "us".parse().unwrap(),
        edge: "stride-us.workout-summary.eu".parse().unwrap(),
        expires: "2100-01-01T00:00:00Z".parse().unwrap(),
    });
    for event in [&copy, &note_event(&subject, 2)] {
        producer.send("notes.events", "k", &event.to_bytes()).await.unwrap();
    }
    let first: fn(usize) -> Option<Failure> = |call| (call == 0).then(|| Failure::Dead("it can never work".to_owned()));
    let notes = Notes {
        calls: Arc::default(),
        failure: Some(first),
    };
    region.run("social", |start| consume(start, notes)).await;
    until(|| async { (!bodies(&root).await.is_empty()).then_some(()) })
        .await
        .expect("the next is handled");
    let dead = region.records("social.dead-letter", 1).await.remove(0);
    let told = DeadCopy::from_bytes(&dead).expect("where the copy lies");
    let (topic, _, offset) = told.lies_at();
    assert_eq!((topic, offset), ("notes.events", 0));
    assert_eq!(told.edge(), &copy.edge.clone().unwrap());
    let text = String::from_utf8(dead).unwrap();
    assert!(text.contains(&copy.id.to_string()), "{text}");
    assert!(!text.contains(&copy.data_subject.to_string()), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_waits_while_its_tenant_has_no_home_here_and_is_kept() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let root = region.database("social", NOTES).await.superuser_pool();
    region
        .kafka("training")
        .ensure_topics(&[Topic::events("notes.events")])
        .await
        .unwrap();
    let notes = Notes {
        calls: Arc::default(),
        failure: None,
    };
    region.run("social", |start| consume(start, notes)).await;
    region.change_policy(|policy| policy.homes.clear());
    let start = region.running("social");
    until(|| async { start.homes().scopes().is_empty().then_some(()) })
        .await
        .expect("the policy arrives");
    let producer = region.kafka("training").producer().unwrap();
    producer
        .send(
            "notes.events",
            "k",
            &note_event(&key(SubjectId::random()), 1).to_bytes(),
        )
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_millis(500), async {
        until(|| async { (!bodies(&root).await.is_empty()).then_some(()) }).await
    })
    .await
    .expect_err("nothing is written for a tenant that is not at home");
    let homes = Region::new("eu", &["stride-eu"]).await.policy().homes;
    region.change_policy(|policy| policy.homes = homes);
    until(|| async { (!bodies(&root).await.is_empty()).then_some(()) })
        .await
        .expect("it is handled once the tenant is back");
}
