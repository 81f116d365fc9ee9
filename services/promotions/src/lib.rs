//! Campaigns, delivered in the app to those whose consent stands at the moment of delivery, once each.
//!
//! A campaign walks through [`http`] → [`store::campaigns`] → [`delivery`] → [`permits`] → [`store::deliveries`]; what
//! others tell comes in through [`intake`].

pub mod delivery;
pub mod domain;
pub mod http;
pub mod intake;
pub mod permits;
pub mod store;

use std::sync::Arc;

use meridian_kit::db::Migration;
use meridian_kit::kafka::{Consumer, Topic, dead_letter};
use meridian_kit::outbox::Relay;
use meridian_kit::service::{Parts, serve};
use meridian_kit::{Start, StartError};
use tokio::sync::Notify;

use crate::delivery::{Counts, Deliverer, TOPIC};
use crate::http::Promotions;
use crate::intake::{Intake, TOPICS};
use crate::permits::Permits;

/// promotions' schema.
pub const MIGRATIONS: &[Migration] = &[Migration::new(
    100,
    "campaigns",
    include_str!("../migrations/0100_campaigns.sql"),
)];

/// Runs promotions until it is told to stop.
///
/// # Errors
/// When the database, a client or the kit cannot be used.
pub async fn run(start: Start) -> Result<(), StartError> {
    let pool = start.database()?;
    let keyring = start.keyring()?;
    let wake = Arc::new(Notify::new());
    let metrics = start.metrics();
    let deliverer = Deliverer {
        pool: pool.clone(),
        homes: start.homes(),
        keyring: keyring.clone(),
        permits: Permits::new(start.client("consent")?),
        source: start.event_source(),
        wake: Arc::clone(&wake),
        counts: Counts {
            delivered: metrics.counter("meridian_promotions_delivered", "Promotions that reached an inbox"),
            refused: metrics.counter(
                "meridian_promotions_refused",
                "Deliveries that the consent service refused",
            ),
            postponed: metrics.counter("meridian_promotions_postponed", "Attempts that are made again later"),
        },
    };
    let consumer = Consumer::new(&start, TOPICS)?;
    let intake = Intake {
        keyring,
        wake: Arc::clone(&wake),
    };
    let relay = Relay::new(&start)?;
    let stop = start.stop();
    let delivering = async move {
        deliverer.run(stop).await;
        Ok::<_, std::convert::Infallible>(())
    };
    let parts = Parts::new(http::router(Promotions { pool, wake }))
        .topics(vec![Topic::events(TOPIC), Topic::events(&dead_letter("promotions"))])
        .background("the intake", consumer.run(intake))
        .background("the deliveries", delivering)
        .background("the relay", relay.run());
    serve(start, parts).await
}
