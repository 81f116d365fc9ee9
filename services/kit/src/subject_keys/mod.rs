//! Keys of data subjects: personal fields, in tables and in events, are sealed under a key of their subject, and destroying
//! the key destroys them everywhere, backups included. The keys live in the keyring, outside every database.
//!
//! A sealed value is `version 1 | 12-byte nonce | AES-256-GCM ciphertext and tag`, bound to its place by a context
//! (`identity.account:<uuid>`, `event:<id>`) as associated data, so that it cannot be moved to another row.

mod keyring;
mod scope;
mod sealed;
mod wire;

pub use keyring::Keyring;
pub use scope::{InvalidKeyScope, KeyScope};
pub use sealed::{Bulk, KEY_BYTES, OVERHEAD_BYTES, Sealed, SubjectKey};
pub use wire::{DestroyRequest, KeyAnswer, KeyRequest, ResolveAnswer, ResolveRequest, WireKey};

use crate::client::ClientError;
use crate::problem::Problem;

/// Whether a key that does not exist yet may be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Create {
    /// To write.
    Yes,
    /// To read: what has no key has nothing to read.
    No,
}

/// Why there is no key, or a value cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key was destroyed: the subject was erased, or the month's retention ended. It never comes back.
    #[error("the key was destroyed; what it sealed is gone")]
    KeyDestroyed,
    /// There never was one.
    #[error("there is no key of this subject and scope")]
    KeyAbsent,
    /// The keyring cannot be asked.
    #[error(transparent)]
    Keyring(#[from] ClientError),
    /// The value is not sealed under this key and context, or was changed.
    #[error("a sealed value cannot be opened: it was changed, or belongs to another key or place")]
    Unsealable,
    /// What was sealed is not what was expected.
    #[error("a sealed value does not hold the expected fields")]
    Shape,
    /// The crypto library failed.
    #[error("no random numbers can be had")]
    Random,
}

impl Error {
    /// Whether trying later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Keyring(error) if error.is_transient())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::KeyDestroyed | Error::KeyAbsent => Self::not_found("erased", "this was erased"),
            Error::Keyring(error) => error.into(),
            error => Self::internal(&error),
        }
    }
}
