//! A recorded file: telemetry keeps its samples, the workout is recorded with a reference to them.
//!
//! The ids derive from the athlete and the file's digest, so a retry, also of an upload that broke off between the two
//! services, ends in the same track and the same workout.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest as _, Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use meridian_kit::auth::Athlete;
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_kit::headers::{CONTENT_LENGTH, CONTENT_TYPE, EPOCH, SUBJECT, TENANT, UPLOAD_DIGEST, VISIBILITY};
use meridian_kit::problem::{Problem, RawBody};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::uploaded;
use super::{App, LARGEST_UPLOAD_BYTES};
use crate::domain::{ImportedWorkout, InvalidValue, RecordedTrack, TrackRefusal, UploadDigest, Visibility};

const FIT: &str = "application/vnd.ant.fit";
const GPX: &str = "application/gpx+xml";
/// Time for telemetry to read and store a file; below the 60 s that a request has.
const TELEMETRY: Duration = Duration::from_secs(45);
const MIB: usize = 1024 * 1024;
/// Uploads in memory at once, in MiB: two of the largest, or many of the usual size.
const GATE_MIB: u32 = 64;
/// How long an upload waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// Bounds how much of uploads is in memory at once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(GATE_MIB as usize)))
    }
}

impl Gate {
    async fn enter(&self, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, Problem> {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        // Who does not say how much comes is reckoned with the most.
        let bytes = announced.unwrap_or(LARGEST_UPLOAD_BYTES);
        if bytes > LARGEST_UPLOAD_BYTES {
            return Err(Problem::too_large(LARGEST_UPLOAD_BYTES));
        }
        let weight = u32::try_from(bytes.div_ceil(MIB).max(1)).unwrap_or(GATE_MIB);
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.0).acquire_many_owned(weight)).await;
        // The semaphore is never closed; either way there is no room.
        turn.ok().and_then(Result::ok).ok_or_else(|| Problem::too_many(TURN))
    }
}

pub(super) async fn upload(
    State(app): State<App>,
    athlete: Athlete,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let media_type = media_type(&headers)?;
    let visibility = visibility(&headers)?;
    // Held until the answer: the file stays in memory until telemetry has it.
    let _turn = app.gate.enter(&headers).await?;
    let RawBody(file) = RawBody::from_request(request, &()).await?;
    if file.is_empty() {
        return Err(Problem::bad_request(
            "empty-file",
            "the body is empty: send the file's bytes",
        ));
    }
    let digest = UploadDigest(Sha256::digest(&file).into());
    let workout_id = digest.workout_id(athlete.subject.as_uuid());
    if let Some((summary, details)) = app.store.begin(&athlete).await?.summary(workout_id).await? {
        return Ok(uploaded(summary, details).into_response());
    }
    let track = hand_over(&app.telemetry, &athlete, &digest, media_type, file)
        .await
        .map_err(telemetry_problem)?;
    let subject = athlete.subject.as_uuid();
    let imported = ImportedWorkout::of(workout_id, subject, &track, visibility, Timestamp::now())
        .map_err(|refusal| undatable(&refusal))?;
    let recorded = app
        .store
        .import(app.store.begin(&athlete).await?, workout_id, &imported)
        .await?;
    if let Some(summary) = recorded {
        return Ok(uploaded(summary, Some(imported.details)).into_response());
    }
    // A retry that crossed its first attempt: the first has committed.
    match app.store.begin(&athlete).await?.summary(workout_id).await? {
        Some((summary, details)) => Ok(uploaded(summary, details).into_response()),
        None => Err(Problem::unavailable(
            "upload-unsettled",
            "the upload is still being recorded; repeat it",
        )),
    }
}

fn media_type(headers: &HeaderMap) -> Result<&'static str, Problem> {
    let named = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = named.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    [FIT, GPX].into_iter().find(|known| *known == essence).ok_or_else(|| {
        let message = "the body is a FIT or GPX file, and its Content-Type says which";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Problem::new(status, "unknown-file-type", message).detail_allowed("Content-Type", [FIT, GPX], message)
    })
}

fn visibility(headers: &HeaderMap) -> Result<Option<Visibility>, Problem> {
    let Some(value) = headers.get(VISIBILITY) else {
        return Ok(None);
    };
    value
        .to_str()
        .unwrap_or_default()
        .parse()
        .map(Some)
        .map_err(|error: InvalidValue| {
            let allowed = ["everyone", "followers", "only-me"];
            Problem::bad_request("invalid-field", "a header does not fit; see details").detail_allowed(
                "Meridian-Visibility",
                allowed,
                error.to_string(),
            )
        })
}

async fn hand_over(
    telemetry: &ServiceClient,
    athlete: &Athlete,
    digest: &UploadDigest,
    media_type: &'static str,
    file: Bytes,
) -> Result<RecordedTrack, ClientError> {
    telemetry
        .post("/internal/tracks")
        .header(CONTENT_TYPE, media_type)
        .header(TENANT, athlete.tenant.as_str())
        .header(SUBJECT, athlete.subject.to_string())
        .header(EPOCH, athlete.epoch.to_string())
        .header(UPLOAD_DIGEST, hex::encode(digest.0))
        .bytes(file)
        // The track's id derives from the digest: sending the file again stores nothing twice.
        .idempotent()
        .within(TELEMETRY)
        .fetch()
        .await
}

/// What the athlete is told when telemetry did not take the file: a refusal of the file in telemetry's own words;
/// anything else as a problem of ours. Nothing of the workout has been written.
fn telemetry_problem(error: ClientError) -> Problem {
    let ClientError::Refused { status, code, body, .. } = &error else {
        return error.into();
    };
    if !status.is_client_error() || *status == StatusCode::UNAUTHORIZED || *status == StatusCode::FORBIDDEN {
        return error.into();
    }
    let text = |field: &str| {
        body.as_ref()
            .and_then(|body| body.get(field)?.as_str())
            .map(str::to_owned)
    };
    let message = text("message").unwrap_or_else(|| "the file was refused".to_owned());
    let mut problem = Problem::new(
        *status,
        code.clone().unwrap_or_else(|| "file-refused".to_owned()),
        message,
    );
    for detail in body
        .as_ref()
        .and_then(|body| body.get("details")?.as_array())
        .into_iter()
        .flatten()
    {
        let part = |field: &str| {
            detail
                .get(field)
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        problem = problem.detail(part("field"), part("message"));
    }
    if *status == StatusCode::TOO_MANY_REQUESTS {
        problem = problem.retry_after(Duration::from_secs(1));
    }
    problem
}

fn undatable(refusal: &TrackRefusal) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "recording-times", refusal.to_string())
}
