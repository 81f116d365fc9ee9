//! Live workouts: start, command, summary, list.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use jiff::Timestamp;
use meridian_kit::auth::Athlete;
use meridian_kit::idempotency::{self, IdempotencyKey, Outcome};
use meridian_kit::problem::{Json, Path, Problem, Query, RawBody, parse_json};
use serde::Deserialize;
use uuid::Uuid;

use super::App;
use super::answer::{Page, Workout};
use super::cursor::{Cursor, InvalidCursor};
use crate::domain::{Start, Version, WorkoutCommand, WorkoutId};
use crate::store::{MOST_LISTED, Position};

/// Workouts in a page unless the client says otherwise.
const USUALLY_LISTED: u32 = 20;

#[derive(Debug, Deserialize)]
struct CommandRequest {
    /// The version that the client has seen.
    expected_version: Version,
    #[serde(flatten)]
    command: WorkoutCommand,
}

pub(super) async fn start(
    State(app): State<App>,
    athlete: Athlete,
    key: IdempotencyKey,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let start: Start = parse_json(&body)?;
    let request = [b"start ".as_slice(), &body].concat();
    let command = WorkoutCommand::Start(start);
    let asked = Asked {
        id: WorkoutId::fresh(),
        expected: Version::default(),
        command,
        status: StatusCode::CREATED,
    };
    obey(&app, &athlete, &key, &request, asked).await
}

pub(super) async fn command(
    State(app): State<App>,
    athlete: Athlete,
    Path(id): Path<Uuid>,
    key: IdempotencyKey,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let CommandRequest {
        expected_version,
        command,
    } = parse_json(&body)?;
    // The same body for another workout is another request.
    let request = [format!("command {id} ").as_bytes(), &body].concat();
    let asked = Asked {
        id: WorkoutId(id),
        expected: expected_version,
        command,
        status: StatusCode::OK,
    };
    obey(&app, &athlete, &key, &request, asked).await
}

struct Asked {
    id: WorkoutId,
    expected: Version,
    command: WorkoutCommand,
    /// Of the answer when it is obeyed.
    status: StatusCode,
}

async fn obey(
    app: &App,
    athlete: &Athlete,
    key: &IdempotencyKey,
    request: &[u8],
    asked: Asked,
) -> Result<Response, Problem> {
    let mut tx = app.store.begin(athlete).await?;
    let subject_key = tx.key().clone();
    let subject = athlete.subject.to_string();
    let slot = match idempotency::begin(tx.tenant_tx(), &subject, key, request, &subject_key).await? {
        Outcome::Fresh(slot) => slot,
        Outcome::Repeated(response) => return Ok(response),
    };
    let Asked {
        id,
        expected,
        command,
        status,
    } = asked;
    let summary = app
        .store
        .execute(&mut tx, id, expected, &command, Timestamp::now())
        .await?;
    let response = slot.finish(tx.tenant_tx(), status, &summary).await?;
    tx.commit().await?;
    Ok(response)
}

pub(super) async fn summary(
    State(app): State<App>,
    athlete: Athlete,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    let found = app.store.begin(&athlete).await?.summary(WorkoutId(id)).await?;
    let (summary, details) = found.ok_or_else(|| Problem::not_found("no-such-workout", "there is no such workout"))?;
    Ok(Json(Workout::new(summary, details)).into_response())
}

#[derive(Debug, Deserialize)]
pub(super) struct ListQuery {
    cursor: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn list(
    State(app): State<App>,
    athlete: Athlete,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page>, Problem> {
    let limit = query.limit.unwrap_or(USUALLY_LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(
            Problem::bad_request("invalid-query", "a query parameter does not fit; see details")
                .detail("limit", format!("a page has 1 to {MOST_LISTED} workouts")),
        );
    }
    let after = query
        .cursor
        .map(|text| text.parse::<Cursor>())
        .transpose()
        .map_err(|error: InvalidCursor| {
            Problem::bad_request("invalid-query", "a query parameter does not fit; see details")
                .detail("cursor", error.to_string())
        })?;
    let mut tx = app.store.begin(&athlete).await?;
    // One more than asked for tells whether there is a next page.
    let mut workouts = tx.list(after.map(|Cursor(position)| position), limit + 1).await?;
    let shown = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = workouts.len() > shown;
    workouts.truncate(shown);
    let last = workouts.last().filter(|_| more);
    let next_cursor = last.map(|last| {
        Cursor(Position {
            started_at: last.start_time,
            workout_id: last.workout_id,
        })
        .to_string()
    });
    Ok(Json(Page { workouts, next_cursor }))
}
