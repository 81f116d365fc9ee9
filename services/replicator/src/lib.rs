//! The replicator: carries across a border what the policy and the subject's consent allow at that moment, and takes it
//! back when they no longer do.

mod asked;
pub mod domain;
pub mod exporter;
pub mod http;
pub mod importer;
mod keys;
mod metrics;
mod patience;
pub mod store;
pub mod wire;

use meridian_kit::db::Migration;
use meridian_kit::evidence::Sealer;
use meridian_kit::kafka::{Consumer, Topic, dead_letter};
use meridian_kit::outbox::Relay;
use meridian_kit::service::{self, Parts};
use meridian_kit::{Start, StartError};

use crate::exporter::{Exporter, Queue, SOURCES};
use crate::http::App;
use crate::importer::{Importer, TOPIC};
use crate::metrics::Meters;

/// The name in a replicator's certificate.
pub(crate) const REPLICATOR: &str = "replicator";

/// This service's schema.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new(100, "replicator", include_str!("../migrations/100_replicator.sql")),
    Migration::new(
        101,
        "delivery waits for",
        include_str!("../migrations/101_delivery_waits_for.sql"),
    ),
];

/// Runs both sides until told to stop.
///
/// # Errors
/// When it cannot start, or a part of it ended.
pub async fn run(start: Start) -> Result<(), StartError> {
    let pool = start.database()?;
    let exporter = Exporter::new(&start, Meters::new(start.metrics()))?;
    let relay = Relay::new(&start)?;
    let importer = Importer::new(&start, relay.at_hand())?;
    let consumer = Consumer::new(&start, SOURCES)?;
    let sealer = Sealer::new(&start)?.recording_policy();
    let app = App {
        importer: importer.clone(),
        pool,
        homes: start.homes(),
        region: start.region().clone(),
    };
    let parts = Parts::new(http::router(app))
        .accept_peer_regions()
        .topics(vec![Topic::events(TOPIC), Topic::events(&dead_letter(REPLICATOR))])
        .background("the relay", relay.run())
        .background("the evidence", sealer.run())
        .background("the queue", consumer.run_batches(Queue(exporter.clone())))
        .background("the deliveries", exporter.clone().deliver())
        .background("the key leases", exporter.clone().keep_leases())
        .background("the backlog", exporter.clone().tell_backlog())
        .background("the exported edges", exporter.keep_edges())
        .background("the imported edges", importer.keep_edges());
    service::serve(start, parts).await
}
