//! Events that an edge concerns are queued for it, in the transaction that marks them as consumed: from then on they are
//! delivered or end with an entry of evidence. A round of the consumer is one transaction per tenant.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use meridian_kit::db::{Scope, TenantTx};
use meridian_kit::inbox;
use meridian_kit::kafka::{BatchHandler, Consumed, Failure};
use meridian_policy::{DataClass, EdgeId, RegionPolicy, TenantId};

use super::{Exporter, class_of};
use crate::domain::admission::LARGEST_BATCH;
use crate::domain::outgoing::concerns;
use crate::store::exports;

/// The consumer of this region's own events.
pub struct Queue(pub Exporter);

impl BatchHandler for Queue {
    /// As many as go in one push.
    const ROUND: usize = LARGEST_BATCH;

    async fn handle(&self, events: &[Consumed<'_>]) -> Result<(), Failure> {
        let mut of_tenants: BTreeMap<&TenantId, Vec<Consumed<'_>>> = BTreeMap::new();
        for consumed in events {
            of_tenants.entry(&consumed.event.tenant).or_default().push(*consumed);
        }
        let mut stranger = false;
        for (tenant, events) in of_tenants {
            match self.0.shared.homes.scope(tenant) {
                Some(scope) => self.queue(&scope, &events).await?,
                None => stranger = true,
            }
        }
        if stranger {
            // The policy may be a moment behind; after the attempts the event is kept among the dead letters.
            let reason = "an event's tenant is not at home in this region";
            return Err(Failure::Retry(reason.to_owned()));
        }
        Ok(())
    }
}

impl Queue {
    async fn queue(&self, scope: &Scope, events: &[Consumed<'_>]) -> Result<(), Failure> {
        let exporter = &self.0.shared;
        let policy = exporter.feed.current();
        let mut tx = TenantTx::begin(&exporter.pool, scope).await?;
        let ids: Vec<_> = events.iter().map(|consumed| consumed.event.id).collect();
        let fresh: HashSet<_> = inbox::mark(&mut tx, exporter.start.service(), &ids)
            .await?
            .into_iter()
            .collect();
        // A round has many events of few kinds, and all of a kind go the same ways.
        let mut ways: BTreeMap<(&str, DataClass), Vec<&EdgeId>> = BTreeMap::new();
        let mut queued: Vec<(&EdgeId, Consumed<'_>)> = Vec::with_capacity(events.len());
        for consumed in events {
            let event = consumed.event;
            if event.origin.is_some() || !fresh.contains(&event.id) {
                continue;
            }
            let way = ways.entry((event.kind.as_str(), event.class));
            let way = way.or_insert_with(|| edges_of(&policy, scope.tenant(), &event.kind, event.class).collect());
            queued.extend(way.iter().map(|edge| (*edge, *consumed)));
        }
        if queued.is_empty() {
            tx.commit().await?;
            return Ok(());
        }
        let copies = exports::queue(&mut tx, &queued).await?;
        tx.commit().await?;
        let events = queued.into_iter().map(|(_, consumed)| Arc::clone(consumed.event));
        exporter.at_hand.keep(copies.into_iter().zip(events), Instant::now());
        exporter.wake.notify_one();
        Ok(())
    }
}

/// The edges that a tenant's events of a type and class are queued for. Where one is held they wait, like what is queued
/// already: what was shared meanwhile is not lost.
fn edges_of<'a>(
    policy: &'a RegionPolicy,
    tenant: &TenantId,
    kind: &str,
    class: DataClass,
) -> impl Iterator<Item = &'a EdgeId> {
    let open = policy
        .exports
        .iter()
        .filter(move |edge| edge.tenant == *tenant && concerns(edge, kind, class_of));
    let named = format!("{tenant}.{class}.");
    let held = policy
        .held
        .iter()
        .filter(move |edge| edge.id.as_str().starts_with(&named));
    open.map(|edge| &edge.id).chain(held.map(|edge| &edge.id))
}
