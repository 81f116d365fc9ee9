//! Exports: whole ones verify, and an edit, a reorder, a truncation and a fork are rejected with the entry.
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::BufReader;

use jiff::Timestamp;
use meridian_evidence::chain::{ChainId, genesis};
use meridian_evidence::checkpoint::{Checkpoint, Signer};
use meridian_evidence::entry::{Entry, Kind};
use meridian_evidence::export::Writer;
use meridian_evidence::verify::{Rejected, Verified, Why, verify};
use proptest::prelude::*;
use uuid::Uuid;

const AT: Timestamp = Timestamp::UNIX_EPOCH;

fn chain(service: &str) -> ChainId {
    format!("eu/{service}").parse().unwrap()
}

fn signer() -> Signer {
    Signer::from_seed(&[7; 32]).unwrap()
}

fn entry(number: u64) -> Entry {
    Entry {
        count: Some(number),
        rule: Some("lawful".to_owned()),
        ..Entry::new(Uuid::from_u128(number.into()), AT, Kind::Transfer)
    }
}

/// An export of one chain, with a checkpoint after each of `signed`, and all checkpoints.
fn export_of(counts: &[u64], signed: &[u64]) -> (String, Vec<Checkpoint>) {
    let mut writer = Writer::begin(Vec::new(), "eu", AT).unwrap();
    writer.open(&chain("replicator")).unwrap();
    let mut checkpoints = Vec::new();
    for &count in counts {
        writer.append(&entry(count).encode().unwrap()).unwrap();
        let (size, head) = writer.head().unwrap();
        if signed.contains(&size) {
            let checkpoint = signer().sign(&chain("replicator"), size, head, AT);
            writer.checkpoint(&checkpoint).unwrap();
            checkpoints.push(checkpoint);
        }
    }
    (String::from_utf8(writer.end().unwrap()).unwrap(), checkpoints)
}

fn check(text: &str, kept: &[Checkpoint]) -> Result<Verified, Rejected> {
    // A buffer smaller than a line: lines come in pieces.
    verify(BufReader::with_capacity(32, text.as_bytes()), kept, |_, _, _| {})
}

