//! Clients for the replicators of other regions: mTLS both ways, the other region's CA pinned by the policy. Copies have
//! connections of their own, whose every byte is counted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use meridian_kit::Start;
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_kit::counted::CountedClient;
use meridian_kit::tls::PeerId;
use meridian_policy::{EdgeId, RegionName};
use prometheus_client::metrics::counter::Counter;

use crate::domain::reception::{Push, Reception};
use crate::wire::{Form, Leased};

/// Clients by region and address; made when first needed.
pub(super) struct Peers {
    start: Start,
    egress: Counter,
    known: Mutex<HashMap<(RegionName, String), Peer>>,
    /// What is known of edges' importers.
    receptions: Mutex<HashMap<EdgeId, Reception>>,
}

/// How another region's replicator is reached.
#[derive(Clone)]
pub(super) struct Peer {
    /// For leases and cuts.
    pub(super) control: ServiceClient,
    /// For copies.
    pub(super) copies: CountedClient,
}

impl Peers {
    pub(super) fn new(start: &Start, egress: Counter) -> Self {
        Self {
            start: start.clone(),
            egress,
            known: Mutex::default(),
            receptions: Mutex::default(),
        }
    }

    /// Copies that go to an edge's importer at once.
    pub(super) fn most(&self, edge: &EdgeId) -> usize {
        self.reception(edge, |reception| reception.most(Instant::now()))
    }

    /// Bytes that go to an edge's importer at once, about.
    pub(super) fn most_bytes(&self, edge: &EdgeId) -> usize {
        self.reception(edge, |reception| reception.most_bytes(Instant::now()))
    }

    /// In which form copies go to an edge's importer.
    pub(super) fn form(&self, edge: &EdgeId) -> Form {
        self.reception(edge, |reception| reception.form(Instant::now()))
    }

    /// An edge's importer has answered a lease.
    pub(super) fn has_leased(&self, edge: &EdgeId, leased: Leased) {
        self.reception(edge, |reception| reception.has_leased(leased));
    }

    /// What an edge's importer said to a push. True: it is of an older version, and the same goes again as that takes it.
    pub(super) fn learn(&self, edge: &EdgeId, push: &Push, said: &Result<(), ClientError>) -> bool {
        let newer = self.reception(edge, |reception| reception.learn(push, said, Instant::now()));
        if let Some(reason) = newer {
            tracing::warn!(%edge, ?reason, "an importer is of an older version, and gets what that takes");
        }
        newer.is_some()
    }

    fn reception<T>(&self, edge: &EdgeId, f: impl FnOnce(&mut Reception) -> T) -> T {
        f(lock(&self.receptions).entry(edge.clone()).or_default())
    }

    /// The replicator of a region that the policy knows.
    pub(super) fn replicator(&self, region: &RegionName) -> Result<Peer, ClientError> {
        let policy = self.start.feed().current();
        let told = policy.peer(region).ok_or_else(|| ClientError::Unreachable {
            peer: region.to_string(),
            problem: "the policy has no such peer".to_owned(),
        })?;
        let key = (region.clone(), told.replicator_url.clone());
        let mut known = lock(&self.known);
        if let Some(peer) = known.get(&key) {
            return Ok(peer.clone());
        }
        let expected = PeerId::new(region.clone(), crate::REPLICATOR);
        let peer = Peer {
            control: ServiceClient::peer(self.start.tls(), &key.1, expected.clone())?,
            copies: CountedClient::new(self.start.tls(), &key.1, expected, self.egress.clone())?,
        };
        // An address that changed leaves its client behind; regions are few and addresses change rarely.
        known.insert(key, peer.clone());
        Ok(peer)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
