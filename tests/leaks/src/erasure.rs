//! What is erased, and everything from which it could come back: backups, lagging readers, dead letters, keys' own files,
//! kept answers, the evidence.

use std::path::{Path, PathBuf};

use axum::Router;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use meridian_evidence::commitment::{Salt, concerns};
use meridian_evidence::{Entry, Kind};
use meridian_kit::auth::Audience;
use meridian_kit::client::ClientError;
use meridian_kit::db::{TenantTx, raise_fence};
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::evidence::commit_to;
use meridian_kit::idempotency::{self, IdempotencyKey, Outcome};
use meridian_kit::kafka::{Consumer, Failure, Handled, Handler, Topic, dead_letter};
use meridian_kit::policy_feed::{Ack, AckRole};
use meridian_kit::service::{self, Parts};
use meridian_kit::subject_keys::{Create, Error, KeyScope, Keyring, SubjectKey};
use meridian_kit::testing::{Athlete, Region, until};
use meridian_policy::{DataClass, Epoch};
use serde_json::json;
use uuid::Uuid;

use crate::database::{Notes, OURS, canary, contains, key_of};
use crate::shared::{World, edge, several_rounds};
use crate::table::{Leak, leak};

const SEALED: &str = "encryption at rest";
const PLACE: &str = "leaks";

async fn region() -> Region {
    let region = Region::new("eu", &[OURS]).await;
    region.run("keyring", meridian_keyring::run).await;
    region
}

/// A client that remembers no key from before.
fn keyring(region: &Region) -> Keyring {
    region.keyring("training")
}

async fn key(region: &Region, athlete: &Athlete) -> SubjectKey {
    let keyring = keyring(region);
    let key = keyring.key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes);
    key.await.expect("a key")
}

async fn erase(region: &Region, athlete: &Athlete) {
    let destroyed = region
        .keyring("identity")
        .destroy(&athlete.tenant, &athlete.subject, None)
        .await;
    destroyed.expect("the keys are destroyed");
}

/// What can be read of bytes in the region as it is now: opened under the subject's key, or as they lie there.
async fn readable(region: &Region, athlete: &Athlete, bytes: &[u8], word: &str) -> bool {
    let key = keyring(region)
        .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::No)
        .await;
    let opened = key.ok().and_then(|key| key.open(PLACE, bytes).ok());
    contains(bytes, word) || opened.is_some_and(|plain| contains(&plain, word))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_restore_resurrects() {
    leak("restore resurrects", &[SEALED], async |on| {
        let (region, notes, word) = (region().await, Notes::new().await, canary());
        let athlete = region.athlete(OURS);
        let sealed = key(&region, &athlete)
            .await
            .seal(PLACE, word.as_bytes())
            .expect("sealed");
        let body = if on.has(SEALED) {
            sealed.into_bytes()
        } else {
            word.clone().into_bytes()
        };
        notes.write(OURS, &body).await;
        notes.by_hand("create table backup as select * from note").await;

        notes.by_hand("delete from note").await;
        erase(&region, &athlete).await;
        notes.by_hand("insert into note select * from backup").await;
        let restored = notes.seen_by(OURS).await;
        assert_eq!(restored.len(), 1, "the row itself is back");
        Leak::by(readable(&region, &athlete, &restored[0], &word).await)
    })
    .await;
}

fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(dir).expect("the keyring's folder").flatten() {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("a copy");
    }
    copy
}

