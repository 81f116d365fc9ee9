//! Wrapped keys in fixed 64-byte slots of one file, so that destroying a key overwrites its only copy in place.
//!
//! The index is copy-on-write: bytes it once held stay in freed pages for a while. A key's bytes must not, so they
//! live here and the index holds only the slot's number.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::wrapping::WRAPPED_LEN;

/// The open slot file.
#[derive(Debug)]
pub struct SlotFile {
    file: File,
}

impl SlotFile {
    /// Opens or creates the file, readable by this user only.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Ok(Self { file })
    }

    /// The content of a slot.
    pub fn read(&self, slot: u64) -> io::Result<[u8; WRAPPED_LEN]> {
        let mut wrapped = [0; WRAPPED_LEN];
        self.file.read_exact_at(&mut wrapped, offset(slot)?)?;
        Ok(wrapped)
    }

    /// Writes a slot; durable only after [`SlotFile::sync`].
    pub fn write(&self, slot: u64, wrapped: &[u8; WRAPPED_LEN]) -> io::Result<()> {
        self.file.write_all_at(wrapped, offset(slot)?)
    }

    /// Overwrites a slot with zeroes; durable only after [`SlotFile::sync`].
    pub fn erase(&self, slot: u64) -> io::Result<()> {
        self.write(slot, &[0; WRAPPED_LEN])
    }

    /// Waits until everything written is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn offset(slot: u64) -> io::Result<u64> {
    slot.checked_mul(WRAPPED_LEN as u64)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}
