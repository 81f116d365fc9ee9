//! A region with the real keyring, consent and promotions.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeSet;

use meridian_kit::SubjectId;
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::kafka::Topic;
use meridian_kit::subject_keys::{Create, KeyScope};
use meridian_kit::testing::{Athlete, Database, Region, until};
use meridian_policy::DataClass;
use serde_json::{Value, json};

pub const PROMOTION: &str = "promotion";
pub const WORKOUTS: &str = "workout-summary";

pub type Answer = (u16, Value);

pub struct Setting {
    pub region: Region,
    pub database: Database,
}

impl Setting {
    pub async fn new() -> Self {
        let setting = Self::without_promotions().await;
        setting.region.run("promotions", meridian_promotions::run).await;
        setting
    }

    pub async fn without_promotions() -> Self {
        let region = Region::new("eu", &["stride-eu", "pace-eu"]).await;
        region.run("keyring", meridian_keyring::run).await;
        region.database("consent", meridian_consent::MIGRATIONS).await;
        region.run("consent", meridian_consent::run).await;
        let kafka = region.kafka("training");
        kafka.ensure_topics(&[Topic::events("training.events")]).await.unwrap();
        let database = region.database("promotions", meridian_promotions::MIGRATIONS).await;
        Self { region, database }
    }

    pub async fn restart(&self) {
        self.region.run("promotions", meridian_promotions::run).await;
    }

    pub async fn consent(&self, athlete: &Athlete, action: &str, class: &str) {
        let api = self.region.client("gateway", "consent");
        let body = json!({"purpose": "marketing", "class": class, "action": action});
        let (status, answer) = answer(api.post("/api/v1/consents").bearer_auth(&athlete.token).json(&body)).await;
        assert!(matches!(status, 200 | 201), "{status} {answer}");
    }

    /// Grants, and waits until promotions has heard of it.
    pub async fn granted(&self, athlete: &Athlete, class: &str) {
        self.consent(athlete, "grant", class).await;
        self.heard(athlete, class, true).await;
    }

    pub async fn heard(&self, athlete: &Athlete, class: &str, granted: bool) {
        let column = if class == PROMOTION { "promotion" } else { "workouts" };
        let query = format!("select 1 from athlete where subject = $1 and {column} = $2 and {column}_version > 0");
        let pool = self.database.superuser_pool();
        until(async || {
            let query = sqlx::query(sqlx::AssertSqlSafe(query.clone()))
                .bind(athlete.subject)
                .bind(granted);
            query.fetch_optional(&pool).await.unwrap().map(|_| ())
        })
        .await
        .expect("the consent is heard of");
    }

    /// A consenting athlete, known to promotions.
    pub async fn reachable(&self) -> Athlete {
        let athlete = self.athlete().await;
        self.granted(&athlete, PROMOTION).await;
        athlete
    }

