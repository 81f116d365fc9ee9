//! Objections and the restriction, as the subject makes and sees them.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use meridian_kit::auth::Athlete;
use meridian_kit::db::TenantTx;
use meridian_kit::idempotency::IdempotencyKey;
use meridian_kit::problem::{Json, Problem, RawBody, parse_json};
use meridian_policy::Purpose;
use serde::{Deserialize, Serialize};

use crate::Consent;
use crate::domain::limit::{Limit, LimitAction, NotObjectable};
use crate::domain::matter;
use crate::limits::LimitChange;
use crate::store::{self, LimitEntry};

pub(super) fn routes() -> Router<Consent> {
    Router::new()
        .route("/api/v1/objections", post(object).get(objections))
        .route("/api/v1/restriction", post(restrict).get(restriction))
}

impl From<NotObjectable> for Problem {
    fn from(error: NotObjectable) -> Self {
        not_objectable("purpose-without-consent", error.to_string())
    }
}

fn not_objectable(code: &'static str, message: String) -> Problem {
    let allowed = matter::purposes().map(|purpose| purpose.as_str());
    Problem::bad_request(code, message.clone()).detail_allowed("purpose", allowed, message)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectionBody {
    purpose: String,
    action: LimitAction,
}

async fn object(
    State(consent): State<Consent>,
    athlete: Athlete,
    key: IdempotencyKey,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let asked: ObjectionBody = parse_json(&body)?;
    let purpose: Purpose = asked
        .purpose
        .parse()
        .map_err(|_| not_objectable("unknown-purpose", "there is no purpose of this name".to_owned()))?;
    let change = LimitChange {
        limit: Limit::objection(purpose)?,
        action: asked.action,
        key: &key,
        body: &body,
    };
    consent.change_limit(&athlete, change).await
}

#[derive(Serialize)]
struct Objections {
    objections: Vec<LimitEntry>,
}

async fn objections(State(consent): State<Consent>, athlete: Athlete) -> Result<Json<Objections>, Problem> {
    let mut tx = TenantTx::begin(&consent.pool, &athlete.scope()).await?;
    let objections = store::objections(&mut tx, athlete.subject).await?;
    tx.commit().await?;
    Ok(Json(Objections { objections }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestrictionBody {
    action: LimitAction,
}

async fn restrict(
    State(consent): State<Consent>,
    athlete: Athlete,
    key: IdempotencyKey,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let asked: RestrictionBody = parse_json(&body)?;
    let change = LimitChange {
        limit: Limit::Restriction,
        action: asked.action,
        key: &key,
        body: &body,
    };
    consent.change_limit(&athlete, change).await
}

async fn restriction(State(consent): State<Consent>, athlete: Athlete) -> Result<Json<LimitEntry>, Problem> {
    let mut tx = TenantTx::begin(&consent.pool, &athlete.scope()).await?;
    let (standing, changed_at) = store::limit(&mut tx, athlete.subject, Limit::Restriction).await?;
    tx.commit().await?;
    Ok(Json(LimitEntry::of(Limit::Restriction, standing, changed_at)))
}
