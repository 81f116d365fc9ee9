//! Signing in, tokens and the keys behind them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "common/alike.rs"]
mod alike;
mod common;

use std::collections::BTreeSet;

use alike::told_apart;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{PASSWORD, Setting, answer, registration};
use jiff::{SignedDuration, Timestamp};
use meridian_kit::auth::Audience;
use serde_json::{Value, json};

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn published(setting: &Setting) -> Value {
    answer(
        setting
            .region
            .client("training", "identity")
            .get("/.well-known/jwks.json"),
    )
    .await
    .1
}

/// How many passwords identity has checked since it started.
async fn checks(setting: &Setting) -> u64 {
    let text = setting.region.metrics("identity").await;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("meridian_identity_password_checks_total "))
        .unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failed_sign_in_gives_one_answer_and_costs_one_hash() {
    let setting = Setting::new().await;
    assert_eq!(setting.register("stride-eu", "ada@example.org").await.0, 201);
    let mut answers = BTreeSet::new();
    for (tenant, email, password) in [
        (Some("stride-eu"), "ada@example.org", "wrong horse battery"),
        (Some("stride-eu"), "nobody@example.org", PASSWORD),
        (Some("pace-eu"), "ada@example.org", PASSWORD),
        (Some("stride-us"), "ada@example.org", PASSWORD),
        (Some("unheard-of"), "ada@example.org", PASSWORD),
        (Some("not a tenant"), "ada@example.org", PASSWORD),
        (None, "ada@example.org", PASSWORD),
        (Some("stride-eu"), "not an address", ""),
        (Some("stride-eu"), "ada@example.org", &"x".repeat(50_000)),
    ] {
        let before = checks(&setting).await;
        let (status, body) = setting.sign_in(tenant, email, password).await;
        assert_eq!(status, 401, "{tenant:?} {email}");
        assert_eq!(checks(&setting).await - before, 1, "{tenant:?} {email}");
        answers.insert(body.to_string());
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(
        setting.sign_in(Some("stride-eu"), "ada@example.org", PASSWORD).await.0,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sign_in_takes_as_long_without_an_account_as_with_one() {
    let setting = Setting::new().await;
    assert_eq!(setting.register("stride-eu", "ada@example.org").await.0, 201);
    let cases = [
        (Some("stride-eu"), "ada@example.org"),
        (Some("stride-eu"), "nobody@example.org"),
        (Some("stride-us"), "ada@example.org"),
        (None, "ada@example.org"),
    ];
    let apart = told_apart::<4>(async |case| {
        let (tenant, email) = cases[case];
        setting.sign_in(tenant, email, "wrong horse battery").await;
    });
    if let Some(quickest) = apart.await {
        panic!("sign-ins tell by their time whether there is an account: {quickest:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_says_six_things_for_fifteen_minutes() {
    let setting = Setting::new().await;
    let token = setting.athlete("ada@example.org").await;
    let claims = claims(&token);
    let names: Vec<&String> = claims.as_object().unwrap().keys().collect();
    assert_eq!(names, ["aud", "epoch", "exp", "iss", "sub", "tenant"]);
    assert_eq!(
        (&claims["iss"], &claims["aud"]),
        (&json!("https://eu.meridian.test"), &json!("athlete"))
    );
    assert_eq!((&claims["tenant"], &claims["epoch"]), (&json!("stride-eu"), &json!(1)));
    let left = claims["exp"].as_i64().unwrap() - Timestamp::now().as_second();
    assert!((890..=900).contains(&left), "{left}");
    let verified = setting
        .region
        .running("identity")
        .verifier()
        .verify(&token, Audience::Athlete)
        .await
        .unwrap();
    assert_eq!(json!(verified.sub), setting.me(&token).await.1["subject"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_outlive_a_restart_and_their_private_halves_are_sealed() {
    let setting = Setting::new().await;
    let token = setting.athlete("ada@example.org").await;
    let before = published(&setting).await;
    assert_eq!(before["keys"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&before["keys"][0]["kty"], &before["keys"][0]["alg"]),
        (&json!("OKP"), &json!("EdDSA"))
    );
    assert!(before["keys"][0].get("d").is_none());

    setting
        .region
        .run("identity", |start| meridian_identity::run_with(start, None))
        .await;
    assert_eq!(published(&setting).await, before);
    assert_eq!(setting.me(&token).await.0, 200);

    let sealed: Vec<u8> = sqlx::query_scalar("select sealed_private from signing_key")
        .fetch_one(&setting.database.superuser_pool())
        .await
        .unwrap();
    // PKCS#8 of an Ed25519 key always has this prefix of its algorithm's identifier.
    assert!(!sealed.windows(5).any(|window| window == [0x06, 0x03, 0x2b, 0x65, 0x70]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_is_published_a_day_ahead_and_the_old_key_verifies_until_its_tokens_end() {
    let setting = Setting::new().await;
    let accounts = meridian_identity::assemble(&setting.region.running("identity"), None)
        .await
        .unwrap();
    let signer = &accounts.signer;
    let at = |hours: i64| Timestamp::now().checked_add(SignedDuration::from_hours(hours)).unwrap();
    let sign = |now: Timestamp| {
        let claims = meridian_identity::domain::claims::Claims::new(
            "https://eu.meridian.test",
            meridian_identity::domain::claims::Audience::Athlete,
            "7a1d9a6c-6ee5-4c7e-8a43-6d9f2b7f3c11".into(),
            "stride-eu".parse().unwrap(),
            meridian_policy::Epoch(1),
            now,
        );
        signer.sign(&claims, now).unwrap()
    };
    let first = sign(at(0));
    let count =
        |keys: &meridian_identity::tokens::Jwks| serde_json::to_value(keys).unwrap()["keys"].as_array().unwrap().len();
    signer.rotate(at(6 * 24 - 1)).await.unwrap();
    assert_eq!(count(&signer.published()), 1);
    signer.rotate(at(6 * 24 + 1)).await.unwrap();
    assert_eq!(count(&signer.published()), 2, "the next key is published");
    assert_eq!(kid(&sign(at(6 * 24 + 1))), kid(&first), "and does not sign yet");
    assert_ne!(kid(&sign(at(7 * 24 + 1))), kid(&first), "until its day comes");
    assert_eq!(
        published(&setting).await["keys"].as_array().unwrap().len(),
        1,
        "another replica looks once a minute"
    );

    signer.rotate(at(7 * 24 + 2)).await.unwrap();
    assert!(
        serde_json::to_string(&signer.published())
            .unwrap()
            .contains(&kid(&first))
    );
    signer.rotate(at(7 * 24 + 3)).await.unwrap();
    assert!(
        !serde_json::to_string(&signer.published())
            .unwrap()
            .contains(&kid(&first))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_clock_is_behind_makes_no_key_of_its_own() {
    let setting = Setting::new().await;
    let accounts = meridian_identity::assemble(&setting.region.running("identity"), None)
        .await
        .unwrap();
    let before = serde_json::to_string(&accounts.signer.published()).unwrap();
    let behind = Timestamp::now().checked_sub(SignedDuration::from_secs(90)).unwrap();
    accounts.signer.rotate(behind).await.unwrap();
    assert_eq!(serde_json::to_string(&accounts.signer.published()).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_that_start_at_once_agree_on_one_key() {
    let region = meridian_kit::testing::Region::new("eu", &["stride-eu"]).await;
    let database = region.database("identity", meridian_identity::MIGRATIONS).await;
    region.stop("identity").await;
    let start = region.start("identity");
    let replicas = (0..4).map(|_| meridian_identity::assemble(&start, None));
    let published: BTreeSet<String> = futures::future::join_all(replicas)
        .await
        .into_iter()
        .map(|accounts| serde_json::to_string(&accounts.unwrap().signer.published()).unwrap())
        .collect();
    assert_eq!(published.len(), 1);
    drop(database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_an_older_epoch_is_fenced() {
    let setting = Setting::new().await;
    let token = setting.athlete("ada@example.org").await;
    setting.region.raise_epoch("stride-eu");
    let refused = meridian_kit::testing::until(async || {
        let (status, problem) = setting.me(&token).await;
        (status == 401).then_some(problem)
    });
    assert_eq!(refused.await.unwrap()["code"], "token-stale-epoch");
    let anew = meridian_kit::testing::until(async || {
        let (status, body) = setting.sign_in(Some("stride-eu"), "ada@example.org", PASSWORD).await;
        (status == 200).then(|| body["access_token"].as_str().unwrap().to_owned())
    });
    let token = anew.await.unwrap();
    assert_eq!(claims(&token)["epoch"], 2);
    assert_eq!(setting.me(&token).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marketing_client_gets_a_token_of_its_own_tenant_and_no_other() {
    let setting = Setting::new().await;
    let mounted = tempfile::tempdir().unwrap();
    for tenant in ["stride-eu", "stride-us"] {
        std::fs::create_dir(mounted.path().join(tenant)).unwrap();
        std::fs::write(mounted.path().join(tenant).join("client-id"), format!("crm-{tenant}")).unwrap();
        std::fs::write(mounted.path().join(tenant).join("client-secret"), "s3cret").unwrap();
    }
    let marketing = mounted.path().to_owned();
    setting
        .region
        .run("identity", |start| meridian_identity::run_with(start, Some(marketing)))
        .await;
    let ask = async |id: &str, secret: &str| {
        let body = json!({"client_id": id, "client_secret": secret});
        answer(setting.api.post("/api/v1/service-tokens").json(&body)).await
    };
    let (status, body) = ask("crm-stride-eu", "s3cret").await;
    assert_eq!(status, 200, "{body}");
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(
        (&claims(token)["aud"], &claims(token)["tenant"]),
        (&json!("marketing"), &json!("stride-eu"))
    );
    let (status, problem) = setting.me(token).await;
    assert_eq!(
        (status, problem["code"].as_str().unwrap()),
        (403, "token-wrong-audience")
    );
    // stride-us is mounted by mistake, and not at home here.
    for (id, secret) in [
        ("crm-stride-eu", "wrong"),
        ("crm-stride-us", "s3cret"),
        ("", ""),
        ("nobody", "s3cret"),
    ] {
        assert_eq!(ask(id, secret).await.0, 401, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_gateway_brings_athletes() {
    let setting = Setting::new().await;
    for caller in ["training", "promotions", "replicator"] {
        let api = setting.region.client(caller, "identity");
        let request = api.post("/api/v1/accounts").header("meridian-tenant", "stride-eu");
        assert_eq!(
            answer(request.json(&registration("ada@example.org"))).await.0,
            403,
            "{caller}"
        );
        let request = api.post("/api/v1/sessions").header("meridian-tenant", "stride-eu");
        assert_eq!(
            answer(request.json(&json!({"email": "a", "password": "b"}))).await.0,
            403,
            "{caller}"
        );
    }
    assert_eq!(
        published(&setting).await["keys"].as_array().unwrap().len(),
        1,
        "keys are public inside the region"
    );
}
