//! The side that data leaves from: decides, redacts, asks the subject's consent, pushes, and takes back.

mod at_hand;
mod backlog;
mod consent;
mod cuts;
mod deliver;
mod leases;
mod only;
mod peers;
mod queue;
mod record;

use std::sync::Arc;

use meridian_kit::db::Pool;
use meridian_kit::policy_feed::PolicyFeed;
use meridian_kit::residency::Homes;
use meridian_kit::subject_keys::Keyring;
use meridian_kit::{Start, StartError};
use meridian_policy::DataClass;
use meridian_policy::catalogue::{self, FieldKind};
use tokio::sync::{Notify, RwLock};

use self::at_hand::AtHand;
use self::consent::Consent;
use self::peers::Peers;
use crate::asked::Asked;
use crate::keys::EdgeKeys;
use crate::metrics::Meters;
use crate::patience::Patience;

pub use self::queue::Queue;

/// Where the shares of this region come from.
pub const SOURCES: &[&str] = &["social.events"];

/// The class of an event's field, by the catalogue.
fn class_of(event_type: &str, field: &str) -> Option<DataClass> {
    catalogue::class_of(FieldKind::EventField, event_type, field)
}

/// What the exporter works with. Cheap to clone.
#[derive(Clone)]
pub struct Exporter {
    shared: Arc<Shared>,
}

struct Shared {
    start: Start,
    pool: Pool,
    homes: Homes,
    feed: PolicyFeed,
    keyring: Keyring,
    edge_keys: EdgeKeys,
    consent: Consent,
    peers: Peers,
    meters: Meters,
    /// A delivery holds it shared from its last look at the policy until its push has ended; a cut takes it alone before
    /// it is acknowledged. So no delivery starts after an acknowledged cut.
    passage: RwLock<()>,
    /// Something may be due.
    wake: Notify,
    /// When to tell of a cut again.
    patience: Patience,
    asked: Asked,
    at_hand: AtHand,
}

impl Exporter {
    /// The exporter of a region.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn new(start: &Start, meters: Meters) -> Result<Self, StartError> {
        let shared = Shared {
            start: start.clone(),
            pool: start.database()?,
            homes: start.homes(),
            feed: start.feed().clone(),
            keyring: start.keyring()?,
            edge_keys: EdgeKeys::new(start.client("keyring")?),
            consent: Consent::new(start.client("consent")?),
            peers: Peers::new(start, meters.egress()),
            meters,
            passage: RwLock::new(()),
            wake: Notify::new(),
            patience: Patience::default(),
            asked: Asked::default(),
            at_hand: AtHand::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }
}
