//! Plain HTTP for the kubelet and Prometheus: /livez /readyz /healthcheck /metrics. Never data.

use crate::metrics::Metrics;
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use meridian_kit::headers::CONTENT_TYPE;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What readiness depends on: named gates, each open or closed with a reason. Clones share them.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

impl Readiness {
    /// Declares a gate as closed, so that nobody is ready before it was opened.
    pub fn expect(&self, gate: &'static str) {
        self.close(gate, "not yet");
    }

    /// Opens a gate.
    pub fn open(&self, gate: &'static str) {
        self.set(gate, Ok(()));
    }

    /// Closes a gate.
    pub fn close(&self, gate: &'static str, why: &str) {
        self.set(gate, Err(why.to_owned()));
    }

    /// Closes the gate when what is returned is dropped: by whatever is behind the gate, however it ends.
    #[must_use]
    pub fn closes_at_the_end(&self, gate: &'static str) -> ClosesAtTheEnd {
        ClosesAtTheEnd {
            readiness: self.clone(),
            gate,
        }
    }

    fn set(&self, gate: &'static str, state: Result<(), String>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(gate, state);
    }

    /// The closed gates with their reasons.
    #[must_use]
    pub fn closed(&self) -> BTreeMap<&'static str, String> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates
            .iter()
            .filter_map(|(gate, state)| Some((*gate, state.as_ref().err()?.clone())))
            .collect()
    }
}

/// See [`Readiness::closes_at_the_end`].
pub struct ClosesAtTheEnd {
    readiness: Readiness,
    gate: &'static str,
}

impl Drop for ClosesAtTheEnd {
    fn drop(&mut self) {
        self.readiness.close(self.gate, "it has ended");
    }
}

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    metrics: Metrics,
}

/// Serves until shutdown. `more`: what a role tells beside that.
///
/// # Errors
/// When the address cannot be bound or the listener fails.
pub async fn serve(
    listen: SocketAddr,
    readiness: Readiness,
    metrics: Metrics,
    more: Router,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    axum::serve(listener, router(readiness, metrics).merge(more))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}

fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/healthcheck", get(ready))
        .route("/metrics", get(render))
        .with_state(Admin { readiness, metrics })
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let closed = admin.readiness.closed();
    let status = if closed.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(serde_json::json!({"ready": closed.is_empty(), "waiting_for": closed})),
    )
}

async fn render(State(admin): State<Admin>) -> impl IntoResponse {
    (
        [(
            CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        admin.metrics.render(),
    )
}

/// How long one question to another process may take, and the pause before the next.
const ASK: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(500);

/// Asks an operator's /readyz until it says that it is ready.
///
/// # Errors
/// The last answer, when there was no better one in time.
pub async fn wait_until_ready(url: &str, within: Duration) -> Result<(), String> {
    let http = reqwest::Client::builder()
        .no_proxy()
        // Nothing is asked over TLS, and the image holds no authorities that could be read.
        .tls_certs_only([])
        .timeout(ASK)
        .build()
        .map_err(|error| error.to_string())?;
    let began = Instant::now();
    loop {
        let said = match http.get(url).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        if began.elapsed() >= within {
            return Err(format!("{url} is not ready within {} s: {said}", within.as_secs()));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_readiness_hears_what_is_missing_and_then_that_nothing_is() {
        let (readiness, stop) = (Readiness::default(), CancellationToken::new());
        readiness.expect("caches");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        let router = router(readiness.clone(), Metrics::default());
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let serving = tokio::spawn(serving.into_future());

        let error = wait_until_ready(&url, Duration::ZERO).await.unwrap_err();
        assert!(error.contains("caches"), "{error}");
        readiness.open("caches");
        wait_until_ready(&url, Duration::from_secs(60)).await.unwrap();
        stop.cancel();
        serving.await.unwrap().unwrap();
    }

    #[test]
    fn a_gate_that_was_only_declared_keeps_the_process_unready() {
        let readiness = Readiness::default();
        readiness.expect("caches");
        assert_eq!(
            readiness.closed().into_iter().next(),
            Some(("caches", "not yet".to_owned()))
        );
        readiness.open("caches");
        assert!(readiness.closed().is_empty());
    }

    #[tokio::test]
    async fn a_gate_closes_with_the_task_behind_it_even_when_that_panics() {
        let readiness = Readiness::default();
        let closes = readiness.closes_at_the_end("watch");
        readiness.open("watch");
        let task = tokio::spawn(async move {
            let _closes = closes;
            panic!("a defect");
        });
        assert!(task.await.is_err());
        assert_eq!(
            readiness.closed().into_iter().next(),
            Some(("watch", "it has ended".to_owned()))
        );
    }
}
