//! Which key is where and in what state. Holds no key material: `address → live in slot n | destroyed`.

use aws_lc_rs::digest::{SHA256, digest};
use meridian_kit::SubjectId;
use meridian_kit::subject_keys::KeyScope;
use meridian_policy::TenantId;
use redb::{Database, ReadableDatabase as _, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::StoreError;
use super::slots::SlotFile;
use super::wrapping::{KeyBytes, Wrapping, random_key, version_of};
use crate::domain::address::{KeyAddress, ScopeKind, scope_part, subject_prefix, tenant_prefix};

/// Address → state of the key.
pub(super) const KEYS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("keys");
/// Slots whose key is destroyed and whose bytes may still be there.
const ERASE: TableDefinition<u64, ()> = TableDefinition::new("erase");
/// Overwritten slots, free for a new key.
const FREE: TableDefinition<u64, ()> = TableDefinition::new("free");
/// Counters; today only the first slot that was never used.
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
/// Lease address → SHA-256 of the exporter's key, so that a destroyed one can be recognised after a restart.
const LEASED: TableDefinition<&[u8], &[u8; 32]> = TableDefinition::new("leased");
/// Lease address and digest of exporters' keys that were destroyed here.
const RETIRED: TableDefinition<&[u8], ()> = TableDefinition::new("retired");

const LIVE: u8 = 1;
const DESTROYED: u8 = 2;

/// What is known about an address.
pub enum Found {
    /// The key.
    Live(KeyBytes),
    /// There never was one.
    Absent,
    /// There was one.
    Destroyed,
    /// Everything of the subject was destroyed; no key is ever made for it again.
    SubjectErased,
}

/// What to destroy.
#[derive(Debug, Clone)]
pub enum Destruction {
    /// One key.
    Key(KeyAddress),
    /// Every key of a subject, and the subject itself: no key of any scope is ever made for it again.
    Subject(TenantId, SubjectId),
    /// One scope's keys of every subject of a tenant (a cut edge).
    Scope(TenantId, KeyScope),
}

/// How many keys the start wrapped again under a newer KEK version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrapped(pub u64);

/// The two files and the KEK.
pub(super) struct Index {
    pub(super) database: Database,
    pub(super) slots: SlotFile,
    pub(super) wrapping: Wrapping,
}

/// All tables of one write transaction.
pub(super) struct Tables<'t> {
    keys: Table<'t, &'static [u8], &'static [u8]>,
    erase: Table<'t, u64, ()>,
    free: Table<'t, u64, ()>,
    counters: Table<'t, &'static str, u64>,
    leased: Table<'t, &'static [u8], &'static [u8; 32]>,
    retired: Table<'t, &'static [u8], ()>,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            keys: transaction.open_table(KEYS)?,
            erase: transaction.open_table(ERASE)?,
            free: transaction.open_table(FREE)?,
            counters: transaction.open_table(COUNTERS)?,
            leased: transaction.open_table(LEASED)?,
            retired: transaction.open_table(RETIRED)?,
        })
    }
}

pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), StoreError> {
    Tables::open(transaction).map(|_| ())
}

enum State {
    Live(u64),
    Destroyed,
}

impl State {
    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        match bytes.split_first() {
            Some((&LIVE, slot)) => Ok(Self::Live(u64::from_be_bytes(
                slot.try_into().map_err(|_| StoreError::Entry)?,
            ))),
            Some((&DESTROYED, [])) => Ok(Self::Destroyed),
            _ => Err(StoreError::Entry),
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Live(slot) => std::iter::once(LIVE).chain(slot.to_be_bytes()).collect(),
            Self::Destroyed => vec![DESTROYED],
        }
    }
}

impl Index {
    pub(super) fn find(&self, addresses: &[KeyAddress]) -> Result<Vec<Found>, StoreError> {
        let transaction = self.database.begin_read()?;
        let keys = transaction.open_table(KEYS)?;
        addresses.iter().map(|address| self.look_up(&keys, address)).collect()
    }

