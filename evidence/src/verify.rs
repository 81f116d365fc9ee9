//! Checks an export without asking anybody: each entry follows from the one before, the file is whole, and it agrees with
//! every checkpoint in it and with those that others have kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::chain::{ChainId, Digest, genesis, next};
use crate::checkpoint::{Checkpoint, Hex};
use crate::entry::{Entry, EntryError};
use crate::export::{FORMAT, LONGEST_LINE, Line};

/// What was found, when nothing is wrong.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Verified {
    /// Whose export it is.
    pub region: String,
    /// Its chains.
    pub chains: Vec<VerifiedChain>,
}

/// A chain of an export.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct VerifiedChain {
    /// Which.
    pub chain: ChainId,
    /// How many entries.
    pub size: u64,
    /// The digest of the last.
    pub head: Hex<32>,
    /// Checkpoints that it agrees with: its own, and those that were kept elsewhere.
    pub checkpoints: usize,
    /// How many entries the furthest of them covers. Those after it may have been changed by who can write the database.
    pub signed: u64,
    /// Who signed, if anybody.
    pub key: Option<Hex<32>>,
}

/// Why an export is not what was recorded.
#[derive(Debug, thiserror::Error)]
#[error("{}{why}", place(*line, chain.as_ref(), *entry))]
pub struct Rejected {
    /// In which line; 0 when it is about no line.
    pub line: u64,
    /// Of which chain.
    pub chain: Option<ChainId>,
    /// At which entry.
    pub entry: Option<u64>,
    /// What is wrong.
    pub why: Why,
}

fn place(line: u64, chain: Option<&ChainId>, entry: Option<u64>) -> String {
    let line = (line > 0).then(|| format!("line {line}"));
    let chain = chain.map(ToString::to_string);
    let entry = entry.map(|entry| format!("entry {entry}"));
    let known: Vec<String> = [line, chain, entry].into_iter().flatten().collect();
    if known.is_empty() {
        return String::new();
    }
    format!("{}: ", known.join(", "))
}

/// What is wrong with an export.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// The file itself.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// A line is too long.
    #[error("the line is longer than {LONGEST_LINE} bytes")]
    LongLine,
    /// A line is none of an export.
    #[error("the line is none of an export")]
    NoLine,
    /// A line stands where it cannot.
    #[error("the line stands where it cannot: {0}")]
    OutOfPlace(&'static str),
    /// Another format.
    #[error("the format is not {FORMAT}")]
    Format,
    /// Nothing follows where something must.
    #[error("the file is cut short: its last line is missing")]
    CutShort,
    /// A chain is there twice.
    #[error("the chain is there twice")]
    Twice,
    /// An entry's number.
    #[error("an entry is missing, repeated or out of order: number {expected} must stand here, and {found} does")]
    Number {
        /// The next one.
        expected: u64,
        /// The one there.
        found: u64,
    },
    /// An entry's digest.
    #[error("the entry was changed: its digest does not follow from it and the entry before")]
    Changed,
    /// An entry's bytes.
    #[error("the entry is none: {0}")]
    NoEntry(EntryError),
    /// What the chain says of its own end.
    #[error("the chain's last line says {size} entries, and {found} are there, or another digest of the last")]
    Ends {
        /// What it says.
        size: u64,
        /// How many there are.
        found: u64,
    },
    /// A checkpoint's signature.
    #[error("the checkpoint of {size} entries is not signed by the key that it names")]
    Signature {
        /// Of how many entries.
        size: u64,
    },
    /// A checkpoint by another key.
    #[error("the checkpoint of {size} entries is signed by key {found}, and others of the chain by {expected}")]
    Key {
        /// Of how many entries.
        size: u64,
        /// The others' key.
        expected: String,
        /// Its key.
        found: String,
    },
    /// Two checkpoints of one size.
    #[error("the chain was forked: two signed checkpoints of {size} entries differ")]
    Forked {
        /// The size.
        size: u64,
    },
    /// A checkpoint says something else.
    #[error(
        "a signed checkpoint of {size} entries has another digest: an entry from {from} to {size} was changed or left out, or \
         the chain was forked after {agreed}"
    )]
    Disagrees {
        /// Its size.
        size: u64,
        /// The size up to which a checkpoint agrees.
        agreed: u64,
        /// The first entry after it.
        from: u64,
    },
    /// A checkpoint of more than there is.
    #[error("a signed checkpoint covers {size} entries, and only {found} are there: the end was cut off")]
    Truncated {
        /// What it covers.
        size: u64,
        /// What is there.
        found: u64,
    },
    /// A chain that somebody has a checkpoint of.
    #[error("there is a signed checkpoint of {0}, and that chain is not there")]
    ChainMissing(ChainId),
}

/// Checks an export against the checkpoints `kept` elsewhere, and shows each entry to `each` once it is known to follow
/// from those before it.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(
    input: impl BufRead,
    kept: &[Checkpoint],
    each: impl FnMut(&ChainId, u64, &Entry),
) -> Result<Verified, Rejected> {
    let verified = verify_part(input, kept, each)?;
    match missing(kept, &verified.chains) {
        None => Ok(verified),
        Some(why) => Err(Rejected {
            line: 0,
            chain: None,
            entry: None,
            why,
        }),
    }
}

