//! Coordinates go when their retention ends: first the key of each athlete's month, which makes every copy unreadable,
//! backups included; then the rows; then the month's partition.
//!
//! Any process may do it, several at once too: destroying a destroyed key and deleting deleted rows changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use meridian_kit::StartError;
use meridian_kit::db::{Pool, Scope, TenantTx};
use meridian_kit::policy_feed::PolicyFeed;
use meridian_kit::subject_keys::{KeyScope, Keyring};
use meridian_policy::{DataClass, RegionPolicy, TenantId};
use tokio_util::sync::CancellationToken;

use crate::domain::retention::Month;
use crate::store;

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(3600);
/// After the start, which is busy enough.
const FIRST: Duration = Duration::from_secs(30);
/// What the product promises where a policy says nothing: six months.
const DEFAULT_DAYS: u32 = 183;
/// Athletes at once.
const SOME: i64 = 200;

/// Goes round until the process stops.
///
/// # Errors
/// None: what fails is tried again in the next round.
pub async fn sweep(pool: Pool, keyring: Keyring, feed: PolicyFeed, stop: CancellationToken) -> Result<(), StartError> {
    let mut pause = FIRST;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let policy = feed.current();
        if stop
            .run_until_cancelled(round(&pool, &keyring, &policy, today))
            .await
            .is_none()
        {
            break;
        }
        pause = EVERY;
    }
    Ok(())
}

/// Why a tenant's round ended early.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Database(#[from] meridian_kit::db::Error),
    #[error(transparent)]
    Keys(#[from] meridian_kit::subject_keys::Error),
}

/// One round over every tenant at home here, as of `today`; says how many chunks went.
pub async fn round(pool: &Pool, keyring: &Keyring, policy: &RegionPolicy, today: Date) -> u64 {
    let months = match store::months(pool).await {
        Ok(months) => months,
        Err(error) => {
            tracing::warn!(%error, "the months could not be listed; the next round tries again");
            return 0;
        }
    };
    let mut deleted = 0;
    for home in &policy.homes {
        let days = days(&home.retention, &policy.retention);
        let scope = Scope::new(home.tenant.clone(), home.epoch);
        for month in months.iter().filter(|month| month.is_expired(days, today)) {
            match expire(pool, keyring, &home.tenant, &scope, *month).await {
                Ok(count) => deleted += count,
                Err(error) => {
                    tracing::warn!(tenant = %home.tenant, %error, "expired samples could not all be deleted; the next round goes on");
                }
            }
        }
    }
    // Only a partition that nobody's retention needs any more is empty for good; the function looks again.
    let longest = policy
        .homes
        .iter()
        .map(|home| days(&home.retention, &policy.retention))
        .max()
        .unwrap_or(DEFAULT_DAYS);
    for month in months.into_iter().filter(|month| month.is_expired(longest, today)) {
        if let Err(error) = store::drop_month(pool, month).await {
            tracing::warn!(%error, "an expired month's partition could not be dropped; the next round tries again");
        }
    }
    if deleted > 0 {
        tracing::info!(count = deleted, "expired samples were deleted and their keys destroyed");
    }
    deleted
}

async fn expire(
    pool: &Pool,
    keyring: &Keyring,
    tenant: &TenantId,
    scope: &Scope,
    month: Month,
) -> Result<u64, SweepError> {
    let mut deleted = 0;
    loop {
        let mut tx = TenantTx::begin(pool, scope).await?;
        let expired = store::expired(&mut tx, month, SOME).await?;
        tx.commit().await?;
        if expired.is_empty() {
            return Ok(deleted);
        }
        let key = KeyScope::Location {
            year: month.year,
            month: month.month,
        };
        for one in &expired {
            keyring.destroy(tenant, &one.subject, Some(&key)).await?;
        }
        let subjects: Vec<_> = expired.iter().map(|one| one.subject).collect();
        let mut tx = TenantTx::begin(pool, scope).await?;
        deleted += store::delete_expired(&mut tx, month, &subjects).await?;
        tx.commit().await?;
    }
}

/// A chunk holds places and heart rates: the shorter of both retentions counts. The tenant's own outranks the region's.
fn days(tenant: &BTreeMap<DataClass, u32>, region: &BTreeMap<DataClass, u32>) -> u32 {
    let of = |class| tenant.get(&class).or_else(|| region.get(&class)).copied();
    let location = of(DataClass::Location).unwrap_or(DEFAULT_DAYS);
    of(DataClass::Health).map_or(location, |health| health.min(location))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_retention_of_what_a_chunk_holds_counts() {
        let none = BTreeMap::new();
        let region = BTreeMap::from([(DataClass::Location, 180), (DataClass::Health, 90)]);
        let tenant = BTreeMap::from([(DataClass::Health, 365)]);
        assert_eq!(days(&none, &none), DEFAULT_DAYS);
        assert_eq!(days(&none, &region), 90);
        assert_eq!(days(&tenant, &region), 180);
    }
}
