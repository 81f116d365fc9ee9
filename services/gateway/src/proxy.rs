//! One request through the gateway: judged by its head, refused before its body is read or sent on to a service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use meridian_kit::Start;
use meridian_kit::auth::{Refusal, bearer};
use meridian_kit::headers::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CORRELATION_ID, EXPECT, HOST, TRACEPARENT};
use meridian_kit::metrics::{HttpLabels, method_label};
use meridian_kit::problem::Problem;
use meridian_kit::trace::{self, Context};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};

use crate::answer::{self, Answer};
use crate::domain::directory;
use crate::domain::headers::{HEADER_LIMIT, SECURITY, not_for_clients, not_for_services, size};
use crate::domain::route::{Bearer, Route, decide};
use crate::domain::table::{Access, Entry};
use crate::upstream::Upstreams;

/// Between two pieces of a request.
const CLIENT_READ: Duration = Duration::from_secs(15);
/// Until a client takes a piece of an answer.
const CLIENT_WRITE: Duration = Duration::from_secs(30);

const BODY_TOO_LARGE: ErrorType = ErrorType::HTTPStatus(413);

/// The gateway as pingora runs it.
pub struct Gateway {
    start: Start,
    upstreams: Arc<Upstreams>,
}

impl Gateway {
    /// Of a region.
    pub fn new(start: Start, upstreams: Arc<Upstreams>) -> Self {
        Self { start, upstreams }
    }

    /// What the request's token proves. Every way of proving nothing ends in the same answer.
    async fn bearer(&self, headers: &HeaderMap) -> Bearer {
        let mut tokens = headers.get_all(AUTHORIZATION).iter();
        match (tokens.next(), tokens.next()) {
            (None, _) => return Bearer::None,
            (Some(_), Some(_)) => return Bearer::Invalid,
            (Some(_), None) => {}
        }
        let Ok(token) = bearer(headers) else {
            return Bearer::Invalid;
        };
        match self.start.verifier().verify_any(token).await {
            Ok(claims) => Bearer::Home { tenant: claims.tenant },
            Err(Refusal::Elsewhere { home }) => Bearer::Elsewhere { home },
            Err(Refusal::Unverifiable) => Bearer::Unverifiable,
            Err(
                Refusal::Missing | Refusal::Invalid | Refusal::Expired | Refusal::StaleEpoch | Refusal::WrongAudience,
            ) => Bearer::Invalid,
        }
    }

    /// What the gateway answers itself; none when the request goes on.
    async fn judge(&self, session: &Session, request: &mut Request) -> Option<Answer> {
        let head = session.req_header();
        if size(&head.headers) > HEADER_LIMIT || head.raw_path().len() > HEADER_LIMIT {
            return Some(answer::headers_too_large(HEADER_LIMIT));
        }
        let proof = self.bearer(&head.headers).await;
        let policy = self.start.feed().current();
        match decide(&head.method, head.uri.path(), &proof, &policy) {
            Route::Upstream { service, entry } => {
                request.passed = Some((service, entry));
                let announced = match content_length(&head.headers) {
                    Ok(announced) => announced.unwrap_or(0),
                    Err(()) => {
                        return Some(Problem::bad_request("content-length", "Content-Length is not a number").into());
                    }
                };
                (announced > entry.body_limit).then(|| answer::body_too_large(entry.body_limit))
            }
            Route::Directory => {
                request.route = Some("/api/v1/regions");
                Some(match directory::country_of(head.uri.query()) {
                    Ok(country) => match serde_json::to_vec(&directory::directory(&policy, country.as_ref())) {
                        Ok(body) => Answer::public_json(body),
                        Err(error) => Problem::internal(&error).into(),
                    },
                    Err(error) => Problem::bad_request("invalid-query", error.to_string()).into(),
                })
            }
            refused => answer::refusal(&refused),
        }
    }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let Some(value) = headers.get(CONTENT_LENGTH) else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map(Some)
        .ok_or(())
}

