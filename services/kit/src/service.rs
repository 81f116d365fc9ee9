//! Runs a service: the mTLS server, the admin server and the parts in the background, as one. When any of them ends, the
//! process ends with an error and is started afresh; on SIGTERM open requests get ten seconds.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::future::BoxFuture;
use http::StatusCode;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::headers::CONTENT_TYPE;
use crate::kafka::Topic;
use crate::ready::Finding;
use crate::server::{self, DRAIN};
use crate::start::{Start, StartError};
use crate::tls::Accept;

/// How long a process that was told to stop goes on taking new requests.
const LAME_DUCK: Duration = Duration::from_secs(2);

/// The parts of a service.
#[must_use = "nothing runs until `serve`"]
pub struct Parts {
    router: Option<Router>,
    accept: Accept,
    background: Vec<(&'static str, BoxFuture<'static, Result<(), String>>)>,
    topics: Vec<Topic>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.background.iter().map(|(name, _)| *name).collect();
        formatter
            .debug_struct("Parts")
            .field("background", &names)
            .finish_non_exhaustive()
    }
}

impl Parts {
    /// A service that answers requests of this region's services.
    pub fn new(router: Router) -> Self {
        Self {
            router: Some(router),
            accept: Accept::OwnRegion,
            background: Vec::new(),
            topics: Vec::new(),
        }
    }

    /// A process that does not serve over mTLS by itself: a writer, or the gateway with a listener of its own.
    pub fn without_server() -> Self {
        Self {
            router: None,
            accept: Accept::OwnRegion,
            background: Vec::new(),
            topics: Vec::new(),
        }
    }

    /// Also takes connections of regions whose CA the policy pins. Handlers must then look at [`crate::auth::Peer`].
    pub fn accept_peer_regions(mut self) -> Self {
        self.accept = Accept::PeerRegions;
        self
    }

    /// The topics that the service owns: made, or widened, as soon as Kafka answers. A broker that is away does not keep
    /// a service from its work, since the outbox waits.
    pub fn topics(mut self, topics: Vec<Topic>) -> Self {
        self.topics.extend(topics);
        self
    }

    /// Adds a part that runs as long as the process. It is to end when [`Start::stop`] is cancelled; ending earlier,
    /// well or not, ends the process.
    pub fn background<E: std::fmt::Display + 'static>(
        mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Self {
        let part = async move { part.await.map_err(|error| error.to_string()) };
        self.background.push((name, Box::pin(part)));
        self
    }
}

/// Runs the parts until the process is told to stop or one of them ends.
///
/// # Errors
/// When an address cannot be listened on, or a part ended.
pub async fn serve(start: Start, parts: Parts) -> Result<(), StartError> {
    let stop = start.stop();
    let bound = start.take_listeners();
    let admin = listen("MERIDIAN_ADMIN_LISTEN", start.config().admin_listen, bound.admin).await?;
    let mut tasks: JoinSet<Result<(), String>> = JoinSet::new();
    let mut names = HashMap::new();
    let mut spawn = |name: &'static str, part: BoxFuture<'static, Result<(), String>>| {
        names.insert(tasks.spawn(part).id(), name);
    };
    // Health is told to the very end, so its server has a stop of its own.
    let last = CancellationToken::new();
    let serving = server::serve_plain(admin, admin_router(start.clone()), last.clone());
    spawn(
        "the admin server",
        Box::pin(async move { serving.await.map_err(|error| error.to_string()) }),
    );
    if let Some(router) = parts.router {
        let listener = listen("MERIDIAN_LISTEN", start.config().listen, bound.main).await?;
        let tls = std::sync::Arc::new(start.tls().server_config(parts.accept)?);
        let serving = server::serve_mtls(listener, server::stack(&start, router), tls, stop.clone());
        spawn(
            "the server",
            Box::pin(async move { serving.await.map_err(|error| error.to_string()) }),
        );
    }
    if !parts.topics.is_empty() {
        let keeping = keep_topics(start.clone(), parts.topics);
        spawn(
            "the topics",
            Box::pin(async move {
                keeping.await;
                Ok(())
            }),
        );
    }
    for (name, part) in parts.background.into_iter().chain(own_parts(&start)) {
        spawn(name, part);
    }
    tracing::info!(region = %start.region(), revision = start.feed().current().revision.0, "started");

    let ended = tokio::select! {
        () = told_to_stop() => {
            // Not ready from now on, and still answering: callers learn of it before they are refused.
            start.readiness().stopping();
            tokio::time::sleep(LAME_DUCK).await;
            None
        }
        () = stop.cancelled() => None,
        ended = tasks.join_next_with_id() => ended,
    };
    let name = |id| names.get(&id).copied().unwrap_or("a part").to_owned();
    let outcome = match ended {
        None => Ok(()),
        Some(Ok((id, result))) if !stop.is_cancelled() => {
            let reason = result.err().unwrap_or_else(|| "it returned".to_owned());
            Err(StartError::TaskEnded { task: name(id), reason })
        }
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => {
            let reason = if error.is_panic() {
                "it panicked"
            } else {
                "it was cancelled"
            };
            Err(StartError::TaskEnded {
                task: name(error.id()),
                reason: reason.to_owned(),
            })
        }
    };
    if let Err(error) = &outcome {
        tracing::error!(%error, "stopping because a part ended");
    } else {
        tracing::info!("told to stop; open requests may finish");
    }
    stop.cancel();
    start.readiness().stopping();
    // What does not end by itself within the drain is cut off.
    let drained = async {
        while tasks.len() > 1 && tasks.join_next().await.is_some() {}
        last.cancel();
        while tasks.join_next().await.is_some() {}
    };
    if tokio::time::timeout(DRAIN + Duration::from_secs(1), drained)
        .await
        .is_err()
    {
        tracing::warn!(count = tasks.len(), "parts were still running when the drain ended");
        tasks.shutdown().await;
    }
    outcome
}

