//! The fence: the epoch at which a tenant may be written in this database. It follows the policy and only grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_policy::{Epoch, TenantId};
use tokio_util::sync::CancellationToken;

use super::{Error, Pool, TenantTx};
use crate::policy_feed::PolicyFeed;
use crate::ready::Readiness;
use crate::residency::Homes;

/// Raises a tenant's fence and returns where it now is. When this returns, no transaction of an older epoch can commit.
///
/// # Errors
/// When the database cannot be reached, or an old transaction does not end in time; repeat it.
pub async fn raise_fence(pool: &Pool, tenant: &TenantId, epoch: Epoch) -> Result<Epoch, Error> {
    let fence: i64 = sqlx::query_scalar("select meridian_raise_fence($1, $2)")
        .bind(tenant.as_str())
        .bind(epoch.as_i64())
        .fetch_one(pool)
        .await?;
    Ok(Epoch(u64::try_from(fence).unwrap_or_default()))
}

/// Keeps every fence where the policy says, from the start on. Until it has once succeeded the process is not ready.
pub(crate) async fn keep_fences(pool: Pool, feed: PolicyFeed, readiness: Readiness, stop: CancellationToken) {
    /// Nothing applied yet.
    const NONE: u64 = u64::MAX;
    let applied = Arc::new(AtomicU64::new(NONE));
    let seen = Arc::clone(&applied);
    readiness.register("fences", move || {
        let revision = seen.load(Ordering::Relaxed);
        std::future::ready(if revision == NONE {
            Err("the tenants' fences have not been raised yet".to_owned())
        } else {
            Ok(format!("as of revision {revision}"))
        })
    });
    let mut changes = feed.subscribe();
    loop {
        let policy = Arc::clone(&changes.borrow_and_update());
        let mut complete = true;
        for home in &policy.homes {
            if let Err(error) = raise_fence(&pool, &home.tenant, home.epoch).await {
                tracing::warn!(tenant = %home.tenant, epoch = home.epoch.0, %error, "a fence could not be raised; trying again");
                complete = false;
            }
        }
        if complete {
            applied.store(policy.revision.0, Ordering::Relaxed);
        }
        // Once a minute even without a change: the database may have been restored from a backup.
        let again = if complete {
            Duration::from_secs(60)
        } else {
            Duration::from_millis(500)
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(again) => {}
        }
    }
}

/// Days that the inbox remembers: longer than any topic keeps an event that could be delivered again.
const INBOX_DAYS: i32 = 91;
/// Hours that an answer is kept for a repeated request.
const IDEMPOTENCY_HOURS: i32 = 24;

/// Forgets what is too old to matter, tenant by tenant, once an hour.
pub(crate) async fn keep_pruned(pool: Pool, homes: Homes, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_secs(3600));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick comes at once; the start of a process is busy enough.
    tick.tick().await;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        for scope in homes.scopes() {
            let pruned = async {
                let mut tx = TenantTx::begin(&pool, &scope).await?;
                sqlx::query("delete from inbox where handled_at < now() - make_interval(days => $1)")
                    .bind(INBOX_DAYS)
                    .execute(tx.conn())
                    .await?;
                sqlx::query("delete from idempotency where created_at < now() - make_interval(hours => $1)")
                    .bind(IDEMPOTENCY_HOURS)
                    .execute(tx.conn())
                    .await?;
                tx.commit().await
            };
            if let Err(error) = pruned.await {
                tracing::warn!(tenant = %scope.tenant(), %error, "old marks could not be pruned; the next hour tries again");
            }
        }
    }
}