/// Whether a keyring on these files, with this key-encryption key, gives out the athlete's key.
async fn gives_out(region: &Region, athlete: &Athlete, data: PathBuf, kek: PathBuf) -> bool {
    region.stop("keyring").await;
    let start = region.start_with("keyring", |config| {
        config.data_dir = Some(data);
        config.kek_file = Some(kek);
    });
    let mut running = tokio::spawn(meridian_keyring::run(start.clone()));
    let answered = until(|| async {
        let asked = keyring(region)
            .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::No)
            .await;
        match asked {
            Ok(_) => Some(true),
            // It does not listen yet. Once it does, no key is no key.
            Err(Error::Keyring(ClientError::Unreachable { .. })) => None,
            Err(_) => Some(false),
        }
    });
    tokio::select! {
        // It refuses to start.
        _ = &mut running => false,
        answered = answered => {
            start.stop().cancel();
            let _ = running.await;
            answered.expect("it starts, or ends")
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_incomplete_crypto_shred() {
    const OVERWRITTEN: &str = "destroyed keys are overwritten";
    const KEK_APART: &str = "the key-encryption key is kept apart";
    leak("incomplete crypto-shred", &[OVERWRITTEN, KEK_APART], async |on| {
        let region = region().await;
        let athlete = region.athlete(OURS);
        key(&region, &athlete).await;
        let config = region.running("keyring").config().clone();
        let (data, kek) = (config.data_dir.expect("a folder"), config.kek_file.expect("a file"));
        region.stop("keyring").await;
        let before = copy_of(&data);
        region.run("keyring", meridian_keyring::run).await;
        erase(&region, &athlete).await;
        region.stop("keyring").await;
        let after = copy_of(&data);

        let other = tempfile::tempdir().expect("a folder");
        let wrong = other.path().join("kek");
        std::fs::write(&wrong, [9; 32]).expect("a file");
        let files = if on.has(OVERWRITTEN) { &after } else { &before };
        let kek = if on.has(KEK_APART) { wrong } else { kek };
        Leak::by(gives_out(&region, &athlete, files.path().to_owned(), kek).await)
    })
    .await;
}

/// An event about an athlete, sealed or not.
fn event(key: &SubjectKey, word: &str) -> Event {
    let draft = Draft {
        kind: "sh.meridian.workout.shared.v1",
        stream: Uuid::now_v7().to_string(),
        sequence: 1,
        class: DataClass::WorkoutSummary,
        epoch: Epoch(1),
    };
    let source = EventSource::new("eu".parse().expect("a region"), "social");
    Event::sealed(&source, draft, key, &json!({"sport_type": word})).expect("an event")
}

async fn send(region: &Region, topic: &str, key: &str, payload: &[u8]) {
    let kafka = region.kafka("social");
    kafka.ensure_topics(&[Topic::events(topic)]).await.expect("the topic");
    let producer = kafka.producer().expect("a producer");
    producer.send(topic, key, payload).await.expect("a send");
}

/// Whether a purge is said to be done while a service that has copies is away.
async fn done_before_the_last_sink() -> bool {
    let world = World::new().await;
    world.eu.consent.grant();
    world
        .eu
        .share(&world.eu.athlete(), &json!({"sport_type": "cycling"}))
        .await;
    world.us.sink.arrived(1).await;
    world.us.region.stop("social").await;
    world.close(&edge(3600));
    world.us.recorded("policy-change", "cut:no-edge").await;
    several_rounds(&world.us).await;
    let done = |ack: &Ack| ack.role == AckRole::Importer;
    world.us.region.acks().iter().any(done) || world.us.count("import_edge where state = 'cut'").await > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_erase_during_lag() {
    const EVERY_SINK: &str = "a purge waits for every sink";
    leak("erase during lag", &[SEALED, EVERY_SINK], async |on| {
        if on.has(EVERY_SINK) {
            return Leak::by(done_before_the_last_sink().await);
        }
        let (region, word) = (region().await, canary());
        let athlete = region.athlete(OURS);
        let event = event(&key(&region, &athlete).await, &word);
        let payload = if on.has(SEALED) {
            event.to_bytes()
        } else {
            word.clone().into_bytes()
        };
        send(&region, "social.events", "k", &payload).await;
        erase(&region, &athlete).await;

        // A reader that was behind comes to the record now.
        let record = region.records("social.events", 1).await.remove(0);
        let opened = match Event::from_bytes(&record) {
            Ok(event) => event.open::<serde_json::Value>(&keyring(&region)).await.ok(),
            Err(_) => None,
        };
        Leak::by(contains(&record, &word) || opened.is_some_and(|fields| fields["sport_type"] == word.as_str()))
    })
    .await;
}

/// Handles nothing: every event is poison to it.
struct Poisoned;

impl Handler for Poisoned {
    async fn handle(&self, _: &Event, _: &mut TenantTx) -> Result<Handled, Failure> {
        Err(Failure::Dead("it cannot be handled".to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_dlq_retry() {
    leak("DLQ, retry", &[SEALED], async |on| {
        let (region, word) = (region().await, canary());
        region.database("training", meridian_training::MIGRATIONS).await;
        let topics = vec![Topic::events(&dead_letter("training"))];
        let consumes = move |start: meridian_kit::Start| async move {
            start.database()?;
            let consumer = Consumer::new(&start, &["social.events"])?;
            let parts = Parts::new(Router::new())
                .topics(topics)
                .background("poison", consumer.run(Poisoned));
            service::serve(start, parts).await
        };
        region.run("training", consumes).await;
        let athlete = region.athlete(OURS);
        let event = event(&key(&region, &athlete).await, &word);
        let payload = if on.has(SEALED) {
            event.to_bytes()
        } else {
            json!({"sport_type": word}).to_string().into_bytes()
        };
        send(&region, "social.events", "k", &payload).await;
        let dead = region.records(&dead_letter("training"), 1).await.remove(0);
        if let Ok(dead) = Event::from_bytes(&dead) {
            assert_eq!(
                (dead.class, dead.region),
                (event.class, event.region),
                "it keeps its class and its region"
            );
        }
        Leak::by(contains(&dead, &word))
    })
    .await;
}

/// What a second athlete is answered who repeats the first one's request with the first one's key.
async fn repeated(notes: &Notes, subjects: [&str; 2], keys: [&SubjectKey; 2], word: &str) -> Option<Vec<u8>> {
    let wish = IdempotencyKey::new("ride-1").expect("a key");
    let mut tx = notes.begin(OURS).await;
    let first = idempotency::begin(&mut tx, subjects[0], &wish, b"the same", keys[0]).await;
    let Ok(Outcome::Fresh(slot)) = first else {
        panic!("it is the first")
    };
    let answer = json!({"name": word});
    slot.finish(&mut tx, http::StatusCode::CREATED, &answer)
        .await
        .expect("an answer");
    tx.commit().await.expect("a commit");

    let mut tx = notes.begin(OURS).await;
    match idempotency::begin(&mut tx, subjects[1], &wish, b"the same", keys[1]).await {
        Ok(Outcome::Repeated(response)) => Some(
            response
                .into_body()
                .collect()
                .await
                .expect("a body")
                .to_bytes()
                .to_vec(),
        ),
        Ok(Outcome::Fresh(_)) | Err(_) => None,
    }
}

#[tokio::test]
async fn leak_caches_and_idempotency_replies() {
    const VIEWER: &str = "the viewer is part of the key";
    const SEALED_FOR: &str = "replies are sealed for their viewer";
    leak("caches and idempotency replies", &[VIEWER, SEALED_FOR], async |on| {
        let (notes, word) = (Notes::new().await, canary());
        let [one, other] = [Uuid::from_u128(1), Uuid::from_u128(2)].map(meridian_kit::SubjectId);
        let (own, names) = (key_of(OURS, one), [one.to_string(), other.to_string()]);
        let others = if on.has(SEALED_FOR) {
            key_of("another", other)
        } else {
            own.clone()
        };
        let second = if on.has(VIEWER) { &names[1] } else { &names[0] };
        let reply = repeated(&notes, [&names[0], second], [&own, &others], &word).await;
        Leak::by(reply.is_some_and(|body| contains(&body, &word)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_caches_search_replicas() {
    const TOKEN: &str = "tokens carry the epoch";
    const FENCE: &str = "every transaction asks the fence";
    leak("caches, search, replicas after a move", &[TOKEN, FENCE], async |on| {
        let (region, notes, word) = (Region::new("eu", &[OURS]).await, Notes::new().await, canary());
        region.serve("training", Router::new()).await;
        notes.write(OURS, word.as_bytes()).await;
        let athlete = region.athlete(OURS);
        let start = region.running("training");
        let token = || start.verifier().verify(&athlete.token, Audience::Athlete);
        token().await.expect("before the move the token is good");
        // The tenant has gone: what lies here is the old home's.
        region.raise_epoch(OURS);
        raise_fence(&notes.pool, &athlete.tenant, Epoch(2))
            .await
            .expect("a fence");
        if on.has(TOKEN) {
            // As soon as the policy has arrived; without this layer it would be good until it ends.
            let refused = until(|| async { token().await.err() }).await;
            return Leak::by(refused.is_none());
        }
        let bodies: Vec<Vec<u8>> = if on.has(FENCE) {
            match TenantTx::begin(&notes.pool, &athlete.scope()).await {
                Ok(mut tx) => sqlx::query_scalar("select body from note")
                    .fetch_all(tx.conn())
                    .await
                    .expect("notes"),
                Err(_) => Vec::new(),
            }
        } else {
            let mut tx = notes.pool.begin().await.expect("a transaction");
            let enter = sqlx::query("select meridian_enter($1, 1)").bind(OURS);
            enter
                .execute(&mut *tx)
                .await
                .expect("entered, without a look at the answer");
            sqlx::query_scalar("select body from note")
                .fetch_all(&mut *tx)
                .await
                .expect("notes")
        };
        Leak::by(bodies.iter().any(|body| contains(body, &word)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_personal_data_in_the_evidence() {
    const SALTED: &str = "commitments are salted";
    const SHREDDED: &str = "the salt dies with the key";
    leak(
        "personal data in the evidence itself",
        &[SALTED, SHREDDED],
        async |on| {
            let region = region().await;
            let athlete = region.athlete(OURS);
            let key = key(&region, &athlete).await;
            let mut entry = Entry::new(Uuid::now_v7(), Timestamp::now(), Kind::Transfer);
            commit_to(&mut entry, [&key]).expect("a commitment");
            let subject = athlete.subject.as_uuid();
            let written = entry.encode().expect("an entry");
            assert!(!contains(&written, &subject.to_string()) && !contains(&written, &subject.simple().to_string()));

            // Whoever has the entry and a list of all athletes tries each of them.
            let salt = if on.has(SALTED) {
                Some(Salt::new([0; 32]))
            } else if on.has(SHREDDED) {
                erase(&region, &athlete).await;
                let asked = keyring(&region)
                    .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::No)
                    .await;
                asked.ok().map(|key| key.evidence_salt())
            } else {
                Some(key.evidence_salt())
            };
            Leak::by(salt.is_some_and(|salt| concerns(&entry, &salt, subject)))
        },
    )
    .await;
}
