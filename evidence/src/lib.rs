//! Evidence: what crossed a border, what was refused, and why, in chains of entries that nobody can change unseen, and that
//! say nothing about any one person.
//!
//! [`entry`] is one entry and its bytes, [`chain`] links entries, [`checkpoint`] signs how far a chain has come,
//! [`commitment`] ties an entry to subjects for as long as their keys live, [`export`] writes chains to a file, [`verify`]
//! checks such a file without asking anybody, and [`report`] reads records of processing and the transfer register out of
//! it. The format is in README.md. Pure: no database, no network, no clock.

pub mod chain;
pub mod checkpoint;
pub mod commitment;
pub mod entry;
pub mod export;
pub mod report;
pub mod verify;

pub use chain::{ChainId, Digest};
pub use checkpoint::{Checkpoint, Signer};
pub use entry::{Entry, Kind};
pub use verify::{Rejected, Verified, verify};
