//! What an arriving copy is looked at for: the names of its fields, and that none of them has an inside. Their values are
//! nothing to the importer, and are not kept.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The names of a flat object's members.
#[derive(Debug, PartialEq)]
pub(super) struct Flat(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Flat;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a flat object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Flat, A::Error> {
        let mut names = Vec::new();
        while let Some((name, Scalar)) = members.next_entry()? {
            names.push(name);
        }
        Ok(Flat(names))
    }
}

/// A value without an inside, whichever.
struct Scalar;

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl Visitor<'_> for Scalar {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text, a number, a truth value or null")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_flat_object_are_named() {
        let text = r#"{"sport_type": "cy\"cling", "km": 4.5, "count": -3, "large": 18446744073709551615, "day": null, "race": true}"#;
        let flat: Flat = serde_json::from_str(text).unwrap();
        assert_eq!(flat.0, ["sport_type", "km", "count", "large", "day", "race"]);
        assert_eq!(serde_json::from_str::<Flat>("{}").unwrap().0, [""; 0]);
        let twice: Flat = serde_json::from_str(r#"{"km": 4, "km": 5}"#).unwrap();
        assert_eq!(twice.0, ["km", "km"]);
    }

    #[test]
    fn whatever_has_an_inside_or_is_no_object_is_refused() {
        for text in [
            r#"{"a": [1], "a": 1}"#,
            r#"{"a": {"lat": 1}}"#,
            r#"{"a": 1, "b": []}"#,
            "[1]",
            "1",
            "null",
            r#""a""#,
            r#"{"a": 1"#,
        ] {
            assert!(serde_json::from_str::<Flat>(text).is_err(), "{text}");
        }
    }
}
