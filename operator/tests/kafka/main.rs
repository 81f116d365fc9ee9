//! Kafka as a region has it: who is let in, who may do what, and what happens when certificates or releases change. On a
//! real broker that runs what the operator lays down.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod broker;
mod changes;
mod load;
mod rights;
mod verifier;
