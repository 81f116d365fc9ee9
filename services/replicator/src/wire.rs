//! What replicators of two regions say to each other, `/peer/…`.

use meridian_kit::event::{Carried, Event, EventSource, MemberReader, OfEdge, member};
use meridian_kit::subject_keys::WireKey;
use meridian_policy::{CompiledEdge, EdgeId, PolicyRevision, Rule, TenantId};
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

    /// The body of a push along an edge, by the exporter's policy of that revision.
    pub fn body(self, edge: &CompiledEdge, revision: PolicyRevision, copies: &[Carried]) -> Vec<u8> {
        let length: usize = copies.iter().map(Carried::length).sum();
        let mut body = Vec::with_capacity(HEAD_BYTES + length);
        member(&mut body, "{\"edge\":", &edge.id);
        member(&mut body, ",\"revision\":", &revision);
        if self == Self::Carried {
            member(&mut body, ",\"tenant\":", &edge.importer_tenant);
        }
        body.extend_from_slice(b",\"events\":[");
        let whole = as_event(edge);
        for (place, copy) in copies.iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            match self {
                Self::Carried => copy.write_to(&mut body),
                Self::Whole => whole(copy.clone()).write_to(&mut body),
            }
        }
        body.extend_from_slice(b"]}");
        body
    }
}

/// Makes copies the events that they are everywhere but on the border.
pub fn as_event(edge: &CompiledEdge) -> impl Fn(Carried) -> Event {
    let source = EventSource::new(edge.from.clone(), crate::REPLICATOR);
    move |copy| {
        copy.over(OfEdge {
            source: &source,
            tenant: &edge.importer_tenant,
            edge: &edge.id,
            epoch: edge.epoch,
        })
    }
}

/// Copies along an edge as whole events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Along which edge.
    pub edge: EdgeId,
    /// The exporter's policy.
    pub revision: PolicyRevision,
    /// The copies.
    pub events: Vec<Event>,
}

/// Copies along an edge, of each what is its own: the rest is the edge's, as the importer's policy has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedBatch {
    /// Along which edge.
    pub edge: EdgeId,
    /// The exporter's policy.
    pub revision: PolicyRevision,
    /// To whom, by the exporter's policy.
    pub tenant: TenantId,
    /// The copies.
    pub events: Vec<Carried>,
}

impl CarriedBatch {
    /// Reads a batch that is written as [`Form::body`] writes it, for less than what any JSON takes. None: it is written
    /// otherwise, if it is one.
    pub fn as_written(body: &[u8]) -> Option<Self> {
        let mut from = MemberReader::new(body);
        let mut batch = Self {
            edge: from.parsed("{\"edge\":")?,
            revision: from.number(",\"revision\":")?.into(),
            tenant: from.parsed(",\"tenant\":")?,
            events: Vec::new(),
        };
        from.past(",\"events\":[")?;
        while from.past("]}").is_none() {
            if !batch.events.is_empty() {
                from.past(",")?;
            }
            batch.events.push(Carried::read_from(&mut from)?);
        }
        from.is_at_end().then_some(batch)
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

/// The answer to a [`KeyLease`]; importers of the first version give none.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Leased {
    /// Whether [`Form::Carried`] is taken.
    #[serde(default)]
    pub carried: bool,
    /// How many copies are taken at once, of 2 KiB on the average; importers that do not say so take 500, or say that these
    /// are too many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<usize>,
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
    use meridian_kit::event::CarriedDraft;
    use meridian_kit::subject_keys::{Bulk, KeyScope, SubjectKey};
    use uuid::Uuid;
    use zeroize::Zeroizing;

    use super::*;
    use crate::domain::fixtures;

    fn copy(edge: &CompiledEdge) -> Carried {
        let import = KeyScope::Import(edge.id.clone());
        let author = SubjectId(Uuid::now_v7());
        let key = SubjectKey::from_bytes(edge.importer_tenant.clone(), author, import, Zeroizing::new([7; 32]));
        let draft = CarriedDraft {
            id: Uuid::now_v7(),
            kind: "sh.meridian.workout.shared.v1",
            time: "2026-03-04T00:00:00Z".parse().expect("a day"),
            class: edge.class,
            expires: edge.expires,
        };
        let fields = serde_json::json!({"sport_type": "cycling"});
        Carried::sealed(draft, &key, &mut Bulk::of(1), &fields).expect("sealed")
    }

    #[test]
    fn a_batch_is_read_as_it_was_written_in_either_form_however_many_copies_it_has() {
        let edge = fixtures::edge(&["sport_type"]);
        let revision = PolicyRevision(7);
        for count in [0, 1, 3] {
            let copies: Vec<Carried> = (0..count).map(|_| copy(&edge)).collect();
            let whole: Batch = serde_json::from_slice(&Form::Whole.body(&edge, revision, &copies)).expect("a batch");
            assert_eq!((&whole.edge, whole.revision), (&edge.id, revision));
            let read: Vec<Vec<u8>> = whole.events.iter().map(Event::to_bytes).collect();
            let written = copies.iter().cloned().map(as_event(&edge));
            assert_eq!(read, written.map(|event| event.to_bytes()).collect::<Vec<_>>());

            let body = Form::Carried.body(&edge, revision, &copies);
            let expected = (edge.id.clone(), revision, edge.importer_tenant.clone(), copies);
            for read in [serde_json::from_slice(&body).ok(), CarriedBatch::as_written(&body)] {
                let read: CarriedBatch = read.expect("a batch");
                assert_eq!((read.edge, read.revision, read.tenant, read.events), expected);
            }
        }
    }

    #[test]
    fn whatever_is_read_as_it_is_written_is_read_as_json_alike() {
        let edge = fixtures::edge(&["sport_type"]);
        let body = Form::Carried.body(&edge, PolicyRevision(7), &[copy(&edge), copy(&edge)]);
        for place in 0..body.len() {
            for put in [&b""[..], b" ", b"\"", b"\\", b"]}", b",", b"0", b"{}"] {
                let changed = [&body[..place], put, &body[place + 1..]].concat();
                if let Some(read) = CarriedBatch::as_written(&changed) {
                    let json: CarriedBatch = serde_json::from_slice(&changed).expect("a batch");
                    assert_eq!(
                        (read.edge, read.revision, read.tenant, read.events),
                        (json.edge, json.revision, json.tenant, json.events)
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_the_edges_is_a_third_of_a_copy_and_more() {
        let edge = fixtures::edge(&["sport_type"]);
        let copies = [copy(&edge), copy(&edge), copy(&edge)];
        let length = |form: Form| form.body(&edge, PolicyRevision(7), &copies).len();
        assert!(length(Form::Carried) * 3 < length(Form::Whole) * 2);
    }

    #[test]
    fn an_importer_that_says_more_or_nothing_of_what_it_takes_is_understood() {
        let read = |text: &str| serde_json::from_str::<Leased>(text).expect("an answer");
        assert_eq!(read("{}"), Leased::default());
        let unsaid = Leased {
            carried: true,
            copies: None,
        };
        assert_eq!(read(r#"{"carried": true, "more": 3}"#), unsaid);
        let said = Leased {
            copies: Some(3),
            ..unsaid
        };
        assert_eq!(read(r#"{"carried": true, "copies": 3}"#), said);
    }
}
