//! Why a pass over a RegionStack failed, and how that is told.

use super::data_plane::Held;
use super::secrets::SecretsError;
use super::validate::Invalid;
use crate::apply::ApplyError;
use crate::events::Reason;
use crate::manifest::NotAManifest;

/// Why a pass over a RegionStack failed.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Its content.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Who is to run its data plane.
    #[error(transparent)]
    Held(#[from] Held),
    /// Its secrets.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// A write.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A defect of a plan.
    #[error(transparent)]
    Plan(#[from] NotAManifest),
}

impl StackError {
    /// For conditions and events.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "Invalid",
            Self::Held(held) => held.reason(),
            Self::Secrets(SecretsError::Certificate(_)) => "CertificateFailed",
            Self::Secrets(SecretsError::DamagedCredential(_)) => "CredentialDamaged",
            Self::Secrets(SecretsError::Apply(ApplyError::Foreign { .. }))
            | Self::Apply(ApplyError::Foreign { .. }) => "ForeignObject",
            Self::Secrets(_) | Self::Apply(_) => "ApplyFailed",
            Self::Plan(_) => "PlanFailed",
        }
    }

    /// Trying again alone will not help.
    #[must_use]
    pub fn needs_somebody(&self) -> bool {
        matches!(self, Self::Held(_))
            || matches!(
                self.reason(),
                "Invalid" | "CertificateFailed" | "CredentialDamaged" | "ForeignObject" | "PlanFailed"
            )
    }

    /// Which Event tells of it.
    pub(super) fn event(&self) -> Reason {
        match self.reason() {
            "Invalid" | "ModeChanged" => Reason::Invalid,
            "ForeignObject" => Reason::ForeignObject,
            _ => Reason::ReconcileFailed,
        }
    }
}
