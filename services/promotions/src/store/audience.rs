//! Athletes as far as we know them, and the deliveries to be tried.

use std::time::Duration;

use meridian_kit::SubjectId;
use meridian_kit::db::{self, TenantTx};
use sqlx::Row as _;
use uuid::Uuid;

use super::lock_audience;
use crate::domain::audience::{Heard, Matter};
use crate::domain::campaign::{Segment, Sport};

/// An athlete's row; the kinds of sport are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredAthlete {
    /// marketing/promotion.
    pub promotion: Heard,
    /// marketing/workout-summary.
    pub workouts: Heard,
    /// Kinds of sport, sealed.
    pub sealed_sports: Option<Vec<u8>>,
}

/// A delivery that is being tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The campaign.
    pub campaign: Uuid,
    /// To whom.
    pub subject: SubjectId,
    /// For whom the campaign is.
    pub segment: Segment,
    /// The reasons to ask, counted.
    pub wakeups: i64,
    /// From 1.
    pub attempts: u32,
}

/// Reads an athlete's row to change it: others wait until the transaction ends, and so do launches.
pub async fn lock(tx: &mut TenantTx, subject: SubjectId) -> Result<StoredAthlete, db::Error> {
    lock_audience(tx, false).await?;
    sqlx::query("insert into athlete (subject) values ($1) on conflict do nothing")
        .bind(subject)
        .execute(tx.conn())
        .await?;
    let row = sqlx::query(
        "select promotion_version, promotion, workouts_version, workouts, sealed_sports from athlete \
         where subject = $1 for update",
    )
    .bind(subject)
    .fetch_one(tx.conn())
    .await?;
    Ok(StoredAthlete {
        promotion: Heard {
            version: row.try_get("promotion_version")?,
            granted: row.try_get("promotion")?,
        },
        workouts: Heard {
            version: row.try_get("workouts_version")?,
            granted: row.try_get("workouts")?,
        },
        sealed_sports: row.try_get("sealed_sports")?,
    })
}

/// Whether we keep anything of the athlete's workouts; a look that makes no row.
pub async fn keeps_workouts(tx: &mut TenantTx, subject: SubjectId) -> Result<bool, db::Error> {
    let kept: Option<bool> = sqlx::query_scalar("select promotion and workouts from athlete where subject = $1")
        .bind(subject)
        .fetch_optional(tx.conn())
        .await?;
    Ok(kept.unwrap_or(false))
}

/// Writes an athlete's row back. Call it while [`lock`] holds.
pub async fn store(tx: &mut TenantTx, subject: SubjectId, athlete: &StoredAthlete) -> Result<(), db::Error> {
    sqlx::query(
        "update athlete set promotion_version = $2, promotion = $3, workouts_version = $4, workouts = $5, \
         sealed_sports = $6 where subject = $1",
    )
    .bind(subject)
    .bind(athlete.promotion.version)
    .bind(athlete.promotion.granted)
    .bind(athlete.workouts.version)
    .bind(athlete.workouts.granted)
    .bind(athlete.sealed_sports.as_deref())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Forgets an erased athlete, but for what was heard of the consents: a late event must not bring anything back.
pub async fn forget(tx: &mut TenantTx, subject: SubjectId) -> Result<(), db::Error> {
    sqlx::query("update athlete set promotion = false, workouts = false, sealed_sports = null where subject = $1")
        .bind(subject)
        .execute(tx.conn())
        .await?;
    sqlx::query("delete from pending where subject = $1")
        .bind(subject)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// The reachable athletes after `after`, in order.
pub async fn reachable(
    tx: &mut TenantTx,
    after: Option<SubjectId>,
    limit: i64,
) -> Result<Vec<(SubjectId, bool, Option<Vec<u8>>)>, db::Error> {
    let rows = sqlx::query(
        "select subject, workouts, sealed_sports from athlete where promotion and ($1::uuid is null or subject > $1) \
         order by subject limit $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok((
                row.try_get("subject")?,
                row.try_get("workouts")?,
                row.try_get("sealed_sports")?,
            ))
        })
        .collect()
}

