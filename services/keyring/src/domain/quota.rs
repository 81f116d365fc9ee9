//! How fast one calling service may ask: a token bucket per service and operation.
//!
//! A stolen service certificate must not be able to empty the keyring in a minute, and a service that retries in a
//! loop must not starve the others.

use std::time::{Duration, Instant};

/// A bucket that refills steadily and never holds more than its burst.
#[derive(Debug, Clone)]
pub struct Quota {
    per_second: f64,
    burst: f64,
    tokens: f64,
    last: Instant,
}

impl Quota {
    /// A full bucket. `per_second` tokens flow in each second, up to `burst`.
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self {
            per_second: f64::from(per_second),
            burst: f64::from(burst),
            tokens: f64::from(burst),
            last: now,
        }
    }

    /// Takes `amount` tokens, or says how long to wait until they are there.
    pub fn take(&mut self, amount: u32, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.last).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst);
        self.last = self.last.max(now);
        let amount = f64::from(amount);
        if amount <= self.tokens {
            self.tokens -= amount;
            return Ok(());
        }
        Err(Duration::from_secs_f64((amount - self.tokens) / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_served_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut quota = Quota::new(10, 20, start);
        assert_eq!(quota.take(20, start), Ok(()));
        let wait = quota.take(5, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        assert_eq!(quota.take(5, start + wait), Ok(()));
    }

    #[test]
    fn a_long_pause_saves_up_no_more_than_the_burst() {
        let start = Instant::now();
        let mut quota = Quota::new(10, 20, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(quota.take(20, later), Ok(()));
        assert!(quota.take(1, later).is_err());
    }

    #[test]
    fn a_clock_reading_from_before_the_last_one_gives_nothing() {
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        let mut quota = Quota::new(1, 1, start);
        assert_eq!(quota.take(1, later), Ok(()));
        assert!(quota.take(1, start).is_err());
    }
}
