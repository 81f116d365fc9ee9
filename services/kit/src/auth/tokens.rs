//! Tokens: what they may say, the keys that verify them, and why one is refused.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use meridian_policy::{Epoch, TenantId};
use serde::{Deserialize, Serialize};

use crate::client::{ClientError, ServiceClient};
use crate::headers::AUTHORIZATION;
use crate::policy_feed::PolicyFeed;
use crate::problem::Problem;
use crate::residency::{Homes, Residence};

/// How far clocks may be apart, in seconds.
const LEEWAY_SECONDS: u64 = 5;
/// The longest token that is looked at.
const TOKEN_LIMIT_BYTES: usize = 2048;
/// Keys are asked for again on an unknown key id, at most this often.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);
/// Keys older than this are asked for again, so that a withdrawn key stops working.
const REFRESH_AFTER: Duration = Duration::from_secs(300);

/// Whom a token is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// An athlete's session.
    Athlete,
    /// A marketing system of a tenant.
    Marketing,
}

/// Everything that a token says, and all that it may say.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The region's issuer URL.
    pub iss: String,
    /// Whom it is for.
    pub aud: Audience,
    /// The athlete's subject id, or the client id of a marketing system.
    pub sub: String,
    /// The tenant.
    pub tenant: TenantId,
    /// The epoch of the tenant's home when the token was made.
    pub epoch: Epoch,
    /// The end of its life, in seconds since 1970.
    pub exp: u64,
}

/// Why a token is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("the request needs the header Authorization: Bearer <token>; sign in to get a token")]
    Missing,
    /// It is no valid token of any region that the policy knows.
    #[error("the token is not valid; sign in again")]
    Invalid,
    /// It was valid once.
    #[error("the token has expired; sign in again")]
    Expired,
    /// The tenant's home has had a new epoch since.
    #[error("the token was made before the tenant's home changed; sign in again")]
    StaleEpoch,
    /// The token is for something else.
    #[error("the token is not meant for this")]
    WrongAudience,
    /// The token is valid, and its home is elsewhere.
    #[error("the account lives in another region")]
    Elsewhere {
        /// The public address of its home.
        home: String,
    },
    /// The keys to verify it with cannot be had.
    #[error("tokens cannot be verified at the moment; repeat the request")]
    Unverifiable,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Missing => Self::unauthorized("token-missing", message),
            Refusal::Invalid => Self::unauthorized("token-invalid", message),
            Refusal::Expired => Self::unauthorized("token-expired", message),
            Refusal::StaleEpoch => Self::unauthorized("token-stale-epoch", message),
            Refusal::WrongAudience => Self::forbidden("token-wrong-audience", message),
            Refusal::Elsewhere { home } => Self::misdirected(home),
            Refusal::Unverifiable => Self::unavailable("keys-unavailable", message),
        }
    }
}

/// Where this region's public signing keys come from. Services ask identity; identity itself gives its own
/// ([`Start::use_local_keys`]).
pub trait KeySource: Send + Sync + 'static {
    /// The key set (RFC 7517) as it is now.
    fn keys(&self) -> BoxFuture<'_, Result<JwkSet, ClientError>>;
}

/// Asks identity.
#[derive(Debug)]
pub struct IdentityKeys(ServiceClient);

impl IdentityKeys {
    /// With a client for identity.
    #[must_use]
    pub fn new(identity: ServiceClient) -> Self {
        Self(identity)
    }
}

impl KeySource for IdentityKeys {
    fn keys(&self) -> BoxFuture<'_, Result<JwkSet, ClientError>> {
        Box::pin(self.0.get("/.well-known/jwks.json").fetch())
    }
}

type Keys = Arc<HashMap<String, DecodingKey>>;

fn usable_keys(set: &JwkSet) -> HashMap<String, DecodingKey> {
    let usable = |key: &jsonwebtoken::jwk::Jwk| {
        let id = key.common.key_id.clone()?;
        // A key of another algorithm would never be used: validation names EdDSA only.
        matches!(key.algorithm, jsonwebtoken::jwk::AlgorithmParameters::OctetKeyPair(_))
            .then(|| DecodingKey::from_jwk(key).ok())
            .flatten()
            .map(|key| (id, key))
    };
    set.keys.iter().take(16).filter_map(usable).collect()
}

/// Verifies tokens of this region and of its peers. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    shared: Arc<VerifierShared>,
}

