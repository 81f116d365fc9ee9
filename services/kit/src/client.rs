//! The one way to call another service: HTTP over mTLS to an identity (not to a name), with the trace carried along and
//! one retry policy.
//!
//! A request is repeated only when repeating it is safe: `GET`, or when the caller says [`Call::idempotent`]. Then a
//! broken connection, a 502, 503 or 504 is tried three times in all, pausing 50 ms and 200 ms.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::headers::CONTENT_TYPE;
use crate::problem::Problem;
use crate::start::Start;
use crate::tls::{PeerId, Tls, TlsError};
use crate::trace::Context;

const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(10);
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(200)];
/// The largest answer that is read into memory.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service could not be reached, or did not answer in time.
    #[error("{peer} cannot be reached: {problem}")]
    Unreachable {
        /// Whom.
        peer: String,
        /// Why.
        problem: String,
    },
    /// The service refused.
    #[error("{peer} answered {status}{}", code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default())]
    Refused {
        /// Who.
        peer: String,
        /// Its status.
        status: StatusCode,
        /// The `code` of its problem.
        code: Option<String>,
        /// The whole problem, when it sent one.
        body: Option<serde_json::Value>,
    },
    /// The answer is not what was asked for.
    #[error("the answer of {peer} cannot be understood: {problem}")]
    Answer {
        /// Whose.
        peer: String,
        /// Why.
        problem: String,
    },
    /// The client could not be made.
    #[error("a client for {peer} cannot be made: {problem}")]
    Setup {
        /// For whom.
        peer: String,
        /// Why.
        problem: String,
    },
}

impl ClientError {
    /// The status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether trying later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => is_transient(*status) || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Answer { .. } | Self::Setup { .. } => false,
        }
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        if error.is_transient() {
            tracing::warn!(%error, "a request could not be served because another service did not answer");
            return Self::unavailable(
                "dependency-unavailable",
                "a part of the service cannot be reached; repeat the request",
            );
        }
        Self::internal(&error)
    }
}

fn is_transient(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// A client for one service. Cheap to clone; connections are kept.
#[derive(Clone)]
pub struct ServiceClient {
    inner: Arc<Inner>,
}

struct Inner {
    peer: String,
    base: String,
    http: reqwest::Client,
}

impl fmt::Debug for ServiceClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServiceClient")
            .field("peer", &self.inner.peer)
            .finish_non_exhaustive()
    }
}

impl ServiceClient {
    /// For another service of this region, at `MERIDIAN_<PEER>_URL` or `https://<peer>:8443`.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(start: &Start, peer: &str) -> Result<Self, ClientError> {
        let expected = PeerId::new(start.region().clone(), peer);
        Self::to(start.tls(), &start.config().peer_url(peer), expected, Some(ANSWER))
    }

    /// For a service of any region whose CA the policy pins, at `url`.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn peer(tls: &Tls, url: &str, expected: PeerId) -> Result<Self, ClientError> {
        Self::to(tls, url, expected, Some(ANSWER))
    }

    /// For a stream that never ends: no time limit on the whole answer.
    pub(crate) fn streaming(tls: &Tls, url: &str, peer: &str) -> Result<Self, ClientError> {
        Self::to(tls, url, PeerId::new(tls.region().clone(), peer), None)
    }

    fn to(tls: &Tls, url: &str, expected: PeerId, limit: Option<Duration>) -> Result<Self, ClientError> {
        let peer = expected.service.clone();
        let setup = |problem: String| ClientError::Setup {
            peer: peer.clone(),
            problem,
        };
        let config = tls
            .client_config(expected)
            .map_err(|error: TlsError| setup(error.to_string()))?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(4);
        if let Some(limit) = limit {
            builder = builder.timeout(limit);
        }
        let http = builder.build().map_err(|error| setup(error.to_string()))?;
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self {
            inner: Arc::new(Inner { peer, base, http }),
        })
    }

    /// A request with any method; `path` begins with `/`.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let idempotent = method == Method::GET;
        let url = format!("{}{path}", self.inner.base);
        Call {
            client: self.clone(),
            method,
            url,
            headers: HeaderMap::new(),
            body: Ok(None),
            idempotent,
            limit: None,
        }
    }

    /// A GET.
    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    /// A POST.
    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }
}

