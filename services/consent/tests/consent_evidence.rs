//! What consent records about a change of consent, and whom it tells.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

mod support;

use jiff::Timestamp;
use meridian_evidence::commitment::concerns;
use meridian_evidence::export::Writer;
use meridian_evidence::{Entry, Kind, verify};
use meridian_kit::evidence::export;
use meridian_kit::subject_keys::{Create, KeyScope};
use meridian_kit::testing::{Database, Region, until};
use support::change;

const MARKETING: (&str, &str) = ("marketing", "promotion");

async fn changes(database: &Database) -> Vec<Entry> {
    let mut writer = Writer::begin(Vec::new(), "eu", Timestamp::now()).expect("a first line");
    export(&database.pool(), &"eu/consent".parse().expect("a chain"), &mut writer)
        .await
        .expect("the chain");
    let mut entries = Vec::new();
    let text = writer.end().expect("a last line");
    verify(&text[..], &[], |_, _, entry| entries.push(entry.clone())).expect("it verifies");
    entries.retain(|entry| entry.kind == Kind::ConsentChange);
    entries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_recorded_once_and_names_its_subject_only_to_who_has_the_key() {
    let region = Region::new("eu", &["stride-eu"]).await;
    region.run("keyring", meridian_keyring::run).await;
    let database = region.database("consent", meridian_consent::MIGRATIONS).await;
    region.run("consent", meridian_consent::run).await;
    let (athlete, other) = (region.athlete("stride-eu"), region.athlete("stride-eu"));
    change(&region, &other, "grant", MARKETING).await;
    for action in ["grant", "grant", "withdraw"] {
        change(&region, &athlete, action, MARKETING).await;
    }
    let entries = until(|| async { Some(changes(&database).await).filter(|entries| entries.len() == 3) })
        .await
        .expect("three changes");
    let keyring = region.keyring("identity");
    let key = keyring
        .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::No)
        .await
        .expect("a key");
    let mut own: Vec<_> = entries
        .iter()
        .filter(|entry| concerns(entry, &key.evidence_salt(), athlete.subject.as_uuid()))
        .map(|entry| entry.rule.as_deref())
        .collect();
    own.sort_unstable();
    assert_eq!(own, [Some("granted"), Some("withdrawn")]);
    for entry in &entries {
        assert_eq!(
            (entry.purpose.as_deref(), entry.class.as_deref()),
            (Some(MARKETING.0), Some(MARKETING.1))
        );
        let bytes = entry.encode().expect("an entry");
        assert!(
            !bytes
                .windows(16)
                .any(|window| window == athlete.subject.as_uuid().as_bytes())
        );
    }
}