struct VerifierShared {
    feed: PolicyFeed,
    homes: Homes,
    source: RwLock<Arc<dyn KeySource>>,
    keys: RwLock<Keys>,
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier whose own region's keys come from `source`.
    #[must_use]
    pub fn new(feed: PolicyFeed, source: Arc<dyn KeySource>) -> Self {
        let homes = Homes::new(feed.clone());
        let shared = VerifierShared {
            feed,
            homes,
            source: RwLock::new(source),
            keys: RwLock::default(),
            asked: tokio::sync::Mutex::new(None),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Replaces where keys come from.
    pub fn set_source(&self, source: Arc<dyn KeySource>) {
        *self.shared.source.write().unwrap_or_else(PoisonError::into_inner) = source;
    }

    /// Verifies a token: its signature, its claims, and that its tenant is at home here at that epoch.
    ///
    /// # Errors
    /// Why not; [`Refusal::Elsewhere`] only for a token that is otherwise valid.
    pub async fn verify(&self, token: &str, audience: Audience) -> Result<Claims, Refusal> {
        let claims = self.verify_any(token).await?;
        if claims.aud != audience {
            return Err(Refusal::WrongAudience);
        }
        Ok(claims)
    }

    /// As [`Verifier::verify`], for any audience.
    ///
    /// # Errors
    /// Why not; [`Refusal::Elsewhere`] only for a token that is otherwise valid.
    pub async fn verify_any(&self, token: &str) -> Result<Claims, Refusal> {
        if token.len() > TOKEN_LIMIT_BYTES {
            return Err(Refusal::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Invalid)?;
        if header.alg != Algorithm::EdDSA {
            return Err(Refusal::Invalid);
        }
        let kid = header.kid.ok_or(Refusal::Invalid)?;
        // The issuer is only a hint until the signature holds: it picks the keys, and is then checked as a claim.
        let hint: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| Refusal::Invalid)?;
        let policy = self.shared.feed.current();
        if hint.iss == policy.issuer {
            let key = self.own_key(&kid).await?;
            let claims = decode(token, &key, &policy.issuer)?;
            return self.at_home(claims);
        }
        let peer = policy
            .peers
            .iter()
            .find(|peer| peer.issuer == hint.iss)
            .ok_or(Refusal::Invalid)?;
        let set: JwkSet = serde_json::from_value(peer.jwks.clone()).map_err(|_| Refusal::Invalid)?;
        let key = usable_keys(&set).remove(&kid).ok_or(Refusal::Invalid)?;
        let claims = decode(token, &key, &peer.issuer)?;
        // The tenant has moved here since: sending the client back would make it go to and fro.
        if let Residence::Here(_) = self.shared.homes.residence(&claims.tenant) {
            return Err(Refusal::StaleEpoch);
        }
        Err(Refusal::Elsewhere {
            home: peer.public_url.clone(),
        })
    }

    fn at_home(&self, claims: Claims) -> Result<Claims, Refusal> {
        match self.shared.homes.residence(&claims.tenant) {
            Residence::Here(epoch) if epoch == claims.epoch => Ok(claims),
            // Our own policy is behind the one that identity saw: it will arrive.
            Residence::Here(epoch) if epoch < claims.epoch => Err(Refusal::Unverifiable),
            Residence::Here(_) => Err(Refusal::StaleEpoch),
            Residence::Elsewhere(home) => Err(Refusal::Elsewhere { home }),
            Residence::Unknown => Err(Refusal::Invalid),
        }
    }

    fn known(&self) -> Keys {
        Arc::clone(&self.shared.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn own_key(&self, kid: &str) -> Result<DecodingKey, Refusal> {
        let known = self.known().get(kid).cloned();
        let mut asked = match (self.shared.asked.try_lock(), known) {
            (Ok(asked), _) => asked,
            // Somebody is asking right now; a key at hand does not wait for that.
            (Err(_), Some(key)) => return Ok(key),
            (Err(_), None) => self.shared.asked.lock().await,
        };
        // Looked up again: whoever held the lock may have brought it.
        let known = self.known().get(kid).cloned();
        let age = asked.map(|then| then.elapsed());
        let due = match (&known, age) {
            (_, None) => true,
            (None, Some(age)) => age >= REFRESH_PAUSE,
            (Some(_), Some(age)) => age >= REFRESH_AFTER,
        };
        if !due {
            return known.ok_or(Refusal::Invalid);
        }
        let source = Arc::clone(&self.shared.source.read().unwrap_or_else(PoisonError::into_inner));
        match source.keys().await {
            Ok(set) => {
                *asked = Some(Instant::now());
                let keys = Arc::new(usable_keys(&set));
                *self.shared.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keys);
                keys.get(kid).cloned().ok_or(Refusal::Invalid)
            }
            Err(error) => {
                tracing::warn!(%error, "the keys that verify tokens cannot be had");
                // A key that was good a while ago is better than signing everybody out while identity restarts.
                if known.is_some() {
                    *asked = Instant::now()
                        .checked_sub(REFRESH_AFTER.saturating_sub(REFRESH_PAUSE))
                        .or(*asked);
                }
                known.ok_or(Refusal::Unverifiable)
            }
        }
    }
}

fn decode(token: &str, key: &DecodingKey, issuer: &str) -> Result<Claims, Refusal> {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.leeway = LEEWAY_SECONDS;
    validation.set_issuer(&[issuer]);
    validation.set_audience(&["athlete", "marketing"]);
    validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    let decoded = jsonwebtoken::decode::<Claims>(token, key, &validation).map_err(|error| match error.kind() {
        jsonwebtoken::errors::ErrorKind::ExpiredSignature => Refusal::Expired,
        _ => Refusal::Invalid,
    })?;
    Ok(decoded.claims)
}

/// The token of `Authorization: Bearer …`.
///
/// # Errors
/// When there is none.
pub fn bearer(headers: &http::HeaderMap) -> Result<&str, Refusal> {
    let value = headers
        .get(AUTHORIZATION)
        .ok_or(Refusal::Missing)?
        .to_str()
        .map_err(|_| Refusal::Invalid)?;
    let (scheme, token) = value.split_once(' ').ok_or(Refusal::Missing)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token.trim())
    } else {
        Err(Refusal::Missing)
    }
}
