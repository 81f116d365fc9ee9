//! An export: a file of lines, one JSON object each, written and read without holding it in memory.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::chain::{ChainId, Digest, genesis, next};
use crate::checkpoint::{Checkpoint, Hex};

/// What the first line says.
pub const FORMAT: &str = "meridian-evidence/1";
/// No line is longer: an entry in base64, and what stands around it.
pub const LONGEST_LINE: usize = 128 * 1024;

/// One line.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Line {
    /// The first.
    Begin {
        /// [`FORMAT`].
        format: String,
        /// Whose.
        region: String,
        /// When it was written.
        exported_at: Timestamp,
    },
    /// An entry of the chain at hand.
    Entry {
        /// Its number, from 1.
        seq: u64,
        /// Its bytes, base64.
        entry: String,
        /// The chain's head with it.
        hash: Hex<32>,
    },
    /// A checkpoint of the chain at hand: after the entry that it covers last.
    Checkpoint {
        /// It.
        checkpoint: Checkpoint,
    },
    /// The end of the chain at hand.
    Close {
        /// Which.
        closes: ChainId,
        /// How many entries.
        size: u64,
        /// The digest of the last.
        head: Hex<32>,
    },
    /// A chain begins.
    Open {
        /// Which.
        opens: ChainId,
    },
    /// The last line.
    End {
        /// How many chains there were.
        chains: u64,
    },
}

/// Writes an export.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    open: Option<Open>,
    chains: u64,
}

#[derive(Debug)]
struct Open {
    chain: ChainId,
    size: u64,
    head: Digest,
}

impl<W: Write> Writer<W> {
    /// Begins.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(out: W, region: &str, exported_at: Timestamp) -> io::Result<Self> {
        let mut writer = Self {
            out,
            open: None,
            chains: 0,
        };
        writer.line(&Line::Begin {
            format: FORMAT.to_owned(),
            region: region.to_owned(),
            exported_at,
        })?;
        Ok(writer)
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }

    /// Begins a chain, and ends the one before.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(&mut self, chain: &ChainId) -> io::Result<()> {
        self.close()?;
        self.chains += 1;
        self.open = Some(Open {
            chain: chain.clone(),
            size: 0,
            head: genesis(chain),
        });
        self.line(&Line::Open { opens: chain.clone() })
    }

    /// Writes an entry as it is kept. The export says what is there: whether it holds together is for who verifies it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn entry(&mut self, seq: u64, entry: &[u8], hash: Digest) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            (open.size, open.head) = (seq, hash);
        }
        let entry = STANDARD.encode(entry);
        let hash = Hex(hash);
        self.line(&Line::Entry { seq, entry, hash })
    }

    /// Writes an entry that comes next.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn append(&mut self, entry: &[u8]) -> io::Result<()> {
        let (seq, hash) = match &self.open {
            Some(open) => (open.size + 1, next(&open.head, open.size + 1, entry)),
            None => return Err(io::Error::other("no chain is open")),
        };
        self.entry(seq, entry, hash)
    }

    /// Where the chain at hand stands.
    #[must_use]
    pub fn head(&self) -> Option<(u64, Digest)> {
        self.open.as_ref().map(|open| (open.size, open.head))
    }

    /// Writes a checkpoint.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        let checkpoint = checkpoint.clone();
        self.line(&Line::Checkpoint { checkpoint })
    }

    fn close(&mut self) -> io::Result<()> {
        let Some(Open { chain, size, head }) = self.open.take() else {
            return Ok(());
        };
        let head = Hex(head);
        self.line(&Line::Close {
            closes: chain,
            size,
            head,
        })
    }

    /// Ends, and gives back what was written to.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn end(mut self) -> io::Result<W> {
        self.close()?;
        let chains = self.chains;
        self.line(&Line::End { chains })?;
        self.out.flush()?;
        Ok(self.out)
    }
}
