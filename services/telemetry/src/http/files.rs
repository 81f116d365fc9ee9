//! `POST /internal/tracks`: training hands over a recorded file. All of it is kept, or nothing.

use std::time::Duration;

use axum::extract::{FromRequest as _, Request, State};
use http::{HeaderMap, HeaderName, StatusCode};
use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::auth::Athlete;
use meridian_kit::db::TenantTx;
use meridian_kit::headers::{CONTENT_LENGTH, CONTENT_TYPE, EPOCH, SUBJECT, TENANT, UPLOAD_DIGEST};
use meridian_kit::problem::{Json, Problem, RawBody};
use meridian_kit::subject_keys::{Create, KeyScope};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{App, FILE_BYTES};
use crate::domain::chunk::EncodeError;
use crate::domain::identity::{batch_of_file, track_of_file};
use crate::domain::recording::Recording;
use crate::domain::summary::{Summary, summarize};
use crate::formats::{Format, FormatError};
use crate::ingest::Batch;
use crate::store::{self, TrackSummary};

/// Samples of one chunk of a file: an hour at one a second.
const CHUNK: usize = 3600;
/// How long the answer waits for the writers.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What became of a file.
#[derive(Debug, Serialize)]
pub(super) struct Kept {
    track_id: Uuid,
    /// Samples acknowledged, one per record of the file.
    samples: u64,
    /// Whether the writers have stored them all by now. If not, they will: every in-sync replica of Kafka has them.
    stored: bool,
    start_time: Option<Timestamp>,
    end_time: Option<Timestamp>,
    sport_type: Option<String>,
    device_model: Option<String>,
    distance_meters: Option<f64>,
    ascent_meters: Option<f64>,
    /// Seconds with the recording's clock running: the device's own, else those in motion.
    duration_sec: f64,
    moving_sec: f64,
    elapsed_sec: f64,
    calories_burned: Option<f64>,
    avg_heart_rate: Option<f64>,
    max_heart_rate: Option<u8>,
    /// Records whose time, order or fields had to be mended.
    untimed: u64,
    late: u64,
    implausible: u64,
}

/// What a track's totals are sealed for.
pub(super) fn summary_context(subject: SubjectId, track: Uuid) -> String {
    format!("telemetry.summary:{subject}/{track}")
}

/// Takes a file. The track's id derives from the athlete and the file, and each part's from the track: a repetition, also
/// of an attempt that broke off, ends in the same track with every sample once.
pub(super) async fn take(State(app): State<App>, request: Request) -> Result<(StatusCode, Json<Kept>), Problem> {
    let headers = request.headers().clone();
    let athlete = on_behalf_of(&app, &headers)?;
    let media_type = text(&headers, CONTENT_TYPE).unwrap_or_default();
    let format = Format::of_media_type(media_type).ok_or_else(|| {
        let known = ["application/vnd.ant.fit", "application/gpx+xml"];
        let message = "the body is a FIT or GPX file, and its Content-Type says which";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown-file-type", message).detail_allowed(
            "Content-Type",
            known,
            message,
        )
    })?;
    // Who does not say how much comes is reckoned with the most.
    let announced = text(&headers, CONTENT_LENGTH)
        .and_then(|length| length.parse().ok())
        .unwrap_or(FILE_BYTES);
    let _room = app.admission.file(announced).await?;
    let RawBody(file) = RawBody::from_request(request, &()).await?;
    let digest: [u8; 32] = Sha256::digest(&file).into();
    if text(&headers, UPLOAD_DIGEST).is_some_and(|claimed| claimed != hex::encode(digest)) {
        return Err(Problem::bad_request(
            "digest-mismatch",
            "the file changed on its way here; send it again",
        ));
    }
    let track = track_of_file(athlete.subject.as_uuid(), &digest);
    let read = {
        let _turn = app.admission.parse().await?;
        tokio::task::spawn_blocking(move || read(format, &file, track))
            .await
            .map_err(|error| Problem::internal(&error))?
    };
    let (recording, summary, batches) = read.map_err(|error| match error {
        ReadError::Format(error) => unreadable(&error),
        ReadError::Pack(error) => Problem::internal(&error),
    })?;
    app.publisher.publish_all(&athlete, &batches).await?;
    remember(&app, &athlete, track, &summary).await?;
    let stored = wait_until_stored(&app, &athlete, track, summary.samples).await;
    Ok((StatusCode::CREATED, Json(kept(track, stored, recording, &summary))))
}

/// Why a file did not become batches.
enum ReadError {
    Format(FormatError),
    Pack(EncodeError),
}

