//! The leak paths that lead through Kubernetes, attempted on real API servers (tests/leaks has the others, and the list):
//! `cargo xtask parts apiserver member -- cargo test -p meridian-operator --test hub_leaks`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

#[path = "../bed/mod.rs"]
mod bed;
#[path = "../rendered/mod.rs"]
mod rendered;
#[path = "../../../tests/leaks/src/table.rs"]
mod table;
#[allow(dead_code, reason = "made for other tests, too")]
#[path = "../hub_rights/world.rs"]
mod world;

mod admission;
mod placement;
mod reach;
