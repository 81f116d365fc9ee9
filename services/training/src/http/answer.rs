//! What an athlete sees of a workout.

use axum::response::IntoResponse;
use http::StatusCode;
use meridian_kit::headers::LOCATION;
use meridian_kit::problem::Json;
use serde::Serialize;

use crate::domain::{Details, Summary};

/// A workout with its totals, health among them: for the athlete alone.
#[derive(Debug, Serialize)]
pub(super) struct Workout {
    #[serde(flatten)]
    summary: Summary,
    #[serde(flatten)]
    details: Details,
}

impl Workout {
    pub(super) fn new(summary: Summary, details: Option<Details>) -> Self {
        Self {
            summary,
            details: details.unwrap_or_default(),
        }
    }
}

/// The answer to an upload, the same for every repetition of it.
pub(super) fn uploaded(summary: Summary, details: Option<Details>) -> impl IntoResponse {
    let location = format!("/api/v1/workouts/{}/summary", summary.workout_id);
    (
        StatusCode::CREATED,
        [(LOCATION, location)],
        Json(Workout::new(summary, details)),
    )
}

/// A page of the list.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    pub(super) workouts: Vec<Summary>,
    /// Ask with it for the workouts before these; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
}
