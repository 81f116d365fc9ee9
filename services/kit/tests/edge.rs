//! What the edge of every service holds to: certificates, tokens, bodies, repeated requests, the policy's lease.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use std::time::Duration;

use axum::Router;
use axum::response::Response;
use axum::routing::{get, post};
use common::{NOTES, key};
use http::StatusCode;
use meridian_kit::auth::{Athlete, Audience, Marketer, Peer};
use meridian_kit::client::ServiceClient;
use meridian_kit::db::TenantTx;
use meridian_kit::idempotency::{self, IdempotencyKey, Outcome};
use meridian_kit::policy_feed::{Ack, AckRole};
use meridian_kit::problem::{Json, Problem, RawBody};
use meridian_kit::service::{self, Parts};
use meridian_kit::testing::{Authority, Region, Signer, until};
use meridian_kit::tls::{PeerId, Tls};
use meridian_kit::{Start, StartError};
use meridian_policy::Epoch;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    text: String,
}

fn router() -> Router {
    Router::new()
        .route(
            "/me",
            get(|athlete: Athlete| async move { athlete.subject.to_string() }),
        )
        .route(
            "/campaigns",
            get(|marketer: Marketer| async move { marketer.client_id }),
        )
        .route(
            "/peer",
            get(|peer: Peer| async move { format!("{}/{}", peer.region(), peer.service()) }),
        )
        .route("/notes", post(|Json(note): Json<Note>| async move { note.text }))
        .route("/inner", get(|| async { "inner" }).layer(Peer::require(&["consent"])))
}

