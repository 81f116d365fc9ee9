//! Answers that the gateway gives itself, written without reading the request's body.

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode};
use meridian_kit::headers::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, CORRELATION_ID, RETRY_AFTER, WWW_AUTHENTICATE};
use meridian_kit::problem::{self, Problem};
use meridian_kit::trace::Context;
use meridian_policy::DataClass;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use crate::domain::headers::SECURITY;
use crate::domain::route::Route;

/// An answer with a body.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    media_type: &'static str,
    headers: Vec<(HeaderName, String)>,
    body: Bytes,
}

impl Answer {
    /// JSON that anybody may see.
    pub fn public_json(body: Vec<u8>) -> Self {
        let headers = vec![(CACHE_CONTROL, "public, max-age=60".to_owned())];
        Self {
            status: StatusCode::OK,
            media_type: "application/json",
            headers,
            body: body.into(),
        }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let mut headers = Vec::new();
        if let Some(seconds) = problem.retry_after_seconds() {
            headers.push((RETRY_AFTER, seconds.to_string()));
        }
        if problem.status() == StatusCode::UNAUTHORIZED {
            headers.push((WWW_AUTHENTICATE, "Bearer".to_owned()));
        }
        Self {
            status: problem.status(),
            media_type: problem::MEDIA_TYPE,
            headers,
            body: problem.to_json().into(),
        }
    }
}

/// The one 401: it does not tell a missing token from a forged, an expired or an outdated one.
fn unauthorized() -> Answer {
    Problem::unauthorized(
        "unauthorized",
        "this needs a valid token in Authorization: Bearer …; sign in to get one",
    )
    .into()
}

/// The answer to a request that goes nowhere; none for one that does.
pub fn refusal(route: &Route) -> Option<Answer> {
    let answer: Answer = match route {
        Route::Upstream { .. } | Route::Directory => return None,
        Route::Misdirected { home } => Problem::misdirected(home.as_str()).into(),
        Route::Unauthorized => unauthorized(),
        Route::Unverifiable => Problem::unavailable(
            "keys-unavailable",
            "tokens cannot be verified at the moment; repeat the request",
        )
        .into(),
        Route::NotFound => Problem::not_found("no-such-route", "there is nothing at this address").into(),
        Route::UnknownVersion => Problem::not_found(
            "unknown-version",
            "this version of the API does not exist; the versions are: v1",
        )
        .into(),
        Route::MethodNotAllowed(methods) => method_not_allowed(methods),
        Route::UnavailableForLegalReasons { class } => not_lawful(*class),
    };
    Some(answer)
}

fn method_not_allowed(methods: &[Method]) -> Answer {
    let allowed = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        format!("this address takes only {allowed}"),
    );
    let mut answer = Answer::from(problem);
    answer.headers.push((ALLOW, allowed));
    answer
}

fn not_lawful(class: DataClass) -> Answer {
    let message = format!("the law that holds in this region does not let {class} data be kept for this tenant");
    Problem::unavailable_for_legal_reasons("retention-outside-law", message).into()
}

/// 431.
pub fn headers_too_large(limit: usize) -> Answer {
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    Problem::new(
        status,
        "headers-too-large",
        format!("the headers are larger than {limit} bytes"),
    )
    .into()
}

/// 413.
pub fn body_too_large(limit: u64) -> Answer {
    Problem::too_large(usize::try_from(limit).unwrap_or(usize::MAX)).into()
}

/// Writes the answer. A request whose body was not read leaves bytes on the wire that would be taken for the next
/// request, so its connection ends with this answer.
pub async fn write(session: &mut Session, answer: &Answer, context: &Context) -> Result<()> {
    if !session.is_body_empty() {
        session.set_keepalive(None);
    }
    let mut head = ResponseHeader::build(answer.status, Some(SECURITY.len() + answer.headers.len() + 4))?;
    for (name, value) in SECURITY {
        head.insert_header(*name, *value)?;
    }
    head.insert_header(CONTENT_TYPE, answer.media_type)?;
    head.insert_header(CORRELATION_ID, context.correlation_id())?;
    for (name, value) in &answer.headers {
        head.insert_header(name.clone(), value.as_str())?;
    }
    head.set_content_length(answer.body.len())?;
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(answer.body.clone()), true).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_a_problem_and_only_a_421_names_a_home() {
        let routes = [
            (
                Route::Misdirected {
                    home: "https://us.example".to_owned(),
                },
                421,
            ),
            (Route::Unauthorized, 401),
            (Route::Unverifiable, 503),
            (Route::NotFound, 404),
            (Route::UnknownVersion, 404),
            (Route::MethodNotAllowed(&[Method::GET]), 405),
            (
                Route::UnavailableForLegalReasons {
                    class: DataClass::Location,
                },
                451,
            ),
        ];
        for (route, status) in routes {
            let answer = refusal(&route).expect("a refusal");
            let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!(answer.status, status);
            assert_eq!(answer.media_type, "application/problem+json");
            assert_eq!(body["status"], status);
            assert_eq!(body.get("home").is_some(), status == 421, "{body}");
        }
    }
}
