//! The chain: each entry's digest covers the entry, its number and the digest of the one before it. The first covers the
//! chain's name, so that no entry of one chain can stand in another.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// A SHA-256 digest.
pub type Digest = [u8; 32];

const GENESIS: &[u8] = b"meridian.evidence.genesis.v1\0";
const LINK: &[u8] = b"meridian.evidence.entry.v1\0";

/// Names a chain: `<region>/<service>`. One service of one region writes it.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChainId(String);

/// A text that names no chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a chain is named <region>/<service>, in lower-case letters, digits and dashes")]
pub struct InvalidChain;

impl ChainId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The service that writes it.
    #[must_use]
    pub fn service(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }
}

impl FromStr for ChainId {
    type Err = InvalidChain;

    fn from_str(text: &str) -> Result<Self, InvalidChain> {
        let is_name = |name: &str| {
            (1..=63).contains(&name.len())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        match text.split_once('/') {
            Some((region, service)) if is_name(region) && is_name(service) => Ok(Self(text.to_owned())),
            _ => Err(InvalidChain),
        }
    }
}

impl TryFrom<String> for ChainId {
    type Error = InvalidChain;

    fn try_from(text: String) -> Result<Self, InvalidChain> {
        text.parse()
    }
}

impl From<ChainId> for String {
    fn from(chain: ChainId) -> Self {
        chain.0
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

/// SHA-256 of parts, each preceded by its length: no boundary can be moved.
pub(crate) fn digest_of(domain: &[u8], parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(domain);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The head of a chain without entries.
#[must_use]
pub fn genesis(chain: &ChainId) -> Digest {
    digest_of(GENESIS, &[chain.as_str().as_bytes()])
}

/// The head after entry `seq` (from 1 on) with these bytes, when it was `previous` before.
#[must_use]
pub fn next(previous: &Digest, seq: u64, entry: &[u8]) -> Digest {
    digest_of(LINK, &[previous, &seq.to_be_bytes(), entry])
}
