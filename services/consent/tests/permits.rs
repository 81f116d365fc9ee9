//! Permits: what may start, and that nothing does after a withdrawal was acknowledged.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_kit::testing::{Athlete, Client, Region};
use serde_json::json;
use support::{ask_permit, change, permit_body, region};

const MARKETING: (&str, &str) = ("marketing", "promotion");
/// As long as a permit lives.
const LIFE: Duration = Duration::from_millis(2000);

async fn close(region: &Region, caller: &str, id: &str) -> u16 {
    let path = format!("/internal/permits/{id}/close");
    region
        .client(caller, "consent")
        .post(&path)
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permit_is_given_only_while_consent_stands_for_that_purpose_and_class() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    let refusal = |rule: &'static str| (403, json!(rule));
    let ask = async |matter| {
        let (status, body) = ask_permit(&region, &athlete, matter).await;
        (status, body["rule"].clone())
    };
    assert_eq!(ask(MARKETING).await, refusal("consent-missing"));
    change(&region, &athlete, "grant", MARKETING).await;
    let (status, permit) = ask_permit(&region, &athlete, MARKETING).await;
    assert_eq!(status, 200);
    let valid_for = permit["valid_for_ms"].as_u64().unwrap();
    assert!(valid_for > 0 && Duration::from_millis(valid_for) < LIFE);
    assert_eq!(ask(("marketing", "contact")).await, refusal("consent-missing"));
    assert_eq!(
        ask(("cross-border-sharing", "promotion")).await,
        refusal("consent-missing")
    );
    assert_eq!(
        close(&region, "promotions", permit["permit_id"].as_str().unwrap()).await,
        204
    );
    change(&region, &athlete, "withdraw", MARKETING).await;
    assert_eq!(ask(MARKETING).await, refusal("consent-withdrawn"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_services_that_deliver_may_ask_and_only_who_opened_may_close() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    change(&region, &athlete, "grant", MARKETING).await;
    for caller in ["gateway", "identity", "telemetry", "keyring"] {
        let body = permit_body(&athlete, MARKETING);
        let answer = region
            .client(caller, "consent")
            .post("/internal/permits")
            .json(&body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 403, "{caller}");
    }
    let (_, permit) = ask_permit(&region, &athlete, MARKETING).await;
    let id = permit["permit_id"].as_str().unwrap();
    assert_eq!(close(&region, "replicator", id).await, 403);
    assert_eq!(close(&region, "promotions", id).await, 204);
    assert_eq!(
        close(&region, "promotions", id).await,
        204,
        "closing again changes nothing"
    );
    assert_eq!(
        close(&region, "promotions", "00000000-0000-4000-8000-000000000000").await,
        404
    );
}

/// Asks for permits for one delivery to each athlete, and returns the answers.
async fn ask_for_all(api: &Client, athletes: &[&Athlete]) -> (u16, serde_json::Value) {
    let deliveries: Vec<_> = athletes
        .iter()
        .map(|athlete| json!({"subject": athlete.subject, "delivery_id": "campaign-1"}))
        .collect();
    let body = json!({
        "tenant": "stride-eu", "purpose": MARKETING.0, "class": MARKETING.1, "deliverer": "promotions-0",
        "deliveries": deliveries,
    });
    let answer = api.post("/internal/permits/open").json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn close_all(api: &Client, permits: &[&serde_json::Value]) -> u16 {
    let body = json!({"tenant": "stride-eu", "permits": permits});
    let answer = api.post("/internal/permits/close").json(&body).send().await.unwrap();
    answer.status().as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_delivery_of_a_batch_gets_its_own_answer_in_its_place() {
    let region = region().await;
    let api = region.client("promotions", "consent");
    let (granted, silent, withdrawn) = (
        region.athlete("stride-eu"),
        region.athlete("stride-eu"),
        region.athlete("stride-eu"),
    );
    change(&region, &granted, "grant", MARKETING).await;
    change(&region, &withdrawn, "grant", MARKETING).await;
    change(&region, &withdrawn, "withdraw", MARKETING).await;
    let (status, answer) = ask_for_all(&api, &[&withdrawn, &granted, &silent, &granted]).await;
    assert_eq!(status, 200);
    assert!(Duration::from_millis(answer["valid_for_ms"].as_u64().unwrap()) < LIFE);
    let permits = answer["permits"].as_array().unwrap();
    assert_eq!(permits[0], json!({"rule": "consent-withdrawn"}));
    assert_eq!(permits[2], json!({"rule": "consent-missing"}));
    assert_ne!(permits[1]["permit_id"], permits[3]["permit_id"]);
    assert!(permits[3]["permit_id"].is_string());
    let (status, _) = ask_for_all(&api, &[]).await;
    assert_eq!(status, 400, "nothing was asked");
    let (status, _) = ask_for_all(&api, &vec![&granted; 513]).await;
    assert_eq!(status, 400, "too much was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_closed_by_who_opened_it_and_by_nobody_else() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    let (api, other) = (
        region.client("promotions", "consent"),
        region.client("replicator", "consent"),
    );
    change(&region, &athlete, "grant", MARKETING).await;
    let (_, answer) = ask_for_all(&api, &[&athlete, &athlete]).await;
    let permits: Vec<_> = answer["permits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|permit| &permit["permit_id"])
        .collect();
    assert_eq!(close_all(&other, &permits).await, 204);
    let withdrawal = change(&region, &athlete, "withdraw", MARKETING);
    let waits = tokio::time::timeout(Duration::from_millis(500), withdrawal).await;
    assert!(waits.is_err(), "they are open still");
    assert_eq!(close_all(&api, &permits).await, 204);
    assert_eq!(close_all(&api, &permits).await, 204, "closing again changes nothing");
    let begun = Instant::now();
    change(&region, &athlete, "withdraw", MARKETING).await;
    assert!(
        begun.elapsed() < LIFE / 2,
        "nothing is waited for: {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_that_name_the_same_subjects_in_any_order_do_not_wait_for_each_other_for_ever() {
    let region = Arc::new(region().await);
    let api = region.client("promotions", "consent");
    let athletes: Vec<Athlete> = (0..20).map(|_| region.athlete("stride-eu")).collect();
    for athlete in &athletes {
        change(&region, athlete, "grant", MARKETING).await;
    }
    let batches = (0..24).map(|number| {
        let (api, mut athletes) = (api.clone(), athletes.clone());
        if number % 2 == 0 {
            athletes.reverse();
        }
        athletes.rotate_left(number % 20);
        async move { ask_for_all(&api, &athletes.iter().collect::<Vec<_>>()).await }
    });
    for (status, answer) in futures::future::join_all(batches).await {
        assert_eq!(status, 200, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_of_elsewhere_gets_no_permit() {
    let region = region().await;
    let mut body = permit_body(&region.athlete("stride-eu"), MARKETING);
    body["tenant"] = "stride-us".into();
    let answer = region
        .client("promotions", "consent")
        .post("/internal/permits")
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(
        answer.json::<serde_json::Value>().await.unwrap()["rule"],
        "tenant-unknown"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawal_waits_for_an_open_permit_to_be_closed() {
    let region = Arc::new(region().await);
    let athlete = region.athlete("stride-eu");
    change(&region, &athlete, "grant", MARKETING).await;
    let (_, permit) = ask_permit(&region, &athlete, MARKETING).await;
    let withdrawal = tokio::spawn({
        let (region, athlete) = (Arc::clone(&region), athlete.clone());
        async move {
            let answer = change(&region, &athlete, "withdraw", MARKETING).await;
            (answer, Instant::now())
        }
    });
    // Committed, so nothing new is permitted; not acknowledged, since the permit is open.
    while ask_permit(&region, &athlete, MARKETING).await.0 == 200 {}
    assert!(!withdrawal.is_finished());
    let closed = Instant::now();
    assert_eq!(
        close(&region, "promotions", permit["permit_id"].as_str().unwrap()).await,
        204
    );
    let ((status, _), acknowledged) = withdrawal.await.unwrap();
    assert_eq!(status, 201);
    assert!(acknowledged > closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deliverer_that_died_holds_a_withdrawal_up_no_longer_than_its_permit_lives() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    change(&region, &athlete, "grant", MARKETING).await;
    assert_eq!(ask_permit(&region, &athlete, MARKETING).await.0, 200);
    let begun = Instant::now();
    assert_eq!(change(&region, &athlete, "withdraw", MARKETING).await.0, 201);
    let waited = begun.elapsed();
    assert!(waited >= LIFE && waited < LIFE * 3, "{waited:?}");
    // Granted and withdrawn again later, the dead permit is waited for once more at most; another purpose never waits.
    let other = ("profiling", "promotion");
    change(&region, &athlete, "grant", other).await;
    let begun = Instant::now();
    change(&region, &athlete, "withdraw", other).await;
    assert!(begun.elapsed() < LIFE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_withdrawal_is_not_acknowledged_sooner() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    change(&region, &athlete, "grant", MARKETING).await;
    assert_eq!(ask_permit(&region, &athlete, MARKETING).await.0, 200);
    let send = || {
        let body = json!({"purpose": "marketing", "class": "promotion", "action": "withdraw"});
        let api = region
            .client("gateway", "consent")
            .post("/api/v1/consents")
            .bearer_auth(&athlete.token);
        api.header("idempotency-key", "w-1").json(&body)
    };
    // A client that gives up waiting…
    assert!(send().timeout(Duration::from_millis(300)).send().await.is_err());
    // … and asks again is answered when the permit has run out, not before.
    let begun = Instant::now();
    assert_eq!(send().send().await.unwrap().status(), 201);
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
}

/// How a deliverer behaves once it has its permit.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Starts at once and closes.
    Quick,
    /// Starts at the last moment that it may, and closes.
    Late,
    /// Starts a little later, and never closes.
    Forgetful,
}

/// Delivers again and again until it is refused, and returns when each delivery started.
async fn deliver(api: Client, athlete: Athlete, manner: Manner) -> Vec<Instant> {
    let mut starts = Vec::new();
    loop {
        let asked = Instant::now();
        let request = api.post("/internal/permits").json(&permit_body(&athlete, MARKETING));
        let answer = request.send().await.unwrap();
        if answer.status() != 200 {
            assert_eq!(answer.status(), 403);
            return starts;
        }
        let permit: serde_json::Value = answer.json().await.unwrap();
        let valid_for = Duration::from_millis(permit["valid_for_ms"].as_u64().unwrap());
        let pause = match manner {
            Manner::Quick => Duration::ZERO,
            Manner::Late => valid_for.saturating_sub(asked.elapsed() + Duration::from_millis(5)),
            Manner::Forgetful => Duration::from_millis(150),
        };
        tokio::time::sleep(pause).await;
        let start = Instant::now();
        if start.duration_since(asked) < valid_for {
            starts.push(start);
        }
        if !matches!(manner, Manner::Forgetful) {
            let id = permit["permit_id"].as_str().unwrap();
            let path = format!("/internal/permits/{id}/close");
            assert_eq!(api.post(&path).send().await.unwrap().status(), 204);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_delivery_starts_after_a_withdrawal_was_acknowledged() {
    let region = Arc::new(region().await);
    let api = region.client("promotions", "consent");
    let mut deliveries = 0;
    let mut last_moment = 0;
    // Rounds of several athletes side by side, each with deliverers of every manner; the withdrawal comes at a moment that
    // moves through the deliverers' cycle.
    for round in 0..6_u64 {
        let athletes = (0..10).map(|number| {
            let (region, api) = (Arc::clone(&region), api.clone());
            async move {
                let athlete = region.athlete("stride-eu");
                assert_eq!(change(&region, &athlete, "grant", MARKETING).await.0, 201);
                let manners = [Manner::Quick, Manner::Late, Manner::Forgetful, Manner::Quick];
                let deliverers: Vec<_> = manners
                    .map(|manner| tokio::spawn(deliver(api.clone(), athlete.clone(), manner)))
                    .into();
                tokio::time::sleep(Duration::from_millis(40 + round * 47 + number * 7)).await;
                let (status, _) = change(&region, &athlete, "withdraw", MARKETING).await;
                let acknowledged = Instant::now();
                assert_eq!(status, 201);
                let mut starts = Vec::new();
                for deliverer in deliverers {
                    starts.extend(deliverer.await.unwrap());
                }
                (acknowledged, starts)
            }
        });
        for (acknowledged, starts) in futures::future::join_all(athletes).await {
            let late: Vec<_> = starts.iter().filter(|start| **start >= acknowledged).collect();
            assert!(
                late.is_empty(),
                "{} deliveries started after the acknowledgement",
                late.len()
            );
            deliveries += starts.len();
            let close = |start: &&Instant| acknowledged.duration_since(**start) < Duration::from_secs(1);
            last_moment += starts.iter().filter(close).count();
        }
    }
    assert!(deliveries > 100, "{deliveries} deliveries prove little");
    assert!(
        last_moment > 10,
        "only {last_moment} deliveries came close to the acknowledgement"
    );
}
