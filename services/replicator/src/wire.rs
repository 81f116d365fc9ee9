//! What replicators of two regions say to each other, `/peer/v1/…`.

use meridian_kit::event::Event;
use meridian_kit::subject_keys::WireKey;
use meridian_policy::{EdgeId, PolicyRevision, Rule};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// `POST /peer/v1/batches`: copies, sealed under the edge's import key. All of them are taken or none.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Along which edge.
    pub edge: EdgeId,
    /// The exporter's policy.
    pub revision: PolicyRevision,
    /// The copies.
    pub events: Vec<Event>,
}

/// The SHA-256 of a batch as it crosses the border: the exporter's evidence and the importer's name it alike.
pub fn digest(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stored {
    /// Copies that were new.
    pub stored: u64,
    /// Copies that were there already: a repeated push.
    pub repeated: u64,
}

/// `POST /peer/v1/leases`: the key that copies are sealed under, for a while.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyLease {
    /// Of which edge.
    pub edge: EdgeId,
    /// The key.
    pub key: WireKey,
    /// How long it may be used, from when it was received.
    pub valid_for_ms: u64,
}

/// `POST /peer/v1/cuts`: the edge carries nothing any more, and what it carried is to be deleted. Repeated until the
/// answer says that it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Which edge.
    pub edge: EdgeId,
    /// The exporter's policy.
    pub revision: PolicyRevision,
    /// The rule that cut it.
    pub rule: Rule,
}

/// How far an importer is with a purge.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Purge {
    /// Nothing of the edge is left: tables, topics and every sink.
    pub complete: bool,
    /// Copies deleted so far.
    pub purged: u64,
    /// Who has acknowledged.
    pub sinks: Vec<String>,
}
