//! The region's signing keys at work: made, published, signing, forgotten (when is decided in
//! `domain/signing_keys.rs`).

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use sqlx::PgPool;

use crate::domain::claims::Claims;
use crate::domain::signing_keys::{self, KeyTerm};
use crate::secrets::{SecretError, Secrets};
use crate::store::signing_keys::{self as store, StoredKey};

/// How often each replica looks for new keys and rotates what is due. Far shorter than a key's lead.
const LOOK: Duration = Duration::from_secs(60);

/// Why there is no key or no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The table.
    #[error("the signing keys could not be read or rotated: {0}")]
    Database(#[from] sqlx::Error),
    /// A sealed key.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Making a key pair.
    #[error("a signing key could not be made; check the machine's random source")]
    Generate,
    /// Signing.
    #[error("a token could not be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
    /// No key's term has begun.
    #[error("no signing key's term has begun; the clock of this machine may be behind")]
    NoKey,
}

/// A public key as RFC 8037 writes it in a JWKS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwk {
    kty: &'static str,
    crv: &'static str,
    alg: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
    kid: String,
    x: String,
}

/// The published keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwks {
    keys: Vec<Jwk>,
}

struct KeySet {
    terms: Vec<(KeyTerm, EncodingKey)>,
    published: Jwks,
}

/// Signs tokens with the region's current key. Cloning is cheap.
#[derive(Clone)]
pub struct Signer {
    pool: PgPool,
    secrets: Arc<Secrets>,
    keys: Arc<RwLock<Arc<KeySet>>>,
}

impl Signer {
    /// Loads the keys, making the region's first one if there is none.
    pub async fn start(pool: PgPool, secrets: Arc<Secrets>, now: Timestamp) -> Result<Self, TokenError> {
        let keys = Arc::new(rotate(&pool, &secrets, now).await?);
        Ok(Self {
            pool,
            secrets,
            keys: Arc::new(RwLock::new(keys)),
        })
    }

    /// Signs claims with the key whose term it is.
    pub fn sign(&self, claims: &Claims, now: Timestamp) -> Result<String, TokenError> {
        let keys = self.current();
        let terms: Vec<KeyTerm> = keys.terms.iter().map(|(term, _)| term.clone()).collect();
        let signing = signing_keys::signing(&terms, now).ok_or(TokenError::NoKey)?;
        let (term, key) = keys
            .terms
            .iter()
            .find(|(term, _)| term == signing)
            .ok_or(TokenError::NoKey)?;
        let header = Header {
            kid: Some(term.kid.clone()),
            ..Header::new(Algorithm::EdDSA)
        };
        Ok(jsonwebtoken::encode(&header, claims, key)?)
    }

    /// The keys that verify this region's tokens, the next one included.
    pub fn published(&self) -> Jwks {
        self.current().published.clone()
    }

    /// Does at `now` what the rotation asks for, and takes up what other replicas did.
    pub async fn rotate(&self, now: Timestamp) -> Result<(), TokenError> {
        let keys = Arc::new(rotate(&self.pool, &self.secrets, now).await?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Rotates for as long as the service runs. A database that is away is tried again: the current key goes on
    /// signing meanwhile.
    pub async fn keep(&self) -> std::convert::Infallible {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            if let Err(error) = self.rotate(Timestamp::now()).await {
                tracing::warn!(error = %error, "signing keys were not rotated; trying again");
            }
        }
    }

    fn current(&self) -> Arc<KeySet> {
        // The set is replaced as a whole, so a poisoned lock still guards a whole set.
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn rotate(pool: &PgPool, secrets: &Secrets, now: Timestamp) -> Result<KeySet, TokenError> {
    // The table keeps microseconds and rounds: a term that began a fraction later than planned would leave a new region
    // without a key.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let stored = store::exclusively(pool, async |connection| {
        let stored = store::all(connection).await?;
        let terms: Vec<KeyTerm> = stored.iter().map(term).collect();
        // A replica that read its clock before another one made the first key must not take that key for a later one.
        let now = terms
            .iter()
            .map(|term| term.signs_from)
            .min()
            .map_or(now, |first| now.max(first));
        let plan = signing_keys::plan(&terms, now);
        for signs_from in plan.create {
            store::insert(connection, &generate(secrets, signs_from)?).await?;
        }
        if !plan.delete.is_empty() {
            store::delete(connection, &plan.delete).await?;
        }
        Ok::<_, TokenError>(store::all(connection).await?)
    })
    .await?;
    let published = Jwks {
        keys: stored.iter().map(jwk).collect(),
    };
    let terms = stored
        .iter()
        .map(|key| {
            let private = secrets.open_signing_key(&key.kid, &key.sealed_private)?;
            Ok((term(key), EncodingKey::from_ed_der(&private)))
        })
        .collect::<Result<_, TokenError>>()?;
    Ok(KeySet { terms, published })
}

fn generate(secrets: &Secrets, signs_from: Timestamp) -> Result<StoredKey, TokenError> {
    let pair = Ed25519KeyPair::generate().map_err(|_| TokenError::Generate)?;
    let private = pair.to_pkcs8().map_err(|_| TokenError::Generate)?;
    let kid = uuid::Uuid::new_v4().simple().to_string();
    let sealed_private = secrets.seal_signing_key(&kid, private.as_ref())?;
    Ok(StoredKey {
        kid,
        signs_from,
        public: pair.public_key().as_ref().to_vec(),
        sealed_private,
    })
}

fn term(key: &StoredKey) -> KeyTerm {
    KeyTerm {
        kid: key.kid.clone(),
        signs_from: key.signs_from,
    }
}

fn jwk(key: &StoredKey) -> Jwk {
    Jwk {
        kty: "OKP",
        crv: "Ed25519",
        alg: "EdDSA",
        usage: "sig",
        kid: key.kid.clone(),
        x: URL_SAFE_NO_PAD.encode(&key.public),
    }
}
