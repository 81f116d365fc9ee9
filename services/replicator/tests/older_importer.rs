//! An importer of an older version takes fewer copies at once than this exporter sends at most.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod shared;

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use meridian_kit::problem::Problem;
use meridian_kit::service::{self, Parts};
use meridian_kit::testing::until;
use meridian_replicator::domain::admission::ALWAYS_TAKEN;
use serde_json::{Value, json};
use shared::{World, edge, ride};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_importer_that_takes_few_copies_at_once_gets_few_and_misses_none() {
    let world = World::without_edges().await;
    let older = OlderImporter::default();
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

/// In the place of an importer: takes as many copies at once as the first version did.
#[derive(Clone, Default)]
struct OlderImporter(Arc<Mutex<Vec<String>>>);

impl OlderImporter {
    fn taken(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn router(&self) -> Router {
        async fn batch(
            State(older): State<OlderImporter>,
            axum::Json(batch): axum::Json<Value>,
        ) -> Result<axum::Json<Value>, Problem> {
            let events = batch["events"].as_array().expect("events");
            if events.len() > ALWAYS_TAKEN {
                return Err(Problem::forbidden("batch-size", "a batch has 1 to 100 events"));
            }
            let ids = events.iter().map(|event| event["id"].to_string());
            older.0.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
            Ok(axum::Json(json!({"stored": events.len(), "repeated": 0})))
        }
        let purge = || async { axum::Json(json!({"complete": false, "purged": 0, "sinks": []})) };
        Router::new()
            .route(
                "/peer/v1/batches",
                post(batch).layer(DefaultBodyLimit::max(1024 * 1024)),
            )
            .route("/peer/v1/leases", post(|| async {}))
            .route("/peer/v1/cuts", post(purge))
            .with_state(self.clone())
    }
}
