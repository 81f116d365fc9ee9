//! Events leave in order and none is lost, whoever dies; a consumer has each effect once.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{NOTES, append, fenced, key, note_event};
use meridian_kit::db::{Scope, TenantTx};
use meridian_kit::event::{Event, Imported};
use meridian_kit::kafka::{Consumer, DeadCopy, Failure, Handled, Handler, Topic, dead_letter};
use meridian_kit::outbox::{AtHand, Relay, append_all_keyed};
use meridian_kit::service::{self, Parts};
use meridian_kit::subject_keys::SubjectKey;
use meridian_kit::testing::{Database, Region, until};
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

async fn waiting(pool: &meridian_kit::db::Pool) -> i64 {
    sqlx::query_scalar("select count(*) from outbox")
        .fetch_one(pool)
        .await
        .unwrap()
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
    until(|| async { (waiting(&database.superuser_pool()).await == 0).then_some(()) })
        .await
        .expect("the outbox empties");
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

/// A relay that is active: it has sent a first event.
async fn active(region: &Region, database: &Database, subject: &SubjectKey) -> (AtHand, Scope) {
    let (tell, told) = tokio::sync::oneshot::channel();
    let run = |start| relay_telling(start, |at_hand| tell.send(at_hand).unwrap());
    region.run("training", run).await;
    let scope = fenced(&database.pool()).await;
    append(&database.pool(), &scope, &note_event(subject, 1)).await;
    region.events("notes.events", 1).await;
    (told.await.unwrap(), scope)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_which_some_are_at_hand_arrive_in_their_order() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let database = region.database("training", NOTES).await;
    let subject = key(SubjectId::random());
    let (at_hand, scope) = active(&region, &database, &subject).await;
    let events: Vec<Event> = (2..=1201).map(|sequence| note_event(&subject, sequence)).collect();
    // In the order of one key, like the first.
    let one_key = subject.subject().to_string();
    for (batch, kept) in events.chunks(30).zip([true, true, false].into_iter().cycle()) {
        let mut tx = TenantTx::begin(&database.pool(), &scope).await.unwrap();
        let batch: Vec<&Event> = batch.iter().collect();
        let appended = append_all_keyed(&mut tx, "notes.events", &one_key, &batch)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        if kept {
            at_hand.keep(appended);
        }
    }
    assert_eq!(region.events("notes.events", 1201).await[1..], events);
}

/// What comes into the table is not what was appended, so that it shows which of both was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_at_hand_is_sent_for_its_row_alone_and_not_read() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let database = region.database("training", NOTES).await;
    let subject = key(SubjectId::random());
    let (at_hand, scope) = active(&region, &database, &subject).await;
    sqlx::raw_sql(
        "create function other() returns trigger language plpgsql as $$ begin new.event = 'read'; \
         if new.key = 'other' then new.event_id = gen_random_uuid(); end if; return new; end $$; \
         create trigger other before insert on outbox for each row execute function other()",
    )
    .execute(&database.superuser_pool())
    .await
    .unwrap();
    let (same, other) = (note_event(&subject, 2), note_event(&subject, 3));
    // Kept before the commit, which wakes the relay. It may have looked by itself just between both, but not each time.
    for (event, key, commits) in [(&same, "same", true), (&other, "other", true), (&other, "gone", false)]
        .into_iter()
        .cycle()
        .take(30)
    {
        let mut tx = TenantTx::begin(&database.pool(), &scope).await.unwrap();
        at_hand.keep(append_all_keyed(&mut tx, "notes.events", key, &[event]).await.unwrap());
        if commits {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
    }
    until(|| async { (waiting(&database.superuser_pool()).await == 0).then_some(()) })
        .await
        .expect("the outbox empties");
    let records = region.records("notes.events", 21).await;
    let sent = |bytes: &[u8]| records.iter().filter(|record| *record == bytes).count();
    let (kept, read) = (sent(&same.to_bytes()), sent(b"read"));
    assert_eq!(kept + read, 20);
    assert!((1..=10).contains(&kept), "{kept} of 10 at hand were sent from there");
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
    until(|| async { (waiting(&root).await == 0).then_some(()) })
        .await
        .expect("the outbox empties");
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

async fn bodies(pool: &meridian_kit::db::Pool) -> Vec<(i64, String)> {
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
