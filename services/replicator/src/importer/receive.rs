//! What a peer's replicator may do here: lease a key, push a batch, cut an edge.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use meridian_kit::db::TenantTx;
use meridian_kit::event::Event;
use meridian_kit::evidence::{self, Entry, Kind, commit_to, entry_of};
use meridian_kit::outbox::{self, Appended};
use meridian_kit::policy_feed::{Ack, AckRole, FeedError};
use meridian_kit::problem::{Problem, parse_json};
use meridian_kit::subject_keys::{Bulk, KeyScope, SubjectKey};
use meridian_policy::{CompiledEdge, EdgeId, RegionName, RegionPolicy, Rule};

use super::flat::Flat;
use super::{Importer, TOPIC};
use crate::domain::admission::{Arriving, LARGEST_BATCH, NotAdmitted, admit, admit_edge};
use crate::domain::evidence::along;
use crate::keys::{EdgeKeyError, NOBODY};
use crate::store::{StoreError, imports};
use crate::wire::{Batch, CarriedBatch, Cut, Form, KeyLease, Leased, Purge, Stored, as_event, digest};

/// A lease never counts longer than this, whatever the exporter says.
const LONGEST_LEASE: Duration = Duration::from_secs(15);

/// Why nothing of a peer's request was done.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Our policy, or the request itself.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// There is no valid lease of the edge's key.
    #[error("no key is leased for the edge: lease it first")]
    NotLeased,
    /// The key was destroyed here.
    #[error("this key was destroyed here: begin with a new one")]
    Retired,
    /// A copy does not open under the leased key.
    #[error("a copy does not open under the edge's leased key, or is not a flat object")]
    Unreadable,
    /// The importing tenant is not at home here, or is just arriving.
    #[error("the importing tenant is not at home here yet")]
    NotHome,
    /// Our own parts.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keyring.
    #[error(transparent)]
    Key(EdgeKeyError),
    /// The region operator does not know yet.
    #[error(transparent)]
    Ack(#[from] FeedError),
}

