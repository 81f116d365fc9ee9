//! The specification of a workout, as tables and as properties.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const ATHLETE: Uuid = Uuid::from_u128(0xA7);
const ID: WorkoutId = WorkoutId(Uuid::from_u128(0x1D));

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn start() -> WorkoutCommand {
    WorkoutCommand::Start(Start {
        sport_type: "cycling".parse().unwrap(),
        start_time: at(0),
        device_model: None,
        title: None,
        visibility: None,
    })
}

fn update(distance: f64) -> WorkoutCommand {
    WorkoutCommand::Update {
        current_distance_meters: Some(Distance::measured(distance).unwrap()),
        current_speed: None,
        title: None,
    }
}

fn tag(word: &str) -> WorkoutCommand {
    WorkoutCommand::AddTag {
        tag: word.parse().unwrap(),
    }
}

const PAUSE: WorkoutCommand = WorkoutCommand::Pause { at: None };
const RESUME: WorkoutCommand = WorkoutCommand::Resume { at: None };
const CANCEL: WorkoutCommand = WorkoutCommand::Cancel { at: None };

fn complete() -> WorkoutCommand {
    WorkoutCommand::Complete(Complete::default())
}

/// Runs commands ten seconds apart, the first at 0; panics on a refusal.
fn lived(commands: &[WorkoutCommand]) -> (Option<Workout>, Vec<WorkoutEvent>) {
    let mut state = None;
    let mut events = Vec::new();
    for (step, command) in commands.iter().enumerate() {
        let now = at(10 * i64::try_from(step).unwrap());
        for event in decide(ID, ATHLETE, state.as_ref(), command, now).unwrap() {
            state = evolve(state, &event);
            events.push(event);
        }
    }
    (state, events)
}

fn kind(event: &WorkoutEvent) -> &'static str {
    event
        .cloud_type()
        .trim_start_matches("sh.meridian.workout.")
        .trim_end_matches(".v1")
}

#[test]
fn every_command_in_every_phase_is_answered_as_the_table_says() {
    let phases: [(&str, Vec<WorkoutCommand>); 5] = [
        ("none", vec![]),
        ("active", vec![start()]),
        ("paused", vec![start(), PAUSE]),
        ("completed", vec![start(), complete()]),
        ("cancelled", vec![start(), CANCEL]),
    ];
    let commands = [
        ("start", start()),
        ("update", update(5.0)),
        ("pause", PAUSE),
        ("resume", RESUME),
        ("complete", complete()),
        ("cancel", CANCEL),
        ("add-tag", tag("commute")),
    ];
    // Rows: phases; columns: commands. An event's name, or the refusal's code.
    let table = [
        [
            "started",
            "workout-not-started",
            "workout-not-started",
            "workout-not-started",
            "workout-not-started",
            "workout-not-started",
            "workout-not-started",
        ],
        [
            "workout-already-started",
            "updated",
            "paused",
            "workout-not-paused",
            "completed",
            "cancelled",
            "tag-added",
        ],
        [
            "workout-already-started",
            "updated",
            "workout-already-paused",
            "resumed",
            "completed",
            "cancelled",
            "tag-added",
        ],
        [
            "workout-already-started",
            "workout-completed",
            "workout-completed",
            "workout-completed",
            "workout-completed",
            "workout-completed",
            "workout-completed",
        ],
        [
            "workout-already-started",
            "workout-cancelled",
            "workout-cancelled",
            "workout-cancelled",
            "workout-cancelled",
            "workout-cancelled",
            "workout-cancelled",
        ],
    ];
    for ((phase, history), row) in phases.iter().zip(table) {
        let (state, _) = lived(history);
        for ((name, command), expected) in commands.iter().zip(row) {
            let seen = match decide(ID, ATHLETE, state.as_ref(), command, at(100)) {
                Ok(events) => events.iter().map(kind).collect::<Vec<_>>().join(","),
                Err(refusal) => refusal.code().to_owned(),
            };
            assert_eq!(seen, expected, "{name} on a workout that is {phase}");
        }
    }
}

#[test]
fn pauses_do_not_count_into_the_duration() {
    // Runs 0–10, stands 10–20, runs 20–30.
    let (workout, events) = lived(&[start(), PAUSE, RESUME, complete()]);
    let Some(WorkoutEvent::Completed(completed)) = events.last() else {
        panic!("not completed")
    };
    assert_eq!(completed.duration_sec, 20);
    assert_eq!(completed.end_time, at(30));
    assert_eq!(
        workout.unwrap().moving_seconds(at(1_000)),
        20,
        "the clock of an ended workout stands"
    );
}

