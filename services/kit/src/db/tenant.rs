//! A transaction inside one tenant's rows at one epoch: the only way to reach them.

use std::ops::{Deref, DerefMut};

use meridian_policy::{Epoch, TenantId};
use sqlx::{PgConnection, Postgres, Transaction};

use super::{Error, Pool};

/// A tenant at an epoch. It comes from a verified token ([`crate::auth::Athlete::scope`]) or from the policy
/// ([`crate::residency::Homes::scope`]).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Scope {
    tenant: TenantId,
    epoch: Epoch,
}

impl Scope {
    /// A tenant at an epoch.
    #[must_use]
    pub fn new(tenant: TenantId, epoch: Epoch) -> Self {
        Self { tenant, epoch }
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// A transaction in a [`Scope`]. Dropped without [`TenantTx::commit`], it is rolled back.
///
/// It sees the tenant's rows only. While it is open the tenant's fence cannot be raised, so what it commits was admitted
/// at the moment of the commit, not only at the beginning.
///
/// ```no_run
/// # async fn example(pool: meridian_kit::db::Pool, scope: meridian_kit::db::Scope) -> Result<(), meridian_kit::db::Error> {
/// use meridian_kit::db::TenantTx;
/// let mut tx = TenantTx::begin(&pool, &scope).await?;
/// sqlx::query("insert into note (id) values ($1)").bind(7_i64).execute(tx.conn()).await?;
/// tx.commit().await
/// # }
/// ```
#[derive(Debug)]
pub struct TenantTx {
    inner: Transaction<'static, Postgres>,
    scope: Scope,
}

impl TenantTx {
    /// Opens a transaction and enters the scope.
    ///
    /// # Errors
    /// [`Error::UnknownTenant`] and [`Error::StaleEpoch`] by the fence, [`Error::Unreachable`] without a database.
    pub async fn begin(pool: &Pool, scope: &Scope) -> Result<Self, Error> {
        let mut inner = pool.begin().await?;
        let fence: Option<i64> = sqlx::query_scalar("select meridian_enter($1, $2)")
            .bind(scope.tenant.as_str())
            .bind(scope.epoch.as_i64())
            .fetch_one(&mut *inner)
            .await?;
        let tenant = || scope.tenant.clone();
        let fence = fence.ok_or_else(|| Error::UnknownTenant { tenant: tenant() })?;
        match fence.cmp(&scope.epoch.as_i64()) {
            std::cmp::Ordering::Equal => Ok(Self {
                inner,
                scope: scope.clone(),
            }),
            std::cmp::Ordering::Less => Err(Error::FenceBehind { tenant: tenant() }),
            std::cmp::Ordering::Greater => {
                let fence = Epoch(u64::try_from(fence).unwrap_or_default());
                Err(Error::StaleEpoch {
                    tenant: tenant(),
                    epoch: scope.epoch,
                    fence,
                })
            }
        }
    }

    /// The connection, for queries: `.execute(tx.conn())`.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.inner
    }

    /// The scope.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Makes it permanent.
    ///
    /// # Errors
    /// When the database does not confirm; the caller cannot know whether it was stored and must repeat idempotently.
    pub async fn commit(self) -> Result<(), Error> {
        Ok(self.inner.commit().await?)
    }

    /// Undoes it at once, rather than when the connection is next used.
    ///
    /// # Errors
    /// When the database cannot be reached; it is undone then, too.
    pub async fn rollback(self) -> Result<(), Error> {
        Ok(self.inner.rollback().await?)
    }
}

impl Deref for TenantTx {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for TenantTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}
