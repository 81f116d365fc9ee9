//! Why a command is refused.

use jiff::Timestamp;

/// The command asks for what this workout, in this state, cannot become.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The id is taken.
    #[error("the workout has already started: send commands to it, or start another one")]
    AlreadyStarted,
    /// There is nothing to command.
    #[error("the workout has not started: start it first")]
    NotStarted,
    /// The clock already stands.
    #[error("the workout is paused already")]
    AlreadyPaused,
    /// The clock already runs.
    #[error("the workout is not paused")]
    NotPaused,
    /// It is over.
    #[error("the workout is completed: nothing can be changed about it")]
    AlreadyCompleted,
    /// It is over.
    #[error("the workout is cancelled: nothing can be changed about it")]
    AlreadyCancelled,
    /// The clock would run backwards.
    #[error("the time given lies before the workout's last event ({last}): give a later one, or none")]
    BeforeLastEvent {
        /// The time of the last event that carries one.
        last: Timestamp,
    },
    /// The device's clock is ahead.
    #[error("the time given lies in the future: set the device's clock")]
    InTheFuture,
    /// Nothing to record.
    #[error("an update names at least one of current_distance_meters, current_speed and title")]
    EmptyUpdate,
    /// The bound on tags.
    #[error("a workout has at most {max} tags")]
    TooManyTags {
        /// The bound.
        max: usize,
    },
}

impl Refusal {
    /// The machine-readable code in the problem body.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AlreadyStarted => "workout-already-started",
            Self::NotStarted => "workout-not-started",
            Self::AlreadyPaused => "workout-already-paused",
            Self::NotPaused => "workout-not-paused",
            Self::AlreadyCompleted => "workout-completed",
            Self::AlreadyCancelled => "workout-cancelled",
            Self::BeforeLastEvent { .. } => "time-before-last-event",
            Self::InTheFuture => "time-in-the-future",
            Self::EmptyUpdate => "empty-update",
            Self::TooManyTags { .. } => "too-many-tags",
        }
    }

    /// The request itself is wrong, whatever the workout's state; otherwise it conflicts with the state.
    pub fn is_malformed(&self) -> bool {
        matches!(self, Self::InTheFuture | Self::EmptyUpdate)
    }
}
