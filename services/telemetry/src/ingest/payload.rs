//! The sealed payload of an event on `telemetry.samples`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meridian_kit::SubjectId;
use meridian_kit::event::Event;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::domain::chunk;
use crate::domain::identity::event_of_batch;
use crate::domain::sample::Sample;

/// The type of the event.
pub const EVENT: &str = "sh.meridian.telemetry.ingested.v1";

/// A batch of one track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingested {
    /// The track.
    pub session_id: Uuid,
    /// The batch: a repeated one has the same id.
    pub batch_id: Uuid,
    /// As [`chunk::encode`] packs it.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub chunk: Vec<u8>,
}

/// An event does not hold the batch that it claims to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotABatch {
    /// Another type.
    #[error("it is no batch of samples by its type")]
    OtherType,
    /// Envelope and payload disagree.
    #[error("its envelope names another batch than its payload")]
    OtherBatch,
    /// The chunk is none.
    #[error(transparent)]
    Chunk(#[from] chunk::DecodeError),
}

impl Ingested {
    /// The samples, after checking that the envelope is this batch's.
    ///
    /// # Errors
    /// The envelope is another's, or the chunk is malformed.
    pub fn samples(&self, envelope: &Event) -> Result<Vec<Sample>, NotABatch> {
        let id = event_of_batch(envelope.data_subject.as_uuid(), self.session_id, self.batch_id);
        if envelope.id != id || envelope.subject != self.session_id.to_string() {
            return Err(NotABatch::OtherBatch);
        }
        Ok(chunk::decode(&self.chunk)?)
    }
}

/// What a stored chunk is bound to: moved to another row, it does not open.
#[must_use]
pub fn chunk_context(subject: SubjectId, track: Uuid, batch: Uuid) -> String {
    format!("telemetry.chunk:{subject}/{track}/{batch}")
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD
        .decode(text)
        .map_err(|_| serde::de::Error::custom("the chunk is not base64"))
}
