//! Both roles against real API servers in trouble: they refuse (409, 429, 500), say nothing, lose answers, let watches expire,
//! lack a definition at the start, ask a webhook that is gone
//! (`cargo xtask parts apiserver member -- cargo test -p meridian-operator --test faults`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

#[path = "../bed/mod.rs"]
mod bed;
mod hub;
mod proxy;
mod region;
#[path = "../world/mod.rs"]
mod world;
