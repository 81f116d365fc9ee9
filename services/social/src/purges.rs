//! After an edge's copies are deleted, and only after that is committed, the replicator is told; again and again until it
//! has heard. And copies that have expired are deleted by their own date, whether or not anybody asks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use meridian_kit::client::ServiceClient;
use meridian_kit::db::{Error, Pool, Scope, TenantTx};
use meridian_kit::residency::Homes;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::store::imports;

/// How often what was not heard is said again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often expired copies are looked for. They are not served meanwhile.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct PurgeAck<'a> {
    tenant: &'a str,
    edge: &'a str,
    purge_id: uuid::Uuid,
    sink: &'a str,
    purged: u64,
}

/// Acknowledges purges until the process stops.
#[derive(Clone, Debug)]
pub struct Purges {
    /// The database.
    pub pool: Pool,
    /// The tenants.
    pub homes: Homes,
    /// The replicator.
    pub replicator: ServiceClient,
    /// Rung when there is something to say.
    pub purged: Arc<Notify>,
    /// Told to stop.
    pub stop: CancellationToken,
}

impl Purges {
    /// Runs.
    ///
    /// # Errors
    /// Never.
    pub async fn acknowledge(self) -> Result<(), Infallible> {
        loop {
            for scope in self.homes.scopes() {
                if let Err(error) = self.acknowledge_of(&scope).await {
                    tracing::warn!(tenant = %scope.tenant(), %error, "purges cannot be looked up just now");
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = self.purged.notified() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn acknowledge_of(&self, scope: &Scope) -> Result<(), Error> {
        let mut tx = TenantTx::begin(&self.pool, scope).await?;
        let waiting = imports::unacknowledged(&mut tx).await?;
        tx.commit().await?;
        for purge in waiting {
            let ack = PurgeAck {
                tenant: scope.tenant().as_str(),
                edge: &purge.edge,
                purge_id: purge.purge_id,
                sink: "social",
                purged: purge.purged,
            };
            let said = self
                .replicator
                .post("/internal/purge-acks")
                .json(&ack)
                .idempotent()
                .send()
                .await;
            match said {
                Ok(_) => {}
                // It knows of no such purge (any more): nobody waits for the acknowledgement.
                Err(error) if error.status().is_some_and(|status| status == 404) => {}
                Err(error) => {
                    tracing::warn!(edge = purge.edge, %error, "a purge could not be acknowledged; trying again");
                    continue;
                }
            }
            let mut tx = TenantTx::begin(&self.pool, scope).await?;
            imports::acknowledged(&mut tx, purge.purge_id).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Deletes expired copies until the process stops.
    ///
    /// # Errors
    /// Never.
    pub async fn expire(self) -> Result<(), Infallible> {
        loop {
            for scope in self.homes.scopes() {
                let expired = async {
                    let mut tx = TenantTx::begin(&self.pool, &scope).await?;
                    let count = imports::expire(&mut tx).await?;
                    tx.commit().await?;
                    Ok::<_, Error>(count)
                };
                match expired.await {
                    Ok(0) => {}
                    Ok(count) => tracing::info!(tenant = %scope.tenant(), count, "expired copies are deleted"),
                    Err(error) => {
                        tracing::warn!(tenant = %scope.tenant(), %error, "expired copies could not be deleted; trying again");
                    }
                }
            }
            if self
                .stop
                .run_until_cancelled(tokio::time::sleep(EXPIRE_EVERY))
                .await
                .is_none()
            {
                return Ok(());
            }
        }
    }
}
