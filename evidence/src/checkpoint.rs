//! A signature under how far a chain has come. Whoever keeps one can show later that an entry before it was changed.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::chain::{ChainId, Digest, digest_of};

const SIGNED: &[u8] = b"meridian.evidence.checkpoint.v1\0";

/// Bytes that are written as hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|_| D::Error::custom(format!("not {N} bytes in hexadecimal digits")))?;
        Ok(Self(bytes))
    }
}

/// How far a chain had come at a moment, signed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Checkpoint {
    /// Which chain.
    pub chain: ChainId,
    /// How many entries.
    pub size: u64,
    /// The digest of the last one.
    pub head: Hex<32>,
    /// When it was signed.
    pub at: Timestamp,
    /// The Ed25519 public key, which is its own name.
    pub key: Hex<32>,
    /// The signature.
    pub signature: Hex<64>,
}

/// The signature is not of that key over that checkpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("its signature does not fit")]
pub struct BadSignature;

impl Checkpoint {
    /// Whether the key that it names signed it.
    ///
    /// # Errors
    /// It did not.
    pub fn verify(&self) -> Result<(), BadSignature> {
        let message = message(&self.chain, self.size, &self.head.0, self.at);
        UnparsedPublicKey::new(&ED25519, &self.key.0)
            .verify(&message, &self.signature.0)
            .map_err(|_| BadSignature)
    }

    /// SHA-256 of all of it: what the chain's own entry about it holds.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let message = message(&self.chain, self.size, &self.head.0, self.at);
        digest_of(SIGNED, &[&message, &self.key.0, &self.signature.0])
    }
}

fn message(chain: &ChainId, size: u64, head: &Digest, at: Timestamp) -> Vec<u8> {
    let mut message = SIGNED.to_vec();
    let chain = chain.as_str().as_bytes();
    message.extend_from_slice(&(chain.len() as u64).to_be_bytes());
    message.extend_from_slice(chain);
    message.extend_from_slice(&size.to_be_bytes());
    message.extend_from_slice(head);
    message.extend_from_slice(&at.as_microsecond().to_be_bytes());
    message
}

/// Signs checkpoints.
#[derive(Debug)]
pub struct Signer(Ed25519KeyPair);

/// What was given is no Ed25519 seed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the signing key of evidence is 32 random bytes")]
pub struct BadSeed;

impl Signer {
    /// With a secret of 32 bytes.
    ///
    /// # Errors
    /// It has another length.
    pub fn from_seed(seed: &[u8]) -> Result<Self, BadSeed> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| BadSeed)
    }

    /// The public key.
    #[must_use]
    pub fn key(&self) -> Hex<32> {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        Hex(key)
    }

    /// Signs how far a chain has come.
    #[must_use]
    pub fn sign(&self, chain: &ChainId, size: u64, head: Digest, at: Timestamp) -> Checkpoint {
        let at = Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at);
        let mut signature = [0; 64];
        signature.copy_from_slice(self.0.sign(&message(chain, size, &head, at)).as_ref());
        Checkpoint {
            chain: chain.clone(),
            size,
            head: Hex(head),
            at,
            key: self.key(),
            signature: Hex(signature),
        }
    }
}
