//! The keyring: one random key per (tenant, subject, scope), outside every database, its WAL and its backups.
//!
//! What is sealed under a subject's key is erased, wherever its bytes are, by destroying the key. So the keyring must
//! never lose a key it gave out (it is on the disk before the answer leaves), never give one out again after it was
//! destroyed (a tombstone stays), and never let a destroyed key's bytes linger (its slot is overwritten in place).

pub mod domain;
pub mod http;
pub mod service;
pub mod store;

use std::sync::Arc;

use meridian_kit::service::{Parts, serve};
use meridian_kit::{Start, StartError};

pub use crate::http::router;
pub use crate::service::Keyring;

/// Runs the keyring until it is told to stop or its volume fails.
///
/// # Errors
/// When the data directory or the KEK cannot be used, or the kit cannot start.
pub async fn run(start: Start) -> Result<(), StartError> {
    let directory = start.config().data_dir.clone().ok_or_else(|| StartError::File {
        variable: "MERIDIAN_DATA_DIR",
        problem: "is missing; set it to the directory of the keyring's own volume".to_owned(),
    })?;
    let kek = start.secret_file("MERIDIAN_KEK_FILE")?;
    let failed = |error: store::StoreError| StartError::other("opening the keyring's store", error);
    let opened = tokio::task::spawn_blocking(move || Keyring::open(&directory, &kek)).await;
    let (keyring, rewrapped) = opened
        .map_err(|error| StartError::other("opening the keyring's store", error))?
        .map_err(failed)?;
    if rewrapped.0 > 0 {
        tracing::info!(
            count = rewrapped.0,
            "keys were wrapped again under the newest KEK version"
        );
    }
    let (metrics, counts) = (start.metrics(), keyring.counts().clone());
    metrics.register(
        "meridian_keyring_created",
        "Keys that were asked to be made",
        counts.created,
    );
    metrics.register(
        "meridian_keyring_destroyed",
        "Live keys that were destroyed",
        counts.destroyed,
    );
    metrics.register(
        "meridian_keyring_leased",
        "Exporters' keys that were taken or renewed",
        counts.leased,
    );
    metrics.register(
        "meridian_keyring_refused",
        "Requests outside the grants",
        counts.refused,
    );
    let keyring = Arc::new(keyring);
    let checked = Arc::clone(&keyring);
    start.readiness().register("the key store", move || {
        let keyring = Arc::clone(&checked);
        async move {
            keyring
                .check()
                .await
                .map(|()| "it answers".to_owned())
                .map_err(|error| error.to_string())
        }
    });
    let (keeping, stop) = (Arc::clone(&keyring), start.stop());
    let keep = async move {
        match stop.run_until_cancelled(keeping.keep()).await {
            None => Ok(()),
            Some(()) => Err(store::StoreError::Stopped),
        }
    };
    serve(start, Parts::new(router(keyring)).background("the key store", keep)).await
}