impl From<meridian_kit::db::Error> for ReceiveError {
    fn from(error: meridian_kit::db::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<EdgeKeyError> for ReceiveError {
    fn from(error: EdgeKeyError) -> Self {
        match error {
            EdgeKeyError::Absent => Self::NotLeased,
            EdgeKeyError::Retired => Self::Retired,
            error @ EdgeKeyError::Keyring(_) => Self::Key(error),
        }
    }
}

impl From<ReceiveError> for Problem {
    fn from(error: ReceiveError) -> Self {
        let message = error.to_string();
        match error {
            ReceiveError::NotAdmitted(NotAdmitted::BeingCut) => Self::conflict(NotAdmitted::BeingCut.code(), message),
            ReceiveError::NotAdmitted(why @ (NotAdmitted::NotUnderstood | NotAdmitted::OtherTenant)) => {
                Self::unavailable(why.code(), message)
            }
            ReceiveError::NotAdmitted(why) => Self::forbidden(why.code(), message).rule(why.code()),
            ReceiveError::NotLeased => Self::unavailable("key-not-leased", message),
            ReceiveError::Retired => Self::conflict("key-retired", message),
            ReceiveError::Unreadable => Self::new(StatusCode::BAD_REQUEST, "copy-unreadable", message),
            ReceiveError::NotHome => Self::unavailable("tenant-arriving", message),
            ReceiveError::Store(error) => error.into(),
            ReceiveError::Key(EdgeKeyError::Keyring(error)) => error.into(),
            ReceiveError::Key(error) => Self::internal(&error),
            ReceiveError::Ack(error) => Self::unavailable("not-acknowledged", error.to_string()),
        }
    }
}

/// What a peer pushes along an edge.
#[derive(Debug)]
pub enum Pushed {
    /// Whole events, as the exporter's policy has the edge.
    Whole(Batch),
    /// Of each copy what is its own.
    Carried(CarriedBatch),
}

impl Pushed {
    /// Reads the body of a push of that form.
    ///
    /// # Errors
    /// When it is none; names the field.
    pub fn read(form: Form, body: &[u8]) -> Result<Self, Problem> {
        match form {
            Form::Whole => parse_json(body).map(Self::Whole),
            Form::Carried => match CarriedBatch::as_written(body) {
                Some(batch) => Ok(Self::Carried(batch)),
                None => parse_json(body).map(Self::Carried),
            },
        }
    }

    fn edge(&self) -> &EdgeId {
        match self {
            Self::Whole(batch) => &batch.edge,
            Self::Carried(batch) => &batch.edge,
        }
    }

    /// The copies as events along the edge as our policy has it.
    fn events(self, edge: &CompiledEdge) -> Result<Vec<Event>, NotAdmitted> {
        match self {
            // What each of them claims is looked at when it is open.
            Self::Whole(batch) => Ok(batch.events),
            Self::Carried(batch) if batch.tenant != edge.importer_tenant => Err(NotAdmitted::OtherTenant),
            Self::Carried(batch) => Ok(batch.events.into_iter().map(as_event(edge)).collect()),
        }
    }
}

impl Importer {
    /// Takes an edge's key for a while; the first lease opens the edge.
    ///
    /// # Errors
    /// Our policy has no such lawful import, the edge is being purged, or the key was destroyed here.
    pub async fn lease(&self, sender: &RegionName, lease: KeyLease) -> Result<Leased, ReceiveError> {
        let now = Timestamp::now();
        let policy = self.shared.feed.current();
        let edge = admitted(&policy, &lease.edge, sender, now)?;
        let scope = self.scope(edge).ok_or(ReceiveError::NotHome)?;
        let lawful_for = Duration::try_from(edge.expires.duration_since(now)).unwrap_or_default();
        let valid_for = Duration::from_millis(lease.valid_for_ms)
            .min(LONGEST_LEASE)
            .min(lawful_for);
        let mut tx = TenantTx::begin(&self.shared.pool, &scope).await?;
        if !imports::open(&mut tx, edge, policy.revision).await? {
            return Err(NotAdmitted::BeingCut.into());
        }
        // Inside the transaction that holds the edge's row: a purge that begins meanwhile waits, and destroys this key.
        self.shared
            .edge_keys
            .lease(&edge.importer_tenant, &edge.id, lease.key.0, valid_for)
            .await?;
        tx.commit().await?;
        Ok(Leased {
            carried: true,
            copies: Some(LARGEST_BATCH),
        })
    }

    /// Stores a batch, which arrived as `body`: all of it, or nothing with an entry of evidence.
    ///
    /// # Errors
    /// Something in it is not what our policy lets in, or no key is leased.
    pub async fn receive(&self, sender: &RegionName, pushed: Pushed, body: &[u8]) -> Result<Stored, ReceiveError> {
        let now = Timestamp::now();
        let policy = self.shared.feed.current();
        let edge = admitted(&policy, pushed.edge(), sender, now)?;
        let differs = |error: &NotAdmitted| tracing::warn!(edge = %edge.id, %error, "a push waits at its exporter");
        let mut events = pushed.events(edge).inspect_err(differs)?;
        let scope = self.scope(edge).ok_or(ReceiveError::NotHome)?;
        let key = self.shared.edge_keys.of_import(&edge.importer_tenant, &edge.id).await?;
        let import = KeyScope::Import(edge.id.clone());
        let key = SubjectKey::from_bytes(edge.importer_tenant.clone(), NOBODY, import, key);
        let mut bulk = Bulk::of(1);
        let mut arriving = Vec::with_capacity(events.len());
        let mut authors = BTreeMap::new();
        // One more than may come shows that there are too many.
        for event in events.iter().take(LARGEST_BATCH + 1) {
            let key = key.for_subject(event.data_subject);
            arriving.push(opened(edge, event, &mut bulk, &key)?);
            authors.insert(event.data_subject, key);
        }
        drop(bulk);
        if let Err(why) = admit(&arriving, edge, now) {
            let mut tx = TenantTx::begin(&self.shared.pool, &scope).await?;
            let entry = along(entry_of(&tx, Kind::Refusal), &edge.id, Some(edge), policy.revision);
            let mut refusal = Entry {
                rule: Some(why.code().to_owned()),
                count: Some(events.len() as u64),
                ..entry
            };
            commit_to(&mut refusal, authors.values()).map_err(StoreError::from)?;
            evidence::append(&mut tx, &refusal).await?;
            tx.commit().await?;
            return Err(why.into());
        }
        let mut tx = TenantTx::begin(&self.shared.pool, &scope).await?;
        // The row stays as it is until this commits: a purge begins before these copies or deletes them as well.
        let known = imports::edge_kept(&mut tx, &edge.id).await?;
        match known.map(|known| known.state) {
            Some(crate::domain::edges::EdgeState::Open) => {}
            Some(crate::domain::edges::EdgeState::Cutting) => return Err(NotAdmitted::BeingCut.into()),
            Some(crate::domain::edges::EdgeState::Cut) | None => return Err(ReceiveError::NotLeased),
        }
        let total = events.len();
        let stored = imports::keep(&mut tx, edge, &events, edge.epoch).await?;
        let mut appended = Appended::default();
        if !stored.is_empty() {
            events.iter_mut().for_each(|event| event.epoch = scope.epoch());
            let mut left = stored.clone();
            let new: Vec<&Event> = events.iter().filter(|event| left.remove(&event.id)).collect();
            // Keyed by the edge: its purge comes after all of its copies, for every reader.
            appended = outbox::append_all_keyed(&mut tx, TOPIC, edge.id.as_str(), &new).await?;
            let entry = along(entry_of(&tx, Kind::Transfer), &edge.id, Some(edge), policy.revision);
            let mut arrival = Entry {
                count: Some(stored.len() as u64),
                bytes: Some(body.len() as u64),
                digest: Some(digest(body)),
                ..entry
            };
            commit_to(&mut arrival, authors.values()).map_err(StoreError::from)?;
            evidence::append(&mut tx, &arrival).await?;
        }
        tx.commit().await?;
        self.shared.just_committed.keep(appended);
        Ok(Stored {
            stored: stored.len() as u64,
            repeated: (total - stored.len()) as u64,
        })
    }

    /// Begins the purge of an edge that its exporter has cut, or says how far it is.
    ///
    /// # Errors
    /// The edge is another region's, or our own parts failed.
    pub async fn cut(&self, sender: &RegionName, cut: &Cut) -> Result<Purge, ReceiveError> {
        // Our policy may have lost the edge already: what it was is on record.
        for scope in self.shared.homes.scopes() {
            let mut tx = TenantTx::begin(&self.shared.pool, &scope).await?;
            let Some(edge) = imports::edge_kept(&mut tx, &cut.edge).await? else {
                continue;
            };
            drop(tx);
            if edge.origin != *sender {
                return Err(NotAdmitted::Impostor.into());
            }
            // On record is always our own policy's revision, whoever's word it was.
            let revision = self.shared.feed.current().revision;
            self.begin_purge(&scope, &cut.edge, cut.rule, revision).await?;
            return Ok(self.progress(&scope, &cut.edge).await?);
        }
        self.never_arrived(sender, cut).await
    }

    /// The answer to a cut of an edge that is not on record with any tenant at home here. Records are only found under
    /// their own tenant: where the importing one is unknown (not here yet, or gone from the policy), that none was found
    /// says nothing, and the exporter has to ask again.
    async fn never_arrived(&self, sender: &RegionName, cut: &Cut) -> Result<Purge, ReceiveError> {
        let policy = self.shared.feed.current();
        if !receives(&policy, sender, &cut.edge) {
            tracing::warn!(edge = %cut.edge, "an edge was cut whose importing tenant is not at home here; its purge cannot be told");
            return Ok(Purge {
                complete: false,
                purged: 0,
                sinks: Vec::new(),
            });
        }
        let purge = Purge {
            complete: true,
            purged: 0,
            sinks: vec!["replicator".to_owned()],
        };
        // Whoever waits for the acknowledgement of this side waits for it here as well.
        let ack = Ack {
            edge: cut.edge.clone(),
            role: AckRole::Importer,
            revision: policy.revision,
            purged: purge.purged,
            sinks: purge.sinks.clone(),
        };
        self.shared.feed.acknowledge(&ack).await?;
        tracing::info!(edge = %cut.edge, rule = %Rule::NoEdge, "an edge was cut that never arrived here");
        Ok(purge)
    }
}

/// A copy as it is looked at, opened under the edge's key.
fn opened(edge: &CompiledEdge, event: &Event, bulk: &mut Bulk, key: &SubjectKey) -> Result<Arriving, ReceiveError> {
    let opened = event.open_as(bulk, key, PhantomData);
    let Flat(fields) = opened.map_err(|_| ReceiveError::Unreadable)?;
    let claimed = event.tenant == edge.importer_tenant && event.key_scope == *key.scope();
    Ok(Arriving {
        id: event.id,
        edge: event.edge.clone().filter(|_| claimed),
        origin: event.origin.clone(),
        class: event.class,
        time: event.time,
        expires: event.expires,
        fields,
    })
}

/// The edge, if anything may come along it from `sender` at `now`.
fn admitted<'a>(
    policy: &'a RegionPolicy,
    edge: &EdgeId,
    sender: &RegionName,
    now: Timestamp,
) -> Result<&'a CompiledEdge, NotAdmitted> {
    if policy.holds(edge) {
        return Err(NotAdmitted::NotUnderstood);
    }
    admit_edge(policy.import(edge), sender, None, now)
}

/// Whether the sender's tenant that the edge is of has one of its organization at home here.
fn receives(policy: &RegionPolicy, sender: &RegionName, edge: &EdgeId) -> bool {
    let tenants = policy.peer(sender).into_iter().flat_map(|peer| &peer.tenants);
    let mut exporting = tenants.filter(|peer| edge.as_str().split('.').next() == Some(peer.tenant.as_str()));
    exporting.any(|peer| policy.homes.iter().any(|home| home.organization == peer.organization))
}
