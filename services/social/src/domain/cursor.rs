//! Where a page of a feed ends: opaque to clients, and nothing in it beyond what they were just shown.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use uuid::Uuid;

/// The last line of a page; the next page begins after it. To the microsecond, which is what the database keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cursor {
    /// When the line entered the feed.
    pub at: Timestamp,
    /// Its id.
    pub id: Uuid,
}

/// Not a cursor that we gave out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the cursor is not one that a page gave: leave it out to begin with the newest")]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}.{}", self.at.as_microsecond(), self.id.simple())
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
        let at = Timestamp::from_microsecond(micros).map_err(|_| InvalidCursor)?;
        Ok(Self {
            at,
            id: Uuid::parse_str(id).map_err(|_| InvalidCursor)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        for micros in [-5_i64, 0, 1_700_000_000_123_456] {
            let cursor = Cursor {
                at: Timestamp::from_microsecond(micros).unwrap(),
                id: Uuid::from_u128(9),
            };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in ["", ".", "12", "zz.00000000000000000000000000000009", "1.9"] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }
}
