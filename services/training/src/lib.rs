//! Training: each workout is a stream of events; summaries and lists are written with them.

pub mod domain;
pub mod http;
pub mod store;

use meridian_kit::db::Migration;
use meridian_kit::kafka::Topic;
use meridian_kit::outbox::Relay;
use meridian_kit::service::{self, Parts};
use meridian_kit::{Start, StartError};

use crate::http::{App, Gate};
use crate::store::{Store, TOPIC};

/// This service's schema.
pub const MIGRATIONS: &[Migration] = &[Migration::new(
    100,
    "workout",
    include_str!("../migrations/100_workout.sql"),
)];

/// Runs the service until it is told to stop.
///
/// # Errors
/// When it cannot start, or a part of it ended.
pub async fn run(start: Start) -> Result<(), StartError> {
    let store = Store::new(start.database()?, start.keyring()?, start.event_source());
    let app = App {
        store,
        telemetry: start.client("telemetry")?,
        gate: Gate::default(),
    };
    let relay = Relay::new(&start)?;
    let parts = Parts::new(http::router(app))
        .topics(vec![Topic::events(TOPIC)])
        .background("the relay", relay.run());
    service::serve(start, parts).await
}
