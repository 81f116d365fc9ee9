//! What replicators of two regions say to each other, `/peer/v1/…`.

use meridian_kit::event::{Carried, Event, EventSource, OfEdge, member};
use meridian_kit::subject_keys::WireKey;
use meridian_policy::{CompiledEdge, EdgeId, PolicyRevision, Rule};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// About what a batch has beside its events.
const HEAD_BYTES: usize = 256;

/// A form in which copies cross the border, sealed under the edge's import key. All of a batch are taken or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// `POST /peer/v2/batches`: of each copy what is its own ([`CarriedBatch`]).
    Carried,
    /// `POST /peer/v1/batches`: each copy as a whole event ([`Batch`]). Importers of every version take it.
    Whole,
}

impl Form {
    /// Where a batch of this form goes.
    pub fn path(self) -> &'static str {
        match self {
            Self::Carried => "/peer/v2/batches",
            Self::Whole => "/peer/v1/batches",
        }
    }

    /// The body of the push of copies along an edge, by the exporter's policy of that revision.
    pub fn body(self, edge: &EdgeId, revision: PolicyRevision, copies: &[Event]) -> Vec<u8> {
        let length: usize = copies.iter().map(Event::length).sum();
        let mut body = Vec::with_capacity(HEAD_BYTES + length);
        member(&mut body, "{\"edge\":", edge);
        member(&mut body, ",\"revision\":", &revision);
        body.extend_from_slice(b",\"events\":[");
        for (place, copy) in copies.iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            match self {
                Self::Carried => copy.write_carried(&mut body),
                Self::Whole => copy.write_to(&mut body),
            }
        }
        body.extend_from_slice(b"]}");
        body
    }
}

/// Copies along an edge as whole events.
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

/// Copies along an edge, of each what is its own: the rest is said by the edge.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedBatch {
    /// Along which edge.
    pub edge: EdgeId,
    /// The exporter's policy.
    pub revision: PolicyRevision,
    /// The copies.
    pub events: Vec<Carried>,
}

/// What was pushed, in either form.
pub trait Pushed {
    /// Along which edge.
    fn edge(&self) -> &EdgeId;

    /// The copies, along the edge as the importer's policy has it.
    fn copies(self, edge: &CompiledEdge) -> Vec<Event>;
}

impl Pushed for Batch {
    fn edge(&self) -> &EdgeId {
        &self.edge
    }

    fn copies(self, _edge: &CompiledEdge) -> Vec<Event> {
        self.events
    }
}

impl Pushed for CarriedBatch {
    fn edge(&self) -> &EdgeId {
        &self.edge
    }

    fn copies(self, edge: &CompiledEdge) -> Vec<Event> {
        let of_edge = OfEdge {
            source: &EventSource::new(edge.from.clone(), crate::REPLICATOR),
            tenant: &edge.importer_tenant,
            edge: &edge.id,
            epoch: edge.epoch,
        };
        self.events.into_iter().map(|carried| carried.over(of_edge)).collect()
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
    use meridian_kit::event::{Draft, Imported};
    use meridian_kit::subject_keys::{KeyScope, SubjectKey};
    use meridian_policy::{DataClass, Epoch, RegionName};
    use uuid::Uuid;
    use zeroize::Zeroizing;

    use super::*;
    use crate::domain::fixtures;

    const EDGE: &str = "stride-eu.workout-summary.us";

    /// A copy as an exporter makes it.
    fn copy() -> Event {
        let edge: EdgeId = EDGE.parse().expect("an edge");
        let key = SubjectKey::from_bytes(
            "stride-us".parse().expect("a tenant"),
            SubjectId(Uuid::nil()),
            KeyScope::Import(edge.clone()),
            Zeroizing::new([7; 32]),
        );
        let id = Uuid::now_v7();
        let draft = Draft {
            kind: "sh.meridian.workout.shared.v1",
            stream: id.to_string(),
            sequence: 1,
            class: DataClass::WorkoutSummary,
            epoch: Epoch(1),
        };
        let eu: RegionName = "eu".parse().expect("a region");
        let source = EventSource::new(eu.clone(), crate::REPLICATOR);
        let day = "2026-03-04T00:00:00Z".parse().expect("a day");
        let payload = serde_json::json!({"sport_type": "cycling"});
        let copy = Event::sealed_at(&source, draft, id, day, &key, &payload).expect("sealed");
        copy.imported(Imported {
            origin: eu,
            edge,
            expires: "2027-03-04T17:45:12.25Z".parse().expect("a time"),
        })
    }

    #[test]
    fn a_batch_is_written_as_it_serializes_however_many_events_it_has() {
        for count in [0, 1, 3] {
            let batch = Batch {
                edge: EDGE.parse().expect("an edge"),
                revision: PolicyRevision(7),
                events: (0..count).map(|_| copy()).collect(),
            };
            let body = Form::Whole.body(&batch.edge, batch.revision, &batch.events);
            let body = String::from_utf8(body).expect("UTF-8");
            assert_eq!(body, serde_json::to_string(&batch).expect("JSON"));
        }
    }

    #[test]
    fn copies_arrive_as_they_were_made_in_either_form() {
        let edge = fixtures::edge(&["sport_type"]);
        let made = vec![copy(), copy()];
        let body = |form: Form| form.body(&edge.id, PolicyRevision(7), &made);
        let whole: Batch = serde_json::from_slice(&body(Form::Whole)).expect("a batch");
        let carried: CarriedBatch = serde_json::from_slice(&body(Form::Carried)).expect("a batch");
        assert_eq!(whole.copies(&edge), made);
        assert_eq!(carried.copies(&edge), made);
        assert!(body(Form::Carried).len() * 3 < body(Form::Whole).len() * 2);
    }
}
