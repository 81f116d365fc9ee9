//! The signing keys' table: region-wide, see the migration for why.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::{PgConnection, PgPool, Row as _};

/// A stored signing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Key id.
    pub kid: String,
    /// First moment at which it signs.
    pub signs_from: Timestamp,
    /// Ed25519 public key.
    pub public: Vec<u8>,
    /// Sealed PKCS#8.
    pub sealed_private: Vec<u8>,
}

/// One lock for the region's rotation; the number is arbitrary and only has to differ from other locks here.
const ROTATION_LOCK: i64 = 0x6d65_7269_6469_6a6b;

/// Runs `change` in a transaction in which no other replica rotates.
pub async fn exclusively<T, E: From<sqlx::Error>>(
    pool: &PgPool,
    change: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<T, E> {
    let mut transaction = pool.begin().await?;
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(ROTATION_LOCK)
        .execute(&mut *transaction)
        .await?;
    let done = change(&mut transaction).await?;
    transaction.commit().await?;
    Ok(done)
}

/// All keys, oldest first.
pub async fn all(connection: &mut PgConnection) -> Result<Vec<StoredKey>, sqlx::Error> {
    let rows =
        sqlx::query("select kid, signs_from, public_key, sealed_private from signing_key order by signs_from, kid")
            .fetch_all(connection)
            .await?;
    rows.into_iter()
        .map(|row| {
            Ok(StoredKey {
                kid: row.try_get("kid")?,
                signs_from: row.try_get::<jiff_sqlx::Timestamp, _>("signs_from")?.to_jiff(),
                public: row.try_get("public_key")?,
                sealed_private: row.try_get("sealed_private")?,
            })
        })
        .collect()
}

/// Adds a key.
pub async fn insert(connection: &mut PgConnection, key: &StoredKey) -> Result<(), sqlx::Error> {
    sqlx::query("insert into signing_key (kid, signs_from, public_key, sealed_private) values ($1, $2, $3, $4)")
        .bind(&key.kid)
        .bind(key.signs_from.to_sqlx())
        .bind(&key.public)
        .bind(&key.sealed_private)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets keys.
pub async fn delete(connection: &mut PgConnection, kids: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query("delete from signing_key where kid = any($1)")
        .bind(kids)
        .execute(connection)
        .await?;
    Ok(())
}
