//! A recorded file: telemetry's answers are those of a router in its place; PostgreSQL and Kafka are real.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::IntoResponse;
use axum::routing::post;
use bytes::Bytes;
use http::HeaderMap;
use meridian_kit::problem::Problem;
use serde_json::{Value, json};
use shared::{Scene, answer};

const FIT: &str = "application/vnd.ant.fit";
const TRACK: &str = "5a0d9b52-8a0c-4f27-9f60-3a4a3c5f6f01";

fn track() -> Value {
    json!({
        "track_id": TRACK, "samples": 3601, "start_time": "2026-03-04T06:30:00Z", "end_time": "2026-03-04T07:30:00Z",
        "sport_type": "cycling", "distance_meters": 30123.4, "ascent_meters": 412.0, "duration_sec": 3500.0,
        "avg_heart_rate": 141.4, "max_heart_rate": 178.0,
    })
}

/// Answers like telemetry, counting how often it is asked, and checking what it is given.
fn telemetry(asked: Arc<AtomicUsize>, subject: String) -> Router {
    let tracks = move |headers: HeaderMap, body: Bytes| async move {
        asked.fetch_add(1, Ordering::SeqCst);
        let header = |name: &str| headers[name].to_str().expect("text").to_owned();
        assert_eq!(
            (header("meridian-tenant"), header("meridian-epoch")),
            (shared::TENANT.to_owned(), "1".to_owned())
        );
        assert_eq!(header("meridian-subject"), subject);
        use sha2::Digest as _;
        assert_eq!(
            header("meridian-upload-digest"),
            hex::encode(sha2::Sha256::digest(&body))
        );
        if body.starts_with(b"corrupt") {
            return Problem::bad_request("corrupt-fit", "the file breaks off at byte 7")
                .detail("body", "CRC")
                .into_response();
        }
        axum::Json(track()).into_response()
    };
    Router::new()
        .route("/internal/tracks", post(tracks))
        .layer(DefaultBodyLimit::disable())
}

async fn scene_with_telemetry() -> (Scene, Arc<AtomicUsize>) {
    let scene = Scene::new().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let router = telemetry(Arc::clone(&asked), scene.athlete.subject.to_string());
    scene.region.serve("telemetry", router).await;
    (scene, asked)
}

impl Scene {
    async fn upload(&self, media_type: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = self.api.post("/api/v1/uploads").bearer_auth(&self.athlete.token);
        answer(request.header("Content-Type", media_type).body(body)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_a_completed_workout_with_distance_ascent_and_heart_rate() {
    let (scene, _) = scene_with_telemetry().await;
    let (status, uploaded) = scene.upload(FIT, "a ride").await;
    assert_eq!(
        (status, &uploaded["track_id"], &uploaded["samples"]),
        (201, &json!(TRACK), &json!(3601)),
        "{uploaded}"
    );

    let id = uploaded["workout_id"].as_str().expect("an id");
    let (status, summary) = scene.get(&format!("/api/v1/workouts/{id}/summary")).await;
    assert_eq!(status, 200);
    assert_eq!(summary, uploaded, "the summary is what the upload answered");
    assert_eq!(
        (&summary["distance_meters"], &summary["ascent_meters"]),
        (&json!(30123.4), &json!(412.0))
    );
    assert_eq!(
        (&summary["avg_heart_rate"], &summary["max_heart_rate"]),
        (&json!(141), &json!(178))
    );
    assert_eq!(
        (&summary["duration_sec"], &summary["status"]),
        (&json!(3500), &json!("completed"))
    );

    let events = scene.region.events("training.events", 2).await;
    for event in &events {
        let payload: Value = scene.region.open(event).await;
        assert!(!payload.to_string().contains("heart"), "{payload}");
    }
    assert_eq!(scene.region.open::<Value>(&events[1]).await["track_id"], json!(TRACK));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_file_again_is_the_same_workout() {
    let (scene, asked) = scene_with_telemetry().await;
    let first = scene.upload(FIT, "a ride").await;
    assert_eq!(scene.upload(FIT, "a ride").await, first);
    assert_eq!(
        asked.load(Ordering::SeqCst),
        1,
        "what is recorded already is not handed over again"
    );
    let (_, other) = scene.upload(FIT, "another ride").await;
    assert_ne!(other["workout_id"], first.1["workout_id"]);
    assert_eq!(scene.count("workout_summary").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_file_many_times_at_once_is_one_workout() {
    let (scene, _) = scene_with_telemetry().await;
    let answers = futures::future::join_all((0..5).map(|_| scene.upload(FIT, "a ride"))).await;
    assert!(
        answers.iter().all(|one| one == &answers[0] && one.0 == 201),
        "{answers:?}"
    );
    assert_eq!(scene.count("workout_summary").await, 1);
    assert_eq!(scene.count("workout_event").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetrys_refusal_of_a_file_is_passed_on() {
    let (scene, _) = scene_with_telemetry().await;
    let (status, problem) = scene.upload(FIT, "corrupt").await;
    assert_eq!((status, &problem["code"]), (400, &json!("corrupt-fit")));
    assert_eq!(problem["message"], json!("the file breaks off at byte 7"));
    assert_eq!(problem["details"][0]["message"], json!("CRC"));
    assert_eq!(scene.count("workout_event").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_telemetry_nothing_is_half_written_and_a_retry_succeeds() {
    let (scene, asked) = scene_with_telemetry().await;
    scene.region.stop("telemetry").await;
    assert_eq!(scene.upload(FIT, "a ride").await.0, 503);
    for table in ["workout_event", "workout_summary", "workout_details", "outbox"] {
        assert_eq!(scene.count(table).await, 0, "{table}");
    }
    let router = telemetry(asked, scene.athlete.subject.to_string());
    scene.region.serve("telemetry", router).await;
    assert_eq!(scene.upload(FIT, "a ride").await.0, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_activity_file_is_refused_before_it_is_read() {
    let (scene, asked) = scene_with_telemetry().await;
    assert_eq!(scene.upload("application/json", "{}").await.0, 415);
    assert_eq!(scene.upload(FIT, "").await.0, 400);
    let (status, problem) = scene
        .upload(FIT, vec![0_u8; meridian_training::http::LARGEST_UPLOAD_BYTES + 1])
        .await;
    assert_eq!((status, &problem["code"]), (413, &json!("body-too-large")));
    let request = scene.api.post("/api/v1/uploads").bearer_auth(&scene.athlete.token);
    let request = request
        .header("Content-Type", FIT)
        .header("Meridian-Visibility", "aliens")
        .body("a ride");
    assert_eq!(answer(request).await.0, 400);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_is_taken() {
    let (scene, _) = scene_with_telemetry().await;
    let (status, body) = scene.upload(FIT, vec![7_u8; 20 * 1024 * 1024]).await;
    assert_eq!(status, 201, "{body}");
}
