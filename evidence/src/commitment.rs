//! Whom an entry concerns, told only to who holds the subject's salt. The salt is derived from the subject's key in the
//! keyring and dies with it: from then on nothing links an entry to the subject, nor two entries to each other.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::entry::Entry;

/// What a subject's salt is derived from the subject's key by.
pub const SALT_LABEL: &[u8] = b"meridian.evidence.salt.v1";

/// A subject's salt.
pub type Salt = Zeroizing<[u8; 32]>;

/// The commitment of an entry with this nonce to a subject.
#[must_use]
pub fn commit(salt: &Salt, nonce: &[u8; 16], subject: Uuid) -> [u8; 32] {
    let key = Key::new(HMAC_SHA256, salt.as_slice());
    let mut message = [0; 32];
    message[..16].copy_from_slice(nonce);
    message[16..].copy_from_slice(subject.as_bytes());
    let mut commitment = [0; 32];
    commitment.copy_from_slice(sign(&key, &message).as_ref());
    commitment
}

/// Whether an entry concerns a subject.
#[must_use]
pub fn concerns(entry: &Entry, salt: &Salt, subject: Uuid) -> bool {
    entry.nonce.is_some_and(|nonce| {
        let wanted = commit(salt, &nonce, subject);
        entry
            .commitments
            .iter()
            .any(|known| verify_slices_are_equal(known, &wanted).is_ok())
    })
}
