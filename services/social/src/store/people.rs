//! What is known about athletes: who may see what, and the sealed name.

use meridian_kit::SubjectId;
use meridian_kit::db::{Error, TenantTx};
use meridian_kit::subject_keys::Sealed;

use crate::domain::visibility::Audience;

/// Where a name is sealed.
#[must_use]
pub fn name_context(subject: SubjectId) -> String {
    format!("social.person:{subject}")
}

/// Stores what identity told, unless something newer is known.
///
/// # Errors
/// When the database refuses or cannot be reached.
pub async fn learn(
    tx: &mut TenantTx,
    subject: SubjectId,
    version: i64,
    profile: Audience,
    workouts: Audience,
    name: &Sealed,
) -> Result<(), Error> {
    sqlx::query(
        "insert into person (subject, version, profile, workouts, name) values ($1, $2, $3, $4, $5) \
         on conflict (tenant, subject) do update set version = excluded.version, profile = excluded.profile, \
         workouts = excluded.workouts, name = excluded.name where person.version < excluded.version",
    )
    .bind(subject)
    .bind(version)
    .bind(profile.as_str())
    .bind(workouts.as_str())
    .bind(name)
    .execute(tx.conn())
    .await?;
    Ok(())
}
