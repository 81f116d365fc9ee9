//! The key-encryption key: wraps every subject key with AES-256-GCM, in versions so that it can rotate.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Bytes of a subject key.
pub const KEY_LEN: usize = 32;
/// Bytes of a wrapped key: KEK version (4) | nonce (12) | ciphertext (32) | tag (16).
pub const WRAPPED_LEN: usize = 64;

/// A subject key in clear; overwritten when dropped.
pub type KeyBytes = Zeroizing<[u8; KEY_LEN]>;

/// What is wrong with the KEK file or with a wrapped key.
#[derive(Debug, thiserror::Error)]
pub enum WrappingError {
    /// The file is neither of the two formats.
    #[error(
        "the key-encryption key file is neither 32 raw bytes nor lines `<version>:<base64 of 32 bytes>` (line {line}); \
         check the Secret keyring-kek"
    )]
    Format {
        /// Line that could not be read, counted from 1.
        line: usize,
    },
    /// A version appears twice.
    #[error("the key-encryption key file names version {0} twice; keep one line per version")]
    DuplicateVersion(u32),
    /// A key was wrapped by a version that is not in the file any more.
    #[error("a stored key was wrapped by KEK version {0}, which the key file does not hold; put that line back")]
    VersionMissing(u32),
    /// The bytes do not open: another KEK, or a damaged or exchanged slot.
    #[error("a stored key does not open under KEK version {0}: the file is damaged or belongs to another KEK")]
    Unreadable(u32),
    /// The random source or the cipher failed.
    #[error(
        "the cryptographic library could not wrap a key; restart the keyring and check the machine's random source"
    )]
    Cipher,
}

/// All versions of the KEK that the file holds.
pub struct Wrapping {
    current: u32,
    keys: BTreeMap<u32, LessSafeKey>,
}

impl std::fmt::Debug for Wrapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wrapping")
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl Wrapping {
    /// Reads the content of `MERIDIAN_KEK_FILE`.
    pub fn parse(file: &[u8]) -> Result<Self, WrappingError> {
        if let Ok(raw) = <&[u8; KEY_LEN]>::try_from(file) {
            return Ok(Self {
                current: 1,
                keys: BTreeMap::from([(1, cipher(raw)?)]),
            });
        }
        let text = std::str::from_utf8(file).map_err(|_| WrappingError::Format { line: 1 })?;
        let mut keys = BTreeMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let format = || WrappingError::Format { line: index + 1 };
            let (version, key) = line.trim().split_once(':').ok_or_else(format)?;
            let version: u32 = version.trim().parse().map_err(|_| format())?;
            let key = Zeroizing::new(STANDARD.decode(key.trim()).map_err(|_| format())?);
            let key: &[u8; KEY_LEN] = key.as_slice().try_into().map_err(|_| format())?;
            if version == 0 {
                return Err(format());
            }
            if keys.insert(version, cipher(key)?).is_some() {
                return Err(WrappingError::DuplicateVersion(version));
            }
        }
        let current = keys
            .keys()
            .next_back()
            .copied()
            .ok_or(WrappingError::Format { line: 1 })?;
        Ok(Self { current, keys })
    }

    /// The version that wraps new keys.
    pub fn current(&self) -> u32 {
        self.current
    }

    /// Wraps `key`, bound to `address`: bytes moved to another address do not open.
    pub fn wrap(&self, address: &[u8], key: &[u8; KEY_LEN]) -> Result<[u8; WRAPPED_LEN], WrappingError> {
        let cipher = self
            .keys
            .get(&self.current)
            .ok_or(WrappingError::VersionMissing(self.current))?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| WrappingError::Cipher)?;
        let mut wrapped = [0; WRAPPED_LEN];
        wrapped[..4].copy_from_slice(&self.current.to_be_bytes());
        wrapped[4..16].copy_from_slice(&nonce);
        wrapped[16..48].copy_from_slice(key);
        let tag = cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound(self.current, address)),
                &mut wrapped[16..48],
            )
            .map_err(|_| WrappingError::Cipher)?;
        wrapped[48..].copy_from_slice(tag.as_ref());
        Ok(wrapped)
    }

    /// Opens what [`Wrapping::wrap`] made for the same address.
    pub fn unwrap(&self, address: &[u8], wrapped: &[u8; WRAPPED_LEN]) -> Result<KeyBytes, WrappingError> {
        let version = version_of(wrapped);
        let cipher = self.keys.get(&version).ok_or(WrappingError::VersionMissing(version))?;
        let nonce =
            Nonce::try_assume_unique_for_key(&wrapped[4..16]).map_err(|_| WrappingError::Unreadable(version))?;
        let mut sealed = Zeroizing::new([0; 48]);
        sealed.copy_from_slice(&wrapped[16..]);
        let clear = cipher
            .open_in_place(nonce, Aad::from(bound(version, address)), &mut sealed[..])
            .map_err(|_| WrappingError::Unreadable(version))?;
        let mut key = Zeroizing::new([0; KEY_LEN]);
        key.copy_from_slice(clear);
        Ok(key)
    }
}

