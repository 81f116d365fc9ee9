//! The campaign API for marketing clients and the inbox for athletes, both through the gateway.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use jiff::Timestamp;
use meridian_kit::auth::{Athlete, Marketer, Peer};
use meridian_kit::db::{Pool, TenantTx};
use meridian_kit::problem::{Json, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::domain::campaign::{InvalidField, NewCampaign, Phase, Segment};
use crate::store::campaigns::{self, Campaign};
use crate::store::deliveries::{self, Delivered};

/// Entries of a page of the inbox, and campaigns of the list.
const PAGE: i64 = 50;

/// What the routes need.
#[derive(Debug, Clone)]
pub struct Promotions {
    /// The database.
    pub pool: Pool,
    /// Wakes the delivering part.
    pub wake: Arc<Notify>,
}

/// All routes.
pub fn router(promotions: Promotions) -> Router {
    Router::new()
        .route("/api/v1/campaigns", post(make).get(list))
        .route("/api/v1/campaigns/{id}", get(show))
        .route("/api/v1/campaigns/{id}/launch", post(launch))
        .route("/api/v1/promotions", get(inbox))
        .layer(Peer::require(&["gateway"]))
        .with_state(promotions)
}

#[derive(Serialize)]
struct CampaignAnswer {
    id: Uuid,
    name: String,
    title: String,
    body: String,
    segment: Segment,
    phase: Phase,
    #[serde(skip_serializing_if = "Option::is_none")]
    launched_at: Option<Timestamp>,
    delivered: i64,
}

impl From<Campaign> for CampaignAnswer {
    fn from(campaign: Campaign) -> Self {
        let Campaign {
            id,
            name,
            title,
            body,
            segment,
            phase,
            launched_at,
            delivered,
        } = campaign;
        Self {
            id,
            name,
            title,
            body,
            segment,
            phase,
            launched_at,
            delivered,
        }
    }
}

fn invalid(field: InvalidField) -> Problem {
    Problem::bad_request("invalid-field", "a field of the body does not fit; see details")
        .detail(field.field, field.rule)
}

fn unknown() -> Problem {
    Problem::not_found("no-such-campaign", "the tenant has no campaign of this id")
}

/// Makes a campaign. Its name makes a repetition recognisable: the same campaign again is answered as it stands.
async fn make(
    State(promotions): State<Promotions>,
    marketer: Marketer,
    Json(new): Json<NewCampaign>,
) -> Result<Response, Problem> {
    new.check().map_err(invalid)?;
    let mut tx = TenantTx::begin(&promotions.pool, &marketer.scope()).await?;
    let made = campaigns::insert(&mut tx, Uuid::now_v7(), &new).await?;
    let campaign = campaigns::by_name(&mut tx, &new.name).await?.ok_or_else(unknown)?;
    tx.commit().await?;
    let same = (&campaign.title, &campaign.body, &campaign.segment) == (&new.title, &new.body, &new.segment);
    if !same {
        let message = "the tenant has another campaign of this name; choose a new name";
        return Err(Problem::conflict("campaign-exists", message).detail("name", message));
    }
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(CampaignAnswer::from(campaign))).into_response())
}

#[derive(Serialize)]
struct Campaigns {
    campaigns: Vec<CampaignAnswer>,
}

async fn list(State(promotions): State<Promotions>, marketer: Marketer) -> Result<Json<Campaigns>, Problem> {
    let mut tx = TenantTx::begin(&promotions.pool, &marketer.scope()).await?;
    let campaigns = campaigns::newest(&mut tx, PAGE).await?;
    tx.commit().await?;
    Ok(Json(Campaigns {
        campaigns: campaigns.into_iter().map(Into::into).collect(),
    }))
}

async fn show(
    State(promotions): State<Promotions>,
    marketer: Marketer,
    Path(id): Path<Uuid>,
) -> Result<Json<CampaignAnswer>, Problem> {
    let mut tx = TenantTx::begin(&promotions.pool, &marketer.scope()).await?;
    let campaign = campaigns::by_id(&mut tx, id).await?.ok_or_else(unknown)?;
    tx.commit().await?;
    Ok(Json(campaign.into()))
}

/// Launches a campaign. Launching again changes nothing.
async fn launch(
    State(promotions): State<Promotions>,
    marketer: Marketer,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    let mut tx = TenantTx::begin(&promotions.pool, &marketer.scope()).await?;
    campaigns::launch(&mut tx, id).await?;
    let campaign = campaigns::by_id(&mut tx, id).await?.ok_or_else(unknown)?;
    tx.commit().await?;
    promotions.wake.notify_one();
    Ok((StatusCode::ACCEPTED, Json(CampaignAnswer::from(campaign))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageRequest {
    #[serde(default)]
    cursor: Option<Uuid>,
}

#[derive(Serialize)]
struct Inbox {
    promotions: Vec<Promotion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Uuid>,
}

#[derive(Serialize)]
struct Promotion {
    id: Uuid,
    title: String,
    body: String,
    delivered_at: Timestamp,
}

impl From<Delivered> for Promotion {
    fn from(delivered: Delivered) -> Self {
        let Delivered {
            id,
            title,
            body,
            delivered_at,
        } = delivered;
        Self {
            id,
            title,
            body,
            delivered_at,
        }
    }
}

async fn inbox(
    State(promotions): State<Promotions>,
    athlete: Athlete,
    Query(page): Query<PageRequest>,
) -> Result<Json<Inbox>, Problem> {
    let mut tx = TenantTx::begin(&promotions.pool, &athlete.scope()).await?;
    let delivered = deliveries::inbox(&mut tx, athlete.subject, page.cursor, PAGE).await?;
    tx.commit().await?;
    let full = i64::try_from(delivered.len()).is_ok_and(|count| count == PAGE);
    let next = delivered.last().filter(|_| full).map(|last| last.id);
    Ok(Json(Inbox {
        promotions: delivered.into_iter().map(Into::into).collect(),
        next,
    }))
}
