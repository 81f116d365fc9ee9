//! What a key is for.

use std::fmt;
use std::str::FromStr;

use meridian_policy::EdgeId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a key is for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyScope {
    /// Everything that has no key of its own.
    Personal,
    /// Locations of one month, UTC; destroyed when their retention ends.
    Location {
        /// 2000 to 9999.
        year: i16,
        /// 1 to 12.
        month: i8,
    },
    /// What arrived over an edge, under a key leased by the exporter.
    Import(EdgeId),
}

impl KeyScope {
    /// The location key of the month that a moment is in.
    #[must_use]
    pub fn location_at(time: jiff::Timestamp) -> Self {
        let date = time.to_zoned(jiff::tz::TimeZone::UTC);
        Self::Location {
            year: date.year(),
            month: date.month(),
        }
    }
}

impl fmt::Display for KeyScope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Personal => formatter.write_str("personal"),
            Self::Location { year, month } => write!(formatter, "location-{year:04}-{month:02}"),
            Self::Import(edge) => write!(formatter, "import-{edge}"),
        }
    }
}

/// A text that names no key scope.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a key scope is personal, location-<year>-<month> or import-<edge>")]
pub struct InvalidKeyScope;

impl FromStr for KeyScope {
    type Err = InvalidKeyScope;

    fn from_str(text: &str) -> Result<Self, InvalidKeyScope> {
        if text == "personal" {
            return Ok(Self::Personal);
        }
        if let Some(edge) = text.strip_prefix("import-") {
            return edge.parse().map(Self::Import).map_err(|_| InvalidKeyScope);
        }
        let month = text
            .strip_prefix("location-")
            .and_then(|rest| rest.split_once('-'))
            .ok_or(InvalidKeyScope)?;
        let (year, month) = match month {
            (year, month) if year.len() == 4 && month.len() == 2 => (year.parse(), month.parse()),
            _ => return Err(InvalidKeyScope),
        };
        match (year, month) {
            (Ok(year @ 2000..=9999), Ok(month @ 1..=12)) => Ok(Self::Location { year, month }),
            _ => Err(InvalidKeyScope),
        }
    }
}

impl Serialize for KeyScope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyScope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_back() {
        let scopes = [
            (KeyScope::Personal, "personal"),
            (KeyScope::Location { year: 2026, month: 11 }, "location-2026-11"),
            (
                KeyScope::Import("stride-eu.workout-summary.us".parse().expect("an edge")),
                "import-stride-eu.workout-summary.us",
            ),
        ];
        for (scope, text) in scopes {
            assert_eq!(scope.to_string(), text);
            assert_eq!(text.parse(), Ok(scope));
        }
        for text in [
            "",
            "location-2026-13",
            "location-2026-1",
            "location-26-01",
            "import-",
            "Personal",
        ] {
            assert_eq!(text.parse::<KeyScope>(), Err(InvalidKeyScope), "{text}");
        }
    }
}
