//! One key, and values sealed under it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use meridian_evidence::commitment::{SALT_LABEL, Salt};
use meridian_policy::TenantId;
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed};
use zeroize::Zeroizing;

use super::{Error, KeyScope};
use crate::ids::SubjectId;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const VERSION: u8 = 1;
/// Room for most values as JSON.
const JSON_BYTES: usize = 1024;
/// How much longer a sealed value is than what it holds.
pub const OVERHEAD_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

/// A sealed value, as it is stored (`bytea`) and sent.
#[derive(Clone, Debug, Eq, PartialEq, sqlx::Type)]
#[sqlx(transparent)]
pub struct Sealed(pub Vec<u8>);

impl Sealed {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Whether bytes have the form of a sealed value: no text does. That they open is known to who has the key alone.
    #[must_use]
    pub fn is_form_of(bytes: &[u8]) -> bool {
        bytes.first() == Some(&VERSION) && bytes.len() >= OVERHEAD_BYTES
    }
}

impl From<Vec<u8>> for Sealed {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<Sealed> for Vec<u8> {
    fn from(sealed: Sealed) -> Self {
        sealed.0
    }
}

impl AsRef<[u8]> for Sealed {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What sealing and opening many values takes, once for all of them: random numbers, of which one by itself costs as much to
/// draw as sealing does, and memory for what is sealed, which is wiped at the end: drop it before anything is awaited.
#[derive(Debug)]
pub struct Bulk {
    /// Each is used once.
    nonces: Vec<[u8; NONCE_BYTES]>,
    at_once: usize,
    plain: Zeroizing<Vec<u8>>,
}

impl Bulk {
    /// For about so many values that are sealed.
    #[must_use]
    pub fn of(values: usize) -> Self {
        Self {
            nonces: Vec::new(),
            at_once: values.max(1),
            plain: Zeroizing::default(),
        }
    }

    fn nonce(&mut self) -> Result<[u8; NONCE_BYTES], Error> {
        if self.nonces.is_empty() {
            let mut drawn = vec![[0; NONCE_BYTES]; self.at_once];
            rand::fill(drawn.as_flattened_mut()).map_err(|_| Error::Random)?;
            self.nonces = drawn;
        }
        self.nonces.pop().ok_or(Error::Random)
    }

    /// Room for so many bytes, with nothing in it.
    fn room(&mut self, bytes: usize) -> &mut Vec<u8> {
        if self.plain.capacity() < bytes {
            self.plain = Zeroizing::new(Vec::with_capacity(bytes.next_power_of_two()));
        }
        self.plain.clear();
        &mut self.plain
    }
}

/// One key. Cheap to clone; wiped when the last clone is dropped.
#[derive(Clone)]
pub struct SubjectKey {
    subject: SubjectId,
    inner: Arc<KeyInner>,
}

struct KeyInner {
    tenant: TenantId,
    scope: KeyScope,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    /// These two are derived when first asked for.
    salt: OnceLock<Salt>,
    cipher: OnceLock<LessSafeKey>,
}

impl fmt::Debug for SubjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SubjectKey")
            .field("scope", &self.inner.scope)
            .finish_non_exhaustive()
    }
}

impl SubjectKey {
    /// A key with these bytes. Services get theirs from [`Keyring::key`].
    #[must_use]
    pub fn from_bytes(
        tenant: TenantId,
        subject: SubjectId,
        scope: KeyScope,
        bytes: Zeroizing<[u8; KEY_BYTES]>,
    ) -> Self {
        Self {
            subject,
            inner: Arc::new(KeyInner {
                tenant,
                scope,
                bytes,
                salt: OnceLock::new(),
                cipher: OnceLock::new(),
            }),
        }
    }

    /// The same key for another subject: what comes over an edge is sealed under the edge's key, whomever it is about.
    #[must_use]
    pub fn for_subject(&self, subject: SubjectId) -> Self {
        let inner = Arc::clone(&self.inner);
        Self { subject, inner }
    }