#[test]
fn a_workout_completed_while_paused_ends_its_clock_at_the_pause() {
    let (_, events) = lived(&[start(), PAUSE, complete()]);
    let Some(WorkoutEvent::Completed(completed)) = events.last() else {
        panic!("not completed")
    };
    assert_eq!((completed.duration_sec, completed.end_time), (10, at(20)));
}

#[test]
fn the_last_updates_distance_stands_where_completion_names_none() {
    let (workout, _) = lived(&[start(), update(1200.0), complete()]);
    assert_eq!(workout.unwrap().distance.value(), 1200.0);
}

#[test]
fn a_recording_cannot_have_moved_for_longer_than_it_lasted() {
    let (state, _) = lived(&[start()]);
    for (recorded, counted) in [(7, 7), (10, 10), (5_000, 10)] {
        let command = WorkoutCommand::Complete(Complete {
            moving_sec: Some(recorded),
            ..Complete::default()
        });
        let events = decide(ID, ATHLETE, state.as_ref(), &command, at(10)).unwrap();
        let [WorkoutEvent::Completed(completed)] = events.as_slice() else {
            panic!("not completed")
        };
        assert_eq!(completed.duration_sec, counted, "recorded {recorded}");
    }
}

#[test]
fn a_devices_time_is_taken_unless_it_is_impossible() {
    let (state, _) = lived(&[start(), PAUSE]);
    let resume = |when| WorkoutCommand::Resume { at: Some(when) };
    let decided = |when| decide(ID, ATHLETE, state.as_ref(), &resume(when), at(60));
    assert!(decided(at(15)).is_ok());
    assert!(
        decided(at(60 + 300)).is_ok(),
        "within the skew that a device's clock may have"
    );
    assert_eq!(decided(at(9)), Err(Refusal::BeforeLastEvent { last: at(10) }));
    assert_eq!(decided(at(60 + 301)), Err(Refusal::InTheFuture));
}

#[test]
fn a_workout_cannot_start_in_the_future() {
    assert_eq!(decide(ID, ATHLETE, None, &start(), at(-301)), Err(Refusal::InTheFuture));
    assert!(decide(ID, ATHLETE, None, &start(), at(-300)).is_ok());
}

#[test]
fn our_clock_running_behind_the_devices_never_makes_time_negative() {
    let (state, _) = lived(&[start()]);
    let events = decide(ID, ATHLETE, state.as_ref(), &complete(), at(-200)).unwrap();
    let [WorkoutEvent::Completed(completed)] = events.as_slice() else {
        panic!("not completed")
    };
    assert_eq!((completed.duration_sec, completed.end_time), (0, at(0)));
}

#[test]
fn a_tag_that_is_there_already_makes_nothing_happen() {
    let (state, _) = lived(&[start(), tag("commute")]);
    assert_eq!(decide(ID, ATHLETE, state.as_ref(), &tag("commute"), at(30)), Ok(vec![]));
}

#[test]
fn tags_are_bounded() {
    let mut commands = vec![start()];
    commands.extend((0..MAX_TAGS).map(|n| tag(&format!("tag-{n}"))));
    let (state, _) = lived(&commands);
    let refused = decide(ID, ATHLETE, state.as_ref(), &tag("one-more"), at(900));
    assert_eq!(refused, Err(Refusal::TooManyTags { max: MAX_TAGS }));
}

#[test]
fn an_update_says_something() {
    let (state, _) = lived(&[start()]);
    let empty = WorkoutCommand::Update {
        current_distance_meters: None,
        current_speed: None,
        title: None,
    };
    assert_eq!(
        decide(ID, ATHLETE, state.as_ref(), &empty, at(1)),
        Err(Refusal::EmptyUpdate)
    );
}

