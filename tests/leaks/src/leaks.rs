//! Every way out of a border that research knows, attempted on real parts: see the README.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

// The worlds are those of the services' own tests.
#[allow(dead_code, reason = "made for more tests than these")]
#[path = "../../../services/identity/tests/common/mod.rs"]
mod accounts;
#[path = "../../../services/identity/tests/common/alike.rs"]
mod alike;
#[path = "../../../services/consent/tests/support/mod.rs"]
mod consent;
#[allow(dead_code, reason = "made for more tests than these")]
#[path = "../../../services/gateway/tests/support/mod.rs"]
mod gateway;
#[path = "../../../services/replicator/tests/shared/mod.rs"]
mod shared;

mod answers;
mod border;
mod database;
mod engine;
mod erasure;
mod listed;
mod table;
