//! identity's routes. Athletes come through the gateway; the region's services and operator read the key set.

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use meridian_kit::auth::{Athlete, Peer};
use meridian_kit::headers::{CACHE_CONTROL, ETAG, IF_MATCH, TENANT};
use meridian_kit::idempotency::IdempotencyKey;
use meridian_kit::problem::{Json, Problem, RawBody, parse_json};
use meridian_policy::TenantId;
use serde::Deserialize;

use crate::accounts::{AccessToken, Accounts, Me};
use crate::domain::password::Password;
use crate::domain::profile::ProfileChange;
use crate::refusal::Refusal;

/// How long others may keep the key set; far shorter than a key is published before it signs.
const KEYS_MAX_AGE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// All routes.
pub fn router(accounts: Accounts) -> Router {
    let public = Router::new()
        .route("/api/v1/accounts", post(register))
        .route("/api/v1/sessions", post(sign_in))
        .route("/api/v1/service-tokens", post(service_token))
        .route("/api/v1/me", get(me).patch(change_me))
        .layer(Peer::require(&["gateway"]));
    Router::new()
        .merge(public)
        .route("/.well-known/jwks.json", get(keys))
        .with_state(accounts)
}

/// The tenant that the header names, if it could be one. Whether it is at home here is asked later.
struct NamedTenant(Option<TenantId>);

impl<S: Send + Sync> FromRequestParts<S> for NamedTenant {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let named = parts.headers.get(TENANT).and_then(|value| value.to_str().ok());
        Ok(Self(named.and_then(|name| name.parse().ok())))
    }
}

async fn register(
    State(accounts): State<Accounts>,
    NamedTenant(tenant): NamedTenant,
    key: IdempotencyKey,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let request = parse_json(&body)?;
    let tenant = tenant.ok_or(Refusal::UnknownTenant)?;
    Ok(accounts.register(&tenant, request, &key, &body).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    email: String,
    password: Password,
}

async fn sign_in(
    State(accounts): State<Accounts>,
    NamedTenant(tenant): NamedTenant,
    Json(request): Json<SignIn>,
) -> Result<Response, Problem> {
    Ok(secret(
        accounts
            .sign_in(tenant.as_ref(), &request.email, request.password)
            .await?,
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceTokenRequest {
    client_id: String,
    client_secret: String,
}

async fn service_token(
    State(accounts): State<Accounts>,
    Json(request): Json<ServiceTokenRequest>,
) -> Result<Response, Problem> {
    Ok(secret(
        accounts
            .marketing_token(&request.client_id, &request.client_secret)
            .await?,
    ))
}

/// RFC 6749 §5.1: an answer with a token must not be cached.
fn secret(token: AccessToken) -> Response {
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(token)).into_response()
}

async fn me(State(accounts): State<Accounts>, athlete: Athlete) -> Result<Response, Problem> {
    Ok(versioned(accounts.me(&athlete).await?))
}

#[derive(Deserialize)]
struct ChangeRequest {
    #[serde(default)]
    expected_version: Option<i64>,
    #[serde(flatten)]
    change: serde_json::Map<String, serde_json::Value>,
}

async fn change_me(
    State(accounts): State<Accounts>,
    athlete: Athlete,
    headers: HeaderMap,
    key: IdempotencyKey,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let request: ChangeRequest = parse_json(&body)?;
    // Parsed on its own, so that an unknown field is refused by name.
    let rest = serde_json::to_vec(&request.change).map_err(|error| Problem::internal(&error))?;
    let change: ProfileChange = parse_json(&rest)?;
    let expected = request
        .expected_version
        .or_else(|| version_in(&headers))
        .ok_or(Refusal::VersionMissing)?;
    let answer = accounts.change_profile(&athlete, expected, change, &key, &body).await?;
    tagged(answer).await
}

/// An answer with the tag of the version that it shows; one that is given again has the tag that it had.
async fn tagged(answer: Response) -> Result<Response, Problem> {
    #[derive(Deserialize)]
    struct Shown {
        version: i64,
    }
    let (parts, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX)
        .await
        .map_err(|error| Problem::internal(&error))?;
    let shown: Shown = serde_json::from_slice(&body).map_err(|error| Problem::internal(&error))?;
    Ok(with_version(shown.version, Response::from_parts(parts, body.into())))
}

fn version_in(headers: &HeaderMap) -> Option<i64> {
    headers
        .get(IF_MATCH)?
        .to_str()
        .ok()?
        .trim()
        .trim_matches('"')
        .parse()
        .ok()
}

fn versioned(me: Me) -> Response {
    with_version(me.version, Json(me).into_response())
}

fn with_version(version: i64, mut response: Response) -> Response {
    // A number in quotes is always a valid header value.
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn keys(State(accounts): State<Accounts>) -> Response {
    ([(CACHE_CONTROL, KEYS_MAX_AGE)], Json(accounts.signer.published())).into_response()
}
