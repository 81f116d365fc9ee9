//! A region with a keyring and identity, and what an athlete does there.

use meridian_kit::testing::{Client, Database, Region};
use serde_json::{Value, json};

/// The password of every athlete here.
pub const PASSWORD: &str = "correct horse battery";

/// identity in a region `eu`, with two tenants at home and real parts around it.
pub struct Setting {
    pub region: Region,
    pub database: Database,
    pub api: Client,
}

/// An answer: status and body.
pub type Answer = (u16, Value);

impl Setting {
    pub async fn new() -> Self {
        let region = Region::new("eu", &["stride-eu", "pace-eu"]).await;
        region.run("keyring", meridian_keyring::run).await;
        let database = region.database("identity", meridian_identity::MIGRATIONS).await;
        region
            .run("identity", |start| meridian_identity::run_with(start, None))
            .await;
        let api = region.client("gateway", "identity");
        Self { region, database, api }
    }

    pub async fn register(&self, tenant: &str, email: &str) -> Answer {
        self.register_with(tenant, registration(email), None).await
    }

    pub async fn register_with(&self, tenant: &str, body: Value, key: Option<&str>) -> Answer {
        let mut request = self
            .api
            .post("/api/v1/accounts")
            .header("meridian-tenant", tenant)
            .json(&body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        answer(request).await
    }

    pub async fn sign_in(&self, tenant: Option<&str>, email: &str, password: &str) -> Answer {
        let mut request = self
            .api
            .post("/api/v1/sessions")
            .json(&json!({"email": email, "password": password}));
        if let Some(tenant) = tenant {
            request = request.header("meridian-tenant", tenant);
        }
        answer(request).await
    }

    /// Registers and signs in.
    pub async fn athlete(&self, email: &str) -> String {
        assert_eq!(self.register("stride-eu", email).await.0, 201);
        self.token(email).await
    }

    pub async fn token(&self, email: &str) -> String {
        let (status, body) = self.sign_in(Some("stride-eu"), email, PASSWORD).await;
        assert_eq!(status, 200, "{body}");
        body["access_token"].as_str().unwrap().to_owned()
    }

    pub async fn me(&self, token: &str) -> Answer {
        answer(self.api.get("/api/v1/me").bearer_auth(token)).await
    }
}

pub fn registration(email: &str) -> Value {
    json!({"email": email, "password": PASSWORD, "first_name": "Ada", "last_name": "Lovelace", "country": "DE"})
}

pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or(Value::Null))
}
