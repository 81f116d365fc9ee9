//! Partitions. Making and dropping tables is the owner's; the service may only ask (see the migration).

use meridian_kit::db::{self, Pool};

use super::{first_day, parse_month};
use crate::domain::retention::Month;

/// Makes a month's partition if it is not there.
///
/// # Errors
/// When the month is not near now, or the database cannot be reached.
pub async fn make_month(pool: &Pool, month: Month) -> Result<(), db::Error> {
    sqlx::query("select telemetry_make_month($1::text::date)")
        .bind(first_day(month))
        .execute(pool)
        .await?;
    Ok(())
}

/// The months that have a partition.
///
/// # Errors
/// When the database cannot be reached.
pub async fn months(pool: &Pool) -> Result<Vec<Month>, db::Error> {
    let days: Vec<String> = sqlx::query_scalar("select m::text from telemetry_months() m order by m")
        .fetch_all(pool)
        .await?;
    Ok(days.iter().filter_map(|day| parse_month(day)).collect())
}

/// Drops a month's partition if it is old and empty, and says whether it did.
///
/// # Errors
/// When the database cannot be reached.
pub async fn drop_month(pool: &Pool, month: Month) -> Result<bool, db::Error> {
    Ok(sqlx::query_scalar("select telemetry_drop_month($1::text::date)")
        .bind(first_day(month))
        .fetch_one(pool)
        .await?)
}
