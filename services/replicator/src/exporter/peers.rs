//! Clients for the replicators of other regions: mTLS both ways, the other region's CA pinned by the policy. Copies have
//! connections of their own, whose every byte is counted.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meridian_kit::Start;
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_kit::counted::CountedClient;
use meridian_kit::tls::PeerId;
use meridian_policy::RegionName;
use prometheus_client::metrics::counter::Counter;

use crate::domain::admission::{ALWAYS_TAKEN, LARGEST_BATCH};
use crate::wire::{Form, Leased};

/// How long an importer that did not take something is believed not to: after that it may have been upgraded.
const BELIEVED_FOR: Duration = Duration::from_secs(600);

/// Clients by region and address; made when first needed.
pub(super) struct Peers {
    start: Start,
    egress: Counter,
    known: Mutex<HashMap<(RegionName, String), Peer>>,
    /// What regions' replicators said last that they take.
    leased: Mutex<HashMap<RegionName, Leased>>,
    /// What replicators of an older version did not take, and until when that is believed.
    not_taken: Mutex<HashMap<(RegionName, Newer), Instant>>,
}

/// What importers of older versions do not take.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Newer {
    /// More than [`ALWAYS_TAKEN`] copies at once.
    Large,
    /// [`Form::Carried`].
    Carried,
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
            leased: Mutex::default(),
            not_taken: Mutex::default(),
        }
    }

    /// Events that a region's replicator takes in one batch.
    pub(super) fn most(&self, region: &RegionName) -> usize {
        if self.may_take(region, Newer::Large) {
            LARGEST_BATCH
        } else {
            ALWAYS_TAKEN
        }
    }

    /// In which form a region's replicator takes copies: whole, until it says that it takes what is carried.
    pub(super) fn form(&self, region: &RegionName) -> Form {
        let leased = lock(&self.leased).get(region).copied().unwrap_or_default();
        if leased.carried && self.may_take(region, Newer::Carried) {
            Form::Carried
        } else {
            Form::Whole
        }
    }

    fn may_take(&self, region: &RegionName, newer: Newer) -> bool {
        let not_taken = lock(&self.not_taken);
        let until = not_taken.get(&(region.clone(), newer));
        until.is_none_or(|until| Instant::now() >= *until)
    }

    /// A region's replicator has answered a lease.
    pub(super) fn has_leased(&self, region: &RegionName, leased: Leased) {
        lock(&self.leased).insert(region.clone(), leased);
    }

    /// A region's replicator did not take something, whatever it said: one of its processes is of an older version.
    pub(super) fn found_older(&self, region: &RegionName, newer: Newer) {
        let until = Instant::now() + BELIEVED_FOR;
        lock(&self.not_taken).insert((region.clone(), newer), until);
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
