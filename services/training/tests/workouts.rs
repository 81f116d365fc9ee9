//! A live workout over the API, on a real PostgreSQL and Kafka.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

mod shared;

use std::collections::BTreeSet;

use meridian_kit::db::{self, Scope, TenantTx};
use meridian_kit::testing::until;
use meridian_policy::Epoch;
use serde_json::{Value, json};
use shared::{Scene, TENANT, answer, start_body};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workout_lives_from_start_to_completion() {
    let scene = Scene::new().await;
    let id = scene.started().await;
    let commands = [
        json!({"command": "update", "expected_version": 1, "current_distance_meters": 1200.5, "title": "to work"}),
        json!({"command": "pause", "expected_version": 2}),
        json!({"command": "resume", "expected_version": 3}),
        json!({"command": "add-tag", "expected_version": 4, "tag": "commute"}),
        json!({"command": "complete", "expected_version": 5, "distance_meters": 8000.0, "calories_burned": 210.0}),
    ];
    for (seen, command) in commands.iter().enumerate() {
        let (status, workout) = scene.command(&id, command).await;
        assert_eq!((status, &workout["version"]), (200, &json!(seen + 2)), "{workout}");
    }

    let (status, summary) = scene.get(&format!("/api/v1/workouts/{id}/summary")).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&summary["status"], &summary["distance_meters"]),
        (&json!("completed"), &json!(8000.0))
    );
    assert_eq!(
        (&summary["title"], &summary["tags"]),
        (&json!("to work"), &json!(["commute"]))
    );
    assert_eq!(summary["calories_burned"], json!(210.0));

    let events = scene.region.events("training.events", 6).await;
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.sequence, event.kind.as_str()))
        .collect();
    let kind = |name: &str| format!("sh.meridian.workout.{name}.v1");
    let names = ["started", "updated", "paused", "resumed", "tag-added", "completed"].map(kind);
    let expected: Vec<_> = (1..).zip(names.iter().map(String::as_str)).collect();
    assert_eq!(told, expected);
    assert!(
        events
            .iter()
            .all(|event| event.subject == id && event.data_subject == scene.athlete.subject)
    );
    let completed: Value = scene.region.open(&events[5]).await;
    assert_eq!(
        (&completed["workout_id"], &completed["distance_meters"]),
        (&json!(id), &json!(8000.0))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_writers_at_the_same_version_one_wins_and_the_others_are_told_the_version() {
    let scene = Scene::new().await;
    let id = scene.started().await;
    let update = json!({"command": "update", "expected_version": 1, "current_distance_meters": 10.0});
    let answers = futures::future::join_all((0..6).map(|_| scene.command(&id, &update))).await;

    let won = answers.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(won, 1, "{answers:?}");
    for (status, problem) in answers.iter().filter(|(status, _)| *status != 200) {
        assert_eq!((*status, &problem["code"]), (409, &json!("version-conflict")));
        assert_eq!(problem["details"][0]["allowed"], json!(["2"]), "{problem}");
    }
    assert_eq!(scene.count("workout_event").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_command_is_obeyed_once_and_answered_the_same() {
    let scene = Scene::new().await;
    let id = scene.started().await;
    let command = json!({"command": "pause", "expected_version": 1});
    let send = |body: Value| {
        let path = format!("/api/v1/workouts/{id}/commands");
        answer(
            scene
                .api
                .post(&path)
                .bearer_auth(&scene.athlete.token)
                .header("Idempotency-Key", "k-1")
                .json(&body),
        )
    };
    let first = send(command.clone()).await;
    assert_eq!(first.0, 200, "{}", first.1);
    assert_eq!(send(command).await, first);
    assert_eq!(scene.count("workout_event").await, 2);

    let (status, problem) = send(json!({"command": "resume", "expected_version": 2})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("idempotency-key-reused")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_start_is_one_workout_also_when_both_come_at_once() {
    let scene = Scene::new().await;
    let body = start_body();
    let send = || {
        let request = scene.api.post("/api/v1/workouts").bearer_auth(&scene.athlete.token);
        answer(request.header("Idempotency-Key", "start-1").json(&body))
    };
    let (one, other) = tokio::join!(send(), send());
    assert_eq!(one.0, 201, "{}", one.1);
    assert_eq!(one, other);
    assert_eq!(scene.count("workout_summary").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_cannot_be_told_to_others_is_not_half_written() {
    let scene = Scene::new().await;
    let id = scene.started().await;
    until(|| async { (scene.count("outbox").await == 0).then_some(()) })
        .await
        .expect("an empty outbox");
    let superuser = scene.database.superuser_pool();
    let run = |statement: &'static str| sqlx::query(statement).execute(&superuser);
    run("alter table outbox add constraint broken check (false) not valid")
        .await
        .expect("a broken outbox");

    let complete = json!({"command": "complete", "expected_version": 1, "calories_burned": 5.0});
    let (status, _) = scene.command(&id, &complete).await;
    assert_eq!(status, 500);
    assert_eq!(scene.count("workout_event").await, 1);
    assert_eq!(scene.count("workout_details").await, 0);
    let (_, summary) = scene.get(&format!("/api/v1/workouts/{id}/summary")).await;
    assert_eq!((&summary["status"], &summary["version"]), (&json!("active"), &json!(1)));

    run("alter table outbox drop constraint broken")
        .await
        .expect("a mended outbox");
    assert_eq!(
        scene.command(&id, &complete).await.0,
        200,
        "nothing of the first attempt stands in the way"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_kill_is_there_and_is_told() {
    let scene = Scene::new().await;
    let acknowledged = std::sync::Mutex::new(Vec::new());
    let writers = futures::future::join_all((0..24).map(|_| async {
        let request = scene
            .api
            .post("/api/v1/workouts")
            .bearer_auth(&scene.athlete.token)
            .json(&start_body());
        let Ok(response) = request.send().await else { return };
        if response.status() != 201 {
            return;
        }
        let Ok(workout) = response.json::<Value>().await else {
            return;
        };
        acknowledged
            .lock()
            .expect("a lock")
            .push(workout["workout_id"].as_str().expect("an id").to_owned());
    }));
    let killer = async {
        until(|| async { (acknowledged.lock().expect("a lock").len() >= 4).then_some(()) })
            .await
            .expect("some answers");
        scene.region.kill("training").await;
    };
    tokio::join!(writers, killer);
    scene.region.run("training", meridian_training::run).await;

    let acknowledged = acknowledged.into_inner().expect("a lock");
    for id in &acknowledged {
        assert_eq!(
            scene.get(&format!("/api/v1/workouts/{id}/summary")).await.0,
            200,
            "{id} was acknowledged"
        );
    }
    let (events, summaries) = (scene.count("workout_event").await, scene.count("workout_summary").await);
    assert_eq!(events, summaries, "a workout is written as a whole or not at all");
    let told = told_at_least_once(&scene, usize::try_from(events).expect("a count")).await;
    assert!(acknowledged.iter().all(|id| told.contains(id)));
}

/// The workouts that `training.events` tells of, once it tells of `workouts`. A relay that was killed between the
/// broker's word and its own note of it tells again, with the same event id.
async fn told_at_least_once(scene: &Scene, workouts: usize) -> BTreeSet<String> {
    let mut records = workouts;
    loop {
        let events = scene.region.events("training.events", records).await;
        let distinct: BTreeSet<_> = events.iter().map(|event| event.id).collect();
        if distinct.len() == workouts {
            return events.into_iter().map(|event| event.subject).collect();
        }
        // Each repetition among the first records means that there is one more record behind them.
        records = workouts + (records - distinct.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_epoch_is_fenced() {
    let scene = Scene::new().await;
    let id = scene.started().await;
    let old = Scope::new(TENANT.parse().expect("a tenant"), Epoch(1));
    let pool = scene.database.pool();
    assert!(TenantTx::begin(&pool, &old).await.is_ok());

    scene.region.raise_epoch(TENANT);
    let fenced = || async {
        let begun = TenantTx::begin(&pool, &old).await;
        matches!(begun, Err(db::Error::StaleEpoch { .. })).then_some(())
    };
    until(fenced).await.expect("the fence follows the policy");
    let (status, problem) = scene
        .command(&id, &json!({"command": "pause", "expected_version": 1}))
        .await;
    assert_eq!((status, &problem["code"]), (401, &json!("token-stale-epoch")));
    assert_eq!(scene.count("workout_event").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workout_is_its_athletes_alone() {
    let scene = Scene::new().await;
    let id = scene.started().await;
    let other = scene.region.athlete(TENANT);
    let get = scene
        .api
        .get(&format!("/api/v1/workouts/{id}/summary"))
        .bearer_auth(&other.token);
    assert_eq!(answer(get).await.0, 404);
    let command = scene
        .api
        .post(&format!("/api/v1/workouts/{id}/commands"))
        .bearer_auth(&other.token);
    assert_eq!(
        answer(command.json(&json!({"command": "cancel", "expected_version": 1})))
            .await
            .0,
        404
    );
    let list = scene.api.get("/api/v1/workouts").bearer_auth(&other.token);
    assert_eq!(answer(list).await.1["workouts"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_gateway_speaks_to_it() {
    let scene = Scene::new().await;
    let social = scene.region.client("social", "training");
    assert_eq!(
        answer(social.get("/api/v1/workouts").bearer_auth(&scene.athlete.token))
            .await
            .0,
        403
    );
    assert_eq!(answer(scene.api.get("/api/v1/workouts")).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_list_is_newest_first_in_pages() {
    let scene = Scene::new().await;
    for hours in [3, 1, 5, 2, 4] {
        let start = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
        let body = json!({"sport_type": format!("sport-{hours}"), "start_time": start});
        assert_eq!(scene.post("/api/v1/workouts", &body).await.0, 201);
    }
    let mut seen = Vec::new();
    let mut path = "/api/v1/workouts?limit=2".to_owned();
    loop {
        let (status, page) = scene.get(&path).await;
        assert_eq!(status, 200, "{page}");
        let workouts = page["workouts"].as_array().expect("a page");
        seen.extend(
            workouts
                .iter()
                .map(|workout| workout["sport_type"].as_str().expect("a sport").to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/api/v1/workouts?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["sport-1", "sport-2", "sport-3", "sport-4", "sport-5"]);
    assert_eq!(scene.get("/api/v1/workouts?limit=0").await.0, 400);
    assert_eq!(scene.get("/api/v1/workouts?cursor=nonsense").await.0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_gets_one_clear_answer_and_changes_nothing() {
    let scene = Scene::new().await;
    let id = scene.started().await;
    let table = [
        (
            json!({"command": "teleport", "expected_version": 1}),
            400,
            "invalid-field",
        ),
        (json!({"command": "start", "expected_version": 1}), 400, "invalid-field"),
        (json!({"command": "pause"}), 400, "invalid-field"),
        (json!({"command": "update", "expected_version": 1}), 400, "empty-update"),
        (
            json!({"command": "update", "expected_version": 1, "current_speed": -1.0}),
            400,
            "invalid-field",
        ),
        (
            json!({"command": "complete", "expected_version": 1, "heart_rate": 150}),
            400,
            "invalid-field",
        ),
        (
            json!({"command": "resume", "expected_version": 1}),
            409,
            "workout-not-paused",
        ),
        (
            json!({"command": "pause", "expected_version": 7}),
            409,
            "version-conflict",
        ),
    ];
    for (body, status, code) in table {
        let (seen, problem) = scene.command(&id, &body).await;
        assert_eq!(
            (seen, problem["code"].as_str()),
            (status, Some(code)),
            "{body} → {problem}"
        );
    }
    let unknown = uuid::Uuid::now_v7().to_string();
    assert_eq!(
        scene
            .command(&unknown, &json!({"command": "pause", "expected_version": 0}))
            .await
            .0,
        404
    );
    assert_eq!(scene.get("/api/v1/workouts/not-an-id/summary").await.0, 404);
    assert_eq!(scene.count("workout_event").await, 1);
}
