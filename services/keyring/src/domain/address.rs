//! What a key is named by: (tenant, subject, scope).

use meridian_kit::SubjectId;
use meridian_kit::subject_keys::KeyScope;
use meridian_policy::TenantId;

/// The kind of a scope; grants are given per kind, never per month or edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeKind {
    /// Everything about the athlete but places.
    Personal,
    /// Places of one calendar month.
    Location,
    /// Copies that crossed a border along one edge.
    Import,
}

impl ScopeKind {
    /// The kind of `scope`.
    pub fn of(scope: &KeyScope) -> Self {
        match scope {
            KeyScope::Personal => Self::Personal,
            KeyScope::Location { .. } => Self::Location,
            KeyScope::Import(_) => Self::Import,
        }
    }

    /// Whether a new key may take a destroyed one's place.
    ///
    /// A destroyed personal or location key means that the athlete or the retention limit said so: final. A destroyed
    /// import key means that an edge was cut; when the edge becomes lawful again, copies are made anew under a *new*
    /// key. The old one stays unreadable either way. Erasing the whole subject is final for every kind.
    pub fn renewable(self) -> bool {
        self == Self::Import
    }
}

/// The name of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyAddress {
    /// The partition.
    pub tenant: TenantId,
    /// The data subject (at an importer: the pseudonym).
    pub subject: SubjectId,
    /// What the key opens.
    pub scope: KeyScope,
}

impl KeyAddress {
    /// The address as bytes that sort by tenant, then subject: `tenant NUL subject NUL scope`.
    ///
    /// None of the three parts can contain a NUL, so no two addresses share their bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = subject_prefix(&self.tenant, &self.subject);
        bytes.extend_from_slice(self.scope.to_string().as_bytes());
        bytes
    }
}

/// What every address of one subject begins with; itself the address of the subject's own tombstone.
pub fn subject_prefix(tenant: &TenantId, subject: &SubjectId) -> Vec<u8> {
    let mut bytes = tenant_prefix(tenant);
    bytes.extend_from_slice(subject.to_string().as_bytes());
    bytes.push(0);
    bytes
}

/// What every address of one tenant begins with.
pub fn tenant_prefix(tenant: &TenantId) -> Vec<u8> {
    let mut bytes = tenant.to_string().into_bytes();
    bytes.push(0);
    bytes
}

/// The scope part of an address's bytes; empty for a subject's own tombstone.
pub fn scope_part(address: &[u8]) -> &[u8] {
    address.splitn(3, |byte| *byte == 0).nth(2).unwrap_or_default()
}
