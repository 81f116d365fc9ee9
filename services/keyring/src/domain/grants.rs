//! Which service may do what with which scope. This table is the whole authorization of the keyring.
//!
//! A service not listed for a kind gets 403, also for reading: a stolen certificate of, say, promotions opens no place.

use super::address::ScopeKind;

/// What a caller wants to do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Read a key that exists.
    Resolve,
    /// Make a key where there is none.
    Create,
    /// Put an exporter's key into memory for a bounded time.
    Lease,
    /// Destroy one key, or (import scopes) one edge's keys.
    Destroy,
    /// Destroy everything of a subject, for good.
    DestroySubject,
}

use Operation::{Create, Destroy, DestroySubject, Lease, Resolve};
use ScopeKind::{Import, Location, Personal};

/// (service, kind, operations). Anything absent is refused.
const GRANTS: &[(&str, ScopeKind, &[Operation])] = &[
    // Registration makes the personal key; erasure destroys everything of the subject.
    ("identity", Personal, &[Resolve, Create, Destroy, DestroySubject]),
    ("identity", Location, &[Destroy, DestroySubject]),
    ("identity", Import, &[Destroy, DestroySubject]),
    ("consent", Personal, &[Resolve, Create]),
    ("training", Personal, &[Resolve, Create]),
    // Places: made by ingest, destroyed month by month when their retention ends.
    ("telemetry", Location, &[Resolve, Create, Destroy]),
    // Aggregates of a track outlive its month.
    ("telemetry", Personal, &[Resolve, Create]),
    // The writer checks that a batch opens before it stores it.
    ("telemetry-writer", Location, &[Resolve]),
    // Social reads what others shared, also from abroad, and never makes an import key.
    ("social", Personal, &[Resolve, Create]),
    ("social", Import, &[Resolve]),
    ("promotions", Personal, &[Resolve, Create]),
    // The replicator opens events to redact them and makes the keys under which copies leave; it never sees places.
    ("replicator", Personal, &[Resolve]),
    ("replicator", Import, &[Resolve, Create, Lease, Destroy]),
];

/// Whether `service` may do `operation` with keys of `kind`.
pub fn allows(service: &str, kind: ScopeKind, operation: Operation) -> bool {
    GRANTS
        .iter()
        .any(|(name, granted, operations)| *name == service && *granted == kind && operations.contains(&operation))
}

/// Whether `service` may destroy everything of a subject.
pub fn may_erase_subject(service: &str) -> bool {
    [Personal, Location, Import]
        .into_iter()
        .all(|kind| allows(service, kind, DestroySubject))
}

/// Every service that the table names, for the transport's own allow-list.
pub fn callers() -> Vec<&'static str> {
    let mut names: Vec<_> = GRANTS.iter().map(|(name, ..)| *name).collect();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_open_only_for_telemetry() {
        let readers: Vec<_> = callers()
            .into_iter()
            .filter(|name| allows(name, Location, Resolve))
            .collect();
        assert_eq!(readers, ["telemetry", "telemetry-writer"]);
    }

    #[test]
    fn only_the_replicator_leases_and_makes_import_keys() {
        for name in callers() {
            assert_eq!(allows(name, Import, Lease), name == "replicator", "{name}");
            assert_eq!(allows(name, Import, Create), name == "replicator", "{name}");
        }
    }

    #[test]
    fn only_identity_erases_a_subject() {
        for name in callers() {
            assert_eq!(may_erase_subject(name), name == "identity", "{name}");
        }
    }

    #[test]
    fn the_replicator_destroys_import_keys_and_nothing_else() {
        assert!(allows("replicator", Import, Destroy));
        assert!(!allows("replicator", Personal, Destroy));
        assert!(!allows("replicator", Location, Destroy));
    }

    #[test]
    fn a_service_outside_the_table_may_do_nothing() {
        for name in ["gateway", "postgres", "", "Identity", "identity "] {
            for kind in [Personal, Location, Import] {
                for operation in [Resolve, Create, Lease, Destroy, DestroySubject] {
                    assert!(!allows(name, kind, operation), "{name} {kind:?} {operation:?}");
                }
            }
        }
    }
}