    fn look_up(
        &self,
        keys: &impl ReadableTable<&'static [u8], &'static [u8]>,
        address: &KeyAddress,
    ) -> Result<Found, StoreError> {
        if keys
            .get(subject_prefix(&address.tenant, &address.subject).as_slice())?
            .is_some()
        {
            return Ok(Found::SubjectErased);
        }
        let bytes = address.to_bytes();
        let Some(state) = keys.get(bytes.as_slice())? else {
            return Ok(Found::Absent);
        };
        match State::decode(state.value())? {
            State::Destroyed => Ok(Found::Destroyed),
            State::Live(slot) => Ok(Found::Live(self.wrapping.unwrap(&bytes, &self.slots.read(slot)?)?)),
        }
    }

    /// Makes the key if there is none. Its slot is written but not yet synced.
    pub(super) fn create(&self, tables: &mut Tables<'_>, address: &KeyAddress) -> Result<Found, StoreError> {
        match self.look_up(&tables.keys, address)? {
            Found::Absent => {}
            Found::Destroyed if ScopeKind::of(&address.scope).renewable() => {}
            settled => return Ok(settled),
        }
        let key = random_key()?;
        self.place(tables, &address.to_bytes(), &key)?;
        Ok(Found::Live(key))
    }

    fn place(&self, tables: &mut Tables<'_>, address: &[u8], key: &KeyBytes) -> Result<(), StoreError> {
        let reused = tables.free.pop_first()?.map(|(slot, _)| slot.value());
        let slot = match reused {
            Some(slot) => slot,
            None => {
                let fresh = tables.counters.get("fresh-slot")?.map_or(0, |slot| slot.value());
                tables.counters.insert("fresh-slot", fresh + 1)?;
                fresh
            }
        };
        self.slots.write(slot, &self.wrapping.wrap(address, key)?)?;
        tables.keys.insert(address, State::Live(slot).encode().as_slice())?;
        Ok(())
    }

    /// Marks keys as destroyed and their slots as due; the slots are overwritten after the commit. Returns how many
    /// keys were live.
    pub(super) fn destroy(&self, tables: &mut Tables<'_>, what: &Destruction) -> Result<u64, StoreError> {
        let (addresses, tombstone) = match what {
            Destruction::Key(address) => {
                let bytes = address.to_bytes();
                retire_leases(tables, |leased| leased == bytes)?;
                (vec![bytes.clone()], Some(bytes))
            }
            Destruction::Subject(tenant, subject) => {
                let prefix = subject_prefix(tenant, subject);
                retire_leases(tables, |leased| leased.starts_with(&prefix))?;
                (starting_with(&tables.keys, &prefix, |_| true)?, Some(prefix))
            }
            Destruction::Scope(tenant, scope) => {
                let prefix = tenant_prefix(tenant);
                let scope = scope.to_string();
                let of_scope = |address: &[u8]| scope_part(address) == scope.as_bytes();
                retire_leases(tables, |leased| leased.starts_with(&prefix) && of_scope(leased))?;
                (starting_with(&tables.keys, &prefix, of_scope)?, None)
            }
        };
        let mut live = 0;
        for address in addresses.into_iter().chain(tombstone) {
            let before = tables
                .keys
                .insert(address.as_slice(), State::Destroyed.encode().as_slice())?;
            let slot = match before.map(|state| State::decode(state.value())).transpose()? {
                Some(State::Live(slot)) => slot,
                Some(State::Destroyed) | None => continue,
            };
            tables.erase.insert(slot, ())?;
            live += 1;
        }
        Ok(live)
    }

