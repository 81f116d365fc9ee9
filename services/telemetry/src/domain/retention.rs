//! Which months of coordinates have to go.
//!
//! A chunk belongs to the month in which it was received: its key, its partition and its retention are that month's. Time
//! counts from receipt, since that is when we began to hold the data; the recording itself may be years older.

use jiff::civil::Date;

/// A calendar month (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    /// Year.
    pub year: i16,
    /// 1 to 12.
    pub month: i8,
}

impl Month {
    /// The month that a day lies in.
    #[must_use]
    pub fn of(day: Date) -> Self {
        Self {
            year: day.year(),
            month: day.month(),
        }
    }

    /// The next month.
    #[must_use]
    pub fn next(self) -> Self {
        if self.month == 12 {
            Self {
                year: self.year + 1,
                month: 1,
            }
        } else {
            Self {
                month: self.month + 1,
                ..self
            }
        }
    }

    /// Its first day; none beyond the calendar's end.
    #[must_use]
    pub fn first_day(self) -> Option<Date> {
        Date::new(self.year, self.month, 1).ok()
    }

    /// Whether everything received in this month has been held for `days` on `today`: its last day is that old.
    #[must_use]
    pub fn is_expired(self, days: u32, today: Date) -> bool {
        let ended = self.next().first_day();
        let gone = ended.and_then(|ended| {
            ended
                .checked_add(jiff::Span::new().try_days(i64::from(days)).ok()?)
                .ok()
        });
        gone.is_some_and(|gone| gone <= today)
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn a_month_expires_when_its_last_day_has() {
        let month = Month { year: 2026, month: 2 };
        assert!(!month.is_expired(30, date(2026, 3, 30)));
        assert!(month.is_expired(30, date(2026, 3, 31)));
        assert!(!month.is_expired(183, date(2026, 8, 30)));
        assert!(month.is_expired(183, date(2026, 8, 31)));
    }

    #[test]
    fn december_is_followed_by_january() {
        assert_eq!(Month { year: 2026, month: 12 }.next(), Month { year: 2027, month: 1 });
    }

    #[test]
    fn an_endless_retention_never_expires() {
        assert!(!Month { year: 2026, month: 1 }.is_expired(u32::MAX, date(9999, 12, 31)));
    }
}
