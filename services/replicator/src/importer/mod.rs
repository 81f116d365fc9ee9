//! The side that data arrives at: lets in what its own policy lets in, keeps it under the origin's law, and deletes it
//! when the edge ends, by whoever's knowledge.

mod flat;
mod purge;
mod receive;
mod topic;

use std::sync::Arc;

use meridian_kit::db::{Pool, Scope};
use meridian_kit::event::EventSource;
use meridian_kit::outbox::AtHand;
use meridian_kit::policy_feed::PolicyFeed;
use meridian_kit::residency::Homes;
use meridian_kit::{Start, StartError};
use meridian_policy::CompiledEdge;
use tokio::sync::Notify;

use self::topic::ImportsTopic;
use crate::asked::Asked;
use crate::keys::EdgeKeys;
use crate::patience::Patience;

pub use self::purge::{PURGED, Purged};
pub use self::receive::{Pushed, ReceiveError};

/// Where this region's services hear of copies.
pub const TOPIC: &str = "imports.events";
/// Services that keep copies of what is in [`TOPIC`], and must have deleted theirs before a purge is acknowledged. Each
/// reads the topic in a group of its own name.
pub const SINKS: &[&str] = &["social"];

/// What the importer works with. Cheap to clone.
#[derive(Clone)]
pub struct Importer {
    shared: Arc<Shared>,
}

struct Shared {
    start: Start,
    pool: Pool,
    homes: Homes,
    feed: PolicyFeed,
    edge_keys: EdgeKeys,
    source: EventSource,
    /// What the relay need not read.
    just_committed: AtHand,
    topic: ImportsTopic,
    patience: Patience,
    asked: Asked,
    /// A purge may have come further.
    wake: Notify,
}

impl Importer {
    /// The importer of a region. What it has just stored it gives to the relay as well.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn new(start: &Start, at_hand: AtHand) -> Result<Self, StartError> {
        let shared = Shared {
            start: start.clone(),
            pool: start.database()?,
            homes: start.homes(),
            feed: start.feed().clone(),
            edge_keys: EdgeKeys::new(start.client("keyring")?),
            source: start.event_source(),
            just_committed: at_hand,
            topic: ImportsTopic::new(start.kafka()),
            patience: Patience::default(),
            asked: Asked::default(),
            wake: Notify::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The rows of the tenant that an edge arrives at.
    fn scope(&self, edge: &CompiledEdge) -> Option<Scope> {
        self.shared.homes.scope(&edge.importer_tenant)
    }
}
