//! The importer's edges, copies and purges.

use std::collections::{BTreeMap, HashSet};

use jiff_sqlx::ToSqlx as _;
use meridian_kit::db::{TenantTx, room_for};
use meridian_kit::event::Event;
use meridian_policy::{CompiledEdge, CutEdge, EdgeId, Epoch, PolicyRevision, RegionName, Rule};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use uuid::Uuid;

use super::StoreError;
use crate::domain::edges::EdgeState;

/// Offsets by partition.
pub type Offsets = BTreeMap<i32, i64>;

/// An edge that arrives here, as far as it has come.
#[derive(Clone, Debug)]
pub struct ImportEdge {
    /// Which.
    pub edge: EdgeId,
    /// Where from.
    pub origin: RegionName,
    /// How far.
    pub state: EdgeState,
    /// Of the policy that opened or cut it.
    pub revision: PolicyRevision,
    /// The purge in work, or the last one.
    pub purge_id: Option<Uuid>,
    /// Copies deleted.
    pub purged: u64,
    /// Where imports.events stood when the purge's own event was in it.
    pub purge_upto: Option<Offsets>,
    /// The region operator knows.
    pub reported: bool,
}

/// A sink's acknowledgement of a purge.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SinkAck {
    /// Who.
    pub sink: String,
    /// How many copies it had.
    pub purged: u64,
}

fn wrong(column: &'static str) -> StoreError {
    StoreError::Row {
        table: "import_edge",
        column,
    }
}

type EdgeRow = (
    String,
    String,
    String,
    i64,
    Option<Uuid>,
    i64,
    Option<Json<Offsets>>,
    bool,
);

const EDGE_COLUMNS: &str = "edge, origin, state, revision, purge_id, purged, purge_upto, reported";

fn parsed(
    (edge, origin, state, revision, purge_id, purged, upto, reported): EdgeRow,
) -> Result<ImportEdge, StoreError> {
    Ok(ImportEdge {
        edge: edge.parse().map_err(|_| wrong("edge"))?,
        origin: origin.parse().map_err(|_| wrong("origin"))?,
        state: EdgeState::parse(&state).ok_or_else(|| wrong("state"))?,
        revision: PolicyRevision(u64::try_from(revision).unwrap_or_default()),
        purge_id,
        purged: u64::try_from(purged).unwrap_or_default(),
        purge_upto: upto.map(|Json(offsets)| offsets),
        reported,
    })
}

/// Every edge that ever arrived here.
///
/// # Errors
/// The database.
pub async fn edges(tx: &mut TenantTx) -> Result<Vec<ImportEdge>, StoreError> {
    let query = sqlx::AssertSqlSafe(format!("select {EDGE_COLUMNS} from import_edge order by edge"));
    let rows: Vec<EdgeRow> = sqlx::query_as(query).fetch_all(tx.conn()).await?;
    rows.into_iter().map(parsed).collect()
}

/// One edge. Nobody cuts it until the transaction ends.
///
/// # Errors
/// The database.
pub async fn edge_kept(tx: &mut TenantTx, edge: &EdgeId) -> Result<Option<ImportEdge>, StoreError> {
    let query = sqlx::AssertSqlSafe(format!(
        "select {EDGE_COLUMNS} from import_edge where edge = $1 for share"
    ));
    let row: Option<EdgeRow> = sqlx::query_as(query)
        .bind(edge.as_str())
        .fetch_optional(tx.conn())
        .await?;
    row.map(parsed).transpose()
}

/// Opens an edge, for the first time or after a purge. False: it is being cut.
///
/// # Errors
/// The database.
pub async fn open(tx: &mut TenantTx, edge: &CompiledEdge, revision: PolicyRevision) -> Result<bool, StoreError> {
    let opened = sqlx::query(
        "insert into import_edge (edge, origin, state, rule, revision) values ($1, $2, 'open', $3, $4) \
         on conflict (tenant, edge) do update set origin = excluded.origin, state = 'open', rule = excluded.rule, \
         revision = excluded.revision, changed_at = case import_edge.state when 'open' then import_edge.changed_at else now() end \
         where import_edge.state <> 'cutting'",
    )
    .bind(edge.id.as_str())
    .bind(edge.from.as_str())
    .bind(&edge.rule)
    .bind(revision.as_i64())
    .execute(tx.conn())
    .await?;
    Ok(opened.rows_affected() == 1)
}

/// Keeps copies, and returns which were not there.
///
/// # Errors
/// The database.
pub async fn keep(
    tx: &mut TenantTx,
    edge: &CompiledEdge,
    events: &[Event],
    origin_epoch: Epoch,
) -> Result<HashSet<Uuid>, StoreError> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let authors: Vec<Uuid> = events.iter().map(|event| event.data_subject.as_uuid()).collect();
    let expiries: Vec<_> = events
        .iter()
        .map(|event| event.expires.unwrap_or(edge.expires).to_sqlx())
        .collect();
    let sealed: Vec<&[u8]> = events.iter().map(Event::sealed_payload).collect();
    let query = "with kept as (insert into imported_event (origin_event, edge, origin, origin_epoch, author, expires_at, sealed) \
         select id, $2, $3, $4, author, expires, sealed \
         from unnest($1::uuid[], $5::uuid[], $6::timestamptz[], $7::bytea[]) as copy (id, author, expires, sealed) \
         on conflict (tenant, origin_event) do nothing returning origin_event) \
         select coalesce(array_agg(origin_event), '{}') from kept";
    let kept: Vec<Uuid> = sqlx::query_scalar_with(query, room_for(&sealed))
        .bind(ids)
        .bind(edge.id.as_str())
        .bind(edge.from.as_str())
        .bind(origin_epoch.as_i64())
        .bind(authors)
        .bind(expiries)
        .bind(sealed)
        .fetch_one(tx.conn())
        .await?;
    Ok(kept.into_iter().collect())
}

