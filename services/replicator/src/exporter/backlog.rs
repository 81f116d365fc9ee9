//! Tells the region operator how many copies wait, so that a person who asks what a change of the policy would stop is told
//! that as well.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use meridian_kit::db::TenantTx;
use meridian_kit::policy_feed::Backlog;
use meridian_policy::EdgeId;

use super::Exporter;
use crate::store::{StoreError, exports};

/// How often it is counted. Each report that differs is a write to the API server.
const EVERY: Duration = Duration::from_secs(15);

impl Exporter {
    /// Counts and tells until the process stops.
    ///
    /// # Errors
    /// Never.
    pub async fn tell_backlog(self) -> Result<(), Infallible> {
        let stop = self.shared.start.stop();
        loop {
            match self.backlog().await {
                // Half a count would say of the rest that nothing waits.
                Err(error) => tracing::warn!(%error, "what waits could not be counted; trying again"),
                Ok(waiting) => {
                    if let Err(error) = self.shared.feed.report_backlog(&Backlog { waiting }).await {
                        tracing::debug!(%error, "the backlog is told later");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    async fn backlog(&self) -> Result<BTreeMap<EdgeId, u64>, StoreError> {
        let mut waiting = BTreeMap::new();
        for scope in self.shared.homes.scopes() {
            let mut tx = TenantTx::begin(&self.shared.pool, &scope).await?;
            waiting.extend(exports::waiting(&mut tx).await?);
        }
        Ok(waiting)
    }
}
