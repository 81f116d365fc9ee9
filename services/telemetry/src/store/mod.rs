//! The tables: chunks by month, and summaries of files. It knows rows and sealed bytes, and nothing of what is in them.

mod chunks;
mod months;
mod summaries;

pub use chunks::{Expired, NewChunk, StoredChunk, delete_expired, expired, insert, sealed, stored_samples, track};
pub use months::{drop_month, make_month, months};
pub use summaries::{TrackSummary, put_summary, summary};

use jiff::Timestamp;
use jiff::civil::Date;

use crate::domain::retention::Month;

/// The month that a moment lies in (UTC).
#[must_use]
pub fn month_at(time: Timestamp) -> Month {
    Month::of(time.to_zoned(jiff::tz::TimeZone::UTC).date())
}

/// As PostgreSQL reads it: months have a first day in every year that keys can have (2000 to 9999).
fn first_day(month: Month) -> String {
    month.first_day().unwrap_or(Date::ZERO).to_string()
}

fn parse_month(day: &str) -> Option<Month> {
    day.parse().ok().map(Month::of)
}
