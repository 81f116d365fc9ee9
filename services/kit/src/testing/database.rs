//! A fresh database for each test, with the roles that `meridian migrate cluster` makes.

use crate::config::Secret;
use crate::db::{self, Credentials, Migration, Pool, RoleCredentials};

/// A database that is dropped with its last clone.
#[derive(Clone, Debug)]
pub struct Database {
    inner: std::sync::Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    superuser_url: String,
    owner_url: String,
    app_url: String,
}

fn with_role(superuser_url: &str, role: &RoleCredentials, database: &str) -> String {
    let mut url = reqwest::Url::parse(superuser_url).expect("MERIDIAN_TEST_POSTGRES is a URL");
    url.set_username(&role.username).expect("a URL with a user");
    url.set_password(Some(role.password.expose()))
        .expect("a URL with a password");
    url.set_path(database);
    url.into()
}

/// The widest that a release may do to the tables of the one before, whose services go on beside it (docs/adr/0019).
const NEXT_RELEASE: Migration = Migration::new(
    9_999,
    "what the next release adds",
    "do $$
declare
    widened text;
begin
    for widened in
        select c.oid::regclass::text from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
        and c.relname <> '_sqlx_migrations'
    loop
        execute format(
            'alter table %s add column next_release_text text, add column next_release_number integer not null default 7', widened
        );
    end loop;
end $$",
);

impl Database {
    /// Makes it and applies the kit's and the service's migrations as its owner.
    ///
    /// # Panics
    /// When `MERIDIAN_TEST_POSTGRES` is not set, or a step fails.
    pub async fn create(service: &str, migrations: &[Migration]) -> Self {
        let superuser_url = super::required("MERIDIAN_TEST_POSTGRES");
        let random = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("{}_{}", service.replace('-', "_"), &random[..12]);
        let role = |suffix: &str| RoleCredentials {
            username: format!("{name}{suffix}"),
            password: Secret::new(uuid::Uuid::new_v4().simple().to_string()),
        };
        let credentials = Credentials {
            service: name.clone(),
            owner: role("_owner"),
            app: role(""),
        };
        db::migrate_cluster(&superuser_url, std::slice::from_ref(&credentials))
            .await
            .expect("roles and database");
        let owner_url = with_role(&superuser_url, &credentials.owner, &name);
        let app_url = with_role(&superuser_url, &credentials.app, &name);
        db::migrate(&owner_url, migrations).await.expect("the schema");
        Self {
            inner: std::sync::Arc::new(Inner {
                name,
                superuser_url,
                owner_url,
                app_url,
            }),
        }
    }

    /// As [`Database::create`], on tables that have had done to them what the next release may do: what a service's own tests
    /// run on, so that it is known to go on there.
    ///
    /// # Panics
    /// As [`Database::create`].
    pub async fn beside_the_next_release(service: &str, migrations: &[Migration]) -> Self {
        let database = Self::create(service, migrations).await;
        let next = [migrations, &[NEXT_RELEASE]].concat();
        db::migrate(database.owner_url(), &next).await.expect("what comes next");
        database
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The URL for the service's own role.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.inner.app_url
    }

    /// The URL for the owner of the schema.
    #[must_use]
    pub fn owner_url(&self) -> &str {
        &self.inner.owner_url
    }

    /// A URL of the superuser, who sees every row: for asserting what is really stored.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        let mut url = reqwest::Url::parse(&self.inner.superuser_url).expect("MERIDIAN_TEST_POSTGRES is a URL");
        url.set_path(&self.inner.name);
        url.into()
    }

    /// A pool as the service's own role.
    ///
    /// # Panics
    /// Never: the URL was used before.
    #[must_use]
    pub fn pool(&self) -> Pool {
        db::connect(self.url(), "test").expect("a URL")
    }

    /// Every column of every table, as `(table, column)`. A partition's are its parent's.
    ///
    /// # Panics
    /// When the database cannot be asked.
    pub async fn columns(&self) -> Vec<(String, String)> {
        let query = "select c.relname::text, a.attname::text from pg_attribute a \
                     join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace \
                     where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition \
                     and a.attnum > 0 and not a.attisdropped \
                     and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' order by 1, 2";
        sqlx::query_as(query)
            .fetch_all(&self.superuser_pool())
            .await
            .expect("the columns")
    }

    /// The tables without row-level security in force; a service's test asserts that each has a reason.
    ///
    /// # Panics
    /// When the database cannot be asked.
    pub async fn unguarded_tables(&self) -> Vec<String> {
        let query = "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') \
                     and not (relrowsecurity and relforcerowsecurity) order by relname";
        sqlx::query_scalar(query)
            .fetch_all(&self.superuser_pool())
            .await
            .expect("the tables")
    }

    /// A pool as the superuser.
    ///
    /// # Panics
    /// Never: the URL was used before.
    #[must_use]
    pub fn superuser_pool(&self) -> Pool {
        db::connect(&self.superuser_url(), "test").expect("a URL")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let (url, name) = (self.superuser_url.clone(), self.name.clone());
        // On a thread of its own: a test's runtime may be the one that is ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
                let Ok(mut connection) = PgConnection::connect(&url).await else {
                    return;
                };
                // The names are ours: letters, digits and underscores.
                for statement in [
                    format!("drop database if exists \"{name}\" with (force)"),
                    format!("drop role if exists \"{name}\""),
                    format!("drop role if exists \"{name}_owner\""),
                ] {
                    let _ = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await;
                }
            });
            std::io::Result::Ok(())
        });
        let _ = dropping.join();
    }
}