fn rejected(text: &str, kept: &[Checkpoint]) -> Rejected {
    check(text, kept).unwrap_err()
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_whole_export_verifies_and_says_how_far_it_is_signed() {
    let (text, kept) = export_of(&[1, 2, 3, 4], &[1, 3]);
    for kept in [&[][..], &kept] {
        let verified = check(&text, kept).unwrap();
        let found = &verified.chains[0];
        assert_eq!(verified.region, "eu");
        assert_eq!((found.size, found.signed, found.key), (4, 3, Some(signer().key())));
    }
}

#[test]
fn every_entry_is_shown_once_and_in_order() {
    let (text, _) = export_of(&[5, 6, 7], &[]);
    let mut seen = Vec::new();
    let show = |chain: &ChainId, seq: u64, entry: &Entry| seen.push((chain.to_string(), seq, entry.count.unwrap()));
    verify(text.as_bytes(), &[], show).unwrap();
    let expected = [(1, 5), (2, 6), (3, 7)].map(|(seq, count)| ("eu/replicator".to_owned(), seq, count));
    assert_eq!(seen, expected);
}

#[test]
fn an_edited_entry_is_named() {
    let (text, _) = export_of(&[1, 2, 3], &[3]);
    let (other, _) = export_of(&[1, 9, 3], &[3]);
    let (mut there, changed) = (lines(&text), lines(&other));
    let body = |line: &str| {
        line.split("\"entry\":\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned()
    };
    let edited = there[3].replace(&body(there[3]), &body(changed[3]));
    there[3] = &edited;
    let error = rejected(&joined(&there), &[]);
    assert!(matches!(error.why, Why::Changed), "{error}");
    assert_eq!((error.entry, error.line), (Some(2), 4));
    assert!(error.to_string().contains("eu/replicator, entry 2"), "{error}");
}

#[test]
fn an_edit_with_all_digests_made_anew_is_found_by_a_checkpoint_that_was_kept() {
    let (_, kept) = export_of(&[1, 2, 3, 4], &[2, 4]);
    let (forged, _) = export_of(&[1, 2, 9, 4], &[]);
    assert!(check(&forged, &[]).is_ok(), "nothing in it is signed");
    let error = rejected(&forged, &kept);
    assert!(
        matches!(
            error.why,
            Why::Disagrees {
                size: 4,
                agreed: 2,
                from: 3
            }
        ),
        "{error}"
    );
}

#[test]
fn entries_in_another_order_and_a_missing_or_repeated_one_are_named() {
    let (text, _) = export_of(&[1, 2, 3, 4], &[]);
    let whole = lines(&text);
    let mut reordered = whole.clone();
    reordered.swap(3, 4);
    let mut missing = whole.clone();
    missing.remove(3);
    let mut repeated = whole.clone();
    repeated.insert(3, whole[2]);
    for (lines, expected) in [(reordered, (2, 3)), (missing, (2, 3)), (repeated, (2, 1))] {
        let error = rejected(&joined(&lines), &[]);
        assert!(
            matches!(error.why, Why::Number { expected: e, found: f } if (e, f) == expected),
            "{error}"
        );
        assert_eq!(error.entry, Some(2));
    }
}

#[test]
fn a_file_that_ends_early_is_cut_short_wherever_it_ends() {
    let (text, _) = export_of(&[1, 2], &[2]);
    for end in 0..text.len() {
        let error = rejected(&text[..end], &[]);
        assert!(matches!(error.why, Why::CutShort), "{end}: {error}");
    }
}

#[test]
fn a_chain_whose_end_was_cut_off_cleanly_is_found_by_a_checkpoint_that_was_kept() {
    let (_, kept) = export_of(&[1, 2, 3], &[3]);
    let (shorter, _) = export_of(&[1, 2], &[]);
    assert!(check(&shorter, &[]).is_ok());
    let error = rejected(&shorter, &kept);
    assert!(matches!(error.why, Why::Truncated { size: 3, found: 2 }), "{error}");
}

#[test]
fn a_fork_is_found_in_two_checkpoints_of_one_size_and_in_one_that_is_no_prefix() {
    let (text, mut one) = export_of(&[1, 2, 3], &[2]);
    let (_, other) = export_of(&[1, 9], &[2]);
    assert!(matches!(
        rejected(&text, &other).why,
        Why::Disagrees {
            size: 2,
            agreed: 0,
            from: 1
        }
    ));
    one.extend(other);
    assert!(matches!(rejected(&text, &one).why, Why::Forked { size: 2 }));
    // The other one stands in the file itself.
    let in_the_file = serde_json::json!({"checkpoint": one[1]}).to_string();
    let mut forked = lines(&text);
    forked.insert(5, &in_the_file);
    assert!(matches!(rejected(&joined(&forked), &[]).why, Why::Forked { size: 2 }));
    let (_, longer) = export_of(&[1, 2, 8], &[3]);
    assert!(matches!(
        rejected(&text, &longer).why,
        Why::Disagrees {
            size: 3,
            agreed: 2,
            from: 3
        }
    ));
}

#[test]
fn a_checkpoint_that_nobody_or_somebody_else_signed_is_refused() {
    let (text, kept) = export_of(&[1, 2], &[2]);
    let mut unsigned = kept[0].clone();
    unsigned.signature.0[0] ^= 1;
    assert!(matches!(rejected(&text, &[unsigned]).why, Why::Signature { size: 2 }));
    let stranger = Signer::from_seed(&[8; 32]).unwrap();
    let by_another = stranger.sign(&chain("replicator"), 2, kept[0].head.0, AT);
    assert!(matches!(rejected(&text, &[by_another]).why, Why::Key { size: 2, .. }));
}

#[test]
fn a_chain_that_somebody_has_a_checkpoint_of_must_be_there_and_once() {
    let (text, _) = export_of(&[1], &[]);
    let kept = signer().sign(&chain("consent"), 0, genesis(&chain("consent")), AT);
    assert!(matches!(rejected(&text, &[kept]).why, Why::ChainMissing(_)));

    let mut writer = Writer::begin(Vec::new(), "eu", AT).unwrap();
    for _ in 0..2 {
        writer.open(&chain("replicator")).unwrap();
    }
    let twice = String::from_utf8(writer.end().unwrap()).unwrap();
    assert!(matches!(rejected(&twice, &[]).why, Why::Twice));
}

#[test]
fn an_entry_of_one_chain_cannot_stand_in_another() {
    let (text, _) = export_of(&[1, 2], &[]);
    let error = rejected(&text.replace("eu/replicator", "eu/consent"), &[]);
    assert!(matches!(error.why, Why::Changed), "{error}");
    assert_eq!(error.entry, Some(1));
}

#[test]
fn a_line_without_end_is_given_up_on() {
    let long = "x".repeat(1 << 20);
    assert!(matches!(rejected(&long, &[]).why, Why::LongLine));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_changed_byte_is_rejected_or_changes_no_entry(
        counts in prop::collection::vec(any::<u64>(), 1..6), at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let (text, kept) = export_of(&counts, &[1, counts.len() as u64]);
        let mut bytes = text.into_bytes();
        *at.get_mut(&mut bytes) = to;
        let mut seen = Vec::new();
        let verified = verify(&bytes[..], &kept, |_, _, entry| seen.push(entry.clone()));
        if verified.is_ok() {
            prop_assert_eq!(seen, counts.into_iter().map(entry).collect::<Vec<_>>());
        }
    }

    #[test]
    fn moved_dropped_and_repeated_lines_are_rejected_or_change_no_entry(
        counts in prop::collection::vec(any::<u64>(), 1..6), from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(), how in 0..3,
    ) {
        let (text, kept) = export_of(&counts, &[1, counts.len() as u64]);
        let mut there = lines(&text);
        let (from, to) = (from.index(there.len()), to.index(there.len()));
        let line = there[from];
        match how {
            0 => there.swap(from, to),
            1 => drop(there.remove(from)),
            _ => there.insert(to, line),
        }
        let mut seen = Vec::new();
        let verified = verify(joined(&there).as_bytes(), &kept, |_, _, entry| seen.push(entry.clone()));
        if verified.is_ok() {
            prop_assert_eq!(seen, counts.into_iter().map(entry).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = verify(&bytes[..], &[], |_, _, _| {});
    }

    #[test]
    fn no_lines_make_it_panic(pieces in prop::collection::vec(0..9_usize, 0..30)) {
        let (text, _) = export_of(&[1, 2, 3], &[2]);
        let there = lines(&text);
        let some: Vec<&str> = pieces.into_iter().map(|piece| there[piece % there.len()]).collect();
        let _ = verify(joined(&some).as_bytes(), &[], |_, _, _| {});
    }
}
