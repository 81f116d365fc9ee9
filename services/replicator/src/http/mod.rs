//! The routes: `/peer/…` for the replicators of other regions, `/internal/…` for this region's services.

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{MethodRouter, get, post};
use http::StatusCode;
use meridian_kit::auth::Peer;
use meridian_kit::db::{Pool, TenantTx};
use meridian_kit::evidence::{self, Entry};
use meridian_kit::problem::{Json, Problem, Query, RawBody};
use meridian_kit::residency::Homes;
use meridian_policy::{EdgeId, RegionName, TenantId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::admission::{BYTES_OF_AN_EVENT, LARGEST_BATCH};
use crate::importer::{Importer, Pushed, SINKS};
use crate::store::imports::SinkAck;
use crate::wire::{Cut, Form, KeyLease, Leased, Purge};

/// A batch's largest body: what an exporter sends at most, with room to spare.
const LARGEST_BATCH_BYTES: usize = LARGEST_BATCH * BYTES_OF_AN_EVENT;

/// Entries of evidence in one answer at most.
const MOST_READ: i64 = 500;

/// What the handlers work with.
#[derive(Clone)]
pub struct App {
    /// The importer.
    pub importer: Importer,
    /// The database, for the evidence.
    pub pool: Pool,
    /// Who is at home here.
    pub homes: Homes,
    /// This region.
    pub region: RegionName,
}

/// The routes.
pub fn router(app: App) -> Router {
    let sinks = Router::new()
        .route("/internal/purge-acks", post(purge_ack))
        .layer(Peer::require(SINKS));
    let auditors = Router::new()
        .route("/internal/evidence", get(read_evidence))
        .layer(Peer::require(&["region-operator", "verifier"]));
    Router::new()
        .route(Form::Whole.path(), batches(Form::Whole))
        .route(Form::Carried.path(), batches(Form::Carried))
        .route("/peer/v1/leases", post(lease))
        .route("/peer/v1/cuts", post(cut))
        .merge(sinks)
        .merge(auditors)
        .with_state(app)
}

/// The region that speaks, when it is another region's replicator. Its CA, which the policy pins for that region alone,
/// vouches for the name.
fn sender<'a>(app: &App, peer: &'a Peer) -> Result<&'a RegionName, Problem> {
    if peer.service() == crate::REPLICATOR && *peer.region() != app.region {
        return Ok(peer.region());
    }
    Err(Problem::forbidden(
        "peer-not-allowed",
        "this is for the replicators of other regions",
    ))
}

/// Takes batches of a form.
fn batches(form: Form) -> MethodRouter<App> {
    let take = move |State(app): State<App>, peer: Peer, RawBody(body): RawBody| async move {
        let from = sender(&app, &peer)?;
        let pushed = Pushed::read(form, &body)?;
        Ok::<_, Problem>(Json(app.importer.receive(from, pushed, &body).await?))
    };
    post(take).layer(DefaultBodyLimit::max(LARGEST_BATCH_BYTES))
}

async fn lease(State(app): State<App>, peer: Peer, Json(lease): Json<KeyLease>) -> Result<Json<Leased>, Problem> {
    Ok(Json(app.importer.lease(sender(&app, &peer)?, lease).await?))
}

async fn cut(State(app): State<App>, peer: Peer, Json(cut): Json<Cut>) -> Result<Json<Purge>, Problem> {
    Ok(Json(app.importer.cut(sender(&app, &peer)?, &cut).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeAck {
    tenant: TenantId,
    edge: EdgeId,
    purge_id: Uuid,
    sink: String,
    purged: u64,
}

async fn purge_ack(State(app): State<App>, peer: Peer, Json(ack): Json<PurgeAck>) -> Result<StatusCode, Problem> {
    if ack.sink != peer.service() {
        return Err(Problem::forbidden(
            "not-that-sink",
            "a sink acknowledges for itself only",
        ));
    }
    let scope = app.homes.scope(&ack.tenant).ok_or_else(no_such_purge)?;
    let sink = SinkAck {
        sink: ack.sink,
        purged: ack.purged,
    };
    if app.importer.acknowledge(&scope, &ack.edge, ack.purge_id, &sink).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_such_purge())
    }
}

fn no_such_purge() -> Problem {
    Problem::not_found("no-such-purge", "there is no such purge of that edge")
}

#[derive(Deserialize)]
struct EvidenceQuery {
    tenant: TenantId,
    #[serde(default)]
    after: i64,
}

#[derive(Serialize)]
struct EvidencePage {
    entries: Vec<Numbered>,
}

#[derive(Serialize)]
struct Numbered {
    entry_no: i64,
    #[serde(flatten)]
    entry: Entry,
}

async fn read_evidence(
    State(app): State<App>,
    Query(query): Query<EvidenceQuery>,
) -> Result<Json<EvidencePage>, Problem> {
    let scope = app
        .homes
        .scope(&query.tenant)
        .ok_or_else(|| Problem::not_found("no-such-tenant", "the tenant is not at home here"))?;
    let mut tx = TenantTx::begin(&app.pool, &scope).await?;
    let entries = evidence::of_tenant(&mut tx, query.after, MOST_READ).await?;
    let numbered = |(entry_no, entry)| Numbered { entry_no, entry };
    Ok(Json(EvidencePage {
        entries: entries.into_iter().map(numbered).collect(),
    }))
}
