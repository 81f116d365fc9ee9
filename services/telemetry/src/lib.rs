//! Telemetry: samples from devices and files, sealed in chunks. Two processes: [`run`] takes and shows samples, and
//! [`run_writer`] stores them; between them is Kafka.

pub mod domain;
pub mod formats;
pub mod http;
pub mod ingest;
pub mod retention;
pub mod settings;
pub mod store;
#[cfg(feature = "synthetic")]
pub mod synthetic;
pub mod writer;

use meridian_kit::db::Migration;
use meridian_kit::kafka::{Cleanup, Topic, dead_letter};
use meridian_kit::service::{self, Parts};
use meridian_kit::{Start, StartError};

use crate::http::App;
use crate::settings::Settings;

/// Batches on their way to the writers, sealed.
pub const TOPIC: &str = "telemetry.samples";
/// The consumer group of all writers of a region.
pub const WRITERS: &str = "telemetry-writer";

/// This service's schema.
pub const MIGRATIONS: &[Migration] = &[Migration::new(
    100,
    "chunk",
    include_str!("../migrations/100_chunk.sql"),
)];

/// Runs the API until it is told to stop.
///
/// # Errors
/// When it cannot start, or a part of it ended.
pub async fn run(start: Start) -> Result<(), StartError> {
    let settings = Settings::from_env()?;
    run_with(start, settings).await
}

/// As [`run`] with settings at hand.
///
/// # Errors
/// When it cannot start, or a part of it ended.
pub async fn run_with(start: Start, settings: Settings) -> Result<(), StartError> {
    let app = App::new(&start, &settings)?;
    let sweep = retention::sweep(start.database()?, start.keyring()?, start.feed().clone(), start.stop());
    let parts = Parts::new(http::router(app))
        .topics(vec![samples(&settings)])
        .background("the retention", sweep);
    service::serve(start, parts).await
}

/// Runs a writer until it is told to stop.
///
/// # Errors
/// When it cannot start, or a part of it ended.
pub async fn run_writer(start: Start) -> Result<(), StartError> {
    let parts = Parts::without_server().topics(vec![dead_letters()]);
    let parts = writer::parts(&start, parts)?;
    service::serve(start, parts).await
}

/// Samples wait for a week at most: the writers' longest absence.
fn samples(settings: &Settings) -> Topic {
    Topic {
        name: TOPIC.to_owned(),
        partitions: settings.partitions,
        cleanup: Cleanup::DeleteAfterDays(7),
    }
}

fn dead_letters() -> Topic {
    Topic {
        partitions: 1,
        ..Topic::events(&dead_letter(WRITERS))
    }
}
