//! The end of an import: rows, key, sinks, topic, in this order, each step repeated until it is done, then acknowledged.
//!
//! The key goes before the sinks are asked: a copy that is still on its way to one of them opens nowhere any more.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_kit::db::{self, Scope, TenantTx};
use meridian_kit::event::{Draft, Event, Imported};
use meridian_kit::evidence::{self, Entry, Kind, entry_of};
use meridian_kit::outbox;
use meridian_kit::policy_feed::{Ack, AckRole, FeedError};
use meridian_kit::subject_keys::{KeyScope, SubjectKey};
use meridian_policy::{CompiledEdge, CutEdge, DataClass, EdgeId, PolicyRevision, Rule};
use serde::Serialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::topic::TopicError;
use super::{Importer, SINKS, TOPIC};
use crate::domain::edges::{Change, EdgeState, Known, Policy, changes};
use crate::domain::evidence::{COPY_EXPIRED, PURGED as ALL_PURGED, along, cut_by};
use crate::keys::EdgeKeyError;
use crate::store::imports::{ImportEdge, SinkAck};
use crate::store::{StoreError, imports};
use crate::wire::Purge;

/// The type of the event that tells sinks to delete their copies. Edge, origin and the purge's id are in its envelope.
pub const PURGED: &str = "sh.meridian.import.purged.v1";

/// The payload of [`PURGED`]: nothing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Purged {}

/// How often edges are looked at without a change of the policy: an expiry is noticed this soon.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
enum PurgeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Key(#[from] EdgeKeyError),
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error(transparent)]
    Ack(#[from] FeedError),
}

