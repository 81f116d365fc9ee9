//! Who follows whom, and what they see of each other's workouts: this service's own copies of what training, identity and
//! (from other regions) the replicator tell.
//!
//! An event walks through [`intake`] → [`store`]; a request through [`http`] → [`feed`] or [`share`] → [`store`], and what
//! may be seen is decided in [`domain::visibility`].

pub mod domain;
pub mod feed;
pub mod http;
pub mod intake;
pub mod purges;
pub mod share;
pub mod store;

use std::sync::Arc;

use meridian_kit::db::{Migration, Pool};
use meridian_kit::event::EventSource;
use meridian_kit::kafka::{Consumer, Topic, dead_letter};
use meridian_kit::outbox::Relay;
use meridian_kit::policy_feed::PolicyFeed;
use meridian_kit::service::{self, Parts};
use meridian_kit::subject_keys::Keyring;
use meridian_kit::{Start, StartError};
use tokio::sync::Notify;

use crate::intake::Intake;
use crate::purges::Purges;

/// The steps of the schema.
pub const MIGRATIONS: &[Migration] = &[Migration::new(
    100,
    "social",
    include_str!("../migrations/0100_social.sql"),
)];

/// The service: what its handlers share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Social {
    pool: Pool,
    keyring: Keyring,
    source: EventSource,
    feed: PolicyFeed,
}

/// Runs the service until the process is told to stop.
///
/// # Errors
/// When something it needs cannot be used, or a part of it ended.
pub async fn run(start: Start) -> Result<(), StartError> {
    let social = Social {
        pool: start.database()?,
        keyring: start.keyring()?,
        source: start.event_source(),
        feed: start.feed().clone(),
    };
    let relay = Relay::new(&start)?;
    let purged = Arc::new(Notify::new());
    let intake = Intake::new(start.keyring()?, Arc::clone(&purged));
    let consumer = Consumer::new(&start, intake::TOPICS)?;
    let purges = Purges {
        pool: start.database()?,
        homes: start.homes(),
        replicator: start.client("replicator")?,
        purged,
        stop: start.stop(),
    };
    let parts = Parts::new(http::router(social))
        .topics(topics())
        .background("the relay", relay.run())
        .background("the intake of events", consumer.run(intake))
        .background("the acknowledgement of purges", purges.clone().acknowledge())
        .background("the expiry of copies", purges.expire());
    service::serve(start, parts).await
}

/// The topics that this service writes.
#[must_use]
pub fn topics() -> Vec<Topic> {
    vec![Topic::events(share::TOPIC), Topic::events(&dead_letter("social"))]
}
