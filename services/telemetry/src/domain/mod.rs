//! Pure decisions about recorded samples: what a sample may be, how a batch is packed, what a track amounts to.

pub mod chunk;
pub mod identity;
pub mod quota;
pub mod recording;
pub mod retention;
pub mod sample;
pub mod summary;
