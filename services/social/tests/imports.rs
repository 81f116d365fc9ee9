//! Copies from another region: shown while lawful, gone when not, and the replicator is told.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use jiff::{SignedDuration, Timestamp};
use meridian_kit::SubjectId;
use meridian_kit::db::TenantTx;
use meridian_kit::event::{Draft, Event, EventSource, Imported};
use meridian_kit::subject_keys::{KEY_BYTES, KeyScope, SubjectKey, WireKey};
use meridian_kit::testing::{Region, until};
use meridian_policy::{DataClass, EdgeId, Epoch};
use serde_json::{Value, json};
use support::World;
use uuid::Uuid;

const EDGE: &str = "stride-eu.workout-summary.us";
const KEY: [u8; KEY_BYTES] = [0x5a; KEY_BYTES];

fn edge() -> EdgeId {
    EDGE.parse().unwrap()
}

/// Makes the edge part of the policy.
fn open_edge(region: &Region, expires: Timestamp) {
    region.change_policy(|policy| {
        policy.imports = serde_json::from_value(json!([{
            "id": EDGE, "tenant": "stride-eu", "organization": "stride", "from": "eu", "to": "us",
            "exporter": "stride-europe", "importer": "stride-america",
            "importer_tenant": "stride-us", "class": "workout-summary", "purposes": ["cross-border-sharing"],
            "fields": ["sport_type", "distance_meters"], "mechanism": "SCC", "instrument": "scc-2021",
            "effective_from": "2026-01-01T00:00:00Z", "expires": expires, "ends_with": "mechanism-expired",
            "pseudonymise": true, "onward": false, "needs_consent": true, "framework": "GDPR", "rule": "listed", "epoch": 1,
        }]))
        .unwrap();
    });
}

/// Leases the edge's key, as the replicator does for the exporter.
async fn lease(world: &World) {
    let key = WireKey(KEY.into());
    let body = json!({
        "tenant": "stride-us", "scope": format!("import-{EDGE}"), "key": serde_json::to_value(&key).unwrap(),
        "valid_for_ms": 600_000,
    });
    let client = world.region.client("replicator", "keyring");
    let answer = client.post("/v1/keys/lease").json(&body).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

fn copy(author: SubjectId, expires: Timestamp) -> Event {
    let tenant = "stride-us".parse().unwrap();
    let key = SubjectKey::from_bytes(tenant, author, KeyScope::Import(edge()), KEY.into());
    let source = EventSource::new("eu".parse().unwrap(), "replicator");
    let draft = Draft {
        kind: "sh.meridian.workout.shared.v1",
        stream: Uuid::new_v4().to_string(),
        sequence: 1,
        class: DataClass::WorkoutSummary,
        epoch: Epoch(1),
    };
    let day = "2026-11-20T00:00:00Z".parse().unwrap();
    let payload = json!({"sport_type": "cycling", "distance_meters": 31_500.5});
    let event = Event::sealed_at(&source, draft, Uuid::now_v7(), day, &key, &payload).unwrap();
    event.imported(Imported {
        origin: "eu".parse().unwrap(),
        edge: edge(),
        expires,
    })
}

fn in_an_hour() -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(1)
}

async fn rows(world: &World) -> i64 {
    let pool = world.region.running("social").database().unwrap();
    let scope = world.region.athlete("stride-us").scope();
    let mut tx = TenantTx::begin(&pool, &scope).await.unwrap();
    sqlx::query_scalar("select count(*) from imported_workout")
        .fetch_one(tx.conn())
        .await
        .unwrap()
}

