//! Accounts and the events behind them. Tenant and epoch are the transaction's: row-level security sees to both.

use meridian_kit::SubjectId;
use meridian_kit::db::{self, TenantTx};
use sqlx::Row as _;

/// What a login needs to know.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Whose account it is.
    pub subject: SubjectId,
    /// argon2id hash in PHC form.
    pub password_hash: String,
}

/// An account as it is stored.
#[derive(Debug, Clone)]
pub struct StoredAccount {
    /// The e-mail address, sealed.
    pub sealed_email: Vec<u8>,
    /// The user's state (`domain::user::User`'s content), sealed.
    pub sealed_user: Vec<u8>,
    /// How many events made that state.
    pub version: i64,
}

/// A new account.
#[derive(Debug, Clone)]
pub struct NewAccount<'a> {
    /// Whose account it is.
    pub subject: SubjectId,
    /// Blind index of the e-mail address.
    pub email_index: &'a [u8; 32],
    /// The e-mail address, sealed.
    pub sealed_email: &'a [u8],
    /// argon2id hash in PHC form.
    pub password_hash: &'a str,
    /// The user's first state, sealed.
    pub sealed_user: &'a [u8],
}

/// Whether a new account could be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is there now.
    New,
    /// The tenant has an account with this e-mail address.
    EmailTaken,
}

/// Credentials by the e-mail's blind index.
pub async fn credentials(tx: &mut TenantTx, email_index: &[u8; 32]) -> Result<Option<Credentials>, db::Error> {
    let row = sqlx::query("select subject, password_hash from account where email_index = $1")
        .bind(&email_index[..])
        .fetch_optional(tx.conn())
        .await?;
    row.map(|row| {
        Ok(Credentials {
            subject: SubjectId(row.try_get("subject")?),
            password_hash: row.try_get("password_hash")?,
        })
    })
    .transpose()
}

/// An account by its subject; `for_change` locks it until the transaction ends.
pub async fn by_subject(
    tx: &mut TenantTx,
    subject: SubjectId,
    for_change: bool,
) -> Result<Option<StoredAccount>, db::Error> {
    let lock = if for_change { "for update" } else { "" };
    let query = format!("select sealed_email, sealed_user, version from account where subject = $1 {lock}");
    // Safe: the only inserted text is one of the two literals above.
    let row = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(subject.0)
        .fetch_optional(tx.conn())
        .await?;
    row.map(|row| {
        Ok(StoredAccount {
            sealed_email: row.try_get("sealed_email")?,
            sealed_user: row.try_get("sealed_user")?,
            version: row.try_get("version")?,
        })
    })
    .transpose()
}

/// Stores a new account at version 1.
pub async fn insert(tx: &mut TenantTx, account: &NewAccount<'_>) -> Result<Inserted, db::Error> {
    let done = sqlx::query(
        "insert into account (subject, email_index, sealed_email, password_hash, sealed_user, version) \
         values ($1, $2, $3, $4, $5, 1) on conflict on constraint account_email do nothing",
    )
    .bind(account.subject.0)
    .bind(&account.email_index[..])
    .bind(account.sealed_email)
    .bind(account.password_hash)
    .bind(account.sealed_user)
    .execute(tx.conn())
    .await?;
    Ok(if done.rows_affected() == 1 {
        Inserted::New
    } else {
        Inserted::EmailTaken
    })
}

/// Replaces the user's state with the one after `version` events. The row is locked by [`by_subject`].
pub async fn update(tx: &mut TenantTx, subject: SubjectId, sealed_user: &[u8], version: i64) -> Result<(), db::Error> {
    sqlx::query("update account set sealed_user = $2, version = $3 where subject = $1")
        .bind(subject.0)
        .bind(sealed_user)
        .bind(version)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Notes that the athlete signed in.
pub async fn note_login(tx: &mut TenantTx, subject: SubjectId) -> Result<(), db::Error> {
    sqlx::query("update account set last_login = now() where subject = $1")
        .bind(subject.0)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Appends an event; a second writer of the same version gets a unique violation.
pub async fn append_event(
    tx: &mut TenantTx,
    subject: SubjectId,
    version: i64,
    name: &str,
    sealed: &[u8],
) -> Result<(), db::Error> {
    sqlx::query("insert into user_event (stream, version, name, sealed) values ($1, $2, $3, $4)")
        .bind(subject.0)
        .bind(version)
        .bind(name)
        .bind(sealed)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// The sealed history of a user, in order.
pub async fn history(tx: &mut TenantTx, subject: SubjectId) -> Result<Vec<(i64, Vec<u8>)>, db::Error> {
    let rows = sqlx::query("select version, sealed from user_event where stream = $1 order by version")
        .bind(subject.0)
        .fetch_all(tx.conn())
        .await?;
    rows.into_iter()
        .map(|row| Ok((row.try_get("version")?, row.try_get("sealed")?)))
        .collect()
}
