//! The API: parses, asks the store, answers. Decides nothing about workouts.

mod answer;
mod cursor;
mod upload;
mod workouts;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use meridian_kit::auth::Peer;
use meridian_kit::client::ServiceClient;

pub use upload::Gate;

use crate::store::Store;

/// The largest file that is taken.
pub const LARGEST_UPLOAD_BYTES: usize = 32 * 1024 * 1024;

/// What the handlers work with.
#[derive(Clone)]
pub struct App {
    /// The workouts.
    pub store: Store,
    /// Keeps tracks.
    pub telemetry: ServiceClient,
    /// How much of uploads is in memory at once.
    pub gate: Gate,
}

/// The routes, for the gateway alone.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/api/v1/workouts", post(workouts::start).get(workouts::list))
        .route("/api/v1/workouts/{workout_id}/commands", post(workouts::command))
        .route("/api/v1/workouts/{workout_id}/summary", get(workouts::summary))
        .route(
            "/api/v1/uploads",
            post(upload::upload).layer(DefaultBodyLimit::max(LARGEST_UPLOAD_BYTES)),
        )
        .layer(Peer::require(&["gateway"]))
        .with_state(app)
}
