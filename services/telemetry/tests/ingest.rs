//! Batches from devices: acknowledged is stored, once, sealed, and only for its athlete.

#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod shared;

use meridian_kit::config::Brokers;
use meridian_kit::testing::{Database, catalogue};
use meridian_telemetry::domain::quota::Quota;
use meridian_telemetry::domain::sample::Sample;
use meridian_telemetry::ingest::{EVENT, Ingested};
use meridian_telemetry::settings::Settings;
use meridian_telemetry::synthetic::Ride;
use serde_json::{Value, json};
use shared::{Scene, answer, assert_same, batch, samples};
use uuid::Uuid;

fn ride(seconds: u32) -> Vec<Sample> {
    // Yesterday, whole seconds: what a device that was out of reach sends.
    let now = jiff::Timestamp::now().as_millisecond();
    Ride::outdoors(21, now - 86_400_000).lasting(seconds).ride().samples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_samples_are_stored_once_and_read_back_value_by_value() {
    let scene = Scene::new().await;
    let (recorded, session) = (ride(700), Uuid::new_v4());
    let batches: Vec<_> = recorded
        .chunks(70)
        .map(|part| batch(session, Uuid::new_v4(), part))
        .collect();
    // Every batch twice, some at the same time, the last ones first.
    let sent = batches.iter().rev().chain(&batches).map(|body| scene.send(body));
    for (status, accepted) in futures::future::join_all(sent).await {
        assert_eq!((status, &accepted["accepted"]), (202, &json!(70)), "{accepted}");
    }
    let track = scene.complete(session).await;
    assert_eq!(track["samples"], 700);
    assert_same(&samples(&track["points"]), &recorded);
    assert_eq!((scene.chunks().await, scene.stored().await), (10, 700));
    assert_eq!(
        scene.metric("telemetry-writer", "meridian_ingest_records_total").await,
        700.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_track_is_read_in_pages() {
    let scene = Scene::new().await;
    let (recorded, session) = (ride(500), Uuid::new_v4());
    // Overlapping chunks: even and odd seconds in batches of their own.
    for parity in 0..2 {
        let half: Vec<_> = recorded.iter().skip(parity).step_by(2).copied().collect();
        assert_eq!(scene.send(&batch(session, Uuid::new_v4(), &half)).await.0, 202);
    }
    scene.complete(session).await;
    let (mut read, mut query) = (Vec::new(), "?limit=120".to_owned());
    loop {
        let (status, page) = scene.read(session, &query).await;
        assert_eq!(status, 200, "{page}");
        read.extend(samples(&page["points"]));
        let Some(next) = page["next"].as_i64() else { break };
        query = format!("?limit=120&from={next}");
    }
    assert_same(&read, &recorded);
    assert_eq!(scene.read(session, "?limit=0").await.0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_sealed_in_the_table_and_on_the_topic() {
    let scene = Scene::new().await;
    // A canary: one place and one heart rate, again and again, in batches of one so that packing hides nothing.
    let canary = Sample {
        time_ms: ride(1)[0].time_ms,
        position: meridian_telemetry::domain::sample::Position::from_degrees(47.123_456_7, 11.765_432_1),
        heart_rate: Some(211),
        ..Sample::default()
    };
    let session = Uuid::new_v4();
    assert_eq!(scene.send(&batch(session, Uuid::new_v4(), &[canary])).await.0, 202);
    scene.complete(session).await;

    let packed = meridian_telemetry::domain::chunk::encode(&[canary]).expect("a batch");
    let (lat, lon) = canary.position.expect("a place").semicircles();
    let needles: Vec<Vec<u8>> = vec![
        packed[1..].to_vec(),
        lat.to_le_bytes().to_vec(),
        lat.to_be_bytes().to_vec(),
        lon.to_le_bytes().to_vec(),
        b"47.123".to_vec(),
        lat.to_string().into_bytes(),
    ];
    let found = |haystack: &[u8]| {
        needles
            .iter()
            .any(|needle| haystack.windows(needle.len()).any(|part| part == *needle))
    };
    assert!(found(&packed), "the scan finds the canary where it lies open");

    let rows: Vec<String> = sqlx::query_scalar("select c::text from chunk c")
        .fetch_all(&scene.database.superuser_pool())
        .await
        .expect("rows");
    let sealed: Vec<Vec<u8>> = sqlx::query_scalar("select sealed from chunk")
        .fetch_all(&scene.database.superuser_pool())
        .await
        .expect("rows");
    assert_eq!((rows.len(), sealed.len()), (1, 1));
    assert!(!found(rows[0].as_bytes()) && !found(&sealed[0]), "the table");
    let record = &scene.region.records("telemetry.samples", 1).await[0];
    let event = meridian_kit::event::Event::from_bytes(record).expect("an event");
    assert!(!found(record) && !found(event.sealed_payload()), "the topic");
    let said: Value = serde_json::from_slice(record).expect("JSON");
    let said = said.as_object().expect("an object");
    assert!(said.values().all(|value| *value != 211 && *value != "211"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_track_is_its_athletes_alone() {
    let scene = Scene::new().await;
    let session = Uuid::new_v4();
    let recorded = ride(20);
    assert_eq!(scene.send(&batch(session, Uuid::new_v4(), &recorded)).await.0, 202);
    scene.complete(session).await;

    let other = scene.region.athlete(shared::TENANT);
    let path = format!("/api/v1/tracks/{session}");
    let (status, problem) = answer(scene.api.get(&path).bearer_auth(&other.token)).await;
    assert_eq!((status, &problem["code"]), (404, &json!("no-such-track")));
    assert_eq!(answer(scene.api.get(&path)).await.0, 401);

    // Somebody else's batch of the same ids is their own, and takes nobody's place.
    let body = batch(session, Uuid::new_v4(), &recorded[..5]);
    assert_eq!(
        answer(
            scene
                .api
                .post("/api/v1/telemetry")
                .bearer_auth(&other.token)
                .json(&body)
        )
        .await
        .0,
        202
    );
    assert_eq!(scene.complete(session).await["samples"], 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_that_cannot_be_are_refused_by_name_and_nothing_is_kept() {
    let scene = Scene::new().await;
    let t = ride(1)[0].time_ms;
    let ahead = jiff::Timestamp::now().as_millisecond() + 3 * 86_400_000;
    for (samples, field) in [
        (json!([{"t": t}, {"t": t, "hr": 300}]), "samples[1].hr"),
        (json!([{"t": t, "lat": 91, "lon": 0}]), "samples[0].lat"),
        (json!([{"t": t, "lat": 1}]), "samples[0].lon"),
        (json!([{"t": "yesterday"}]), "samples[0].t"),
        (json!([{"t": ahead}]), "samples[0].t"),
        (json!([{"t": t, "heart_rate": 1}]), "samples[0].heart_rate"),
        (json!([]), "samples"),
        (json!(vec![json!({"t": t}); 1001]), "samples"),
    ] {
        let body = json!({"session_id": Uuid::new_v4(), "batch_id": Uuid::new_v4(), "samples": samples});
        let (status, problem) = scene.send(&body).await;
        assert_eq!(status, 400, "{field}: {problem}");
        assert_eq!(problem["details"][0]["field"], field, "{problem}");
    }
    // A whole batch afterwards is the first that the topic and the table see.
    let session = Uuid::new_v4();
    assert_eq!(scene.send(&batch(session, Uuid::new_v4(), &ride(3))).await.0, 202);
    scene.complete(session).await;
    assert_eq!(scene.chunks().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_athlete_over_the_quota_is_told_when_to_come_again() {
    let subject = Quota {
        per_second: 10.0,
        burst: 100.0,
    };
    let scene = Scene::without_writer(Settings {
        subject,
        ..Settings::default()
    })
    .await;
    let recorded = ride(100);
    assert_eq!(
        scene.send(&batch(Uuid::new_v4(), Uuid::new_v4(), &recorded)).await.0,
        202
    );
    let body = batch(Uuid::new_v4(), Uuid::new_v4(), &recorded);
    let answer = scene
        .api
        .post("/api/v1/telemetry")
        .bearer_auth(&scene.athlete.token)
        .json(&body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 429);
    let seconds: u64 = answer.headers()["retry-after"]
        .to_str()
        .expect("text")
        .parse()
        .expect("seconds");
    assert!((5..=10).contains(&seconds), "{seconds}");
    assert_eq!(scene.metric("telemetry", "meridian_ingest_shed_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_before_the_writer_says_that_it_is_not_complete() {
    let scene = Scene::without_writer(Settings::default()).await;
    let session = Uuid::new_v4();
    assert_eq!(scene.send(&batch(session, Uuid::new_v4(), &ride(10))).await.0, 202);
    assert_eq!(scene.read(session, "").await.0, 404);
    scene.start_writer().await;
    assert_eq!(scene.complete(session).await["samples"], 10);
    scene.region.kill("telemetry-writer").await;
    assert_eq!(scene.send(&batch(session, Uuid::new_v4(), &ride(10))).await.0, 202);
    let (status, track) = scene.read(session, "").await;
    assert_eq!(
        (status, &track["samples"], &track["complete"]),
        (200, &json!(10), &json!(false))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_kafka_nothing_is_acknowledged() {
    let scene = Scene::without_writer(Settings::default()).await;
    scene.region.stop("telemetry").await;
    let url = meridian_kit::config::Secret::new(scene.database.url());
    let start = scene.region.start_with("telemetry", |config| {
        config.kafka = Brokers::Plain("127.0.0.1:1".to_owned());
        config.database_url = Some(url);
    });
    scene
        .region
        .run_start(start, |start| meridian_telemetry::run_with(start, Settings::default()))
        .await;
    let (status, problem) = scene.send(&batch(Uuid::new_v4(), Uuid::new_v4(), &ride(10))).await;
    assert_eq!(
        (status, &problem["code"]),
        (503, &json!("not-acknowledged")),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_is_guarded_and_partitions_are_out_of_reach() {
    let scene = Scene::without_writer(Settings::default()).await;
    let unguarded = scene.database.unguarded_tables().await;
    assert!(
        unguarded
            .iter()
            .all(|table| !table.contains("chunk") && !table.contains("track")),
        "{unguarded:?}"
    );
    // The partitions are out of the service's reach, and so is making any table.
    let pool = scene.database.pool();
    for statement in [
        "select * from chunk_month.m2026_11",
        "create table mine ()",
        "drop table chunk",
        "truncate chunk",
    ] {
        assert!(sqlx::query(statement).execute(&pool).await.is_err(), "{statement}");
    }
}

#[tokio::test]
async fn catalogue_columns() {
    let database = Database::create("telemetry", meridian_telemetry::MIGRATIONS).await;
    catalogue::assert_columns("telemetry", &database).await;
}

#[test]
fn catalogue_event_fields() {
    let ingested = Ingested {
        session_id: Uuid::nil(),
        batch_id: Uuid::nil(),
        chunk: vec![1],
    };
    catalogue::assert_event_fields("telemetry", &[(EVENT, json!(ingested))]);
}
