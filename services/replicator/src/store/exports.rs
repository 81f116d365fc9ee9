//! The exporter's edges and the deliveries that wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff_sqlx::Timestamp as SqlTimestamp;
use meridian_kit::db::{TenantTx, room_for};
use meridian_kit::event::Event;
use meridian_kit::kafka::Consumed;
use meridian_policy::{CompiledEdge, CutEdge, EdgeId, PolicyRevision, RegionName, Rule};
use uuid::Uuid;

use super::StoreError;
use crate::domain::delivery::Waiting;
use crate::domain::edges::EdgeState;

/// An edge that leaves from here, as far as it has come.
#[derive(Clone, Debug)]
pub struct ExportEdge {
    /// Which.
    pub edge: EdgeId,
    /// Where to.
    pub to: RegionName,
    /// How far.
    pub state: EdgeState,
    /// The rule that opened or cut it.
    pub rule: String,
    /// Of the policy that opened or cut it.
    pub revision: PolicyRevision,
    /// The region operator knows.
    pub reported: bool,
    /// Copies that the importer says it has deleted.
    pub purged: u64,
    /// Where from.
    pub sinks: Vec<String>,
}

fn wrong(column: &'static str) -> StoreError {
    StoreError::Row {
        table: "export_edge",
        column,
    }
}

/// Every edge that ever left from here.
///
/// # Errors
/// The database.
pub async fn edges(tx: &mut TenantTx) -> Result<BTreeMap<EdgeId, ExportEdge>, StoreError> {
    type Row = (String, String, String, String, i64, bool, Option<i64>, Vec<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "select edge, to_region, state, rule, revision, reported, purged, sinks from export_edge order by edge",
    )
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|(edge, to, state, rule, revision, reported, purged, sinks)| {
            let edge: EdgeId = edge.parse().map_err(|_| wrong("edge"))?;
            let to = to.parse().map_err(|_| wrong("to_region"))?;
            let state = EdgeState::parse(&state).ok_or_else(|| wrong("state"))?;
            let purged = u64::try_from(purged.unwrap_or_default()).unwrap_or_default();
            let revision = PolicyRevision(u64::try_from(revision).unwrap_or_default());
            Ok((
                edge.clone(),
                ExportEdge {
                    edge,
                    to,
                    state,
                    rule,
                    revision,
                    reported,
                    purged,
                    sinks,
                },
            ))
        })
        .collect()
}

