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

/// A client of the keyring that remembers keys for at most 30 s. Cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    shared: Arc<KeyringShared>,
}

struct KeyringShared {
    client: ServiceClient,
    cache: Mutex<Cache>,
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
            requests.iter().map(|request| cache.get(request, now)).collect()
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
                cache.put(key.clone(), asked, until);
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
        self.cache().forget(tenant, subject, scope);
        Ok(())
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.shared.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys by the subject whose they are, who has few: they are found without a copy of what they are looked for by.
#[derive(Default)]
struct Cache {
    keys: HashMap<SubjectId, Vec<Leased>>,
    count: usize,
}

/// A key, and until when it may be used.
struct Leased {
    key: SubjectKey,
    until: Instant,
}

impl Leased {
    fn is_of(&self, tenant: &TenantId, scope: &KeyScope) -> bool {
        self.key.tenant() == tenant && self.key.scope() == scope
    }
}

impl Cache {
    fn get(&self, request: &KeyRequest, now: Instant) -> Option<SubjectKey> {
        let of_subject = self.keys.get(&request.subject)?;
        let fits = |leased: &&Leased| now < leased.until && leased.is_of(&request.tenant, &request.scope);
        of_subject.iter().find(fits).map(|leased| leased.key.clone())
    }

    fn put(&mut self, key: SubjectKey, now: Instant, until: Instant) {
        self.make_room(now);
        let of_subject = self.keys.entry(key.subject()).or_default();
        match of_subject
            .iter_mut()
            .find(|leased| leased.is_of(key.tenant(), key.scope()))
        {
            Some(known) => *known = Leased { key, until },
            None => {
                of_subject.push(Leased { key, until });
                self.count += 1;
            }
        }
    }

    fn forget(&mut self, tenant: &TenantId, subject: &SubjectId, scope: Option<&KeyScope>) {
        self.retain(|leased| {
            let (key, of) = (&leased.key, leased.key.scope());
            !(key.tenant() == tenant && key.subject() == *subject && scope.is_none_or(|scope| scope == of))
        });
    }

    fn make_room(&mut self, now: Instant) {
        if self.count < CACHE_KEYS {
            return;
        }
        self.retain(|leased| now < leased.until);
        if self.count >= CACHE_KEYS {
            // All are fresh: forgetting them costs questions, keeping them would cost memory without bound.
            *self = Self::default();
        }
    }

    fn retain(&mut self, stays: impl Fn(&Leased) -> bool) {
        self.keys.retain(|_, of_subject| {
            of_subject.retain(&stays);
            !of_subject.is_empty()
        });
        self.count = self.keys.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use zeroize::Zeroizing;

    use super::*;

    fn request(tenant: &str, subject: u128, scope: KeyScope) -> KeyRequest {
        KeyRequest {
            tenant: tenant.parse().expect("a tenant"),
            subject: SubjectId(Uuid::from_u128(subject)),
            scope,
            create: false,
        }
    }

    fn put(cache: &mut Cache, request: &KeyRequest, byte: u8, now: Instant) {
        let KeyRequest {
            tenant, subject, scope, ..
        } = request.clone();
        let key = SubjectKey::from_bytes(tenant, subject, scope, Zeroizing::new([byte; 32]));
        cache.put(key, now, now + CACHE_FOR);
    }

    #[test]
    fn a_key_is_found_under_all_that_it_is_for_until_its_lease_ends() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let july = KeyScope::Location { year: 2026, month: 7 };
        let asked = [
            request("stride-eu", 1, KeyScope::Personal),
            request("stride-eu", 1, july.clone()),
            request("pace-eu", 1, KeyScope::Personal),
        ];
        for (request, byte) in asked.iter().zip(1..) {
            put(&mut cache, request, byte, now);
        }
        for (request, byte) in asked.iter().zip(1..) {
            let found = cache.get(request, now).expect("a key");
            let same = SubjectKey::from_bytes(
                request.tenant.clone(),
                request.subject,
                request.scope.clone(),
                Zeroizing::new([byte; 32]),
            );
            assert_eq!((found.tenant(), found.scope()), (&request.tenant, &request.scope));
            assert_eq!(found.evidence_salt(), same.evidence_salt());
        }
        assert!(cache.get(&request("pace-eu", 1, july), now).is_none());
        assert!(cache.get(&request("pace-eu", 2, KeyScope::Personal), now).is_none());
        assert!(cache.get(&asked[0], now + CACHE_FOR).is_none());
    }

    #[test]
    fn what_is_destroyed_is_forgotten_and_the_cache_does_not_grow_without_bound() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (personal, july) = (KeyScope::Personal, KeyScope::Location { year: 2026, month: 7 });
        let one = request("stride-eu", 1, personal.clone());
        put(&mut cache, &one, 1, now);
        put(&mut cache, &one, 2, now);
        put(&mut cache, &request("stride-eu", 1, july.clone()), 3, now);
        assert_eq!(cache.count, 2);
        cache.forget(&one.tenant, &one.subject, Some(&july));
        assert!(cache.get(&one, now).is_some());
        cache.forget(&one.tenant, &one.subject, None);
        assert!(cache.get(&one, now).is_none());
        assert_eq!((cache.count, cache.keys.len()), (0, 0));
        for subject in 0..=CACHE_KEYS as u128 {
            put(&mut cache, &request("stride-eu", subject, personal.clone()), 1, now);
        }
        assert_eq!((cache.count, cache.keys.len()), (1, 1));
    }
}
