//! What has happened to a workout. Places and heart rates are never here: only the reference to the track that holds
//! them, which expires on its own.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::values::{Calories, DeviceModel, Distance, Speed, SportType, Tag, Title, Visibility, WorkoutId};

/// A workout has begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The workout.
    pub workout_id: WorkoutId,
    /// The athlete.
    pub user_id: Uuid,
    /// The sport.
    pub sport_type: SportType,
    /// When the athlete set off.
    pub start_time: Timestamp,
    /// What records it.
    pub device_model: Option<DeviceModel>,
    /// The athlete's name for it.
    pub title: Option<Title>,
    /// Who may see it, where it differs from the athlete's general setting.
    pub visibility: Option<Visibility>,
}

/// How it goes; what is absent has not changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Updated {
    /// The workout.
    pub workout_id: WorkoutId,
    /// Metres so far.
    pub current_distance_meters: Option<Distance>,
    /// Metres per second.
    pub current_speed: Option<Speed>,
    /// A new name for it.
    pub title: Option<Title>,
}

/// The clock has been stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paused {
    /// The workout.
    pub workout_id: WorkoutId,
    /// When.
    pub at: Timestamp,
}

/// The clock runs again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resumed {
    /// The workout.
    pub workout_id: WorkoutId,
    /// When.
    pub at: Timestamp,
}

/// It has ended, with its totals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completed {
    /// The workout.
    pub workout_id: WorkoutId,
    /// When it ended.
    pub end_time: Timestamp,
    /// Seconds, pauses excluded.
    pub duration_sec: u32,
    /// Metres covered.
    pub distance_meters: Distance,
    /// Metres climbed.
    pub ascent_meters: Option<Distance>,
    /// Kilocalories.
    pub calories_burned: Option<Calories>,
    /// The recorded track, by reference.
    pub track_id: Option<Uuid>,
}

/// It was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cancelled {
    /// The workout.
    pub workout_id: WorkoutId,
    /// When.
    pub at: Timestamp,
}

/// A word was attached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TagAdded {
    /// The workout.
    pub workout_id: WorkoutId,
    /// The word.
    pub tag: Tag,
}

/// One fact in a workout's stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum WorkoutEvent {
    /// See [`Started`].
    Started(Started),
    /// See [`Updated`].
    Updated(Updated),
    /// See [`Paused`].
    Paused(Paused),
    /// See [`Resumed`].
    Resumed(Resumed),
    /// See [`Completed`].
    Completed(Completed),
    /// See [`Cancelled`].
    Cancelled(Cancelled),
    /// See [`TagAdded`].
    TagAdded(TagAdded),
}

impl WorkoutEvent {
    /// The CloudEvents type under which other services hear of it.
    pub fn cloud_type(&self) -> &'static str {
        match self {
            Self::Started(_) => "sh.meridian.workout.started.v1",
            Self::Updated(_) => "sh.meridian.workout.updated.v1",
            Self::Paused(_) => "sh.meridian.workout.paused.v1",
            Self::Resumed(_) => "sh.meridian.workout.resumed.v1",
            Self::Completed(_) => "sh.meridian.workout.completed.v1",
            Self::Cancelled(_) => "sh.meridian.workout.cancelled.v1",
            Self::TagAdded(_) => "sh.meridian.workout.tag-added.v1",
        }
    }

    /// No event follows this one.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Cancelled(_))
    }

    /// What other services read: the event's own fields, without the tag that tells the store which event it is.
    pub fn payload(&self) -> Result<serde_json::Value, serde_json::Error> {
        match self {
            Self::Started(event) => serde_json::to_value(event),
            Self::Updated(event) => serde_json::to_value(event),
            Self::Paused(event) => serde_json::to_value(event),
            Self::Resumed(event) => serde_json::to_value(event),
            Self::Completed(event) => serde_json::to_value(event),
            Self::Cancelled(event) => serde_json::to_value(event),
            Self::TagAdded(event) => serde_json::to_value(event),
        }
    }
}
