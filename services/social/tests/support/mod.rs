//! A region with the real social service, keyring, PostgreSQL and Kafka; training, identity and the replicator are played by
//! the test, on the same topics.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]
#![allow(dead_code, reason = "each test file uses its part of it")]

use jiff::Timestamp;
use meridian_kit::db::TenantTx;
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::kafka::{Producer, Topic};
use meridian_kit::subject_keys::{Create, KeyScope, Keyring};
use meridian_kit::testing::{Athlete, Client, Region, until};
use meridian_policy::DataClass;
use serde_json::{Value, json};
use uuid::Uuid;

/// The region and what plays its other services.
pub struct World {
    pub region: Region,
    pub api: Client,
    pub producer: Producer,
    keyring: Keyring,
}

impl World {
    pub async fn new() -> Self {
        let region = Region::new("us", &["stride-us", "other-us"]).await;
        region.run("keyring", meridian_keyring::run).await;
        region.database("social", meridian_social::MIGRATIONS).await;
        let kafka = region.kafka("training");
        let topics: Vec<Topic> = meridian_social::intake::TOPICS
            .iter()
            .map(|name| Topic::events(name))
            .collect();
        kafka.ensure_topics(&topics).await.unwrap();
        region.run("social", meridian_social::run).await;
        let (api, keyring) = (region.client("gateway", "social"), region.keyring("training"));
        Self {
            producer: kafka.producer().unwrap(),
            region,
            api,
            keyring,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "an event has that many parts")]
    pub async fn tell(
        &self,
        service: &str,
        topic: &str,
        athlete: &Athlete,
        kind: &str,
        sequence: u64,
        stream: Uuid,
        payload: Value,
    ) -> Event {
        let key = self
            .keyring
            .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes)
            .await
            .unwrap();
        let source = EventSource::new(self.region.name().parse().unwrap(), service);
        let draft = Draft {
            kind,
            stream: stream.to_string(),
            sequence,
            class: DataClass::WorkoutSummary,
            epoch: athlete.epoch,
        };
        let event = Event::sealed(&source, draft, &key, &payload).unwrap();
        self.send(topic, &athlete.subject.to_string(), &event).await;
        event
    }

    pub async fn send(&self, topic: &str, key: &str, event: &Event) {
        self.producer.send(topic, key, &event.to_bytes()).await.unwrap();
    }

    /// An athlete whom identity has told about.
    pub async fn athlete(&self, profile: &str, workouts: &str) -> Athlete {
        let athlete = self.region.athlete("stride-us");
        self.set_privacy(&athlete, 1, profile, workouts).await;
        let pool = self.region.running("social").database().unwrap();
        let known = until(|| async {
            let mut tx = TenantTx::begin(&pool, &athlete.scope()).await.unwrap();
            let query = sqlx::query_scalar("select exists (select 1 from person where subject = $1)");
            let known: bool = query.bind(athlete.subject).fetch_one(tx.conn()).await.unwrap();
            known.then_some(())
        })
        .await;
        assert!(known.is_some(), "identity was not heard");
        athlete
    }

    pub async fn set_privacy(&self, athlete: &Athlete, version: u64, profile: &str, workouts: &str) {
        let facts = json!({
            "subject": athlete.subject, "country": "US", "first_name": "Ada", "last_name": "Rider",
            "privacy": {"profile": profile, "workouts": workouts},
        });
        let kind = "sh.meridian.user.profile-updated.v1";
        self.tell(
            "identity",
            "identity.events",
            athlete,
            kind,
            version,
            athlete.subject.as_uuid(),
            facts,
        )
        .await;
    }

    /// A workout that training has told about from beginning to end.
    pub async fn ride(&self, athlete: &Athlete, visibility: Option<&str>) -> Uuid {
        let workout = self.start(athlete, visibility).await;
        self.complete(athlete, workout).await;
        workout
    }

    pub async fn start(&self, athlete: &Athlete, visibility: Option<&str>) -> Uuid {
        let workout = Uuid::now_v7();
        let started = json!({
            "workout_id": workout, "user_id": athlete.subject, "sport_type": "cycling", "start_time": "2026-11-20T17:45:12Z",
            "device_model": null, "title": "Round the lake", "visibility": visibility,
        });
        self.tell(
            "training",
            "training.events",
            athlete,
            "sh.meridian.workout.started.v1",
            1,
            workout,
            started,
        )
        .await;
        workout
    }

    pub async fn complete(&self, athlete: &Athlete, workout: Uuid) {
        let completed = json!({
            "workout_id": workout, "end_time": Timestamp::now(), "duration_sec": 3600, "distance_meters": 31_500.5,
            "ascent_meters": 420.0, "calories_burned": 800.0, "track_id": Uuid::now_v7(),
        });
        self.tell(
            "training",
            "training.events",
            athlete,
            "sh.meridian.workout.completed.v1",
            2,
            workout,
            completed,
        )
        .await;
    }

    /// A marker: once the author sees it in their own feed, all that was told of them before has arrived.
    pub async fn settle(&self, athlete: &Athlete) {
        let marker = self.ride(athlete, Some("only-me")).await;
        self.sees(athlete, "following", marker).await;
    }

    pub async fn feed(&self, viewer: &Athlete, query: &str) -> Value {
        let path = format!("/api/v1/feed?{query}");
        let answer = self.api.get(&path).bearer_auth(&viewer.token).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    pub async fn item(&self, viewer: &Athlete, scope: &str, id: Uuid) -> Option<Value> {
        let page = self.feed(viewer, &format!("scope={scope}")).await;
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["id"] == json!(id))
            .cloned()
    }

    /// Waits until the viewer sees it.
    pub async fn sees(&self, viewer: &Athlete, scope: &str, id: Uuid) -> Value {
        let seen = until(|| self.item(viewer, scope, id)).await;
        seen.unwrap_or_else(|| panic!("{id} never came into the feed"))
    }

    /// Waits until the viewer no longer sees it.
    pub async fn sees_no_more(&self, viewer: &Athlete, scope: &str, id: Uuid) {
        let gone = until(|| async { self.item(viewer, scope, id).await.is_none().then_some(()) }).await;
        assert!(gone.is_some(), "{id} stays in the feed");
    }

    pub async fn follow(&self, follower: &Athlete, followed: &Athlete) -> u16 {
        let body = json!({"subject": followed.subject});
        self.api
            .post("/api/v1/follows")
            .bearer_auth(&follower.token)
            .json(&body)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    pub async fn share(&self, athlete: &Athlete, workout: Uuid, audience: &str) -> (u16, Value) {
        let body = json!({"workout_id": workout, "audience": audience});
        let answer = self
            .api
            .post("/api/v1/shares")
            .bearer_auth(&athlete.token)
            .json(&body)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}