async fn keep_topics(start: Start, topics: Vec<Topic>) {
    let (kafka, stop) = (start.kafka(), start.stop());
    let mut pause = Duration::from_millis(250);
    while let Some(Err(error)) = stop.run_until_cancelled(kafka.ensure_topics(&topics)).await {
        tracing::warn!(%error, "the topics could not be made yet; trying again");
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(Duration::from_secs(10));
    }
    stop.cancelled().await;
}

type NamedPart = (&'static str, BoxFuture<'static, Result<(), String>>);

/// What every service runs: the policy feed, the reload of certificates, and (with a database) fences and pruning.
fn own_parts(start: &Start) -> Vec<NamedPart> {
    let stop = start.stop();
    let feed = start.feed().clone().run(start.tls().clone(), stop.clone());
    let tls = start.tls().clone();
    let reload_stop = stop.clone();
    let mut parts: Vec<NamedPart> = vec![
        (
            "the policy feed",
            Box::pin(async move {
                feed.await;
                Ok(())
            }),
        ),
        (
            "the reload of certificates",
            Box::pin(async move {
                tls.watch(reload_stop).await;
                Ok(())
            }),
        ),
    ];
    if let Some(pool) = start.opened_database() {
        let fences = crate::db::keep_fences(
            pool.clone(),
            start.feed().clone(),
            start.readiness().clone(),
            stop.clone(),
        );
        parts.push((
            "the fences",
            Box::pin(async move {
                fences.await;
                Ok(())
            }),
        ));
        let pruning = crate::db::keep_pruned(pool, start.homes(), stop);
        parts.push((
            "the pruning",
            Box::pin(async move {
                pruning.await;
                Ok(())
            }),
        ));
    }
    parts
}

async fn listen(
    variable: &'static str,
    address: std::net::SocketAddr,
    bound: Option<std::net::TcpListener>,
) -> Result<TcpListener, StartError> {
    let error = |error| StartError::Listen {
        variable,
        address: address.to_string(),
        error,
    };
    match bound {
        Some(listener) => {
            listener.set_nonblocking(true).map_err(error)?;
            TcpListener::from_std(listener).map_err(error)
        }
        None => TcpListener::bind(address).await.map_err(error),
    }
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            // Without a handler the signal ends the process at once, which is what it asks for.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn admin_router(start: Start) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/healthcheck", get(healthcheck))
        .route("/metrics", get(metrics))
        .with_state(start)
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    service: &'static str,
    region: String,
    version: &'static str,
    checks: Vec<Finding>,
}

async fn health(start: &Start) -> (StatusCode, Health) {
    let checks = start.readiness().findings().await;
    let ready = checks.iter().all(|finding| finding.ready);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let health = Health {
        status: if ready { "ready" } else { "not-ready" },
        service: start.service(),
        region: start.region().to_string(),
        version: env!("CARGO_PKG_VERSION"),
        checks,
    };
    (status, health)
}

async fn readyz(State(start): State<Start>) -> Response {
    let (status, health) = health(&start).await;
    (status, format!("{}\n", health.status)).into_response()
}

async fn healthcheck(State(start): State<Start>) -> Response {
    let (status, health) = health(&start).await;
    (status, Json(health)).into_response()
}

async fn metrics(State(start): State<Start>) -> Response {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, OPENMETRICS)], start.measured()).into_response()
}
