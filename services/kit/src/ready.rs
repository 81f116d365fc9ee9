//! Whether a process can do its work, told by the parts that know: each part registers a check, and `/readyz` and
//! `/healthcheck` ask them all.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;

use crate::db::Pool;
use crate::policy_feed::PolicyFeed;

/// A check that takes longer is a failed one.
const LIMIT: Duration = Duration::from_secs(2);

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// The checks of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Readiness {
    checks: Arc<RwLock<Vec<(String, Check)>>>,
}

impl fmt::Debug for Readiness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Readiness").finish_non_exhaustive()
    }
}

/// What one check found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// The part.
    pub name: String,
    /// Whether it can work.
    pub ready: bool,
    /// What was seen.
    pub message: String,
}

impl Readiness {
    /// Adds or replaces a check. `Ok` and `Err` both say what was seen, without data.
    pub fn register<F, R>(&self, name: impl Into<String>, check: F)
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, String>> + Send + 'static,
    {
        let name = name.into();
        let check: Check = Arc::new(move || Box::pin(check()));
        let mut checks = self.checks.write().unwrap_or_else(PoisonError::into_inner);
        checks.retain(|(known, _)| *known != name);
        checks.push((name, check));
    }

    /// From now on not ready: the process is told to stop.
    pub(crate) fn stopping(&self) {
        self.register("process", || std::future::ready(Err("it is stopping".to_owned())));
    }

    pub(crate) fn policy(&self, feed: PolicyFeed) {
        // A policy is always known (the process does not start without one). A hub or operator that cannot be reached
        // stops transfers, not the work of this region, so it is shown and does not count.
        self.register("policy", move || {
            let (policy, connected) = (feed.current(), feed.connected());
            let revision = policy.revision;
            let lease = if feed.lease_valid() {
                "the lease is valid"
            } else {
                "no valid lease: nothing may leave the region"
            };
            let stream = if connected { "connected" } else { "not connected" };
            let held = match policy.held.len() {
                0 => String::new(),
                held => format!(", {held} edges held: what is told of them is not understood"),
            };
            std::future::ready(Ok(format!("revision {revision}, {stream}, {lease}{held}")))
        });
    }

    pub(crate) fn database(&self, pool: Pool) {
        self.register("database", move || {
            let pool = pool.clone();
            async move {
                match sqlx::query("select 1").execute(&pool).await {
                    Ok(_) => Ok("it answers".to_owned()),
                    Err(error) => Err(crate::db::Error::from(error).to_string()),
                }
            }
        });
    }

    /// Asks every part, all at once.
    pub async fn findings(&self) -> Vec<Finding> {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = checks.into_iter().map(|(name, check)| async move {
            let outcome = tokio::time::timeout(LIMIT, check()).await;
            let (ready, message) = match outcome {
                Ok(Ok(message)) => (true, message),
                Ok(Err(message)) => (false, message),
                Err(_) => (false, format!("no answer within {} s", LIMIT.as_secs())),
            };
            Finding { name, ready, message }
        });
        futures::future::join_all(asked).await
    }
}
