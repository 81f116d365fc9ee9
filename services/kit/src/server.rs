//! The HTTP servers of a process: the mTLS one that serves requests, with the caller's identity as an extension, and the
//! plain one for health and metrics. Connections, headers, bodies and the drain are all bounded.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service as _, ServiceExt as _};
use tracing::Instrument as _;

use crate::headers::CORRELATION_ID;
use crate::metrics::{HttpLabels, Metrics, method_label};
use crate::problem::Problem;
use crate::start::Start;
use crate::tls::PeerId;
use crate::trace::Context;

/// Connections that one process serves at once; the next wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Time for a request's headers.
const HEADERS: Duration = Duration::from_secs(10);
/// Time between two pieces of a request's body.
const BODY_PAUSE: Duration = Duration::from_secs(15);
/// Time until an answer begins.
const ANSWER: Duration = Duration::from_secs(60);
/// What a body may have unless its route says otherwise.
pub const BODY_LIMIT_BYTES: usize = 64 * 1024;
/// How long open requests may go on after the process was told to stop.
pub const DRAIN: Duration = Duration::from_secs(8);

/// Adds what every served router has: identity of the process, body limit, timeouts, trace context, metrics.
pub fn stack(start: &Start, router: Router) -> Router {
    let metrics = start.metrics().clone();
    router
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn(answer_in_time))
        .layer(tower_http::timeout::RequestBodyTimeoutLayer::new(BODY_PAUSE))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(middleware::from_fn_with_state(metrics, observe))
        .layer(Extension(start.clone()))
}

async fn no_such_route() -> Problem {
    Problem::not_found("no-such-route", "there is nothing at this address")
}

async fn no_such_method() -> Problem {
    let status = http::StatusCode::METHOD_NOT_ALLOWED;
    Problem::new(status, "method-not-allowed", "this address does not take this method")
}

async fn answer_in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("timeout", "the request took too long; repeat it").into_response(),
    }
}

/// Route templates are outside the handlers' router, so the template is taken from the request after routing.
async fn observe(
    axum::extract::State(metrics): axum::extract::State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let caller = request.extensions().get::<PeerId>().map(|peer| peer.service.clone());
    let method = method_label(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("(none)", MatchedPath::as_str)
        .to_owned();
    let span = tracing::info_span!("request", otel.name = %format_args!("{method} {route}"), otel.kind = "server", method, route);
    let context = Context::from_headers(request.headers(), caller.as_deref()).adopt(&span, Some(request.headers()));
    let correlation = context.correlation_id().to_owned();
    let answered = async {
        let mut response = next.run(request).await;
        let status = response.status().as_u16();
        let duration = begun.elapsed();
        metrics.observe_http(
            &HttpLabels {
                method,
                route: route.clone(),
                status,
            },
            duration,
        );
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        if status >= 500 {
            tracing::warn!(method, route, status, duration_ms, "request failed");
        } else {
            tracing::info!(method, route, status, duration_ms, "request answered");
        }
        if let Ok(value) = http::HeaderValue::from_str(&correlation) {
            response.headers_mut().insert(CORRELATION_ID, value);
        }
        response
    };
    crate::trace::within(context, answered.instrument(span)).await
}

/// Serves `router` over mTLS until `stop`, then lets open requests finish for at most [`DRAIN`].
///
/// Each request has the caller's [`PeerId`] as an extension.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve_mtls(
    listener: TcpListener,
    router: Router,
    tls: Arc<rustls::ServerConfig>,
    stop: CancellationToken,
) -> Result<(), std::io::Error> {
    let acceptor = TlsAcceptor::from(tls);
    accept_loop(listener, stop, move |stream, stop| {
        let (acceptor, router) = (acceptor.clone(), router.clone());
        async move {
            let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::info!(%error, "a connection was refused in the TLS handshake");
                    return;
                }
                Err(_) => return,
            };
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            // The verifier let only certificates with an identity through.
            let Some(peer) = certificate.and_then(|certificate| PeerId::of_certificate(certificate).ok()) else {
                return;
            };
            connection(TokioIo::new(stream), router.layer(Extension(peer)), stop).await;
        }
    })
    .await
}

/// Serves `router` in plain HTTP until `stop`: health and metrics only, never data.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve_plain(listener: TcpListener, router: Router, stop: CancellationToken) -> Result<(), std::io::Error> {
    accept_loop(listener, stop, move |stream, stop| {
        connection(TokioIo::new(stream), router.clone(), stop)
    })
    .await
}

async fn accept_loop<H, F>(listener: TcpListener, stop: CancellationToken, handle: H) -> Result<(), std::io::Error>
where
    H: Fn(TcpStream, CancellationToken) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let open = TaskTracker::new();
    // What is still open when this loop ends, or is dropped, is cut: a connection never outlives its server.
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    loop {
        let accepted = async {
            // Closed never: the semaphore lives as long as this loop.
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let Some((slot, accepted)) = stop.run_until_cancelled(accepted).await else {
            break;
        };
        match accepted {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let serving = cut.clone().run_until_cancelled_owned(handle(stream, stop.clone()));
                open.spawn(async move {
                    let _slot = slot;
                    serving.await;
                });
            }
            // Out of file descriptors, or the client left before it was accepted: both pass.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    open.close();
    if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
        tracing::warn!(count = open.len(), "connections were still open when the drain ended");
    }
    Ok(())
}

async fn connection<I>(io: I, router: Router, stop: CancellationToken)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut service = router.into_service();
            let Ok(ready) = service.ready().await;
            ready.call(request.map(axum::body::Body::new)).await
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(256)
        .max_header_list_size(32 * 1024);
    let connection = builder.serve_connection(io, service);
    tokio::pin!(connection);
    // A client that resets its connection is not our error; handlers log their own.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// The error of a service that has none.
pub type Never = Infallible;
