//! What an athlete may ask of a workout.

use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::values::{Calories, DeviceModel, Distance, Speed, SportType, Tag, Title, Visibility};

/// Begins a workout.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The sport.
    pub sport_type: SportType,
    /// When the athlete set off, by the device's clock.
    pub start_time: Timestamp,
    /// What records it.
    #[serde(default)]
    pub device_model: Option<DeviceModel>,
    /// The athlete's name for it.
    #[serde(default)]
    pub title: Option<Title>,
    /// Who may see it, where it differs from the athlete's general setting.
    #[serde(default)]
    pub visibility: Option<Visibility>,
}

/// Ends a workout with its totals.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Complete {
    /// When it ended; now, where the device does not say.
    #[serde(default)]
    pub end_time: Option<Timestamp>,
    /// Metres covered; the last update's, where the device does not say.
    #[serde(default)]
    pub distance_meters: Option<Distance>,
    /// Metres climbed.
    #[serde(default)]
    pub ascent_meters: Option<Distance>,
    /// Kilocalories.
    #[serde(default)]
    pub calories_burned: Option<Calories>,
    /// The recording's own count of seconds without pauses; bounded by what the workout's own clock saw.
    #[serde(default)]
    pub moving_sec: Option<u32>,
    /// The recorded track, by reference.
    #[serde(default)]
    pub track_id: Option<Uuid>,
}

/// The commands on a workout that exists, and the one that begins it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum WorkoutCommand {
    /// Begin. Reached through its own endpoint, never through `/commands`.
    #[serde(skip)]
    Start(Start),
    /// Say how it goes.
    Update {
        /// Metres so far.
        #[serde(default)]
        current_distance_meters: Option<Distance>,
        /// Metres per second at this moment.
        #[serde(default)]
        current_speed: Option<Speed>,
        /// A new name for it.
        #[serde(default)]
        title: Option<Title>,
    },
    /// Stop the clock.
    Pause {
        /// When; now, where the device does not say.
        #[serde(default)]
        at: Option<Timestamp>,
    },
    /// Let the clock run again.
    Resume {
        /// When; now, where the device does not say.
        #[serde(default)]
        at: Option<Timestamp>,
    },
    /// End it with its totals.
    Complete(Complete),
    /// Give it up; it counts for nothing.
    Cancel {
        /// When; now, where the device does not say.
        #[serde(default)]
        at: Option<Timestamp>,
    },
    /// Attach a word to it.
    AddTag {
        /// The word.
        tag: Tag,
    },
}