/// What is wrong when somebody has a checkpoint of a chain that is not among those found.
#[must_use]
pub fn missing(kept: &[Checkpoint], found: &[VerifiedChain]) -> Option<Why> {
    let there: BTreeSet<&ChainId> = found.iter().map(|chain| &chain.chain).collect();
    let missing = kept.iter().find(|checkpoint| !there.contains(&checkpoint.chain))?;
    Some(Why::ChainMissing(missing.chain.clone()))
}

/// As [`verify`], of an export that holds some of a region's chains: others may be in other files ([`missing`]).
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_part(
    input: impl BufRead,
    kept: &[Checkpoint],
    each: impl FnMut(&ChainId, u64, &Entry),
) -> Result<Verified, Rejected> {
    let mut reading = Reading {
        line: 0,
        region: None,
        open: None,
        chains: Vec::new(),
        ended: false,
        kept: BTreeMap::new(),
        each,
    };
    for checkpoint in kept {
        reading.keep(checkpoint)?;
    }
    reading.read_all(input)
}

struct Open {
    chain: ChainId,
    size: u64,
    head: Digest,
    /// Signed, and not reached yet, by size.
    ahead: BTreeMap<u64, Checkpoint>,
    checkpoints: usize,
    signed: u64,
    key: Option<Hex<32>>,
}

struct Reading<F> {
    line: u64,
    region: Option<String>,
    open: Option<Open>,
    chains: Vec<VerifiedChain>,
    ended: bool,
    kept: BTreeMap<ChainId, BTreeMap<u64, Checkpoint>>,
    each: F,
}

impl<F: FnMut(&ChainId, u64, &Entry)> Reading<F> {
    fn reject(&self, why: impl Into<Why>) -> Rejected {
        Rejected {
            line: self.line,
            chain: self.open.as_ref().map(|open| open.chain.clone()),
            entry: None,
            why: why.into(),
        }
    }

    fn reject_entry(&self, seq: u64, why: Why) -> Rejected {
        Rejected {
            entry: Some(seq),
            ..self.reject(why)
        }
    }

    /// Takes a checkpoint that was kept elsewhere.
    fn keep(&mut self, checkpoint: &Checkpoint) -> Result<(), Rejected> {
        let rejected = |why| Rejected {
            line: 0,
            chain: Some(checkpoint.chain.clone()),
            entry: None,
            why,
        };
        let size = checkpoint.size;
        checkpoint.verify().map_err(|_| rejected(Why::Signature { size }))?;
        let of_chain = self.kept.entry(checkpoint.chain.clone()).or_default();
        if let Some(other) = of_chain.values().find(|other| other.key != checkpoint.key) {
            return Err(rejected(another_key(other.key, checkpoint)));
        }
        match of_chain.insert(size, checkpoint.clone()) {
            Some(other) if other.head != checkpoint.head => Err(rejected(Why::Forked { size })),
            _ => Ok(()),
        }
    }