    /// An athlete with a personal key, as identity leaves one behind.
    pub async fn athlete(&self) -> Athlete {
        let athlete = self.region.athlete("stride-eu");
        let keyring = self.region.keyring("identity");
        keyring
            .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes)
            .await
            .unwrap();
        athlete
    }

    pub async fn make(&self, campaign: Value) -> Answer {
        let token = self.region.marketing_token("stride-eu");
        let api = self.region.client("gateway", "promotions");
        answer(api.post("/api/v1/campaigns").bearer_auth(token).json(&campaign)).await
    }

    pub async fn launch(&self, id: &str) -> Answer {
        let token = self.region.marketing_token("stride-eu");
        let api = self.region.client("gateway", "promotions");
        answer(api.post(&format!("/api/v1/campaigns/{id}/launch")).bearer_auth(token)).await
    }

    /// Makes and launches a campaign; returns its id.
    pub async fn launched(&self, name: &str, segment: Value) -> String {
        let (status, made) = self.make(campaign(name, segment)).await;
        assert_eq!(status, 201, "{made}");
        let id = made["id"].as_str().unwrap().to_owned();
        assert_eq!(self.launch(&id).await.0, 202);
        id
    }

    /// Waits until every athlete was looked at and every question was answered.
    pub async fn settled(&self) {
        let pool = self.database.superuser_pool();
        until(async || {
            let open: i64 = sqlx::query_scalar(
                "select (select count(*) from pending) + (select count(*) from campaign where state = 'launching')",
            )
            .fetch_one(&pool)
            .await
            .unwrap();
            (open == 0).then_some(())
        })
        .await
        .expect("the campaign is carried out");
    }

    pub async fn inbox(&self, athlete: &Athlete) -> Vec<Value> {
        let api = self.region.client("gateway", "promotions");
        let (status, body) = answer(api.get("/api/v1/promotions").bearer_auth(&athlete.token)).await;
        assert_eq!(status, 200, "{body}");
        body["promotions"].as_array().unwrap().clone()
    }

    /// Waits until an inbox holds this many.
    pub async fn received(&self, athlete: &Athlete, count: usize) {
        let arrived = until(async || (self.inbox(athlete).await.len() == count).then_some(()));
        arrived
            .await
            .unwrap_or_else(|| panic!("not {count} promotions in the inbox"));
    }

    pub async fn delivered(&self) -> BTreeSet<SubjectId> {
        let rows: Vec<SubjectId> = sqlx::query_scalar("select subject from delivery")
            .fetch_all(&self.database.superuser_pool())
            .await
            .unwrap();
        let count = rows.len();
        let distinct: BTreeSet<SubjectId> = rows.into_iter().collect();
        assert_eq!(distinct.len(), count, "nobody received a campaign twice");
        distinct
    }

    /// A workout as training tells of it.
    pub async fn rides(&self, athlete: &Athlete, sport: &str) {
        let workout = uuid::Uuid::new_v4();
        let payload = json!({
            "workout_id": workout, "user_id": athlete.subject, "sport_type": sport,
            "start_time": "2026-11-20T07:00:00Z", "title": "canary title",
        });
        let class = DataClass::TrainingContent;
        let draft = Draft {
            kind: "sh.meridian.workout.started.v1",
            stream: workout.to_string(),
            sequence: 1,
            class,
            epoch: athlete.epoch,
        };
        self.tell(athlete, "training", "training.events", draft, &payload).await;
    }

    /// A withdrawal as consent tells of it, without consent being asked.
    pub async fn tell_withdrawal(&self, athlete: &Athlete, version: u64) {
        let payload = json!({"purpose": "marketing", "class": PROMOTION, "version": version});
        let draft = Draft {
            kind: "sh.meridian.consent.withdrawn.v1",
            stream: uuid::Uuid::new_v4().to_string(),
            sequence: version,
            class: DataClass::Consent,
            epoch: athlete.epoch,
        };
        self.tell(athlete, "consent", "consent.state", draft, &payload).await;
    }

    async fn tell(&self, athlete: &Athlete, service: &'static str, topic: &str, draft: Draft<'_>, payload: &Value) {
        let keyring = self.region.keyring("training");
        let key = keyring
            .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes)
            .await
            .unwrap();
        let source = EventSource::new("eu".parse().unwrap(), service);
        let event = Event::sealed(&source, draft, &key, payload).unwrap();
        let producer = self.region.kafka(service).producer().unwrap();
        producer
            .send(topic, &athlete.subject.to_string(), &event.to_bytes())
            .await
            .unwrap();
    }

    /// Waits until a workout event of an athlete was handled, whatever came of it.
    pub async fn heard_workouts(&self, count: i64) {
        let pool = self.database.superuser_pool();
        until(async || {
            // Of consents there is one event for each version that was heard.
            let handled: i64 = sqlx::query_scalar(
                "select (select count(*) from inbox) - \
                 (select coalesce(sum(promotion_version + workouts_version), 0)::bigint from athlete)",
            )
            .fetch_one(&pool)
            .await
            .unwrap();
            (handled == count).then_some(())
        })
        .await
        .expect("the workouts are heard of");
    }
}

pub fn campaign(name: &str, segment: Value) -> Value {
    json!({"name": name, "title": "Spring shoes", "body": "Twenty per cent off", "segment": segment})
}

pub fn all() -> Value {
    json!({"all": true})
}

pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or(Value::Null))
}
