//! The envelope of events: CloudEvents 1.0, structured JSON, with the attributes that residency needs. The payload is
//! sealed as a whole under the data subject's key, so a topic holds nothing that outlives an erasure.

mod carried;
mod read;
mod written;

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use base64_simd::STANDARD;
use jiff::Timestamp;
use meridian_policy::{DataClass, EdgeId, Epoch, RegionName, TenantId};
use serde::de::{DeserializeOwned, DeserializeSeed, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

pub use self::carried::{Carried, CarriedDraft, OfEdge};
pub use self::read::MemberReader;
pub use self::written::member;
use self::written::{plain, put_base64, put_id, put_time, text};
use crate::ids::SubjectId;
use crate::subject_keys::{Bulk, Create, Error as KeyError, KeyScope, Keyring, Sealed, SubjectKey};

/// The media type of a sealed payload.
pub const SEALED_JSON: &str = "application/vnd.meridian.sealed+json";
/// The largest event on the wire.
pub const EVENT_LIMIT_BYTES: usize = 512 * 1024;
/// About what an event has beside its payload and the texts that may be of any length.
const ENVELOPE_BYTES: usize = 1024;

/// Who writes events: `/regions/<region>/<service>`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventSource {
    region: RegionName,
    text: String,
}

impl EventSource {
    /// A service of a region.
    #[must_use]
    pub fn new(region: RegionName, service: &str) -> Self {
        let text = format!("/regions/{region}/{service}");
        Self { region, text }
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        &self.region
    }
}

impl fmt::Display for EventSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// What is said about an event before it is sealed.
#[derive(Clone, Debug)]
pub struct Draft<'a> {
    /// Its type, like `sh.meridian.workout.completed.v1`.
    pub kind: &'a str,
    /// The id of the stream that it belongs to, like the workout's.
    pub stream: String,
    /// Its place in the stream, from 1.
    pub sequence: u64,
    /// The strictest class among its fields.
    pub class: DataClass,
    /// The epoch of the tenant's home.
    pub epoch: Epoch,
}

/// Where an event came from, when that is another region.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Imported {
    /// The exporting region.
    pub origin: RegionName,
    /// The edge that it came over.
    pub edge: EdgeId,
    /// When it must be gone.
    pub expires: Timestamp,
}

/// An event.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Event {
    specversion: SpecVersion,
    /// Unique, and ordered by time (UUID v7).
    pub id: Uuid,
    /// `/regions/<region>/<service>`.
    pub source: String,
    /// `sh.meridian.<thing>.<what happened>.v<n>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The id of its stream.
    pub subject: String,
    /// When it happened.
    pub time: Timestamp,
    datacontenttype: ContentType,
    #[serde(
        rename = "data_base64",
        serialize_with = "to_base64",
        deserialize_with = "from_base64"
    )]
    sealed: Vec<u8>,
    /// The partition.
    pub tenant: TenantId,
    /// Where it was written.
    pub region: RegionName,
    /// The class of its payload.
    #[serde(rename = "dataclass")]
    pub class: DataClass,
    /// The epoch of the tenant's home.
    pub epoch: Epoch,
    /// Whose data it is.
    #[serde(rename = "datasubject")]
    pub data_subject: SubjectId,
    /// Which of the subject's keys it is sealed under.
    #[serde(rename = "keyscope")]
    pub key_scope: KeyScope,
    /// Its place in its stream.
    pub sequence: u64,
    /// The trace that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The exporting region, on imported events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<RegionName>,
    /// The edge, on imported events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeId>,
    /// When it must be gone, on imported events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
enum SpecVersion {
    #[serde(rename = "1.0")]
    One,
}