async fn with_a_copy() -> (World, Event) {
    let world = World::new().await;
    open_edge(&world.region, in_an_hour());
    lease(&world).await;
    let event = copy(SubjectId::random(), in_an_hour());
    world.send("imports.events", EDGE, &event).await;
    (world, event)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_shown_to_its_tenants_community_with_exactly_the_fields_that_came() {
    let (world, event) = with_a_copy().await;
    let (reader, outsider) = (world.region.athlete("stride-us"), world.region.athlete("other-us"));
    let item = world.sees(&reader, "community", event.id).await;
    let expected =
        json!({"id": event.id, "origin": "eu", "workout": {"sport_type": "cycling", "distance_meters": 31_500.5}});
    assert_eq!(item, expected);
    assert!(world.item(&reader, "following", event.id).await.is_none());
    assert!(world.item(&outsider, "community", event.id).await.is_none());
    world.send("imports.events", EDGE, &event).await;
    let second = copy(SubjectId::random(), in_an_hour());
    world.send("imports.events", EDGE, &second).await;
    world.sees(&reader, "community", second.id).await;
    assert_eq!(rows(&world).await, 2, "what comes twice is kept once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_not_shown_from_the_moment_that_the_policy_has_its_edge_no_more() {
    let (world, event) = with_a_copy().await;
    let reader = world.region.athlete("stride-us");
    world.sees(&reader, "community", event.id).await;
    world.region.change_policy(|policy| policy.imports.clear());
    world.sees_no_more(&reader, "community", event.id).await;
    assert_eq!(rows(&world).await, 1, "not purged, and still not shown");
    // An edge whose mechanism has run out is as good as none.
    open_edge(&world.region, Timestamp::now());
    assert!(world.item(&reader, "community", event.id).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_past_its_date_is_not_shown_and_then_deleted() {
    let world = World::new().await;
    open_edge(&world.region, in_an_hour());
    lease(&world).await;
    let reader = world.region.athlete("stride-us");
    let short = copy(SubjectId::random(), Timestamp::now() + SignedDuration::from_secs(4));
    let long = copy(SubjectId::random(), in_an_hour());
    world.send("imports.events", EDGE, &short).await;
    world.send("imports.events", EDGE, &long).await;
    world.sees(&reader, "community", long.id).await;
    world.sees_no_more(&reader, "community", short.id).await;
    let deleted = until(|| async { (rows(&world).await == 1).then_some(()) }).await;
    assert!(deleted.is_some());
    // One that has run out before it arrives is not kept at all.
    let late = copy(SubjectId::random(), Timestamp::now());
    let marker = copy(SubjectId::random(), in_an_hour());
    world.send("imports.events", EDGE, &late).await;
    world.send("imports.events", EDGE, &marker).await;
    world.sees(&reader, "community", marker.id).await;
    assert_eq!(rows(&world).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_key_is_not_leased_is_kept_and_not_shown() {
    let world = World::new().await;
    open_edge(&world.region, in_an_hour());
    let reader = world.region.athlete("stride-us");
    let event = copy(SubjectId::random(), in_an_hour());
    world.send("imports.events", EDGE, &event).await;
    assert!(
        until(|| async { (rows(&world).await == 1).then_some(()) })
            .await
            .is_some()
    );
    assert!(world.item(&reader, "community", event.id).await.is_none());
    lease(&world).await;
    world.sees(&reader, "community", event.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_deletes_the_copies_and_is_acknowledged_until_it_is_heard() {
    let (world, event) = with_a_copy().await;
    let reader = world.region.athlete("stride-us");
    world.sees(&reader, "community", event.id).await;
    // The purge's payload opens for nobody; edge and id are in the envelope.
    let nobody = SubjectId(Uuid::nil());
    let key = SubjectKey::from_bytes(
        "stride-us".parse().unwrap(),
        nobody,
        KeyScope::Import(edge()),
        [9; KEY_BYTES].into(),
    );
    let source = EventSource::new("us".parse().unwrap(), "replicator");
    let draft = Draft {
        kind: "sh.meridian.import.purged.v1",
        stream: EDGE.to_owned(),
        sequence: 1,
        class: DataClass::Operational,
        epoch: Epoch(1),
    };
    let purge = Event::sealed(&source, draft, &key, &json!({})).unwrap();
    let purge = purge.imported(Imported {
        origin: "eu".parse().unwrap(),
        edge: edge(),
        expires: Timestamp::now(),
    });
    world.send("imports.events", EDGE, &purge).await;
    world.sees_no_more(&reader, "community", event.id).await;
    assert_eq!(rows(&world).await, 0);

    // The replicator was away until now.
    let heard: Arc<Mutex<Vec<Value>>> = Arc::default();
    let hearing = Arc::clone(&heard);
    let router = Router::new().route(
        "/internal/purge-acks",
        post(move |axum::Json(ack): axum::Json<Value>| {
            hearing.lock().unwrap().push(ack);
            std::future::ready(StatusCode::NO_CONTENT)
        }),
    );
    world.region.serve("replicator", router).await;
    let first = until(|| async { heard.lock().unwrap().first().cloned() })
        .await
        .expect("an acknowledgement");
    let expected = json!({"tenant": "stride-us", "edge": EDGE, "purge_id": purge.id, "sink": "social", "purged": 1});
    assert_eq!(first, expected);
    let pool = world.region.running("social").database().unwrap();
    let settled = until(|| async {
        let mut tx = TenantTx::begin(&pool, &reader.scope()).await.unwrap();
        let left: i64 = sqlx::query_scalar("select count(*) from import_purge")
            .fetch_one(tx.conn())
            .await
            .unwrap();
        (left == 0).then_some(())
    })
    .await;
    assert!(settled.is_some());
    let count = heard.lock().unwrap().len();
    tokio::time::timeout(Duration::from_secs(3), async {
        while heard.lock().unwrap().len() == count {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect_err("what was heard is not said again");
}
