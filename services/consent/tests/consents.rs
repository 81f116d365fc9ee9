//! Consents as an athlete sees them.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

mod support;

use meridian_consent::change::{CONSENT_GRANTED, CONSENT_WITHDRAWN, ConsentChanged};
use meridian_kit::db::TenantTx;
use meridian_kit::testing::{Database, catalogue};
use serde_json::json;
use support::{ask_permit, change, get, region};

const MARKETING: (&str, &str) = ("marketing", "promotion");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_has_a_receipt_and_a_line_in_the_history() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    let (status, granted) = change(&region, &athlete, "grant", MARKETING).await;
    assert_eq!(
        (status, &granted["state"], &granted["version"]),
        (201, &json!("granted"), &json!(1))
    );
    assert_eq!(
        granted["pii_controller"],
        region.policy().homes[0].organization.as_str()
    );
    let (status, again) = change(&region, &athlete, "grant", MARKETING).await;
    assert_eq!(
        (status, &again),
        (200, &granted),
        "granting what is granted changes nothing"
    );
    let (status, withdrawn) = change(&region, &athlete, "withdraw", MARKETING).await;
    assert_eq!(
        (status, &withdrawn["state"], &withdrawn["version"]),
        (201, &json!("withdrawn"), &json!(2))
    );
    assert_eq!(withdrawn["replaces"], granted["receipt_id"]);

    let (_, list) = get(&region, &athlete, "/api/v1/consents").await;
    assert_eq!(list["consents"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&list["consents"][0]["state"], &list["consents"][0]["class"]),
        (&json!("withdrawn"), &json!("promotion"))
    );
    let (_, history) = get(&region, &athlete, "/api/v1/consents/history").await;
    let versions: Vec<_> = history["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["version"].clone())
        .collect();
    assert_eq!(versions, [json!(2), json!(1)]);
    let path = format!("/api/v1/consents/receipts/{}", granted["receipt_id"].as_str().unwrap());
    assert_eq!(get(&region, &athlete, &path).await, (200, granted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_anothers_consents() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    let (_, receipt) = change(&region, &athlete, "grant", MARKETING).await;
    let path = format!("/api/v1/consents/receipts/{}", receipt["receipt_id"].as_str().unwrap());
    for other in [region.athlete("stride-eu"), region.athlete("other-eu")] {
        assert_eq!(get(&region, &other, &path).await.0, 404);
        assert_eq!(
            get(&region, &other, "/api/v1/consents").await.1,
            json!({"consents": []})
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_matter_of_consent_is_refused_with_what_would_be() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    for (matter, code, field) in [
        (("spam", "promotion"), "unknown-purpose", "purpose"),
        (("marketing", "moods"), "unknown-class", "class"),
        (("service-provision", "promotion"), "purpose-without-consent", "purpose"),
        (("marketing", "credentials"), "class-without-consent", "class"),
    ] {
        let (status, problem) = change(&region, &athlete, "grant", matter).await;
        assert_eq!(
            (status, &problem["code"], &problem["details"][0]["field"]),
            (400, &json!(code), &json!(field))
        );
        assert!(
            problem["details"][0]["allowed"]
                .as_array()
                .is_some_and(|allowed| !allowed.is_empty())
        );
    }
    let (status, problem) = change(&region, &athlete, "revoke", MARKETING).await;
    assert_eq!((status, &problem["details"][0]["field"]), (400, &json!("action")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_answered_as_the_first_time() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    let send = |key: &'static str, action: &'static str| {
        let body = json!({"purpose": "marketing", "class": "promotion", "action": action});
        let api = region
            .client("gateway", "consent")
            .post("/api/v1/consents")
            .bearer_auth(&athlete.token);
        async move {
            let answer = api.header("idempotency-key", key).json(&body).send().await.unwrap();
            (
                answer.status().as_u16(),
                answer.json::<serde_json::Value>().await.unwrap(),
            )
        }
    };
    let first = send("k-1", "grant").await;
    assert_eq!(first.0, 201);
    assert_eq!(send("k-2", "withdraw").await.0, 201);
    assert_eq!(send("k-1", "grant").await, first, "the same answer, and no new grant");
    assert_eq!(
        get(&region, &athlete, "/api/v1/consents").await.1["consents"][0]["state"],
        "withdrawn"
    );
    let (status, problem) = send("k-1", "withdraw").await;
    assert_eq!((status, &problem["code"]), (409, &json!("idempotency-key-reused")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_told_in_order_and_the_topic_names_nobody() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    for action in ["grant", "withdraw", "grant"] {
        change(&region, &athlete, action, MARKETING).await;
    }
    let events = region.events("consent.state", 3).await;
    let kinds: Vec<_> = events
        .iter()
        .map(|event| (event.kind.as_str(), event.sequence))
        .collect();
    let (granted, withdrawn) = ("sh.meridian.consent.granted.v1", "sh.meridian.consent.withdrawn.v1");
    assert_eq!(kinds, [(granted, 1), (withdrawn, 2), (granted, 3)]);
    assert!(
        events.iter().all(|event| event.subject == events[0].subject),
        "one stream, one key of the compacted topic"
    );
    let told: serde_json::Value = region.open(&events[2]).await;
    assert_eq!(
        told,
        json!({"purpose": "marketing", "class": "promotion", "version": 3})
    );
    let wire = String::from_utf8(events[0].to_bytes()).unwrap();
    assert!(!wire.contains("marketing") && !wire.contains("promotion"), "{wire}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_cannot_be_changed() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    change(&region, &athlete, "grant", MARKETING).await;
    let pool = region.running("consent").database().unwrap();
    for statement in [
        "update consent_history set state = 'withdrawn'",
        "delete from consent_history",
    ] {
        let mut tx = TenantTx::begin(&pool, &athlete.scope()).await.unwrap();
        assert!(sqlx::query(statement).execute(tx.conn()).await.is_err(), "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_is_sealed_in_the_table_and_gone_with_the_key() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    let (_, receipt) = change(&region, &athlete, "grant", MARKETING).await;
    let pool = region.running("consent").database().unwrap();
    let mut tx = TenantTx::begin(&pool, &athlete.scope()).await.unwrap();
    let stored: Vec<u8> = sqlx::query_scalar("select receipt from consent_history")
        .fetch_one(tx.conn())
        .await
        .unwrap();
    drop(tx);
    assert!(!stored.windows(9).any(|window| window == b"principal"));
    region
        .keyring("identity")
        .destroy(&athlete.tenant, &athlete.subject, None)
        .await
        .unwrap();
    region.stop("consent").await;
    region.run("consent", meridian_consent::run).await;
    let path = format!("/api/v1/consents/receipts/{}", receipt["receipt_id"].as_str().unwrap());
    let (status, problem) = get(&region, &athlete, &path).await;
    assert_eq!((status, &problem["code"]), (404, &json!("erased")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_epoch_changes_nothing() {
    let region = region().await;
    let athlete = region.athlete("stride-eu");
    assert_eq!(change(&region, &athlete, "grant", MARKETING).await.0, 201);
    region.raise_epoch("stride-eu");
    let fenced = async {
        while change(&region, &athlete, "withdraw", MARKETING).await.0 != 401 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), fenced)
        .await
        .expect("the new epoch arrives");
    assert!(matches!(
        ask_permit(&region, &athlete, MARKETING).await.0,
        200 | 403 | 503
    ));
}

#[tokio::test]
async fn catalogue_columns() {
    let database = Database::create("consent", meridian_consent::MIGRATIONS).await;
    catalogue::assert_columns("consent", &database).await;
}

#[test]
fn catalogue_event_fields() {
    let changed = ConsentChanged {
        purpose: "marketing".to_owned(),
        class: "promotion".to_owned(),
        version: 1,
    };
    catalogue::assert_event_fields(
        "consent",
        &[(CONSENT_GRANTED, json!(changed)), (CONSENT_WITHDRAWN, json!(changed))],
    );
}
