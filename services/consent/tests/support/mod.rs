//! A region with the real consent service, keyring, PostgreSQL and Kafka.
#![allow(dead_code, reason = "each test file uses its part of it")]

use meridian_kit::testing::{Athlete, Region};
use serde_json::{Value, json};

/// With consent at work for the tenants of one region.
pub async fn region() -> Region {
    let region = Region::new("eu", &["stride-eu", "other-eu"]).await;
    region.run("keyring", meridian_keyring::run).await;
    region.database("consent", meridian_consent::MIGRATIONS).await;
    region.run("consent", meridian_consent::run).await;
    region
}

/// Grants or withdraws as the athlete, through the gateway's certificate.
pub async fn change(region: &Region, athlete: &Athlete, action: &str, matter: (&str, &str)) -> (u16, Value) {
    let body = json!({"purpose": matter.0, "class": matter.1, "action": action});
    let api = region.client("gateway", "consent");
    let answer = api
        .post("/api/v1/consents")
        .bearer_auth(&athlete.token)
        .json(&body)
        .send()
        .await
        .expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// Sets or lifts a limit as the athlete: an objection to a purpose, or without one the restriction.
pub async fn limit(region: &Region, athlete: &Athlete, action: &str, purpose: Option<&str>) -> (u16, Value) {
    let (path, body) = match purpose {
        Some(purpose) => ("/api/v1/objections", json!({"purpose": purpose, "action": action})),
        None => ("/api/v1/restriction", json!({"action": action})),
    };
    let answer = region
        .client("gateway", "consent")
        .post(path)
        .bearer_auth(&athlete.token)
        .json(&body)
        .send()
        .await
        .expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// Reads a list as the athlete.
pub async fn get(region: &Region, athlete: &Athlete, path: &str) -> (u16, Value) {
    let answer = region
        .client("gateway", "consent")
        .get(path)
        .bearer_auth(&athlete.token)
        .send()
        .await
        .expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// The body of a request for a permit.
pub fn permit_body(athlete: &Athlete, matter: (&str, &str)) -> Value {
    json!({
        "tenant": athlete.tenant, "subject": athlete.subject, "purpose": matter.0, "class": matter.1,
        "delivery_id": "campaign-1", "deliverer": "promotions-0",
    })
}

/// Asks for a permit as promotions.
pub async fn ask_permit(region: &Region, athlete: &Athlete, matter: (&str, &str)) -> (u16, Value) {
    let api = region.client("promotions", "consent");
    let answer = api
        .post("/internal/permits")
        .json(&permit_body(athlete, matter))
        .send()
        .await
        .expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}
