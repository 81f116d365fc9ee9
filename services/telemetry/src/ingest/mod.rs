//! From checked samples to an acknowledgement: encode, seal, hand to Kafka, wait until every in-sync replica has it.

pub mod admission;
mod payload;
mod publish;

pub use payload::{EVENT, Ingested, NotABatch, chunk_context};
pub use publish::{Batch, PublishError, Publisher};
