//! One entry and its canonical bytes: of each entry there is exactly one encoding, and anything else is refused.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

/// The version of the encoding, its first byte.
pub const VERSION: u8 = 1;
/// An encoded entry has no more bytes than this.
pub const LARGEST_ENTRY: usize = 64 * 1024;
/// Nor a text of it more than this.
pub const LONGEST_TEXT: usize = 2048;
/// Nor an entry more commitments than this.
pub const MOST_COMMITMENTS: usize = 1024;

const ID: u8 = 1;
const AT: u8 = 2;
const REVISION: u8 = 32;
const COUNT: u8 = 33;
const BYTES: u8 = 34;
const DIGEST: u8 = 48;
const NONCE: u8 = 49;
const COMMITMENTS: u8 = 50;
/// The texts, in the order of [`Entry::texts`].
const TEXTS: [u8; 11] = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];

/// What happened.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Copies left a region, or arrived in one.
    Transfer,
    /// Copies did not leave, or were not let in.
    Refusal,
    /// Another policy is obeyed, or an edge was opened or cut.
    PolicyChange,
    /// A subject consented or withdrew.
    ConsentChange,
    /// A subject's data was erased.
    Erasure,
    /// Copies were deleted because their ground ended.
    Purge,
    /// A person was given access to data.
    Access,
    /// The chain was signed up to here.
    Checkpoint,
}

impl Kind {
    /// Every kind, in the order of their numbers from 1 on.
    pub const ALL: [Self; 8] = [
        Self::Transfer,
        Self::Refusal,
        Self::PolicyChange,
        Self::ConsentChange,
        Self::Erasure,
        Self::Purge,
        Self::Access,
        Self::Checkpoint,
    ];

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transfer => "transfer",
            Self::Refusal => "refusal",
            Self::PolicyChange => "policy-change",
            Self::ConsentChange => "consent-change",
            Self::Erasure => "erasure",
            Self::Purge => "purge",
            Self::Access => "access",
            Self::Checkpoint => "checkpoint",
        }
    }

    const fn number(self) -> u8 {
        self as u8 + 1
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = EntryError;

    fn from_str(word: &str) -> Result<Self, EntryError> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == word);
        known.ok_or(EntryError::Kind)
    }
}

/// One entry. What does not apply is left out. Nothing in it names a person.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// Its own id.
    pub id: Uuid,
    /// When, to the microsecond.
    pub at: Timestamp,
    /// What happened.
    pub kind: Kind,
    /// Whose partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Along which edge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edge: Option<String>,
    /// The exporting region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The importing region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The legal entity that exports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exporter: Option<String>,
    /// The legal entity that imports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importer: Option<String>,
    /// Class of the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What for; several are joined by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// The rule that allowed or refused, or what became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The transfer mechanism relied on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// Its instrument.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instrument: Option<String>,
    /// Of the policy at that moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// How many copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How many bytes, as the socket counted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// SHA-256 of what is meant: the batch, the policy, the checkpoint.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hexed_option")]
    pub digest: Option<[u8; 32]>,
    /// What the commitments are made with.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "hexed_option")]
    pub nonce: Option<[u8; 16]>,
    /// Whom it concerns, for who holds a subject's salt ([`crate::commitment`]).
    #[serde(skip_serializing_if = "BTreeSet::is_empty", serialize_with = "hexed_set")]
    pub commitments: BTreeSet<[u8; 32]>,
}

fn hexed_option<S: Serializer, const N: usize>(bytes: &Option<[u8; N]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(bytes.as_ref().map_or(&[][..], |bytes| &bytes[..])))
}

fn hexed_set<S: Serializer>(all: &BTreeSet<[u8; 32]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(all.iter().map(hex::encode))
}

/// Why bytes are no entry, or an entry cannot be written down.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EntryError {
    /// It ends in the middle of something.
    #[error("it ends in the middle of a field")]
    Short,
    /// Another version.
    #[error("its version is {0}, and this program reads version {VERSION}")]
    Version(u8),
    /// No such kind.
    #[error("its kind is not known")]
    Kind,
    /// A field that is not known.
    #[error("its field {0} is not known")]
    Field(u8),
    /// Fields in another order, or twice.
    #[error("its field {0} is out of order or there twice")]
    Order(u8),
    /// A field that does not hold what it should.
    #[error("its field {0} does not hold what it should")]
    Value(u8),
    /// A field that every entry has.
    #[error("its field {0} is missing")]
    Missing(u8),
    /// Larger than an entry can be.
    #[error("it is larger than {LARGEST_ENTRY} bytes")]
    Large,
}

