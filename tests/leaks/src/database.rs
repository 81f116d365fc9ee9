//! A database of a test's own, with the roles that production has, and what an administrator does to it by hand.

use meridian_kit::SubjectId;
use meridian_kit::db::{self, Migration, Pool, Scope, TenantTx, raise_fence};
use meridian_kit::subject_keys::{KeyScope, SubjectKey};
use meridian_kit::testing::Database;
use meridian_policy::Epoch;
use sqlx::AssertSqlSafe;
use uuid::Uuid;
use zeroize::Zeroizing;

/// A table as a service makes one: under guard, and keyed by tenant first.
const NOTES: &[Migration] = &[Migration::new(
    100,
    "notes",
    "create table note (tenant text not null, epoch bigint not null, id uuid not null, body bytea, \
     primary key (tenant, id)); select meridian_guard('note');",
)];

pub const OURS: &str = "stride-eu";
pub const THEIRS: &str = "trail-eu";

/// What must not be found: a word that nothing else in the world has.
pub fn canary() -> String {
    format!("canary-{}", Uuid::new_v4().simple())
}

/// Two tenants' notes.
pub struct Notes {
    pub database: Database,
    pub pool: Pool,
}

impl Notes {
    pub async fn new() -> Self {
        Self::with(NOTES).await
    }

    /// With other tables; both tenants are at home at epoch 1.
    pub async fn with(migrations: &[Migration]) -> Self {
        let database = Database::create("leaks", migrations).await;
        let pool = database.pool();
        for tenant in [OURS, THEIRS] {
            let raised = raise_fence(&pool, &tenant.parse().expect("a tenant"), Epoch(1)).await;
            raised.expect("a fence");
        }
        Self { database, pool }
    }

    /// As the superuser, whatever triggers and policies say.
    pub async fn by_hand(&self, sql: &str) {
        let pool = self.database.superuser_pool();
        let sql = format!("set session_replication_role = replica; {sql}");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&pool)
            .await
            .expect("a statement by hand");
        pool.close().await;
    }

    /// Takes row-level security and the stamp from a table.
    pub async fn unguard(&self, table: &str) {
        self.by_hand(&format!(
            "alter table {table} disable row level security; drop trigger meridian_stamp on {table}"
        ))
        .await;
    }

    /// Puts a note of a tenant, as its service does.
    pub async fn write(&self, tenant: &str, body: &[u8]) -> Uuid {
        self.put(tenant, body).await.expect("a note")
    }

    /// The same, where that may be refused.
    pub async fn put(&self, tenant: &str, body: &[u8]) -> Result<Uuid, sqlx::Error> {
        let id = Uuid::new_v4();
        let mut tx = self.begin(tenant).await;
        let insert = sqlx::query("insert into note (tenant, id, body) values ($1, $2, $3)");
        insert.bind(tenant).bind(id).bind(body).execute(tx.conn()).await?;
        tx.commit().await.expect("a commit");
        Ok(id)
    }

    pub async fn begin(&self, tenant: &str) -> TenantTx {
        TenantTx::begin(&self.pool, &scope(tenant))
            .await
            .expect("a transaction")
    }

    /// The bytes of every note that a tenant's transaction sees.
    pub async fn seen_by(&self, tenant: &str) -> Vec<Vec<u8>> {
        let mut tx = self.begin(tenant).await;
        let query = sqlx::query_scalar("select body from note");
        query.fetch_all(tx.conn()).await.expect("the notes")
    }
}

pub fn scope(tenant: &str) -> Scope {
    Scope::new(tenant.parse().expect("a tenant"), Epoch(1))
}

/// A key of somebody of a tenant, another for each tenant.
pub fn key_of(tenant: &str, subject: SubjectId) -> SubjectKey {
    let mut bytes = [0; 32];
    let name = tenant.as_bytes();
    bytes[..name.len()].copy_from_slice(name);
    let tenant = tenant.parse().expect("a tenant");
    SubjectKey::from_bytes(tenant, subject, KeyScope::Personal, Zeroizing::new(bytes))
}

/// A pool of one connection as another role.
pub fn pool_of(url: &str) -> Pool {
    db::connect(url, "leaks").expect("a URL")
}

pub fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}
