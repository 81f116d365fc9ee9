//! The state machine. `decide` says what a command makes happen; `evolve` says what an event has made of the workout.
//!
//! ```text
//!            pause            complete, cancel
//!   active ─────────▶ paused ──────────────────▶ completed | cancelled
//!     ▲  ◀─────────────  │                            ▲
//!   start    resume      └── active too ──────────────┘
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::command::{Complete, Start, WorkoutCommand};
use super::event::{Cancelled, Completed, Paused, Resumed, Started, TagAdded, Updated, WorkoutEvent};
use super::refusal::Refusal;
use super::values::{Distance, Speed, Tag, Title, WorkoutId};

/// How far ahead of ours a device's clock may be.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// How many tags a workout bears.
pub const MAX_TAGS: usize = 20;

/// Where in its life the workout is.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// The clock runs since then.
    Active {
        /// The start, or the last resume.
        since: Timestamp,
    },
    /// The clock stands since then.
    Paused {
        /// The last pause.
        since: Timestamp,
    },
    /// It has ended, with its totals.
    Completed(Completed),
    /// It was given up.
    Cancelled {
        /// When.
        at: Timestamp,
    },
}

/// What its events have made of a workout.
#[derive(Clone, Debug, PartialEq)]
pub struct Workout {
    /// How it began.
    pub started: Started,
    /// Where in its life it is.
    pub phase: Phase,
    /// Time with the clock running, up to the last pause.
    moving: SignedDuration,
    /// Metres so far.
    pub distance: Distance,
    /// Metres per second, as last heard.
    pub speed: Option<Speed>,
    /// The athlete's name for it.
    pub title: Option<Title>,
    /// The words attached to it.
    pub tags: BTreeSet<Tag>,
}

impl Workout {
    /// Completed or cancelled: no event follows.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Completed(_) | Phase::Cancelled { .. })
    }

    /// The last moment that an event names: no later event may name an earlier one.
    fn last_moment(&self) -> Timestamp {
        match &self.phase {
            Phase::Active { since } | Phase::Paused { since } => *since,
            Phase::Completed(completed) => completed.end_time,
            Phase::Cancelled { at } => *at,
        }
    }

    /// Whole seconds with the clock running, up to `at`; after the end, up to the end.
    pub fn moving_seconds(&self, at: Timestamp) -> u32 {
        let moving = match &self.phase {
            Phase::Active { since } => self.moving + at.duration_since(*since).max(SignedDuration::ZERO),
            Phase::Paused { .. } | Phase::Cancelled { .. } => self.moving,
            Phase::Completed(completed) => return completed.duration_sec,
        };
        // A workout of more than 136 years is not one: the clock was wrong, and the bound is as good a lie as any.
        u32::try_from(moving.as_secs().max(0)).unwrap_or(u32::MAX)
    }

    /// The moment an event of this workout happened: the device's word if it is possible, else our clock,
    /// never before the last event's.
    fn moment(&self, given: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Refusal> {
        let last = self.last_moment();
        let Some(given) = given else { return Ok(now.max(last)) };
        if given > latest(now) {
            return Err(Refusal::InTheFuture);
        }
        if given < last {
            return Err(Refusal::BeforeLastEvent { last });
        }
        Ok(given)
    }
}

fn latest(now: Timestamp) -> Timestamp {
    now.saturating_add(SignedDuration::from_secs(CLOCK_SKEW.as_secs().cast_signed()))
        .unwrap_or(Timestamp::MAX)
}

/// What `command` makes happen to `state` (none: the workout has not started). No event means that it already is so.
///
/// # Errors
/// The command asks for what this workout cannot become; nothing has happened.
pub fn decide(
    id: WorkoutId,
    athlete: Uuid,
    state: Option<&Workout>,
    command: &WorkoutCommand,
    now: Timestamp,
) -> Result<Vec<WorkoutEvent>, Refusal> {
    let workout = match (state, command) {
        (None, WorkoutCommand::Start(start)) => return begin(id, athlete, start, now),
        (None, _) => return Err(Refusal::NotStarted),
        (Some(_), WorkoutCommand::Start(_)) => return Err(Refusal::AlreadyStarted),
        (Some(workout), _) => workout,
    };
    let paused = match &workout.phase {
        Phase::Completed(_) => return Err(Refusal::AlreadyCompleted),
        Phase::Cancelled { .. } => return Err(Refusal::AlreadyCancelled),
        Phase::Active { .. } => false,
        Phase::Paused { .. } => true,
    };
    let event = match command {
        WorkoutCommand::Start(_) => return Err(Refusal::AlreadyStarted),
        WorkoutCommand::Update {
            current_distance_meters: None,
            current_speed: None,
            title: None,
        } => {
            return Err(Refusal::EmptyUpdate);
        }
        WorkoutCommand::Update {
            current_distance_meters,
            current_speed,
            title,
        } => WorkoutEvent::Updated(Updated {
            workout_id: id,
            current_distance_meters: *current_distance_meters,
            current_speed: *current_speed,
            title: title.clone(),
        }),
        WorkoutCommand::Pause { .. } if paused => return Err(Refusal::AlreadyPaused),
        WorkoutCommand::Pause { at } => WorkoutEvent::Paused(Paused {
            workout_id: id,
            at: workout.moment(*at, now)?,
        }),
        WorkoutCommand::Resume { .. } if !paused => return Err(Refusal::NotPaused),
        WorkoutCommand::Resume { at } => WorkoutEvent::Resumed(Resumed {
            workout_id: id,
            at: workout.moment(*at, now)?,
        }),
        WorkoutCommand::Complete(complete) => WorkoutEvent::Completed(end(id, workout, complete, now)?),
        WorkoutCommand::Cancel { at } => WorkoutEvent::Cancelled(Cancelled {
            workout_id: id,
            at: workout.moment(*at, now)?,
        }),
        WorkoutCommand::AddTag { tag } if workout.tags.contains(tag) => return Ok(Vec::new()),
        WorkoutCommand::AddTag { .. } if workout.tags.len() >= MAX_TAGS => {
            return Err(Refusal::TooManyTags { max: MAX_TAGS });
        }
        WorkoutCommand::AddTag { tag } => WorkoutEvent::TagAdded(TagAdded {
            workout_id: id,
            tag: tag.clone(),
        }),
    };
    Ok(vec![event])
}

