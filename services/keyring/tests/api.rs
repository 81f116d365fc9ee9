//! The keyring as its callers meet it: over mTLS, each with its own certificate.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use futures::future::join_all;
use meridian_kit::SubjectId;
use meridian_kit::subject_keys::{Create, Error, KeyScope};
use meridian_kit::testing::{Region, until};
use meridian_policy::TenantId;
use serde_json::{Value, json};

const EDGE: &str = "import-stride-eu.workout-summary.us";

async fn region() -> Region {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.run("keyring", meridian_keyring::run).await;
    region
}

fn tenant() -> TenantId {
    "stride-eu".parse().unwrap()
}

fn key(subject: SubjectId, scope: &str, create: bool) -> Value {
    json!({"tenant": "stride-eu", "subject": subject, "scope": scope, "create": create})
}

async fn post(region: &Region, caller: &str, path: &str, body: Value) -> (u16, Value) {
    let answer = region
        .client(caller, "keyring")
        .post(path)
        .json(&body)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn resolve(region: &Region, caller: &str, keys: Vec<Value>) -> (u16, Value) {
    post(region, caller, "/v1/keys/resolve", json!({"keys": keys})).await
}

async fn lease(region: &Region, subject: Option<SubjectId>, byte: u8, valid_for_ms: u64) -> (u16, Value) {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
    let body =
        json!({"tenant": "stride-eu", "subject": subject, "scope": EDGE, "key": key, "valid_for_ms": valid_for_ms});
    post(region, "replicator", "/v1/keys/lease", body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_share_a_subjects_key_and_lose_it_together() {
    let region = region().await;
    let subject = SubjectId::random();
    let made = region
        .keyring("identity")
        .key(&tenant(), &subject, &KeyScope::Personal, Create::Yes)
        .await
        .unwrap();
    let sealed = made.seal("here", b"ada").unwrap();
    let read = region
        .keyring("social")
        .key(&tenant(), &subject, &KeyScope::Personal, Create::No)
        .await
        .unwrap();
    assert_eq!(read.open("here", &sealed).unwrap().as_slice(), b"ada");

    region
        .keyring("identity")
        .destroy(&tenant(), &subject, None)
        .await
        .unwrap();
    for create in [Create::No, Create::Yes] {
        let gone = region
            .keyring("training")
            .key(&tenant(), &subject, &KeyScope::Personal, create)
            .await;
        assert!(matches!(gone, Err(Error::KeyDestroyed)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_gets_only_the_scopes_that_the_table_grants() {
    let region = region().await;
    let subject = SubjectId::random();
    for (caller, scope, create, status) in [
        ("telemetry", "location-2026-11", true, 200),
        ("telemetry-writer", "location-2026-11", false, 200),
        ("telemetry-writer", "location-2026-12", true, 403),
        ("telemetry-writer", "personal", false, 403),
        ("social", "location-2026-11", false, 403),
        ("social", EDGE, false, 200),
        ("social", EDGE, true, 403),
        ("promotions", "personal", true, 200),
        ("promotions", EDGE, false, 403),
        ("replicator", "location-2026-11", false, 403),
        ("gateway", "personal", false, 403),
    ] {
        let (answered, body) = resolve(&region, caller, vec![key(subject, scope, create)]).await;
        assert_eq!(answered, status, "{caller} {scope} {create}: {body}");
    }
    // One key without a grant spoils the whole batch: nothing is given out beside it.
    let mixed = vec![key(subject, "personal", false), key(subject, "location-2026-11", false)];
    let (status, body) = resolve(&region, "promotions", mixed).await;
    assert_eq!((status, body["code"].as_str().unwrap()), (403, "key-not-granted"));
    for (caller, body) in [
        ("training", json!({"tenant": "stride-eu", "subject": subject})),
        ("replicator", json!({"tenant": "stride-eu", "subject": subject})),
        (
            "replicator",
            json!({"tenant": "stride-eu", "subject": subject, "scope": "personal"}),
        ),
        (
            "telemetry",
            json!({"tenant": "stride-eu", "subject": subject, "scope": "personal"}),
        ),
    ] {
        assert_eq!(post(&region, caller, "/v1/keys/destroy", body).await.0, 403, "{caller}");
    }
    let (status, _) = post(&region, "social", "/v1/keys/lease", json!({
        "tenant": "stride-eu", "scope": EDGE, "key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "valid_for_ms": 1000
    })).await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_named_and_never_repeats_a_key() {
    let region = region().await;
    let subject = SubjectId::random();
    let many: Vec<Value> = (0..257).map(|_| key(SubjectId::random(), "personal", true)).collect();
    for (path, body, code) in [
        ("/v1/keys/resolve", json!({"keys": []}), "batch-size"),
        ("/v1/keys/resolve", json!({"keys": many}), "batch-size"),
        (
            "/v1/keys/resolve",
            json!({"keys": [key(subject, "location-2026-13", false)]}),
            "invalid-field",
        ),
        (
            "/v1/keys/resolve",
            json!({"keys": [key(subject, "everything", false)]}),
            "invalid-field",
        ),
        (
            "/v1/keys/destroy",
            json!({"tenant": "stride-eu", "scope": "personal"}),
            "subject-missing",
        ),
    ] {
        let (status, answer) = post(&region, "identity", path, body).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), (400, code), "{answer}");
    }
    let (status, answer) = post(
        &region,
        "replicator",
        "/v1/keys/lease",
        json!({
            "tenant": "stride-eu", "scope": EDGE, "key": "c2VjcmV0", "valid_for_ms": 1000
        }),
    )
    .await;
    assert_eq!(status, 400);
    assert!(!answer.to_string().contains("c2VjcmV0"), "{answer}");
    for (scope, valid_for_ms) in [("personal", 1000), (EDGE, 0), (EDGE, 86_400_001)] {
        let (status, answer) = post(
            &region,
            "replicator",
            "/v1/keys/lease",
            json!({
                "tenant": "stride-eu", "scope": scope, "key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
                "valid_for_ms": valid_for_ms
            }),
        )
        .await;
        assert_eq!(
            (status, answer["code"].as_str().unwrap()),
            (400, "lease"),
            "{scope} {valid_for_ms}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leased_key_is_readable_until_its_lease_ends_and_not_after_a_restart() {
    let region = region().await;
    let (short, long) = (SubjectId::random(), SubjectId::random());
    assert_eq!(lease(&region, Some(short), 1, 1_500).await.0, 200);
    assert_eq!(lease(&region, Some(long), 2, 60_000).await.0, 200);
    let status_of = async |subject| {
        let (_, body) = resolve(&region, "social", vec![key(subject, EDGE, false)]).await;
        body["keys"][0].clone()
    };
    let live = status_of(short).await;
    assert_eq!(live["status"], "live");
    assert!(live["valid_for_ms"].as_u64().unwrap() <= 1_500);
    until(async || (status_of(short).await["status"] == "absent").then_some(()))
        .await
        .expect("the lease ends");
    assert_eq!(status_of(long).await["status"], "live");

    region.kill("keyring").await;
    region.run("keyring", meridian_keyring::run).await;
    assert_eq!(
        status_of(long).await["status"],
        "absent",
        "a leased key is in memory only"
    );
    assert_eq!(
        lease(&region, Some(long), 2, 60_000).await.0,
        200,
        "the exporter leases again"
    );
    assert_eq!(status_of(long).await["status"], "live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_edges_keys_are_gone_at_once_and_cannot_be_leased_again() {
    let region = region().await;
    let (one, other) = (SubjectId::random(), SubjectId::random());
    assert_eq!(lease(&region, Some(one), 1, 60_000).await.0, 200);
    assert_eq!(lease(&region, None, 2, 60_000).await.0, 200);
    let purge = json!({"tenant": "stride-eu", "scope": EDGE});
    assert_eq!(post(&region, "replicator", "/v1/keys/destroy", purge).await.0, 200);
    let (_, body) = resolve(&region, "social", vec![key(one, EDGE, false), key(other, EDGE, false)]).await;
    for answer in body["keys"].as_array().unwrap() {
        assert_eq!(answer["status"], "absent", "{body}");
    }
    let (status, refused) = lease(&region, Some(one), 1, 60_000).await;
    assert_eq!((status, refused["code"].as_str().unwrap()), (409, "key-retired"));
    assert_eq!(lease(&region, None, 2, 60_000).await.0, 409);
    assert_eq!(
        lease(&region, Some(one), 3, 60_000).await.0,
        200,
        "a lawful edge brings a new key"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_writers_at_once_get_one_key_per_subject() {
    let region = region().await;
    let subject = SubjectId::random();
    let asked = (0..100).map(|_| resolve(&region, "training", vec![key(subject, "personal", true)]));
    let mut answers = Vec::new();
    for answer in join_all(asked).await {
        answers.push(answer.1["keys"][0]["key"].as_str().unwrap().to_owned());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}
