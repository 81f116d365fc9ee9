//! Hands batches to Kafka. A batch counts as taken when every in-sync replica has it, never before.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use meridian_kit::auth::Athlete;
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::kafka::{KafkaError, Producer};
use meridian_kit::metrics::Metrics;
use meridian_kit::problem::Problem;
use meridian_kit::subject_keys::{Create, Error as KeyError, KeyScope, Keyring};
use meridian_policy::DataClass;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::admission::{Admission, Shed};
use super::payload::{EVENT, Ingested};
use crate::TOPIC;
use crate::domain::chunk::{self, EncodeError};
use crate::domain::identity::event_of_batch;
use crate::domain::sample::Sample;

/// How long a device waits for the acknowledgement of a batch.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a file of many batches may take.
const FILE_PATIENCE: Duration = Duration::from_secs(30);

/// Samples of one track that are stored together, packed: a file's samples are in memory no longer than it takes to pack
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    track: Uuid,
    batch: Uuid,
    samples: u64,
    chunk: Vec<u8>,
}

impl Batch {
    /// Packs samples; a repeated batch has the same id.
    ///
    /// # Errors
    /// There are none, or more than a chunk holds.
    pub fn pack(track: Uuid, batch: Uuid, samples: &[Sample]) -> Result<Self, EncodeError> {
        Ok(Self {
            track,
            batch,
            samples: samples.len() as u64,
            chunk: chunk::encode(samples)?,
        })
    }
}

/// Nothing was acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No room now.
    #[error(transparent)]
    Shed(#[from] Shed),
    /// There is no key to seal under.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Kafka did not take it.
    #[error("a batch was not acknowledged: {0}")]
    Kafka(#[from] KafkaError),
    /// Kafka did not answer in time.
    #[error("a batch was not acknowledged in time")]
    TooLate,
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Shed(shed) => shed.into(),
            PublishError::Key(error) => error.into(),
            error @ (PublishError::Kafka(_) | PublishError::TooLate) => {
                tracing::warn!(%error, "samples were not acknowledged");
                let message =
                    "the samples were not acknowledged; send them again with the same ids, nothing is stored twice";
                Self::unavailable("not-acknowledged", message)
            }
        }
    }
}

impl From<Shed> for Problem {
    fn from(shed: Shed) -> Self {
        Self::too_many(shed.retry_after)
    }
}

/// Seals and sends batches. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Publisher {
    producer: Producer,
    keyring: Keyring,
    source: Arc<EventSource>,
    admission: Admission,
    accepted: Counter,
}

impl Publisher {
    /// With a producer of its own.
    #[must_use]
    pub fn new(
        producer: Producer,
        keyring: Keyring,
        source: EventSource,
        admission: Admission,
        metrics: &Metrics,
    ) -> Self {
        let accepted = metrics.counter(
            "meridian_ingest_accepted",
            "Samples that were acknowledged to who sent them",
        );
        Self {
            producer,
            keyring,
            source: Arc::new(source),
            admission,
            accepted,
        }
    }

    /// Sends one batch, or turns it away at once when there is no room.
    ///
    /// # Errors
    /// Nothing was acknowledged; what had already reached the broker is stored once, however often it is repeated.
    pub async fn publish(&self, athlete: &Athlete, batch: &Batch) -> Result<(), PublishError> {
        let event = self
            .seal(athlete, std::slice::from_ref(batch))
            .await?
            .remove(0)
            .to_bytes();
        let permit = self.admission.in_flight(event.len())?;
        let sent = self.enqueue(athlete, event, permit).await?;
        let acknowledged = tokio::time::timeout(PATIENCE, sent)
            .await
            .map_err(|_| PublishError::TooLate)?;
        acknowledged.map_err(|_| PublishError::TooLate)??;
        self.accepted.inc_by(batch.samples);
        Ok(())
    }

    /// Sends all batches of a file, waiting for room.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn publish_all(&self, athlete: &Athlete, batches: &[Batch]) -> Result<(), PublishError> {
        let deadline = tokio::time::Instant::now() + FILE_PATIENCE;
        let mut sent = Vec::with_capacity(batches.len());
        for some in batches.chunks(16) {
            for event in self.seal(athlete, some).await? {
                let event = event.to_bytes();
                let permit = self.admission.in_flight_until(event.len(), deadline).await?;
                sent.push(self.enqueue(athlete, event, permit).await?);
            }
        }
        for acknowledgement in sent {
            let acknowledged = tokio::time::timeout_at(deadline, acknowledgement)
                .await
                .map_err(|_| PublishError::TooLate)?;
            acknowledged.map_err(|_| PublishError::TooLate)??;
        }
        self.accepted.inc_by(batches.iter().map(|batch| batch.samples).sum());
        Ok(())
    }

    /// Under the key of the month in which we receive them; see `domain::retention`.
    async fn seal(&self, athlete: &Athlete, batches: &[Batch]) -> Result<Vec<Event>, PublishError> {
        let now = Timestamp::now();
        let scope = KeyScope::location_at(now);
        let key = self
            .keyring
            .key(&athlete.tenant, &athlete.subject, &scope, Create::Yes)
            .await?;
        let mut events = Vec::with_capacity(batches.len());
        for batch in batches {
            let payload = Ingested {
                session_id: batch.track,
                batch_id: batch.batch,
                chunk: batch.chunk.clone(),
            };
            let draft = Draft {
                kind: EVENT,
                stream: batch.track.to_string(),
                sequence: 1,
                // Heart rates are the most protected of what a chunk holds.
                class: DataClass::Health,
                epoch: athlete.epoch,
            };
            let id = event_of_batch(athlete.subject.as_uuid(), batch.track, batch.batch);
            events.push(Event::sealed_at(&self.source, draft, id, now, &key, &payload)?);
        }
        Ok(events)
    }

    /// The permit is held until the broker has answered, also when nobody waits for the answer any more: the bytes are
    /// in memory that long.
    async fn enqueue(
        &self,
        athlete: &Athlete,
        event: Vec<u8>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<oneshot::Receiver<Result<(), KafkaError>>, PublishError> {
        let delivery = self
            .producer
            .enqueue(TOPIC, &athlete.subject.to_string(), &event)
            .await?;
        let (answer, acknowledgement) = oneshot::channel();
        tokio::spawn(async move {
            let delivered = delivery.await;
            drop(permit);
            // Who asked may have given up.
            let _ = answer.send(delivered);
        });
        Ok(acknowledgement)
    }
}
