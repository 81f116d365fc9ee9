//! Where a page of the list ends: opaque to clients, and nothing personal in it beyond what they were just shown.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use uuid::Uuid;

use crate::domain::WorkoutId;
use crate::store::Position;

/// The last workout of a page: the next page begins after it. To the microsecond, which is what the database keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor(pub(super) Position);

/// Not a cursor that we gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that a list gave: leave it out to begin with the newest workout")]
pub(super) struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:x}.{}",
            self.0.started_at.as_microsecond(),
            self.0.workout_id.0.simple()
        )
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (micros, id) = text.split_once('.').ok_or(InvalidCursor)?;
        // `{:x}` prints a negative number as its two's complement.
        let micros = u64::from_str_radix(micros, 16)
            .map_err(|_| InvalidCursor)?
            .cast_signed();
        let started_at = Timestamp::from_microsecond(micros).map_err(|_| InvalidCursor)?;
        let workout_id = WorkoutId(Uuid::parse_str(id).map_err(|_| InvalidCursor)?);
        Ok(Self(Position { started_at, workout_id }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_also_from_before_1970() {
        for micros in [-5_i64, 0, 1_700_000_000_123_456] {
            let started_at = Timestamp::from_microsecond(micros).unwrap();
            let cursor = Cursor(Position {
                started_at,
                workout_id: WorkoutId(Uuid::from_u128(9)),
            });
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ".",
            "12",
            "zz.00000000000000000000000000000009",
            "1.9",
            "ffffffffffffffff1.9",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }
}
