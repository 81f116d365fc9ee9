//! What was delivered.

use std::time::Duration;

use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::db::{self, TenantTx};
use sqlx::Row as _;
use uuid::Uuid;

/// A promotion in an athlete's inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The delivery.
    pub id: Uuid,
    /// What the athlete reads first.
    pub title: String,
    /// What the athlete reads then.
    pub body: String,
    /// When.
    pub delivered_at: Timestamp,
}

/// Writes the delivery down and ends its trying. `false`: it was delivered before.
pub async fn record(tx: &mut TenantTx, id: Uuid, campaign: Uuid, subject: SubjectId) -> Result<bool, db::Error> {
    let done = sqlx::query(
        "insert into delivery (id, campaign, subject) values ($1, $2, $3) on conflict on constraint delivery_once do nothing",
    )
    .bind(id)
    .bind(campaign)
    .bind(subject)
    .execute(tx.conn())
    .await?;
    sqlx::query("delete from pending where campaign = $1 and subject = $2")
        .bind(campaign)
        .bind(subject)
        .execute(tx.conn())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets no statement of the transaction take longer than this: waiting for a lock must not outlive a permit.
pub async fn limit_time(tx: &mut TenantTx, most: Duration) -> Result<(), db::Error> {
    let most = most.as_millis().max(1).to_string();
    sqlx::query("select set_config('statement_timeout', $1, true)")
        .bind(most)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// A page of an athlete's inbox, newest first, older than `before` (time and id).
pub async fn inbox(
    tx: &mut TenantTx,
    subject: SubjectId,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Delivered>, db::Error> {
    let rows = sqlx::query(
        "select d.id, c.title, c.body, d.delivered_at from delivery d join campaign c on c.id = d.campaign \
         where d.subject = $1 and ($2::uuid is null or (d.delivered_at, d.id) < \
             (select l.delivered_at, l.id from delivery l where l.id = $2 and l.subject = $1)) \
         order by d.delivered_at desc, d.id desc limit $3",
    )
    .bind(subject)
    .bind(before)
    .bind(limit)
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let delivered_at: jiff_sqlx::Timestamp = row.try_get("delivered_at")?;
            Ok(Delivered {
                id: row.try_get("id")?,
                title: row.try_get("title")?,
                body: row.try_get("body")?,
                delivered_at: delivered_at.to_jiff(),
            })
        })
        .collect()
}
