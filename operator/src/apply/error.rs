//! Why an object could not be applied, read or removed, and what the API server meant by that.

use super::REQUEST_TIMEOUT;
use crate::manifest::{ADOPT_ANNOTATION, ObjectKey};

/// Why an object could not be applied, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused or could not be reached.
    #[error("{verb} {key} failed: {source}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On which object.
        key: Box<ObjectKey>,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// No answer in [`REQUEST_TIMEOUT`].
    #[error("{verb} {key} got no answer within {} s; it is tried again", REQUEST_TIMEOUT.as_secs())]
    Timeout {
        /// What was tried.
        verb: &'static str,
        /// On which object.
        key: Box<ObjectKey>,
    },
    /// Somebody else's object has the name.
    #[error(
        "{key} exists and is not Meridian's; remove it, or hand it over with the annotation {ADOPT_ANNOTATION}: \"true\""
    )]
    Foreign {
        /// The object.
        key: Box<ObjectKey>,
    },
    /// It is not as it was when this was planned; what it is now is in the cache.
    #[error("{key} was changed after it was last seen; it is planned anew")]
    Overtaken {
        /// The object.
        key: Box<ObjectKey>,
    },
    /// This process is not the leader (any more), or not there.
    #[error("{key} was not written: this replica does not hold the role's lease, or another hub the cluster")]
    NotLeader {
        /// The object that was to be written.
        key: Box<ObjectKey>,
    },
}

impl ApplyError {
    /// Whether the API server said that the object (or its kind) is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        // Of a kind that is not served the answer is no Status, and has no reason.
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(s) if s.code == 404))
    }

    /// Whether the API server said that the object is another version than was named.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(s) if s.code == 409))
    }

    /// Whether the API server said that there is an object of that name.
    #[must_use]
    pub fn is_there_already(&self) -> bool {
        let says_so = |status: &kube::core::Status| status.reason == "AlreadyExists";
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(s) if says_so(s)))
    }

    /// Whether the API server said no, as opposed to not being reachable.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Api { source, .. } => matches!(source.as_ref(), kube::Error::Api(_)),
            Self::Foreign { .. } => true,
            Self::Timeout { .. } | Self::Overtaken { .. } | Self::NotLeader { .. } => false,
        }
    }
}
