//! What an athlete reads: the workout's summary, and apart from it the health aggregates of its details.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::values::{Calories, DeviceModel, Distance, SportType, Tag, Title, Version, Visibility, WorkoutId};
use super::workout::{Phase, Workout};

/// Where in its life a workout is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The clock runs.
    Active,
    /// The clock stands.
    Paused,
    /// Ended with totals.
    Completed,
    /// Given up.
    Cancelled,
}

/// The workout at a glance. Holds no health data and no place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The workout.
    pub workout_id: WorkoutId,
    /// How many events it rests on: what a command's `expected_version` is compared with.
    pub version: Version,
    /// Where in its life it is.
    pub status: Status,
    /// The sport.
    pub sport_type: SportType,
    /// When it began.
    pub start_time: Timestamp,
    /// When it ended.
    pub end_time: Option<Timestamp>,
    /// Seconds, pauses excluded; while it goes on, up to the last pause.
    pub duration_sec: u32,
    /// Metres covered.
    pub distance_meters: Distance,
    /// Metres climbed.
    pub ascent_meters: Option<Distance>,
    /// The athlete's name for it.
    pub title: Option<Title>,
    /// The words attached to it.
    pub tags: Vec<Tag>,
    /// What recorded it.
    pub device_model: Option<DeviceModel>,
    /// Who may see it, where it differs from the athlete's general setting.
    pub visibility: Option<Visibility>,
    /// The recorded track, by reference.
    pub track_id: Option<Uuid>,
}

impl Summary {
    /// The summary of `workout` as its first `version` events leave it.
    pub fn of(workout: &Workout, version: Version) -> Self {
        let (status, end_time, totals) = match &workout.phase {
            Phase::Active { .. } => (Status::Active, None, None),
            Phase::Paused { .. } => (Status::Paused, None, None),
            Phase::Completed(completed) => (Status::Completed, Some(completed.end_time), Some(completed)),
            Phase::Cancelled { at } => (Status::Cancelled, Some(*at), None),
        };
        let started = &workout.started;
        Self {
            workout_id: started.workout_id,
            version,
            status,
            sport_type: started.sport_type.clone(),
            start_time: started.start_time,
            end_time,
            duration_sec: workout.moving_seconds(started.start_time),
            distance_meters: workout.distance,
            ascent_meters: totals.and_then(|completed| completed.ascent_meters),
            title: workout.title.clone(),
            tags: workout.tags.iter().cloned().collect(),
            device_model: started.device_model.clone(),
            visibility: started.visibility,
            track_id: totals.and_then(|completed| completed.track_id),
        }
    }
}

/// The health class of a workout: kept sealed and apart from the summary; heart rates are never in an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// Beats per minute.
    pub avg_heart_rate: Option<u16>,
    /// Beats per minute.
    pub max_heart_rate: Option<u16>,
    /// Kilocalories: derived from heart rate on most devices, so of its class.
    pub calories_burned: Option<Calories>,
    /// Samples in the recorded track.
    pub samples: Option<u64>,
}
