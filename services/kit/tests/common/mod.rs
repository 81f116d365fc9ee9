//! A service for tests: notes, one row for each event.
#![allow(dead_code, reason = "each test file uses a part")]

use meridian_kit::SubjectId;
use meridian_kit::db::{Migration, Pool, Scope, TenantTx, raise_fence};
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::subject_keys::{KeyScope, SubjectKey};
use meridian_policy::{DataClass, Epoch};
use zeroize::Zeroizing;

pub const NOTES: &[Migration] = &[Migration::new(
    100,
    "notes",
    "create table note (tenant text not null, epoch bigint not null, id bigint not null, body text, primary key (tenant, id));
     select meridian_guard('note');",
)];

/// The scope of stride-eu, let in by its fence.
pub async fn fenced(pool: &Pool) -> Scope {
    let scope = Scope::new("stride-eu".parse().unwrap(), Epoch(1));
    raise_fence(pool, scope.tenant(), scope.epoch()).await.unwrap();
    scope
}

pub fn key(subject: SubjectId) -> SubjectKey {
    SubjectKey::from_bytes(
        "stride-eu".parse().unwrap(),
        subject,
        KeyScope::Personal,
        Zeroizing::new([9; 32]),
    )
}

pub fn note_event(key: &SubjectKey, sequence: u64) -> Event {
    let draft = Draft {
        kind: "sh.meridian.note.written.v1",
        stream: format!("note-{sequence}"),
        sequence,
        class: DataClass::TrainingContent,
        epoch: Epoch(1),
    };
    let source = EventSource::new("eu".parse().unwrap(), "training");
    Event::sealed(&source, draft, key, &serde_json::json!({"sequence": sequence})).unwrap()
}

pub async fn append(pool: &Pool, scope: &Scope, event: &Event) {
    let mut tx = TenantTx::begin(pool, scope).await.unwrap();
    meridian_kit::outbox::append(&mut tx, "notes.events", event)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}
