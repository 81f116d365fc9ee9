//! Recorded files that training hands over: all of a file, or nothing of it.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking; a skipped file says so"
)]

mod shared;

use std::path::PathBuf;

use meridian_telemetry::domain::sample::Sample;
use meridian_telemetry::formats::Format;
use meridian_telemetry::synthetic::{Recorded, Ride, fit, gpx};
use serde_json::{Value, json};
use shared::{Scene, answer, assert_same, samples};
use uuid::Uuid;

const FIT: &str = "application/vnd.ant.fit";
const GPX: &str = "application/gpx+xml";
const START: i64 = 1_760_000_000_000;

fn track_id(kept: &Value) -> Uuid {
    kept["track_id"].as_str().expect("an id").parse().expect("a UUID")
}

fn near(value: &Value, expected: f64, share: f64) -> bool {
    (value.as_f64().expect("a number") - expected).abs() <= expected * share
}

/// All points of a track, page by page.
async fn all_points(scene: &Scene, track: Uuid) -> Vec<Sample> {
    let (mut read, mut query) = (Vec::new(), String::new());
    loop {
        let (status, page) = scene.read(track, &query).await;
        assert_eq!(status, 200, "{page}");
        read.extend(samples(&page["points"]));
        let Some(next) = page["next"].as_i64() else { return read };
        query = format!("?from={next}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_kept_record_by_record_with_its_totals() {
    let scene = Scene::new().await;
    let Recorded {
        samples: recorded,
        truth,
    } = Ride::outdoors(5, START).lasting(5000).ride();
    let (status, kept) = scene.upload(FIT, fit::write(&recorded, fit::Encoding::Plain)).await;
    assert_eq!(
        (status, &kept["samples"], &kept["stored"]),
        (201, &json!(5000), &json!(true)),
        "{kept}"
    );
    assert_eq!(
        (&kept["sport_type"], &kept["device_model"]),
        (&json!("cycling"), &json!("Synthetic One"))
    );
    assert_eq!(kept["start_time"], "2025-10-09T08:53:20Z");
    assert!(
        near(&kept["distance_meters"], truth.distance_meters, 0.0001),
        "{kept}, {truth:?}"
    );
    assert!(
        near(&kept["ascent_meters"], truth.ascent_meters, 0.08),
        "{kept}, {truth:?}"
    );
    assert!(
        near(&kept["avg_heart_rate"], truth.avg_heart_rate, 0.001),
        "{kept}, {truth:?}"
    );
    assert_eq!(kept["max_heart_rate"], truth.max_heart_rate);
    assert_eq!(kept["elapsed_sec"], truth.elapsed_sec);

    let track = scene.complete(track_id(&kept)).await;
    assert_eq!(
        (&track["samples"], track["summary"]["samples"].as_u64()),
        (&json!(5000), Some(5000))
    );
    assert_same(&samples(&track["points"]), &recorded);
    assert_eq!(scene.chunks().await, 2);

    // A repetition, as after an answer that was lost, is the same track and stores nothing twice.
    let (status, again) = scene.upload(FIT, fit::write(&recorded, fit::Encoding::Plain)).await;
    assert_eq!((status, again), (201, kept));
    assert_eq!((scene.chunks().await, scene.stored().await), (2, 5000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpx_file_and_a_ride_indoors_are_kept() {
    let scene = Scene::new().await;
    let Recorded {
        samples: recorded,
        truth,
    } = Ride::outdoors(6, START).lasting(600).ride();
    let (status, kept) = scene.upload(GPX, gpx::write(&recorded, gpx::Extension::GarminV2)).await;
    assert_eq!((status, &kept["samples"]), (201, &json!(600)), "{kept}");
    // GPS noise lengthens a track of positions; the ride's own odometer is not in this file.
    assert!(
        kept["distance_meters"].as_f64().expect("a number") > truth.distance_meters * 0.95,
        "{kept}"
    );

    let indoors = Ride::indoors(7, START).lasting(600).ride();
    let (status, kept) = scene
        .upload(FIT, fit::write(&indoors.samples, fit::Encoding::CompressedTimestamps))
        .await;
    assert_eq!((status, &kept["ascent_meters"]), (201, &Value::Null), "{kept}");
    assert!(near(&kept["distance_meters"], indoors.truth.distance_meters, 0.0001));
    assert_same(
        &samples(&scene.complete(track_id(&kept)).await["points"]),
        &indoors.samples,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_is_refused_with_its_place_and_nothing_is_kept() {
    let scene = Scene::new().await;
    let recorded = Ride::outdoors(8, START).lasting(5000).ride().samples;
    let good = fit::write(&recorded, fit::Encoding::Plain);
    let cut = good[..good.len() / 2].to_vec();
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 0x40;
    // The first of two files is whole: it must not be kept by itself either.
    let second_cut = [&good[..], &good[..100]].concat();
    let gpx = gpx::write(&recorded, gpx::Extension::GarminV1);
    for (media_type, file, code, place) in [
        (FIT, cut.clone(), "fit-unreadable", Some(cut.len())),
        (FIT, damaged, "fit-unreadable", Some(good.len() - 2)),
        (FIT, second_cut.clone(), "fit-unreadable", Some(second_cut.len())),
        (FIT, b"not a file".to_vec(), "fit-unreadable", Some(0)),
        (FIT, Vec::new(), "fit-unreadable", None),
        (
            GPX,
            gpx[..gpx.len() / 2].to_vec(),
            "gpx-unreadable",
            Some(gpx.len() / 2),
        ),
        (GPX, b"<gpx>\xff</gpx>".to_vec(), "gpx-unreadable", Some(5)),
    ] {
        let (status, problem) = scene.upload(media_type, file).await;
        assert_eq!((status, &problem["code"]), (422, &json!(code)), "{problem}");
        if let Some(place) = place {
            assert!(
                problem["message"]
                    .as_str()
                    .expect("text")
                    .contains(&format!("byte {place}")),
                "{problem}, {place}"
            );
        }
    }
    assert_eq!(scene.upload("image/png", vec![1]).await.0, 415);
    // A whole file afterwards is the first that is stored.
    let (status, kept) = scene
        .upload(FIT, fit::write(&recorded[..10], fit::Encoding::Plain))
        .await;
    assert_eq!((status, &kept["stored"]), (201, &json!(true)));
    assert_eq!(
        (
            scene.stored().await,
            scene.number("select count(*) from track_summary").await
        ),
        (10, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_training_hands_over_files() {
    let scene = Scene::new().await;
    for caller in ["gateway", "social"] {
        let client = scene.region.client(caller, "telemetry");
        assert_eq!(
            answer(client.post("/internal/tracks").body(vec![1])).await.0,
            403,
            "{caller}"
        );
    }
    let training = scene.region.client("training", "telemetry");
    assert_eq!(
        answer(
            training
                .get(&format!("/api/v1/tracks/{}", Uuid::new_v4()))
                .bearer_auth(&scene.athlete.token)
        )
        .await
        .0,
        403
    );
    let stale = training
        .post("/internal/tracks")
        .header("content-type", FIT)
        .header("meridian-tenant", shared::TENANT)
        .header("meridian-subject", scene.athlete.subject.to_string())
        .header("meridian-epoch", "0")
        .body(vec![1]);
    assert_eq!(answer(stale).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_writer_a_file_is_acknowledged_and_stored_later() {
    let scene = Scene::without_writer(meridian_telemetry::settings::Settings::default()).await;
    let recorded = Ride::outdoors(9, START).lasting(100).ride().samples;
    let (status, kept) = scene.upload(FIT, fit::write(&recorded, fit::Encoding::Plain)).await;
    assert_eq!((status, &kept["stored"]), (201, &json!(false)), "{kept}");
    let (status, track) = scene.read(track_id(&kept), "").await;
    assert_eq!(
        (status, &track["samples"], &track["complete"]),
        (200, &json!(0), &json!(false))
    );
    scene.start_writer().await;
    assert_eq!(scene.complete(track_id(&kept)).await["samples"], 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_files_read_back_value_by_value() {
    let root = std::env::var_os("MERIDIAN_SHARED_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")),
        PathBuf::from,
    );
    let scene = Scene::new().await;
    for (path, media_type, format) in [
        ("fit/garmin-edge-500-activity.fit", FIT, Format::Fit),
        ("fit/sample_mulitple_header.fit", FIT, Format::Fit),
        ("fit/developer-types-sample.fit", FIT, Format::Fit),
        ("gpx/garmin_with_extensions.gpx", GPX, Format::Gpx),
    ] {
        let Ok(file) = std::fs::read(root.join(path)) else {
            eprintln!("skipped: {path} is not there");
            continue;
        };
        let expected = format.read(&file).expect("a good file").samples;
        let (status, kept) = scene.upload(media_type, file).await;
        assert_eq!((status, &kept["samples"]), (201, &json!(expected.len())), "{kept}");
        scene.complete(track_id(&kept)).await;
        let read = all_points(&scene, track_id(&kept)).await;
        assert_same(&read, &expected);
    }
}
