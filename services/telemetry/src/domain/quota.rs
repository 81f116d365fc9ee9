//! How much one athlete may send: a token bucket, counted in samples.

use std::time::Duration;

/// What a bucket admits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// Samples per second in the long run.
    pub per_second: f64,
    /// Samples at once, after a time of silence.
    pub burst: f64,
}

/// One athlete's bucket. Times are of any monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Bucket {
    /// Full.
    #[must_use]
    pub fn full(quota: &Quota, now: Duration) -> Self {
        Self {
            tokens: quota.burst,
            at: now,
        }
    }

    fn filled(&self, quota: &Quota, now: Duration) -> f64 {
        (self.tokens + now.saturating_sub(self.at).as_secs_f64() * quota.per_second).min(quota.burst)
    }

    /// Takes `samples` out, or says how long to wait until they are there. A batch larger than the burst is admitted by a
    /// full bucket and leaves a debt, so that no batch can never be sent.
    ///
    /// # Errors
    /// The time to wait.
    pub fn take(&mut self, quota: &Quota, samples: f64, now: Duration) -> Result<(), Duration> {
        let tokens = self.filled(quota, now);
        let needed = samples.min(quota.burst);
        // A billionth of a sample is the clock's rounding, not a sample.
        if tokens + 1e-9 >= needed {
            *self = Self {
                tokens: tokens - samples,
                at: now,
            };
            return Ok(());
        }
        Err(Duration::try_from_secs_f64((needed - tokens) / quota.per_second).unwrap_or(Duration::MAX))
    }

    /// Whether forgetting the bucket changes nothing.
    #[must_use]
    pub fn is_full(&self, quota: &Quota, now: Duration) -> bool {
        self.filled(quota, now) >= quota.burst
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUOTA: Quota = Quota {
        per_second: 10.0,
        burst: 100.0,
    };

    #[test]
    fn a_burst_is_admitted_once_and_then_the_rate() {
        let mut bucket = Bucket::full(&QUOTA, Duration::ZERO);
        assert_eq!(bucket.take(&QUOTA, 100.0, Duration::ZERO), Ok(()));
        assert_eq!(bucket.take(&QUOTA, 20.0, Duration::ZERO), Err(Duration::from_secs(2)));
        assert_eq!(bucket.take(&QUOTA, 20.0, Duration::from_secs(2)), Ok(()));
    }

    #[test]
    fn a_batch_larger_than_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() {
        let mut bucket = Bucket::full(&QUOTA, Duration::ZERO);
        assert_eq!(bucket.take(&QUOTA, 150.0, Duration::ZERO), Ok(()));
        assert_eq!(bucket.take(&QUOTA, 10.0, Duration::ZERO), Err(Duration::from_secs(6)));
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate(batches in prop::collection::vec((1.0..60.0_f64, 0..5_000_u64), 1..80)) {
            let mut bucket = Bucket::full(&QUOTA, Duration::ZERO);
            let (mut now, mut admitted) = (Duration::ZERO, 0.0);
            for (samples, pause) in batches {
                now += Duration::from_millis(pause);
                if bucket.take(&QUOTA, samples, now).is_ok() {
                    admitted += samples;
                }
            }
            prop_assert!(admitted <= QUOTA.burst + QUOTA.per_second * now.as_secs_f64() + 1e-6);
        }
    }
}
