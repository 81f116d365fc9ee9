//! The rows: each a promise, proved against the parts themselves.

mod consent_before_promotion;
mod cut_edge;
mod foreign_gateway;
mod real_ride;
mod refused_policy;
mod shared_workout;

use anyhow::{Result, bail};

use crate::world::World;

/// A promise.
pub struct Row {
    /// As the README's table numbers it.
    pub number: u8,
    /// In a sentence.
    pub promise: &'static str,
}

/// What became of it.
pub enum Outcome {
    /// It holds; what was seen.
    Proved(String),
    /// It could not be tried on this machine; why.
    #[expect(dead_code, reason = "rows that need what a machine may lack say so by this")]
    Skipped(String),
}

/// Every row that is there to be proved, in order.
pub const ALL: &[Row] = &[
    Row {
        number: 2,
        promise: "An EU athlete at the us gateway is sent home, and only with a valid token told where home is",
    },
    Row {
        number: 3,
        promise: "Every record of a FIT file is stored once, reads back value by value, and makes a workout with totals",
    },
    Row {
        number: 4,
        promise: "No promotion before consent, one after it, none once a withdrawal is acknowledged",
    },
    Row {
        number: 5,
        promise: "A shared workout reaches us with the edge's fields alone, and without consent not at all",
    },
    Row {
        number: 6,
        promise: "A removed edge stops the next delivery; us's copies are gone from tables, feed and topic, as both sides acknowledge",
    },
    Row {
        number: 8,
        promise: "A policy that sends health data to us is refused at kubectl apply, and in status without the webhook",
    },
];

/// Proves one row.
pub async fn prove(number: u8, world: &World) -> Result<Outcome> {
    match number {
        2 => foreign_gateway::prove(world).await,
        3 => real_ride::prove(world).await,
        4 => consent_before_promotion::prove(world).await,
        5 => shared_workout::prove(world).await,
        6 => cut_edge::prove(world).await,
        8 => refused_policy::prove(world).await,
        _ => bail!("row {number} has no proof"),
    }
}
