//! Events as they cross a border.

use jiff::Timestamp;
use meridian_policy::{DataClass, EdgeId, Epoch, TenantId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::written::{plain, put_base64, put_id, put_time, text};
use super::{
    ContentType, ENVELOPE_BYTES, Event, EventSource, MemberReader, SpecVersion, context, from_base64, to_base64,
};
use crate::ids::SubjectId;
use crate::subject_keys::{Bulk, Error as KeyError, KeyScope, SubjectKey};

/// What an event that goes over an edge says for itself; the rest is as both ends know the edge ([`OfEdge`]). On the wire it
/// has the names that it has in an event.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    id: Uuid,
    #[serde(rename = "type")]
    kind: String,
    time: Timestamp,
    #[serde(rename = "dataclass")]
    class: DataClass,
    #[serde(rename = "datasubject")]
    data_subject: SubjectId,
    expires: Timestamp,
    #[serde(
        rename = "data_base64",
        serialize_with = "to_base64",
        deserialize_with = "from_base64"
    )]
    sealed: Vec<u8>,
}

/// What is said about such an event before it is sealed.
#[derive(Clone, Copy, Debug)]
pub struct CarriedDraft<'a> {
    /// Its id: the same when it is repeated.
    pub id: Uuid,
    /// Its type.
    pub kind: &'a str,
    /// When it happened, as far as the importer is told.
    pub time: Timestamp,
    /// The strictest class among its fields.
    pub class: DataClass,
    /// When the importer must have deleted it.
    pub expires: Timestamp,
}

/// What all events that come over an edge have in common.
#[derive(Clone, Copy, Debug)]
pub struct OfEdge<'a> {
    /// Who exports.
    pub source: &'a EventSource,
    /// To whom.
    pub tenant: &'a TenantId,
    /// Over which edge.
    pub edge: &'a EdgeId,
    /// The edge's epoch.
    pub epoch: Epoch,
}

impl Carried {
    /// Seals a payload for the edge; whose data it is says the key.
    ///
    /// # Errors
    /// When the payload cannot be sealed.
    pub fn sealed<T: Serialize + ?Sized>(
        draft: CarriedDraft<'_>,
        key: &SubjectKey,
        bulk: &mut Bulk,
        payload: &T,
    ) -> Result<Self, KeyError> {
        Ok(Self {
            id: draft.id,
            kind: draft.kind.to_owned(),
            time: draft.time,
            class: draft.class,
            data_subject: key.subject(),
            expires: draft.expires,
            sealed: key.seal_json_with(bulk, &context(draft.id), payload)?.into_bytes(),
        })
    }

    /// The whole event: a stream of its own, without a trace.
    #[must_use]
    pub fn over(self, edge: OfEdge<'_>) -> Event {
        let OfEdge {
            source,
            tenant,
            edge,
            epoch,
        } = edge;
        Event {
            specversion: SpecVersion::One,
            id: self.id,
            source: source.text.clone(),
            kind: self.kind,
            subject: self.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned(),
            time: self.time,
            datacontenttype: ContentType::SealedJson,
            sealed: self.sealed,
            tenant: tenant.clone(),
            region: source.region.clone(),
            class: self.class,
            epoch,
            data_subject: self.data_subject,
            key_scope: KeyScope::Import(edge.clone()),
            sequence: 1,
            traceparent: None,
            origin: Some(source.region.clone()),
            edge: Some(edge.clone()),
            expires: Some(self.expires),
        }
    }

    /// Reads what [`Self::write_to`] writes, in front of whatever comes after it. None: it is written otherwise, if it is one.
    pub fn read_from(reader: &mut MemberReader<'_>) -> Option<Self> {
        let carried = Self {
            id: reader.parsed("{\"id\":")?,
            kind: reader.text(",\"type\":")?.to_owned(),
            time: reader.parsed(",\"time\":")?,
            class: reader.parsed(",\"dataclass\":")?,
            data_subject: SubjectId(reader.parsed(",\"datasubject\":")?),
            expires: reader.parsed(",\"expires\":")?,
            sealed: reader.base64(",\"data_base64\":")?,
        };
        reader.past("}")?;
        Some(carried)
    }

    /// Writes what [`Serialize`] writes, as [`Event::write_to`] does.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let Self {
            id,
            kind,
            time,
            class,
            data_subject,
            expires,
            sealed,
        } = self;
        put_id(out, "{\"id\":", *id);
        text(out, ",\"type\":", kind);
        put_time(out, ",\"time\":", *time);
        plain(out, ",\"dataclass\":", class.as_str());
        put_id(out, ",\"datasubject\":", data_subject.as_uuid());
        put_time(out, ",\"expires\":", *expires);
        out.extend_from_slice(b",\"data_base64\":\"");
        put_base64(out, sealed);
        out.extend_from_slice(b"\"}");
    }

    /// About how many bytes it has on the wire, also as a whole event; rather more than fewer.
    #[must_use]
    pub fn length(&self) -> usize {
        self.sealed.len() * 4 / 3 + self.kind.len() + ENVELOPE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    const EDGE: &str = "stride-eu.workout-summary.us";

    fn carried(payload: &str) -> (Carried, SubjectKey) {
        let key = SubjectKey::from_bytes(
            "stride-us".parse().expect("a tenant"),
            SubjectId(Uuid::now_v7()),
            KeyScope::Import(EDGE.parse().expect("an edge")),
            Zeroizing::new([7; 32]),
        );
        let draft = CarriedDraft {
            id: Uuid::now_v7(),
            kind: "sh.meridian.workout.shared.v1",
            time: "2026-03-04T00:00:00Z".parse().expect("a day"),
            class: DataClass::WorkoutSummary,
            expires: "2027-03-04T17:45:12.25Z".parse().expect("a time"),
        };
        let sealed = Carried::sealed(draft, &key, &mut Bulk::of(1), payload).expect("sealed");
        (sealed, key)
    }

    #[test]
    fn what_is_carried_is_written_as_it_serializes() {
        // Base64 ends in none, one or two signs of padding.
        for payload in ["", "1", "12", "123"] {
            let (carried, _) = carried(payload);
            let mut bytes = Vec::new();
            carried.write_to(&mut bytes);
            let text = String::from_utf8(bytes).expect("UTF-8");
            assert_eq!(text, serde_json::to_string(&carried).expect("JSON"));
            assert!(text.len() <= carried.length(), "{}", text.len());
            assert_eq!(serde_json::from_str::<Carried>(&text).expect("read"), carried);
            assert_eq!(
                Carried::read_from(&mut MemberReader::new(text.as_bytes())),
                Some(carried)
            );
        }
    }

    #[test]
    fn what_is_carried_becomes_an_event_that_opens_under_its_key() {
        let (carried, key) = carried("a ride");
        let edge: EdgeId = EDGE.parse().expect("an edge");
        let source = EventSource::new("eu".parse().expect("a region"), "replicator");
        let event = carried.clone().over(OfEdge {
            source: &source,
            tenant: key.tenant(),
            edge: &edge,
            epoch: Epoch(4),
        });
        assert_eq!(event.open_with::<String>(&key).expect("opens"), "a ride");
        let json = serde_json::to_value(&event).expect("JSON");
        assert_eq!(
            (&json["source"], &json["origin"], &json["edge"], &json["keyscope"]),
            (
                &"/regions/eu/replicator".into(),
                &"eu".into(),
                &EDGE.into(),
                &format!("import-{EDGE}").into()
            )
        );
        assert!(event.to_bytes().len() <= carried.length());
    }
}
