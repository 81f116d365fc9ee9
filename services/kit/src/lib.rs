//! What every service of Meridian shares, and nothing of any one service.
//!
//! A service is a function `run(start: Start)`: it asks [`Start`] for what it needs (database, keyring, Kafka, clients),
//! builds a router and background parts, and hands them to [`service::serve`].
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use meridian_kit::{Start, StartError, auth::Athlete, outbox::Relay, service::{self, Parts}};
//!
//! pub async fn run(start: Start) -> Result<(), StartError> {
//!     let _pool = start.database()?;
//!     let relay = Relay::new(&start)?;
//!     let router = Router::new().route("/api/v1/me", get(|athlete: Athlete| async move { athlete.subject.to_string() }));
//!     service::serve(start, Parts::new(router).background("the relay", relay.run())).await
//! }
//! ```

pub mod auth;
pub mod client;
pub mod config;
pub mod counted;
pub mod db;
pub mod event;
pub mod evidence;
pub mod headers;
pub mod idempotency;
mod ids;
pub mod inbox;
pub mod kafka;
pub mod log;
pub mod metrics;
pub mod outbox;
pub mod policy_feed;
pub mod problem;
pub mod ready;
pub mod residency;
pub mod server;
pub mod service;
mod start;
pub mod subject_keys;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
pub mod trace;

pub use ids::{InvalidSubject, SubjectId};
pub use start::{Listeners, Start, StartError};
