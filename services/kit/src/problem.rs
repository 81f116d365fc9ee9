//! The one error answer of every HTTP edge: RFC 9457 `application/problem+json`, which also carries the `error`,
//! `message`, `code` and `details` that API clients read; and extractors whose refusals are problems too.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::headers::{CONTENT_TYPE, RETRY_AFTER};

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";
/// The code of a body that is JSON, of which a field does not fit.
pub const INVALID_FIELD: &str = "invalid-field";

/// One field that was refused, what it may be, and why.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Detail {
    /// The path of the field in the body, `samples[3].hr`.
    pub field: String,
    /// What would have been accepted, where that can be said shortly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
    /// One sentence.
    pub message: String,
}

/// An answer that says what went wrong, for a person (`message`) and for a program (`code`).
///
/// ```
/// use meridian_kit::problem::Problem;
/// let problem = Problem::conflict("version-conflict", "the workout has moved on; read it again and repeat the command");
/// assert_eq!(problem.status(), 409);
/// ```
#[derive(Clone, Debug)]
pub struct Problem(Box<Fields>);

#[derive(Clone, Debug)]
struct Fields {
    status: StatusCode,
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    details: Vec<Detail>,
    home: Option<String>,
    rule: Option<String>,
    retry_after: Option<Duration>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    error: &'a str,
    message: &'a str,
    code: &'a str,
    details: &'a [Detail],
    #[serde(skip_serializing_if = "Option::is_none")]
    home: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
}

impl Problem {
    /// Any status; the constructors below are the usual way.
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Fields {
            status,
            code: code.into(),
            message: message.into(),
            details: Vec::new(),
            home: None,
            rule: None,
            retry_after: None,
        }))
    }

    /// 400: the request cannot be understood or breaks a rule of its own.
    pub fn bad_request(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 401: no valid credentials.
    pub fn unauthorized(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }

    /// 403: valid credentials that do not allow this.
    pub fn forbidden(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    /// 404: there is no such thing, or it is not for the caller to see.
    pub fn not_found(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 409: the state of the thing contradicts the request.
    pub fn conflict(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 413: the body is larger than this route takes.
    pub fn too_large(limit_bytes: usize) -> Self {
        let message = format!("the body is larger than the {limit_bytes} bytes that this request may have");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", message)
    }

    /// 421: the caller's home is another region; `home` is its public address.
    pub fn misdirected(home: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "misdirected",
            "this account lives in another region; repeat the request at the address in `home`",
        );
        problem.0.home = Some(home.into());
        problem
    }

    /// 451: the policy does not let this class of data be served here; `rule` is the policy's rule.
    pub fn unavailable_for_legal_reasons(rule: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Self {
        let mut problem = Self::new(StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS, "not-lawful-here", message);
        problem.0.rule = Some(rule.into());
        problem
    }

    /// 429 with `Retry-After`.
    pub fn too_many(retry_after: Duration) -> Self {
        let mut problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-requests",
            "too much at once; repeat after the pause in Retry-After",
        );
        problem.0.retry_after = Some(retry_after);
        problem
    }

    /// 503: something this request needs cannot be reached; nothing was done, or what was done is safe to repeat.
    pub fn unavailable(code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        problem.0.retry_after = Some(Duration::from_secs(1));
        problem
    }

    /// 500: logs `error` and answers without its text, which may name internals.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %Chain(error), "a request failed for a reason that the caller cannot mend");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the request failed for an internal reason; it is logged",
        )
    }

    /// Adds a field that was refused.
    #[must_use]
    pub fn detail(mut self, field: impl Into<String>, message: impl Into<String>) -> Self {
        self.0.details.push(Detail {
            field: field.into(),
            allowed: Vec::new(),
            message: message.into(),
        });
        self
    }

    /// Adds a field that was refused, with what it may be.
    #[must_use]
    pub fn detail_allowed<I>(mut self, field: impl Into<String>, allowed: I, message: impl Into<String>) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let allowed = allowed.into_iter().map(Into::into).collect();
        self.0.details.push(Detail {
            field: field.into(),
            allowed,
            message: message.into(),
        });
        self
    }

    /// Adds the policy's rule.
    #[must_use]
    pub fn rule(mut self, rule: impl Into<String>) -> Self {
        self.0.rule = Some(rule.into());
        self
    }

    /// Adds or replaces `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.0.retry_after = Some(pause);
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The code that programs read.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The home address of a 421.
    #[must_use]
    pub fn home(&self) -> Option<&str> {
        self.0.home.as_deref()
    }

    /// The body as JSON, for an edge that is not axum (the gateway).
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let title = self.0.status.canonical_reason().unwrap_or("Error");
        let body = Body {
            kind: format!("urn:meridian:problem:{}", self.0.code),
            title,
            status: self.0.status.as_u16(),
            detail: &self.0.message,
            error: title,
            message: &self.0.message,
            code: &self.0.code,
            details: &self.0.details,
            home: self.0.home.as_deref(),
            rule: self.0.rule.as_deref(),
        };
        // A struct of strings and numbers always serializes.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// `Retry-After` in whole seconds, rounded up.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.0
            .retry_after
            .map(|pause| (pause.as_millis().div_ceil(1000).max(1)) as u64)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {}: {}",
            self.0.status.as_u16(),
            self.0.code,
            self.0.message
        )
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.0.status, self.to_json()).into_response();
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = self.retry_after_seconds() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// An error with its causes, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// A JSON body: refused with the field's name when it does not fit `T`, and with 413 when it is larger than the
/// route's limit (`axum::extract::DefaultBodyLimit`; 64 KiB unless the route says otherwise). Also an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(is_json);
        if !json {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not-json",
                "the body must be JSON with Content-Type: application/json",
            ));
        }
        let bytes = RawBody::from_request(request, state).await?.0;
        parse_json(&bytes).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// The raw bytes of a body, size-bounded like [`Json`].
