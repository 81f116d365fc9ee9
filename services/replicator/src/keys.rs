//! The keys of edges, kept by the region's keyring: made and derived from where data leaves, leased where it arrives.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use meridian_kit::SubjectId;
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_kit::subject_keys::{KeyAnswer, KeyRequest, KeyScope, ResolveAnswer, ResolveRequest, WireKey};
use meridian_policy::{EdgeId, TenantId};
use serde::Serialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::domain::pseudonym::EdgeKey;

/// An edge's own key belongs to no person.
pub const NOBODY: SubjectId = SubjectId(Uuid::nil());

/// Why an edge's key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EdgeKeyError {
    /// There is none (any more), or its lease has ended.
    #[error("there is no key for the edge just now")]
    Absent,
    /// The exporter leases a key that was destroyed here.
    #[error("this key was destroyed here: the exporter must begin with a new one")]
    Retired,
    /// The keyring did not answer as it should.
    #[error(transparent)]
    Keyring(#[from] ClientError),
}

/// A client for the keys of edges. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EdgeKeys {
    keyring: ServiceClient,
}

#[derive(Serialize)]
struct LeaseRequest<'a> {
    tenant: &'a TenantId,
    scope: KeyScope,
    key: WireKey,
    valid_for_ms: u64,
}

#[derive(Serialize)]
struct DestroyScopeRequest<'a> {
    tenant: &'a TenantId,
    scope: KeyScope,
}

impl EdgeKeys {
    /// With a client for the keyring.
    pub fn new(keyring: ServiceClient) -> Self {
        Self { keyring }
    }

    /// The exporter's key of an edge; made where there is none.
    ///
    /// # Errors
    /// The keyring cannot be asked.
    pub async fn of_export(&self, tenant: &TenantId, edge: &EdgeId) -> Result<EdgeKey, EdgeKeyError> {
        self.resolve(tenant, edge, true).await.map(|key| EdgeKey::new(&key))
    }

    /// The key that the exporter leases to this region.
    ///
    /// # Errors
    /// There is no valid lease, or the keyring cannot be asked.
    pub async fn of_import(&self, tenant: &TenantId, edge: &EdgeId) -> Result<Zeroizing<[u8; 32]>, EdgeKeyError> {
        self.resolve(tenant, edge, false).await
    }

    async fn resolve(
        &self,
        tenant: &TenantId,
        edge: &EdgeId,
        create: bool,
    ) -> Result<Zeroizing<[u8; 32]>, EdgeKeyError> {
        let scope = KeyScope::Import(edge.clone());
        let request = ResolveRequest {
            keys: vec![KeyRequest {
                tenant: tenant.clone(),
                subject: NOBODY,
                scope,
                create,
            }],
        };
        let answer: ResolveAnswer = self
            .keyring
            .post("/v1/keys/resolve")
            .json(&request)
            .idempotent()
            .fetch()
            .await?;
        match answer.keys.into_iter().next() {
            Some(KeyAnswer::Live { key, .. }) => Ok(key.0),
            Some(KeyAnswer::Absent | KeyAnswer::Destroyed) | None => Err(EdgeKeyError::Absent),
        }
    }

    /// Takes an exporter's key into the keyring's memory for a while.
    ///
    /// # Errors
    /// The key was destroyed here before, or the keyring cannot be asked.
    pub async fn lease(
        &self,
        tenant: &TenantId,
        edge: &EdgeId,
        key: Zeroizing<[u8; 32]>,
        valid_for: Duration,
    ) -> Result<(), EdgeKeyError> {
        let valid_for_ms = u64::try_from(valid_for.as_millis()).unwrap_or(u64::MAX);
        let request = LeaseRequest {
            tenant,
            scope: KeyScope::Import(edge.clone()),
            key: WireKey(key),
            valid_for_ms,
        };
        match self
            .keyring
            .post("/v1/keys/lease")
            .json(&request)
            .idempotent()
            .send()
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(StatusCode::CONFLICT) => Err(EdgeKeyError::Retired),
            Err(error) => Err(error.into()),
        }
    }

    /// Destroys every key of an edge, exported or leased. What was sealed under them opens nowhere any more.
    ///
    /// # Errors
    /// The keyring does not confirm; repeat it.
    pub async fn destroy(&self, tenant: &TenantId, edge: &EdgeId) -> Result<(), EdgeKeyError> {
        let request = DestroyScopeRequest {
            tenant,
            scope: KeyScope::Import(edge.clone()),
        };
        self.keyring
            .post("/v1/keys/destroy")
            .json(&request)
            .idempotent()
            .send()
            .await?;
        Ok(())
    }
}

/// Key material on the wire between replicators and to the keyring; printed as nothing.
impl fmt::Debug for EdgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EdgeKey(…)")
    }
}