async fn body(response: reqwest::Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

fn peer_of(region: &Region, tls: &Tls) -> ServiceClient {
    let expected = PeerId::new(region.name().parse().unwrap(), "training");
    ServiceClient::peer(tls, &region.url("training"), expected).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_of_the_region_is_refused() {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.serve("training", router()).await;
    let url = region.url("training");
    let bare = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .build()
        .unwrap();
    assert!(bare.get(format!("{url}/peer")).send().await.is_err());

    let dir = tempfile::tempdir().unwrap();
    let cases = [
        // Another CA that claims this region; a certificate without an identity; one with two.
        ("forged", Authority::new("eu"), vec!["meridian://eu/gateway"]),
        ("nobody", Authority::new("eu"), vec![]),
    ];
    for (name, authority, uris) in cases {
        authority.issue_as("gateway", &uris, &dir.path().join(name));
    }
    region.authority().issue_as("gateway", &[], &dir.path().join("unnamed"));
    region.authority().issue_as(
        "gateway",
        &["meridian://eu/a", "meridian://eu/b"],
        &dir.path().join("two"),
    );
    region
        .authority()
        .issue_as("gateway", &["meridian://us/gateway"], &dir.path().join("foreign"));
    for name in ["forged", "nobody", "unnamed", "two", "foreign"] {
        // It trusts the region, so only the region's distrust can refuse it.
        std::fs::write(dir.path().join(name).join("ca.crt"), region.authority().ca_pem()).unwrap();
        let tls = Tls::load(&dir.path().join(name), "eu".parse().unwrap()).unwrap();
        assert!(peer_of(&region, &tls).get("/peer").send().await.is_err(), "{name}");
    }
    let answer = region.client("gateway", "training").get("/peer").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "eu/gateway");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_who_was_asked_for_gets_no_request() {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.serve("training", router()).await;
    let expected = PeerId::new("eu".parse().unwrap(), "consent");
    let client = ServiceClient::peer(&region.tls("gateway"), &region.url("training"), expected).unwrap();
    assert!(client.get("/peer").send().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_regions_service_is_known_by_the_pinned_ca_and_only_where_it_is_let_in() {
    let (eu, us) = (
        Region::new("eu", &["stride-eu"]).await,
        Region::new("us", &["stride-us"]).await,
    );
    eu.add_peer(&us);
    us.add_peer(&eu);
    eu.serve("training", router()).await;
    eu.run("replicator", |start| {
        service::serve(start, Parts::new(router()).accept_peer_regions())
    })
    .await;
    let call = |service: &'static str| {
        let expected = PeerId::new("eu".parse().unwrap(), service);
        let client = ServiceClient::peer(&us.tls("replicator"), &eu.url(service), expected).unwrap();
        async move {
            client
                .get("/peer")
                .fetch_bytes()
                .await
                .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        }
    };
    assert_eq!(call("replicator").await.unwrap(), "us/replicator");
    assert!(call("training").await.is_err());
    // A name that is admitted here is not admitted under another region's CA.
    let expected = PeerId::new("eu".parse().unwrap(), "replicator");
    let consent = ServiceClient::peer(&us.tls("consent"), &eu.url("replicator"), expected).unwrap();
    let refused = consent.get("/inner").send().await.unwrap_err();
    assert_eq!(refused.status(), Some(StatusCode::FORBIDDEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inner_address_is_for_the_named_services_only() {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.serve("training", router()).await;
    let status = |caller: &'static str| {
        let request = region.client(caller, "training").get("/inner").send();
        async move { request.await.unwrap().status() }
    };
    assert_eq!(status("consent").await, StatusCode::OK);
    assert_eq!(status("gateway").await, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_certificate_is_used_without_a_restart() {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.serve("training", router()).await;
    let dir = tempfile::tempdir().unwrap();
    region.authority().issue("gateway", dir.path());
    let tls = Tls::load(dir.path(), "eu".parse().unwrap()).unwrap();
    assert!(!tls.reload().unwrap());
    region.authority().issue("social", dir.path());
    assert!(tls.reload().unwrap());
    let caller = peer_of(&region, &tls).get("/peer").fetch_bytes().await.unwrap();
    assert_eq!(caller, "eu/social");
    std::fs::write(dir.path().join("tls.key"), "half a file").unwrap();
    assert!(tls.reload().is_err());
    assert_eq!(
        peer_of(&region, &tls).get("/peer").fetch_bytes().await.unwrap(),
        "eu/social"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_says_exactly_what_it_may_and_nothing_more() {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.serve("training", router()).await;
    let api = region.client("gateway", "training");
    let athlete = region.athlete("stride-eu");
    let answer = api.get("/me").bearer_auth(&athlete.token).send().await.unwrap();
    assert_eq!(
        (answer.status(), answer.text().await.unwrap()),
        (StatusCode::OK, athlete.subject.to_string())
    );

    let signer = region.signer();
    let claims = signer.claims("stride-eu", Epoch(1), Audience::Athlete, &athlete.subject.to_string());
    let with = |name: &str, value: Value| {
        let mut claims = serde_json::to_value(&claims).unwrap();
        claims[name] = value;
        signer.sign(&claims)
    };
    let without = |name: &str| {
        let mut claims = serde_json::to_value(&claims).unwrap();
        claims.as_object_mut().unwrap().remove(name);
        signer.sign(&claims)
    };
    let stranger = Signer::new(signer.issuer());
    let cases = [
        ("an extra claim", with("email", json!("a@b.c")), "token-invalid"),
        ("not before", with("nbf", json!(0)), "token-invalid"),
        (
            "two audiences",
            with("aud", json!(["athlete", "marketing"])),
            "token-invalid",
        ),
        (
            "another issuer",
            with("iss", json!("https://elsewhere.test")),
            "token-invalid",
        ),
        ("no end", without("exp"), "token-invalid"),
        ("no epoch", without("epoch"), "token-invalid"),
        ("no subject", without("sub"), "token-invalid"),
        ("a subject that is none", with("sub", json!("ada")), "token-invalid"),
        ("an unknown tenant", with("tenant", json!("trail-eu")), "token-invalid"),
        ("an end in the past", with("exp", json!(1)), "token-expired"),
        ("a stranger's key", stranger.sign(&claims), "token-invalid"),
        ("no signature", unsigned(&claims), "token-invalid"),
        ("no token", "x".to_owned(), "token-invalid"),
    ];
    for (name, token, code) in cases {
        let answer = api.get("/me").bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{name}");
        assert_eq!(body(answer).await["code"], code, "{name}");
    }
    let answer = api.get("/me").send().await.unwrap();
    assert_eq!(body(answer).await["code"], "token-missing");
    let answer = api.get("/campaigns").bearer_auth(&athlete.token).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let answer = api
        .get("/campaigns")
        .bearer_auth(region.marketing_token("stride-eu"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

fn unsigned(claims: &impl serde::Serialize) -> String {
    use base64::Engine as _;
    let part = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": "none", "typ": "JWT", "kid": "x"});
    format!("{}.{}.", part(&header), part(&serde_json::to_value(claims).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valid_token_of_another_region_is_shown_its_home_and_a_stale_one_signs_in_again() {
    let (eu, us) = (
        Region::new("eu", &["stride-eu"]).await,
        Region::new("us", &["stride-us"]).await,
    );
    us.add_peer(&eu);
    us.serve("training", router()).await;
    let api = us.client("gateway", "training");
    let start = us.running("training");
    until(|| async { (!start.feed().current().peers.is_empty()).then_some(()) })
        .await
        .expect("the policy arrives");

    let answer = api
        .get("/me")
        .bearer_auth(&eu.athlete("stride-eu").token)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(body(answer).await["home"], "https://eu.meridian.test");
    // One that only claims to be from there learns nothing.
    let forged = Signer::new("https://eu.meridian.test");
    let claims = forged.claims("stride-eu", Epoch(1), Audience::Athlete, "x");
    let answer = api.get("/me").bearer_auth(forged.sign(&claims)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);

    let athlete = us.athlete("stride-us");
    us.raise_epoch("stride-us");
    let stale = until(|| async {
        let answer = api.get("/me").bearer_auth(&athlete.token).send().await.unwrap();
        (answer.status() == StatusCode::UNAUTHORIZED).then_some(answer)
    });
    assert_eq!(
        body(stale.await.expect("the new epoch arrives")).await["code"],
        "token-stale-epoch"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_body_is_refused_with_the_fields_name_and_a_large_one_by_its_size() {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.serve("training", router()).await;
    let api = region.client("gateway", "training");
    let answer = api.post("/notes").json(&json!({"text": 3})).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(body(answer).await["details"][0]["field"], "text");
    let answer = api
        .post("/notes")
        .json(&json!({"text": "x".repeat(70_000)}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let answer = api.post("/notes").body("{}").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let answer = api.get("/nothing").send().await.unwrap();
    assert_eq!(
        (answer.status(), body(answer).await["code"].clone()),
        (StatusCode::NOT_FOUND, json!("no-such-route"))
    );
}

async fn keep(start: Start) -> Result<(), StartError> {
    let pool = start.database()?;
    let write = move |athlete: Athlete, idempotency: IdempotencyKey, RawBody(request): RawBody| {
        let pool = pool.clone();
        async move {
            let mut tx = TenantTx::begin(&pool, &athlete.scope()).await?;
            let subject_key = key(athlete.subject);
            let subject = athlete.subject.to_string();
            let slot = match idempotency::begin(&mut tx, &subject, &idempotency, &request, &subject_key).await? {
                Outcome::Fresh(slot) => slot,
                Outcome::Repeated(response) => return Ok(response),
            };
            let id: i64 =
                sqlx::query_scalar("insert into note (id) select coalesce(max(id), 0) + 1 from note returning id")
                    .fetch_one(tx.conn())
                    .await
                    .map_err(meridian_kit::db::Error::from)?;
            let response = slot.finish(&mut tx, StatusCode::CREATED, &json!({"id": id})).await?;
            tx.commit().await?;
            Ok::<Response, Problem>(response)
        }
    };
    service::serve(start, Parts::new(Router::new().route("/notes", post(write)))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_gets_the_same_answer_and_does_its_work_once() {
    let region = Region::new("eu", &["stride-eu"]).await;
    let database = region.database("training", NOTES).await;
    region.run("training", keep).await;
    let (api, athlete) = (region.client("gateway", "training"), region.athlete("stride-eu"));
    let send = |key: &'static str, text: &'static str| {
        let request = api
            .post("/notes")
            .bearer_auth(&athlete.token)
            .header("Idempotency-Key", key)
            .body(text);
        async move { request.send().await.unwrap() }
    };
    let together = futures::future::join_all((0..4).map(|_| send("ride-1", "a"))).await;
    for answer in together {
        assert_eq!(answer.status(), StatusCode::CREATED);
        assert_eq!(body(answer).await["id"], 1);
    }
    let reused = send("ride-1", "b").await;
    assert_eq!(
        (reused.status(), body(reused).await["code"].clone()),
        (StatusCode::CONFLICT, json!("idempotency-key-reused"))
    );
    assert_eq!(body(send("ride-2", "a").await).await["id"], 2);
    let stored: Vec<Vec<u8>> = sqlx::query_scalar("select response from idempotency")
        .fetch_all(&database.superuser_pool())
        .await
        .unwrap();
    assert!(
        stored
            .iter()
            .all(|sealed| !sealed.windows(4).any(|window| window == b"\"id\"")),
        "answers are stored sealed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_stop_when_the_lease_ends_and_go_on_when_it_is_renewed() {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.serve("replicator", Router::new()).await;
    let feed = region.running("replicator").feed().clone();
    let valid = |wanted: bool| {
        let feed = feed.clone();
        async move {
            until(|| async { (feed.lease_valid() == wanted).then_some(()) })
                .await
                .is_some()
        }
    };
    assert!(valid(true).await);
    region.lose_lease();
    assert!(valid(false).await, "a lost lease ends at once");
    region.renew_lease();
    assert!(valid(true).await);
    region.set_lease_duration(Duration::from_millis(300));
    region.renew_lease();
    region.stop_renewing();
    assert!(valid(false).await, "without a renewal it runs out");
    region.set_lease_duration(Duration::from_secs(20));
    region.renew_lease();
    assert!(valid(true).await);

    // A process that starts anew waits for a renewal of its own, however fresh the policy's file is.
    region.stop_renewing();
    region.serve("replicator", Router::new()).await;
    let feed = region.running("replicator").feed().clone();
    until(|| async { feed.connected().then_some(()) })
        .await
        .expect("it connects");
    assert!(!feed.lease_valid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_acknowledged_to_the_region_operator() {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.serve("replicator", Router::new()).await;
    let feed = region.running("replicator").feed().clone();
    let ack = Ack {
        edge: "stride-us.workout-summary.eu".parse().unwrap(),
        role: AckRole::Importer,
        revision: feed.current().revision,
        purged: 3,
        sinks: vec!["social".to_owned()],
    };
    feed.acknowledge(&ack).await.unwrap();
    assert_eq!(region.acks(), vec![ack]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_address_tells_health_and_metrics_and_serves_no_data() {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.serve("training", router()).await;
    region.client("gateway", "training").get("/peer").send().await.unwrap();
    let admin = region.admin_url("training");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = |path: &'static str| http.get(format!("{admin}{path}")).send();
    for path in ["/livez", "/readyz", "/healthcheck", "/metrics"] {
        assert_eq!(get(path).await.unwrap().status(), StatusCode::OK, "{path}");
    }
    let metrics = get("/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"route="/peer",status="200""#), "{metrics}");
    assert_eq!(get("/peer").await.unwrap().status(), StatusCode::NOT_FOUND);
}
