//! Traces leave the process only as spans of ours with allowed fields, and carry the ids that are logged.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::post;
use meridian_kit::headers::TRACEPARENT;
use meridian_kit::testing::until;
use meridian_kit::trace::{self, Context};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_span_reaches_the_collector_under_the_callers_trace_and_without_other_fields() {
    let received: Arc<Mutex<Vec<u8>>> = Arc::default();
    let sink = Arc::clone(&received);
    let collector = Router::new().route(
        "/v1/traces",
        post(move |body: bytes::Bytes| async move { sink.lock().unwrap().extend_from_slice(&body) }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(meridian_kit::server::serve_plain(listener, collector, stop.clone()));
    meridian_kit::log::install("training", "eu", Some(&endpoint)).unwrap();

    let mut headers = http::HeaderMap::new();
    let incoming = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    headers.insert(TRACEPARENT, incoming.parse().unwrap());
    // A test's own target is not ours; these stand for spans in a service.
    let span = tracing::info_span!(target: "meridian_training", "request", method = "GET", route = "/notes");
    let context = Context::from_headers(&headers, Some("gateway")).adopt(&span, Some(&headers));
    let span_id = context.span_id();
    assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    let work = async {
        let leaking = tracing::info_span!(target: "meridian_training", "leak", email = "ada@example.org");
        leaking.in_scope(|| tracing::warn!(target: "meridian_training", email = "ada@example.org", "not exported"));
    };
    trace::within(context, work.instrument(span)).await;

    let contains = |needle: &[u8]| {
        received
            .lock()
            .unwrap()
            .windows(needle.len())
            .any(|window| window == needle)
    };
    let id = hex::decode(span_id).unwrap();
    until(|| async { contains(&id).then_some(()) })
        .await
        .expect("the span of the logged id arrives");
    assert!(contains(&hex::decode("4bf92f3577b34da6a3ce929d0e0e4736").unwrap()));
    assert!(contains(b"training") && contains(b"/notes"));
    assert!(!contains(b"ada@example.org") && !contains(b"leak"));
    stop.cancel();
}
