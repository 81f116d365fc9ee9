//! Hashing and checking passwords: argon2id in blocking tasks, as many at once as there are processors.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use crate::domain::password::Password;

/// 19 MiB, two passes, one lane: the OWASP password storage cheat sheet's first choice for argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// How long a request waits for its turn before it is told to come back.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many requests may wait.
const QUEUE: usize = 128;

/// Why a password was neither hashed nor checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many at once.
    #[error("more sign-ins and registrations are waiting than this region can hash; repeat in a few seconds")]
    Busy,
    /// The library.
    #[error("the password hash could not be computed: {0}")]
    Hash(String),
    /// The task ended early: the process is shutting down.
    #[error("the password hash was interrupted; the service is stopping")]
    Interrupted,
}

/// Hashes and checks. Cloning is cheap.
#[derive(Clone)]
pub struct PasswordHasher {
    pepper: Arc<Zeroizing<[u8; 32]>>,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// A hash that no password matches, checked where there is no account, so that absence takes as long as presence.
    decoy: Arc<str>,
    /// How often argon2 ran to check a password.
    checks: Counter,
}

impl PasswordHasher {
    /// A hasher that runs `at_once` hashes at a time; each takes 19 MiB and one processor. `checks` counts them.
    pub fn new(pepper: &Zeroizing<[u8; 32]>, at_once: usize, checks: Counter) -> Result<Self, PasswordError> {
        let mut unknown = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(&mut unknown[..]).map_err(|_| PasswordError::Hash("no random bytes".into()))?;
        let decoy = hash(pepper, &unknown[..])?;
        Ok(Self {
            pepper: Arc::new(pepper.clone()),
            running: Arc::new(Semaphore::new(at_once.max(1))),
            waiting: Arc::new(Semaphore::new(QUEUE)),
            decoy: decoy.into(),
            checks,
        })
    }

    /// A new hash in PHC form.
    pub async fn hash(&self, password: Password) -> Result<String, PasswordError> {
        let permit = self.turn().await?;
        let pepper = Arc::clone(&self.pepper);
        blocking(permit, move || hash(&pepper, password.bytes())).await?
    }

    /// Whether the password is the one of `stored`. Runs argon2 exactly once, whether or not there is an account.
    pub async fn verify(&self, password: Password, stored: Option<String>) -> Result<bool, PasswordError> {
        let permit = self.turn().await?;
        self.checks.inc();
        let (pepper, decoy) = (Arc::clone(&self.pepper), Arc::clone(&self.decoy));
        blocking(permit, move || {
            let known = stored.is_some();
            let matches = verify(&pepper, password.bytes(), stored.as_deref().unwrap_or(&decoy))?;
            Ok(matches && known)
        })
        .await?
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, PasswordError> {
        let _place = self.waiting.try_acquire().map_err(|_| PasswordError::Busy)?;
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.running).acquire_owned()).await;
        turn.map_err(|_| PasswordError::Busy)?
            .map_err(|_| PasswordError::Interrupted)
    }
}

/// The permit goes with the task, not with the request: a caller that hangs up does not make room for another hash
/// while its own still runs.
async fn blocking<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PasswordError> {
    tokio::task::spawn_blocking(move || {
        let done = work();
        drop(permit);
        done
    })
    .await
    .map_err(|_| PasswordError::Interrupted)
}

fn argon2(pepper: &[u8; 32]) -> Result<Argon2<'_>, PasswordError> {
    let failed = |error: argon2::Error| PasswordError::Hash(error.to_string());
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(failed)?;
    Argon2::new_with_secret(pepper, Algorithm::Argon2id, Version::V0x13, params).map_err(failed)
}

fn hash(pepper: &[u8; 32], password: &[u8]) -> Result<String, PasswordError> {
    argon2(pepper)?
        .hash_password(password)
        .map(|hash: PasswordHash| hash.to_string())
        .map_err(|error| PasswordError::Hash(error.to_string()))
}

fn verify(pepper: &[u8; 32], password: &[u8], stored: &str) -> Result<bool, PasswordError> {
    let stored = PasswordHash::new(stored).map_err(|error| PasswordError::Hash(error.to_string()))?;
    match argon2(pepper)?.verify_password(password, &stored) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(PasswordError::Hash(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher(pepper: u8) -> PasswordHasher {
        PasswordHasher::new(&Zeroizing::new([pepper; 32]), 1, Counter::default()).unwrap()
    }

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[tokio::test]
    async fn only_the_same_password_under_the_same_pepper_matches() {
        let stored = hasher(1).hash(password("correct horse")).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(
            hasher(1)
                .verify(password("correct horse"), Some(stored.clone()))
                .await
                .unwrap()
        );
        assert!(
            !hasher(1)
                .verify(password("correct horsf"), Some(stored.clone()))
                .await
                .unwrap()
        );
        assert!(!hasher(2).verify(password("correct horse"), Some(stored)).await.unwrap());
    }

    #[tokio::test]
    async fn without_an_account_nothing_matches() {
        assert!(!hasher(1).verify(password("correct horse"), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_caller_that_hangs_up_keeps_its_turn_until_the_hash_is_done() {
        let hasher = hasher(1);
        let abandoned = hasher.verify(password("x"), None);
        // Poll once: the blocking task starts and owns the permit. Then hang up.
        drop(tokio::time::timeout(Duration::ZERO, abandoned).await);
        assert_eq!(hasher.running.available_permits(), 0);
        assert!(!hasher.verify(password("y"), None).await.unwrap());
        assert_eq!(hasher.running.available_permits(), 1);
    }
}
