//! Where consents stand and how they came to.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use jiff_sqlx::{Timestamp as SqlTimestamp, ToSqlx as _};
use meridian_kit::SubjectId;
use meridian_kit::db::{Error, TenantTx};
use meridian_kit::subject_keys::Sealed;
use serde::Serialize;
use uuid::Uuid;

use crate::domain::matter::Matter;
use crate::domain::standing::{Standing, State};

/// A standing with the receipt of its last change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Current {
    /// Where it stands.
    pub standing: Standing,
    /// Of the last change.
    pub receipt_id: Uuid,
}

/// A line of the list or of the history.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its place in the history; not shown.
    #[serde(skip)]
    pub id: i64,
    /// What for.
    pub purpose: String,
    /// Of what data.
    pub class: String,
    /// `granted` or `withdrawn`.
    pub state: String,
    /// From 1.
    pub version: i64,
    /// When.
    pub changed_at: Timestamp,
    /// `GET /api/v1/consents/receipts/{id}`.
    pub receipt_id: Uuid,
}

/// Makes this transaction the only one at the subject's gate until it ends.
///
/// # Errors
/// When the database cannot be reached.
pub async fn lock_gate(tx: &mut TenantTx, subject: SubjectId) -> Result<(), Error> {
    lock_gates(tx, &[subject].into()).await
}

/// As [`lock_gate`] for many subjects, in their order, so that no two transactions wait for each other.
///
/// # Errors
/// When the database cannot be reached.
pub async fn lock_gates(tx: &mut TenantTx, subjects: &BTreeSet<SubjectId>) -> Result<(), Error> {
    let subjects = uuids(subjects);
    sqlx::query("insert into subject_gate (subject) select * from unnest($1::uuid[]) on conflict do nothing")
        .bind(&subjects)
        .execute(tx.conn())
        .await?;
    // Also when the rows were just made: the next statement then sees all that was committed before.
    sqlx::query("select 1 from subject_gate where subject = any($1) order by subject for update")
        .bind(&subjects)
        .execute(tx.conn())
        .await?;
    Ok(())
}

fn uuids(subjects: &BTreeSet<SubjectId>) -> Vec<Uuid> {
    subjects.iter().map(|subject| subject.as_uuid()).collect()
}

/// Where one consent of each of many subjects stands. Who never said anything about it is not in the answer.
///
/// # Errors
/// When the database cannot be reached.
pub async fn currents(
    tx: &mut TenantTx,
    subjects: &BTreeSet<SubjectId>,
    matter: Matter,
) -> Result<HashMap<SubjectId, Standing>, Error> {
    let query = "select subject, state, version from consent where subject = any($1) and purpose = $2 and class = $3";
    let rows: Vec<(SubjectId, String, i64)> = sqlx::query_as(query)
        .bind(uuids(subjects))
        .bind(matter.purpose().as_str())
        .bind(matter.class().as_str())
        .fetch_all(tx.conn())
        .await?;
    let standing = |(subject, state, version): (SubjectId, String, i64)| (subject, standing_of(&state, version));
    Ok(rows.into_iter().map(standing).collect())
}

/// What cannot be read as granted is not granted.
fn standing_of(state: &str, version: i64) -> Standing {
    Standing {
        state: State::parse(state).unwrap_or(State::Withdrawn),
        version: u64::try_from(version).unwrap_or_default(),
    }
}

/// Where a consent stands.
///
/// # Errors
/// When the database cannot be reached.
pub async fn current(tx: &mut TenantTx, subject: SubjectId, matter: Matter) -> Result<Option<Current>, Error> {
    let query = "select state, version, receipt_id from consent where subject = $1 and purpose = $2 and class = $3";
    let row: Option<(String, i64, Uuid)> = sqlx::query_as(query)
        .bind(subject)
        .bind(matter.purpose().as_str())
        .bind(matter.class().as_str())
        .fetch_optional(tx.conn())
        .await?;
    Ok(row.map(|(state, version, receipt_id)| Current {
        standing: standing_of(&state, version),
        receipt_id,
    }))
}

/// Stores a change: the new standing, and its line in the history with the sealed receipt.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn record(
    tx: &mut TenantTx,
    subject: SubjectId,
    matter: Matter,
    standing: Standing,
    at: Timestamp,
    receipt: (Uuid, &Sealed),
) -> Result<(), Error> {
    let (receipt_id, sealed) = receipt;
    let version = i64::try_from(standing.version).unwrap_or(i64::MAX);
    sqlx::query(
        "insert into consent (subject, purpose, class, state, version, changed_at, receipt_id) \
         values ($1, $2, $3, $4, $5, $6, $7) on conflict (tenant, subject, purpose, class) \
         do update set state = excluded.state, version = excluded.version, \
         changed_at = excluded.changed_at, receipt_id = excluded.receipt_id",
    )
    .bind(subject)
    .bind(matter.purpose().as_str())
    .bind(matter.class().as_str())
    .bind(standing.state.as_str())
    .bind(version)
    .bind(at.to_sqlx())
    .bind(receipt_id)
    .execute(tx.conn())
    .await?;
    sqlx::query(
        "insert into consent_history (subject, purpose, class, state, version, changed_at, receipt_id, receipt) \
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(subject)
    .bind(matter.purpose().as_str())
    .bind(matter.class().as_str())
    .bind(standing.state.as_str())
    .bind(version)
    .bind(at.to_sqlx())
    .bind(receipt_id)
    .bind(sealed)
    .execute(tx.conn())
    .await?;
    Ok(())
}

type Row = (i64, String, String, String, i64, SqlTimestamp, Uuid);

fn entry((id, purpose, class, state, version, changed_at, receipt_id): Row) -> Entry {
    Entry {
        id,
        purpose,
        class,
        state,
        version,
        changed_at: changed_at.to_jiff(),
        receipt_id,
    }
}

/// Everything a subject ever said something about, as it stands.
///
/// # Errors
/// When the database cannot be reached.
pub async fn standings(tx: &mut TenantTx, subject: SubjectId) -> Result<Vec<Entry>, Error> {
    let query = "select 0::bigint, purpose, class, state, version, changed_at, receipt_id from consent \
                 where subject = $1 order by purpose, class";
    let rows: Vec<Row> = sqlx::query_as(query).bind(subject).fetch_all(tx.conn()).await?;
    Ok(rows.into_iter().map(entry).collect())
}

/// The history, newest first, before an entry.
///
/// # Errors
/// When the database cannot be reached.
pub async fn history(tx: &mut TenantTx, subject: SubjectId, before: i64, limit: i64) -> Result<Vec<Entry>, Error> {
    let query = "select id, purpose, class, state, version, changed_at, receipt_id from consent_history \
                 where subject = $1 and id < $2 order by id desc limit $3";
    let rows: Vec<Row> = sqlx::query_as(query)
        .bind(subject)
        .bind(before)
        .bind(limit)
        .fetch_all(tx.conn())
        .await?;
    Ok(rows.into_iter().map(entry).collect())
}

/// A subject's sealed receipt.
///
/// # Errors
/// When the database cannot be reached.
pub async fn receipt(tx: &mut TenantTx, subject: SubjectId, id: Uuid) -> Result<Option<Sealed>, Error> {
    let query = "select receipt from consent_history where subject = $1 and receipt_id = $2";
    Ok(sqlx::query_scalar(query)
        .bind(subject)
        .bind(id)
        .fetch_optional(tx.conn())
        .await?)
}