impl From<db::Error> for PurgeError {
    fn from(error: db::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Importer {
    /// Follows the policy and carries purges on, until the process stops.
    ///
    /// # Errors
    /// Never.
    pub async fn keep_edges(self) -> Result<(), Infallible> {
        let stop = self.shared.start.stop();
        let mut policy = self.shared.feed.subscribe();
        loop {
            for scope in self.shared.homes.scopes() {
                if let Err(error) = self.follow_policy(&scope).await {
                    tracing::warn!(tenant = %scope.tenant(), %error, "imports could not be brought to what the policy says; trying again");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = policy.changed() => {}
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn follow_policy(&self, scope: &Scope) -> Result<(), PurgeError> {
        let policy = self.shared.feed.current();
        let arriving: Vec<CompiledEdge> = policy
            .imports
            .iter()
            .filter(|edge| edge.importer_tenant == *scope.tenant())
            .cloned()
            .collect();
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        let known = imports::edges(&mut tx).await?;
        tx.commit().await?;
        let states: BTreeMap<EdgeId, Known> = known
            .iter()
            .map(|edge| {
                (
                    edge.edge.clone(),
                    Known {
                        state: edge.state,
                        revision: edge.revision,
                    },
                )
            })
            .collect();
        // Never current: an import is opened by its exporter's lease, not by our policy alone.
        let at_hand = Policy {
            revision: policy.revision,
            current: false,
            edges: &arriving,
            held: &policy.held,
        };
        for change in changes(&states, at_hand, Timestamp::now()) {
            if let Change::Cut(id, rule) = change {
                self.begin_purge(scope, &id, rule, policy.revision).await?;
            }
        }
        let arrived = |edge: &CutEdge| edge.to == policy.region && edge.importer_tenant == *scope.tenant();
        let asked = self.shared.asked.of(&policy, arrived);
        if !asked.is_empty() {
            let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
            for edge in &asked {
                imports::close(&mut tx, edge, policy.revision).await?;
            }
            tx.commit().await?;
            self.shared.asked.remember(&policy, &asked);
        }
        self.expire(scope, policy.revision).await?;
        for edge in known.iter().filter(|edge| edge.state != EdgeState::Open) {
            self.settle(scope, edge).await;
        }
        Ok(())
    }

    /// Deletes copies that have outlived their own expiry while their edge lives on (it was renewed after they came).
    async fn expire(&self, scope: &Scope, revision: PolicyRevision) -> Result<(), StoreError> {
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        for (edge, count) in imports::expire(&mut tx).await? {
            let entry = along(entry_of(&tx, Kind::Purge), &edge, None, revision);
            let purged = Entry {
                rule: Some(COPY_EXPIRED.to_owned()),
                count: u64::try_from(count).ok(),
                ..entry
            };
            evidence::append(&mut tx, &purged).await?;
        }
        Ok(tx.commit().await?)
    }

    async fn settle(&self, scope: &Scope, edge: &ImportEdge) {
        if edge.reported || !self.shared.patience.is_over(&edge.edge) {
            return;
        }
        let settled = match edge.state {
            EdgeState::Open => Ok(()),
            EdgeState::Cutting => self.carry_on(scope, edge).await,
            EdgeState::Cut => self.report(scope, edge).await,
        };
        match settled {
            Ok(()) => self.shared.patience.forget(&edge.edge),
            Err(error) => {
                tracing::warn!(edge = %edge.edge, %error, "a purge cannot go on just now; trying again");
                self.shared.patience.wait_longer(&edge.edge);
            }
        }
    }

    /// Stops an import and deletes its copies here, and tells the sinks, in one transaction. Nothing where it is not open.
    pub(super) async fn begin_purge(
        &self,
        scope: &Scope,
        edge: &EdgeId,
        rule: Rule,
        revision: PolicyRevision,
    ) -> Result<(), StoreError> {
        let purge_id = Uuid::now_v7();
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        let Some(deleted) = imports::begin_purge(&mut tx, edge, purge_id, rule, revision).await? else {
            return Ok(());
        };
        let entry = along(entry_of(&tx, Kind::PolicyChange), edge, None, revision);
        let cut = Entry {
            rule: Some(cut_by(rule)),
            count: Some(deleted),
            ..entry
        };
        evidence::append(&mut tx, &cut).await?;
        let origin = imports::edge_kept(&mut tx, edge).await?.map(|edge| edge.origin);
        let event = self.purge_event(scope, edge, origin, purge_id)?;
        outbox::append_keyed(&mut tx, TOPIC, edge.as_str(), &event).await?;
        tx.commit().await?;
        tracing::info!(edge = %edge, rule = %rule, count = deleted, "an import is cut; its copies are being purged");
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Its payload says nothing and is sealed under a key that nobody has: all that sinks need is in the envelope.
    fn purge_event(
        &self,
        scope: &Scope,
        edge: &EdgeId,
        origin: Option<meridian_policy::RegionName>,
        purge_id: Uuid,
    ) -> Result<Event, StoreError> {
        let mut throwaway = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(throwaway.as_mut_slice()).map_err(|_| StoreError::Random)?;
        let nobody = SubjectId(Uuid::nil());
        let key = SubjectKey::from_bytes(
            scope.tenant().clone(),
            nobody,
            KeyScope::Import(edge.clone()),
            throwaway,
        );
        let draft = Draft {
            kind: PURGED,
            stream: edge.to_string(),
            sequence: 1,
            class: DataClass::Operational,
            epoch: scope.epoch(),
        };
        let now = Timestamp::now();
        let event = Event::sealed_at(&self.shared.source, draft, purge_id, now, &key, &Purged {});
        let event = event.map_err(|_| StoreError::Random)?;
        let origin = origin.unwrap_or_else(|| self.shared.start.region().clone());
        Ok(event.imported(Imported {
            origin,
            edge: edge.clone(),
            expires: now,
        }))
    }

    /// The steps after the rows are gone.
    async fn carry_on(&self, scope: &Scope, edge: &ImportEdge) -> Result<(), PurgeError> {
        let Some(purge_id) = edge.purge_id else {
            return Err(StoreError::Row {
                table: "import_edge",
                column: "purge_id",
            }
            .into());
        };
        self.shared.edge_keys.destroy(scope.tenant(), &edge.edge).await?;
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        let relayed = imports::relayed(&mut tx, purge_id).await?;
        let acks = imports::acknowledgements(&mut tx, purge_id).await?;
        tx.commit().await?;
        if !relayed {
            return Ok(());
        }
        let upto = match &edge.purge_upto {
            Some(upto) => upto.clone(),
            None => {
                let upto = self.shared.topic.ends().await?;
                let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
                imports::set_purge_upto(&mut tx, &edge.edge, purge_id, &upto).await?;
                tx.commit().await?;
                upto
            }
        };
        if !SINKS.iter().all(|sink| acks.iter().any(|ack| ack.sink == *sink)) {
            return Ok(());
        }
        // Other edges' copies lie among these records: they are deleted only when every sink is past them.
        if !self.shared.topic.passed(SINKS, &upto).await? {
            return Ok(());
        }
        self.shared.topic.delete_upto(&upto).await?;
        self.finish(scope, edge, purge_id, &acks).await
    }

    async fn finish(
        &self,
        scope: &Scope,
        edge: &ImportEdge,
        purge_id: Uuid,
        acks: &[SinkAck],
    ) -> Result<(), PurgeError> {
        let revision = self.shared.feed.current().revision;
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        if imports::finish_purge(&mut tx, &edge.edge, purge_id).await? {
            let entry = along(entry_of(&tx, Kind::Purge), &edge.edge, None, revision);
            let purged = Entry {
                rule: Some(ALL_PURGED.to_owned()),
                count: Some(total(edge, acks)),
                ..entry
            };
            evidence::append(&mut tx, &purged).await?;
        }
        tx.commit().await?;
        self.shared.wake.notify_one();
        Ok(())
    }

    async fn report(&self, scope: &Scope, edge: &ImportEdge) -> Result<(), PurgeError> {
        let purge = self.progress(scope, &edge.edge).await?;
        let ack = Ack {
            edge: edge.edge.clone(),
            role: AckRole::Importer,
            revision: self.shared.feed.current().revision,
            purged: purge.purged,
            sinks: purge.sinks,
        };
        self.shared.feed.acknowledge(&ack).await?;
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        imports::mark_reported(&mut tx, &edge.edge).await?;
        tx.commit().await?;
        Ok(())
    }

    /// How far a purge is.
    pub(super) async fn progress(&self, scope: &Scope, edge: &EdgeId) -> Result<Purge, StoreError> {
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        let Some(known) = imports::edge_kept(&mut tx, edge).await? else {
            return Ok(Purge {
                complete: true,
                purged: 0,
                sinks: Vec::new(),
            });
        };
        let acks = match known.purge_id {
            Some(purge_id) => imports::acknowledgements(&mut tx, purge_id).await?,
            None => Vec::new(),
        };
        Ok(Purge {
            complete: known.state == EdgeState::Cut,
            purged: total(&known, &acks),
            sinks: ["replicator".to_owned()]
                .into_iter()
                .chain(acks.into_iter().map(|ack| ack.sink))
                .collect(),
        })
    }

    /// Records that a sink has deleted its copies. False: there is no such purge.
    ///
    /// # Errors
    /// The database.
    pub async fn acknowledge(
        &self,
        scope: &Scope,
        edge: &EdgeId,
        purge_id: Uuid,
        ack: &SinkAck,
    ) -> Result<bool, StoreError> {
        let mut tx = TenantTx::begin(&self.shared.pool, scope).await?;
        let known = imports::acknowledge(&mut tx, edge, purge_id, ack).await?;
        tx.commit().await?;
        self.shared.wake.notify_one();
        Ok(known)
    }
}

fn total(edge: &ImportEdge, acks: &[SinkAck]) -> u64 {
    acks.iter().fold(edge.purged, |sum, ack| sum.saturating_add(ack.purged))
}