/// What is known of a request while it is under way.
pub struct Request {
    begun: Instant,
    trace: Context,
    passed: Option<(&'static str, &'static Entry)>,
    route: Option<&'static str>,
    body_seen: u64,
    /// Whether no connection to its service was made in time.
    late: bool,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request {
            begun: Instant::now(),
            trace: Context::fresh(),
            passed: None,
            route: None,
            body_seen: 0,
            late: false,
        }
    }

    async fn request_filter(&self, session: &mut Session, request: &mut Request) -> Result<bool> {
        session.set_read_timeout(Some(CLIENT_READ));
        session.set_write_timeout(Some(CLIENT_WRITE));
        session.set_total_drain_timeout(Some(CLIENT_READ));
        request.trace = Context::from_headers(&session.req_header().headers, None);
        let judged = trace::within(request.trace.clone(), self.judge(session, request)).await;
        if let Some(answer) = judged {
            answer::write(session, &answer, &request.trace).await?;
            return Ok(true);
        }
        // The client is told to send its body only now that the request is let in.
        if session.req_header().headers.contains_key(EXPECT) {
            session.write_continue_response().await?;
        }
        Ok(false)
    }

    async fn upstream_peer(&self, _session: &mut Session, request: &mut Request) -> Result<Box<HttpPeer>> {
        let Some((service, _)) = request.passed else {
            return Error::e_explain(ErrorType::InternalError, "a request without a route was sent on");
        };
        let peer = if request.late {
            self.upstreams.peer_anew(service).await
        } else {
            self.upstreams.peer(service).await
        };
        match peer {
            Ok(peer) => Ok(Box::new(peer)),
            Err(error) => {
                tracing::warn!(%error, peer = service, "a service cannot be reached");
                Err(Error::new_up(ErrorType::ConnectNoRoute))
            }
        }
    }

    /// A connection that was not made in time is tried again, for as long once more: nothing of the request has left, and
    /// where a machine was only busy for a moment the client need not hear of it.
    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        request: &mut Request,
        mut error: Box<Error>,
    ) -> Box<Error> {
        request.late = *error.etype() == ErrorType::ConnectTimedout;
        error.set_retry(request.late);
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        onward: &mut RequestHeader,
        request: &mut Request,
    ) -> Result<()> {
        for name in not_for_services(&onward.headers) {
            onward.remove_header(&name);
        }
        let Some((service, entry)) = request.passed else {
            return Ok(());
        };
        if entry.access == Access::Public {
            onward.remove_header(&AUTHORIZATION);
        }
        // The path goes on exactly as it was judged, whatever form the request line had.
        let head = session.req_header();
        let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        onward.set_uri(path.parse().map_err(|_| Error::new_in(ErrorType::InvalidHTTPHeader))?);
        onward.insert_header(HOST, service)?;
        onward.insert_header(TRACEPARENT, request.trace.traceparent())?;
        onward.insert_header(CORRELATION_ID, request.trace.correlation_id())?;
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        request: &mut Request,
    ) -> Result<()> {
        let Some((_, entry)) = request.passed else {
            return Ok(());
        };
        request.body_seen += body.as_ref().map_or(0, |piece| piece.len() as u64);
        if request.body_seen > entry.body_limit {
            return Err(Error::new_down(BODY_TOO_LARGE));
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        request: &mut Request,
    ) -> Result<()> {
        for name in not_for_clients(&response.headers) {
            response.remove_header(&name);
        }
        for (name, value) in SECURITY {
            // A service knows better what may be cached.
            if *name != CACHE_CONTROL.as_str() || !response.headers.contains_key(CACHE_CONTROL) {
                response.insert_header(*name, *value)?;
            }
        }
        response.insert_header(CORRELATION_ID, request.trace.correlation_id())?;
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, request: &mut Request) -> FailToProxy {
        let Some(answer) = failure(error, request.passed) else {
            return FailToProxy {
                error_code: 0,
                can_reuse_downstream: false,
            };
        };
        let code = answer.status().as_u16();
        if session.response_written().is_none() {
            session.set_keepalive(None);
            // The client may be gone; then nobody is left to tell.
            let _ = answer::write(session, &answer, &request.trace).await;
        }
        FailToProxy {
            error_code: code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, request: &mut Request) {
        let method = method_label(&session.req_header().method);
        let route = request
            .passed
            .map(|(_, entry)| entry.template)
            .or(request.route)
            .unwrap_or("(none)");
        let status = session.response_written().map_or(499, |head| head.status.as_u16());
        let duration = request.begun.elapsed();
        self.start.metrics().observe_http(
            &HttpLabels {
                method,
                route: route.to_owned(),
                status,
            },
            duration,
        );
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        trace::within(request.trace.clone(), async {
            match error {
                // Only the kind: pingora's sentences quote requests.
                Some(error) => {
                    let reason = error.etype().as_str();
                    tracing::warn!(method, route, status, duration_ms, reason, "request failed");
                }
                None => tracing::info!(method, route, status, duration_ms, "request answered"),
            }
        })
        .await;
    }

    fn suppress_error_log(&self, _session: &Session, _request: &Request, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _request: &Request,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn request_summary(&self, _session: &Session, _request: &Request) -> String {
        // pingora puts this into its log lines; a path or a query has no place there.
        String::new()
    }
}

/// The answer to a request that failed on its way; none when the client is gone.
fn failure(error: &Error, passed: Option<(&'static str, &'static Entry)>) -> Option<Answer> {
    use ErrorType::{
        ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, HTTPStatus, InvalidCert, ReadTimedout,
        TLSHandshakeFailure, TLSHandshakeTimedout, WriteTimedout,
    };
    if *error.etype() == BODY_TOO_LARGE {
        return Some(answer::body_too_large(passed.map_or(0, |(_, entry)| entry.body_limit)));
    }
    let problem = match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ReadTimedout) => Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-too-slow",
            "the body did not arrive in time; send it again",
        ),
        (ErrorSource::Downstream, ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed) => {
            return None;
        }
        (ErrorSource::Downstream, WriteTimedout) => return None,
        (ErrorSource::Downstream, _) => Problem::bad_request("malformed-request", "the request is not valid HTTP"),
        (_, ConnectTimedout | ConnectRefused | ConnectNoRoute | ConnectError) => Problem::unavailable(
            "service-unavailable",
            "a part of the service cannot be reached; repeat the request",
        ),
        (_, TLSHandshakeFailure | TLSHandshakeTimedout | InvalidCert) => Problem::new(
            StatusCode::BAD_GATEWAY,
            "bad-gateway",
            "a part of the service did not prove who it is",
        ),
        (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            "a part of the service took too long; repeat the request",
        ),
        (ErrorSource::Upstream, HTTPStatus(_) | _) => Problem::new(
            StatusCode::BAD_GATEWAY,
            "bad-gateway",
            "a part of the service broke off; repeat the request",
        ),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the request failed for an internal reason",
        ),
    };
    Some(problem.into())
}
