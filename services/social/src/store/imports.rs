//! Copies from other regions, their expiry and their purge.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use meridian_kit::SubjectId;
use meridian_kit::db::{Error, TenantTx};
use meridian_policy::{EdgeId, RegionName};
use uuid::Uuid;

/// A copy that arrives.
#[derive(Clone, Debug)]
pub struct NewImport<'a> {
    /// The event's id.
    pub id: Uuid,
    /// The exporting region.
    pub origin: &'a RegionName,
    /// The edge.
    pub edge: &'a EdgeId,
    /// When it must be gone.
    pub expires: Timestamp,
    /// The author as the exporter names them here.
    pub author: SubjectId,
    /// The day it is of.
    pub day: Timestamp,
    /// As it was sealed by the exporter.
    pub payload: &'a [u8],
}

/// Keeps a copy.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn keep(tx: &mut TenantTx, import: &NewImport<'_>) -> Result<(), Error> {
    sqlx::query(
        "insert into imported_workout (id, origin, edge, expires_at, author, day, payload) \
         values ($1, $2, $3, $4, $5, $6, $7) on conflict (tenant, id) do nothing",
    )
    .bind(import.id)
    .bind(import.origin.as_str())
    .bind(import.edge.as_str())
    .bind(import.expires.to_sqlx())
    .bind(import.author)
    .bind(import.day.to_sqlx())
    .bind(import.payload)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Deletes an edge's copies and notes that this is to be acknowledged. Returns how many there were.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn purge(tx: &mut TenantTx, edge: &EdgeId, purge_id: Uuid) -> Result<u64, Error> {
    let deleted = sqlx::query("delete from imported_workout where edge = $1")
        .bind(edge.as_str())
        .execute(tx.conn())
        .await?;
    let purged = deleted.rows_affected();
    sqlx::query("insert into import_purge (purge_id, edge, purged) values ($1, $2, $3) on conflict do nothing")
        .bind(purge_id)
        .bind(edge.as_str())
        .bind(i64::try_from(purged).unwrap_or(i64::MAX))
        .execute(tx.conn())
        .await?;
    Ok(purged)
}

/// A purge that is to be acknowledged.
#[derive(Clone, Debug)]
pub struct Purged {
    /// Of this purge.
    pub purge_id: Uuid,
    /// Of this edge.
    pub edge: String,
    /// So many copies.
    pub purged: u64,
}

/// The purges that are still to be acknowledged.
///
/// # Errors
/// When the database cannot be reached.
pub async fn unacknowledged(tx: &mut TenantTx) -> Result<Vec<Purged>, Error> {
    let query = "select purge_id, edge, purged from import_purge order by purged_at";
    let rows: Vec<(Uuid, String, i64)> = sqlx::query_as(query).fetch_all(tx.conn()).await?;
    let purged = |(purge_id, edge, purged)| Purged {
        purge_id,
        edge,
        purged: u64::try_from(purged).unwrap_or_default(),
    };
    Ok(rows.into_iter().map(purged).collect())
}

/// A purge was acknowledged.
///
/// # Errors
/// When the database cannot be reached.
pub async fn acknowledged(tx: &mut TenantTx, purge_id: Uuid) -> Result<(), Error> {
    sqlx::query("delete from import_purge where purge_id = $1")
        .bind(purge_id)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Deletes what has expired.
///
/// # Errors
/// When the database cannot be reached.
pub async fn expire(tx: &mut TenantTx) -> Result<u64, Error> {
    let done = sqlx::query("delete from imported_workout where expires_at <= clock_timestamp()")
        .execute(tx.conn())
        .await?;
    Ok(done.rows_affected())
}
