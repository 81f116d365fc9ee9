//! The writer under faults: nothing acknowledged is lost, nothing is stored twice, nothing erased comes back.

#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod shared;

use jiff::ToSpan as _;
use meridian_kit::subject_keys::{Create, Error as KeyError, KeyScope};
use meridian_kit::{Listeners, Start};
use meridian_telemetry::domain::sample::Sample;
use meridian_telemetry::settings::Settings;
use meridian_telemetry::synthetic::{Ride, fit};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use shared::{Scene, answer, assert_same, batch, eventually, samples};
use uuid::Uuid;

fn ride(seconds: u32) -> Vec<Sample> {
    let now = jiff::Timestamp::now().as_millisecond();
    Ride::outdoors(33, now - 86_400_000).lasting(seconds).ride().samples
}

async fn send_all(scene: &Scene, session: Uuid, samples: &[Sample], size: usize) {
    for part in samples.chunks(size) {
        let (status, answer) = scene.send(&batch(session, Uuid::new_v4(), part)).await;
        assert_eq!(status, 202, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_killed_in_the_middle_of_a_batch_loses_and_repeats_nothing() {
    let scene = Scene::new().await;
    let (recorded, session) = (ride(300), Uuid::new_v4());
    send_all(&scene, session, &recorded[..30], 10).await;
    scene.complete(session).await;

    // Nobody gets into the table: the writer stands in the middle of its transaction.
    let mut lock = scene.database.superuser_pool().begin().await.expect("a transaction");
    sqlx::query("lock table chunk in exclusive mode")
        .execute(&mut *lock)
        .await
        .expect("the lock");
    send_all(&scene, session, &recorded[30..], 10).await;
    eventually("the writer waits for the table", || async {
        let waiting =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like 'insert into chunk%'";
        (scene.number(waiting).await > 0).then_some(())
    })
    .await;
    scene.region.kill("telemetry-writer").await;
    lock.rollback().await.expect("unlocked");

    scene.start_writer().await;
    let track = scene.complete(session).await;
    assert_same(&samples(&track["points"]), &recorded);
    assert_eq!((scene.chunks().await, scene.stored().await), (30, 300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_topic_delivered_again_stores_nothing_twice() {
    let scene = Scene::new().await;
    let (recorded, session) = (ride(200), Uuid::new_v4());
    send_all(&scene, session, &recorded, 20).await;
    scene.complete(session).await;
    scene.region.stop("telemetry-writer").await;

    // As if no offset had ever been committed.
    let kafka = scene.region.kafka("telemetry");
    let topic = kafka.topic_name("telemetry.samples");
    let group = kafka.topic_name("telemetry-writer");
    let partitions = Settings::default().partitions;
    let client: BaseConsumer = rdkafka::ClientConfig::new()
        .set(
            "bootstrap.servers",
            std::env::var("MERIDIAN_TEST_KAFKA").expect("MERIDIAN_TEST_KAFKA"),
        )
        .set("group.id", &group)
        .create()
        .expect("a client");
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(&topic, partition, Offset::Offset(0))
            .expect("an offset");
    }
    eventually("the group is empty and takes the offsets", || async {
        client.commit(&list, CommitMode::Sync).ok()
    })
    .await;

    scene.start_writer().await;
    let track = scene.complete(session).await;
    assert_same(&samples(&track["points"]), &recorded);
    assert_eq!((scene.chunks().await, scene.stored().await), (10, 200));
    assert_eq!(
        scene.metric("telemetry-writer", "meridian_ingest_records_total").await,
        0.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_in_the_next_month_is_the_same_batch() {
    let scene = Scene::new().await;
    let (recorded, session, id) = (ride(20), Uuid::new_v4(), Uuid::new_v4());
    assert_eq!(scene.send(&batch(session, id, &recorded)).await.0, 202);
    scene.complete(session).await;
    // What was received last month, as the calendar sees it.
    let pool = scene.database.superuser_pool();
    let last = "select telemetry_make_month((now() - interval '1 month')::date)";
    sqlx::query(last).execute(&pool).await.expect("a partition");
    let moved = "update chunk set month = (date_trunc('month', now()) - interval '1 month')::date, tenant = tenant";
    sqlx::query("alter table chunk disable trigger meridian_stamp")
        .execute(&pool)
        .await
        .expect("as the superuser");
    assert_eq!(
        sqlx::query(moved).execute(&pool).await.expect("moved").rows_affected(),
        1
    );
    sqlx::query("alter table chunk enable trigger meridian_stamp")
        .execute(&pool)
        .await
        .expect("as the superuser");

    assert_eq!(scene.send(&batch(session, id, &recorded)).await.0, 202);
    eventually("the repetition is settled", || async {
        (scene.metric("telemetry-writer", "meridian_ingest_batches_total").await >= 2.0).then_some(())
    })
    .await;
    assert_eq!((scene.chunks().await, scene.stored().await), (1, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_batch_goes_to_the_dead_letters_and_the_rest_is_stored() {
    let scene = Scene::new().await;
    let (recorded, session) = (ride(20), Uuid::new_v4());
    assert_eq!(
        scene.send(&batch(session, Uuid::new_v4(), &recorded[..10])).await.0,
        202
    );
    let genuine = scene.region.records("telemetry.samples", 1).await.remove(0);

    // Junk; a genuine batch under another id, which is bound to its own; and one said to be another athlete's.
    let producer = scene.region.kafka("telemetry").producer().expect("a producer");
    let mut moved: serde_json::Value = serde_json::from_slice(&genuine).expect("JSON");
    moved["id"] = json!(Uuid::new_v4());
    let mut stolen: serde_json::Value = serde_json::from_slice(&genuine).expect("JSON");
    stolen["subject"] = json!(Uuid::new_v4().to_string());
    let key = scene.athlete.subject.to_string();
    for record in [
        b"junk".to_vec(),
        moved.to_string().into_bytes(),
        stolen.to_string().into_bytes(),
    ] {
        producer.send("telemetry.samples", &key, &record).await.expect("sent");
    }
    assert_eq!(
        scene.send(&batch(session, Uuid::new_v4(), &recorded[10..])).await.0,
        202
    );

    let track = scene.complete(session).await;
    assert_same(&samples(&track["points"]), &recorded);
    assert_eq!(scene.chunks().await, 2);
    let dead = scene.region.records("telemetry-writer.dead-letter", 3).await;
    assert!(dead.contains(&b"junk".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_after_an_erasure_is_not_stored() {
    let scene = Scene::without_writer(Settings::default()).await;
    let session = Uuid::new_v4();
    assert_eq!(scene.send(&batch(session, Uuid::new_v4(), &ride(10))).await.0, 202);
    let identity = scene.region.keyring("identity");
    identity
        .destroy(&scene.athlete.tenant, &scene.athlete.subject, None)
        .await
        .expect("erased");

    scene.start_writer().await;
    eventually("the batch is settled", || async {
        (scene.metric("telemetry-writer", "meridian_ingest_dropped_total").await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(scene.chunks().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_the_epoch_rose_is_stored_after_it() {
    let scene = Scene::without_writer(Settings::default()).await;
    let session = Uuid::new_v4();
    assert_eq!(scene.send(&batch(session, Uuid::new_v4(), &ride(10))).await.0, 202);
    scene.region.raise_epoch(shared::TENANT);
    scene.start_writer().await;
    eventually("the batch is stored", || async {
        (scene.stored().await == 10).then_some(())
    })
    .await;
    assert_eq!(scene.number("select epoch from chunk").await, 2);
    // The old token reads and writes nothing any more.
    eventually("the API has heard of the epoch", || async {
        (scene.send(&batch(session, Uuid::new_v4(), &ride(10))).await.0 == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinates_go_when_their_retention_ends_and_totals_stay() {
    let scene = Scene::new().await;
    let recorded = Ride::outdoors(2, 1_760_000_000_000).lasting(100).ride().samples;
    let (status, kept) = scene
        .upload("application/vnd.ant.fit", fit::write(&recorded, fit::Encoding::Plain))
        .await;
    assert_eq!((status, &kept["stored"]), (201, &json!(true)), "{kept}");
    let track: Uuid = kept["track_id"].as_str().expect("an id").parse().expect("a UUID");

    let (pool, keyring) = (scene.database.pool(), scene.region.keyring("telemetry"));
    let policy = scene.region.policy();
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    assert_eq!(
        meridian_telemetry::retention::round(&pool, &keyring, &policy, today).await,
        0
    );
    assert_eq!(scene.stored().await, 100);

    let later = today.checked_add(8.months()).expect("a day");
    assert_eq!(
        meridian_telemetry::retention::round(&pool, &keyring, &policy, later).await,
        1
    );
    assert_eq!(scene.chunks().await, 0);
    let month = KeyScope::location_at(jiff::Timestamp::now());
    let gone = scene
        .region
        .keyring("telemetry")
        .key(&scene.athlete.tenant, &scene.athlete.subject, &month, Create::Yes)
        .await;
    assert!(matches!(gone, Err(KeyError::KeyDestroyed)), "{gone:?}");

    let (status, track) = scene.read(track, "").await;
    assert_eq!(
        (status, &track["samples"], &track["points"]),
        (200, &json!(0), &json!([])),
        "{track}"
    );
    assert_eq!(track["summary"]["samples"], 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lag_shows_what_is_not_stored_yet() {
    let scene = Scene::new().await;
    let mut lock = scene.database.superuser_pool().begin().await.expect("a transaction");
    sqlx::query("lock table chunk in exclusive mode")
        .execute(&mut *lock)
        .await
        .expect("the lock");
    send_all(&scene, Uuid::new_v4(), &ride(30), 10).await;
    let lag = || scene.metric("telemetry-writer", "meridian_ingest_lag");
    eventually("the lag is seen", || async { (lag().await >= 3.0).then_some(()) }).await;
    lock.rollback().await.expect("unlocked");
    eventually("the lag is gone", || async { (lag().await == 0.0).then_some(()) }).await;
    assert_eq!(scene.stored().await, 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_come_and_go_lose_and_repeat_nothing() {
    let scene = Scene::new().await;
    let mut config = scene.region.running("telemetry-writer").config().clone();
    config.admin_listen.set_port(0);
    let (recorded, session) = (ride(600), Uuid::new_v4());
    let mut parts = recorded.chunks(5);
    for _ in 0..4 {
        let start = Start::with_config("telemetry-writer", config.clone(), Listeners::default()).expect("a start");
        let metrics = start.metrics().clone();
        let another = tokio::spawn(meridian_telemetry::run_writer(start));
        // The subjects differ, so that every partition has work and some of it moves to the newcomer.
        for part in parts.by_ref().take(20) {
            assert_eq!(scene.send(&batch(session, Uuid::new_v4(), part)).await.0, 202);
            for _ in 0..3 {
                let other = scene.region.athlete(shared::TENANT);
                let body = batch(session, Uuid::new_v4(), part);
                let request = scene
                    .api
                    .post("/api/v1/telemetry")
                    .bearer_auth(&other.token)
                    .json(&body);
                assert_eq!(answer(request).await.0, 202);
            }
        }
        eventually("the newcomer takes part", || async {
            let body = batch(session, Uuid::new_v4(), &recorded[..1]);
            let other = scene.region.athlete(shared::TENANT);
            let request = scene
                .api
                .post("/api/v1/telemetry")
                .bearer_auth(&other.token)
                .json(&body);
            assert_eq!(answer(request).await.0, 202);
            let taken = metrics.encode();
            (!taken.contains("meridian_ingest_batches_total 0\n")).then_some(())
        })
        .await;
        another.abort();
        let _ = another.await;
    }
    for part in parts {
        assert_eq!(scene.send(&batch(session, Uuid::new_v4(), part)).await.0, 202);
    }
    assert_same(&samples(&scene.complete(session).await["points"]), &recorded);
    assert_eq!(
        scene.metric("telemetry", "meridian_ingest_accepted_total").await,
        scene.stored().await as f64
    );
}
