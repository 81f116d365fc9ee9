//! `meridian evidence`, as a compliance officer runs it.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use jiff::Timestamp;
use meridian_evidence::export::Writer;
use meridian_evidence::{Checkpoint, Entry, Kind, Signer};
use serde_json::json;

fn meridian(arguments: &[&str], folder: &Path) -> Output {
    let binary = env!("CARGO_BIN_EXE_meridian");
    Command::new(binary)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An export of entries with these counts, signed at its end.
fn export_of(counts: &[u64]) -> (Vec<u8>, Checkpoint) {
    let chain = "eu/replicator".parse().unwrap();
    let signer = Signer::from_seed(&[7; 32]).unwrap();
    let mut writer = Writer::begin(Vec::new(), "eu", Timestamp::UNIX_EPOCH).unwrap();
    writer.open(&chain).unwrap();
    for &count in counts {
        let entry = Entry {
            count: Some(count),
            ..Entry::new(uuid_of(count), Timestamp::UNIX_EPOCH, Kind::Transfer)
        };
        writer.append(&entry.encode().unwrap()).unwrap();
    }
    let (size, head) = writer.head().unwrap();
    let checkpoint = signer.sign(&chain, size, head, Timestamp::UNIX_EPOCH);
    writer.checkpoint(&checkpoint).unwrap();
    (writer.end().unwrap(), checkpoint)
}

fn uuid_of(number: u64) -> uuid::Uuid {
    uuid::Uuid::from_u128(number.into())
}

#[test]
fn an_export_verifies_against_what_the_hub_has_and_a_changed_one_fails_with_the_entry() {
    let folder = tempfile::tempdir().unwrap();
    let (export, checkpoint) = export_of(&[1, 2, 3]);
    fs::write(folder.path().join("eu.export"), &export).unwrap();
    let region = json!({"kind": "FitnessRegion", "status": {"evidence": [checkpoint]}});
    fs::write(folder.path().join("eu.json"), region.to_string()).unwrap();
    let key = hex::encode(checkpoint.key.0);
    let arguments = [
        "evidence",
        "verify",
        "eu.export",
        "--checkpoint",
        "eu.json",
        "--key",
        &key,
    ];
    let good = meridian(&arguments, folder.path());
    assert!(good.status.success(), "{}", text(&good.stderr));
    let said = text(&good.stdout);
    assert!(
        said.contains("eu/replicator: 3 entries, signed up to entry 3"),
        "{said}"
    );

    let (other, _) = export_of(&[1, 2, 4]);
    fs::write(folder.path().join("eu.export"), other).unwrap();
    let forged = meridian(&arguments, folder.path());
    assert!(!forged.status.success());
    assert!(
        text(&forged.stderr).contains("entry from 1 to 3 was changed"),
        "{}",
        text(&forged.stderr)
    );

    let edited = text(&export).replacen("\"seq\":2", "\"seq\":5", 1);
    fs::write(folder.path().join("eu.export"), edited).unwrap();
    let reordered = meridian(&arguments[..3], folder.path());
    assert!(!reordered.status.success());
    let said = text(&reordered.stderr);
    assert!(
        said.contains("eu.export: line 4, eu/replicator, entry 2: an entry is missing"),
        "{said}"
    );
}

#[test]
fn a_key_that_did_not_sign_and_a_file_that_is_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (export, _) = export_of(&[1]);
    fs::write(folder.path().join("eu.export"), export).unwrap();
    let other = "00".repeat(32);
    let another = meridian(&["evidence", "verify", "eu.export", "--key", &other], folder.path());
    assert!(!another.status.success() && text(&another.stderr).contains("is signed by"));
    fs::write(folder.path().join("eu.export"), "{}\n").unwrap();
    assert!(
        !meridian(&["evidence", "verify", "eu.export"], folder.path())
            .status
            .success()
    );
    assert!(
        !meridian(&["evidence", "verify", "absent"], folder.path())
            .status
            .success()
    );
}

#[test]
fn a_report_is_read_out_of_an_export_and_fails_where_something_crossed_undeclared() {
    let folder = tempfile::tempdir().unwrap();
    let chain = "eu/replicator".parse().unwrap();
    let mut writer = Writer::begin(Vec::new(), "eu", Timestamp::UNIX_EPOCH).unwrap();
    writer.open(&chain).unwrap();
    let along = |kind, rule: &str| Entry {
        edge: Some("stride-eu.workout-summary.us".to_owned()),
        from: Some("eu".to_owned()),
        to: Some("us".to_owned()),
        importer: Some("stride-america".to_owned()),
        mechanism: Some("Certification".to_owned()),
        rule: Some(rule.to_owned()),
        count: Some(3),
        bytes: Some(1234),
        ..Entry::new(uuid_of(1), Timestamp::UNIX_EPOCH, kind)
    };
    for entry in [along(Kind::PolicyChange, "opened"), along(Kind::Transfer, "lawful")] {
        writer.append(&entry.encode().unwrap()).unwrap();
    }
    fs::write(folder.path().join("eu.export"), writer.end().unwrap()).unwrap();
    let good = meridian(&["evidence", "report", "--transfers", "eu.export"], folder.path());
    assert!(good.status.success(), "{}", text(&good.stderr));
    let said = text(&good.stdout);
    assert!(
        said.contains("stride-america\tus\t") && said.contains("\t1\t3\t1234\n"),
        "{said}"
    );
    assert!(said.contains("# Violations: 0"), "{said}");

    let policy = json!({"spec": {"policy": {
        "region": "eu", "jurisdiction": "eu", "revision": 0, "public_url": "https://eu", "issuer": "https://eu",
        "countries_served": [], "homes": [], "directory": [], "peers": [], "exports": [], "imports": [], "retention": {},
    }}});
    fs::write(folder.path().join("stack.json"), policy.to_string()).unwrap();
    let arguments = [
        "evidence",
        "report",
        "--art30",
        "eu.export",
        "--policy",
        "stack.json",
        "--json",
    ];
    let bad = meridian(&arguments, folder.path());
    assert!(!bad.status.success());
    let told: serde_json::Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!(told["violations"][0]["entry"], 2, "{told}");
    assert!(
        !meridian(&["evidence", "report", "eu.export"], folder.path())
            .status
            .success(),
        "of which form?"
    );
}