impl SpecVersion {
    fn as_str(self) -> &'static str {
        match self {
            Self::One => "1.0",
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
enum ContentType {
    #[serde(rename = "application/vnd.meridian.sealed+json")]
    SealedJson,
}

impl ContentType {
    fn as_str(self) -> &'static str {
        match self {
            Self::SealedJson => SEALED_JSON,
        }
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode_to_string(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_str(Base64)
}

/// Reads base64 where it lies: the payload is most of an event, and a copy of its text is nothing that anybody needs.
struct Base64;

impl Visitor<'_> for Base64 {
    type Value = Vec<u8>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("base64")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
        STANDARD
            .decode_to_vec(text)
            .map_err(|_| E::custom("data_base64 is not base64"))
    }
}

/// Bytes that are not an event of ours.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an event: {0}")]
pub struct NotAnEvent(String);

impl Event {
    /// Makes an event whose payload is sealed under `key`; tenant, subject and key scope are the key's.
    ///
    /// # Errors
    /// When the payload cannot be sealed.
    pub fn sealed<T: Serialize + ?Sized>(
        source: &EventSource,
        draft: Draft<'_>,
        key: &SubjectKey,
        payload: &T,
    ) -> Result<Self, KeyError> {
        Self::sealed_at(source, draft, Uuid::now_v7(), Timestamp::now(), key, payload)
    }

    /// As [`Event::sealed`] with an id and a time of the caller's: an import that must be the same when it is repeated.
    ///
    /// # Errors
    /// When the payload cannot be sealed.
    pub fn sealed_at<T: Serialize + ?Sized>(
        source: &EventSource,
        draft: Draft<'_>,
        id: Uuid,
        time: Timestamp,
        key: &SubjectKey,
        payload: &T,
    ) -> Result<Self, KeyError> {
        let sealed = key.seal_json(&context(id), payload)?.into_bytes();
        Ok(Self {
            specversion: SpecVersion::One,
            id,
            source: source.text.clone(),
            kind: draft.kind.to_owned(),
            subject: draft.stream,
            time,
            datacontenttype: ContentType::SealedJson,
            sealed,
            tenant: key.tenant().clone(),
            region: source.region.clone(),
            class: draft.class,
            epoch: draft.epoch,
            data_subject: key.subject(),
            key_scope: key.scope().clone(),
            sequence: draft.sequence,
            traceparent: crate::trace::current().map(|context| context.traceparent()),
            origin: None,
            edge: None,
            expires: None,
        })
    }

    /// Marks it as come from another region.
    #[must_use]
    pub fn imported(mut self, from: Imported) -> Self {
        self.origin = Some(from.origin);
        self.edge = Some(from.edge);
        self.expires = Some(from.expires);
        self
    }

    /// Opens the payload with the subject's key from the keyring.
    ///
    /// # Errors
    /// [`KeyError::KeyDestroyed`] once the subject was erased; that the keyring cannot be asked; or that it holds
    /// something else.
    pub async fn open<T: DeserializeOwned>(&self, keyring: &Keyring) -> Result<T, KeyError> {
        let key = keyring
            .key(&self.tenant, &self.data_subject, &self.key_scope, Create::No)
            .await?;
        self.open_with(&key)
    }

    /// Opens the payload with a key at hand.
    ///
    /// # Errors
    /// When it is another key's, or it holds something else.
    pub fn open_with<T: DeserializeOwned>(&self, key: &SubjectKey) -> Result<T, KeyError> {
        self.open_as(&mut Bulk::of(1), key, PhantomData)
    }

    /// As [`Event::open_with`], one of many, of which `seed` says what is read.
    ///
    /// # Errors
    /// The same.
    pub fn open_as<T>(
        &self,
        bulk: &mut Bulk,
        key: &SubjectKey,
        seed: impl for<'de> DeserializeSeed<'de, Value = T>,
    ) -> Result<T, KeyError> {
        key.open_json_as(bulk, &context(self.id), &self.sealed, seed)
    }

    /// The sealed payload.
    #[must_use]
    pub fn sealed_payload(&self) -> &[u8] {
        &self.sealed
    }

    /// Whether the payload has the form of something sealed.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        Sealed::is_form_of(&self.sealed)
    }

