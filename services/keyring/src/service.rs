//! What the keyring answers: the store, the leases in memory, the grants and the quotas together.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meridian_kit::SubjectId;
use meridian_kit::subject_keys::KeyScope;
use meridian_policy::TenantId;
use prometheus_client::metrics::counter::Counter;
use zeroize::Zeroizing;

use crate::domain::address::{KeyAddress, ScopeKind};
use crate::domain::grants::{self, Operation};
use crate::domain::leases::{LeaseAddress, LeaseError, Leases};
use crate::domain::quota::Quota;
use crate::store::wrapping::{Wrapping, WrappingError};
use crate::store::{Destruction, Found, Rewrapped, Store, StoreError, lease_digest};

/// How many keys one request may name.
pub const BATCH: usize = 256;
/// Keys per second and burst that one service may resolve or create.
const RESOLVE_QUOTA: (u32, u32) = (20_000, 40_000);
/// Leases per second and burst.
const LEASE_QUOTA: (u32, u32) = (2_000, 20_000);
/// Destructions per second and burst: erasures are rare, and a service gone wild must not take every key with it.
const DESTROY_QUOTA: (u32, u32) = (50, 1_000);

/// Why a request was not answered with keys.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The caller has no grant.
    #[error("service {service:?} may not {operation:?} {kind:?} keys; src/domain/grants.rs of the keyring is the list")]
    NotGranted {
        /// Name in the caller's certificate.
        service: String,
        /// What it wanted.
        operation: Operation,
        /// Of which kind.
        kind: ScopeKind,
    },
    /// More keys than [`BATCH`].
    #[error("a request names between 1 and {BATCH} keys, this one {0}; send several")]
    BatchSize(usize),
    /// The caller is too fast.
    #[error("this service asks for more keys than its quota; wait {0:?}")]
    TooFast(Duration),
    /// The lease itself.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A lease of something that is not an import key.
    #[error("only import keys are leased, scope {0} is not one")]
    NotLeasable(KeyScope),
    /// A key or subject that was destroyed here came again.
    #[error("this exporter's key, or its subject, was destroyed here; the copies it opened stay unreadable")]
    Retired,
    /// Destroying by scope is for import keys only.
    #[error("destroying needs a subject, unless the scope is an import's")]
    SubjectMissing,
    /// Our own files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a caller learns about a key.
pub enum Resolved {
    /// The key, and how long it may be used at most (leased keys).
    Live(Zeroizing<[u8; 32]>, Option<Duration>),
    /// There is none.
    Absent,
    /// There is none any more.
    Destroyed,
}

/// What a keyring has done since it started.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Keys that were asked to be made.
    pub created: Counter,
    /// Live keys that were destroyed.
    pub destroyed: Counter,
    /// Exporters' keys that were taken or renewed.
    pub leased: Counter,
    /// Requests outside the grants: somebody tries what they may not.
    pub refused: Counter,
}

/// A running keyring.
pub struct Keyring {
    store: Store,
    leases: Mutex<Leases>,
    /// Held from a lease's admission to its arrival in memory, and from a tombstone to the lease's removal: otherwise
    /// a key destroyed in between would stay readable.
    lease_changes: tokio::sync::Mutex<()>,
    quotas: Mutex<HashMap<(String, Operation), Quota>>,
    counts: Counts,
}

impl Keyring {
    /// Opens the store in `directory` under the KEK whose file content is `kek`. Blocks; for start-up.
    pub fn open(directory: &Path, kek: &[u8]) -> Result<(Self, Rewrapped), StoreError> {
        let wrapping = Wrapping::parse(kek).map_err(|error: WrappingError| StoreError::from(error))?;
        let (store, rewrapped) = Store::open(directory, wrapping)?;
        Ok((
            Self {
                store,
                leases: Mutex::default(),
                lease_changes: tokio::sync::Mutex::default(),
                quotas: Mutex::default(),
                counts: Counts::default(),
            },
            rewrapped,
        ))
    }

