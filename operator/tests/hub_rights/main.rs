//! What the hub may do in a member and what it may not, and what becomes of a region whose member is not as it should be:
//! the hub role between two real API servers, with the rights that the chart gives and no other
//! (`cargo xtask parts apiserver member -- cargo test -p meridian-operator --test hub_rights`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on says so by panicking, and a time that is asked for is printed"
)]

#[path = "../bed/mod.rs"]
mod bed;
mod members;
mod placements;
mod proxy;
#[path = "../rendered/mod.rs"]
mod rendered;
mod rights;
mod world;
