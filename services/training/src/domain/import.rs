//! A recorded file becomes a finished workout: the same file of the same athlete always the same one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::command::{Complete, Start, WorkoutCommand};
use super::event::WorkoutEvent;
use super::read_model::{Details, Summary};
use super::refusal::Refusal;
use super::values::{Distance, Quantity, SportType, Version, Visibility, WorkoutId};
use super::workout::{Workout, decide, evolve};

/// SHA-256 of an uploaded file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadDigest(pub [u8; 32]);

impl UploadDigest {
    /// The workout that this file of this athlete becomes: uploading it again finds the same one.
    pub fn workout_id(&self, athlete: Uuid) -> WorkoutId {
        // The prefix keeps it apart from the track's id, which derives from the same two.
        let mut name = b"workout:".to_vec();
        name.extend_from_slice(&self.0);
        WorkoutId(Uuid::new_v5(&athlete, &name))
    }
}

/// What telemetry read out of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedTrack {
    /// The stored track.
    pub track_id: Uuid,
    /// Samples stored.
    pub samples: u64,
    /// The first sample's time.
    pub start_time: Option<Timestamp>,
    /// The last sample's time.
    pub end_time: Option<Timestamp>,
    /// As the file names it.
    #[serde(default)]
    pub sport_type: Option<String>,
    /// The recording device, as the file names it.
    #[serde(default)]
    pub device_model: Option<String>,
    /// Metres covered.
    #[serde(default)]
    pub distance_meters: Option<f64>,
    /// Metres climbed.
    #[serde(default)]
    pub ascent_meters: Option<f64>,
    /// Seconds with the recording's clock running.
    #[serde(default)]
    pub duration_sec: Option<f64>,
    /// Kilocalories.
    #[serde(default)]
    pub calories_burned: Option<f64>,
    /// Beats per minute.
    #[serde(default)]
    pub avg_heart_rate: Option<f64>,
    /// Beats per minute.
    #[serde(default)]
    pub max_heart_rate: Option<f64>,
}

/// The track cannot become a workout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackRefusal {
    /// Nothing to date it by.
    #[error("the file holds no sample with a time: a workout needs to know when it was")]
    NoTime,
    /// The recording's own times are impossible.
    #[error("the recording's times are impossible: {0}")]
    Impossible(#[from] Refusal),
}

/// A finished workout made of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedWorkout {
    /// `WorkoutStarted`, then `WorkoutCompleted`.
    pub events: Vec<WorkoutEvent>,
    /// What they make of it.
    pub workout: Workout,
    /// Its health class.
    pub details: Details,
}

impl ImportedWorkout {
    /// The workout `id` that `athlete` recorded as `track`.
    ///
    /// # Errors
    /// The recording has no times, or impossible ones.
    pub fn of(
        id: WorkoutId,
        athlete: Uuid,
        track: &RecordedTrack,
        visibility: Option<Visibility>,
        now: Timestamp,
    ) -> Result<Self, TrackRefusal> {
        let (Some(start_time), Some(end_time)) = (track.start_time, track.end_time) else {
            return Err(TrackRefusal::NoTime);
        };
        let start = WorkoutCommand::Start(Start {
            sport_type: sport(track.sport_type.as_deref()),
            start_time,
            device_model: track.device_model.as_deref().and_then(|model| model.parse().ok()),
            title: None,
            visibility,
        });
        let complete = WorkoutCommand::Complete(Complete {
            end_time: Some(end_time),
            distance_meters: Some(measured(track.distance_meters).unwrap_or_default()),
            ascent_meters: measured::<Distance>(track.ascent_meters),
            calories_burned: measured(track.calories_burned),
            moving_sec: track.duration_sec.and_then(whole_seconds),
            track_id: Some(track.track_id),
        });
        let mut events = Vec::with_capacity(2);
        let mut state = None;
        for command in [start, complete] {
            for event in decide(id, athlete, state.as_ref(), &command, now)? {
                state = evolve(state, &event);
                events.push(event);
            }
        }
        // `decide` on no workout answers a Start with WorkoutStarted or refuses it.
        let Some(workout) = state else {
            return Err(TrackRefusal::Impossible(Refusal::NotStarted));
        };
        let details = Details {
            avg_heart_rate: track.avg_heart_rate.and_then(beats),
            max_heart_rate: track.max_heart_rate.and_then(beats),
            calories_burned: measured(track.calories_burned),
            samples: Some(track.samples),
        };
        Ok(Self {
            events,
            workout,
            details,
        })
    }

    /// Its summary.
    pub fn summary(&self) -> Summary {
        let version = self.events.iter().fold(Version::default(), |version, _| version.next());
        Summary::of(&self.workout, version)
    }
}

/// A total that no sensor can mean is left out rather than the whole ride refused: the samples are kept as recorded.
fn measured<Q: Quantity>(value: Option<f64>) -> Option<Q> {
    value.and_then(|value| Q::measured(value).ok())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked against the type's range"
)]
fn whole_seconds(seconds: f64) -> Option<u32> {
    (0.0..f64::from(u32::MAX)).contains(&seconds).then_some(seconds as u32)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked against the type's range"
)]
fn beats(rate: f64) -> Option<u16> {
    (1.0..=300.0).contains(&rate).then_some(rate.round() as u16)
}

/// The file's own word for its sport in our spelling, or `other`.
fn sport(named: Option<&str>) -> SportType {
    named
        .map(|name| name.trim().to_lowercase().replace(' ', "-"))
        .and_then(|name| name.parse().ok())
        .unwrap_or_else(SportType::other)
}