    /// Whose partition.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.inner.tenant
    }

    /// Whose key.
    #[must_use]
    pub fn subject(&self) -> SubjectId {
        self.subject
    }

    /// What it is for.
    #[must_use]
    pub fn scope(&self) -> &KeyScope {
        &self.inner.scope
    }

    /// What commitments of evidence to the subject are made with: derived from the key, and gone with it.
    #[must_use]
    pub fn evidence_salt(&self) -> Salt {
        let derive = || {
            let key = hmac::Key::new(hmac::HMAC_SHA256, self.inner.bytes.as_slice());
            let mut salt = Salt::new([0; 32]);
            salt.copy_from_slice(hmac::sign(&key, SALT_LABEL).as_ref());
            salt
        };
        self.inner.salt.get_or_init(derive).clone()
    }

    /// The key as AES uses it, which aws-lc wipes when it is dropped.
    fn cipher(&self) -> Result<&LessSafeKey, Error> {
        if let Some(cipher) = self.inner.cipher.get() {
            return Ok(cipher);
        }
        // Fails only for another length, and the array has the right one.
        let key = UnboundKey::new(&AES_256_GCM, self.inner.bytes.as_slice()).map_err(|_| Error::Unsealable)?;
        Ok(self.inner.cipher.get_or_init(|| LessSafeKey::new(key)))
    }

    /// Seals bytes for one place.
    ///
    /// # Errors
    /// Only when no random numbers can be had.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Sealed, Error> {
        self.seal_with(Bulk::of(1).nonce()?, context, plain)
    }

    fn seal_with(&self, nonce: [u8; NONCE_BYTES], context: &str, plain: &[u8]) -> Result<Sealed, Error> {
        let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let body = &mut sealed[1 + NONCE_BYTES..];
        let tag = self
            .cipher()?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context.as_bytes()), body)
            .map_err(|_| Error::Random)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(Sealed(sealed))
    }

    /// Opens bytes of one place.
    ///
    /// # Errors
    /// When they were not sealed under this key for this place.
    pub fn open(&self, context: &str, sealed: impl AsRef<[u8]>) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut bulk = Bulk::of(1);
        self.open_in(&mut bulk, context, sealed.as_ref())?;
        Ok(bulk.plain)
    }

    /// Leaves in the bulk's memory what is opened.
    fn open_in(&self, bulk: &mut Bulk, context: &str, sealed: &[u8]) -> Result<(), Error> {
        let (version, rest) = sealed.split_first().ok_or(Error::Unsealable)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Error::Unsealable)?;
        if *version != VERSION || body.len() < TAG_BYTES {
            return Err(Error::Unsealable);
        }
        let buffer = bulk.room(body.len());
        buffer.extend_from_slice(body);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .cipher()?
            .open_in_place(nonce, Aad::from(context.as_bytes()), buffer)
            .map_err(|_| Error::Unsealable)?
            .len();
        buffer.truncate(length);
        Ok(())
    }

    /// Seals a value as JSON.
    ///
    /// # Errors
    /// When it cannot be written as JSON, or no random numbers can be had.
    pub fn seal_json<T: Serialize + ?Sized>(&self, context: &str, value: &T) -> Result<Sealed, Error> {
        self.seal_json_with(&mut Bulk::of(1), context, value)
    }

    /// As [`Self::seal_json`], one value of many.
    ///
    /// # Errors
    /// The same.
    pub fn seal_json_with<T: Serialize + ?Sized>(
        &self,
        bulk: &mut Bulk,
        context: &str,
        value: &T,
    ) -> Result<Sealed, Error> {
        let nonce = bulk.nonce()?;
        let plain = bulk.room(JSON_BYTES);
        serde_json::to_writer(&mut *plain, value).map_err(|_| Error::Shape)?;
        self.seal_with(nonce, context, plain)
    }

    /// Opens a value that was sealed as JSON.
    ///
    /// # Errors
    /// When it was not sealed under this key for this place, or holds something else.
    pub fn open_json<T: DeserializeOwned>(&self, context: &str, sealed: impl AsRef<[u8]>) -> Result<T, Error> {
        self.open_json_as(&mut Bulk::of(1), context, sealed, PhantomData)
    }

    /// As [`Self::open_json`], one value of many, of which `seed` says what is read.
    ///
    /// # Errors
    /// The same.
    pub fn open_json_as<T>(
        &self,
        bulk: &mut Bulk,
        context: &str,
        sealed: impl AsRef<[u8]>,
        seed: impl for<'de> DeserializeSeed<'de, Value = T>,
    ) -> Result<T, Error> {
        self.open_in(bulk, context, sealed.as_ref())?;
        let mut json = serde_json::Deserializer::from_slice(&bulk.plain);
        let value = seed.deserialize(&mut json).map_err(|_| Error::Shape)?;
        json.end().map_err(|_| Error::Shape)?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SubjectKey {
        let tenant = "stride-eu".parse().expect("a tenant");
        let bytes = Zeroizing::new([byte; KEY_BYTES]);
        SubjectKey::from_bytes(tenant, SubjectId(uuid::Uuid::nil()), KeyScope::Personal, bytes)
    }

    #[test]
    fn what_was_sealed_opens_at_its_place_only() {
        let sealed = key(1).seal("identity.account:7", b"ada").expect("sealed");
        assert_eq!(sealed.as_bytes().len(), 3 + OVERHEAD_BYTES);
        assert_eq!(
            key(1).open("identity.account:7", &sealed).expect("opens").as_slice(),
            b"ada"
        );
        assert!(matches!(
            key(1).open("identity.account:8", &sealed),
            Err(Error::Unsealable)
        ));
        assert!(matches!(
            key(2).open("identity.account:7", &sealed),
            Err(Error::Unsealable)
        ));
    }

    #[test]
    fn the_same_value_never_looks_the_same_twice() {
        let one = key(1).seal("c", b"same").expect("sealed");
        assert_ne!(one, key(1).seal("c", b"same").expect("sealed"));
    }

    #[test]
    fn no_nonce_is_used_twice_however_many_are_drawn_at_once() {
        let (key, mut bulk) = (key(1), Bulk::of(3));
        let used: std::collections::BTreeSet<Vec<u8>> = (0..10)
            .map(|_| {
                let sealed = key.seal_json_with(&mut bulk, "c", "same").expect("sealed");
                let opened: Result<String, _> = key.open_json_as(&mut bulk, "c", &sealed, PhantomData);
                assert_eq!(opened.expect("opens"), "same");
                sealed.as_bytes()[1..=NONCE_BYTES].to_vec()
            })
            .collect();
        assert_eq!(used.len(), 10);
    }

    #[test]
    fn any_change_is_noticed_and_nothing_panics() {
        let sealed = key(1).seal("c", b"four").expect("sealed").into_bytes();
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(key(1).open("c", &changed).is_err(), "byte {index}");
            assert!(key(1).open("c", &sealed[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn a_key_for_another_subject_opens_the_same_and_says_whose_it_is() {
        let (one, other) = (key(1), SubjectId(uuid::Uuid::from_u128(5)));
        let sealed = one.seal("c", b"ada").expect("sealed");
        let of_other = one.for_subject(other);
        assert_eq!(of_other.open("c", &sealed).expect("opens").as_slice(), b"ada");
        assert_eq!(
            (of_other.subject(), one.subject()),
            (other, SubjectId(uuid::Uuid::nil()))
        );
        assert_eq!(of_other.evidence_salt(), one.evidence_salt());
        assert_ne!(key(2).evidence_salt(), one.evidence_salt());
    }

    #[test]
    fn a_key_is_not_printed() {
        assert!(!format!("{:?}", key(0xab)).contains("171"));
    }
}
