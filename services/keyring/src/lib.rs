//! The keyring: one random key per (tenant, subject, scope), outside every database, its WAL and its backups.
//!
//! What is sealed under a subject's key is erased, wherever its bytes are, by destroying the key. So the keyring must
//! never lose a key it gave out (it is on the disk before the answer leaves), never give one out again after it was
//! destroyed (a tombstone stays), and never let a destroyed key's bytes linger (its slot is overwritten in place).

pub mod domain;
pub mod http;
pub mod service;
pub mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meridian_kit::service::{Parts, serve};
use meridian_kit::{Start, StartError};
use zeroize::Zeroizing;

pub use crate::http::router;
pub use crate::service::Keyring;
use crate::store::{Rewrapped, StoreError};

/// How long a start waits for files that another keyring has open, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

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
    let (keyring, rewrapped) = open(directory, kek)
        .await
        .map_err(|error| StartError::other("opening the keyring's store", error))?;
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
    // Not kept alive by being asked about: the files are free as soon as the service has ended.
    let checked = Arc::downgrade(&keyring);
    start.readiness().register("the key store", move || {
        let keyring = checked.upgrade();
        async move {
            let keyring = keyring.ok_or("it is closed")?;
            keyring.check().await.map_err(|error| error.to_string())?;
            Ok("it answers".to_owned())
        }
    });
    let (keeping, stop) = (Arc::clone(&keyring), start.stop());
    let keep = async move {
        match stop.run_until_cancelled(keeping.keep()).await {
            None => Ok(()),
            Some(()) => Err(StoreError::Stopped),
        }
    };
    serve(start, Parts::new(router(keyring)).background("the key store", keep)).await
}

/// Opens the store, waiting for a keyring that is just ending: its files are free only when its last thread is gone.
async fn open(directory: PathBuf, kek: Zeroizing<Vec<u8>>) -> Result<(Keyring, Rewrapped), StoreError> {
    let (directory, kek) = (Arc::new(directory), Arc::new(kek));
    let given_up = Instant::now() + PATIENCE;
    loop {
        let (directory, kek) = (Arc::clone(&directory), Arc::clone(&kek));
        let opened = tokio::task::spawn_blocking(move || Keyring::open(&directory, &kek)).await;
        match opened.map_err(|_| StoreError::Stopped)? {
            Err(StoreError::InUse) if Instant::now() < given_up => tokio::time::sleep(PAUSE).await,
            settled => return settled,
        }
    }
}
