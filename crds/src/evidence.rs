//! How far a region's evidence has come, as it is told to the hub: digests, counts and times, and nothing of what is in it.

use jiff::Timestamp;
use meridian_policy::bounds;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A signed checkpoint of one chain of evidence (`meridian evidence verify --checkpoint` takes it as it is).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceCheckpoint {
    /// The chain, `<region>/<service>`.
    #[schemars(length(max = 127), regex(pattern = r"^[a-z0-9-]+/[a-z0-9-]+$"))]
    pub chain: String,
    /// How many entries it has.
    pub size: u64,
    /// SHA-256 of the last entry and so of all, in hexadecimal digits.
    #[schemars(length(max = 64))]
    pub head: String,
    /// When it was signed.
    #[schemars(schema_with = "bounds::timestamp")]
    pub at: Timestamp,
    /// The Ed25519 public key, in hexadecimal digits.
    #[schemars(length(max = 64))]
    pub key: String,
    /// Its signature, in hexadecimal digits.
    #[schemars(length(max = 128))]
    pub signature: String,
}

/// A checkpoint that contradicts one that the hub has: the chain was cut, or written anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceContradiction {
    /// Of which chain.
    #[schemars(length(max = 127))]
    pub chain: String,
    /// The first checkpoint that did.
    pub checkpoint: EvidenceCheckpoint,
}
