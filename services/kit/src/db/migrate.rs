//! Schema migrations, run by the owner role in a Job before the new version serves.

use std::time::Duration;

use sqlx::migrate::{MigrationType, Migrator};
use sqlx::{Connection as _, PgConnection, SqlSafeStr as _};

use super::Error;

/// One step of a schema. Versions 1–99 are the kit's, services begin at 100. A step that was once released never changes.
///
/// ```
/// use meridian_kit::db::Migration;
/// pub const MIGRATIONS: &[Migration] = &[Migration::new(100, "workouts", "create table workout (id uuid primary key)")];
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

impl Migration {
    /// A step; `sql` usually is `include_str!("../migrations/0100_workouts.sql")`.
    #[must_use]
    pub const fn new(version: i64, name: &'static str, sql: &'static str) -> Self {
        Self { version, name, sql }
    }
}

/// What every service's database begins with.
pub const KIT_MIGRATIONS: &[Migration] = &[
    Migration::new(1, "foundation", include_str!("../../migrations/0001_foundation.sql")),
    Migration::new(4, "evidence", include_str!("../../migrations/0004_evidence.sql")),
    Migration::new(5, "append all", include_str!("../../migrations/0005_append_all.sql")),
];

/// Applies the kit's steps and then the service's, each in a transaction, to the database of an owner's URL. Steps that
/// were applied before are left alone, also those of a newer release that was rolled back; one that changed since is refused.
/// Waits up to a minute for a database that starts.
///
/// # Errors
/// When the database cannot be reached, a step fails, or a released step was changed.
pub async fn migrate(owner_url: &str, service: &[Migration]) -> Result<(), Error> {
    let wrong = |version: &&Migration| version.version < 100;
    if let Some(step) = service.iter().find(wrong) {
        return Err(Error::Migration(format!(
            "version {} is the kit's; a service's versions begin at 100",
            step.version
        )));
    }
    let steps = KIT_MIGRATIONS.iter().chain(service).map(|step| {
        let kind = MigrationType::Simple;
        sqlx::migrate::Migration::new(step.version, step.name.into(), kind, step.sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(steps.collect());
    // What a newer release has added stays when it is rolled back: this release works beside it (docs/adr/0019).
    migrator.set_ignore_missing(true);
    let mut connection = reach(owner_url).await?;
    migrator.run(&mut connection).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error) => Error::from(error),
        sqlx::migrate::MigrateError::ExecuteMigration(error, version) => {
            // The owner's statements hold no data, so the server's text may be shown.
            Error::Migration(format!("step {version} failed: {error}"))
        }
        sqlx::migrate::MigrateError::VersionMismatch(version) => Error::Migration(format!(
            "step {version} was applied in another form; add a new step instead of changing it"
        )),
        error => Error::Migration(error.to_string()),
    })?;
    // The default privileges gave the runtime role this table too; the list of steps is the owner's business.
    sqlx::raw_sql(HIDE_STEPS).execute(&mut connection).await?;
    let _ = connection.close().await;
    Ok(())
}

/// Leaves the list of applied steps to its owner alone.
pub(super) const HIDE_STEPS: &str = "
do $$
declare
    grantee text;
begin
    for grantee in
        select distinct acl.grantee::regrole::text
        from pg_class c, aclexplode(c.relacl) acl
        where c.oid = to_regclass('public._sqlx_migrations') and acl.grantee not in (0, c.relowner)
    loop
        execute format('revoke all on public._sqlx_migrations from %s', grantee);
    end loop;
end $$";

/// Connects, waiting for a server that is just starting.
pub(super) async fn reach(url: &str) -> Result<PgConnection, Error> {
    let options = super::options(url, "meridian-migrate")?;
    let mut attempt = 0_u32;
    loop {
        match PgConnection::connect_with(&options).await.map_err(Error::from) {
            Err(Error::Unreachable(reason)) if attempt < 60 => {
                attempt += 1;
                tracing::info!(attempt, reason, "the database does not answer yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            outcome => return outcome,
        }
    }
}
