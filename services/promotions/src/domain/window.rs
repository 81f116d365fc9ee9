//! The time in which a permit lets a delivery start, measured from *before* the permit was asked for: the permit was
//! opened later than that moment, so whatever fits into the window was permitted when it started.

use std::time::{Duration, Instant};

/// What is kept in hand for the commit itself.
const MARGIN: Duration = Duration::from_millis(300);

/// A permit's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    asked: Instant,
    valid_for: Duration,
}

impl Window {
    /// The window of a permit that was asked for at `asked` and is valid for `valid_for` from then on.
    #[must_use]
    pub fn new(asked: Instant, valid_for: Duration) -> Self {
        Self { asked, valid_for }
    }

    /// The window in which both permits are valid.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (first, second) = if self.asked + self.valid_for <= other.asked + other.valid_for {
            (self, other)
        } else {
            (other, self)
        };
        // The earlier end, counted from the earlier question.
        let asked = first.asked.min(second.asked);
        Self {
            asked,
            valid_for: first.asked + first.valid_for - asked,
        }
    }

    /// The time left at `now`, less a margin; `None` once nothing may start.
    #[must_use]
    pub fn left(self, now: Instant) -> Option<Duration> {
        let end = self.asked + self.valid_for.saturating_sub(MARGIN);
        end.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: Duration = Duration::from_millis(1_900);

    #[test]
    fn nothing_starts_once_the_window_less_its_margin_is_over() {
        let asked = Instant::now();
        let window = Window::new(asked, VALID);
        assert_eq!(window.left(asked), Some(Duration::from_millis(1_600)));
        assert_eq!(
            window.left(asked + Duration::from_millis(1_599)),
            Some(Duration::from_millis(1))
        );
        assert_eq!(window.left(asked + Duration::from_millis(1_600)), None);
    }

    #[test]
    fn an_answer_that_took_as_long_as_the_permit_lives_permits_nothing() {
        let asked = Instant::now();
        assert_eq!(Window::new(asked, VALID).left(asked + VALID), None);
        assert_eq!(Window::new(asked, MARGIN).left(asked), None);
        assert_eq!(Window::new(asked, Duration::ZERO).left(asked), None);
    }

    #[test]
    fn of_two_permits_the_one_that_ends_first_counts() {
        let asked = Instant::now();
        let later = asked + Duration::from_millis(500);
        let (long, short) = (
            Window::new(asked, VALID),
            Window::new(later, Duration::from_millis(700)),
        );
        for both in [long.and(short), short.and(long)] {
            assert_eq!(both.left(later), Some(Duration::from_millis(400)));
            assert_eq!(both.left(later + Duration::from_millis(400)), None);
        }
        assert_eq!(long.and(Window::new(later, VALID)).left(asked), long.left(asked));
    }
}
