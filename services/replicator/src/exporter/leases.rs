//! Leases of import keys: while the edge is lawful and our own policy is current, the importer may read what it has. When
//! either ends, so does reading, whether or not the importer can be reached.

use std::convert::Infallible;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use meridian_kit::client::ClientError;
use meridian_kit::subject_keys::WireKey;
use meridian_policy::CompiledEdge;

use super::Exporter;
use crate::keys::EdgeKeyError;
use crate::wire::{KeyLease, Leased};

/// How often a lease is renewed.
const EVERY: Duration = Duration::from_secs(3);
/// How long one lasts at most: three renewals may get lost.
const LASTS: Duration = Duration::from_secs(12);
/// Bytes of an importer's answer that are read.
const LONGEST_ANSWER: u64 = 4096;

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error(transparent)]
    Key(#[from] EdgeKeyError),
    #[error(transparent)]
    Peer(#[from] ClientError),
}

impl Exporter {
    /// Renews leases until the process stops.
    ///
    /// # Errors
    /// Never.
    pub async fn keep_leases(self) -> Result<(), Infallible> {
        let stop = self.shared.start.stop();
        let mut changes = self.shared.feed.subscribe();
        loop {
            self.renew_leases().await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = changes.changed() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Leases the key of every lawful edge once.
    pub(super) async fn renew_leases(&self) {
        let policy = self.shared.feed.current();
        let renewals = policy.exports.iter().map(|edge| async move {
            if let Err(error) = self.renew_lease(edge).await {
                tracing::warn!(edge = %edge.id, %error, "the key of an edge could not be leased to its importer");
            }
        });
        futures::future::join_all(renewals).await;
    }

    async fn renew_lease(&self, edge: &CompiledEdge) -> Result<(), LeaseError> {
        let now = Timestamp::now();
        let Some(current_for) = self.shared.feed.lease_remaining() else {
            return Ok(());
        };
        if edge.lawful_at(now).is_err() || !self.is_open(&edge.tenant, &edge.id).await {
            return Ok(());
        }
        let lawful_for = Duration::try_from(edge.expires.duration_since(now)).unwrap_or_default();
        let valid_for = LASTS.min(current_for).min(lawful_for);
        let key = self
            .shared
            .edge_keys
            .of_export(&edge.tenant, &edge.id)
            .await?
            .import_key();
        let valid_for_ms = u64::try_from(valid_for.as_millis()).unwrap_or_default();
        let lease = KeyLease {
            edge: edge.id.clone(),
            key: WireKey(key),
            valid_for_ms,
        };
        let peer = self.shared.peers.replicator(&edge.to)?;
        match peer.control.post("/peer/v1/leases").json(&lease).send().await {
            Ok(answer) => {
                // Who says nothing that we understand, or says too much, is sent what was sent before anybody was asked.
                let short = answer.content_length().is_some_and(|length| length <= LONGEST_ANSWER);
                let leased = if short {
                    answer.json().await.unwrap_or_default()
                } else {
                    Leased::default()
                };
                self.shared.peers.has_leased(&edge.id, leased);
                Ok(())
            }
            // The importer has purged under this key, perhaps because its clock is ahead of ours: begin with another.
            Err(ClientError::Refused {
                status: StatusCode::CONFLICT,
                code: Some(code),
                ..
            }) if code == "key-retired" => Ok(self.shared.edge_keys.destroy(&edge.tenant, &edge.id).await?),
            Err(error) => Err(error.into()),
        }
    }
}
