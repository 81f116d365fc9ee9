//! `POST /api/v1/telemetry`: a batch from a device.

use std::fmt;

use axum::extract::{FromRequestParts, State};
use http::StatusCode;
use http::request::Parts;
use jiff::Timestamp;
use meridian_kit::auth::Athlete;
use meridian_kit::problem::{Json, Problem};
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::App;
use super::wire::SampleIn;
use crate::domain::sample::Sample;
use crate::ingest::Batch;

/// Most samples of one batch.
const MAX_BATCH: usize = 1000;
/// How far a device's clock may be ahead of ours.
const AHEAD_MS: i64 = 24 * 3600 * 1000;

/// Room for this request, taken before its body is read.
pub(super) struct Room(#[expect(dead_code, reason = "held until the answer")] OwnedSemaphorePermit);

impl FromRequestParts<App> for Room {
    type Rejection = Problem;

    async fn from_request_parts(_parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Ok(Self(app.admission.request()?))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchIn {
    session_id: Uuid,
    batch_id: Uuid,
    #[serde(deserialize_with = "bounded")]
    samples: Vec<SampleIn>,
}

#[derive(Debug, Serialize)]
pub(super) struct Accepted {
    /// Samples that are kept: every in-sync replica of Kafka has them.
    accepted: usize,
    /// Where they can be read, a moment later.
    track_id: Uuid,
}

/// Takes a batch. 202 once it is kept; the track shows it when a writer has stored it.
///
/// The same `batch_id` of the same session again is stored once, whatever its body: a device that did not see the answer
/// repeats what it sent.
pub(super) async fn take(
    State(app): State<App>,
    _room: Room,
    athlete: Athlete,
    Json(body): Json<BatchIn>,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    let samples = checked(&body, Timestamp::now().as_millisecond())?;
    app.admission.quota(&athlete.tenant, athlete.subject, samples.len())?;
    // `checked` has refused what cannot be packed.
    let batch = Batch::pack(body.session_id, body.batch_id, &samples).map_err(|error| Problem::internal(&error))?;
    app.publisher.publish(&athlete, &batch).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(Accepted {
            accepted: samples.len(),
            track_id: body.session_id,
        }),
    ))
}

/// Stops at the first sample too many: a body of the allowed length can hold thousands of tiny ones, each many times its
/// size in memory.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SampleIn>, D::Error> {
    struct Bounded;
    impl<'de> Visitor<'de> for Bounded {
        type Value = Vec<SampleIn>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "1 to {MAX_BATCH} samples")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
            let mut samples = Vec::new();
            while let Some(sample) = sequence.next_element()? {
                if samples.len() == MAX_BATCH {
                    return Err(A::Error::invalid_length(MAX_BATCH + 1, &self));
                }
                samples.push(sample);
            }
            Ok(samples)
        }
    }
    deserializer.deserialize_seq(Bounded)
}

/// All samples, or every field that does not fit (the first hundred).
fn checked(body: &BatchIn, now_ms: i64) -> Result<Vec<Sample>, Problem> {
    let refused = || Problem::bad_request("invalid-samples", "samples do not fit; see details; nothing was stored");
    if body.samples.is_empty() {
        let message = format!("a batch has 1 to {MAX_BATCH} samples");
        return Err(refused().detail_allowed("samples", [format!("1..={MAX_BATCH} samples")], message));
    }
    let mut samples = Vec::with_capacity(body.samples.len());
    let (mut problem, mut wrong) = (refused(), 0);
    for (index, sample) in body.samples.iter().enumerate() {
        match sample.measured().check() {
            Ok(sample) if sample.time_ms <= now_ms + AHEAD_MS => samples.push(sample),
            Ok(_) => {
                wrong += 1;
                let message = "the time is more than a day ahead: set the device's clock";
                problem = problem.detail_allowed(format!("samples[{index}].t"), ["at most a day from now"], message);
            }
            Err(fields) => {
                for field in fields {
                    wrong += 1;
                    let place = format!("samples[{index}].{}", field.field);
                    problem = problem.detail_allowed(place, [field.allowed], field.to_string());
                }
            }
        }
        if wrong >= 100 {
            break;
        }
    }
    if wrong > 0 { Err(problem) } else { Ok(samples) }
}
