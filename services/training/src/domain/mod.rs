//! What a workout is and may become: pure decisions, no clock of its own, no I/O.

mod command;
mod event;
mod import;
mod read_model;
mod refusal;
#[cfg(test)]
mod tests;
mod values;
mod workout;

pub use command::{Complete, Start, WorkoutCommand};
pub use event::{Cancelled, Completed, Paused, Resumed, Started, TagAdded, Updated, WorkoutEvent};
pub use import::{ImportedWorkout, RecordedTrack, TrackRefusal, UploadDigest};
pub use read_model::{Details, Status, Summary};
pub use refusal::Refusal;
pub use values::{
    Calories, DeviceModel, Distance, InvalidValue, Quantity, Speed, SportType, Tag, Title, Version, Visibility,
    WorkoutId,
};
pub use workout::{CLOCK_SKEW, MAX_TAGS, Phase, Workout, decide, evolve, replay};
