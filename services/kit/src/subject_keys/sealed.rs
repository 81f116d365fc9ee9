//! One key, and values sealed under it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use meridian_evidence::commitment::{SALT_LABEL, Salt};
use meridian_policy::TenantId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::{Error, KeyScope};
use crate::ids::SubjectId;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const VERSION: u8 = 1;
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
        let mut nonce = [0_u8; NONCE_BYTES];
        rand::fill(&mut nonce).map_err(|_| Error::Random)?;
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
        let sealed = sealed.as_ref();
        let (version, rest) = sealed.split_first().ok_or(Error::Unsealable)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Error::Unsealable)?;
        if *version != VERSION || body.len() < TAG_BYTES {
            return Err(Error::Unsealable);
        }
        let mut buffer = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .cipher()?
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut buffer)
            .map_err(|_| Error::Unsealable)?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Seals a value as JSON.
    ///
    /// # Errors
    /// When it cannot be written as JSON, or no random numbers can be had.
    pub fn seal_json<T: Serialize + ?Sized>(&self, context: &str, value: &T) -> Result<Sealed, Error> {
        let plain = Zeroizing::new(serde_json::to_vec(value).map_err(|_| Error::Shape)?);
        self.seal(context, &plain)
    }

    /// Opens a value that was sealed as JSON.
    ///
    /// # Errors
    /// When it was not sealed under this key for this place, or holds something else.
    pub fn open_json<T: DeserializeOwned>(&self, context: &str, sealed: impl AsRef<[u8]>) -> Result<T, Error> {
        serde_json::from_slice(&self.open(context, sealed)?).map_err(|_| Error::Shape)
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