/// All of a file, packed; its samples are gone when this returns.
fn read(format: Format, file: &[u8], track: Uuid) -> Result<(Recording, Summary, Vec<Batch>), ReadError> {
    let mut recording = format.read(file).map_err(ReadError::Format)?;
    let samples = std::mem::take(&mut recording.samples);
    let summary = summarize(&samples);
    let parts = (0_u32..).zip(samples.chunks(CHUNK));
    let batches = parts
        .map(|(index, part)| Batch::pack(track, batch_of_file(track, index), part))
        .collect::<Result<_, _>>();
    Ok((recording, summary, batches.map_err(ReadError::Pack)?))
}

fn kept(track_id: Uuid, stored: bool, recording: Recording, summary: &Summary) -> Kept {
    Kept {
        track_id,
        samples: summary.samples,
        stored,
        start_time: Timestamp::from_millisecond(summary.start_ms).ok(),
        end_time: Timestamp::from_millisecond(summary.end_ms).ok(),
        sport_type: recording.sport,
        device_model: recording.device,
        distance_meters: summary.distance_meters,
        ascent_meters: summary.ascent_meters,
        duration_sec: recording
            .totals
            .timer_sec
            .filter(|seconds| *seconds > 0.0)
            .unwrap_or(summary.moving_sec),
        moving_sec: summary.moving_sec,
        elapsed_sec: summary.elapsed_sec,
        calories_burned: recording.totals.calories.filter(|calories| *calories > 0.0),
        avg_heart_rate: summary.avg_heart_rate,
        max_heart_rate: summary.max_heart_rate,
        untimed: recording.mended.untimed,
        late: recording.mended.late,
        implausible: recording.mended.implausible,
    }
}

/// The totals, sealed under the athlete's own key: they stay when the month's key is destroyed.
async fn remember(app: &App, athlete: &Athlete, track: Uuid, summary: &Summary) -> Result<(), Problem> {
    let key = app
        .keyring
        .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes)
        .await?;
    let sealed = key.seal_json(&summary_context(athlete.subject, track), summary)?;
    let mut tx = TenantTx::begin(&app.pool, &athlete.scope()).await?;
    store::put_summary(
        &mut tx,
        athlete.subject,
        track,
        &TrackSummary {
            samples: summary.samples,
            sealed,
        },
    )
    .await?;
    Ok(tx.commit().await?)
}

/// Looks until the writers have stored the file, for a bounded time. An error here changes nothing: it is kept.
async fn wait_until_stored(app: &App, athlete: &Athlete, track: Uuid, samples: u64) -> bool {
    let looking = async {
        loop {
            let looked = async {
                let mut tx = TenantTx::begin(&app.pool, &athlete.scope()).await?;
                let stored = store::stored_samples(&mut tx, athlete.subject, track).await?;
                tx.commit().await?;
                Ok::<_, meridian_kit::db::Error>(stored)
            };
            match looked.await {
                Ok(stored) if stored >= samples => return true,
                Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
                Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or(false)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Training has verified the athlete's token; that the tenant is at home here at that epoch is checked again.
fn on_behalf_of(app: &App, headers: &HeaderMap) -> Result<Athlete, Problem> {
    let wrong = |name: &'static str| {
        let message = "a header that says on whose behalf this is does not fit; see details";
        Problem::bad_request("invalid-header", message).detail(name, "it is missing or malformed")
    };
    let tenant = text(headers, TENANT)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| wrong("Meridian-Tenant"))?;
    let subject = text(headers, SUBJECT)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| wrong("Meridian-Subject"))?;
    let epoch = text(headers, EPOCH)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| wrong("Meridian-Epoch"))?;
    let athlete = Athlete {
        tenant,
        subject,
        epoch: meridian_policy::Epoch(epoch),
    };
    match app.homes.home_epoch(&athlete.tenant) {
        Some(epoch) if epoch == athlete.epoch => Ok(athlete),
        Some(epoch) if epoch < athlete.epoch => Err(Problem::unavailable(
            "tenant-arriving",
            "the tenant's placement is just arriving; repeat the request",
        )),
        _ => Err(Problem::unauthorized(
            "token-stale-epoch",
            "the token was made before the tenant's home changed; sign in again",
        )),
    }
}

/// 422: the request is understood, and the file is not one. Its words name the byte, never the content.
fn unreadable(error: &FormatError) -> Problem {
    let message = format!("{error}; nothing was stored");
    let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.code(), message);
    match error.offset() {
        Some(offset) => problem.detail("body", format!("byte {offset}")),
        None => problem,
    }
}
