//! The HTTP edge: for athletes through the gateway, and for the services that deliver.

mod limits;

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
use crate::domain::permit::VALID_FOR;
use crate::domain::receipt::Receipt;
use crate::domain::standing::Action;
use crate::permits::Word;
use crate::store::{self, Entry, NewPermits};

/// The services that deliver something on the ground of a consent, and nobody else.
const DELIVERERS: &[&str] = &["promotions", "replicator", "training"];
/// Lines of a page of the history.
const PAGE: i64 = 100;
/// The longest text that names a delivery or a deliverer.
const NAME_LIMIT: usize = 128;
/// Permits that are opened or closed by one request at most.
const MOST_PERMITS: usize = 512;

/// All routes.
pub fn router(consent: Consent) -> Router {
    let permits = Router::new()
        .route("/internal/permits", post(open_permit))
        .route("/internal/permits/{id}/close", post(close_permit))
        .route("/internal/permits/open", post(open_permits))
        .route("/internal/permits/close", post(close_permits))
        .layer(Peer::require(DELIVERERS));
    let public = Router::new()
        .route("/api/v1/consents", post(change).get(standings))
        .route("/api/v1/consents/history", get(history))
        .route("/api/v1/consents/receipts/{id}", get(receipt))
        .merge(limits::routes())
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

fn fits(field: &'static str, text: &str) -> Result<(), Problem> {
    if (1..=NAME_LIMIT).contains(&text.len()) {
        return Ok(());
    }
    let message = format!("{field} must have 1 to {NAME_LIMIT} bytes");
    Err(Problem::bad_request("invalid-field", message.clone()).detail(field, message))
}

/// How long permits of any answer are valid.
fn valid_for_ms() -> u64 {
    u64::try_from(VALID_FOR.as_millis()).unwrap_or_default()
}

async fn open_permit(
    State(consent): State<Consent>,
    peer: Peer,
    Json(asked): Json<PermitBody>,
) -> Result<Json<PermitAnswer>, Problem> {
    fits("delivery_id", &asked.delivery_id)?;
    fits("deliverer", &asked.deliverer)?;
    let permits = NewPermits {
        matter: Matter::parse(&asked.purpose, &asked.class)?,
        service: peer.service(),
        deliverer: &asked.deliverer,
        deliveries: &[(asked.subject, &asked.delivery_id)],
    };
    let mut words = consent.open_permits(&asked.tenant, &permits).await?;
    let word = words
        .pop()
        .ok_or_else(|| Problem::forbidden("no-consent", "nothing was said"))?;
    Ok(Json(PermitAnswer {
        permit_id: word?,
        valid_for_ms: valid_for_ms(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PermitsBody {
    tenant: TenantId,
    purpose: String,
    class: String,
    deliverer: String,
    deliveries: Vec<DeliveryBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeliveryBody {
    subject: SubjectId,
    delivery_id: String,
}

/// One answer for each delivery, in their order.
#[derive(Serialize)]
struct PermitsAnswer {
    valid_for_ms: u64,
    permits: Vec<PermitOrRule>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum PermitOrRule {
    Permit { permit_id: Uuid },
    Refused { rule: &'static str },
}

impl From<Word> for PermitOrRule {
    fn from(word: Word) -> Self {
        match word {
            Ok(permit_id) => Self::Permit { permit_id },
            Err(refused) => Self::Refused { rule: refused.rule },
        }
    }
}

fn few_enough(field: &'static str, count: usize) -> Result<(), Problem> {
    if (1..=MOST_PERMITS).contains(&count) {
        return Ok(());
    }
    let message = format!("{field} must have 1 to {MOST_PERMITS} entries");
    Err(Problem::bad_request("invalid-field", message.clone()).detail(field, message))
}

async fn open_permits(
    State(consent): State<Consent>,
    peer: Peer,
    Json(asked): Json<PermitsBody>,
) -> Result<Json<PermitsAnswer>, Problem> {
    fits("deliverer", &asked.deliverer)?;
    few_enough("deliveries", asked.deliveries.len())?;
    for delivery in &asked.deliveries {
        fits("delivery_id", &delivery.delivery_id)?;
    }
    let deliveries: Vec<_> = asked
        .deliveries
        .iter()
        .map(|delivery| (delivery.subject, delivery.delivery_id.as_str()))
        .collect();
    let permits = NewPermits {
        matter: Matter::parse(&asked.purpose, &asked.class)?,
        service: peer.service(),
        deliverer: &asked.deliverer,
        deliveries: &deliveries,
    };
    let words = consent.open_permits(&asked.tenant, &permits).await?;
    Ok(Json(PermitsAnswer {
        valid_for_ms: valid_for_ms(),
        permits: words.into_iter().map(PermitOrRule::from).collect(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClosingBody {
    tenant: TenantId,
    permits: Vec<Uuid>,
}

async fn close_permits(
    State(consent): State<Consent>,
    peer: Peer,
    Json(asked): Json<ClosingBody>,
) -> Result<StatusCode, Problem> {
    few_enough("permits", asked.permits.len())?;
    consent
        .close_permits(&asked.tenant, &asked.permits, peer.service())
        .await?;
    Ok(StatusCode::NO_CONTENT)
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
