//! What replicators of two regions say to each other, `/peer/v1/…`.

use meridian_kit::event::{Event, member};
use meridian_kit::subject_keys::WireKey;
use meridian_policy::{EdgeId, PolicyRevision, Rule};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// About what a batch has beside its events.
const HEAD_BYTES: usize = 256;

/// `POST /peer/v1/batches`: copies, sealed under the edge's import key. All of them are taken or none.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Along which edge.
    pub edge: EdgeId,
    /// The exporter's policy.
    pub revision: PolicyRevision,
    /// The copies.
    pub events: Vec<Event>,
}

impl Batch {
    /// The body of the push.
    pub fn to_bytes(&self) -> Vec<u8> {
        let events: usize = self.events.iter().map(Event::length).sum();
        let mut body = Vec::with_capacity(HEAD_BYTES + events);
        member(&mut body, "{\"edge\":", &self.edge);
        member(&mut body, ",\"revision\":", &self.revision);
        body.extend_from_slice(b",\"events\":[");
        for (place, event) in self.events.iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            event.write_to(&mut body);
        }
        body.extend_from_slice(b"]}");
        body
    }
}

/// The SHA-256 of a batch as it crosses the border: the exporter's evidence and the importer's name it alike.
pub fn digest(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stored {
    /// Copies that were new.
    pub stored: u64,
    /// Copies that were there already: a repeated push.
    pub repeated: u64,
}

/// `POST /peer/v1/leases`: the key that copies are sealed under, for a while.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyLease {
    /// Of which edge.
    pub edge: EdgeId,
    /// The key.
    pub key: WireKey,
    /// How long it may be used, from when it was received.
    pub valid_for_ms: u64,
}

/// `POST /peer/v1/cuts`: the edge carries nothing any more, and what it carried is to be deleted. Repeated until the
/// answer says that it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// Which edge.
    pub edge: EdgeId,
    /// The exporter's policy.
    pub revision: PolicyRevision,
    /// The rule that cut it.
    pub rule: Rule,
}

/// How far an importer is with a purge.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Purge {
    /// Nothing of the edge is left: tables, topics and every sink.
    pub complete: bool,
    /// Copies deleted so far.
    pub purged: u64,
    /// Who has acknowledged.
    pub sinks: Vec<String>,
}

#[cfg(test)]
mod tests {
    use meridian_kit::SubjectId;
    use meridian_kit::event::{Draft, EventSource};
    use meridian_kit::subject_keys::{KeyScope, SubjectKey};
    use meridian_policy::{DataClass, Epoch};
    use uuid::Uuid;
    use zeroize::Zeroizing;

    use super::*;

    fn event() -> Event {
        let tenant = "stride-us".parse().expect("a tenant");
        let key = SubjectKey::from_bytes(
            tenant,
            SubjectId(Uuid::nil()),
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
        let source = EventSource::new("eu".parse().expect("a region"), "replicator");
        Event::sealed(&source, draft, &key, &serde_json::json!({"sport_type": "cycling"})).expect("sealed")
    }

    #[test]
    fn a_batch_is_written_as_it_serializes_however_many_events_it_has() {
        for count in [0, 1, 3] {
            let batch = Batch {
                edge: "stride-eu.workout-summary.us".parse().expect("an edge"),
                revision: PolicyRevision(7),
                events: (0..count).map(|_| event()).collect(),
            };
            let body = String::from_utf8(batch.to_bytes()).expect("UTF-8");
            assert_eq!(body, serde_json::to_string(&batch).expect("JSON"));
        }
    }
}
