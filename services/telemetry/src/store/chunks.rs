//! Chunks of samples, one per accepted batch.

use std::collections::HashMap;

use meridian_kit::SubjectId;
use meridian_kit::db::{self, TenantTx};
use meridian_kit::subject_keys::Sealed;
use uuid::Uuid;

use super::{first_day, parse_month};
use crate::domain::retention::Month;

/// A batch to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChunk {
    /// Whose.
    pub subject: SubjectId,
    /// The track.
    pub track: Uuid,
    /// The batch.
    pub batch: Uuid,
    /// The month in which it was received, whose key it is sealed under.
    pub month: Month,
    /// Earliest sample, ms since 1970-01-01 UTC.
    pub first_ms: i64,
    /// Latest sample.
    pub last_ms: i64,
    /// Samples.
    pub count: i32,
    /// Sealed for [`crate::ingest::chunk_context`].
    pub sealed: Sealed,
}

/// A batch as it is stored, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// The batch.
    pub batch: Uuid,
    /// Whose month key it is sealed under.
    pub month: Month,
    /// Earliest sample, ms since 1970-01-01 UTC.
    pub first_ms: i64,
}

/// Stores batches, each once whatever happens: a batch that is there already, in whatever month, changes nothing. Returns
/// the samples of those that are new.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn insert(tx: &mut TenantTx, chunks: &[NewChunk]) -> Result<u64, db::Error> {
    let column = |get: fn(&NewChunk) -> Uuid| chunks.iter().map(get).collect::<Vec<_>>();
    let times = |get: fn(&NewChunk) -> i64| chunks.iter().map(get).collect::<Vec<_>>();
    let stored: Vec<i32> = sqlx::query_scalar(
        "insert into chunk (subject, track_id, batch_id, month, first_t, last_t, count, sealed)
         select n.subject, n.track_id, n.batch_id, n.month::date,
                to_timestamp(0) + n.first_ms * interval '1 millisecond',
                to_timestamp(0) + n.last_ms * interval '1 millisecond', n.count, n.sealed
         from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::bigint[], $7::int[], $8::bytea[])
              as n(subject, track_id, batch_id, month, first_ms, last_ms, count, sealed)
         where not exists (select 1 from chunk c where c.tenant = meridian_tenant() and c.subject = n.subject
                           and c.track_id = n.track_id and c.batch_id = n.batch_id)
         on conflict do nothing
         returning count",
    )
    .bind(column(|chunk| chunk.subject.as_uuid()))
    .bind(column(|chunk| chunk.track))
    .bind(column(|chunk| chunk.batch))
    .bind(chunks.iter().map(|chunk| first_day(chunk.month)).collect::<Vec<_>>())
    .bind(times(|chunk| chunk.first_ms))
    .bind(times(|chunk| chunk.last_ms))
    .bind(chunks.iter().map(|chunk| chunk.count).collect::<Vec<_>>())
    .bind(chunks.iter().map(|chunk| chunk.sealed.as_bytes()).collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    Ok(stored.iter().map(|count| u64::from(count.unsigned_abs())).sum())
}

/// A subject's chunks of a track, those that reach `from_ms` or later, by their first sample.
///
/// # Errors
/// When the database cannot be reached.
pub async fn track(
    tx: &mut TenantTx,
    subject: SubjectId,
    track: Uuid,
    from_ms: Option<i64>,
) -> Result<Vec<StoredChunk>, db::Error> {
    let rows: Vec<(Uuid, String, i64)> = sqlx::query_as(
        "select batch_id, month::text, (extract(epoch from first_t) * 1000)::bigint
         from chunk
         where tenant = meridian_tenant() and subject = $1 and track_id = $2
               and ($3::bigint is null or last_t >= to_timestamp(0) + $3 * interval '1 millisecond')
         order by first_t, batch_id",
    )
    .bind(subject)
    .bind(track)
    .bind(from_ms)
    .fetch_all(tx.conn())
    .await?;
    let chunk = |(batch, month, first_ms): (Uuid, String, i64)| {
        let month = parse_month(&month).ok_or_else(|| db::Error::Statement("a month is no date".to_owned()))?;
        Ok(StoredChunk { batch, month, first_ms })
    };
    rows.into_iter().map(chunk).collect()
}

/// The sealed bytes of some of a track's chunks, by their batch. What has expired meanwhile is not among them.
///
/// # Errors
/// When the database cannot be reached.
pub async fn sealed(
    tx: &mut TenantTx,
    subject: SubjectId,
    track: Uuid,
    chunks: &[StoredChunk],
) -> Result<HashMap<Uuid, Sealed>, db::Error> {
    let rows: Vec<(Uuid, Sealed)> = sqlx::query_as(
        "select batch_id, sealed from chunk
         where tenant = meridian_tenant() and subject = $1 and track_id = $2 and batch_id = any($3)",
    )
    .bind(subject)
    .bind(track)
    .bind(chunks.iter().map(|chunk| chunk.batch).collect::<Vec<_>>())
    .fetch_all(tx.conn())
    .await?;
    Ok(rows.into_iter().collect())
}

/// How many samples of a track are stored.
///
/// # Errors
/// When the database cannot be reached.
pub async fn stored_samples(tx: &mut TenantTx, subject: SubjectId, track: Uuid) -> Result<u64, db::Error> {
    let stored: i64 = sqlx::query_scalar(
        "select coalesce(sum(count), 0)::bigint from chunk where tenant = meridian_tenant() and subject = $1 and track_id = $2",
    )
    .bind(subject)
    .bind(track)
    .fetch_one(tx.conn())
    .await?;
    Ok(stored.unsigned_abs())
}

/// One athlete's chunks of one month, whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Whose.
    pub subject: SubjectId,
    /// Received when.
    pub month: Month,
}

/// Whose chunks of one month there are, at most so many.
///
/// # Errors
/// When the database cannot be reached.
pub async fn expired(tx: &mut TenantTx, month: Month, limit: i64) -> Result<Vec<Expired>, db::Error> {
    let subjects: Vec<SubjectId> = sqlx::query_scalar(
        "select distinct subject from chunk where tenant = meridian_tenant() and month = $1::text::date limit $2",
    )
    .bind(first_day(month))
    .bind(limit)
    .fetch_all(tx.conn())
    .await?;
    Ok(subjects.into_iter().map(|subject| Expired { subject, month }).collect())
}

/// Deletes what has expired, after its keys were destroyed.
///
/// # Errors
/// When the database cannot be reached.
pub async fn delete_expired(tx: &mut TenantTx, month: Month, subjects: &[SubjectId]) -> Result<u64, db::Error> {
    let subjects: Vec<Uuid> = subjects.iter().map(SubjectId::as_uuid).collect();
    let deleted = sqlx::query(
        "delete from chunk where tenant = meridian_tenant() and month = $1::text::date and subject = any($2)",
    )
    .bind(first_day(month))
    .bind(subjects)
    .execute(tx.conn())
    .await?;
    Ok(deleted.rows_affected())
}