    fn read_all(mut self, mut input: impl BufRead) -> Result<Verified, Rejected> {
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            self.line += 1;
            let limit = LONGEST_LINE as u64 + 1;
            let read = input.by_ref().take(limit).read_until(b'\n', &mut buffer);
            if read.map_err(|error| self.reject(error))? == 0 {
                break;
            }
            if buffer.pop_if(|last| *last == b'\n').is_none() {
                let long = buffer.len() > LONGEST_LINE;
                return Err(self.reject(if long { Why::LongLine } else { Why::CutShort }));
            }
            let line = serde_json::from_slice(&buffer).map_err(|_| self.reject(Why::NoLine))?;
            self.take(line)?;
        }
        self.line -= 1;
        if !self.ended {
            return Err(self.reject(Why::CutShort));
        }
        Ok(Verified {
            region: self.region.unwrap_or_default(),
            chains: self.chains,
        })
    }

    fn take(&mut self, line: Line) -> Result<(), Rejected> {
        if self.ended {
            return Err(self.reject(Why::OutOfPlace("it comes after the last")));
        }
        if self.region.is_none() {
            let Line::Begin { format, region, .. } = line else {
                return Err(self.reject(Why::OutOfPlace("the first says the format")));
            };
            if format != FORMAT {
                return Err(self.reject(Why::Format));
            }
            self.region = Some(region);
            return Ok(());
        }
        match line {
            Line::Begin { .. } => Err(self.reject(Why::OutOfPlace("only the first says the format"))),
            Line::Open { opens } => self.open(opens),
            Line::Entry { seq, entry, hash } => self.entry(seq, &entry, hash),
            Line::Checkpoint { checkpoint } => self.checkpoint(checkpoint),
            Line::Close { closes, size, head } => self.close(&closes, size, head),
            Line::End { chains } => {
                if self.open.is_some() {
                    return Err(self.reject(Why::OutOfPlace("a chain has not ended")));
                }
                if chains != self.chains.len() as u64 {
                    return Err(self.reject(Why::OutOfPlace("a chain is missing or too many")));
                }
                self.ended = true;
                Ok(())
            }
        }
    }

    fn open(&mut self, chain: ChainId) -> Result<(), Rejected> {
        if self.open.is_some() {
            return Err(self.reject(Why::OutOfPlace("the chain before has not ended")));
        }
        if self.region.as_deref() != Some(chain.region()) {
            return Err(self.reject(Why::OutOfPlace("the chain is another region's")));
        }
        let twice = self.chains.iter().any(|known| known.chain == chain);
        let ahead = self.kept.get(&chain).cloned().unwrap_or_default();
        let key = ahead.values().next().map(|checkpoint| checkpoint.key);
        let head = genesis(&chain);
        self.open = Some(Open {
            chain,
            size: 0,
            head,
            ahead,
            checkpoints: 0,
            signed: 0,
            key,
        });
        if twice {
            return Err(self.reject(Why::Twice));
        }
        self.reached()
    }

    fn entry(&mut self, seq: u64, entry: &str, hash: Hex<32>) -> Result<(), Rejected> {
        let Some(open) = &self.open else {
            return Err(self.reject(Why::OutOfPlace("no chain has begun")));
        };
        let expected = open.size + 1;
        if seq != expected {
            return Err(self.reject_entry(expected, Why::Number { expected, found: seq }));
        }
        let bytes = STANDARD.decode(entry);
        let bytes = bytes.map_err(|_| self.reject_entry(seq, Why::Changed))?;
        if next(&open.head, seq, &bytes) != hash.0 {
            return Err(self.reject_entry(seq, Why::Changed));
        }
        let read = Entry::decode(&bytes).map_err(|error| self.reject_entry(seq, Why::NoEntry(error)))?;
        if let Some(open) = &mut self.open {
            (open.size, open.head) = (seq, hash.0);
            (self.each)(&open.chain, seq, &read);
        }
        self.reached()
    }

    /// Holds the chain against a checkpoint that was kept elsewhere, where it has come that far.
    fn reached(&mut self) -> Result<(), Rejected> {
        let Some(open) = &mut self.open else { return Ok(()) };
        match open.ahead.remove(&open.size) {
            Some(checkpoint) => self.agree(&checkpoint),
            None => Ok(()),
        }
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), Rejected> {
        let Some(open) = &self.open else {
            return Err(self.reject(Why::OutOfPlace("no chain has begun")));
        };
        let size = checkpoint.size;
        if checkpoint.chain != open.chain {
            return Err(self.reject(Why::OutOfPlace("the checkpoint is another chain's")));
        }
        checkpoint.verify().map_err(|_| self.reject(Why::Signature { size }))?;
        if let Some(key) = open.key.filter(|key| *key != checkpoint.key) {
            return Err(self.reject(another_key(key, &checkpoint)));
        }
        if size > open.size {
            return Err(self.reject(Why::Truncated { size, found: open.size }));
        }
        if size < open.size {
            return Err(self.reject(Why::OutOfPlace(
                "a checkpoint stands after the last entry that it covers",
            )));
        }
        self.agree(&checkpoint)
    }

    fn agree(&mut self, checkpoint: &Checkpoint) -> Result<(), Rejected> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let size = checkpoint.size;
        if checkpoint.head.0 != open.head {
            let agreed = open.signed;
            let why = if open.checkpoints > 0 && agreed == size {
                Why::Forked { size }
            } else {
                Why::Disagrees {
                    size,
                    agreed,
                    from: agreed + 1,
                }
            };
            return Err(self.reject(why));
        }
        open.key = Some(checkpoint.key);
        open.checkpoints += 1;
        open.signed = size;
        Ok(())
    }

    fn close(&mut self, closes: &ChainId, size: u64, head: Hex<32>) -> Result<(), Rejected> {
        let Some(open) = &self.open else {
            return Err(self.reject(Why::OutOfPlace("no chain has begun")));
        };
        if *closes != open.chain {
            return Err(self.reject(Why::OutOfPlace("another chain has begun")));
        }
        if (size, head.0) != (open.size, open.head) {
            return Err(self.reject(Why::Ends { size, found: open.size }));
        }
        if let Some((&size, _)) = open.ahead.last_key_value() {
            return Err(self.reject(Why::Truncated { size, found: open.size }));
        }
        if let Some(open) = self.open.take() {
            self.chains.push(VerifiedChain {
                chain: open.chain,
                size: open.size,
                head: Hex(open.head),
                checkpoints: open.checkpoints,
                signed: open.signed,
                key: open.key,
            });
        }
        Ok(())
    }
}

fn another_key(expected: Hex<32>, checkpoint: &Checkpoint) -> Why {
    Why::Key {
        size: checkpoint.size,
        expected: hex::encode(expected.0),
        found: hex::encode(checkpoint.key.0),
    }
}
