//! What this service keeps of a workout: enough for a line in a feed, no place and no heart rate.

use jiff::Timestamp;
use meridian_policy::DataClass;
use serde::{Deserialize, Serialize};

/// The personal part, kept sealed.
#[derive(Clone, Default, Deserialize, PartialEq, Serialize)]
pub struct Summary {
    /// The sport.
    pub sport_type: String,
    /// When it began.
    pub start_time: Option<Timestamp>,
    /// The athlete's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Metres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance_meters: Option<f64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_sec: Option<u32>,
    /// Metres climbed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ascent_meters: Option<f64>,
}

impl std::fmt::Debug for Summary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Summary(…)")
    }
}

/// What others see: the payload of `sh.meridian.workout.shared.v1`, and a line in a feed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Shown {
    /// The sport.
    pub sport_type: String,
    /// Metres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance_meters: Option<f64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_sec: Option<u32>,
    /// Metres climbed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ascent_meters: Option<f64>,
    /// The day, UTC, `2026-11-21`: when somebody is out is nobody's business to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_day: Option<String>,
    /// The athlete's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

impl Shown {
    /// The strictest class among its fields: a title is free text and can say anything.
    #[must_use]
    pub fn class(&self) -> DataClass {
        if self.title.is_some() {
            DataClass::TrainingContent
        } else {
            DataClass::WorkoutSummary
        }
    }
}

impl From<Summary> for Shown {
    fn from(summary: Summary) -> Self {
        let day = |time: Timestamp| time.to_zoned(jiff::tz::TimeZone::UTC).date().to_string();
        Self {
            sport_type: summary.sport_type,
            distance_meters: summary.distance_meters,
            duration_sec: summary.duration_sec,
            ascent_meters: summary.ascent_meters,
            start_day: summary.start_time.map(day),
            title: summary.title,
        }
    }
}

/// Where a workout stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Under way: nobody else sees it.
    Started,
    /// Done.
    Completed,
    /// Given up: nobody else ever sees it.
    Cancelled,
}

impl Status {
    /// The word in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Started, Self::Completed, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_see_the_day_and_not_the_hour() {
        let summary = Summary {
            sport_type: "cycling".to_owned(),
            start_time: Some("2026-11-21T23:30:00Z".parse().unwrap()),
            ..Summary::default()
        };
        let shown = serde_json::to_value(Shown::from(summary)).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({"sport_type": "cycling", "start_day": "2026-11-21"})
        );
    }
}
