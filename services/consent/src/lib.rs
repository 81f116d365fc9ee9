//! Who agreed to what: purposes for classes of data, granted and withdrawn by the subject, with a receipt for each change;
//! what they object to or restrict, whatever they agreed to; and the permits without which nothing is delivered.
//!
//! A request walks through [`http`] → [`change`], [`limits`] or [`permits`] → [`domain`] → [`store`].

pub mod change;
pub mod domain;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod permits;
pub mod store;

use meridian_kit::db::{Migration, Pool};
use meridian_kit::event::EventSource;
use meridian_kit::evidence::Sealer;
use meridian_kit::kafka::{Topic, dead_letter};
use meridian_kit::outbox::Relay;
use meridian_kit::policy_feed::PolicyFeed;
use meridian_kit::residency::Homes;
use meridian_kit::service::{self, Parts};
use meridian_kit::subject_keys::Keyring;
use meridian_kit::{Start, StartError};

use crate::metrics::Metrics;

/// The steps of the schema.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new(100, "consents", include_str!("../migrations/0100_consents.sql")),
    Migration::new(101, "permits", include_str!("../migrations/0101_permits.sql")),
    Migration::new(102, "limits", include_str!("../migrations/0102_limits.sql")),
];

/// The service: what its handlers share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Consent {
    pool: Pool,
    keyring: Keyring,
    source: EventSource,
    feed: PolicyFeed,
    homes: Homes,
    metrics: Metrics,
}

impl Consent {
    /// With what the start gives.
    ///
    /// # Errors
    /// When the database or the keyring cannot be used.
    pub fn new(start: &Start) -> Result<Self, StartError> {
        Ok(Self {
            pool: start.database()?,
            keyring: start.keyring()?,
            source: start.event_source(),
            feed: start.feed().clone(),
            homes: start.homes(),
            metrics: Metrics::new(start.metrics()),
        })
    }
}

/// Runs the service until the process is told to stop.
///
/// # Errors
/// When something it needs cannot be used, or a part of it ended.
pub async fn run(start: Start) -> Result<(), StartError> {
    let consent = Consent::new(&start)?;
    let relay = Relay::new(&start)?;
    let sealer = Sealer::new(&start)?;
    let forgetting = consent.clone().keep_forgetting(start.stop());
    let parts = Parts::new(http::router(consent))
        .topics(topics())
        .background("the relay", relay.run())
        .background("the evidence", sealer.run())
        .background::<std::convert::Infallible>("the forgetting of permits", async move {
            forgetting.await;
            Ok(())
        });
    service::serve(start, parts).await
}

/// The topics that this service writes.
#[must_use]
pub fn topics() -> Vec<Topic> {
    vec![Topic::compacted(change::TOPIC), Topic::events(&dead_letter("consent"))]
}
