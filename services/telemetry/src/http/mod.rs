//! The API: devices send batches, athletes read their tracks, training hands over files.

mod files;
mod samples;
mod tracks;
mod wire;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use meridian_kit::auth::Peer;
use meridian_kit::db::Pool;
use meridian_kit::residency::Homes;
use meridian_kit::subject_keys::Keyring;
use meridian_kit::{Start, StartError};

use crate::ingest::Publisher;
use crate::ingest::admission::Admission;
use crate::settings::Settings;
use crate::writer::backlog::Backlog;

/// A batch of 1000 samples with every field is about 150 KB.
const BATCH_BYTES: usize = 256 << 10;
/// The largest file.
const FILE_BYTES: usize = 32 << 20;

/// What the handlers need. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    pool: Pool,
    keyring: Keyring,
    homes: Homes,
    admission: Admission,
    publisher: Publisher,
    backlog: Backlog,
}

impl App {
    /// With what a start gives.
    ///
    /// # Errors
    /// When a part cannot be made.
    pub fn new(start: &Start, settings: &Settings) -> Result<Self, StartError> {
        let admission = Admission::new(settings, start.metrics());
        let keyring = start.keyring()?;
        let producer = start.kafka().producer()?.renewed();
        let publisher = Publisher::new(
            producer,
            keyring.clone(),
            start.event_source(),
            admission.clone(),
            start.metrics(),
        );
        let backlog = Backlog::new(start.kafka());
        Ok(Self {
            pool: start.database()?,
            keyring,
            homes: start.homes(),
            admission,
            publisher,
            backlog,
        })
    }
}

/// The routes.
pub fn router(app: App) -> Router {
    let files = Router::new()
        .route(
            "/internal/tracks",
            post(files::take).layer(DefaultBodyLimit::max(FILE_BYTES)),
        )
        .layer(Peer::require(&["training"]));
    // Athletes come through the gateway and nobody else.
    let public = Router::new()
        .route(
            "/api/v1/telemetry",
            post(samples::take).layer(DefaultBodyLimit::max(BATCH_BYTES)),
        )
        .route("/api/v1/tracks/{track_id}", get(tracks::read))
        .layer(Peer::require(&["gateway"]));
    public.merge(files).with_state(app)
}
