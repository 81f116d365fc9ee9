//! The JSON of the keyring's requests and answers, as far as the kit's client does not define it already.

use std::time::Duration;

use meridian_kit::SubjectId;
use meridian_kit::subject_keys::{KeyAnswer, KeyRequest, KeyScope, WireKey};
use meridian_policy::TenantId;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::address::KeyAddress;
use crate::domain::leases::LeaseAddress;
use crate::service::Resolved;

pub(super) fn asked(request: KeyRequest) -> (KeyAddress, bool) {
    let KeyRequest {
        tenant,
        subject,
        scope,
        create,
    } = request;
    (KeyAddress { tenant, subject, scope }, create)
}

pub(super) fn answer(resolved: Resolved) -> KeyAnswer {
    match resolved {
        Resolved::Live(key, left) => KeyAnswer::Live {
            key: WireKey(key),
            valid_for_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        },
        Resolved::Absent => KeyAnswer::Absent,
        Resolved::Destroyed => KeyAnswer::Destroyed,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaseRequest {
    tenant: TenantId,
    #[serde(default)]
    subject: Option<SubjectId>,
    scope: KeyScope,
    key: WireKey,
    valid_for_ms: u64,
}

impl LeaseRequest {
    pub(super) fn into_parts(self) -> (LeaseAddress, Zeroizing<[u8; 32]>, Duration) {
        let address = LeaseAddress {
            tenant: self.tenant,
            subject: self.subject,
            scope: self.scope,
        };
        (address, self.key.0, Duration::from_millis(self.valid_for_ms))
    }
}

#[derive(Serialize)]
pub(super) struct Leased {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DestroyRequest {
    pub(super) tenant: TenantId,
    /// Absent only together with an import scope: a cut edge takes every subject's key.
    #[serde(default)]
    pub(super) subject: Option<SubjectId>,
    /// Absent: everything of the subject, for good.
    #[serde(default)]
    pub(super) scope: Option<KeyScope>,
}

#[derive(Serialize)]
pub(super) struct Destroyed {
    /// How many keys were live before.
    pub(super) destroyed: u64,
}