    /// Its counters, to be registered.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether the store answers.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.store.find(Vec::new()).await.map(drop)
    }

    /// Looks keys up for `service`, and makes those for which `create` says so.
    pub async fn resolve(&self, service: &str, asked: Vec<(KeyAddress, bool)>) -> Result<Vec<Resolved>, Refusal> {
        if asked.is_empty() || asked.len() > BATCH {
            return Err(Refusal::BatchSize(asked.len()));
        }
        for (address, create) in &asked {
            let operation = if *create { Operation::Create } else { Operation::Resolve };
            self.granted(service, ScopeKind::of(&address.scope), operation)?;
        }
        self.within_quota(service, Operation::Resolve, asked.len())?;

        let mut found = self
            .store
            .find(asked.iter().map(|(address, _)| address.clone()).collect())
            .await?;
        let due: Vec<usize> = (0..asked.len())
            .filter(|&at| asked[at].1 && creatable(&asked[at].0, &found[at]))
            .collect();
        if !due.is_empty() {
            self.counts.created.inc_by(due.len() as u64);
            let addresses = due.iter().map(|&at| asked[at].0.clone()).collect();
            for (at, made) in due.into_iter().zip(self.store.create(addresses).await?) {
                found[at] = made;
            }
        }
        let now = Instant::now();
        let leases = self.leases();
        Ok(asked
            .iter()
            .zip(found)
            .map(|((address, _), found)| match found {
                Found::Live(key) => Resolved::Live(key, None),
                Found::SubjectErased => Resolved::Destroyed,
                absent_or_destroyed => match leases.get(&address.tenant, &address.subject, &address.scope, now) {
                    Some((key, left)) => Resolved::Live(key, Some(left)),
                    None if matches!(absent_or_destroyed, Found::Absent) => Resolved::Absent,
                    None => Resolved::Destroyed,
                },
            })
            .collect())
    }

    /// Takes an exporter's key into memory for `valid_for`, measured from now on the monotonic clock.
    pub async fn lease(
        &self,
        service: &str,
        address: LeaseAddress,
        key: Zeroizing<[u8; 32]>,
        valid_for: Duration,
    ) -> Result<(), Refusal> {
        let received = Instant::now();
        if ScopeKind::of(&address.scope) != ScopeKind::Import {
            return Err(Refusal::NotLeasable(address.scope));
        }
        self.granted(service, ScopeKind::Import, Operation::Lease)?;
        self.within_quota(service, Operation::Lease, 1)?;
        let _changing = self.lease_changes.lock().await;
        if !self.store.admit_lease(address.to_bytes(), lease_digest(&key)).await? {
            return Err(Refusal::Retired);
        }
        self.leases().put(address, key, valid_for, received)?;
        self.counts.leased.inc();
        Ok(())
    }

    /// Destroys keys; returns how many were live in the store. Once it returns they cannot be read again, here or
    /// from a copy of the files taken later.
    pub async fn destroy(
        &self,
        service: &str,
        tenant: TenantId,
        subject: Option<SubjectId>,
        scope: Option<KeyScope>,
    ) -> Result<u64, Refusal> {
        match &scope {
            Some(scope) => self.granted(service, ScopeKind::of(scope), Operation::Destroy)?,
            None if grants::may_erase_subject(service) => {}
            None => self.granted(service, ScopeKind::Personal, Operation::DestroySubject)?,
        }
        let what = match (&subject, &scope) {
            (Some(subject), Some(scope)) => Destruction::Key(KeyAddress {
                tenant: tenant.clone(),
                subject: *subject,
                scope: scope.clone(),
            }),
            (Some(subject), None) => Destruction::Subject(tenant.clone(), *subject),
            (None, Some(scope)) if ScopeKind::of(scope) == ScopeKind::Import => {
                Destruction::Scope(tenant.clone(), scope.clone())
            }
            (None, _) => return Err(Refusal::SubjectMissing),
        };
        self.within_quota(service, Operation::Destroy, 1)?;
        let _changing = self.lease_changes.lock().await;
        let live = self.store.destroy(what).await?;
        self.counts.destroyed.inc_by(live);
        self.leases().forget(|lease| {
            lease.tenant == tenant
                && subject
                    .as_ref()
                    .is_none_or(|subject| lease.subject.as_ref() == Some(subject))
                && scope.as_ref().is_none_or(|scope| lease.scope == *scope)
        });
        Ok(live)
    }

    /// Forgets expired leases from time to time, so that their bytes do not stay in memory; ends when the store fails.
    pub async fn keep(&self) {
        let mut sweep = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                () = self.store.stopped() => return,
                _ = sweep.tick() => { self.leases().drop_expired(Instant::now()); }
            }
        }
    }

    fn granted(&self, service: &str, kind: ScopeKind, operation: Operation) -> Result<(), Refusal> {
        if grants::allows(service, kind, operation) {
            return Ok(());
        }
        self.counts.refused.inc();
        Err(Refusal::NotGranted {
            service: service.to_owned(),
            operation,
            kind,
        })
    }

    fn within_quota(&self, service: &str, operation: Operation, keys: usize) -> Result<(), Refusal> {
        let (per_second, burst) = match operation {
            Operation::Resolve | Operation::Create => RESOLVE_QUOTA,
            Operation::Lease => LEASE_QUOTA,
            Operation::Destroy | Operation::DestroySubject => DESTROY_QUOTA,
        };
        let now = Instant::now();
        // A panic elsewhere leaves a bucket at worst a few tokens off; refusing every later caller would be worse.
        let mut quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        quotas
            .entry((service.to_owned(), operation))
            .or_insert_with(|| Quota::new(per_second, burst, now))
            .take(u32::try_from(keys).unwrap_or(u32::MAX), now)
            .map_err(Refusal::TooFast)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        // Every change of the map is a single call, so a poisoned lock still guards a consistent map.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn creatable(address: &KeyAddress, found: &Found) -> bool {
    match found {
        Found::Absent => true,
        Found::Destroyed => ScopeKind::of(&address.scope).renewable(),
        Found::Live(_) | Found::SubjectErased => false,
    }
}
