//! The receipt that a subject gets for each change, after ISO/IEC TS 27560:2023 (consent record information structure):
//! who, to whom, what for, what data, when, and how to withdraw. It names the subject, so it is kept sealed.

use jiff::Timestamp;
use meridian_kit::SubjectId;
use meridian_policy::{JurisdictionName, OrganizationName, TenantId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::matter::Matter;
use super::standing::{Standing, State};

/// A receipt.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Receipt {
    /// The structure that it follows.
    pub schema_version: String,
    /// Of this receipt.
    pub receipt_id: Uuid,
    /// Of the receipt that this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Uuid>,
    /// The subject's opaque id.
    pub pii_principal_id: SubjectId,
    /// Who decides why and how the data is used.
    pub pii_controller: OrganizationName,
    /// The controller's partition.
    pub tenant: TenantId,
    /// Whose law holds.
    pub jurisdiction: JurisdictionName,
    /// Always `consent`.
    pub lawful_basis: String,
    /// What for.
    pub purpose: String,
    /// Of what data.
    pub pii_type: String,
    /// `granted` or `withdrawn`.
    pub state: State,
    /// From 1, for this purpose and class.
    pub version: u64,
    /// When it was said.
    pub event_time: Timestamp,
    /// How to withdraw, as easily as to grant.
    pub withdrawal_method: String,
}

/// What a receipt is made of.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// Whose consent.
    pub subject: SubjectId,
    /// The controller.
    pub organization: OrganizationName,
    /// Its partition.
    pub tenant: TenantId,
    /// Whose law holds.
    pub jurisdiction: JurisdictionName,
    /// When it was said.
    pub at: Timestamp,
}

impl Receipt {
    /// The receipt of a change.
    #[must_use]
    pub fn of(id: Uuid, replaces: Option<Uuid>, matter: Matter, standing: Standing, around: Circumstances) -> Self {
        Self {
            schema_version: "ISO/IEC TS 27560:2023".to_owned(),
            receipt_id: id,
            replaces,
            pii_principal_id: around.subject,
            pii_controller: around.organization,
            tenant: around.tenant,
            jurisdiction: around.jurisdiction,
            lawful_basis: "consent".to_owned(),
            purpose: matter.purpose().to_string(),
            pii_type: matter.class().to_string(),
            state: standing.state,
            version: standing.version,
            event_time: around.at,
            withdrawal_method: r#"POST /api/v1/consents with "action": "withdraw""#.to_owned(),
        }
    }
}
