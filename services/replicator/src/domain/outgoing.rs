//! An event becomes what may leave: exactly the edge's fields, a new identity, times no finer than the day.

use std::collections::BTreeSet;

use jiff::Timestamp;
use meridian_policy::condition::Facts;
use meridian_policy::{CompiledEdge, DataClass, Denial, TenantId};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::delivery::PURPOSE;
use super::pseudonym::EdgeKey;

/// A text field longer than this is not a field of a summary.
pub const LONGEST_TEXT: usize = 256;
const SECONDS_OF_A_DAY: i64 = 24 * 60 * 60;

/// The fields that leave along an edge of the events of one type, by the catalogue.
#[derive(Clone, Debug)]
pub struct Leaving<'a> {
    edge: &'a CompiledEdge,
    names: BTreeSet<String>,
}

impl<'a> Leaving<'a> {
    /// Those of the edge's fields that have the edge's class. `class_of` is the catalogue: the class of a field of an event
    /// type; a field that it does not list, or lists under another class, stays.
    pub fn along(edge: &'a CompiledEdge, event_type: &str, class_of: impl Fn(&str, &str) -> Option<DataClass>) -> Self {
        let leaves = |name: &&String| class_of(event_type, name) == Some(edge.class);
        let names = edge.fields.iter().filter(leaves).cloned().collect();
        Self { edge, names }
    }

    /// Their names.
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }
}

/// An event of this region, opened.
#[derive(Clone, Debug)]
pub struct OpenedEvent<'a> {
    /// Whose partition it belongs to.
    pub tenant: &'a TenantId,
    /// Who it is about.
    pub subject: Uuid,
    /// When it happened.
    pub time: Timestamp,
    /// It came from another region.
    pub imported: bool,
    /// Its fields, or as many of them as may leave.
    pub fields: Map<String, Value>,
}

/// What leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// Minted when the delivery was queued, so that a repeated push is recognised; derived from nothing.
    pub id: Uuid,
    /// The class.
    pub class: DataClass,
    /// The author as the importer knows them.
    pub author: Uuid,
    /// The day it happened, at midnight UTC.
    pub day: Timestamp,
    /// When the importer must have deleted it.
    pub expires: Timestamp,
    /// Exactly the edge's fields, as far as the event has them.
    pub fields: Map<String, Value>,
}

/// Why nothing of this event leaves along this edge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    /// The edge is another tenant's.
    #[error("the edge carries data of {tenant}; the event is another tenant's")]
    NotOfThisEdge {
        /// The edge's tenant.
        tenant: TenantId,
    },
    /// The edge may carry nothing now.
    #[error("{0}")]
    NotLawful(#[from] Denial),
    /// It came from another region, whose law it stays under.
    #[error("the event came from another region and may not be passed on")]
    Onward,
    /// No field of it is the edge's.
    #[error("the event has none of the edge's fields")]
    NothingToSend,
}

/// Whether events of this type have anything that `edge` carries, going by the catalogue alone.
pub fn concerns(edge: &CompiledEdge, event_type: &str, class_of: impl Fn(&str, &str) -> Option<DataClass>) -> bool {
    !Leaving::along(edge, event_type, class_of).names.is_empty()
}

/// What of `event` leaves along the edge at `now` under the new id `id`: of its fields those that are `leaving`.
///
/// # Errors
/// Nothing of it may leave.
pub fn prepare(
    event: OpenedEvent<'_>,
    leaving: &Leaving<'_>,
    key: &EdgeKey,
    id: Uuid,
    now: Timestamp,
) -> Result<Outgoing, Withheld> {
    let edge = leaving.edge;
    if *event.tenant != edge.tenant {
        return Err(Withheld::NotOfThisEdge {
            tenant: edge.tenant.clone(),
        });
    }
    edge.lawful_at(now)?;
    if event.imported {
        // Even where this edge allows onward transfer, the origin's edge would have to as well; it is not known here.
        return Err(Withheld::Onward);
    }
    let mut fields = event.fields;
    fields.retain(|name, value| leaving.names.contains(name) && made_plain(value, event.subject));
    if fields.is_empty() {
        return Err(Withheld::NothingToSend);
    }
    if edge.condition.is_some() {
        edge.condition_holds(&Facts {
            edge,
            purpose: PURPOSE,
            fields: &fields.keys().cloned().collect(),
            now,
            // Nobody tells the replicator: a condition that needs to know is not met.
            age: None,
            country: None,
        })?;
    }
    Ok(Outgoing {
        id,
        class: edge.class,
        author: if edge.pseudonymise {
            key.pseudonym(event.subject).0
        } else {
            event.subject
        },
        day: day_of(event.time),
        expires: edge.expires,
        fields,
    })
}

