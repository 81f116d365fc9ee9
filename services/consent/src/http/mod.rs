//! The HTTP edge: for athletes through the gateway, and for the services that deliver.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use meridian_kit::SubjectId;
use meridian_kit::auth::{Athlete, Peer};
use meridian_kit::db::TenantTx;
use meridian_kit::idempotency::IdempotencyKey;
use meridian_kit::problem::{Json, Problem, Query, RawBody, parse_json};
use meridian_kit::subject_keys::{Create, KeyScope};
use meridian_policy::TenantId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Consent;
use crate::change::{Change, receipt_context};
use crate::domain::matter::{Matter, NotAMatter};
use crate::domain::receipt::Receipt;
use crate::domain::standing::Action;
use crate::store::{self, Entry, NewPermit};

/// The services that deliver something on the ground of a consent, and nobody else.
const DELIVERERS: &[&str] = &["promotions", "replicator", "training"];
/// Lines of a page of the history.
const PAGE: i64 = 100;
/// The longest text that names a delivery or a deliverer.
const NAME_LIMIT: usize = 128;

/// All routes.
pub fn router(consent: Consent) -> Router {
    let permits = Router::new()
        .route("/internal/permits", post(open_permit))
        .route("/internal/permits/{id}/close", post(close_permit))
        .layer(Peer::require(DELIVERERS));
    let public = Router::new()
        .route("/api/v1/consents", post(change).get(standings))
        .route("/api/v1/consents/history", get(history))
        .route("/api/v1/consents/receipts/{id}", get(receipt))
        .layer(Peer::require(&["gateway"]));
    public.merge(permits).with_state(consent)
}

impl From<NotAMatter> for Problem {
    fn from(error: NotAMatter) -> Self {
        let message = error.to_string();
        Self::bad_request(error.code(), message.clone()).detail_allowed(error.field(), error.allowed(), message)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    purpose: String,
    class: String,
    action: Action,
}

async fn change(
    State(consent): State<Consent>,
    athlete: Athlete,
    key: IdempotencyKey,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let asked: ChangeBody = parse_json(&body)?;
    let matter = Matter::parse(&asked.purpose, &asked.class)?;
    consent
        .change(
            &athlete,
            Change {
                matter,
                action: asked.action,
                key: &key,
                body: &body,
            },
        )
        .await
}

#[derive(Serialize)]
struct Standings {
    consents: Vec<Entry>,
}

async fn standings(State(consent): State<Consent>, athlete: Athlete) -> Result<Json<Standings>, Problem> {
    let mut tx = TenantTx::begin(&consent.pool, &athlete.scope()).await?;
    let consents = store::standings(&mut tx, athlete.subject).await?;
    tx.commit().await?;
    Ok(Json(Standings { consents }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    cursor: Option<String>,
}

#[derive(Serialize)]
struct History {
    history: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

async fn history(
    State(consent): State<Consent>,
    athlete: Athlete,
    Query(page): Query<Page>,
) -> Result<Json<History>, Problem> {
    let before = match page.cursor.as_deref() {
        None => i64::MAX,
        Some(cursor) => cursor.parse().map_err(|_| {
            Problem::bad_request("invalid-cursor", "cursor must be the `next_cursor` of the page before")
        })?,
    };
    let mut tx = TenantTx::begin(&consent.pool, &athlete.scope()).await?;
    let history = store::history(&mut tx, athlete.subject, before, PAGE).await?;
    tx.commit().await?;
    let full = i64::try_from(history.len()).is_ok_and(|count| count == PAGE);
    let next_cursor = history.last().filter(|_| full).map(|entry| entry.id.to_string());
    Ok(Json(History { history, next_cursor }))
}

async fn receipt(
    State(consent): State<Consent>,
    athlete: Athlete,
    Path(id): Path<String>,
) -> Result<Json<Receipt>, Problem> {
    let unknown = || Problem::not_found("no-such-receipt", "there is no receipt of this id");
    let id: Uuid = id.parse().map_err(|_| unknown())?;
    let mut tx = TenantTx::begin(&consent.pool, &athlete.scope()).await?;
    let sealed = store::receipt(&mut tx, athlete.subject, id)
        .await?
        .ok_or_else(unknown)?;
    tx.commit().await?;
    let key = consent
        .keyring
        .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::No)
        .await?;
    Ok(Json(key.open_json(&receipt_context(id), sealed)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PermitBody {
    tenant: TenantId,
    subject: SubjectId,
    purpose: String,
    class: String,
    delivery_id: String,
    deliverer: String,
}

#[derive(Serialize)]
struct PermitAnswer {
    permit_id: Uuid,
    valid_for_ms: u64,
}

async fn open_permit(
    State(consent): State<Consent>,
    peer: Peer,
    Json(asked): Json<PermitBody>,
) -> Result<Json<PermitAnswer>, Problem> {
    let matter = Matter::parse(&asked.purpose, &asked.class)?;
    for (field, text) in [("delivery_id", &asked.delivery_id), ("deliverer", &asked.deliverer)] {
        if text.is_empty() || text.len() > NAME_LIMIT {
            let message = format!("{field} must have 1 to {NAME_LIMIT} bytes");
            return Err(Problem::bad_request("invalid-field", message.clone()).detail(field, message));
        }
    }
    let permit = NewPermit {
        subject: asked.subject,
        matter,
        service: peer.service(),
        deliverer: &asked.deliverer,
        delivery_id: &asked.delivery_id,
    };
    let opened = consent.open_permit(&asked.tenant, &permit).await?;
    let valid_for_ms = u64::try_from(opened.valid_for.as_millis()).unwrap_or_default();
    Ok(Json(PermitAnswer {
        permit_id: opened.id,
        valid_for_ms,
    }))
}

async fn close_permit(
    State(consent): State<Consent>,
    peer: Peer,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = id
        .parse()
        .map_err(|_| Problem::not_found("no-such-permit", "there is no permit of this id"))?;
    consent.close_permit(id, peer.service()).await?;
    Ok(StatusCode::NO_CONTENT)
}