    /// The bytes for the wire.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length());
        self.write_to(&mut bytes);
        bytes
    }

    /// The bytes for the wire of many events, one after the other in one piece of memory, and where each lies in it.
    #[must_use]
    pub fn all_to_bytes<'a>(events: impl IntoIterator<Item = &'a Self> + Clone) -> (Vec<u8>, Vec<Range<usize>>) {
        let mut bytes = Vec::with_capacity(events.clone().into_iter().map(Self::length).sum());
        let places = events.into_iter().map(|event| {
            let begin = bytes.len();
            event.write_to(&mut bytes);
            begin..bytes.len()
        });
        let places = places.collect();
        (bytes, places)
    }

    /// Writes what [`Serialize`] writes, at less than half its price: the payload is most of an event, and its base64 is put
    /// where it belongs instead of into a text that is then looked through for characters to escape.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        // Whole, so that an attribute which is not written does not compile.
        let Self {
            specversion,
            id,
            source,
            kind,
            subject,
            time,
            datacontenttype,
            sealed,
            tenant,
            region,
            class,
            epoch,
            data_subject,
            key_scope,
            sequence,
            traceparent,
            origin,
            edge,
            expires,
        } = self;
        plain(out, "{\"specversion\":", specversion.as_str());
        put_id(out, ",\"id\":", *id);
        text(out, ",\"source\":", source);
        text(out, ",\"type\":", kind);
        text(out, ",\"subject\":", subject);
        put_time(out, ",\"time\":", *time);
        plain(out, ",\"datacontenttype\":", datacontenttype.as_str());
        out.extend_from_slice(b",\"data_base64\":\"");
        put_base64(out, sealed);
        plain(out, "\",\"tenant\":", tenant.as_str());
        plain(out, ",\"region\":", region.as_str());
        plain(out, ",\"dataclass\":", class.as_str());
        member(out, ",\"epoch\":", epoch);
        put_id(out, ",\"datasubject\":", data_subject.as_uuid());
        member(out, ",\"keyscope\":", key_scope);
        member(out, ",\"sequence\":", sequence);
        if let Some(traceparent) = traceparent {
            text(out, ",\"traceparent\":", traceparent);
        }
        if let Some(origin) = origin {
            plain(out, ",\"origin\":", origin.as_str());
        }
        if let Some(edge) = edge {
            plain(out, ",\"edge\":", edge.as_str());
        }
        if let Some(expires) = expires {
            put_time(out, ",\"expires\":", *expires);
        }
        out.push(b'}');
    }

    /// About how many bytes it has on the wire, rather more than fewer.
    #[must_use]
    pub fn length(&self) -> usize {
        let traceparent = self.traceparent.as_ref().map_or(0, String::len);
        let texts = self.source.len() + self.kind.len() + self.subject.len() + traceparent;
        // In base64, four characters for three bytes.
        self.sealed.len() * 4 / 3 + texts + ENVELOPE_BYTES
    }

    /// Reads bytes that have the members of an event in the order in which [`Self::write_to`] writes them, and nothing else.
    pub(crate) fn as_written(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= EVENT_LIMIT_BYTES).then(|| read::event(bytes)).flatten()
    }

    /// Reads the bytes from the wire.
    ///
    /// # Errors
    /// When they are not an event.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotAnEvent> {
        // Almost all are as we write them, and read at less than what any JSON takes.
        if let Some(event) = Self::as_written(bytes) {
            return Ok(event);
        }
        if bytes.len() > EVENT_LIMIT_BYTES {
            return Err(NotAnEvent(format!("it has {} bytes", bytes.len())));
        }
        serde_json::from_slice(bytes)
            .map_err(|error| NotAnEvent(format!("{:?} error at column {}", error.classify(), error.column())))
    }
}

