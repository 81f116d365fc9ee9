//! The keyring over HTTP: three POSTs, mTLS only, for named services of this region only.

mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use meridian_kit::auth::Peer;
use meridian_kit::problem::{Json, Problem};
use meridian_kit::subject_keys::{ResolveAnswer, ResolveRequest};

use self::wire::{DestroyRequest, Destroyed, LeaseRequest};
use crate::service::{Keyring, Refusal};

/// The routes. Who may call which is decided in `domain/grants.rs`, per scope.
pub fn router(keyring: Arc<Keyring>) -> Router {
    Router::new()
        .route("/v1/keys/resolve", post(resolve))
        .route("/v1/keys/lease", post(lease))
        .route("/v1/keys/destroy", post(destroy))
        .with_state(keyring)
}

async fn resolve(
    State(keyring): State<Arc<Keyring>>,
    peer: Peer,
    Json(request): Json<ResolveRequest>,
) -> Result<Json<ResolveAnswer>, Problem> {
    let asked = request.keys.into_iter().map(wire::asked).collect();
    let resolved = keyring.resolve(peer.service(), asked).await?;
    Ok(Json(ResolveAnswer {
        keys: resolved.into_iter().map(wire::answer).collect(),
    }))
}

async fn lease(
    State(keyring): State<Arc<Keyring>>,
    peer: Peer,
    Json(request): Json<LeaseRequest>,
) -> Result<Json<wire::Leased>, Problem> {
    let (address, key, valid_for) = request.into_parts();
    keyring.lease(peer.service(), address, key, valid_for).await?;
    Ok(Json(wire::Leased {}))
}

async fn destroy(
    State(keyring): State<Arc<Keyring>>,
    peer: Peer,
    Json(request): Json<DestroyRequest>,
) -> Result<Json<Destroyed>, Problem> {
    let destroyed = keyring
        .destroy(peer.service(), request.tenant, request.subject, request.scope)
        .await?;
    Ok(Json(Destroyed { destroyed }))
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::NotGranted { .. } => Self::forbidden("key-not-granted", message),
            Refusal::BatchSize(_) => Self::bad_request("batch-size", message),
            Refusal::TooFast(wait) => Self::too_many(wait),
            Refusal::Lease(_) | Refusal::NotLeasable(_) => Self::bad_request("lease", message),
            Refusal::Retired => Self::conflict("key-retired", message),
            Refusal::SubjectMissing => Self::bad_request("subject-missing", message),
            Refusal::Store(error) => {
                // The text may name files; callers need only know that the answer is not "no key".
                tracing::error!(error = %error, "the keyring's store did not answer");
                Self::unavailable(
                    "keyring-store",
                    "the keyring could not read or write its store; try again",
                )
            }
        }
    }
}
