//! What the keyring and its clients say to each other.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meridian_policy::TenantId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

use super::{KEY_BYTES, KeyScope};
use crate::ids::SubjectId;

/// One key being asked for, `POST /v1/keys/resolve`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct KeyRequest {
    /// Whose partition.
    pub tenant: TenantId,
    /// Whose key.
    pub subject: SubjectId,
    /// What it is for.
    pub scope: KeyScope,
    /// Whether it may be made.
    pub create: bool,
}

/// The body of `POST /v1/keys/resolve`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ResolveRequest {
    /// At most 256.
    pub keys: Vec<KeyRequest>,
}

/// The answer, in the order of the request.
#[derive(Debug, Deserialize, Serialize)]
pub struct ResolveAnswer {
    /// One for each request.
    pub keys: Vec<KeyAnswer>,
}

/// What the keyring says about one key.
#[derive(Deserialize, Serialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum KeyAnswer {
    /// It.
    Live {
        /// Its bytes in base64.
        key: WireKey,
        /// How long it may be used, for a key that another region leased.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        valid_for_ms: Option<u64>,
    },
    /// There is none.
    Absent,
    /// There was one.
    Destroyed,
}

impl fmt::Debug for KeyAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Live { .. } => "Live",
            Self::Absent => "Absent",
            Self::Destroyed => "Destroyed",
        })
    }
}

/// A key's bytes on the wire between keyring and service: base64, wiped when dropped.
pub struct WireKey(pub Zeroizing<[u8; KEY_BYTES]>);

impl Serialize for WireKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(STANDARD.encode(self.0.as_slice()));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for WireKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let mut bytes = STANDARD
            .decode(text.as_bytes())
            .map_err(|_| serde::de::Error::custom("a key is base64"))?;
        let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).map(Zeroizing::new);
        bytes.zeroize();
        key.map(Self)
            .map_err(|_| serde::de::Error::custom("a key has 32 bytes"))
    }
}

/// The body of `POST /v1/keys/destroy`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DestroyRequest {
    /// Whose partition.
    pub tenant: TenantId,
    /// Whose keys.
    pub subject: SubjectId,
    /// One key, or all of the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<KeyScope>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_crosses_the_wire_and_is_not_printed() {
        let answer = KeyAnswer::Live {
            key: WireKey(Zeroizing::new([0xab; KEY_BYTES])),
            valid_for_ms: None,
        };
        assert_eq!(format!("{answer:?}"), "Live");
        let wire = serde_json::to_value(&answer).expect("JSON");
        assert_eq!(wire["status"], "live");
        let read: KeyAnswer = serde_json::from_value(wire).expect("an answer");
        assert!(matches!(read, KeyAnswer::Live { key, .. } if *key.0 == [0xab; KEY_BYTES]));
    }
}
