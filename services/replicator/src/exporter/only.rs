//! What an opened event is looked at for: the fields that may leave. The others are skipped, and neither kept nor checked.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// The members of an object that have these names.
pub(super) struct Only<'a>(pub(super) &'a BTreeSet<String>);

impl<'de> DeserializeSeed<'de> for Only<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Only<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = members.next_key_seed(Name(self.0))? {
            if let Some(name) = name {
                fields.insert(name.clone(), members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}

/// A member's name, if it is one of these.
struct Name<'a>(&'a BTreeSet<String>);

impl<'de, 'a> DeserializeSeed<'de> for Name<'a> {
    type Value = Option<&'a String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Name<'a> {
    type Value = Option<&'a String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a member's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.get(name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_another_name_is_not_read_however_it_is_made() {
        let names = ["sport_type", "title"].map(str::to_owned).into();
        let read = |text: &str| Only(&names).deserialize(&mut serde_json::Deserializer::from_str(text));
        let object = r#"{"lap": [{"title": 1}], "sport_type": "cycling", "note": "a \"b\"", "heart": null}"#;
        assert_eq!(Value::Object(read(object).unwrap()), json!({"sport_type": "cycling"}));
        let escaped = r#"{"t\u0069tle": "a", "sport_type": {"a": [1]}}"#;
        assert_eq!(
            Value::Object(read(escaped).unwrap()),
            json!({"title": "a", "sport_type": {"a": [1]}})
        );
        for other in ["[]", "\"title\"", "1", "{\"title\": }"] {
            assert!(read(other).is_err(), "{other}");
        }
    }
}
