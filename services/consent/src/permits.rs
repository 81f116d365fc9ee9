//! Permits for deliverers: asked for at each delivery, closed when it is done.

use std::time::Duration;

use meridian_kit::db::TenantTx;
use meridian_kit::problem::Problem;
use meridian_policy::TenantId;
use uuid::Uuid;

use crate::Consent;
use crate::domain::permit::VALID_FOR;
use crate::domain::standing::{State, allows};
use crate::store::{self, NewPermit};

/// How often permits that nobody needs are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// A permit that was opened.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// To close it by.
    pub id: Uuid,
    /// How long after the moment before it was asked for a delivery may start.
    pub valid_for: Duration,
}

fn refused(rule: &'static str, message: &'static str) -> Problem {
    Problem::forbidden("no-consent", message).rule(rule)
}

impl Consent {
    /// Opens a permit if consent stands right now.
    ///
    /// # Errors
    /// 403 with the rule when it does not; 503 when that cannot be told, which means no.
    pub async fn open_permit(&self, tenant: &TenantId, permit: &NewPermit<'_>) -> Result<Opened, Problem> {
        let Some(scope) = self.homes.scope(tenant) else {
            return Err(refused("tenant-unknown", "the tenant's home is not in this region"));
        };
        let mut tx = TenantTx::begin(&self.pool, &scope).await?;
        store::lock_gate(&mut tx, permit.subject).await?;
        // A statement of its own after the lock, so that it sees every withdrawal that was committed before.
        let current = store::current(&mut tx, permit.subject, permit.matter)
            .await?
            .map(|current| current.standing);
        if !allows(current) {
            tx.rollback().await?;
            self.metrics.permits_refused.inc();
            return Err(match current.map(|standing| standing.state) {
                Some(State::Withdrawn) => refused("consent-withdrawn", "the subject withdrew this consent"),
                _ => refused("consent-missing", "the subject did not consent to this"),
            });
        }
        let id = store::open(&mut tx, permit).await?;
        tx.commit().await?;
        self.metrics.permits_opened.inc();
        Ok(Opened {
            id,
            valid_for: VALID_FOR,
        })
    }

    /// Closes a permit: the delivery has started and ended, or will not start.
    ///
    /// # Errors
    /// 404 when there is none of this id, 403 when another service opened it.
    pub async fn close_permit(&self, id: Uuid, service: &str) -> Result<(), Problem> {
        let unknown = || Problem::not_found("no-such-permit", "there is no permit of this id");
        let (tenant, opened_by) = store::owner_of(&self.pool, id).await?.ok_or_else(unknown)?;
        if opened_by != service {
            return Err(Problem::forbidden(
                "not-your-permit",
                "another service opened this permit",
            ));
        }
        let scope = self.homes.scope(&tenant).ok_or_else(unknown)?;
        let mut tx = TenantTx::begin(&self.pool, &scope).await?;
        store::close(&mut tx, id).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Forgets old permits once an hour until the process stops.
    pub async fn keep_forgetting(self, stop: tokio_util::sync::CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(FORGET_EVERY))
            .await
            .is_some()
        {
            for scope in self.homes.scopes() {
                let forgotten = async {
                    let mut tx = TenantTx::begin(&self.pool, &scope).await?;
                    store::forget(&mut tx).await?;
                    tx.commit().await
                };
                if let Err(error) = forgotten.await {
                    tracing::warn!(tenant = %scope.tenant(), %error, "old permits stay for another hour");
                }
            }
        }
    }
}
