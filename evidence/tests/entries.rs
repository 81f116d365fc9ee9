//! Entries: one encoding each, and nothing that bytes can do to the reader but be refused.
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

use jiff::Timestamp;
use meridian_evidence::commitment::{Salt, commit, concerns};
use meridian_evidence::entry::{Entry, EntryError, Kind, LARGEST_ENTRY};
use proptest::collection::{btree_set, vec};
use proptest::option::of;
use proptest::prelude::*;
use uuid::Uuid;

fn text() -> impl Strategy<Value = Option<String>> {
    of("[a-z0-9 ,:.é-]{1,40}")
}

prop_compose! {
    fn parties()(tenant in text(), edge in text(), from in text(), to in text(), exporter in text(), importer in text())
        -> [Option<String>; 6] { [tenant, edge, from, to, exporter, importer] }
}

prop_compose! {
    fn grounds()(class in text(), purpose in text(), rule in text(), mechanism in text(), instrument in text())
        -> [Option<String>; 5] { [class, purpose, rule, mechanism, instrument] }
}

prop_compose! {
    fn entry()(
        id in any::<u128>(), micros in -1_000_000_000_000_000_i64..4_000_000_000_000_000, kind in 0..Kind::ALL.len(),
        [tenant, edge, from, to, exporter, importer] in parties(),
        [class, purpose, rule, mechanism, instrument] in grounds(),
        numbers in any::<[Option<u64>; 3]>(), digest in of(any::<[u8; 32]>()), nonce in of(any::<[u8; 16]>()),
        commitments in btree_set(any::<[u8; 32]>(), 0..5),
    ) -> Entry {
        let at = Timestamp::from_microsecond(micros).unwrap();
        let [revision, count, bytes] = numbers;
        Entry {
            tenant, edge, from, to, exporter, importer, class, purpose, rule, mechanism, instrument,
            revision, count, bytes, digest, nonce, commitments,
            ..Entry::new(Uuid::from_u128(id), at, Kind::ALL[kind])
        }
    }
}

proptest! {
    #[test]
    fn an_entry_reads_back(entry in entry()) {
        let bytes = entry.encode().unwrap();
        prop_assert_eq!(Entry::decode(&bytes), Ok(entry));
    }

    #[test]
    fn no_two_entries_share_their_bytes(one in entry(), other in entry()) {
        prop_assert_eq!(one == other, one.encode() == other.encode());
    }

    #[test]
    fn whatever_bytes_are_read_are_the_only_encoding_of_what_was_read(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_the_only_encoding_of_something_else(
        entry in entry(), at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let whole = entry.encode().unwrap();
        let mut changed = whole.clone();
        *at.get_mut(&mut changed) = to;
        for damaged in [&changed, &whole[..cut.index(whole.len())]] {
            if let Ok(read) = Entry::decode(damaged) {
                prop_assert_eq!(&read.encode().unwrap()[..], damaged);
                prop_assert_eq!(read == entry, damaged == &whole[..]);
            }
        }
    }
}

fn plain() -> Entry {
    Entry::new(Uuid::from_u128(7), Timestamp::UNIX_EPOCH, Kind::Transfer)
}

#[test]
fn the_encoding_is_the_documented_one() {
    let entry = Entry {
        tenant: Some("a".to_owned()),
        count: Some(2),
        ..plain()
    };
    let expected = "0101\
        0100000010 00000000000000000000000000000007\
        0200000008 0000000000000000\
        0300000001 61\
        2100000008 0000000000000002";
    assert_eq!(hex::encode(entry.encode().unwrap()), expected.replace(' ', ""));
}

#[test]
fn what_is_no_entry_is_refused_with_what_is_wrong() {
    let head = hex::encode(plain().encode().unwrap());
    let decode = |text: &str| Entry::decode(&hex::decode(text.replace(' ', "")).unwrap());
    let cases = [
        ("", EntryError::Short),
        ("01", EntryError::Short),
        ("0201", EntryError::Version(2)),
        ("0100", EntryError::Kind),
        ("0109", EntryError::Kind),
        ("0101", EntryError::Missing(1)),
        ("0101 0300000001 61", EntryError::Missing(1)),
        (&format!("{head} 03000000"), EntryError::Short),
        (&format!("{head} 0300000002 61"), EntryError::Short),
        (&format!("{head} 03ffffffff 61"), EntryError::Short),
        (&format!("{head} 0300000000"), EntryError::Value(3)),
        (&format!("{head} 0300000001 0a"), EntryError::Value(3)),
        (&format!("{head} 0300000001 ff"), EntryError::Value(3)),
        (&format!("{head} 0400000001 61 0300000001 61"), EntryError::Order(3)),
        (&format!("{head} 0300000001 61 0300000001 61"), EntryError::Order(3)),
        (&format!("{head} 2100000001 02"), EntryError::Value(33)),
        (&format!("{head} 3200000000"), EntryError::Value(50)),
        (&format!("{head} 7f00000001 61"), EntryError::Field(127)),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(bytes), Err(error), "{bytes}");
    }
    assert_eq!(Entry::decode(&vec![1; LARGEST_ENTRY + 1]), Err(EntryError::Large));
}

#[test]
fn a_commitment_is_told_only_to_who_holds_the_salt() {
    let (subject, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let (salt, another) = (Salt::new([7; 32]), Salt::new([8; 32]));
    let nonce = [9; 16];
    let entry = Entry {
        nonce: Some(nonce),
        commitments: [commit(&salt, &nonce, subject)].into(),
        ..plain()
    };
    assert!(concerns(&entry, &salt, subject));
    assert!(!concerns(&entry, &salt, other));
    assert!(
        !concerns(&entry, &another, subject),
        "the salt of an erased subject is gone"
    );
    // Two entries about one subject have nothing in common.
    assert_ne!(commit(&salt, &nonce, subject), commit(&salt, &[10; 16], subject));
}
