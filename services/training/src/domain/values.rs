//! The values of a workout: each parses once at the edge; inside, an invalid one cannot be written down.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// The value is outside what the type allows; the sentence names the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub(crate) String);

/// Identifies a workout and the event stream that records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkoutId(pub Uuid);

impl WorkoutId {
    /// A new id, ordered by time.
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for WorkoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for WorkoutId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text)
            .map(Self)
            .map_err(|_| InvalidValue("a workout id is a UUID".to_owned()))
    }
}

/// How many events a workout's stream holds: 0 before it starts, 1 after `WorkoutStarted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u32);

impl Version {
    /// The version after one more event.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Defines a bounded piece of text: trimmed, not empty, no control characters, at most `$max` characters.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $allowed:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let text = text.trim();
                let allowed: fn(char) -> bool = $allowed;
                if text.is_empty() || text.chars().count() > $max || !text.chars().all(allowed) {
                    return Err(InvalidValue(format!(concat!($what, " is 1 to {} characters", $rule), $max)));
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        // Not the text: an athlete's words must not reach a log by way of `{:?}`.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

text!(
    /// The kind of sport, such as `cycling` or `trail-running`.
    SportType, "a sport type", 40, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_',
    " of a-z, 0-9, - and _"
);
text!(
    /// The recording device's model as it names itself.
    DeviceModel, "a device model", 80, |c| !c.is_control(), " without control characters"
);
text!(
    /// The athlete's own name for the workout.
    Title, "a title", 120, |c| !c.is_control(), " without control characters"
);
text!(
    /// A word that the athlete attaches to a workout.
    Tag, "a tag", 40, |c| c.is_alphanumeric() || c == '-' || c == '_', " of letters, digits, - and _"
);

impl SportType {
    /// What a recording that does not name its sport is filed under.
    pub fn other() -> Self {
        Self("other".to_owned())
    }
}

/// Who may see the workout, where it differs from the athlete's general setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Visibility {
    /// Anyone in the community.
    Everyone,
    /// Those who follow the athlete.
    Followers,
    /// The athlete alone.
    OnlyMe,
}

impl FromStr for Visibility {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "everyone" => Ok(Self::Everyone),
            "followers" => Ok(Self::Followers),
            "only-me" => Ok(Self::OnlyMe),
            _ => Err(InvalidValue(
                "a visibility is everyone, followers or only-me".to_owned(),
            )),
        }
    }
}

/// A measured quantity: finite, not negative, at most [`Quantity::MAX`] of its unit.
pub trait Quantity: Copy {
    /// What it is called in a refusal.
    const NAME: &'static str;
    /// The largest value that is not a faulty reading.
    const MAX: f64;

    /// The quantity of `value` units.
    fn measured(value: f64) -> Result<Self, InvalidValue>;
}

/// Defines a quantity with its unit and bound.
macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $what:literal, $unit:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub struct $name(f64);

        impl $name {
            /// The number of units.
            pub fn value(self) -> f64 {
                self.0
            }
        }

        impl Quantity for $name {
            const NAME: &'static str = $what;
            const MAX: f64 = $max;

            fn measured(value: f64) -> Result<Self, InvalidValue> {
                if value.is_finite() && (0.0..=$max).contains(&value) {
                    Ok(Self(value))
                } else {
                    Err(InvalidValue(format!(concat!($what, " is 0 to {} ", $unit), $max)))
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::measured(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

quantity!(
    /// Metres covered, or climbed.
    Distance, "a distance", "metres", 10_000_000.0
);
quantity!(
    /// Metres per second.
    Speed, "a speed", "metres per second", 150.0
);
quantity!(
    /// Kilocalories burned.
    Calories, "calories", "kilocalories", 100_000.0
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_bounded_and_trimmed() {
        assert_eq!("  cycling ".parse::<SportType>().unwrap().as_str(), "cycling");
        for wrong in ["", "  ", "Cycling", "two words", &"x".repeat(41)] {
            assert!(wrong.parse::<SportType>().is_err(), "{wrong:?} must be refused");
        }
        assert!(
            "evening ride\n".parse::<Title>().is_ok(),
            "surrounding white space is trimmed"
        );
        assert!("evening\nride".parse::<Title>().is_err());
        assert!("vo2max_Übung".parse::<Tag>().is_ok());
        assert!("two words".parse::<Tag>().is_err());
    }

    #[test]
    fn quantities_refuse_what_no_sensor_can_mean() {
        for wrong in [-1.0, f64::NAN, f64::INFINITY, 10_000_001.0] {
            assert!(Distance::measured(wrong).is_err(), "{wrong} must be refused");
        }
        assert_eq!(Distance::measured(42_195.0).unwrap().value(), 42_195.0);
        assert!(serde_json::from_str::<Speed>("151").is_err());
    }

    #[test]
    fn an_athletes_words_are_not_printed() {
        let title: Title = "ride from my flat".parse().unwrap();
        assert_eq!(format!("{title:?}"), "Title(…)");
    }
}
