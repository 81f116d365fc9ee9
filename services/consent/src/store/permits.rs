//! Permits: opened at the subject's gate, closed by who opened them.

use meridian_kit::SubjectId;
use meridian_kit::db::{Error, Pool, TenantTx};
use meridian_policy::{Purpose, TenantId};
use uuid::Uuid;

use crate::domain::matter::Matter;
use crate::domain::permit::FORGOTTEN_AFTER;

/// Permits to be opened, all for one matter.
#[derive(Clone, Copy, Debug)]
pub struct NewPermits<'a> {
    /// On what consent.
    pub matter: Matter,
    /// The service that delivers, by its certificate.
    pub service: &'a str,
    /// Which of its processes.
    pub deliverer: &'a str,
    /// To whom, and what is delivered.
    pub deliveries: &'a [(SubjectId, &'a str)],
}

/// Opens permits for the deliveries of these places, and returns their ids in the same order. The caller holds the subjects'
/// gates and has seen that consent stands.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn open(tx: &mut TenantTx, permits: &NewPermits<'_>, places: &[usize]) -> Result<Vec<Uuid>, Error> {
    let ids: Vec<Uuid> = places.iter().map(|_| Uuid::new_v4()).collect();
    let (subjects, deliveries): (Vec<Uuid>, Vec<&str>) = places
        .iter()
        .filter_map(|place| permits.deliveries.get(*place))
        .map(|(subject, delivery)| (subject.as_uuid(), *delivery))
        .unzip();
    sqlx::query(
        "insert into permit (id, subject, purpose, class, service, deliverer, delivery_id) \
         select id, subject, $3, $4, $5, $6, delivery \
         from unnest($1::uuid[], $2::uuid[], $7::text[]) as opened (id, subject, delivery)",
    )
    .bind(&ids)
    .bind(&subjects)
    .bind(permits.matter.purpose().as_str())
    .bind(permits.matter.class().as_str())
    .bind(permits.service)
    .bind(permits.deliverer)
    .bind(&deliveries)
    .execute(tx.conn())
    .await?;
    Ok(ids)
}

/// Whether a delivery to the subject for this purpose, or for any, may still start.
///
/// # Errors
/// When the database cannot be reached.
pub async fn has_open(tx: &mut TenantTx, subject: SubjectId, purpose: Option<Purpose>) -> Result<bool, Error> {
    let query = "select exists (select 1 from permit where subject = $1 and ($2::text is null or purpose = $2) and closed_at is null \
                 and opened_at > clock_timestamp() - make_interval(secs => $3))";
    Ok(sqlx::query_scalar(query)
        .bind(subject)
        .bind(purpose.map(|purpose| purpose.as_str()))
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

/// Closes those of these permits that are the service's. Closing one again changes nothing.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn close_all(tx: &mut TenantTx, ids: &[Uuid], service: &str) -> Result<(), Error> {
    sqlx::query(
        "update permit set closed_at = clock_timestamp() where id = any($1) and service = $2 and closed_at is null",
    )
    .bind(ids)
    .bind(service)
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
