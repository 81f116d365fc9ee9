//! What may leave, in what shape, and what may come in: pure decisions, no clock of its own, no I/O.

pub mod admission;
pub mod delivery;
pub mod edges;
pub mod evidence;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod outgoing;
pub mod pseudonym;
pub mod reception;
