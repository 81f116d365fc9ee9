//! Edges open and are cut as the policy says. A cut stops deliveries at once, is told to the importer until it has purged,
//! and then takes the edge's keys with it. What the policy asks about is acknowledged whether or not it ever was open here.

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use meridian_kit::client::ClientError;
use meridian_kit::db::{self, Scope, TenantTx};
use meridian_kit::evidence::{self, Entry, Kind, entry_of};
use meridian_kit::policy_feed::{Ack, AckRole, FeedError};
use meridian_policy::{CompiledEdge, EdgeId, Rule, TenantId};

use super::Exporter;
use crate::domain::edges::{Change, EdgeState, Known, Policy, changes};
use crate::domain::evidence::{OPENED, along, cut_by};
use crate::keys::EdgeKeyError;
use crate::store::StoreError;
use crate::store::exports::{self, ExportEdge};
use crate::wire::{Cut, Purge};

/// How often edges are looked at without a change of the policy: an expiry is noticed this soon.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
enum CutError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Peer(#[from] ClientError),
    #[error(transparent)]
    Key(#[from] EdgeKeyError),
    #[error(transparent)]
    Ack(#[from] FeedError),
}

impl From<db::Error> for CutError {
    fn from(error: db::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Exporter {
    /// Follows the policy until the process stops.
    ///
    /// # Errors
    /// Never.
    pub async fn keep_edges(self) -> Result<(), Infallible> {
        let stop = self.shared.start.stop();
        let mut policy = self.shared.feed.subscribe();
        loop {
            for scope in self.shared.homes.scopes() {
                if let Err(error) = self.follow_policy(&scope).await {
                    tracing::warn!(tenant = %scope.tenant(), %error, "edges could not be brought to what the policy says; trying again");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = policy.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Whether deliveries may pass along an edge, as far as this region's own record goes.
    pub(super) async fn is_open(&self, tenant: &TenantId, edge: &EdgeId) -> bool {
        let Some(scope) = self.shared.homes.scope(tenant) else {
            return false;
        };
        let state = async {
            let mut tx = TenantTx::begin(&self.shared.pool, &scope).await?;
            Ok::<_, StoreError>(exports::edges(&mut tx).await?.get(edge).map(|edge| edge.state))
        };
        matches!(state.await, Ok(Some(EdgeState::Open)))
    }

    async fn follow_policy(&self, scope: &Scope) -> Result<(), CutError> {
        let policy = self.shared.feed.current();
        let current = self.shared.feed.lease_valid();
        let ours: Vec<CompiledEdge> = policy
            .exports
            .iter()
            .filter(|edge| edge.tenant == *scope.tenant())
            .cloned()
            .collect();
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        let known = exports::edges(&mut tx).await?;
        let states = known
            .iter()
            .map(|(id, edge)| {
                (
                    id.clone(),
                    Known {
                        state: edge.state,
                        revision: edge.revision,
                    },
                )
            })
            .collect();
        let at_hand = Policy {
            revision: policy.revision,
            current,
            edges: &ours,
            held: &policy.held,
        };
        let (mut opened, mut cut) = (false, false);
        for change in changes(&states, at_hand, Timestamp::now()) {
            match change {
                Change::Open(id) => {
                    // `changes` opens only what it was given.
                    let Some(edge) = ours.iter().find(|edge| edge.id == id) else {
                        continue;
                    };
                    exports::open(&mut tx, edge, policy.revision).await?;
                    let entry = along(entry_of(&tx, Kind::PolicyChange), &id, Some(edge), policy.revision);
                    let rule = Some(OPENED.to_owned());
                    evidence::append(&mut tx, &Entry { rule, ..entry }).await?;
                    opened = true;
                }
                Change::Cut(id, rule) => {
                    if exports::cut(&mut tx, &id, rule, policy.revision).await? {
                        let edge = ours.iter().find(|edge| edge.id == id);
                        let entry = along(entry_of(&tx, Kind::PolicyChange), &id, edge, policy.revision);
                        let rule = Some(cut_by(rule));
                        evidence::append(&mut tx, &Entry { rule, ..entry }).await?;
                        cut = true;
                    }
                }
            }
        }
        let asked = self.shared.asked.of(&policy, |edge| {
            edge.from == policy.region && edge.tenant == *scope.tenant()
        });
        for edge in &asked {
            exports::close(&mut tx, edge, policy.revision).await?;
        }
        tx.commit().await?;
        self.shared.asked.remember(&policy, &asked);
        if cut {
            // Whoever looked at the policy before it changed has ended when this is granted.
            drop(self.shared.passage.write().await);
        }
        if opened {
            self.renew_leases().await;
        }
        if cut || opened {
            self.shared.wake.notify_one();
        }
        for edge in known.values().filter(|edge| edge.state != EdgeState::Open) {
            self.settle(scope, edge).await;
        }
        Ok(())
    }

    /// Brings a cut edge as far as it comes today: acknowledged, purged, acknowledged again.
    async fn settle(&self, scope: &Scope, edge: &ExportEdge) {
        if edge.reported && edge.state != EdgeState::Cutting || !self.shared.patience.is_over(&edge.edge) {
            return;
        }
        // Each is tried whatever becomes of the other: the importer must hear of the cut even if the operator is away.
        let reported = if edge.reported {
            Ok(())
        } else {
            self.report(scope, edge).await
        };
        let finished = if edge.state == EdgeState::Cutting {
            self.finish_cut(scope, edge).await
        } else {
            Ok(())
        };
        match reported.and(finished) {
            Ok(()) => self.shared.patience.forget(&edge.edge),
            Err(error) => {
                tracing::warn!(edge = %edge.edge, %error, "a cut is not acknowledged everywhere yet; trying again");
                self.shared.patience.wait_longer(&edge.edge);
            }
        }
    }

    /// Tells the importer, and ends the cut once it has purged.
    async fn finish_cut(&self, scope: &Scope, edge: &ExportEdge) -> Result<(), CutError> {
        // What was cut by an earlier start of this process may still be on its way.
        drop(self.shared.passage.write().await);
        let rule = edge.rule.parse::<Rule>().unwrap_or(Rule::NoEdge);
        let cut = Cut {
            edge: edge.edge.clone(),
            revision: self.shared.feed.current().revision,
            rule,
        };
        let purge: Purge = self
            .shared
            .peers
            .replicator(&edge.to)?
            .control
            .post("/peer/v1/cuts")
            .json(&cut)
            .fetch()
            .await?;
        if !purge.complete {
            return Ok(());
        }
        self.shared.edge_keys.destroy(scope.tenant(), &edge.edge).await?;
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        exports::finish_cut(&mut tx, &edge.edge, purge.purged, &purge.sinks).await?;
        tx.commit().await?;
        tracing::info!(edge = %edge.edge, count = purge.purged, "a cut edge's copies are purged at the importer");
        Ok(())
    }

    /// Acknowledges to the region operator: first that no delivery starts any more, then that the copies are gone.
    async fn report(&self, scope: &Scope, edge: &ExportEdge) -> Result<(), CutError> {
        drop(self.shared.passage.write().await);
        let ack = Ack {
            edge: edge.edge.clone(),
            role: AckRole::Exporter,
            revision: self.shared.feed.current().revision,
            purged: edge.purged,
            sinks: edge.sinks.clone(),
        };
        self.shared.feed.acknowledge(&ack).await?;
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        exports::mark_reported(&mut tx, &edge.edge, edge.state).await?;
        tx.commit().await?;
        Ok(())
    }
}
