//! By when a law wants whom to be told of a breach of personal data. Data of the jurisdictions, and the end of each term.

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds;

/// A notice that a law demands after a breach of personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreachNotice {
    /// Its name within the jurisdiction, for example `authority`: what a person cites who records that it was given.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// Who is told.
    pub to: NoticeRecipient,
    /// Who that is, by name.
    #[schemars(length(min = 1, max = 200))]
    pub recipient: String,
    /// Where the law says so.
    #[schemars(length(min = 1, max = 120))]
    pub article: String,
    /// The term in the law's own words, as short as they allow.
    #[schemars(length(min = 1, max = 300))]
    pub term: String,
    /// The term as a number. None: the law names none (`as soon as possible`), and none is made up here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<NoticeTerm>,
    /// The moment from which it runs.
    pub from: NoticeStart,
    /// From which risk to the persons on it is owed.
    pub owed_from: BreachRisk,
    /// The official text.
    #[schemars(length(min = 9, max = 300), regex(pattern = r"^https://[^ ]+$"))]
    pub source: String,
    /// In force from; none: it has been for long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::optional_timestamp")]
    pub effective_from: Option<Timestamp>,
    /// In force until.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::optional_timestamp")]
    pub expires: Option<Timestamp>,
}

/// Who is told of a breach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NoticeRecipient {
    /// A public authority.
    Authority,
    /// The persons whose data it is.
    Subjects,
}

/// From when a term runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NoticeStart {
    /// From the moment when the controller is aware that personal data are concerned.
    Awareness,
    /// From the moment when it was noticed, or should have been: a later awareness prolongs nothing.
    Discovery,
}

/// How likely harm to the persons is, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum BreachRisk {
    /// Unlikely to result in a risk to them.
    Unlikely,
    /// A risk.
    Risk,
    /// A high risk.
    High,
}

/// A term as the law counts it: exactly one of the three.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NoticeTerm {
    /// Hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8_784))]
    pub hours: Option<u32>,
    /// Calendar days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 366))]
    pub days: Option<u32>,
    /// Business days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub business_days: Option<BusinessDays>,
}

/// Business days: Monday to Friday. Holidays are not known here and count as business days, which ends a term early, never
/// late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BusinessDays {
    /// How many.
    #[schemars(range(min = 1, max = 90))]
    pub days: u32,
    /// The legal time of the authority, in minutes east of UTC: it says when a Saturday begins.
    #[schemars(range(min = -720, max = 840))]
    pub utc_offset_minutes: i32,
}

impl BreachNotice {
    /// Whether the law wanted it at that moment.
    #[must_use]
    pub fn in_force(&self, at: Timestamp) -> bool {
        self.effective_from.is_none_or(|from| from <= at) && self.expires.is_none_or(|end| at < end)
    }

    /// When the term that began at `start` ends. None where the law names no number.
    #[must_use]
    pub fn due(&self, start: Timestamp) -> Option<Timestamp> {
        self.within.map(|term| term.end(start))
    }
}

impl NoticeTerm {
    /// When the term that began at `start` ends; a term that says nothing ends at once.
    #[must_use]
    pub fn end(&self, start: Timestamp) -> Timestamp {
        let after = |hours: i64| later(start, SignedDuration::from_hours(hours));
        let hours = self.hours.map(|hours| after(i64::from(hours)));
        let days = self.days.map(|days| after(24 * i64::from(days)));
        let business = self.business_days.map(|business| business.end(start));
        // More than one is refused at `apply`; here the first to end counts.
        hours.into_iter().chain(days).chain(business).min().unwrap_or(start)
    }
}

impl BusinessDays {
    /// So many times 24 hours later, of which those of Saturdays and Sundays there do not count. The law counts whole days and
    /// not that of the start, so this is never later than its own end.
    fn end(&self, start: Timestamp) -> Timestamp {
        let offset = Offset::from_seconds(self.utc_offset_minutes.saturating_mul(60)).unwrap_or(Offset::UTC);
        let (mut here, mut left) = (
            offset.to_datetime(start),
            SignedDuration::from_hours(24 * i64::from(self.days)),
        );
        while left.is_positive() {
            let Ok(midnight) = here.date().tomorrow().map(|day| day.at(0, 0, 0, 0)) else {
                return Timestamp::MAX;
            };
            let of_this_day = midnight.duration_since(here);
            let counts = here.date().weekday().to_monday_one_offset() <= 5;
            if counts && left <= of_this_day {
                let end = here
                    .checked_add(left)
                    .ok()
                    .and_then(|end| offset.to_timestamp(end).ok());
                return end.unwrap_or(Timestamp::MAX);
            }
            if counts {
                left -= of_this_day;
            }
            here = midnight;
        }
        start
    }
}

fn later(start: Timestamp, by: SignedDuration) -> Timestamp {
    start.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn ends(term: &NoticeTerm, start: &str, end: &str) {
        assert_eq!(term.end(at(start)), at(end), "{term:?} from {start}");
    }

    #[test]
    fn hours_and_days_run_through_nights_and_weekends() {
        let hours = |hours| NoticeTerm {
            hours: Some(hours),
            ..NoticeTerm::default()
        };
        let days = NoticeTerm {
            days: Some(30),
            ..NoticeTerm::default()
        };
        // A Friday.
        ends(&hours(72), "2026-11-27T20:00:00Z", "2026-11-30T20:00:00Z");
        ends(&hours(6), "2026-11-27T20:00:00Z", "2026-11-28T02:00:00Z");
        ends(&days, "2026-11-27T20:00:00Z", "2026-12-27T20:00:00Z");
    }

    #[test]
    fn business_days_leave_out_saturdays_and_sundays_of_the_place() {
        let three = NoticeTerm {
            business_days: Some(BusinessDays {
                days: 3,
                utc_offset_minutes: -180,
            }),
            ..NoticeTerm::default()
        };
        // Monday noon to Thursday noon, Friday noon to Wednesday noon.
        ends(&three, "2026-11-23T15:00:00Z", "2026-11-26T15:00:00Z");
        ends(&three, "2026-11-27T15:00:00Z", "2026-12-02T15:00:00Z");
        // Saturday in UTC, and still Friday evening there: two hours of the Friday count.
        ends(&three, "2026-11-28T01:00:00Z", "2026-12-03T01:00:00Z");
        // Saturday and Sunday there: it begins with the Monday, at three in the morning in UTC.
        ends(&three, "2026-11-28T12:00:00Z", "2026-12-03T03:00:00Z");
        ends(&three, "2026-11-30T02:59:59Z", "2026-12-03T03:00:00Z");
    }

    #[test]
    fn a_term_without_a_number_has_no_end_and_one_of_several_ends_with_the_first() {
        let several = NoticeTerm {
            hours: Some(72),
            days: Some(1),
            ..NoticeTerm::default()
        };
        ends(&several, "2026-11-27T20:00:00Z", "2026-11-28T20:00:00Z");
        ends(&NoticeTerm::default(), "2026-11-27T20:00:00Z", "2026-11-27T20:00:00Z");
    }
}
