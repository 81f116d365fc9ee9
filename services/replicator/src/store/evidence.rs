//! The append-only record: one chain per tenant, each entry naming the digest of the one before it.

use aws_lc_rs::rand;
use jiff::Timestamp;
use jiff_sqlx::{Timestamp as SqlTimestamp, ToSqlx as _};
use meridian_kit::db::TenantTx;
use serde::Serialize;
use uuid::Uuid;

use super::StoreError;
use crate::domain::evidence::{Commitment, Record};

/// Entries in one answer at most.
pub const MOST_READ: i64 = 500;

/// A commitment to these copies under a fresh salt.
///
/// # Errors
/// No random numbers can be had.
pub fn commit_to(ids: impl IntoIterator<Item = Uuid>) -> Result<Commitment, StoreError> {
    let mut salt = [0; 16];
    rand::fill(&mut salt).map_err(|_| StoreError::Random)?;
    Ok(Commitment::to(ids, salt))
}

/// Appends an entry to the tenant's chain, in the transaction that makes it true.
///
/// # Errors
/// The database.
pub async fn append(tx: &mut TenantTx, record: &Record) -> Result<(), StoreError> {
    // One writer at a time, so that the chain has no forks and no gaps.
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('replicator.evidence/' || meridian_tenant(), 0))")
        .execute(tx.conn())
        .await?;
    let last: Option<(i64, Vec<u8>)> =
        sqlx::query_as("select entry_no, hash from evidence order by entry_no desc limit 1")
            .fetch_optional(tx.conn())
            .await?;
    let (entry, previous) = match last {
        Some((entry, hash)) => {
            let hash = hash.try_into().map_err(|_| StoreError::Row {
                table: "evidence",
                column: "hash",
            })?;
            (entry + 1, hash)
        }
        None => (1, [0; 32]),
    };
    let at = microseconds(Timestamp::now());
    let hash = record.chained(entry, at, &previous);
    sqlx::query(
        "insert into evidence (entry_no, at, kind, edge, rule, mechanism, instrument, count, bytes, salt, commitment, \
         revision, prev_hash, hash) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(entry)
    .bind(at.to_sqlx())
    .bind(record.kind.as_str())
    .bind(record.edge.as_str())
    .bind(&record.rule)
    .bind(&record.mechanism)
    .bind(&record.instrument)
    .bind(record.count)
    .bind(record.bytes)
    .bind(record.commitment.salt.as_slice())
    .bind(record.commitment.digest.as_slice())
    .bind(record.revision.as_i64())
    .bind(previous.as_slice())
    .bind(hash.as_slice())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What the database keeps of a moment: the chain must verify against what is read back.
fn microseconds(moment: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(moment.as_microsecond()).unwrap_or(moment)
}

/// An entry as it is shown.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// Its number in the tenant's chain.
    pub entry_no: i64,
    /// When.
    pub at: Timestamp,
    /// `transfer`, `refusal`, `cut` or `purge`.
    pub kind: String,
    /// Along which edge.
    pub edge: String,
    /// The rule that allowed or refused.
    pub rule: String,
    /// The transfer mechanism.
    pub mechanism: Option<String>,
    /// Its instrument.
    pub instrument: Option<String>,
    /// How many copies.
    pub count: i64,
    /// How many bytes.
    pub bytes: i64,
    /// The policy's revision.
    pub revision: i64,
    /// The commitment's salt, hex.
    pub salt: String,
    /// The commitment, hex.
    pub commitment: String,
    /// The digest of the entry before, hex.
    pub prev_hash: String,
    /// The digest of this entry, hex.
    pub hash: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    entry_no: i64,
    at: SqlTimestamp,
    kind: String,
    edge: String,
    rule: String,
    mechanism: Option<String>,
    instrument: Option<String>,
    count: i64,
    bytes: i64,
    revision: i64,
    salt: Vec<u8>,
    commitment: Vec<u8>,
    prev_hash: Vec<u8>,
    hash: Vec<u8>,
}

/// The tenant's entries after a number, in order, at most [`MOST_READ`].
///
/// # Errors
/// The database.
pub async fn read(tx: &mut TenantTx, after: i64) -> Result<Vec<Entry>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "select entry_no, at, kind, edge, rule, mechanism, instrument, count, bytes, revision, salt, commitment, \
         prev_hash, hash from evidence where entry_no > $1 order by entry_no limit $2",
    )
    .bind(after)
    .bind(MOST_READ)
    .fetch_all(tx.conn())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Entry {
            entry_no: row.entry_no,
            at: row.at.to_jiff(),
            kind: row.kind,
            edge: row.edge,
            rule: row.rule,
            mechanism: row.mechanism,
            instrument: row.instrument,
            count: row.count,
            bytes: row.bytes,
            revision: row.revision,
            salt: hex::encode(row.salt),
            commitment: hex::encode(row.commitment),
            prev_hash: hex::encode(row.prev_hash),
            hash: hex::encode(row.hash),
        })
        .collect())
}
