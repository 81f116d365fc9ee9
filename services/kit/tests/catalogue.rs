//! What every service has through the kit is what policies/catalogue/kit.yaml says.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;

use meridian_kit::event::{Draft, Event, EventSource, Imported};
use meridian_kit::subject_keys::{KeyScope, SubjectKey};
use meridian_kit::testing::{Database, catalogue};
use meridian_kit::trace::{self, Context};
use meridian_kit::{SubjectId, headers, log};
use meridian_policy::catalogue::FieldKind;
use meridian_policy::{DataClass, Epoch};
use zeroize::Zeroizing;

#[tokio::test]
async fn catalogue_columns() {
    let database = Database::create("kit", &[]).await;
    catalogue::assert_columns("kit", &database).await;
}

#[test]
fn catalogue_log_fields() {
    let all = [log::OF_EVERY_LINE, log::OF_SPANS, log::ALLOWED].concat();
    let once: BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!(once.len(), all.len(), "a field is named twice");
    catalogue::assert_names(FieldKind::LogField, "kit", all);
}

#[test]
fn catalogue_headers() {
    catalogue::assert_names(FieldKind::Header, "kit", headers::NAMES.iter().copied());
}

/// An event from another region has every attribute there is.
#[tokio::test]
async fn catalogue_event_attributes() {
    let key = SubjectKey::from_bytes(
        "stride-eu".parse().unwrap(),
        SubjectId(uuid::Uuid::nil()),
        KeyScope::Personal,
        Zeroizing::new([7; 32]),
    );
    let draft = Draft {
        kind: "sh.meridian.workout.shared.v1",
        stream: "w-1".to_owned(),
        sequence: 1,
        class: DataClass::WorkoutSummary,
        epoch: Epoch(1),
    };
    let source = EventSource::new("eu".parse().unwrap(), "replicator");
    let event = trace::within(Context::fresh(), async {
        Event::sealed(&source, draft, &key, &serde_json::json!({})).unwrap()
    });
    let event = event.await.imported(Imported {
        origin: "us".parse().unwrap(),
        edge: "stride-us.workout-summary.eu".parse().unwrap(),
        expires: jiff::Timestamp::UNIX_EPOCH,
    });
    let attributes: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&event.to_bytes()).unwrap();
    catalogue::assert_names(FieldKind::Header, "kit.event", attributes.keys().map(String::as_str));
}
