//! How races are counted and reported.

use crate::report::{Bound, Metric};

/// A count of races.
#[expect(clippy::cast_precision_loss, reason = "a few million races")]
pub fn count(name: &str, count: usize, bound: Bound) -> Metric {
    Metric::own(name, count as f64, "", bound)
}

/// That there are to be so many.
#[expect(clippy::cast_precision_loss, reason = "a few million races")]
pub fn at_least(count: usize) -> Bound {
    Bound::AtLeast(count as f64)
}
