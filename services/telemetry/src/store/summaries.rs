//! Totals of recorded files, sealed under the athlete's own key.

use meridian_kit::SubjectId;
use meridian_kit::db::{self, TenantTx};
use meridian_kit::subject_keys::Sealed;
use uuid::Uuid;

/// A track's totals as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackSummary {
    /// Samples of the whole file.
    pub samples: u64,
    /// Sealed for `telemetry.summary:<subject>/<track>`.
    pub sealed: Sealed,
}

/// Stores a track's totals; a repetition changes nothing.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn put_summary(
    tx: &mut TenantTx,
    subject: SubjectId,
    track: Uuid,
    summary: &TrackSummary,
) -> Result<(), db::Error> {
    sqlx::query(
        "insert into track_summary (subject, track_id, samples, sealed) values ($1, $2, $3, $4) on conflict do nothing",
    )
    .bind(subject)
    .bind(track)
    .bind(i64::try_from(summary.samples).unwrap_or(i64::MAX))
    .bind(&summary.sealed)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A track's totals, if it came as a file.
///
/// # Errors
/// When the database cannot be reached.
pub async fn summary(tx: &mut TenantTx, subject: SubjectId, track: Uuid) -> Result<Option<TrackSummary>, db::Error> {
    let row: Option<(i64, Sealed)> = sqlx::query_as(
        "select samples, sealed from track_summary where tenant = meridian_tenant() and subject = $1 and track_id = $2",
    )
    .bind(subject)
    .bind(track)
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|(samples, sealed)| TrackSummary {
        samples: samples.unsigned_abs(),
        sealed,
    }))
}
