//! Who follows whom.

use jiff::Timestamp;
use jiff_sqlx::Timestamp as SqlTimestamp;
use meridian_kit::SubjectId;
use meridian_kit::db::{Error, TenantTx};
use serde::Serialize;

/// Someone whom the athlete follows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Followed {
    /// Whom.
    pub subject: SubjectId,
    /// Since when.
    pub since: Timestamp,
}

/// Begins to follow. False: did already.
///
/// # Errors
/// When the database cannot be reached.
pub async fn follow(tx: &mut TenantTx, follower: SubjectId, followed: SubjectId) -> Result<bool, Error> {
    let done = sqlx::query("insert into follow (follower, followed) values ($1, $2) on conflict do nothing")
        .bind(follower)
        .bind(followed)
        .execute(tx.conn())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Ceases to follow; where nothing is followed, nothing changes.
///
/// # Errors
/// When the database cannot be reached.
pub async fn unfollow(tx: &mut TenantTx, follower: SubjectId, followed: SubjectId) -> Result<(), Error> {
    sqlx::query("delete from follow where follower = $1 and followed = $2")
        .bind(follower)
        .bind(followed)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Whom the athlete follows, newest first.
///
/// # Errors
/// When the database cannot be reached.
pub async fn following(tx: &mut TenantTx, follower: SubjectId, limit: i64) -> Result<Vec<Followed>, Error> {
    let query = "select followed, since from follow where follower = $1 order by since desc, followed limit $2";
    let rows: Vec<(SubjectId, SqlTimestamp)> = sqlx::query_as(query)
        .bind(follower)
        .bind(limit)
        .fetch_all(tx.conn())
        .await?;
    Ok(rows
        .into_iter()
        .map(|(subject, since)| Followed {
            subject,
            since: since.to_jiff(),
        })
        .collect())
}
