//! Queries: a summary with its details, and the list.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use meridian_kit::subject_keys::Sealed;

use super::{AthleteTx, StoreError, details_place, summary_place};
use crate::domain::{Details, Summary, WorkoutId};

/// Workouts in one page at most.
pub const MOST_LISTED: u32 = 100;

/// A place in the list, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// When the workout there began.
    pub started_at: Timestamp,
    /// Which it is.
    pub workout_id: WorkoutId,
}

impl AthleteTx {
    /// A workout at a glance with its details, if this athlete has such a workout.
    ///
    /// # Errors
    /// The database, or a row that does not open under the athlete's key.
    pub async fn summary(&mut self, id: WorkoutId) -> Result<Option<(Summary, Option<Details>)>, StoreError> {
        let row: Option<(Sealed, Option<Sealed>)> = sqlx::query_as(
            "select s.sealed, d.sealed from workout_summary s \
             left join workout_details d on d.tenant = s.tenant and d.workout_id = s.workout_id \
             where s.workout_id = $1 and s.subject = $2",
        )
        .bind(id.0)
        .bind(self.key.subject())
        .fetch_optional(self.tx.conn())
        .await?;
        let Some((summary, details)) = row else { return Ok(None) };
        let summary = self.key.open_json(&summary_place(id), &summary)?;
        let details = details
            .map(|details| self.key.open_json(&details_place(id), &details))
            .transpose()?;
        Ok(Some((summary, details)))
    }

    /// The athlete's workouts, newest first, after a position; at most `limit`, which is bounded by a page and one more.
    ///
    /// # Errors
    /// The database, or a row that does not open under the athlete's key.
    pub async fn list(&mut self, after: Option<Position>, limit: u32) -> Result<Vec<Summary>, StoreError> {
        let rows: Vec<(uuid::Uuid, Sealed)> = sqlx::query_as(
            "select workout_id, sealed from workout_summary \
             where subject = $1 and ($2::timestamptz is null or (started_at, workout_id) < ($2, $3)) \
             order by started_at desc, workout_id desc limit $4",
        )
        .bind(self.key.subject())
        .bind(after.map(|position| position.started_at.to_sqlx()))
        .bind(after.map(|position| position.workout_id.0))
        .bind(i64::from(limit.min(MOST_LISTED + 1)))
        .fetch_all(self.tx.conn())
        .await?;
        rows.into_iter()
            .map(|(id, sealed)| Ok(self.key.open_json(&summary_place(WorkoutId(id)), &sealed)?))
            .collect()
    }
}