/// A request being made.
#[must_use = "nothing is sent until `send` or `fetch`"]
pub struct Call {
    client: ServiceClient,
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Result<Option<bytes::Bytes>, String>,
    idempotent: bool,
    limit: Option<Duration>,
}

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Call")
            .field("peer", &self.client.inner.peer)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl Call {
    /// Adds a header; a value that cannot be one is left out.
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }

    /// A JSON body.
    pub fn json<T: Serialize + ?Sized>(mut self, body: &T) -> Self {
        self.body = serde_json::to_vec(body)
            .map(|bytes| Some(bytes.into()))
            .map_err(|error| error.to_string());
        self.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self
    }

    /// Any body.
    pub fn bytes(mut self, body: impl Into<bytes::Bytes>) -> Self {
        self.body = Ok(Some(body.into()));
        self
    }

    /// Says that repeating the request does no harm, so that it may be tried again.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Another limit than 10 s for the whole answer.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sends it, and returns the answer when it is a success.
    ///
    /// # Errors
    /// When the service cannot be reached or refuses.
    pub async fn send(self) -> Result<reqwest::Response, ClientError> {
        let mut pauses = PAUSES.iter();
        loop {
            match self.attempt().await {
                Ok(response) => return Ok(response),
                Err(error) => {
                    let again = match &error {
                        ClientError::Unreachable { .. } => true,
                        ClientError::Refused { status, .. } => is_transient(*status),
                        _ => false,
                    };
                    match pauses.next().filter(|_| again && self.idempotent) {
                        Some(pause) => tokio::time::sleep(*pause).await,
                        None => return Err(error),
                    }
                }
            }
        }
    }

    /// Sends it and reads a JSON answer.
    ///
    /// # Errors
    /// When the service cannot be reached, refuses, or answers something else.
    pub async fn fetch<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let peer = self.client.inner.peer.clone();
        let bytes = self.fetch_bytes().await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            // The text of a data error may quote the answer; its category and place say enough.
            let problem = format!(
                "{:?} error at line {}, column {}",
                error.classify(),
                error.line(),
                error.column()
            );
            ClientError::Answer { peer, problem }
        })
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// When the service cannot be reached, refuses, breaks off or sends too much.
    pub async fn fetch_bytes(self) -> Result<bytes::Bytes, ClientError> {
        let peer = self.client.inner.peer.clone();
        let mut response = self.send().await?;
        let mut body = bytes::BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_LIMIT_BYTES => body.extend_from_slice(&chunk),
                Ok(Some(_)) => {
                    return Err(ClientError::Answer {
                        peer,
                        problem: "it is too large".to_owned(),
                    });
                }
                Ok(None) => return Ok(body.freeze()),
                Err(error) => {
                    return Err(ClientError::Unreachable {
                        peer,
                        problem: error.without_url().to_string(),
                    });
                }
            }
        }
    }

    /// Opens a stream: as [`Call::send`], without repeating.
    pub(crate) async fn open(self) -> Result<reqwest::Response, ClientError> {
        tokio::time::timeout(ANSWER, self.attempt()).await.unwrap_or_else(|_| {
            Err(ClientError::Unreachable {
                peer: self.client.inner.peer.clone(),
                problem: "no answer in time".to_owned(),
            })
        })
    }

    async fn attempt(&self) -> Result<reqwest::Response, ClientError> {
        let peer = || self.client.inner.peer.clone();
        let body = self.body.as_ref().map_err(|problem| ClientError::Setup {
            peer: peer(),
            problem: problem.clone(),
        })?;
        let mut headers = self.headers.clone();
        crate::trace::current()
            .unwrap_or_else(Context::fresh)
            .inject(&mut headers);
        let mut request = self
            .client
            .inner
            .http
            .request(self.method.clone(), &self.url)
            .headers(headers);
        if let Some(body) = body {
            request = request.body(body.clone());
        }
        if let Some(limit) = self.limit {
            request = request.timeout(limit);
        }
        let response = request.send().await.map_err(|error| {
            let error = error.without_url();
            let problem = crate::problem::Chain(&error).to_string();
            ClientError::Unreachable { peer: peer(), problem }
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        Err(refused(peer(), status, &body))
    }
}

/// What a refusal says; a body that is no problem, or far too large for one, is left out.
pub(crate) fn refused(peer: String, status: StatusCode, body: &[u8]) -> ClientError {
    let body: Option<serde_json::Value> = Some(body)
        .filter(|body| body.len() < 64 * 1024)
        .and_then(|body| serde_json::from_slice(body).ok());
    let code = body
        .as_ref()
        .and_then(|body| body.get("code")?.as_str().map(str::to_owned));
    ClientError::Refused {
        peer,
        status,
        code,
        body,
    }
}
