//! The HTTP edge: for athletes, through the gateway.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{delete, get, post};
use http::StatusCode;
use meridian_kit::SubjectId;
use meridian_kit::auth::{Athlete, Peer};
use meridian_kit::db::TenantTx;
use meridian_kit::idempotency::IdempotencyKey;
use meridian_kit::problem::{Json, Problem, Query, RawBody, parse_json};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Social;
use crate::feed::{Page, Scope};
use crate::share::ShareWith;
use crate::store::follows::{self, Followed};

/// Followed athletes in one list.
const LIST: i64 = 1000;

/// All routes.
pub fn router(social: Social) -> Router {
    Router::new()
        .route("/api/v1/follows", post(follow).get(following))
        .route("/api/v1/follows/{subject}", delete(unfollow))
        .route("/api/v1/feed", get(feed))
        .route("/api/v1/shares", post(share))
        .layer(Peer::require(&["gateway"]))
        .with_state(social)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FollowBody {
    subject: SubjectId,
}

#[derive(Serialize)]
struct FollowAnswer {
    subject: SubjectId,
}

async fn follow(
    State(social): State<Social>,
    athlete: Athlete,
    Json(asked): Json<FollowBody>,
) -> Result<(StatusCode, Json<FollowAnswer>), Problem> {
    let status = social.follow(&athlete, asked.subject).await?;
    Ok((status, Json(FollowAnswer { subject: asked.subject })))
}

async fn unfollow(
    State(social): State<Social>,
    athlete: Athlete,
    Path(subject): Path<String>,
) -> Result<StatusCode, Problem> {
    let followed: SubjectId = subject
        .parse()
        .map_err(|_| Problem::bad_request("invalid-subject", "an athlete is named by a UUID"))?;
    let mut tx = TenantTx::begin(&social.pool, &athlete.scope()).await?;
    follows::unfollow(&mut tx, athlete.subject, followed).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize)]
struct Following {
    follows: Vec<Followed>,
}

async fn following(State(social): State<Social>, athlete: Athlete) -> Result<Json<Following>, Problem> {
    let mut tx = TenantTx::begin(&social.pool, &athlete.scope()).await?;
    let follows = follows::following(&mut tx, athlete.subject, LIST).await?;
    tx.commit().await?;
    Ok(Json(Following { follows }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedQuery {
    #[serde(default)]
    scope: Scope,
    cursor: Option<String>,
}

async fn feed(
    State(social): State<Social>,
    athlete: Athlete,
    Query(query): Query<FeedQuery>,
) -> Result<Json<Page>, Problem> {
    let cursor =
        query
            .cursor
            .map(|text| text.parse())
            .transpose()
            .map_err(|error: crate::domain::cursor::InvalidCursor| {
                Problem::bad_request("invalid-cursor", error.to_string())
            })?;
    Ok(Json(social.feed(&athlete, query.scope, cursor).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShareBody {
    workout_id: Uuid,
    audience: ShareWith,
}

async fn share(
    State(social): State<Social>,
    athlete: Athlete,
    key: IdempotencyKey,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let asked: ShareBody = parse_json(&body)?;
    social
        .share(&athlete, asked.workout_id, asked.audience, &key, &body)
        .await
}
