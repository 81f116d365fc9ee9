//! Permits: opened at the subject's gate, closed by who opened them.

use meridian_kit::SubjectId;
use meridian_kit::db::{Error, Pool, TenantTx};
use meridian_policy::{Purpose, TenantId};
use uuid::Uuid;

use crate::domain::matter::Matter;
use crate::domain::permit::FORGOTTEN_AFTER;

/// A permit to be opened.
#[derive(Clone, Debug)]
pub struct NewPermit<'a> {
    /// To whom something is delivered.
    pub subject: SubjectId,
    /// On what consent.
    pub matter: Matter,
    /// The service that delivers, by its certificate.
    pub service: &'a str,
    /// Which of its processes.
    pub deliverer: &'a str,
    /// What is delivered.
    pub delivery_id: &'a str,
}

/// Opens a permit. The caller holds the subject's gate and has seen that consent stands.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn open(tx: &mut TenantTx, permit: &NewPermit<'_>) -> Result<Uuid, Error> {
    let id = Uuid::new_v4();
    sqlx::query(
        "insert into permit (id, subject, purpose, class, service, deliverer, delivery_id) \
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id)
    .bind(permit.subject)
    .bind(permit.matter.purpose().as_str())
    .bind(permit.matter.class().as_str())
    .bind(permit.service)
    .bind(permit.deliverer)
    .bind(permit.delivery_id)
    .execute(tx.conn())
    .await?;
    Ok(id)
}

/// Whether a delivery to the subject for this purpose may still start.
///
/// # Errors
/// When the database cannot be reached.
pub async fn has_open(tx: &mut TenantTx, subject: SubjectId, purpose: Purpose) -> Result<bool, Error> {
    let query = "select exists (select 1 from permit where subject = $1 and purpose = $2 and closed_at is null \
                 and opened_at > clock_timestamp() - make_interval(secs => $3))";
    Ok(sqlx::query_scalar(query)
        .bind(subject)
        .bind(purpose.as_str())
        .bind(FORGOTTEN_AFTER.as_secs_f64())
        .fetch_one(tx.conn())
        .await?)
}

/// Whose permit it is: its tenant and the service that opened it.
///
/// # Errors
/// When the database cannot be reached.
pub async fn owner_of(pool: &Pool, id: Uuid) -> Result<Option<(TenantId, String)>, Error> {
    let mut tx = pool.begin().await?;
    sqlx::query("select set_config('meridian.permit', $1, true)")
        .bind(id.to_string())
        .execute(&mut *tx)
        .await?;
    let row: Option<(String, String)> = sqlx::query_as("select tenant, service from permit where id = $1")
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
    tx.commit().await?;
    // A tenant that does not parse has no permits.
    Ok(row.and_then(|(tenant, service)| Some((tenant.parse().ok()?, service))))
}

/// Closes a permit. Closing it again changes nothing.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn close(tx: &mut TenantTx, id: Uuid) -> Result<(), Error> {
    sqlx::query("update permit set closed_at = clock_timestamp() where id = $1 and closed_at is null")
        .bind(id)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Forgets permits of the day before yesterday.
///
/// # Errors
/// When the database cannot be reached.
pub async fn forget(tx: &mut TenantTx) -> Result<u64, Error> {
    let done = sqlx::query("delete from permit where opened_at < now() - interval '2 days'")
        .execute(tx.conn())
        .await?;
    Ok(done.rows_affected())
}
