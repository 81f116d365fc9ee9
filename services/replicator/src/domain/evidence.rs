//! What is recorded about every transfer, refusal, cut and purge, in entries that hold no personal data.

use jiff::Timestamp;
use meridian_policy::{CompiledEdge, EdgeId, PolicyRevision};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Copies left.
    Transfer,
    /// Copies did not leave, or were not let in.
    Refusal,
    /// An edge was cut.
    Cut,
    /// An importer's copies were deleted.
    Purge,
}

impl Kind {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transfer => "transfer",
            Self::Refusal => "refusal",
            Self::Cut => "cut",
            Self::Purge => "purge",
        }
    }
}

/// One thing to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What happened.
    pub kind: Kind,
    /// Along which edge.
    pub edge: EdgeId,
    /// The rule that allowed or refused.
    pub rule: String,
    /// The transfer mechanism relied on, where there was one.
    pub mechanism: Option<String>,
    /// Its instrument.
    pub instrument: Option<String>,
    /// How many copies.
    pub count: i64,
    /// How many bytes of payload on the wire.
    pub bytes: i64,
    /// The copies, by salted commitment.
    pub commitment: Commitment,
    /// Of the policy at that moment.
    pub revision: PolicyRevision,
}

/// SHA-256 of a salt and the copies' ids: whoever holds the ids can show that they were meant; nobody can find them
/// from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commitment {
    /// 16 random bytes.
    pub salt: [u8; 16],
    /// The digest.
    pub digest: [u8; 32],
}

impl Commitment {
    /// The commitment to `ids`, in any order, under `salt`.
    pub fn to(ids: impl IntoIterator<Item = Uuid>, salt: [u8; 16]) -> Self {
        let mut ids: Vec<Uuid> = ids.into_iter().collect();
        ids.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(salt);
        for id in ids {
            hash.update(id.as_bytes());
        }
        Self {
            salt,
            digest: hash.finalize().into(),
        }
    }
}

impl Record {
    /// A record about `edge` as the policy has it.
    pub fn about(kind: Kind, edge: &CompiledEdge, revision: PolicyRevision, commitment: Commitment) -> Self {
        Self {
            kind,
            edge: edge.id.clone(),
            rule: edge.rule.clone(),
            mechanism: Some(edge.mechanism.to_string()),
            instrument: Some(edge.instrument.clone()),
            count: 0,
            bytes: 0,
            commitment,
            revision,
        }
    }

    /// The digest that the next entry of the chain names: of everything in this one and of the one before it.
    pub fn chained(&self, entry: i64, at: Timestamp, previous: &[u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(previous);
        for part in [
            entry.to_string(),
            at.as_microsecond().to_string(),
            self.kind.as_str().to_owned(),
            self.edge.to_string(),
            self.rule.clone(),
            self.mechanism.clone().unwrap_or_default(),
            self.instrument.clone().unwrap_or_default(),
            self.count.to_string(),
            self.bytes.to_string(),
            self.revision.to_string(),
        ] {
            // Length first: no two entries can share their bytes by moving a boundary.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(self.commitment.salt);
        hash.update(self.commitment.digest);
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::{at, edge};

    fn record() -> Record {
        let commitment = Commitment::to([Uuid::from_u128(1), Uuid::from_u128(2)], [9; 16]);
        Record {
            count: 2,
            bytes: 300,
            ..Record::about(Kind::Transfer, &edge(&["a"]), PolicyRevision(4), commitment)
        }
    }

    #[test]
    fn a_commitment_does_not_depend_on_the_order_but_on_every_id_and_the_salt() {
        let ids = [1, 2, 3].map(Uuid::from_u128);
        let commitment = Commitment::to(ids, [0; 16]);
        assert_eq!(commitment, Commitment::to([ids[2], ids[0], ids[1]], [0; 16]));
        assert_ne!(
            commitment.digest,
            Commitment::to(ids[..2].iter().copied(), [0; 16]).digest
        );
        assert_ne!(commitment.digest, Commitment::to(ids, [1; 16]).digest);
    }

    #[test]
    fn any_change_to_an_entry_or_to_the_one_before_breaks_the_chain() {
        let original = record().chained(1, at(0), &[0; 32]);
        assert_eq!(original, record().chained(1, at(0), &[0; 32]));
        let changed = [
            record().chained(2, at(0), &[0; 32]),
            record().chained(1, at(1), &[0; 32]),
            record().chained(1, at(0), &[1; 32]),
            Record {
                kind: Kind::Refusal,
                ..record()
            }
            .chained(1, at(0), &[0; 32]),
            Record {
                rule: "other".to_owned(),
                ..record()
            }
            .chained(1, at(0), &[0; 32]),
            Record { count: 3, ..record() }.chained(1, at(0), &[0; 32]),
            Record {
                revision: PolicyRevision(5),
                ..record()
            }
            .chained(1, at(0), &[0; 32]),
        ];
        assert!(changed.iter().all(|digest| *digest != original));
    }
}