#[derive(Clone, Debug)]
pub struct RawBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "the body is larger than this request may have",
            )),
            Err(_) => Err(Problem::bad_request(
                "body-unreadable",
                "the body ended early; send it again",
            )),
        }
    }
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads JSON, naming the field that does not fit.
///
/// # Errors
/// A 400 whose detail names the field.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // To know where a reader is costs more than reading; that is asked for only when something is wrong.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value: Result<T, _> = serde_path_to_error::deserialize(&mut reader);
    let value = value.map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            let message = without_position(&inner.to_string());
            let (field, allowed) = named_field(&path, &message);
            Problem::bad_request(INVALID_FIELD, "a field of the body does not fit; see details")
                .detail_allowed(field, allowed, message)
        } else {
            let place = format!(
                "the body is not well-formed JSON (line {}, column {})",
                inner.line(),
                inner.column()
            );
            Problem::bad_request("malformed-json", place)
        }
    })?;
    reader
        .end()
        .map_err(|_| Problem::bad_request("malformed-json", "the body goes on after its JSON value"))?;
    Ok(value)
}

fn without_position(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message.to_owned(),
    }
}

/// serde reports a missing or unknown field at its parent's path; the field's name is in backticks in the message, and
/// what is allowed follows "expected".
fn named_field(path: &str, message: &str) -> (String, Vec<String>) {
    let quoted = |text: &str| -> Vec<String> {
        text.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .filter(|word| !word.is_empty())
            .collect()
    };
    let (head, tail) = message.split_once("expected").unwrap_or((message, ""));
    let allowed = quoted(tail);
    let is_field = message.starts_with("missing field") || message.starts_with("unknown field");
    // serde_path_to_error already appends the name of an unknown field to the path.
    let name = quoted(head)
        .into_iter()
        .next()
        .filter(|name| is_field && !path.ends_with(name.as_str()));
    let field = match (path, name) {
        ("." | "", Some(name)) => name,
        (parent, Some(name)) => format!("{parent}.{name}"),
        ("." | "", None) => "(body)".to_owned(),
        (path, None) => path.to_owned(),
    };
    (field, allowed)
}

/// A path parameter, refused with a problem.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            // An id that cannot be one names nothing.
            Err(_) => Err(Problem::not_found(
                "not-found",
                "the address names something that cannot exist",
            )),
        }
    }
}

/// Query parameters, refused with a problem.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let message = rejection.body_text();
                let (field, allowed) = named_field("(query)", &message);
                Err(
                    Problem::bad_request("invalid-query", "a query parameter does not fit; see details")
                        .detail_allowed(field, allowed, message),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Upload {
        #[allow(dead_code, reason = "only parsed")]
        samples: Vec<Sample>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[allow(dead_code, reason = "only parsed")]
        hr: u8,
    }

    fn refusal(body: &str) -> (String, Vec<Detail>) {
        let problem = parse_json::<Upload>(body.as_bytes()).expect_err("must be refused");
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
        (problem.code().to_owned(), problem.0.details)
    }

    #[test]
    fn the_offending_field_is_named_by_its_path() {
        for (body, field) in [
            (r#"{"samples":[{"hr":1},{"hr":"x"}]}"#, "samples[1].hr"),
            (r#"{"samples":[{}]}"#, "samples[0].hr"),
            (r#"{"samples":[{"hr":1,"lat":2}]}"#, "samples[0].lat"),
            (r#"{}"#, "samples"),
            (r#"{"sample":[]}"#, "sample"),
            ("3", "(body)"),
        ] {
            let (code, details) = refusal(body);
            assert_eq!(
                (code.as_str(), details[0].field.as_str()),
                (INVALID_FIELD, field),
                "{body}"
            );
        }
    }

    #[test]
    fn broken_json_is_told_from_a_wrong_field() {
        for body in ["", "{", r#"{"samples":[]} x"#] {
            assert_eq!(refusal(body).0, "malformed-json", "{body}");
        }
    }

    #[test]
    fn a_problem_carries_both_vocabularies() {
        let body: serde_json::Value =
            serde_json::from_slice(&Problem::misdirected("https://eu.example").to_json()).expect("JSON");
        assert_eq!(body["status"], 421);
        assert_eq!(body["home"], "https://eu.example");
        for field in ["type", "title", "detail", "error", "message", "code", "details"] {
            assert!(!body[field].is_null(), "{field}");
        }
    }
}
