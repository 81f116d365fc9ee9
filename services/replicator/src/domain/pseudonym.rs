//! What is derived from an edge's key. The importer is leased the import key only; from it neither the edge's key nor a
//! pseudonym can be computed.

use aws_lc_rs::hmac;
use uuid::Uuid;
use zeroize::Zeroizing;

/// A pairwise identifier of an author: the same along one edge, another along every other and after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pseudonym(pub Uuid);

/// The key of one edge, known to the exporting region only.
pub struct EdgeKey(hmac::Key);

impl EdgeKey {
    /// An edge's key as the keyring gave it.
    pub fn new(key: &Zeroizing<[u8; 32]>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()))
    }

    fn derive(&self, label: &[u8], input: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(label);
        context.update(&[0]);
        context.update(input);
        let mut out = Zeroizing::new([0; 32]);
        // HMAC-SHA-256 answers 32 bytes.
        out.copy_from_slice(context.sign().as_ref());
        out
    }

    /// The key that copies are sealed under and that the importer is leased.
    pub fn import_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive(b"meridian import key v1", &[])
    }

    /// The subject's identifier along this edge: a UUID of version 8 (RFC 9562) holding 122 bits of the HMAC.
    pub fn pseudonym(&self, subject: Uuid) -> Pseudonym {
        let code = self.derive(b"meridian pseudonym v1", subject.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&code[..16]);
        Pseudonym(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> EdgeKey {
        EdgeKey::new(&Zeroizing::new([byte; 32]))
    }

    #[test]
    fn the_import_key_is_neither_the_edges_key_nor_the_pseudonyms() {
        assert_ne!(*key(1).import_key(), [1; 32]);
        let guessed = EdgeKey::new(&key(1).import_key());
        let subject = Uuid::from_u128(5);
        assert_ne!(guessed.pseudonym(subject), key(1).pseudonym(subject));
    }

    proptest! {
        #[test]
        fn a_pseudonym_is_stable_along_one_edge_and_differs_along_another(subject: u128, a: u8, b: u8) {
            let subject = Uuid::from_u128(subject);
            prop_assert_eq!(key(a).pseudonym(subject), key(a).pseudonym(subject));
            prop_assert_ne!(key(a).pseudonym(subject).0, subject);
            if a != b {
                prop_assert_ne!(key(a).pseudonym(subject), key(b).pseudonym(subject));
            }
        }
    }
}