fn begin(id: WorkoutId, athlete: Uuid, start: &Start, now: Timestamp) -> Result<Vec<WorkoutEvent>, Refusal> {
    if start.start_time > latest(now) {
        return Err(Refusal::InTheFuture);
    }
    Ok(vec![WorkoutEvent::Started(Started {
        workout_id: id,
        user_id: athlete,
        sport_type: start.sport_type.clone(),
        start_time: start.start_time,
        device_model: start.device_model.clone(),
        title: start.title.clone(),
        visibility: start.visibility,
    })])
}

fn end(id: WorkoutId, workout: &Workout, complete: &Complete, now: Timestamp) -> Result<Completed, Refusal> {
    let end_time = workout.moment(complete.end_time, now)?;
    let clocked = workout.moving_seconds(end_time);
    Ok(Completed {
        workout_id: id,
        end_time,
        // A recording knows its own pauses; it cannot have moved for longer than the workout lasted.
        duration_sec: complete.moving_sec.map_or(clocked, |recorded| recorded.min(clocked)),
        distance_meters: complete.distance_meters.unwrap_or(workout.distance),
        ascent_meters: complete.ascent_meters,
        calories_burned: complete.calories_burned,
        track_id: complete.track_id,
    })
}

/// What `event` makes of `state`. Total: an event that could not have been decided in this state changes nothing, so
/// that a stream always replays.
#[must_use]
pub fn evolve(state: Option<Workout>, event: &WorkoutEvent) -> Option<Workout> {
    let Some(mut workout) = state else {
        let WorkoutEvent::Started(started) = event else {
            return None;
        };
        return Some(Workout {
            started: started.clone(),
            phase: Phase::Active {
                since: started.start_time,
            },
            moving: SignedDuration::ZERO,
            distance: Distance::default(),
            speed: None,
            title: started.title.clone(),
            tags: BTreeSet::new(),
        });
    };
    if workout.has_ended() {
        return Some(workout);
    }
    match event {
        WorkoutEvent::Started(_) => {}
        WorkoutEvent::Updated(updated) => {
            workout.distance = updated.current_distance_meters.unwrap_or(workout.distance);
            workout.speed = updated.current_speed.or(workout.speed);
            workout.title = updated.title.clone().or(workout.title);
        }
        WorkoutEvent::Paused(Paused { at, .. }) => {
            workout.stop_clock(*at);
            workout.phase = Phase::Paused { since: *at };
        }
        WorkoutEvent::Resumed(Resumed { at, .. }) => {
            workout.stop_clock(*at);
            workout.phase = Phase::Active { since: *at };
        }
        WorkoutEvent::Completed(completed) => {
            workout.stop_clock(completed.end_time);
            workout.distance = completed.distance_meters;
            workout.speed = None;
            workout.phase = Phase::Completed(completed.clone());
        }
        WorkoutEvent::Cancelled(Cancelled { at, .. }) => {
            workout.stop_clock(*at);
            workout.speed = None;
            workout.phase = Phase::Cancelled { at: *at };
        }
        WorkoutEvent::TagAdded(TagAdded { tag, .. }) => {
            workout.tags.insert(tag.clone());
        }
    }
    Some(workout)
}

impl Workout {
    /// Counts the running span up to `at`.
    fn stop_clock(&mut self, at: Timestamp) {
        if let Phase::Active { since } = self.phase {
            self.moving += at.duration_since(since).max(SignedDuration::ZERO);
        }
    }
}

/// What a whole stream makes of a workout that had not started.
pub fn replay<'a>(events: impl IntoIterator<Item = &'a WorkoutEvent>) -> Option<Workout> {
    events.into_iter().fold(None, evolve)
}
