//! The inbox: marks of what a consumer has handled, committed with what it did. [`crate::kafka::Handler`] has its events
//! marked for it; who takes them in bulk marks them here.

use uuid::Uuid;

use crate::db::{Error, TenantTx};

/// Marks events as handled by a consumer, and returns those that were not marked before.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn mark(tx: &mut TenantTx, consumer: &str, events: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    let query = "with fresh as (insert into inbox (consumer, event_id) select $1, * from unnest($2::uuid[]) \
                 on conflict do nothing returning event_id) \
                 select coalesce(array_agg(event_id), '{}') from fresh";
    Ok(sqlx::query_scalar(query)
        .bind(consumer)
        .bind(events)
        .fetch_one(tx.conn())
        .await?)
}
