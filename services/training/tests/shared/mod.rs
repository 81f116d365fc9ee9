//! A region with training in it, and how an athlete speaks to it.
#![allow(dead_code, reason = "each test file uses its part")]

use meridian_kit::testing::{Athlete, Client, Database, Region};
use serde_json::{Value, json};

pub const TENANT: &str = "stride-eu";

/// A region that runs keyring and training.
pub struct Scene {
    pub region: Region,
    pub database: Database,
    pub api: Client,
    pub athlete: Athlete,
}

impl Scene {
    pub async fn new() -> Self {
        let region = Region::new("eu", &[TENANT]).await;
        region.run("keyring", meridian_keyring::run).await;
        let database = region.database("training", meridian_training::MIGRATIONS).await;
        region.run("training", meridian_training::run).await;
        let athlete = region.athlete(TENANT);
        let api = region.client("gateway", "training");
        Self {
            region,
            database,
            api,
            athlete,
        }
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.api.post(path).bearer_auth(&self.athlete.token).json(body)).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.api.get(path).bearer_auth(&self.athlete.token)).await
    }

    /// Starts a ride an hour ago and returns its id.
    pub async fn started(&self) -> String {
        let (status, workout) = self.post("/api/v1/workouts", &start_body()).await;
        assert_eq!(status, 201, "{workout}");
        workout["workout_id"].as_str().expect("an id").to_owned()
    }

    pub async fn command(&self, id: &str, body: &Value) -> (u16, Value) {
        self.post(&format!("/api/v1/workouts/{id}/commands"), body).await
    }

    pub async fn count(&self, table: &'static str) -> i64 {
        let query = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar(query)
            .fetch_one(&self.database.superuser_pool())
            .await
            .expect("a count")
    }
}

pub fn start_body() -> Value {
    let start = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    json!({"sport_type": "cycling", "start_time": start})
}

pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let body = response.bytes().await.expect("a body");
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}
