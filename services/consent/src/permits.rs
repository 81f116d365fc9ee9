//! Permits for deliverers: asked for at each delivery, closed when it is done.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_kit::db::TenantTx;
use meridian_kit::problem::Problem;
use meridian_policy::TenantId;
use uuid::Uuid;

use crate::Consent;
use crate::domain::limit::Limit;
use crate::domain::standing::{Standing, State, allows};
use crate::store::{self, NewPermits};

/// How often permits that nobody needs are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// What is said of one delivery.
pub type Word = Result<Uuid, Refused>;

/// Why there is no permit for a delivery.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refused {
    /// For programs.
    pub rule: &'static str,
    /// For people.
    pub message: &'static str,
}

const TENANT_UNKNOWN: Refused = Refused {
    rule: "tenant-unknown",
    message: "the tenant's home is not in this region",
};
const WITHDRAWN: Refused = Refused {
    rule: "consent-withdrawn",
    message: "the subject withdrew this consent",
};
const MISSING: Refused = Refused {
    rule: "consent-missing",
    message: "the subject did not consent to this",
};

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::forbidden("no-consent", refused.message).rule(refused.rule)
    }
}

fn refused_by(limit: Limit) -> Refused {
    let message = match limit {
        Limit::Objection(_) => "the subject objects to this purpose",
        Limit::Restriction => "the subject restricted the use of their data: it is stored, and nothing else",
    };
    Refused {
        rule: limit.rule().as_str(),
        message,
    }
}

fn refusal(standing: Option<Standing>) -> Refused {
    match standing.map(|standing| standing.state) {
        Some(State::Withdrawn) => WITHDRAWN,
        _ => MISSING,
    }
}

impl Consent {
    /// Opens a permit for each delivery whose subject's consent stands right now, with no objection or restriction of theirs.
    /// The answers are in the deliveries' order.
    ///
    /// # Errors
    /// 403 when the tenant is not at home here; 503 when it cannot be told where consent stands, which means no.
    pub async fn open_permits(&self, tenant: &TenantId, permits: &NewPermits<'_>) -> Result<Vec<Word>, Problem> {
        let scope = self.homes.scope(tenant).ok_or(TENANT_UNKNOWN)?;
        let subjects: BTreeSet<_> = permits.deliveries.iter().map(|(subject, _)| *subject).collect();
        let mut tx = TenantTx::begin(&self.pool, &scope).await?;
        store::lock_gates(&mut tx, &subjects).await?;
        // A statement of its own after the locks, so that it sees every withdrawal that was committed before.
        let standings = store::currents(&mut tx, &subjects, permits.matter).await?;
        let limits = store::limits_in_force(&mut tx, &subjects).await?;
        let standing = |subject| standings.get(subject).copied();
        let limited = |subject| limits.get(subject)?.meets(permits.matter.purpose());
        let mut words: Vec<Word> = Vec::with_capacity(permits.deliveries.len());
        let mut allowed = Vec::with_capacity(permits.deliveries.len());
        for (place, (subject, _)) in permits.deliveries.iter().enumerate() {
            let limit = limited(subject);
            if limit.is_none() && allows(standing(subject)) {
                allowed.push(place);
            }
            words.push(Err(limit.map_or_else(|| refusal(standing(subject)), refused_by)));
        }
        if allowed.is_empty() {
            tx.rollback().await?;
        } else {
            let ids = store::open(&mut tx, permits, &allowed).await?;
            tx.commit().await?;
            for (place, id) in allowed.iter().zip(ids) {
                words[*place] = Ok(id);
            }
        }
        self.metrics.permits_opened.inc_by(allowed.len() as u64);
        self.metrics
            .permits_refused
            .inc_by((words.len() - allowed.len()) as u64);
        Ok(words)
    }

    /// Closes those of the permits that this service opened. What is not there, or another's, is left.
    ///
    /// # Errors
    /// 403 when the tenant is not at home here; 503 when the database cannot be reached.
    pub async fn close_permits(&self, tenant: &TenantId, ids: &[Uuid], service: &str) -> Result<(), Problem> {
        let scope = self.homes.scope(tenant).ok_or(TENANT_UNKNOWN)?;
        let mut tx = TenantTx::begin(&self.pool, &scope).await?;
        store::close_all(&mut tx, ids, service).await?;
        tx.commit().await?;
        Ok(())
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
