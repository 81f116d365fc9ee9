//! The gateway from outside: what it lets through, what it refuses and how.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

mod support;

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use meridian_kit::auth::Audience;
use meridian_kit::testing::Region;
use meridian_policy::Epoch;
use support::{Answer, Edge, HOST};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_athlete_of_a_peer_is_sent_home_though_the_body_never_comes() {
    let edge = Edge::new().await;
    let token = bearer(&edge.us.athlete("stride-us").token);
    let request = head(
        "POST",
        "/api/v1/uploads",
        &[("Authorization", &token), ("Content-Length", "10485760")],
    );
    let answer = edge.raw(&request).await;
    assert_eq!(answer.status, 421);
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["home"], edge.us.signer().issuer());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_athlete_of_a_peer_reads_the_answer_even_while_still_sending() {
    let edge = Edge::new().await;
    let token = bearer(&edge.us.athlete("stride-us").token);
    let mut request = head(
        "POST",
        "/api/v1/uploads",
        &[("Authorization", &token), ("Content-Length", "10485760")],
    );
    request.extend(vec![b'x'; 200_000]);
    let answer = edge.raw(&request).await;
    assert_eq!(
        (answer.status, &answer.json()["home"]),
        (421, &edge.us.signer().issuer().into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_401_is_the_same() {
    let edge = Edge::new().await;
    let stranger = Region::new("jp", &["stride-jp"]).await;
    let athlete = edge.eu.athlete("stride-eu");
    let claims = edge.eu.signer().claims(
        "stride-eu",
        athlete.epoch,
        Audience::Athlete,
        &athlete.subject.to_string(),
    );
    let expired = meridian_kit::auth::Claims {
        exp: claims.exp - 3600,
        ..claims.clone()
    };
    let stale = meridian_kit::auth::Claims {
        epoch: Epoch(0),
        ..claims.clone()
    };
    let mut more = serde_json::to_value(&claims).unwrap();
    more["email"] = "someone@example.org".into();
    let tampered = format!("{}x", athlete.token);
    let causes = [
        ("none", None),
        ("garbage", Some("garbage".to_owned())),
        ("another scheme", Some("\u{0}Basic dXNlcjpwYXNz".to_owned())),
        ("an unknown region's", Some(stranger.athlete("stride-jp").token)),
        ("forged with another key", Some(stranger.signer().sign(&claims))),
        ("expired", Some(edge.eu.signer().sign(&expired))),
        ("of an old epoch", Some(edge.eu.signer().sign(&stale))),
        ("with a claim too many", Some(edge.eu.signer().sign(&more))),
        ("tampered with", Some(tampered)),
        (
            "of a tenant that nobody knows",
            Some(edge.eu.signer().sign(&meridian_kit::auth::Claims {
                tenant: "nobody".parse().unwrap(),
                ..claims
            })),
        ),
    ];
    let mut first: Option<Answer> = None;
    for (cause, token) in causes {
        let value = token.map(|text| text.strip_prefix('\u{0}').map_or_else(|| bearer(&text), str::to_owned));
        let mut headers = vec![("Connection", "close")];
        if let Some(value) = &value {
            headers.push(("Authorization", value));
        }
        let mut answer = edge.raw(&head("GET", "/api/v1/me", &headers)).await;
        assert_eq!(answer.status, 401, "{cause}");
        answer
            .headers
            .retain(|(name, _)| name != "date" && name != "meridian-correlation-id");
        match &first {
            None => first = Some(answer),
            Some(first) => {
                assert_eq!(answer.body, first.body, "{cause}");
                assert_eq!(answer.headers, first.headers, "{cause}");
            }
        }
    }
    assert!(first.is_some_and(|answer| answer.json().get("home").is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_2_is_refused() {
    let edge = Edge::new().await;
    assert!(edge.tls(&[&rustls::version::TLS13]).await.is_ok());
    assert!(edge.tls(&[&rustls::version::TLS12]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_this_region_reaches_its_service_cleaned() {
    let edge = Edge::with_echo(&["training"]).await;
    let athlete = edge.eu.athlete("stride-eu");
    let answer = edge
        .http()
        .post(edge.url("/api/v1/workouts?draft=1"))
        .bearer_auth(&athlete.token)
        .header("x-forwarded-for", "10.0.0.1")
        .header("meridian-internal-subject", "someone")
        .header("meridian-tenant", "stride-eu")
        .header("traceparent", "not a traceparent")
        .json(&serde_json::json!({"sport_type": "cycling"}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    for (name, value) in [("x-content-type-options", "nosniff"), ("cache-control", "no-store")] {
        assert_eq!(answer.headers()[name], value);
    }
    assert!(answer.headers().contains_key("strict-transport-security"));
    assert!(!answer.headers().contains_key("server") && !answer.headers().contains_key("x-powered-by"));
    let correlation = answer.headers()["meridian-correlation-id"].to_str().unwrap().to_owned();
    let seen: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(seen["uri"], "/api/v1/workouts?draft=1");
    assert_eq!(seen["headers"]["authorization"], bearer(&athlete.token));
    assert_eq!(seen["headers"]["meridian-tenant"], "stride-eu");
    assert_eq!(seen["headers"]["meridian-correlation-id"], correlation);
    assert_eq!(seen["headers"]["host"], "training");
    let traceparent = seen["headers"]["traceparent"].as_str().unwrap();
    assert!(
        traceparent.starts_with("00-") && traceparent.len() == 55,
        "{traceparent}"
    );
    for gone in ["x-forwarded-for", "meridian-internal-subject"] {
        assert!(seen["headers"].get(gone).is_none(), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_route_needs_no_token_and_takes_none_along() {
    let edge = Edge::with_echo(&["identity"]).await;
    // The echo has taken the place of the keys, so only what needs none can pass.
    let answer = edge
        .http()
        .post(edge.url("/api/v1/sessions"))
        .bearer_auth("old")
        .json(&1)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let seen: serde_json::Value = answer.json().await.unwrap();
    assert!(seen["headers"].get("authorization").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_served_with_the_same_answers() {
    let edge = Edge::with_echo(&["training"]).await;
    let own = edge.eu.athlete("stride-eu");
    let http = edge.http();
    let upload = vec![7_u8; 3_000_000];
    let answer = http
        .post(edge.url("/api/v1/uploads"))
        .bearer_auth(&own.token)
        .body(upload.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.version(), answer.status().as_u16()),
        (reqwest::Version::HTTP_2, 200)
    );
    let seen: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(seen["bytes"], upload.len());
    let foreign = edge.us.athlete("stride-us");
    let answer = http
        .get(edge.url("/api/v1/workouts"))
        .bearer_auth(&foreign.token)
        .send()
        .await
        .unwrap();
    assert_eq!(
        (answer.version(), answer.status().as_u16()),
        (reqwest::Version::HTTP_2, 421)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_past_its_limit_is_413_announced_or_not() {
    let edge = Edge::with_echo(&["training"]).await;
    let token = bearer(&edge.eu.athlete("stride-eu").token);
    let announced = head(
        "POST",
        "/api/v1/workouts",
        &[("Authorization", &token), ("Content-Length", "65537")],
    );
    let answer = edge.raw(&announced).await;
    assert_eq!((answer.status, &answer.json()["code"]), (413, &"body-too-large".into()));
    let larger = head(
        "POST",
        "/api/v1/uploads",
        &[("Authorization", &token), ("Content-Length", "33554433")],
    );
    assert_eq!(edge.raw(&larger).await.status, 413);

    let mut chunked = head(
        "POST",
        "/api/v1/workouts",
        &[("Authorization", &token), ("Transfer-Encoding", "chunked")],
    );
    for _ in 0..9 {
        chunked.extend(b"2000\r\n");
        chunked.extend(vec![b'x'; 0x2000]);
        chunked.extend(b"\r\n");
    }
    let answer = edge.raw(&chunked).await;
    assert_eq!((answer.status, &answer.json()["code"]), (413, &"body-too-large".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_to_be_asked_is_asked_only_when_it_is_let_in() {
    let edge = Edge::with_echo(&["training"]).await;
    let own = bearer(&edge.eu.athlete("stride-eu").token);
    let expect = ("Expect", "100-continue");
    let request = head(
        "POST",
        "/api/v1/uploads",
        &[
            ("Authorization", &own),
            ("Content-Length", "5"),
            expect,
            ("Connection", "close"),
        ],
    );
    let mut stream = edge.tls(&[&rustls::version::TLS13]).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut interim = [0; 12];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100");
    stream.write_all(b"hello").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    let text = String::from_utf8_lossy(&rest);
    assert!(text.contains("HTTP/1.1 200") && text.contains(r#""bytes":5"#), "{text}");

    let foreign = bearer(&edge.us.athlete("stride-us").token);
    let request = head(
        "POST",
        "/api/v1/uploads",
        &[("Authorization", &foreign), ("Content-Length", "5"), expect],
    );
    assert_eq!(edge.raw(&request).await.status, 421);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_public_is_not_there() {
    let edge = Edge::with_echo(&["consent", "training"]).await;
    let athlete = edge.eu.athlete("stride-eu");
    let http = edge.http();
    for (method, path, status, code) in [
        ("POST", "/internal/permits", 404, "no-such-route"),
        ("POST", "/peer/v1/batches", 404, "no-such-route"),
        ("GET", "/metrics", 404, "no-such-route"),
        ("GET", "/api/v1/unknown", 404, "no-such-route"),
        ("GET", "/api/v2/workouts", 404, "unknown-version"),
        ("DELETE", "/api/v1/workouts", 405, "method-not-allowed"),
    ] {
        let request = http
            .request(method.parse().unwrap(), edge.url(path))
            .bearer_auth(&athlete.token);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let allow = answer
            .headers()
            .get("allow")
            .map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(allow.as_deref(), (status == 405).then_some("GET, POST"));
        let body: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(body["code"], code, "{path}");
    }
    // Paths that a client library would tidy up before sending them.
    for path in [
        "/api/v1/../../internal/permits",
        "//internal/permits",
        "/api/v1/%2e%2e/internal/permits",
        "/internal/permits?x=/api/v1/me",
    ] {
        assert_eq!(
            edge.raw(&head("GET", path, &[("Connection", "close")])).await.status,
            404,
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_measure_are_431() {
    let edge = Edge::new().await;
    let long = "x".repeat(17 * 1024);
    let answer = edge
        .raw(&head(
            "GET",
            "/api/v1/me",
            &[("X-Long", &long), ("Connection", "close")],
        ))
        .await;
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (431, &"headers-too-large".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_away_is_503_and_one_that_breaks_off_is_502() {
    let edge = Edge::new().await;
    let athlete = edge.eu.athlete("stride-eu");
    let get = |path: &str| edge.http().get(edge.url(path)).bearer_auth(&athlete.token).send();
    let answer = get("/api/v1/feed").await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let body: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(body["code"], "service-unavailable");

    // A listener that takes the connection and closes it.
    let broken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = broken.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = broken.accept().await {
            drop(stream);
        }
    });
    let edge = Edge::configured(|config| {
        config.peers.insert("social".to_owned(), format!("https://{address}"));
    })
    .await;
    let athlete = edge.eu.athlete("stride-eu");
    let answer = edge
        .http()
        .get(edge.url("/api/v1/feed"))
        .bearer_auth(&athlete.token)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 502);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_slow_to_take_a_connection_is_tried_again() {
    let line = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = line.local_addr().unwrap();
    let edge = Edge::configured(|config| {
        config.peers.insert("social".to_owned(), format!("https://{address}"));
    })
    .await;
    edge.eu.serve("social", support::echoes()).await;
    let social = edge.eu.url("social").replace("https://", "");
    let athlete = edge.eu.athlete("stride-eu");
    let asked = edge
        .http()
        .post(edge.url("/api/v1/shares"))
        .bearer_auth(&athlete.token)
        .body("{}")
        .send();
    let connections = async {
        let (_hangs, _) = line.accept().await.unwrap();
        let (mut second, _) = line.accept().await.unwrap();
        let mut social = tokio::net::TcpStream::connect(social).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut second, &mut social).await;
    };
    let answer = tokio::select! {
        answer = asked => answer.unwrap(),
        () = connections => panic!("the connection closed before the answer"),
    };
    assert_eq!(answer.status(), 200);
    let seen: serde_json::Value = answer.json().await.unwrap();
    assert_eq!((&seen["method"], &seen["bytes"]), (&"POST".into(), &2.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_another_than_it_should_be_is_not_spoken_to() {
    let edge = Edge::new().await;
    let athlete = edge.eu.athlete("stride-eu");
    let folder = tempfile::tempdir().unwrap();
    // Certificates of the region's CA for another name, and of another CA for the right name.
    for (authority, service) in [(edge.eu.authority(), "promotions"), (edge.us.authority(), "social")] {
        let dir = folder.path().join(service);
        authority.issue(service, &dir);
        edge.eu.stop("social").await;
        let start = edge.eu.start_with("social", |config| config.tls_dir = dir);
        let router = support::echoes();
        edge.eu
            .run_start(start, |start| {
                meridian_kit::service::serve(start, meridian_kit::service::Parts::new(router))
            })
            .await;
        let answer = edge
            .http()
            .get(edge.url("/api/v1/feed"))
            .bearer_auth(&athlete.token)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 502, "{service}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_is_open_to_all_and_says_who_serves_a_country() {
    let edge = Edge::new().await;
    let ask = |query: &str| edge.http().get(edge.url(&format!("/api/v1/regions{query}"))).send();
    let all: serde_json::Value = ask("").await.unwrap().json().await.unwrap();
    assert_eq!(all["regions"].as_array().unwrap().len(), 2);
    let german: serde_json::Value = ask("?country=DE").await.unwrap().json().await.unwrap();
    assert_eq!(german["regions"][0]["region"], "eu");
    assert_eq!(german["regions"].as_array().unwrap().len(), 1);
    assert_eq!(ask("?country=Germany").await.unwrap().status(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_is_finished_when_the_process_is_told_to_stop() {
    let edge = Edge::new().await;
    let athlete = edge.eu.athlete("stride-eu");
    let begun = std::sync::Arc::new(tokio::sync::Notify::new());
    let may_end = std::sync::Arc::new(tokio::sync::Notify::new());
    let (told, held) = (begun.clone(), may_end.clone());
    let slow = Router::new().route(
        "/api/v1/feed",
        get(move || {
            let (told, held) = (told.clone(), held.clone());
            async move {
                told.notify_one();
                held.notified().await;
                "done"
            }
        }),
    );
    edge.eu.serve("social", slow).await;
    let asked = tokio::spawn(
        edge.http()
            .get(edge.url("/api/v1/feed"))
            .bearer_auth(&athlete.token)
            .send(),
    );
    begun.notified().await;
    edge.stop.cancel();
    // New connections are refused while the old one is still served.
    let refused = async {
        while edge.tls(&[&rustls::version::TLS13]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused)
        .await
        .expect("the listener closes");
    may_end.notify_one();
    assert_eq!(asked.await.unwrap().unwrap().text().await.unwrap(), "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_by_template_never_by_path() {
    let edge = Edge::with_echo(&["telemetry"]).await;
    let athlete = edge.eu.athlete("stride-eu");
    let path = "/api/v1/tracks/0194c0de-secret";
    assert_eq!(
        edge.http()
            .get(edge.url(path))
            .bearer_auth(&athlete.token)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    let metrics = edge.eu.metrics("gateway").await;
    assert!(
        metrics.contains(r#"route="/api/v1/tracks/{id}",status="200""#),
        "{metrics}"
    );
    assert!(!metrics.contains("secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_public_certificate_is_served_without_a_restart() {
    let mut edge = Edge::new().await;
    assert!(edge.tls(&[&rustls::version::TLS13]).await.is_ok());
    edge.replace_certificate();
    let served = meridian_kit::testing::until(|| async { edge.tls(&[&rustls::version::TLS13]).await.ok() }).await;
    assert!(served.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_http_is_400_without_a_word() {
    let edge = Edge::new().await;
    for request in [
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "\u{1}\u{2}\u{3} nonsense\r\n\r\n",
        "GET /api/v1/me HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    ] {
        let answer = edge.raw(request.as_bytes()).await;
        assert_eq!(answer.status, 400, "{request:?}");
        assert!(answer.body.is_empty(), "{request:?}");
    }
}
