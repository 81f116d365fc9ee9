//! An importer of an older version takes fewer copies at once than this exporter sends at most, and takes them as whole events.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod shared;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use http::StatusCode;
use meridian_kit::problem::Problem;
use meridian_kit::service::{self, Parts};
use meridian_kit::testing::until;
use meridian_replicator::domain::admission::ALWAYS_TAKEN;
use meridian_replicator::wire::{Form, Leased};
use serde_json::{Value, json};
use shared::{World, edge, ride};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_importer_that_takes_few_whole_copies_at_once_gets_such_and_misses_none() {
    misses_none(OlderImporter::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_importer_that_says_more_than_it_takes_gets_what_it_takes_and_misses_none() {
    for (status, code) in [(404, "not-found"), (400, "invalid-field")] {
        let older = OlderImporter {
            newer: Some((StatusCode::from_u16(status).expect("a status"), code)),
            ..OlderImporter::default()
        };
        let tried = Arc::clone(&older.tried);
        misses_none(older).await;
        assert_ne!(tried.load(Ordering::SeqCst), 0, "what it says that it takes is tried");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_line_that_carries_few_copies_in_time_few_go_at_once_and_none_is_missed() {
    misses_none(OlderImporter {
        in_time: Some(40),
        ..OlderImporter::default()
    })
    .await;
}

async fn misses_none(older: OlderImporter) {
    let world = World::without_edges().await;
    let router = older.router();
    world.us.region.stop("replicator").await;
    let serve = |start| service::serve(start, Parts::new(router).accept_peer_regions());
    world.us.region.run("replicator", serve).await;
    world.eu.consent.grant();
    world.open(&edge(3600));
    until(|| async { (world.eu.count("export_edge").await == 1).then_some(()) })
        .await
        .expect("the edge is open");
    world.eu.region.lose_lease();
    let shared = 2 * ALWAYS_TAKEN + 50;
    let waiting = i64::try_from(shared).expect("a few");
    world.eu.shares(&world.eu.athlete(), &ride(), shared).await;
    until(|| async { (world.eu.count("delivery").await == waiting).then_some(()) })
        .await
        .expect("all wait");

    world.eu.region.renew_lease();
    until(|| async { (world.eu.count("delivery").await == 0).then_some(()) })
        .await
        .expect("all have ended");
    let mut taken = older.taken();
    assert_eq!(taken.len(), shared, "each was taken");
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), shared, "each was taken once");
    let refusals = world.eu.evidence().await;
    let refusals = refusals.iter().filter(|entry| entry["kind"] == "refusal");
    assert_eq!(refusals.count(), 0, "no delivery ended without a transfer");
}

/// In the place of an importer: takes as many copies at once as the first version did, and as it did.
#[derive(Clone, Default)]
struct OlderImporter {
    taken: Arc<Mutex<Vec<String>>>,
    /// Copies of one push that reach it before the push is given up; all where none is said.
    in_time: Option<usize>,
    /// One of its processes is newer and answered the lease; this is what the older ones say to what that takes.
    newer: Option<(StatusCode, &'static str)>,
    /// How often something newer was pushed to it.
    tried: Arc<AtomicUsize>,
}

impl OlderImporter {
    fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn router(&self) -> Router {
        async fn batch(
            State(older): State<OlderImporter>,
            axum::Json(batch): axum::Json<Value>,
        ) -> Result<axum::Json<Value>, Problem> {
            let events = batch["events"].as_array().expect("events");
            if older.in_time.is_some_and(|most| events.len() > most) {
                std::future::pending().await
            }
            if events.len() > ALWAYS_TAKEN {
                return Err(Problem::forbidden("batch-size", "a batch has 1 to 100 events"));
            }
            let ids = events.iter().map(|event| event["id"].to_string());
            older.taken.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
            Ok(axum::Json(json!({"stored": events.len(), "repeated": 0})))
        }
        let (newer, answer) = (
            self.newer,
            self.newer.map(|_| {
                axum::Json(Leased {
                    carried: true,
                    ..Leased::default()
                })
            }),
        );
        let lease = move || async move { answer.ok_or(StatusCode::NO_CONTENT) };
        let tried = Arc::clone(&self.tried);
        let carried = move || async move {
            tried.fetch_add(1, Ordering::SeqCst);
            let (status, code) = newer.expect("pushed only to who says that it takes it");
            Problem::new(status, code, "a copy of another form")
        };
        let purge = || async { axum::Json(json!({"complete": false, "purged": 0, "sinks": []})) };
        Router::new()
            .route(
                "/peer/v1/batches",
                post(batch).layer(DefaultBodyLimit::max(1024 * 1024)),
            )
            .route(Form::Carried.path(), post(carried))
            .route("/peer/v1/leases", post(lease))
            .route("/peer/v1/cuts", post(purge))
            .with_state(self.clone())
    }
}
