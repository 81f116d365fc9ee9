//! What the region's pepper file is used for. One secret of 32 random bytes, born in the region, never in a database:
//! each use gets its own key, derived by HMAC-SHA256 over the use's name.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use meridian_policy::TenantId;
use zeroize::Zeroizing;

use crate::domain::email::EmailAddress;

/// What is wrong with the secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The pepper file.
    #[error("MERIDIAN_PEPPER_FILE holds {0} bytes instead of 32 random ones; check the Secret pepper-identity")]
    Length(usize),
    /// A sealed signing key.
    #[error("a signing key does not open: the database belongs to another pepper file, or the row was changed")]
    Unreadable,
    /// The cipher or the random source.
    #[error("the cryptographic library refused to work; restart identity and check the machine's random source")]
    Cipher,
}

/// Keys derived from the pepper.
pub struct Secrets {
    email_index: hmac::Key,
    password: Zeroizing<[u8; 32]>,
    idempotency: Zeroizing<[u8; 32]>,
    requests: hmac::Key,
    signing_keys: LessSafeKey,
}

impl Secrets {
    /// Derives all keys from the content of `MERIDIAN_PEPPER_FILE`.
    pub fn derive(pepper: &[u8]) -> Result<Self, SecretError> {
        if pepper.len() != 32 {
            return Err(SecretError::Length(pepper.len()));
        }
        let root = hmac::Key::new(HMAC_SHA256, pepper);
        let derive = |name: &str| {
            let mut key = Zeroizing::new([0; 32]);
            key.copy_from_slice(hmac::sign(&root, name.as_bytes()).as_ref());
            key
        };
        let sealing = derive("meridian.identity.signing-keys.v1");
        let unbound = UnboundKey::new(&AES_256_GCM, &sealing[..]).map_err(|_| SecretError::Cipher)?;
        Ok(Self {
            email_index: hmac::Key::new(HMAC_SHA256, &derive("meridian.identity.email-index.v1")[..]),
            password: derive("meridian.identity.password.v1"),
            idempotency: derive("meridian.identity.idempotency.v1"),
            requests: hmac::Key::new(HMAC_SHA256, &derive("meridian.identity.requests.v1")[..]),
            signing_keys: LessSafeKey::new(unbound),
        })
    }

    /// Under what an e-mail address is found in its tenant: HMAC-SHA256 over `tenant|address`. The same address in two
    /// tenants has unrelated indexes.
    pub fn email_index(&self, tenant: &TenantId, email: &EmailAddress) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.email_index);
        context.update(tenant.as_str().as_bytes());
        context.update(b"|");
        context.update(email.as_str().as_bytes());
        let mut index = [0; 32];
        index.copy_from_slice(context.sign().as_ref());
        index
    }

    /// The pepper of password hashes (argon2's secret input).
    pub fn password_pepper(&self) -> &Zeroizing<[u8; 32]> {
        &self.password
    }

    /// What seals the answers that are kept for repeated registrations.
    pub fn idempotency_key(&self) -> Zeroizing<[u8; 32]> {
        self.idempotency.clone()
    }

    /// A keyed digest of a request that holds a password: a plain one could be guessed offline from a database dump.
    pub fn request_digest(&self, body: &[u8]) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(hmac::sign(&self.requests, body).as_ref());
        digest
    }

    /// Seals the private half of signing key `kid`: nonce, ciphertext, tag.
    pub fn seal_signing_key(&self, kid: &str, private: &[u8]) -> Result<Vec<u8>, SecretError> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SecretError::Cipher)?;
        let mut sealed = Zeroizing::new(private.to_vec());
        let tag = self
            .signing_keys
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(kid.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| SecretError::Cipher)?;
        Ok([&nonce, sealed.as_slice(), tag.as_ref()].concat())
    }

    /// Opens what [`Secrets::seal_signing_key`] made for the same `kid`.
    pub fn open_signing_key(&self, kid: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or(SecretError::Unreadable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretError::Unreadable)?;
        let mut private = Zeroizing::new(sealed.to_vec());
        let length = self
            .signing_keys
            .open_in_place(nonce, Aad::from(kid.as_bytes()), &mut private)
            .map_err(|_| SecretError::Unreadable)?
            .len();
        private.truncate(length);
        Ok(private)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(byte: u8) -> Secrets {
        Secrets::derive(&[byte; 32]).unwrap()
    }

    #[test]
    fn the_same_address_cannot_be_linked_across_tenants_or_regions() {
        let email = EmailAddress::parse("ada@example.org").unwrap();
        let (eu, us) = ("stride-eu".parse().unwrap(), "stride-us".parse().unwrap());
        assert_eq!(secrets(1).email_index(&eu, &email), secrets(1).email_index(&eu, &email));
        assert_ne!(secrets(1).email_index(&eu, &email), secrets(1).email_index(&us, &email));
        assert_ne!(secrets(1).email_index(&eu, &email), secrets(2).email_index(&eu, &email));
    }

    #[test]
    fn a_signing_key_opens_only_under_its_own_id_and_pepper() {
        let sealed = secrets(1).seal_signing_key("a", b"private").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"private"));
        assert_eq!(
            secrets(1).open_signing_key("a", &sealed).unwrap().as_slice(),
            b"private"
        );
        assert!(secrets(1).open_signing_key("b", &sealed).is_err());
        assert!(secrets(2).open_signing_key("a", &sealed).is_err());
        assert!(secrets(1).open_signing_key("a", &sealed[..5]).is_err());
    }

    #[test]
    fn a_pepper_of_another_length_is_refused() {
        assert!(matches!(Secrets::derive(b"short"), Err(SecretError::Length(5))));
    }
}