    /// Remembers a leased key by its digest; `false` when that very key, or its subject, was destroyed here before.
    pub(super) fn admit_lease(
        &self,
        tables: &mut Tables<'_>,
        address: &[u8],
        key_digest: &[u8; 32],
    ) -> Result<bool, StoreError> {
        let subject = &address[..address.len() - scope_part(address).len()];
        if tables.keys.get(subject)?.is_some()
            || tables
                .retired
                .get(retired_name(address, key_digest).as_slice())?
                .is_some()
        {
            return Ok(false);
        }
        let known = tables
            .leased
            .get(address)?
            .is_some_and(|known| known.value() == key_digest);
        if !known {
            tables.leased.insert(address, key_digest)?;
        }
        Ok(true)
    }

    /// Overwrites every slot that is due, and only then lets it be used again. The caller has committed the
    /// tombstones; a crash in between is made good by [`Index::recover`].
    pub(super) fn erase_due(&self) -> Result<(), StoreError> {
        let due = {
            let transaction = self.database.begin_read()?;
            let erase = transaction.open_table(ERASE)?;
            erase
                .iter()?
                .map(|entry| entry.map(|(slot, _)| slot.value()))
                .collect::<Result<Vec<_>, _>>()?
        };
        if due.is_empty() {
            return Ok(());
        }
        for slot in &due {
            self.slots.erase(*slot)?;
        }
        self.slots.sync()?;
        let transaction = self.database.begin_write()?;
        {
            let mut tables = Tables::open(&transaction)?;
            for slot in due {
                tables.erase.remove(slot)?;
                tables.free.insert(slot, ())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// After a start: erases what is due and wraps again what an older KEK version wrapped.
    pub(super) fn recover(&self) -> Result<Rewrapped, StoreError> {
        self.erase_due()?;
        let transaction = self.database.begin_write()?;
        let mut rewrapped = 0;
        {
            let mut tables = Tables::open(&transaction)?;
            for address in starting_with(&tables.keys, &[], |_| true)? {
                let state = match tables.keys.get(address.as_slice())? {
                    Some(state) => State::decode(state.value())?,
                    None => continue,
                };
                let State::Live(slot) = state else { continue };
                let wrapped = self.slots.read(slot)?;
                if version_of(&wrapped) == self.wrapping.current() {
                    continue;
                }
                let key = self.wrapping.unwrap(&address, &wrapped)?;
                self.place(&mut tables, &address, &key)?;
                tables.erase.insert(slot, ())?;
                rewrapped += 1;
            }
        }
        if rewrapped == 0 {
            transaction.abort()?;
            return Ok(Rewrapped(0));
        }
        self.slots.sync()?;
        transaction.commit()?;
        self.erase_due()?;
        Ok(Rewrapped(rewrapped))
    }
}

/// SHA-256 of a leased key. The key has 256 random bits, so the digest gives nothing away.
pub(crate) fn lease_digest(key: &[u8; 32]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, key).as_ref());
    out
}

fn retired_name(address: &[u8], key_digest: &[u8; 32]) -> Vec<u8> {
    [address, &[0], key_digest].concat()
}

fn retire_leases(tables: &mut Tables<'_>, matches: impl Fn(&[u8]) -> bool) -> Result<(), StoreError> {
    let mut found = Vec::new();
    for entry in tables.leased.iter()? {
        let (address, key_digest) = entry?;
        if matches(address.value()) {
            found.push((address.value().to_vec(), *key_digest.value()));
        }
    }
    for (address, key_digest) in found {
        tables
            .retired
            .insert(retired_name(&address, &key_digest).as_slice(), ())?;
        tables.leased.remove(address.as_slice())?;
    }
    Ok(())
}

fn starting_with(
    keys: &impl ReadableTable<&'static [u8], &'static [u8]>,
    prefix: &[u8],
    matches: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut found = Vec::new();
    for entry in keys.range(prefix..)? {
        let (address, _) = entry?;
        let address = address.value();
        if !address.starts_with(prefix) {
            break;
        }
        if matches(address) {
            found.push(address.to_vec());
        }
    }
    Ok(found)
}
