//! Feeds, follows and shares inside one region.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

mod support;

use meridian_kit::SubjectId;
use meridian_kit::testing::{Database, catalogue};
use meridian_social::domain::workout::Shown;
use meridian_social::intake::WORKOUT_SHARED;
use meridian_social::share::{FRIEND_ADDED, FriendAdded};
use serde_json::json;
use support::World;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workout_is_seen_by_whom_its_author_decided_and_nobody_else() {
    let world = World::new().await;
    let (follower, stranger) = (world.region.athlete("stride-us"), world.region.athlete("stride-us"));
    let outsider = world.region.athlete("other-us");
    // setting for workouts, set on the workout, who sees it: follower in following, stranger in community
    let table = [
        ("only-me", None, (false, false)),
        ("followers", None, (true, false)),
        ("everyone", None, (true, true)),
        ("everyone", Some("only-me"), (false, false)),
        ("only-me", Some("followers"), (true, false)),
        ("only-me", Some("everyone"), (true, true)),
    ];
    for (workouts, visibility, (by_follower, by_stranger)) in table {
        let author = world.athlete("everyone", workouts).await;
        assert_eq!(world.follow(&follower, &author).await, 201);
        let ride = world.ride(&author, visibility).await;
        world.settle(&author).await;
        let case = format!("{workouts}, {visibility:?}");
        assert!(
            world.item(&author, "following", ride).await.is_some(),
            "{case}: the author"
        );
        assert_eq!(
            world.item(&follower, "following", ride).await.is_some(),
            by_follower,
            "{case}: a follower"
        );
        assert_eq!(
            world.item(&stranger, "community", ride).await.is_some(),
            by_stranger,
            "{case}: a stranger"
        );
        assert!(
            world.item(&stranger, "following", ride).await.is_none(),
            "{case}: who does not follow"
        );
        assert!(
            world.item(&outsider, "community", ride).await.is_none(),
            "{case}: another tenant"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_author_of_whom_identity_has_not_told_is_seen_by_nobody() {
    let world = World::new().await;
    let (author, follower) = (world.region.athlete("stride-us"), world.region.athlete("stride-us"));
    world.follow(&follower, &author).await;
    let ride = world.ride(&author, None).await;
    world.sees(&author, "following", ride).await;
    assert!(world.item(&follower, "following", ride).await.is_none());
    assert!(world.item(&follower, "community", ride).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_changes_holds_for_what_was_there_before() {
    let world = World::new().await;
    let (author, stranger) = (
        world.athlete("everyone", "everyone").await,
        world.region.athlete("stride-us"),
    );
    let ride = world.ride(&author, None).await;
    world.sees(&stranger, "community", ride).await;
    world.set_privacy(&author, 3, "everyone", "only-me").await;
    world.sees_no_more(&stranger, "community", ride).await;
    // What was said earlier and comes later changes nothing.
    world.set_privacy(&author, 2, "everyone", "everyone").await;
    world.settle(&author).await;
    let marker = world.athlete("everyone", "everyone").await;
    let other = world.ride(&marker, None).await;
    world.sees(&stranger, "community", other).await;
    assert!(world.item(&stranger, "community", ride).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_it_is_follows_the_profiles_setting() {
    let world = World::new().await;
    let viewer = world.region.athlete("stride-us");
    let open = world.athlete("everyone", "everyone").await;
    let private = world.athlete("only-me", "everyone").await;
    let (seen, hidden) = (world.ride(&open, None).await, world.ride(&private, None).await);
    let item = world.sees(&viewer, "community", seen).await;
    assert_eq!(
        item["author"],
        json!({"subject": open.subject, "first_name": "Ada", "last_name": "Rider"})
    );
    let item = world.sees(&viewer, "community", hidden).await;
    assert!(item.get("author").is_none(), "{item}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_has_no_hour_no_place_and_no_heart() {
    let world = World::new().await;
    let author = world.athlete("everyone", "everyone").await;
    let ride = world.ride(&author, None).await;
    let item = world.sees(&author, "community", ride).await;
    let shown = json!({
        "sport_type": "cycling", "distance_meters": 31_500.5, "duration_sec": 3600, "ascent_meters": 420.0,
        "start_day": "2026-11-20", "title": "Round the lake",
    });
    assert_eq!(item["workout"], shown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_is_seen_by_its_audience_and_told_only_when_for_the_community() {
    let world = World::new().await;
    let (author, follower) = (
        world.athlete("everyone", "only-me").await,
        world.region.athlete("stride-us"),
    );
    let stranger = world.region.athlete("stride-us");
    world.follow(&follower, &author).await;
    let (first, second) = (world.ride(&author, None).await, world.ride(&author, None).await);
    world.sees(&author, "following", second).await;
    let (status, shared) = world.share(&author, first, "followers").await;
    assert_eq!((status, &shared["audience"]), (201, &json!("followers")));
    world.sees(&follower, "following", first).await;
    assert!(world.item(&stranger, "community", first).await.is_none());
    assert_eq!(world.share(&author, second, "community").await.0, 201);
    world.sees(&stranger, "community", second).await;
    assert_eq!(
        world.share(&author, second, "community").await.0,
        200,
        "sharing again changes nothing"
    );

    // Follow, then the community's share; of the share with followers nothing.
    let events = world.region.events("social.events", 2).await;
    let told = events
        .iter()
        .find(|event| event.kind == "sh.meridian.workout.shared.v1")
        .expect("a share");
    assert_eq!(told.subject, second.to_string());
    let payload: serde_json::Value = world.region.open(told).await;
    let expected = json!({
        "sport_type": "cycling", "distance_meters": 31_500.5, "duration_sec": 3600, "ascent_meters": 420.0,
        "start_day": "2026-11-20", "title": "Round the lake",
    });
    assert_eq!(payload, expected);
    assert!(events.iter().any(|event| event.kind == "sh.meridian.friend.added.v1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_ones_own_finished_workouts_can_be_shared() {
    let world = World::new().await;
    let (author, other) = (
        world.athlete("everyone", "everyone").await,
        world.region.athlete("stride-us"),
    );
    let ride = world.ride(&author, None).await;
    world.sees(&author, "following", ride).await;
    assert_eq!(world.share(&other, ride, "community").await.0, 404);
    assert_eq!(world.share(&author, Uuid::now_v7(), "community").await.0, 404);
    let under_way = world.start(&author, None).await;
    world.settle(&author).await;
    let (status, problem) = world.share(&author, under_way, "community").await;
    assert_eq!((status, &problem["code"]), (409, &json!("workout-not-finished")));
    let (status, problem) = world.share(&author, ride, "the-world").await;
    assert_eq!((status, &problem["details"][0]["field"]), (400, &json!("audience")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_is_in_no_feed() {
    let world = World::new().await;
    let author = world.athlete("everyone", "everyone").await;
    let given_up = world.start(&author, None).await;
    let payload = json!({"workout_id": given_up, "at": "2026-11-20T18:00:00Z"});
    world
        .tell(
            "training",
            "training.events",
            &author,
            "sh.meridian.workout.cancelled.v1",
            2,
            given_up,
            payload,
        )
        .await;
    world.settle(&author).await;
    assert!(world.item(&author, "following", given_up).await.is_none());
    assert_eq!(world.share(&author, given_up, "community").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_comes_twice_is_one_line() {
    let world = World::new().await;
    let author = world.athlete("everyone", "everyone").await;
    let ride = world.start(&author, None).await;
    let payload =
        json!({"workout_id": ride, "end_time": "2026-11-20T18:45:12Z", "duration_sec": 60, "distance_meters": 1.0});
    let kind = "sh.meridian.workout.completed.v1";
    let event = world
        .tell("training", "training.events", &author, kind, 2, ride, payload)
        .await;
    world.send("training.events", &author.subject.to_string(), &event).await;
    world.settle(&author).await;
    let page = world.feed(&author, "scope=community").await;
    let lines = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["id"] == json!(ride))
        .count();
    assert_eq!(lines, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_twice_is_following_once_and_finds_nobody_out() {
    let world = World::new().await;
    let (athlete, other) = (world.region.athlete("stride-us"), world.region.athlete("stride-us"));
    assert_eq!(world.follow(&athlete, &other).await, 201);
    assert_eq!(world.follow(&athlete, &other).await, 200);
    assert_eq!(world.follow(&athlete, &athlete).await, 400);
    let list = world
        .api
        .get("/api/v1/follows")
        .bearer_auth(&athlete.token)
        .send()
        .await
        .unwrap();
    let list: serde_json::Value = list.json().await.unwrap();
    assert_eq!(list["follows"][0]["subject"], json!(other.subject));
    assert_eq!(list["follows"].as_array().unwrap().len(), 1);
    for _ in 0..2 {
        let path = format!("/api/v1/follows/{}", other.subject);
        let request = world
            .api
            .request("DELETE".parse().unwrap(), &path)
            .bearer_auth(&athlete.token);
        assert_eq!(request.send().await.unwrap().status(), 204);
    }
    let list = world
        .api
        .get("/api/v1/follows")
        .bearer_auth(&athlete.token)
        .send()
        .await
        .unwrap();
    assert_eq!(list.json::<serde_json::Value>().await.unwrap(), json!({"follows": []}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_is_read_page_by_page_without_gap_or_repetition() {
    let world = World::new().await;
    let author = world.athlete("everyone", "everyone").await;
    let mut rides = Vec::new();
    for _ in 0..(meridian_social::feed::PAGE + 7) {
        rides.push(world.ride(&author, None).await);
    }
    world.sees(&author, "community", *rides.last().unwrap()).await;
    let first = world.feed(&author, "scope=community").await;
    let cursor = first["next_cursor"].as_str().expect("a next page");
    let second = world.feed(&author, &format!("scope=community&cursor={cursor}")).await;
    assert!(second.get("next_cursor").is_none());
    let ids: Vec<Uuid> = [&first, &second]
        .iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|item| item["id"].as_str().unwrap().parse().unwrap())
        .collect();
    rides.reverse();
    assert_eq!(ids, rides);
    let answer = world
        .api
        .get("/api/v1/feed?cursor=x")
        .bearer_auth(&author.token)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_author_is_in_no_feed_any_more() {
    let world = World::new().await;
    let (author, viewer) = (
        world.athlete("everyone", "everyone").await,
        world.region.athlete("stride-us"),
    );
    let ride = world.ride(&author, None).await;
    world.sees(&viewer, "community", ride).await;
    world
        .region
        .keyring("identity")
        .destroy(&author.tenant, &author.subject, None)
        .await
        .unwrap();
    // A process that starts now has no key left from before.
    world.region.stop("social").await;
    world.region.run("social", meridian_social::run).await;
    assert!(world.item(&viewer, "community", ride).await.is_none());
}

#[tokio::test]
async fn catalogue_columns() {
    let database = Database::create("social", meridian_social::MIGRATIONS).await;
    catalogue::assert_columns("social", &database).await;
}

#[test]
fn catalogue_event_fields() {
    let shown = Shown {
        sport_type: "cycling".to_owned(),
        distance_meters: Some(42_195.0),
        duration_sec: Some(3600),
        ascent_meters: Some(300.0),
        start_day: Some("2026-11-21".to_owned()),
        title: Some("Round the lake".to_owned()),
    };
    let added = FriendAdded {
        follower: SubjectId(Uuid::nil()),
        followed: SubjectId(Uuid::max()),
    };
    catalogue::assert_event_fields(
        "social",
        &[(WORKOUT_SHARED, json!(shown)), (FRIEND_ADDED, json!(added))],
    );
}