/// A new reason to ask about these athletes for one campaign.
pub async fn ask_for(tx: &mut TenantTx, campaign: Uuid, subjects: &[SubjectId]) -> Result<(), db::Error> {
    let subjects: Vec<Uuid> = subjects.iter().map(SubjectId::as_uuid).collect();
    sqlx::query(
        "insert into pending (campaign, subject) select $1, s from unnest($2::uuid[]) s \
         where not exists (select 1 from delivery d where d.campaign = $1 and d.subject = s) \
         on conflict (tenant, campaign, subject) do update set wakeups = pending.wakeups + 1, due = now()",
    )
    .bind(campaign)
    .bind(&subjects)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// A new reason to ask about one athlete for every open campaign that is for them: all of those without a sport, and those
/// for `sports`.
pub async fn ask_about(
    tx: &mut TenantTx,
    subject: SubjectId,
    everybody: bool,
    sports: &[Sport],
) -> Result<(), db::Error> {
    let sports: Vec<&str> = sports.iter().map(Sport::as_str).collect();
    sqlx::query(
        "insert into pending (campaign, subject) select c.id, $1 from campaign c \
         where c.state <> 'draft' and (($2 and c.sport_type is null) or c.sport_type = any($3)) \
         and not exists (select 1 from delivery d where d.campaign = c.id and d.subject = $1) \
         on conflict (tenant, campaign, subject) do update set wakeups = pending.wakeups + 1, due = now()",
    )
    .bind(subject)
    .bind(everybody)
    .bind(&sports)
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Takes back what was to be delivered and rests on a consent that is withdrawn.
pub async fn take_back(tx: &mut TenantTx, subject: SubjectId, matter: Matter) -> Result<u64, db::Error> {
    let only_by_sport = matter == Matter::Workouts;
    let done = sqlx::query(
        "delete from pending p using campaign c where c.id = p.campaign and p.subject = $1 \
         and (not $2 or c.sport_type is not null)",
    )
    .bind(subject)
    .bind(only_by_sport)
    .execute(tx.conn())
    .await?;
    Ok(done.rows_affected())
}

/// Takes deliveries that are due, for `hold` at most: when this process dies, another tries them after that.
pub async fn take_due(tx: &mut TenantTx, limit: i64, hold: Duration) -> Result<Vec<Attempt>, db::Error> {
    let rows = sqlx::query(
        "with due as ( \
             select p.campaign, p.subject, c.sport_type from pending p join campaign c on c.id = p.campaign \
             where p.due <= now() order by p.due limit $1 for update of p skip locked) \
         update pending p set due = now() + make_interval(secs => $2), attempts = least(p.attempts + 1, 1000000) \
         from due where p.campaign = due.campaign and p.subject = due.subject \
         returning p.campaign, p.subject, p.wakeups, p.attempts, due.sport_type",
    )
    .bind(limit)
    .bind(hold.as_secs_f64())
    .fetch_all(tx.conn())
    .await?;
    rows.into_iter()
        .map(|row| {
            let sport: Option<String> = row.try_get("sport_type")?;
            let sport = sport.map(|text| Sport::parse(&text)).transpose();
            let attempts: i32 = row.try_get("attempts")?;
            Ok(Attempt {
                campaign: row.try_get("campaign")?,
                subject: row.try_get("subject")?,
                segment: sport
                    .map_err(|_| db::Error::Statement("sport_type is none".to_owned()))?
                    .into(),
                wakeups: row.try_get("wakeups")?,
                attempts: u32::try_from(attempts).unwrap_or(1),
            })
        })
        .collect()
}

/// Drops a delivery that was refused, unless there was a new reason to ask since it was taken.
pub async fn drop_refused(tx: &mut TenantTx, attempt: &Attempt) -> Result<bool, db::Error> {
    let done = sqlx::query("delete from pending where campaign = $1 and subject = $2 and wakeups = $3")
        .bind(attempt.campaign)
        .bind(attempt.subject)
        .bind(attempt.wakeups)
        .execute(tx.conn())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Puts a delivery that could not be tried back for later.
pub async fn put_back(tx: &mut TenantTx, attempt: &Attempt, pause: Duration) -> Result<(), db::Error> {
    sqlx::query("update pending set due = now() + make_interval(secs => $3) where campaign = $1 and subject = $2")
        .bind(attempt.campaign)
        .bind(attempt.subject)
        .bind(pause.as_secs_f64())
        .execute(tx.conn())
        .await?;
    Ok(())
}