/// Begins a purge of an open edge: from here on nothing of it is let in. Returns how many copies were deleted; none where
/// it was not open.
///
/// # Errors
/// The database.
pub async fn begin_purge(
    tx: &mut TenantTx,
    edge: &EdgeId,
    purge_id: Uuid,
    rule: Rule,
    revision: PolicyRevision,
) -> Result<Option<u64>, StoreError> {
    let begun = sqlx::query(
        "update import_edge set state = 'cutting', rule = $2, revision = $3, purge_id = $4, purged = 0, purge_upto = null, \
         reported = false, changed_at = now() where edge = $1 and state = 'open'",
    )
    .bind(edge.as_str())
    .bind(rule.as_str())
    .bind(revision.as_i64())
    .bind(purge_id)
    .execute(tx.conn())
    .await?;
    if begun.rows_affected() == 0 {
        return Ok(None);
    }
    let deleted = sqlx::query("delete from imported_event where edge = $1")
        .bind(edge.as_str())
        .execute(tx.conn())
        .await?;
    let deleted = deleted.rows_affected();
    sqlx::query("update import_edge set purged = $2 where edge = $1")
        .bind(edge.as_str())
        .bind(i64::try_from(deleted).unwrap_or(i64::MAX))
        .execute(tx.conn())
        .await?;
    Ok(Some(deleted))
}

/// Sees to it that the end of an edge is reported (again). Of one that was never open here there is nothing to purge.
///
/// # Errors
/// The database.
pub async fn close(tx: &mut TenantTx, edge: &CutEdge, revision: PolicyRevision) -> Result<(), StoreError> {
    sqlx::query(
        "insert into import_edge (edge, origin, state, rule, revision) values ($1, $2, 'cut', $3, $4) \
         on conflict (tenant, edge) do update set reported = false where import_edge.state = 'cut'",
    )
    .bind(edge.id.as_str())
    .bind(edge.from.as_str())
    .bind(Rule::NoEdge.as_str())
    .bind(revision.as_i64())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Records a sink's acknowledgement. False: there is no such purge.
///
/// # Errors
/// The database.
pub async fn acknowledge(tx: &mut TenantTx, edge: &EdgeId, purge_id: Uuid, ack: &SinkAck) -> Result<bool, StoreError> {
    let recorded = sqlx::query(
        "insert into purge_ack (purge_id, sink, purged) \
         select purge_id, $3, $4 from import_edge where edge = $1 and purge_id = $2 \
         on conflict (tenant, purge_id, sink) do update set acked_at = purge_ack.acked_at",
    )
    .bind(edge.as_str())
    .bind(purge_id)
    .bind(&ack.sink)
    .bind(i64::try_from(ack.purged).unwrap_or(i64::MAX))
    .execute(tx.conn())
    .await?;
    Ok(recorded.rows_affected() == 1)
}

/// Who has acknowledged a purge.
///
/// # Errors
/// The database.
pub async fn acknowledgements(tx: &mut TenantTx, purge_id: Uuid) -> Result<Vec<SinkAck>, StoreError> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("select sink, purged from purge_ack where purge_id = $1 order by sink")
            .bind(purge_id)
            .fetch_all(tx.conn())
            .await?;
    let ack = |(sink, purged)| SinkAck {
        sink,
        purged: u64::try_from(purged).unwrap_or_default(),
    };
    Ok(rows.into_iter().map(ack).collect())
}

/// Whether the broker has an event of this service's outbox.
///
/// # Errors
/// The database.
pub async fn relayed(tx: &mut TenantTx, event: Uuid) -> Result<bool, StoreError> {
    Ok(
        sqlx::query_scalar("select not exists (select 1 from outbox where event_id = $1)")
            .bind(event)
            .fetch_one(tx.conn())
            .await?,
    )
}

/// Remembers up to where the topic is to be deleted.
///
/// # Errors
/// The database.
pub async fn set_purge_upto(
    tx: &mut TenantTx,
    edge: &EdgeId,
    purge_id: Uuid,
    upto: &Offsets,
) -> Result<(), StoreError> {
    sqlx::query("update import_edge set purge_upto = $3 where edge = $1 and purge_id = $2")
        .bind(edge.as_str())
        .bind(purge_id)
        .bind(Json(upto))
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Ends a purge: nothing of the edge is left.
///
/// # Errors
/// The database.
pub async fn finish_purge(tx: &mut TenantTx, edge: &EdgeId, purge_id: Uuid) -> Result<bool, StoreError> {
    let ended = sqlx::query(
        "update import_edge set state = 'cut', changed_at = now(), reported = false \
         where edge = $1 and purge_id = $2 and state = 'cutting'",
    )
    .bind(edge.as_str())
    .bind(purge_id)
    .execute(tx.conn())
    .await?;
    Ok(ended.rows_affected() == 1)
}

/// The region operator knows that the edge is purged.
///
/// # Errors
/// The database.
pub async fn mark_reported(tx: &mut TenantTx, edge: &EdgeId) -> Result<(), StoreError> {
    sqlx::query("update import_edge set reported = true where edge = $1 and state = 'cut'")
        .bind(edge.as_str())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Deletes copies whose own expiry has come, and says how many of which edge.
///
/// # Errors
/// The database.
pub async fn expire(tx: &mut TenantTx) -> Result<Vec<(EdgeId, i64)>, StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "with expired as (delete from imported_event where expires_at <= now() returning edge) \
         select edge, count(*) from expired group by edge order by edge",
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|(edge, count)| Ok((edge.parse().map_err(|_| wrong("edge"))?, count)))
        .collect()
}
