//! What stands among the dead letters for a copy of another region's event: where it lies, and nothing of what it says.
//! Copies are kept in one place, from which a cut of their edge takes all of them (docs/adr/0029).

use meridian_policy::EdgeId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longer names of topics there are not.
const LONGEST_TOPIC: usize = 64;

/// A copy that could not be handled.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadCopy {
    /// The topic that it came from, by its plain name.
    topic: String,
    /// The partition there.
    partition: i32,
    /// The place in the partition.
    offset: i64,
    /// The event's id.
    event: Uuid,
    /// The edge by which it came.
    edge: EdgeId,
}

/// What makes an event a copy, whatever else of it this version does not understand.
#[derive(Deserialize)]
struct Imported {
    id: Uuid,
    edge: EdgeId,
}

impl DeadCopy {
    /// Of a record that lies there; none of one that is no copy.
    pub(super) fn of(record: &[u8], topic: &str, (partition, offset): (i32, i64)) -> Option<Self> {
        let Imported { id, edge } = serde_json::from_slice(record).ok()?;
        Some(Self {
            topic: topic.to_owned(),
            partition,
            offset,
            event: id,
            edge,
        })
    }

    /// Reads one; none of what is anything else, says more, or is written in another way.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let read: Self = serde_json::from_slice(bytes).ok()?;
        let of_a_name = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || b".-".contains(&letter);
        let named = read.topic.len() <= LONGEST_TOPIC && read.topic.bytes().all(of_a_name);
        (named && read.partition >= 0 && read.offset >= 0 && read.to_bytes() == bytes).then_some(read)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Names and numbers always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The edge by which it came: a record's key that says nothing of a person.
    #[must_use]
    pub const fn edge(&self) -> &EdgeId {
        &self.edge
    }

    /// Where it lies: topic, partition and offset.
    #[must_use]
    pub fn lies_at(&self) -> (&str, i32, i64) {
        (&self.topic, self.partition, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(topic: &str) -> DeadCopy {
        DeadCopy {
            topic: topic.to_owned(),
            partition: 1,
            offset: 7,
            event: Uuid::nil(),
            edge: "stride-eu.workout-summary.us".parse().unwrap(),
        }
    }

    #[test]
    fn it_reads_back_and_says_where_the_copy_lies() {
        let read = DeadCopy::from_bytes(&dead("imports.events").to_bytes()).unwrap();
        assert_eq!(read, dead("imports.events"));
        assert_eq!(read.lies_at(), ("imports.events", 1, 7));
        assert_eq!(read.edge().as_str(), "stride-eu.workout-summary.us");
    }

    #[test]
    fn a_copy_that_is_not_understood_is_one_and_what_came_by_no_edge_is_not() {
        let of = |record: &str| DeadCopy::of(record.as_bytes(), "imports.events", (1, 7));
        let newer = r#"{"specversion":"2.0","id":"00000000-0000-0000-0000-000000000000","edge":"stride-eu.workout-summary.us"}"#;
        assert_eq!(of(newer), Some(dead("imports.events")));
        assert_eq!(of(r#"{"id":"00000000-0000-0000-0000-000000000000"}"#), None);
        assert_eq!(of("not an event"), None);
    }

    #[test]
    fn one_that_says_more_or_otherwise_is_none() {
        let mut spaced = dead("imports.events").to_bytes();
        spaced.push(b' ');
        assert_eq!(DeadCopy::from_bytes(&spaced), None);
        let mut more = serde_json::to_value(dead("imports.events")).unwrap();
        more["name"] = "Ada Lovelace".into();
        assert_eq!(DeadCopy::from_bytes(more.to_string().as_bytes()), None);
        for topic in ["Ada Lovelace ran 12 km", &"x".repeat(LONGEST_TOPIC + 1)] {
            assert_eq!(DeadCopy::from_bytes(&dead(topic).to_bytes()), None);
        }
        let before = DeadCopy {
            offset: -1,
            ..dead("imports.events")
        };
        assert_eq!(DeadCopy::from_bytes(&before.to_bytes()), None);
    }
}