/// Makes of a value one that can hide nothing: a number, a truth value or a short text; a time is cut to its day. False:
/// it stays, like anything with an inside (a list, an object) and anything that names the subject.
fn made_plain(value: &mut Value, subject: Uuid) -> bool {
    match value {
        Value::Bool(_) | Value::Number(_) => true,
        Value::String(text) if text.chars().count() > LONGEST_TEXT || names(text, subject) => false,
        Value::String(text) => {
            if let Some(time) = time_in(text) {
                *text = day_of(time).to_string();
            }
            true
        }
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// A text that is a time. Every time begins with its year, and most texts are none.
fn time_in(text: &str) -> Option<Timestamp> {
    let year = |first: &char| first.is_ascii_digit() || matches!(first, '+' | '-' | '\u{2212}');
    text.chars().next().filter(year)?;
    text.parse().ok()
}

fn names(text: &str, subject: Uuid) -> bool {
    let mut digits = [0; uuid::fmt::Simple::LENGTH];
    let subject = subject.simple().encode_lower(&mut digits).as_bytes();
    let hex = || text.bytes().filter(u8::is_ascii_hexdigit);
    if hex().count() < subject.len() {
        return false;
    }
    let plain: Vec<u8> = hex().map(|digit| digit.to_ascii_lowercase()).collect();
    plain.windows(subject.len()).any(|part| part == subject)
}

/// Midnight UTC of the day of `time`.
pub fn day_of(time: Timestamp) -> Timestamp {
    let second = time.as_second();
    // As a nanosecond below zero belongs to the second before it, so does its day.
    let second = second - i64::from(time.subsec_nanosecond() < 0);
    // Midnight of a representable moment's day is representable but for the very first day of the calendar.
    Timestamp::from_second(second.div_euclid(SECONDS_OF_A_DAY) * SECONDS_OF_A_DAY).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use meridian_policy::Rule;
    use proptest::prelude::*;
    use serde_json::json;
    use zeroize::Zeroizing;

    use super::*;
    use crate::domain::fixtures::{at, edge};

    const SUBJECT: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_00aa);
    const SHARED: &str = "sh.meridian.workout.shared.v1";

    fn key() -> EdgeKey {
        EdgeKey::new(&Zeroizing::new([7; 32]))
    }

    fn event(fields: Value) -> OpenedEvent<'static> {
        static TENANT: LazyLock<TenantId> = LazyLock::new(|| "stride-eu".parse().unwrap());
        let Value::Object(fields) = fields else {
            panic!("fields are an object")
        };
        OpenedEvent {
            tenant: &TENANT,
            subject: SUBJECT,
            time: "2026-03-04T17:45:12Z".parse().unwrap(),
            imported: false,
            fields,
        }
    }

    fn catalogue(event_type: &str, field: &str) -> Option<DataClass> {
        match (event_type, field) {
            (SHARED, "title") => Some(DataClass::TrainingContent),
            (SHARED, "heart") => Some(DataClass::Health),
            (SHARED, "uncatalogued") => None,
            (SHARED, _) => Some(DataClass::WorkoutSummary),
            _ => None,
        }
    }

    fn sent(event: &OpenedEvent<'_>, edge: &CompiledEdge) -> Result<Outgoing, Withheld> {
        let leaving = Leaving::along(edge, SHARED, catalogue);
        prepare(event.clone(), &leaving, &key(), Uuid::from_u128(1), at(0))
    }

    #[test]
    fn exactly_the_edges_fields_leave() {
        let edge = edge(&["sport_type", "distance_meters", "start_day"]);
        let event = event(json!({
            "sport_type": "cycling", "distance_meters": 40_123.5, "duration_sec": 3600, "user_id": SUBJECT,
            "start_day": "2026-03-04",
        }));
        let outgoing = sent(&event, &edge).unwrap();
        assert_eq!(
            Value::Object(outgoing.fields),
            json!({"sport_type": "cycling", "distance_meters": 40_123.5, "start_day": "2026-03-04"})
        );
    }

    #[test]
    fn a_field_of_another_class_stays_even_where_the_edge_names_it() {
        let edge = edge(&["sport_type", "title", "heart", "uncatalogued"]);
        let event = event(json!({"sport_type": "cycling", "title": "t", "heart": 140, "uncatalogued": 1}));
        let names: Vec<String> = sent(&event, &edge).unwrap().fields.keys().cloned().collect();
        assert_eq!(names, ["sport_type"]);
    }

    #[test]
    fn an_edge_concerns_the_event_types_that_have_a_field_of_its_class() {
        assert!(concerns(&edge(&["title", "sport_type"]), SHARED, catalogue));
        assert!(!concerns(&edge(&["title", "heart"]), SHARED, catalogue));
        assert!(!concerns(
            &edge(&["sport_type"]),
            "sh.meridian.friend.added.v1",
            catalogue
        ));
    }

    #[test]
    fn times_are_cut_to_the_day() {
        let edge = edge(&["start_time"]);
        let outgoing = sent(&event(json!({"start_time": "2026-03-04T17:45:12.5+01:00"})), &edge).unwrap();
        assert_eq!(outgoing.fields["start_time"], json!("2026-03-04T00:00:00Z"));
        assert_eq!(outgoing.day.to_string(), "2026-03-04T00:00:00Z");
    }

    #[test]
    fn what_could_hide_something_stays() {
        let edge = edge(&["a", "b", "c", "d", "e", "f"]);
        let event = event(json!({
            "a": {"lat": 1}, "b": [1], "c": null, "d": "x".repeat(LONGEST_TEXT + 1),
            "e": format!("by {}", SUBJECT.simple()), "f": 1,
        }));
        let names: Vec<String> = sent(&event, &edge).unwrap().fields.keys().cloned().collect();
        assert_eq!(names, ["f"]);
    }

    #[test]
    fn the_table_of_refusals() {
        let open = edge(&["sport_type"]);
        let body = json!({"sport_type": "cycling"});
        let mut foreign = event(body.clone());
        let other = "stride-us".parse().unwrap();
        foreign.tenant = &other;
        let mut imported = event(body.clone());
        imported.imported = true;
        let mut ended = open.clone();
        ended.expires = at(0);
        let mut later = open.clone();
        later.effective_from = at(1);

        assert!(matches!(sent(&foreign, &open), Err(Withheld::NotOfThisEdge { .. })));
        assert_eq!(sent(&imported, &open), Err(Withheld::Onward));
        assert_eq!(
            sent(&event(json!({"duration_sec": 1})), &open),
            Err(Withheld::NothingToSend)
        );
        let rule = |edge: &CompiledEdge| match sent(&event(body.clone()), edge) {
            Err(Withheld::NotLawful(denial)) => denial.rule,
            other => panic!("{other:?}"),
        };
        assert_eq!(rule(&ended), Rule::MechanismExpired);
        assert_eq!(rule(&later), Rule::MechanismNotInForce);
    }

    #[test]
    fn the_author_leaves_as_a_pseudonym_unless_the_edge_says_otherwise() {
        let mut edge = edge(&["sport_type"]);
        let event = event(json!({"sport_type": "cycling"}));
        assert_eq!(sent(&event, &edge).unwrap().author, key().pseudonym(SUBJECT).0);
        edge.pseudonymise = false;
        assert_eq!(sent(&event, &edge).unwrap().author, SUBJECT);
    }

    #[test]
    fn a_text_is_a_time_when_it_reads_as_one_and_names_the_subject_in_any_spelling() {
        for time in [
            "2026-03-04T17:45:12Z",
            "+002026-03-04T17:45:12Z",
            "-000001-03-04T17:45:12Z",
        ] {
            assert_eq!(time_in(time), Some(time.parse().unwrap()), "{time}");
        }
        for text in ["", "cycling", "5 km", "-", "zu 2026-03-04T17:45:12Z"] {
            assert_eq!(time_in(text), None, "{text}");
        }
        let spelled = SUBJECT.hyphenated().to_string().to_uppercase();
        for text in [spelled.clone(), format!("ä-{spelled}"), SUBJECT.urn().to_string()] {
            assert!(names(&text, SUBJECT), "{text}");
        }
        assert!(!names(&spelled, Uuid::from_u128(1)));
        assert!(!names(&spelled[..spelled.len() - 1], SUBJECT));
    }

    #[test]
    fn the_first_day_of_the_calendar_has_no_midnight() {
        assert_eq!(day_of(Timestamp::MIN), Timestamp::UNIX_EPOCH);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,20}".prop_map(Value::from),
            Just(Value::from(SUBJECT.to_string())),
            Just(Value::from("2026-03-04T17:45:12Z")),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::hash_map("[a-z]{1,4}", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_text_is_a_time_exactly_when_it_parses(
            text in "\\PC{0,12}|[-+ ]?[0-9]{4,6}-0[1-9]-1[0-9][Tt ]1[0-9]:[0-5][0-9](:00)?(Z|z|[+-]0[0-9]:00)?"
        ) {
            prop_assert_eq!(time_in(&text), text.parse().ok());
        }

        #[test]
        fn a_day_begins_at_midnight_whenever_in_it(second in -99_999_999_999_i64..99_999_999_999, nano in 0_i32..1_000_000_000) {
            let time = Timestamp::from_second(second).unwrap() + jiff::SignedDuration::from_nanos(nano.into());
            let midnight = time.to_zoned(jiff::tz::TimeZone::UTC).start_of_day().unwrap().timestamp();
            prop_assert_eq!(day_of(time), midnight);
        }

        /// Whatever the event holds and whatever the edge names:
        #[test]
        fn never_a_field_outside_the_edges_and_never_the_subject(
            fields in proptest::collection::btree_map("[a-f]{1,2}", any_value(), 0..8),
            named in proptest::collection::btree_set("[a-f]{1,2}", 0..6),
        ) {
            let mut edge = edge(&[]);
            edge.fields = named.clone();
            let event = event(Value::Object(fields.into_iter().collect()));
            let Ok(outgoing) = sent(&event, &edge) else { return Ok(()) };
            let names: BTreeSet<String> = outgoing.fields.keys().cloned().collect();
            prop_assert!(names.is_subset(&named), "{names:?} left, {named:?} may");
            let text = serde_json::to_string(&outgoing.fields).unwrap();
            prop_assert!(!text.contains(&SUBJECT.to_string()) && !text.contains("17:45"));
            prop_assert!(outgoing.fields.values().all(|value| !value.is_object() && !value.is_array()));
            prop_assert_ne!(outgoing.author, SUBJECT);
        }
    }
}