/// The context that an event's payload is sealed for.
fn context(id: Uuid) -> String {
    ["event:", id.hyphenated().encode_lower(&mut Uuid::encode_buffer())].concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use zeroize::Zeroizing;

    use super::*;

    pub(crate) fn event() -> (Event, SubjectKey) {
        let tenant: TenantId = "stride-eu".parse().expect("a tenant");
        let key = SubjectKey::from_bytes(
            tenant,
            SubjectId(Uuid::nil()),
            KeyScope::Personal,
            Zeroizing::new([7; 32]),
        );
        let draft = Draft {
            kind: "sh.meridian.workout.completed.v1",
            stream: "w-1".to_owned(),
            sequence: 3,
            class: DataClass::WorkoutSummary,
            epoch: Epoch(1),
        };
        let source = EventSource::new("eu".parse().expect("a region"), "training");
        let payload = serde_json::json!({"distance_meters": 4217.5});
        (Event::sealed(&source, draft, &key, &payload).expect("sealed"), key)
    }

    #[test]
    fn an_event_is_a_cloud_event_that_does_not_show_its_payload() {
        let (event, _) = event();
        let json: serde_json::Value = serde_json::from_slice(&event.to_bytes()).expect("JSON");
        assert_eq!(json["specversion"], "1.0");
        assert_eq!(json["source"], "/regions/eu/training");
        assert_eq!(json["type"], "sh.meridian.workout.completed.v1");
        assert_eq!(json["datacontenttype"], SEALED_JSON);
        assert_eq!(
            (&json["dataclass"], &json["epoch"], &json["keyscope"]),
            (&"workout-summary".into(), &1.into(), &"personal".into())
        );
        assert!(!json.to_string().contains("4217"), "{json}");
        assert!(event.is_sealed());
        for name in json.as_object().expect("an object").keys() {
            let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || name == "data_base64";
            assert!(name.bytes().all(allowed), "{name} is no CloudEvents attribute");
        }
    }

    #[test]
    fn an_event_is_written_as_it_serializes_whatever_it_has() {
        let (plain, key) = event();
        let mut odd = plain.clone();
        odd.subject = "a \"quoted\"\n stream".to_owned();
        odd.traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
        let imported = plain.clone().imported(Imported {
            origin: "eu".parse().expect("a region"),
            edge: "stride-eu.workout-summary.us".parse().expect("an edge"),
            expires: "2026-03-04T17:45:12.25Z".parse().expect("a time"),
        });
        let mut events = vec![plain.clone(), odd, imported];
        // Base64 ends in none, one or two signs of padding.
        events.extend((0..4).map(|length| {
            let mut event = plain.clone();
            event.sealed = key.seal("c", &vec![7; length]).expect("sealed").into_bytes();
            event
        }));
        let (bytes, places) = Event::all_to_bytes(&events);
        assert_eq!(places.len(), events.len());
        for (event, place) in events.iter().zip(places) {
            let expected = serde_json::to_string(event).expect("JSON");
            assert_eq!(String::from_utf8_lossy(&bytes[place]), expected);
            assert_eq!(String::from_utf8_lossy(&event.to_bytes()), expected);
            assert_eq!(Event::from_bytes(expected.as_bytes()).as_ref(), Ok(event));
            // Only what has something to unescape is left to a reader of any JSON.
            assert_eq!(read::event(expected.as_bytes()).is_some(), !event.subject.contains('"'));
        }
    }

    #[test]
    fn an_event_reads_back_and_opens_under_its_own_id_only() {
        let (event, key) = event();
        let mut read = Event::from_bytes(&event.to_bytes()).expect("an event");
        assert_eq!(read, event);
        let payload: serde_json::Value = read.open_with(&key).expect("opens");
        assert_eq!(payload["distance_meters"], 4217.5);
        read.id = Uuid::now_v7();
        assert!(matches!(
            read.open_with::<serde_json::Value>(&key),
            Err(KeyError::Unsealable)
        ));
    }

    #[test]
    fn a_payload_in_clear_is_told_from_a_sealed_one() {
        let (event, _) = event();
        let mut json = serde_json::to_value(&event).expect("JSON");
        json["data_base64"] = STANDARD
            .encode_to_string("{\"distance_meters\": 4217.5, \"title\": \"Morning run\"}")
            .into();
        let clear = Event::from_bytes(json.to_string().as_bytes()).expect("an event");
        assert!(!clear.is_sealed());
    }

    #[test]
    fn an_unknown_class_is_no_event() {
        let (event, _) = event();
        let text = String::from_utf8(event.to_bytes())
            .expect("UTF-8")
            .replace("workout-summary", "moods");
        assert!(Event::from_bytes(text.as_bytes()).is_err());
    }
}
