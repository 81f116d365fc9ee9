//! Objections and restrictions. The caller holds the subject's gate where it changes one, or goes by one.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use jiff_sqlx::{Timestamp as SqlTimestamp, ToSqlx as _};
use meridian_kit::SubjectId;
use meridian_kit::db::{Error, TenantTx};
use serde::Serialize;
use uuid::Uuid;

use crate::domain::limit::{Limit, LimitStanding, Limits};

/// A restriction's purpose, which is every one.
const EVERY_PURPOSE: &str = "";

/// A limit as the subject is shown it.
#[derive(Clone, Debug, Serialize)]
pub struct LimitEntry {
    /// The purpose that is objected to; none for a restriction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// Whether it holds.
    pub in_force: bool,
    /// How often it has changed.
    pub version: i64,
    /// When it changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Timestamp>,
}

impl LimitEntry {
    /// A limit as it stands.
    #[must_use]
    pub fn of(limit: Limit, standing: LimitStanding, changed_at: Option<Timestamp>) -> Self {
        Self {
            purpose: limit.purpose().map(|purpose| purpose.to_string()),
            in_force: standing.in_force,
            version: i64::try_from(standing.version).unwrap_or(i64::MAX),
            changed_at,
        }
    }
}

fn word(limit: Limit) -> &'static str {
    limit.purpose().map_or(EVERY_PURPOSE, |purpose| purpose.as_str())
}

/// Where a limit stands.
///
/// # Errors
/// When the database cannot be reached.
pub async fn limit(
    tx: &mut TenantTx,
    subject: SubjectId,
    limit: Limit,
) -> Result<(LimitStanding, Option<Timestamp>), Error> {
    let query = "select in_force, version, changed_at from processing_limit where subject = $1 and purpose = $2";
    let row: Option<(bool, i64, SqlTimestamp)> = sqlx::query_as(query)
        .bind(subject)
        .bind(word(limit))
        .fetch_optional(tx.conn())
        .await?;
    Ok(row.map_or_else(Default::default, |(in_force, version, changed_at)| {
        let standing = LimitStanding {
            in_force,
            version: u64::try_from(version).unwrap_or_default(),
        };
        (standing, Some(changed_at.to_jiff()))
    }))
}

/// Stores where a limit stands now.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn record_limit(
    tx: &mut TenantTx,
    subject: SubjectId,
    limit: Limit,
    standing: LimitStanding,
    at: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "insert into processing_limit (subject, purpose, in_force, version, changed_at) values ($1, $2, $3, $4, $5) \
         on conflict (tenant, subject, purpose) do update set in_force = excluded.in_force, \
         version = excluded.version, changed_at = excluded.changed_at",
    )
    .bind(subject)
    .bind(word(limit))
    .bind(standing.in_force)
    .bind(i64::try_from(standing.version).unwrap_or(i64::MAX))
    .bind(at.to_sqlx())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// What of each subject is in force. Who has nothing in force is not in the answer.
///
/// # Errors
/// When the database cannot be reached.
pub async fn limits_in_force(
    tx: &mut TenantTx,
    subjects: &BTreeSet<SubjectId>,
) -> Result<HashMap<SubjectId, Limits>, Error> {
    let subjects: Vec<Uuid> = subjects.iter().map(|subject| subject.as_uuid()).collect();
    let query = "select subject, purpose from processing_limit where subject = any($1) and in_force";
    let rows: Vec<(SubjectId, String)> = sqlx::query_as(query).bind(subjects).fetch_all(tx.conn()).await?;
    let mut found: HashMap<SubjectId, Limits> = HashMap::new();
    for (subject, purpose) in rows {
        let limits = found.entry(subject).or_default();
        if purpose == EVERY_PURPOSE {
            limits.restricted = true;
        } else {
            limits.objects_to.insert(purpose);
        }
    }
    Ok(found)
}

/// Every objection that the subject ever made, as it stands.
///
/// # Errors
/// When the database cannot be reached.
pub async fn objections(tx: &mut TenantTx, subject: SubjectId) -> Result<Vec<LimitEntry>, Error> {
    let query = "select purpose, in_force, version, changed_at from processing_limit \
                 where subject = $1 and purpose <> $2 order by purpose";
    let rows: Vec<(String, bool, i64, SqlTimestamp)> = sqlx::query_as(query)
        .bind(subject)
        .bind(EVERY_PURPOSE)
        .fetch_all(tx.conn())
        .await?;
    let entry = |(purpose, in_force, version, changed_at): (String, bool, i64, SqlTimestamp)| LimitEntry {
        purpose: Some(purpose),
        in_force,
        version,
        changed_at: Some(changed_at.to_jiff()),
    };
    Ok(rows.into_iter().map(entry).collect())
}
