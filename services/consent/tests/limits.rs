//! Objections and restrictions: what they forbid, and that nothing starts after one was acknowledged.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_kit::testing::{Athlete, Region};
use serde_json::{Value, json};
use support::{ask_permit, change, get, limit, permit_body, region};

const MARKETING: (&str, &str) = ("marketing", "promotion");
const SHARING: (&str, &str) = ("cross-border-sharing", "workout-summary");

async fn rule(region: &Region, athlete: &Athlete, matter: (&str, &str)) -> Value {
    let (status, answer) = ask_permit(region, athlete, matter).await;
    if status == 200 {
        return json!("a permit");
    }
    assert_eq!(status, 403, "{answer}");
    answer["rule"].clone()
}

async fn consenting(region: &Region) -> Athlete {
    let athlete = region.athlete("stride-eu");
    for matter in [MARKETING, SHARING] {
        assert_eq!(change(region, &athlete, "grant", matter).await.0, 201);
    }
    athlete
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_objection_outranks_consent_to_its_purpose_until_it_is_lifted() {
    let region = region().await;
    let (athlete, other) = (consenting(&region).await, consenting(&region).await);
    let (status, said) = limit(&region, &athlete, "set", Some("marketing")).await;
    assert_eq!(
        (status, &said["in_force"], &said["version"]),
        (201, &json!(true), &json!(1))
    );
    assert_eq!(rule(&region, &athlete, MARKETING).await, "subject-objects");
    // Another purpose, and another subject, are not concerned; consenting anew changes nothing.
    assert_eq!(rule(&region, &athlete, SHARING).await, "a permit");
    assert_eq!(rule(&region, &other, MARKETING).await, "a permit");
    assert_eq!(change(&region, &athlete, "grant", MARKETING).await.0, 200);
    assert_eq!(rule(&region, &athlete, MARKETING).await, "subject-objects");

    assert_eq!(limit(&region, &athlete, "set", Some("marketing")).await, (200, said));
    let (status, lifted) = limit(&region, &athlete, "lift", Some("marketing")).await;
    assert_eq!(
        (status, &lifted["in_force"], &lifted["version"]),
        (201, &json!(false), &json!(2))
    );
    assert_eq!(rule(&region, &athlete, MARKETING).await, "a permit");
    let (_, list) = get(&region, &athlete, "/api/v1/objections").await;
    assert_eq!(list, json!({"objections": [lifted]}));
    assert_eq!(
        get(&region, &other, "/api/v1/objections").await.1,
        json!({"objections": []})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restriction_outranks_every_consent_until_it_is_lifted() {
    let region = region().await;
    let athlete = consenting(&region).await;
    let never = json!({"in_force": false, "version": 0});
    assert_eq!(
        get(&region, &athlete, "/api/v1/restriction").await,
        (200, never.clone())
    );
    assert_eq!(limit(&region, &athlete, "lift", None).await, (200, never));
    assert_eq!(limit(&region, &athlete, "set", None).await.0, 201);
    for matter in [MARKETING, SHARING] {
        assert_eq!(rule(&region, &athlete, matter).await, "processing-restricted");
    }
    let (_, standing) = get(&region, &athlete, "/api/v1/restriction").await;
    assert_eq!((&standing["in_force"], &standing["version"]), (&json!(true), &json!(1)));
    assert_eq!(limit(&region, &athlete, "lift", None).await.0, 201);
    for matter in [MARKETING, SHARING] {
        assert_eq!(rule(&region, &athlete, matter).await, "a permit");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_objected_to_is_refused_with_what_can() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    for (purpose, code) in [
        ("service-provision", "purpose-without-consent"),
        ("legal-obligation", "purpose-without-consent"),
        ("spam", "unknown-purpose"),
    ] {
        let (status, answer) = limit(&region, &athlete, "set", Some(purpose)).await;
        assert_eq!((status, &answer["code"]), (400, &json!(code)), "{answer}");
        let allowed = answer["details"][0]["allowed"].as_array().unwrap();
        assert!(allowed.contains(&json!("marketing")) && !allowed.contains(&json!(purpose)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn setting_a_limit_waits_for_the_permits_that_it_forbids_and_for_no_others() {
    let region = region().await;
    let athlete = consenting(&region).await;
    let (status, _) = ask_permit(&region, &athlete, SHARING).await;
    assert_eq!(status, 200);
    let waits = async |purpose| {
        let set = limit(&region, &athlete, "set", purpose);
        tokio::time::timeout(Duration::from_millis(300), set).await.is_err()
    };
    assert!(!waits(Some("marketing")).await, "nothing for this purpose is open");
    assert!(waits(Some("cross-border-sharing")).await);
    assert!(waits(None).await, "a restriction waits for every purpose");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_delivery_starts_after_an_objection_or_a_restriction_was_acknowledged() {
    let region = Arc::new(region().await);
    let mut starts_seen = 0;
    for round in 0..4_u64 {
        let athletes = (0..8_u64).map(|number| {
            let region = Arc::clone(&region);
            async move {
                let athlete = consenting(&region).await;
                let deliverers: Vec<_> = (0..3)
                    .map(|_| tokio::spawn(deliver(Arc::clone(&region), athlete.clone())))
                    .collect();
                tokio::time::sleep(Duration::from_millis(30 + round * 41 + number * 7)).await;
                let purpose = (number % 2 == 0).then_some("marketing");
                assert_eq!(limit(&region, &athlete, "set", purpose).await.0, 201);
                let acknowledged = Instant::now();
                let mut starts = Vec::new();
                for deliverer in deliverers {
                    starts.extend(deliverer.await.unwrap());
                }
                (acknowledged, starts)
            }
        });
        for (acknowledged, starts) in futures::future::join_all(athletes).await {
            assert!(starts.iter().all(|start| *start < acknowledged));
            starts_seen += starts.len();
        }
    }
    assert!(starts_seen > 50, "{starts_seen} deliveries prove little");
}

/// Delivers as soon as it may, again and again until it is refused; when each delivery started.
async fn deliver(region: Arc<Region>, athlete: Athlete) -> Vec<Instant> {
    let api = region.client("promotions", "consent");
    let mut starts = Vec::new();
    loop {
        let asked = Instant::now();
        let request = api.post("/internal/permits").json(&permit_body(&athlete, MARKETING));
        let answer = request.send().await.unwrap();
        if answer.status() != 200 {
            assert_eq!(answer.status(), 403);
            return starts;
        }
        let permit: Value = answer.json().await.unwrap();
        // Some work before the start, as far as the permit allows it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let start = Instant::now();
        if start.duration_since(asked) < Duration::from_millis(permit["valid_for_ms"].as_u64().unwrap()) {
            starts.push(start);
        }
        let path = format!("/internal/permits/{}/close", permit["permit_id"].as_str().unwrap());
        assert_eq!(api.post(&path).send().await.unwrap().status(), 204);
    }
}