#[test]
fn start_is_not_a_command_on_an_existing_workout() {
    let body = r#"{"command":"start","sport_type":"cycling","start_time":"2026-01-01T00:00:00Z"}"#;
    assert!(serde_json::from_str::<WorkoutCommand>(body).is_err());
    assert_eq!(
        serde_json::from_str::<WorkoutCommand>(r#"{"command":"pause"}"#).unwrap(),
        PAUSE
    );
}

fn recording() -> RecordedTrack {
    RecordedTrack {
        track_id: Uuid::from_u128(7),
        samples: 3,
        start_time: Some(at(0)),
        end_time: Some(at(3_600)),
        sport_type: Some("Trail Running".to_owned()),
        device_model: Some("edge 500".to_owned()),
        distance_meters: Some(40_123.4),
        ascent_meters: Some(512.0),
        duration_sec: Some(3_500.9),
        calories_burned: None,
        avg_heart_rate: Some(141.6),
        max_heart_rate: Some(178.0),
    }
}

#[test]
fn a_recording_becomes_a_completed_workout_with_its_totals() {
    let imported = ImportedWorkout::of(ID, ATHLETE, &recording(), None, at(10_000)).unwrap();
    assert_eq!(
        imported.events.iter().map(kind).collect::<Vec<_>>(),
        ["started", "completed"]
    );
    let summary = imported.summary();
    assert_eq!(summary.version, Version(2));
    assert_eq!(summary.status, Status::Completed);
    assert_eq!(summary.sport_type.as_str(), "trail-running");
    assert_eq!(
        (summary.duration_sec, summary.distance_meters.value()),
        (3_500, 40_123.4)
    );
    assert_eq!(summary.ascent_meters.map(Distance::value), Some(512.0));
    assert_eq!(summary.track_id, Some(Uuid::from_u128(7)));
    assert_eq!(
        (imported.details.avg_heart_rate, imported.details.max_heart_rate),
        (Some(142), Some(178))
    );
}

#[test]
fn heart_rate_is_in_no_event_of_an_imported_workout() {
    let imported = ImportedWorkout::of(ID, ATHLETE, &recording(), None, at(10_000)).unwrap();
    for event in &imported.events {
        let text = event.payload().unwrap().to_string();
        assert!(
            !text.contains("heart") && !text.contains("142") && !text.contains("178"),
            "{}",
            kind(event)
        );
    }
}

#[test]
fn a_recording_that_cannot_be_dated_is_refused() {
    let undated = RecordedTrack {
        start_time: None,
        ..recording()
    };
    assert_eq!(
        ImportedWorkout::of(ID, ATHLETE, &undated, None, at(0)),
        Err(TrackRefusal::NoTime)
    );
    let early = ImportedWorkout::of(ID, ATHLETE, &recording(), None, at(0));
    assert_eq!(early, Err(TrackRefusal::Impossible(Refusal::InTheFuture)));
    let backwards = RecordedTrack {
        end_time: Some(at(-1)),
        ..recording()
    };
    let refused = ImportedWorkout::of(ID, ATHLETE, &backwards, None, at(10_000));
    assert_eq!(
        refused,
        Err(TrackRefusal::Impossible(Refusal::BeforeLastEvent { last: at(0) }))
    );
}

#[test]
fn a_faulty_total_is_left_out_and_an_unknown_sport_is_other() {
    let odd = RecordedTrack {
        sport_type: Some("Ⅷ/?".to_owned()),
        ascent_meters: Some(f64::NAN),
        max_heart_rate: Some(9_999.0),
        ..recording()
    };
    let imported = ImportedWorkout::of(ID, ATHLETE, &odd, None, at(10_000)).unwrap();
    assert_eq!(imported.summary().sport_type, SportType::other());
    assert_eq!(imported.summary().ascent_meters, None);
    assert_eq!(imported.details.max_heart_rate, None);
}

#[test]
fn the_same_file_of_the_same_athlete_is_the_same_workout() {
    let digest = UploadDigest([3; 32]);
    assert_eq!(digest.workout_id(ATHLETE), digest.workout_id(ATHLETE));
    assert_ne!(digest.workout_id(ATHLETE), digest.workout_id(Uuid::from_u128(8)));
    assert_ne!(digest.workout_id(ATHLETE), UploadDigest([4; 32]).workout_id(ATHLETE));
}

fn any_command() -> impl Strategy<Value = WorkoutCommand> {
    let when = || proptest::option::of((-50_i64..2_000).prop_map(at));
    prop_oneof![
        Just(start()),
        (0_u32..4_000_000).prop_map(|quarters| update(f64::from(quarters) / 4.0)),
        when().prop_map(|at| WorkoutCommand::Pause { at }),
        when().prop_map(|at| WorkoutCommand::Resume { at }),
        (when(), proptest::option::of(0_u32..5_000)).prop_map(|(end_time, moving_sec)| {
            WorkoutCommand::Complete(Complete {
                end_time,
                moving_sec,
                ..Complete::default()
            })
        }),
        when().prop_map(|at| WorkoutCommand::Cancel { at }),
        "[a-z]{1,3}".prop_map(|word| tag(&word)),
    ]
}

proptest! {
    /// Whatever is asked, in whatever order and at whatever times:
    #[test]
    fn a_stream_replays_to_what_it_was_and_ends_once(
        steps in proptest::collection::vec((any_command(), 0_i64..1_000), 0..40),
    ) {
        let mut state: Option<Workout> = None;
        let mut stream: Vec<WorkoutEvent> = Vec::new();
        let mut last_moving = 0;
        for (command, clock) in std::iter::once((start(), 0)).chain(steps) {
            let Ok(events) = decide(ID, ATHLETE, state.as_ref(), &command, at(clock)) else { continue };
            for event in events {
                prop_assert!(!stream.iter().any(WorkoutEvent::is_terminal), "an event after a terminal one");
                let json = serde_json::to_string(&event).unwrap();
                prop_assert_eq!(&serde_json::from_str::<WorkoutEvent>(&json).unwrap(), &event);
                state = evolve(state, &event);
                stream.push(event);
            }
            let workout = state.as_ref().unwrap();
            let replayed = replay(&stream);
            prop_assert_eq!(replayed.as_ref(), Some(workout), "replay differs from what was built up");
            let moving = workout.moving_seconds(workout.started.start_time);
            if !workout.has_ended() {
                prop_assert!(moving >= last_moving, "time ran backwards");
                last_moving = moving;
            }
        }
        if let Some(WorkoutEvent::Completed(completed)) = stream.last() {
            let elapsed = completed.end_time.duration_since(at(0));
            prop_assert!(elapsed >= SignedDuration::ZERO);
            prop_assert!(i64::from(completed.duration_sec) <= elapsed.as_secs(), "longer than it lasted");
            let paused = paused_seconds(&stream, completed.end_time);
            prop_assert!(i64::from(completed.duration_sec) <= elapsed.as_secs() - paused, "pauses were counted");
        }
    }
}

/// Counted apart from the code under test: seconds between each pause and the resume or end that follows it.
fn paused_seconds(stream: &[WorkoutEvent], end: Timestamp) -> i64 {
    let mut total = 0;
    let mut since = None;
    for event in stream {
        match event {
            WorkoutEvent::Paused(Paused { at, .. }) => since = Some(*at),
            WorkoutEvent::Resumed(Resumed { at, .. }) => {
                total += at.duration_since(since.take().unwrap()).as_secs();
            }
            _ => {}
        }
    }
    total + since.map_or(0, |since| end.duration_since(since).as_secs())
}

/// One of each kind, with every field filled.
fn one_of_each() -> [WorkoutEvent; 7] {
    let metres = || Distance::measured(4217.5).unwrap();
    [
        WorkoutEvent::Started(Started {
            workout_id: ID,
            user_id: ATHLETE,
            sport_type: "cycling".parse().unwrap(),
            start_time: at(0),
            device_model: Some("Edge 540".parse().unwrap()),
            title: Some("Round the lake".parse().unwrap()),
            visibility: Some(Visibility::Followers),
        }),
        WorkoutEvent::Updated(Updated {
            workout_id: ID,
            current_distance_meters: Some(metres()),
            current_speed: Some(Speed::measured(7.5).unwrap()),
            title: Some("Round the lake".parse().unwrap()),
        }),
        WorkoutEvent::Paused(Paused {
            workout_id: ID,
            at: at(1),
        }),
        WorkoutEvent::Resumed(Resumed {
            workout_id: ID,
            at: at(2),
        }),
        WorkoutEvent::Completed(Completed {
            workout_id: ID,
            end_time: at(3),
            duration_sec: 3,
            distance_meters: metres(),
            ascent_meters: Some(metres()),
            calories_burned: Some(Calories::measured(300.0).unwrap()),
            track_id: Some(Uuid::from_u128(0x7)),
        }),
        WorkoutEvent::Cancelled(Cancelled {
            workout_id: ID,
            at: at(4),
        }),
        WorkoutEvent::TagAdded(TagAdded {
            workout_id: ID,
            tag: "hills".parse().unwrap(),
        }),
    ]
}

#[test]
fn catalogue_event_fields() {
    let told = one_of_each();
    let told: Vec<_> = told
        .iter()
        .map(|event| (event.cloud_type(), event.payload().unwrap()))
        .collect();
    meridian_kit::testing::catalogue::assert_event_fields("training", &told);
}
