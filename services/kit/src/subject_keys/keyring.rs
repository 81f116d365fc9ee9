//! The client of the keyring, with a short memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meridian_policy::TenantId;

use super::{
    Create, DestroyRequest, Error, KeyAnswer, KeyRequest, KeyScope, ResolveAnswer, ResolveRequest, SubjectKey,
};
use crate::client::ServiceClient;
use crate::ids::SubjectId;

/// How long a key may be used without asking for it again: an erasure is in force everywhere after this.
const CACHE_FOR: Duration = Duration::from_secs(30);
/// Keys kept at most.
const CACHE_KEYS: usize = 4096;
/// Keys asked for at once.
const BATCH: usize = 256;

type CacheKey = (TenantId, SubjectId, KeyScope);

/// A client of the keyring that remembers keys for at most 30 s. Cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    shared: Arc<KeyringShared>,
}

struct KeyringShared {
    client: ServiceClient,
    cache: Mutex<HashMap<CacheKey, (Instant, SubjectKey)>>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keyring").finish_non_exhaustive()
    }
}

impl Keyring {
    /// With a client for the keyring service.
    #[must_use]
    pub fn new(client: ServiceClient) -> Self {
        Self {
            shared: Arc::new(KeyringShared {
                client,
                cache: Mutex::default(),
            }),
        }
    }

    /// A subject's key.
    ///
    /// # Errors
    /// [`Error::KeyDestroyed`], [`Error::KeyAbsent`] (with [`Create::No`] only), or that the keyring cannot be asked.
    pub async fn key(
        &self,
        tenant: &TenantId,
        subject: &SubjectId,
        scope: &KeyScope,
        create: Create,
    ) -> Result<SubjectKey, Error> {
        let create = create == Create::Yes;
        let request = KeyRequest {
            tenant: tenant.clone(),
            subject: *subject,
            scope: scope.clone(),
            create,
        };
        self.keys(vec![request]).await?.pop().unwrap_or(Err(Error::KeyAbsent))
    }

    /// Many keys with as few questions as possible; the answers are in the order of the requests.
    ///
    /// # Errors
    /// When the keyring cannot be asked; what is wrong with one key is in its own answer.
    pub async fn keys(&self, requests: Vec<KeyRequest>) -> Result<Vec<Result<SubjectKey, Error>>, Error> {
        let now = Instant::now();
        let known: Vec<Option<SubjectKey>> = {
            let cache = self.cache();
            let fresh = |entry: &&(Instant, SubjectKey)| now < entry.0;
            let look = |request: &KeyRequest| {
                cache
                    .get(&cache_key(request))
                    .filter(fresh)
                    .map(|entry| entry.1.clone())
            };
            requests.iter().map(look).collect()
        };
        let missing: Vec<KeyRequest> = requests
            .iter()
            .zip(&known)
            .filter(|(_, key)| key.is_none())
            .map(|(request, _)| request.clone())
            .collect();
        let mut resolved = Vec::with_capacity(missing.len());
        for chunk in missing.chunks(BATCH) {
            resolved.extend(self.resolve(chunk).await?);
        }
        let mut resolved = resolved.into_iter();
        let answer = |known: Option<SubjectKey>| match known {
            Some(key) => Ok(key),
            None => resolved.next().unwrap_or(Err(Error::KeyAbsent)),
        };
        Ok(known.into_iter().map(answer).collect())
    }

    async fn resolve(&self, requests: &[KeyRequest]) -> Result<Vec<Result<SubjectKey, Error>>, Error> {
        // Before asking: the 30 s begin no later than when the keyring answered.
        let asked = Instant::now();
        let body = ResolveRequest {
            keys: requests.to_vec(),
        };
        // Asking twice makes no second key.
        let answer: ResolveAnswer = self
            .shared
            .client
            .post("/v1/keys/resolve")
            .json(&body)
            .idempotent()
            .fetch()
            .await?;
        if answer.keys.len() != requests.len() {
            return Err(Error::Shape);
        }
        let mut cache = self.cache();
        let keys = requests.iter().zip(answer.keys).map(|(request, answer)| match answer {
            KeyAnswer::Live { key, valid_for_ms } => {
                let leased = valid_for_ms.map_or(CACHE_FOR, Duration::from_millis);
                let until = asked + leased.min(CACHE_FOR);
                let key = SubjectKey::from_bytes(request.tenant.clone(), request.subject, request.scope.clone(), key.0);
                make_room(&mut cache, asked);
                cache.insert(cache_key(request), (until, key.clone()));
                Ok(key)
            }
            KeyAnswer::Absent => Err(Error::KeyAbsent),
            KeyAnswer::Destroyed => Err(Error::KeyDestroyed),
        });
        Ok(keys.collect())
    }

    /// Destroys a subject's keys, or one of them, for ever.
    ///
    /// # Errors
    /// When the keyring does not confirm; repeat it.
    pub async fn destroy(&self, tenant: &TenantId, subject: &SubjectId, scope: Option<&KeyScope>) -> Result<(), Error> {
        let body = DestroyRequest {
            tenant: tenant.clone(),
            subject: *subject,
            scope: scope.cloned(),
        };
        self.shared
            .client
            .post("/v1/keys/destroy")
            .json(&body)
            .idempotent()
            .send()
            .await?;
        self.cache()
            .retain(|(of, who, what), _| !(of == tenant && who == subject && scope.is_none_or(|scope| scope == what)));
        Ok(())
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<CacheKey, (Instant, SubjectKey)>> {
        self.shared.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cache_key(request: &KeyRequest) -> CacheKey {
    (request.tenant.clone(), request.subject, request.scope.clone())
}

fn make_room(cache: &mut HashMap<CacheKey, (Instant, SubjectKey)>, now: Instant) {
    if cache.len() < CACHE_KEYS {
        return;
    }
    cache.retain(|_, (until, _)| now < *until);
    if cache.len() >= CACHE_KEYS {
        // All are fresh: forgetting them costs questions, keeping them would cost memory without bound.
        cache.clear();
    }
}
