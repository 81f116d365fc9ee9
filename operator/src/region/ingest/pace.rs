//! When a pool is looked at and when its numbers are told. Pure.
//!
//! Kafka is asked by the clock alone: a pass that a watch asked for in between (its own status, a pod that became ready)
//! goes by the last look, since rates over a moment mean nothing. Numbers that move all the time are told less often than
//! they are seen, so that traffic costs the API servers no more than they did at a slower pace.

use super::observe::Flow;
use super::scale::Decision;
use std::time::Duration;
use tokio::time::Instant;

/// How often a pool with traffic is looked at: a backlog is met with more writers after two looks.
pub const BUSY: Duration = Duration::from_secs(1);
/// The same while nothing arrives and nothing waits.
pub const IDLE: Duration = Duration::from_secs(2);
/// How old the numbers in status may be while they are the only thing that changes.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// What a look showed, and what was decided from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// What it showed.
    pub flow: Flow,
    /// What follows from it.
    pub decision: Decision,
}

impl Look {
    /// How long after `now` the next look is due; nothing when it is.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Duration> {
        let idle = self.flow.lag == 0 && self.flow.arrival_rate <= 0.0 && self.flow.drain_rate <= 0.0;
        let after = if idle { IDLE } else { BUSY };
        after
            .checked_sub(now.saturating_duration_since(self.at))
            .filter(|left| !left.is_zero())
    }

    /// The look whose numbers are told, when `told` is the last one that was: a new decision is told at once.
    #[must_use]
    pub fn to_tell(self, told: Option<Self>) -> Self {
        told.filter(|told| told.decision == self.decision && self.at.saturating_duration_since(told.at) < TELL_EVERY)
            .unwrap_or(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, lag: u64, arrival_rate: f64, desired: u32) -> Look {
        Look {
            at,
            flow: Flow {
                lag,
                arrival_rate,
                drain_rate: 0.0,
            },
            decision: Decision {
                desired,
                capped_by: None,
            },
        }
    }

    #[test]
    fn a_pool_is_looked_at_more_often_while_there_is_traffic() {
        let now = Instant::now();
        assert_eq!(look(now, 0, 0.0, 1).next(now), Some(IDLE));
        assert_eq!(look(now, 0, 5.0, 1).next(now), Some(BUSY));
        assert_eq!(look(now, 5, 0.0, 1).next(now), Some(BUSY));
    }

    #[test]
    fn a_pass_between_two_looks_goes_by_the_last_one() {
        let then = Instant::now();
        let busy = look(then, 5, 5.0, 1);
        let after = |millis| busy.next(then + Duration::from_millis(millis));
        assert_eq!(after(100), Some(Duration::from_millis(900)));
        assert_eq!(after(1000), None);
        assert_eq!(after(5000), None);
    }

    #[test]
    fn numbers_are_told_every_few_seconds_and_a_decision_at_once() {
        let then = Instant::now();
        let told = look(then, 5, 5.0, 1);
        let second = |seconds, desired| look(then + Duration::from_secs(seconds), 9, 9.0, desired);
        assert_eq!(second(2, 1).to_tell(Some(told)), told);
        assert_eq!(second(3, 1).to_tell(Some(told)), second(3, 1));
        assert_eq!(second(2, 2).to_tell(Some(told)), second(2, 2));
        assert_eq!(second(0, 1).to_tell(None), second(0, 1));
    }
}