/// Opens an edge, for the first time or after a cut. What waited for that is due.
///
/// # Errors
/// The database.
pub async fn open(tx: &mut TenantTx, edge: &CompiledEdge, revision: PolicyRevision) -> Result<(), StoreError> {
    sqlx::query(
        "insert into export_edge (edge, to_region, state, rule, revision) values ($1, $2, 'open', $3, $4) \
         on conflict (tenant, edge) do update set to_region = excluded.to_region, state = 'open', rule = excluded.rule, \
         revision = excluded.revision, changed_at = now(), purged = null, sinks = '{}', reported = false \
         where export_edge.state = 'cut' and export_edge.revision <= excluded.revision",
    )
    .bind(edge.id.as_str())
    .bind(edge.to.as_str())
    .bind(&edge.rule)
    .bind(revision.as_i64())
    .execute(tx.conn())
    .await?;
    sqlx::query("update delivery set next_attempt = now() where edge = $1 and waits_for = $2 and next_attempt > now()")
        .bind(edge.id.as_str())
        .bind(Waiting::NotInForce.as_str())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Marks an open edge as being cut. False: it was not open.
///
/// # Errors
/// The database.
pub async fn cut(tx: &mut TenantTx, edge: &EdgeId, rule: Rule, revision: PolicyRevision) -> Result<bool, StoreError> {
    let cut = sqlx::query(
        "update export_edge set state = 'cutting', rule = $2, revision = $3, changed_at = now(), reported = false \
         where edge = $1 and state = 'open'",
    )
    .bind(edge.as_str())
    .bind(rule.as_str())
    .bind(revision.as_i64())
    .execute(tx.conn())
    .await?;
    Ok(cut.rows_affected() == 1)
}

/// Sees to it that the end of an edge is reported (again). One that was never open here is cut like any other, so that its
/// importer is asked too, and nobody opens it by an older policy.
///
/// # Errors
/// The database.
pub async fn close(tx: &mut TenantTx, edge: &CutEdge, revision: PolicyRevision) -> Result<(), StoreError> {
    sqlx::query(
        "insert into export_edge (edge, to_region, state, rule, revision) values ($1, $2, 'cutting', $3, $4) \
         on conflict (tenant, edge) do update set reported = false where export_edge.state = 'cut'",
    )
    .bind(edge.id.as_str())
    .bind(edge.to.as_str())
    .bind(Rule::NoEdge.as_str())
    .bind(revision.as_i64())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Records the importer's acknowledgement: nothing of the edge is left there.
///
/// # Errors
/// The database.
pub async fn finish_cut(tx: &mut TenantTx, edge: &EdgeId, purged: u64, sinks: &[String]) -> Result<(), StoreError> {
    sqlx::query(
        "update export_edge set state = 'cut', purged = $2, sinks = $3, changed_at = now(), reported = false \
         where edge = $1 and state = 'cutting'",
    )
    .bind(edge.as_str())
    .bind(i64::try_from(purged).unwrap_or(i64::MAX))
    .bind(sinks)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The region operator knows what the edge has come to.
///
/// # Errors
/// The database.
pub async fn mark_reported(tx: &mut TenantTx, edge: &EdgeId, state: EdgeState) -> Result<(), StoreError> {
    sqlx::query("update export_edge set reported = true where edge = $1 and state = $2")
        .bind(edge.as_str())
        .bind(state.as_str())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// A delivery that was taken, but for its event.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// See [`Delivery`], as all of these.
    pub copy_id: Uuid,
    queued_at: Timestamp,
    attempts: u32,
    waited_for: Option<String>,
}

/// A delivery that is due.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The id under which the copy leaves.
    pub copy_id: Uuid,
    /// The event as it was consumed.
    pub event: Arc<Event>,
    /// Since when it waits.
    pub queued_at: Timestamp,
    /// How often it was tried, and each time was left waiting for the same.
    pub attempts: u32,
    /// What for (the word of a [`Waiting`]); none before the first attempt.
    pub waited_for: Option<String>,
}

/// Queues events for edges, as the bytes that they came as; each once, however often it is consumed. Returns the ids under
/// which their copies leave: one that was queued before goes by the id that it has.
///
/// # Errors
/// The database.
pub async fn queue(tx: &mut TenantTx, events: &[(&EdgeId, Consumed<'_>)]) -> Result<Vec<Uuid>, StoreError> {
    // Random, not ordered by time: the copy's id must not say when the original was made.
    let copies: Vec<Uuid> = events.iter().map(|_| Uuid::new_v4()).collect();
    let edges: Vec<&str> = events.iter().map(|(edge, _)| edge.as_str()).collect();
    let sources: Vec<Uuid> = events.iter().map(|(_, consumed)| consumed.event.id).collect();
    let bytes: Vec<&[u8]> = events.iter().map(|(_, consumed)| consumed.bytes).collect();
    let query = "insert into delivery (copy_id, edge, source_event, event) \
                 select * from unnest($1::uuid[], $2::text[], $3::uuid[], $4::bytea[]) \
                 on conflict (tenant, edge, source_event) do nothing";
    sqlx::query_with(query, room_for(&bytes))
        .bind(&copies)
        .bind(edges)
        .bind(sources)
        .bind(bytes)
        .execute(tx.conn())
        .await?;
    Ok(copies)
}

/// Makes every delivery due that waits, whatever for and however long still; not those that are taken.
///
/// # Errors
/// The database.
pub async fn resume(tx: &mut TenantTx) -> Result<(), StoreError> {
    sqlx::query("update delivery set next_attempt = now() where waits_for is not null and next_attempt > now()")
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Edges that have deliveries due. While the policy is known to be `current`, what waits for nothing else is due as well.
///
/// The word that these wait for is written out, here and in [`claim`]: a parameter could be another, so no plan that is made
/// without it could use their index.
///
/// # Errors
/// The database.
pub async fn edges_due(tx: &mut TenantTx, current: bool) -> Result<Vec<EdgeId>, StoreError> {
    let edges: Vec<String> = sqlx::query_scalar(EDGES_DUE).bind(current).fetch_all(tx.conn()).await?;
    edges
        .into_iter()
        .map(|edge| edge.parse().map_err(|_| wrong("edge")))
        .collect()
}

/// The statement of [`edges_due`]. Public so that the database can be asked how it goes about it.
pub const EDGES_DUE: &str = "select edge from delivery where next_attempt <= now() \
                         union select edge from delivery where $1 and waits_for = 'policy-stale'";

/// Takes deliveries of an edge that are due (see [`edges_due`]), the oldest first, for `hold`: another exporter, or this one
/// after a crash, takes them again only then.
///
/// # Errors
/// The database.
pub async fn claim(
    tx: &mut TenantTx,
    edge: &EdgeId,
    current: bool,
    limit: usize,
    hold: Duration,
) -> Result<Vec<Claimed>, StoreError> {
    // One row of columns: a row of its own for each delivery costs this side more than reading what is in it.
    type Columns = (Vec<Uuid>, Vec<SqlTimestamp>, Vec<i32>, Vec<Option<String>>);
    let (copies, queued, attempts, waited): Columns = sqlx::query_as(CLAIM)
        .bind(edge.as_str())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(hold.as_secs_f64())
        .bind(current)
        .fetch_one(tx.conn())
        .await?;
    let rows = copies.into_iter().zip(queued).zip(attempts).zip(waited);
    let claimed = rows.map(|(((copy_id, queued_at), attempts), waited_for)| Claimed {
        copy_id,
        queued_at: queued_at.to_jiff(),
        attempts: u32::try_from(attempts).unwrap_or_default(),
        waited_for,
    });
    Ok(claimed.collect())
}

/// Puts to deliveries their events: those that are at hand, and all others from the queue.
///
/// # Errors
/// The database, or an event that cannot be read.
pub async fn with_events(
    tx: &mut TenantTx,
    claimed: Vec<Claimed>,
    at_hand: impl Fn(Uuid) -> Option<Arc<Event>>,
) -> Result<Vec<Delivery>, StoreError> {
    let found: Vec<Option<Arc<Event>>> = claimed.iter().map(|claimed| at_hand(claimed.copy_id)).collect();
    let missing = claimed.iter().zip(&found).filter(|(_, event)| event.is_none());
    let missing: Vec<Uuid> = missing.map(|(claimed, _)| claimed.copy_id).collect();
    let mut read = if missing.is_empty() {
        HashMap::new()
    } else {
        events(tx, &missing).await?
    };
    let deliveries = claimed.into_iter().zip(found).map(|(claimed, event)| {
        let Claimed {
            copy_id,
            queued_at,
            attempts,
            waited_for,
        } = claimed;
        Ok(Delivery {
            copy_id,
            // Claimed deliveries are locked: none ends before its event is read.
            event: event.or_else(|| read.remove(&copy_id)).ok_or(UNREADABLE)?,
            queued_at,
            attempts,
            waited_for,
        })
    });
    deliveries.collect()
}

const UNREADABLE: StoreError = StoreError::Row {
    table: "delivery",
    column: "event",
};

async fn events(tx: &mut TenantTx, copies: &[Uuid]) -> Result<HashMap<Uuid, Arc<Event>>, StoreError> {
    let query = "select coalesce(array_agg(copy_id), '{}'), coalesce(array_agg(event), '{}') \
                 from delivery where copy_id = any($1)";
    let (copies, events): (Vec<Uuid>, Vec<Vec<u8>>) = sqlx::query_as(query).bind(copies).fetch_one(tx.conn()).await?;
    let read = |(copy, event): (Uuid, Vec<u8>)| {
        let event = Event::from_bytes(&event).map_err(|_| UNREADABLE)?;
        Ok((copy, Arc::new(event)))
    };
    copies.into_iter().zip(events).map(read).collect()
}

/// The statement of [`claim`]. Each kind is locked where it is chosen, so that a delivery which another exporter took
/// meanwhile is looked at again and left out; of both together the oldest are taken.
pub const CLAIM: &str = "with due as (select copy_id, queued_at, waits_for from delivery where edge = $1 and next_attempt <= now() \
                  order by queued_at limit $2 for update skip locked), \
     stale as (select copy_id, queued_at, waits_for from delivery \
               where $4 and edge = $1 and waits_for = 'policy-stale' and next_attempt > now() \
               order by queued_at limit $2 for update skip locked), \
     taken as (select * from due union all select * from stale order by queued_at limit $2), \
     claimed as (update delivery d set next_attempt = now() + make_interval(secs => $3), waits_for = null from taken \
                 where d.copy_id = taken.copy_id \
                 returning d.copy_id, d.queued_at, d.attempts, taken.waits_for) \
     select coalesce(array_agg(copy_id), '{}'), coalesce(array_agg(queued_at), '{}'), \
     coalesce(array_agg(attempts), '{}'), coalesce(array_agg(waits_for), '{}') from claimed";

/// Lets deliveries wait: each longer each time that it is for the same, anew when it is for something else.
///
/// # Errors
/// The database.
pub async fn postpone(tx: &mut TenantTx, deliveries: &[(&Delivery, Waiting)]) -> Result<(), StoreError> {
    let copies: Vec<Uuid> = deliveries.iter().map(|(delivery, _)| delivery.copy_id).collect();
    let words: Vec<&str> = deliveries.iter().map(|(_, waiting)| waiting.as_str()).collect();
    let attempts: Vec<u32> = deliveries
        .iter()
        .map(|(delivery, waiting)| match delivery.waited_for.as_deref() {
            Some(word) if word == waiting.as_str() => delivery.attempts.saturating_add(1),
            _ => 1,
        })
        .collect();
    let pauses: Vec<f64> = deliveries
        .iter()
        .zip(&attempts)
        .map(|((_, waiting), attempts)| waiting.pause(*attempts).as_secs_f64())
        .collect();
    let attempts: Vec<i32> = attempts
        .into_iter()
        .map(|attempts| i32::try_from(attempts).unwrap_or(i32::MAX))
        .collect();
    sqlx::query(
        "update delivery d set attempts = w.attempts, next_attempt = now() + make_interval(secs => w.pause), \
         waits_for = w.word \
         from unnest($1::uuid[], $2::integer[], $3::float8[], $4::text[]) as w (copy_id, attempts, pause, word) \
         where d.copy_id = w.copy_id",
    )
    .bind(copies)
    .bind(attempts)
    .bind(pauses)
    .bind(words)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// How many deliveries each edge has, due or not.
///
/// # Errors
/// The database.
pub async fn waiting(tx: &mut TenantTx) -> Result<BTreeMap<EdgeId, u64>, StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as("select edge, count(*) from delivery group by edge")
        .fetch_all(tx.conn())
        .await?;
    rows.into_iter()
        .map(|(edge, count)| {
            let edge = edge.parse().map_err(|_| wrong("edge"))?;
            Ok((edge, u64::try_from(count).unwrap_or_default()))
        })
        .collect()
}

/// Forgets deliveries that have ended, and says how many were there: what another exporter has ended meanwhile is not this
/// one's to record.
///
/// # Errors
/// The database.
pub async fn end(tx: &mut TenantTx, copies: &[Uuid]) -> Result<u64, StoreError> {
    let ended = sqlx::query("delete from delivery where copy_id = any($1)")
        .bind(copies)
        .execute(tx.conn())
        .await?;
    Ok(ended.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_policy_is_found_by_the_word_that_it_is_marked_with() {
        let marked = format!("waits_for = '{}'", Waiting::PolicyStale.as_str());
        let index = include_str!("../../migrations/101_delivery_waits_for.sql");
        for text in [EDGES_DUE, CLAIM, index] {
            assert!(text.contains(&marked), "{marked} is not in: {text}");
        }
    }
}