impl Entry {
    /// An entry that says nothing yet beside what happened and when.
    #[must_use]
    pub fn new(id: Uuid, at: Timestamp, kind: Kind) -> Self {
        // Within the range of a timestamp a whole number of microseconds is a timestamp.
        let at = Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at);
        Self {
            id,
            at,
            kind,
            tenant: None,
            edge: None,
            from: None,
            to: None,
            exporter: None,
            importer: None,
            class: None,
            purpose: None,
            rule: None,
            mechanism: None,
            instrument: None,
            revision: None,
            count: None,
            bytes: None,
            digest: None,
            nonce: None,
            commitments: BTreeSet::new(),
        }
    }

    fn texts(&self) -> [&Option<String>; 11] {
        [
            &self.tenant,
            &self.edge,
            &self.from,
            &self.to,
            &self.exporter,
            &self.importer,
            &self.class,
            &self.purpose,
            &self.rule,
            &self.mechanism,
            &self.instrument,
        ]
    }

    fn text_mut(&mut self, field: u8) -> Option<&mut Option<String>> {
        Some(match field {
            3 => &mut self.tenant,
            4 => &mut self.edge,
            5 => &mut self.from,
            6 => &mut self.to,
            7 => &mut self.exporter,
            8 => &mut self.importer,
            9 => &mut self.class,
            10 => &mut self.purpose,
            11 => &mut self.rule,
            12 => &mut self.mechanism,
            13 => &mut self.instrument,
            _ => return None,
        })
    }

    fn number_mut(&mut self, field: u8) -> Option<&mut Option<u64>> {
        Some(match field {
            REVISION => &mut self.revision,
            COUNT => &mut self.count,
            BYTES => &mut self.bytes,
            _ => return None,
        })
    }

    /// The bytes.
    ///
    /// # Errors
    /// A text is empty, too long or has control characters, or there are too many commitments.
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        let mut bytes = vec![VERSION, self.kind.number()];
        put(&mut bytes, ID, self.id.as_bytes());
        put(&mut bytes, AT, &self.at.as_microsecond().to_be_bytes());
        for (field, text) in TEXTS.into_iter().zip(self.texts()) {
            if let Some(text) = text {
                if !is_plain(text) {
                    return Err(EntryError::Value(field));
                }
                put(&mut bytes, field, text.as_bytes());
            }
        }
        for (field, number) in [(REVISION, self.revision), (COUNT, self.count), (BYTES, self.bytes)] {
            if let Some(number) = number {
                put(&mut bytes, field, &number.to_be_bytes());
            }
        }
        if let Some(digest) = &self.digest {
            put(&mut bytes, DIGEST, digest);
        }
        if let Some(nonce) = &self.nonce {
            put(&mut bytes, NONCE, nonce);
        }
        if self.commitments.len() > MOST_COMMITMENTS {
            return Err(EntryError::Value(COMMITMENTS));
        }
        if !self.commitments.is_empty() {
            let all: Vec<u8> = self.commitments.iter().flatten().copied().collect();
            put(&mut bytes, COMMITMENTS, &all);
        }
        Ok(bytes)
    }

    /// Reads the bytes back. What it accepts encodes to the same bytes again.
    ///
    /// # Errors
    /// They are not the encoding of an entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > LARGEST_ENTRY {
            return Err(EntryError::Large);
        }
        let (head, mut rest) = bytes.split_at_checked(2).ok_or(EntryError::Short)?;
        if head[0] != VERSION {
            return Err(EntryError::Version(head[0]));
        }
        let number = usize::from(head[1]);
        let kind = *number
            .checked_sub(1)
            .and_then(|index| Kind::ALL.get(index))
            .ok_or(EntryError::Kind)?;
        let mut entry = Self::new(Uuid::nil(), Timestamp::UNIX_EPOCH, kind);
        let mut last = 0;
        while !rest.is_empty() {
            let (field, value) = take(&mut rest)?;
            if field <= last {
                return Err(EntryError::Order(field));
            }
            if last < ID && field != ID || last < AT && field > AT {
                return Err(EntryError::Missing(last + 1));
            }
            last = field;
            entry.read(field, value)?;
        }
        if last < AT {
            return Err(EntryError::Missing(last + 1));
        }
        Ok(entry)
    }

    fn read(&mut self, field: u8, value: &[u8]) -> Result<(), EntryError> {
        let wrong = EntryError::Value(field);
        if let Some(text) = self.text_mut(field) {
            let read = std::str::from_utf8(value).map_err(|_| wrong)?;
            if !is_plain(read) {
                return Err(wrong);
            }
            *text = Some(read.to_owned());
            return Ok(());
        }
        if let Some(number) = self.number_mut(field) {
            *number = Some(u64::from_be_bytes(value.try_into().map_err(|_| wrong)?));
            return Ok(());
        }
        match field {
            ID => self.id = Uuid::from_slice(value).map_err(|_| wrong)?,
            AT => {
                let micros = i64::from_be_bytes(value.try_into().map_err(|_| wrong)?);
                self.at = Timestamp::from_microsecond(micros).map_err(|_| wrong)?;
            }
            DIGEST => self.digest = Some(value.try_into().map_err(|_| wrong)?),
            NONCE => self.nonce = Some(value.try_into().map_err(|_| wrong)?),
            COMMITMENTS => {
                let (all, left) = value.as_chunks::<32>();
                self.commitments = all.iter().copied().collect();
                // In order and each once: any other list would be a second encoding of the same set.
                let sorted = all.is_sorted_by(|one, next| one < next);
                if all.is_empty() || !left.is_empty() || !sorted || all.len() > MOST_COMMITMENTS {
                    return Err(wrong);
                }
            }
            unknown => return Err(EntryError::Field(unknown)),
        }
        Ok(())
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control)
}

fn put(bytes: &mut Vec<u8>, field: u8, value: &[u8]) {
    bytes.push(field);
    // No value comes near four gigabytes: texts and commitments are bounded.
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value);
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<(u8, &'a [u8]), EntryError> {
    let (head, after) = rest.split_at_checked(5).ok_or(EntryError::Short)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let length = usize::try_from(length).map_err(|_| EntryError::Short)?;
    let (value, after) = after.split_at_checked(length).ok_or(EntryError::Short)?;
    *rest = after;
    Ok((head[0], value))
}
