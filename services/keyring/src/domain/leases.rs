//! Keys of other regions' exporters: held in memory only, unreadable once their lease ends.
//!
//! Losing them (a restart) only means that imported copies cannot be read until the exporter leases again, which is
//! the safe direction.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use meridian_kit::SubjectId;
use meridian_kit::subject_keys::KeyScope;
use meridian_policy::TenantId;
use zeroize::Zeroizing;

use super::address::{subject_prefix, tenant_prefix};

/// The longest lease that is accepted.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How many leases one keyring holds at most.
pub const MOST: usize = 200_000;

/// Name of a leased key; no subject means one key for everything that came along the edge.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseAddress {
    /// The importing tenant.
    pub tenant: TenantId,
    /// The pseudonym, where the exporter leases per subject.
    pub subject: Option<SubjectId>,
    /// Always an import scope.
    pub scope: KeyScope,
}

impl LeaseAddress {
    /// The address as bytes, in the same form as a key's; the subject part is empty for an edge's lease.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = match &self.subject {
            Some(subject) => subject_prefix(&self.tenant, subject),
            None => [tenant_prefix(&self.tenant), vec![0]].concat(),
        };
        bytes.extend_from_slice(self.scope.to_string().as_bytes());
        bytes
    }
}

/// Why a lease is not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LeaseError {
    /// Zero, or longer than [`LONGEST`].
    #[error("a lease lasts between 1 ms and 24 h; the exporter asked for {0:?}")]
    Duration(Duration),
    /// The map is full.
    #[error("the keyring holds its limit of {MOST} leased keys; lease per edge instead of per subject")]
    Full,
}

struct Lease {
    key: Zeroizing<[u8; 32]>,
    until: Instant,
}

/// The leases held now.
#[derive(Default)]
pub struct Leases {
    held: HashMap<LeaseAddress, Lease>,
}

impl Leases {
    /// Takes or renews a lease that ends `valid_for` after `now`.
    pub fn put(
        &mut self,
        address: LeaseAddress,
        key: Zeroizing<[u8; 32]>,
        valid_for: Duration,
        now: Instant,
    ) -> Result<(), LeaseError> {
        if valid_for.is_zero() || valid_for > LONGEST {
            return Err(LeaseError::Duration(valid_for));
        }
        if self.held.len() >= MOST && !self.held.contains_key(&address) {
            self.drop_expired(now);
            if self.held.len() >= MOST {
                return Err(LeaseError::Full);
            }
        }
        self.held.insert(
            address,
            Lease {
                key,
                until: now + valid_for,
            },
        );
        Ok(())
    }

    /// The key for this subject and scope with the time it is still valid: the subject's own lease, else the edge's.
    pub fn get(
        &self,
        tenant: &TenantId,
        subject: &SubjectId,
        scope: &KeyScope,
        now: Instant,
    ) -> Option<(Zeroizing<[u8; 32]>, Duration)> {
        [Some(*subject), None].into_iter().find_map(|subject| {
            let address = LeaseAddress {
                tenant: tenant.clone(),
                subject,
                scope: scope.clone(),
            };
            let lease = self.held.get(&address)?;
            let left = lease.until.checked_duration_since(now).filter(|left| !left.is_zero())?;
            Some((lease.key.clone(), left))
        })
    }

    /// Forgets every lease that `matches`.
    pub fn forget(&mut self, mut matches: impl FnMut(&LeaseAddress) -> bool) {
        self.held.retain(|address, _| !matches(address));
    }

    /// Forgets what has expired; returns how many leases are left.
    pub fn drop_expired(&mut self, now: Instant) -> usize {
        self.held.retain(|_, lease| lease.until > now);
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(subject: Option<SubjectId>) -> LeaseAddress {
        LeaseAddress {
            tenant: "stride-us".parse().unwrap(),
            subject,
            scope: scope(),
        }
    }

    fn scope() -> KeyScope {
        "import-stride-eu.workout-summary.us".parse().unwrap()
    }

    fn subject(n: u8) -> SubjectId {
        format!("00000000-0000-7000-8000-0000000000{n:02x}").parse().unwrap()
    }

    fn key(byte: u8) -> Zeroizing<[u8; 32]> {
        Zeroizing::new([byte; 32])
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_is_unreadable_from_the_moment_it_ends() {
        let now = Instant::now();
        let mut leases = Leases::default();
        let lease = address(Some(subject(1)));
        leases.put(lease.clone(), key(1), SECOND, now).unwrap();
        let at = |now| leases.get(&lease.tenant, &subject(1), &scope(), now);
        assert_eq!(at(now).unwrap().1, SECOND);
        assert!(at(now + SECOND - Duration::from_nanos(1)).is_some());
        assert!(at(now + SECOND).is_none());
    }

    #[test]
    fn a_subjects_own_lease_comes_before_the_edges() {
        let now = Instant::now();
        let mut leases = Leases::default();
        leases.put(address(None), key(1), SECOND, now).unwrap();
        leases.put(address(Some(subject(2))), key(2), SECOND, now).unwrap();
        let get = |n| {
            leases
                .get(&"stride-us".parse().unwrap(), &subject(n), &scope(), now)
                .unwrap()
                .0[0]
        };
        assert_eq!(get(2), 2);
        assert_eq!(get(3), 1);
    }

    #[test]
    fn a_lease_is_neither_empty_nor_longer_than_a_day() {
        let now = Instant::now();
        let mut leases = Leases::default();
        for bad in [Duration::ZERO, LONGEST + SECOND] {
            assert_eq!(
                leases.put(address(None), key(1), bad, now),
                Err(LeaseError::Duration(bad))
            );
        }
    }

    #[test]
    fn forgetting_and_expiry_leave_nothing_behind() {
        let now = Instant::now();
        let mut leases = Leases::default();
        leases.put(address(None), key(1), SECOND, now).unwrap();
        leases.put(address(Some(subject(1))), key(2), 2 * SECOND, now).unwrap();
        leases.forget(|lease| lease.subject.is_none());
        assert_eq!(leases.drop_expired(now), 1);
        assert_eq!(leases.drop_expired(now + 2 * SECOND), 0);
    }
}