/// The KEK version that wrapped these bytes.
pub fn version_of(wrapped: &[u8; WRAPPED_LEN]) -> u32 {
    u32::from_be_bytes([wrapped[0], wrapped[1], wrapped[2], wrapped[3]])
}

/// A fresh 256-bit key from the operating system's random source.
pub fn random_key() -> Result<KeyBytes, WrappingError> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    aws_lc_rs::rand::fill(&mut key[..]).map_err(|_| WrappingError::Cipher)?;
    Ok(key)
}

fn cipher(key: &[u8; KEY_LEN]) -> Result<LessSafeKey, WrappingError> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| WrappingError::Cipher)
}

/// Additional authenticated data: the version and the address, so that neither can be exchanged.
fn bound(version: u32, address: &[u8]) -> Vec<u8> {
    let mut data = b"meridian-keyring-v1\0".to_vec();
    data.extend_from_slice(&version.to_be_bytes());
    data.extend_from_slice(address);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(version: u32, byte: u8) -> String {
        format!("{version}:{}\n", STANDARD.encode([byte; 32]))
    }

    #[test]
    fn raw_bytes_are_version_one_and_the_highest_line_wraps() {
        assert_eq!(Wrapping::parse(&[7; 32]).unwrap().current(), 1);
        let two = format!("{}{}", line(2, 2), line(1, 1));
        assert_eq!(Wrapping::parse(two.as_bytes()).unwrap().current(), 2);
    }

    #[test]
    fn a_malformed_key_file_is_refused_with_its_line() {
        for bad in [&b""[..], b"short", &[7; 31], &[7; 33], b"0:AAAA", b"1:AAAA", b"x:y"] {
            assert!(
                matches!(Wrapping::parse(bad), Err(WrappingError::Format { line: 1 })),
                "{bad:?}"
            );
        }
        let twice = format!("{}{}", line(1, 1), line(1, 2));
        assert!(matches!(
            Wrapping::parse(twice.as_bytes()),
            Err(WrappingError::DuplicateVersion(1))
        ));
    }

    #[test]
    fn a_wrapped_key_opens_only_at_its_own_address() {
        let wrapping = Wrapping::parse(&[7; 32]).unwrap();
        let wrapped = wrapping.wrap(b"here", &[9; 32]).unwrap();
        assert_eq!(wrapping.unwrap(b"here", &wrapped).unwrap()[..], [9; 32]);
        assert!(matches!(
            wrapping.unwrap(b"there", &wrapped),
            Err(WrappingError::Unreadable(1))
        ));
    }

    #[test]
    fn a_damaged_byte_anywhere_is_noticed() {
        let wrapping = Wrapping::parse(&[7; 32]).unwrap();
        let wrapped = wrapping.wrap(b"here", &[9; 32]).unwrap();
        for position in 0..WRAPPED_LEN {
            let mut damaged = wrapped;
            damaged[position] ^= 1;
            assert!(wrapping.unwrap(b"here", &damaged).is_err(), "byte {position}");
        }
    }

    #[test]
    fn an_older_version_still_opens_while_its_line_is_there() {
        let old = Wrapping::parse(line(1, 1).as_bytes()).unwrap();
        let wrapped = old.wrap(b"a", &[5; 32]).unwrap();
        let both = Wrapping::parse(format!("{}{}", line(1, 1), line(2, 2)).as_bytes()).unwrap();
        assert_eq!(both.unwrap(b"a", &wrapped).unwrap()[..], [5; 32]);
        let newer = Wrapping::parse(line(2, 2).as_bytes()).unwrap();
        assert!(matches!(
            newer.unwrap(b"a", &wrapped),
            Err(WrappingError::VersionMissing(1))
        ));
    }
}
