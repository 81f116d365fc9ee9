//! identity: accounts as event-sourced users, sign-in, and the tokens of one region.

pub mod accounts;
pub mod domain;
pub mod http;
pub mod marketing;
pub mod password;
pub mod refusal;
pub mod secrets;
pub mod store;
pub mod tokens;

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use jsonwebtoken::jwk::JwkSet;
use meridian_kit::auth::KeySource;
use meridian_kit::client::ClientError;
use meridian_kit::db::Migration;
use meridian_kit::kafka::Topic;
use meridian_kit::outbox::Relay;
use meridian_kit::service::{Parts, serve};
use meridian_kit::{Start, StartError};

use crate::accounts::{Accounts, TOPIC};
use crate::marketing::MarketingClients;
use crate::password::PasswordHasher;
use crate::secrets::Secrets;
use crate::tokens::Signer;

/// identity's schema.
pub const MIGRATIONS: &[Migration] = &[
    Migration::new(100, "accounts", include_str!("../migrations/0100_accounts.sql")),
    Migration::new(101, "signing keys", include_str!("../migrations/0101_signing_keys.sql")),
];

/// Where marketing clients' credentials are mounted: `<tenant>/client-id` and `<tenant>/client-secret`.
const MARKETING_DIR: &str = "MERIDIAN_MARKETING_DIR";

/// Runs identity until it is told to stop.
///
/// # Errors
/// When the database, the pepper file or the kit cannot be used.
pub async fn run(start: Start) -> Result<(), StartError> {
    run_with(start, std::env::var_os(MARKETING_DIR).map(PathBuf::from)).await
}

/// As [`run`], with marketing clients' credentials in `marketing`.
///
/// # Errors
/// When the database, the pepper file or the kit cannot be used.
pub async fn run_with(start: Start, marketing: Option<PathBuf>) -> Result<(), StartError> {
    let accounts = assemble(&start, marketing).await?;
    let relay = Relay::new(&start)?;
    let stop = start.stop();
    let signer = accounts.signer.clone();
    let rotation = async move {
        stop.run_until_cancelled(signer.keep()).await;
        Ok::<_, std::convert::Infallible>(())
    };
    let parts = Parts::new(http::router(accounts))
        .topics(vec![Topic::events(TOPIC)])
        .background("the relay", relay.run())
        .background("the rotation of signing keys", rotation);
    serve(start, parts).await
}

/// Builds what the routes need.
///
/// # Errors
/// When the database, the pepper file or a client cannot be used.
pub async fn assemble(start: &Start, marketing: Option<PathBuf>) -> Result<Accounts, StartError> {
    let pool = start.database()?;
    let pepper = start.secret_file("MERIDIAN_PEPPER_FILE")?;
    let secrets = Secrets::derive(&pepper).map_err(|error| StartError::other("reading the pepper", error))?;
    let secrets = Arc::new(secrets);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let checks = start.metrics().counter(
        "meridian_identity_password_checks",
        "Passwords checked, one argon2 run each",
    );
    let passwords = PasswordHasher::new(secrets.password_pepper(), processors, checks)
        .map_err(|error| StartError::other("preparing password hashing", error))?;
    let signer = Signer::start(pool.clone(), Arc::clone(&secrets), Timestamp::now())
        .await
        .map_err(|error| StartError::other("loading the signing keys", error))?;
    start.use_local_keys(Arc::new(OwnKeys(signer.clone())));
    Ok(Accounts {
        pool,
        feed: start.feed().clone(),
        homes: start.homes(),
        keyring: start.keyring()?,
        source: start.event_source(),
        secrets,
        passwords,
        signer,
        marketing: MarketingClients::new(marketing),
    })
}

/// identity verifies tokens with the keys it holds instead of asking itself.
struct OwnKeys(Signer);

impl KeySource for OwnKeys {
    fn keys(&self) -> BoxFuture<'_, Result<JwkSet, ClientError>> {
        let published = serde_json::to_value(self.0.published()).and_then(serde_json::from_value);
        let keys = published.map_err(|error| ClientError::Answer {
            peer: "identity".to_owned(),
            problem: error.to_string(),
        });
        Box::pin(std::future::ready(keys))
    }
}
