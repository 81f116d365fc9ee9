//! This service's copies of workouts.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use meridian_kit::SubjectId;
use meridian_kit::db::{Error, TenantTx};
use meridian_kit::subject_keys::Sealed;
use uuid::Uuid;

use crate::domain::visibility::Audience;
use crate::domain::workout::Status;

/// Where a summary is sealed.
#[must_use]
pub fn summary_context(workout: Uuid) -> String {
    format!("social.workout:{workout}")
}

/// A copy as it is stored.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Whose.
    pub author: SubjectId,
    /// How much of its stream is known.
    pub version: i64,
    /// Where it stands.
    pub status: Status,
    /// How it is shared, if it is.
    pub shared: Option<Audience>,
    /// How often that was decided.
    pub shares: i64,
    /// The sealed summary.
    pub summary: Sealed,
}

type Row = (SubjectId, i64, String, Option<String>, i64, Sealed);

/// A workout's copy, locked until the transaction ends.
///
/// # Errors
/// When the database cannot be reached.
pub async fn find(tx: &mut TenantTx, workout: Uuid) -> Result<Option<Copy>, Error> {
    let query = "select author, version, status, shared, shares, summary from workout where workout_id = $1 for update";
    let row: Option<Row> = sqlx::query_as(query).bind(workout).fetch_optional(tx.conn()).await?;
    Ok(row.map(|(author, version, status, shared, shares, summary)| Copy {
        author,
        version,
        // What cannot be read is treated as what nobody sees.
        status: Status::parse(&status).unwrap_or(Status::Cancelled),
        shared: shared.and_then(|word| word.parse().ok()),
        shares,
        summary,
    }))
}

/// A workout has begun.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn begin(
    tx: &mut TenantTx,
    workout: Uuid,
    author: SubjectId,
    version: i64,
    visibility: Option<Audience>,
    at: Timestamp,
    summary: &Sealed,
) -> Result<(), Error> {
    sqlx::query(
        "insert into workout (workout_id, author, version, status, visibility, feed_at, summary) \
         values ($1, $2, $3, 'started', $4, $5, $6) on conflict (tenant, workout_id) do nothing",
    )
    .bind(workout)
    .bind(author)
    .bind(version)
    .bind(visibility.map(Audience::as_str))
    .bind(at.to_sqlx())
    .bind(summary)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A workout has gone on or ended.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn advance(
    tx: &mut TenantTx,
    workout: Uuid,
    version: i64,
    status: Status,
    at: Timestamp,
    summary: &Sealed,
) -> Result<(), Error> {
    sqlx::query("update workout set version = $2, status = $3, feed_at = $4, summary = $5 where workout_id = $1")
        .bind(workout)
        .bind(version)
        .bind(status.as_str())
        .bind(at.to_sqlx())
        .bind(summary)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Shares a workout. A share brings it to the top of feeds.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn share(
    tx: &mut TenantTx,
    workout: Uuid,
    audience: Audience,
    shares: i64,
    at: Timestamp,
) -> Result<(), Error> {
    sqlx::query("update workout set shared = $2, shares = $3, feed_at = $4 where workout_id = $1")
        .bind(workout)
        .bind(audience.as_str())
        .bind(shares)
        .bind(at.to_sqlx())
        .execute(tx.conn())
        .await?;
    Ok(())
}
