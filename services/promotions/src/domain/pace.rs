//! How soon a delivery that could not be tried is tried again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

/// The pause after the `attempts`-th attempt, counted from 1: doubles, up to half a minute.
#[must_use]
pub fn pause(attempts: u32) -> Duration {
    let doubled = attempts.saturating_sub(1).min(16);
    (FIRST * 2_u32.pow(doubled)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        let pauses: Vec<u128> = [0, 1, 2, 3, 7, 8, 1_000, u32::MAX]
            .map(|n| pause(n).as_millis())
            .to_vec();
        assert_eq!(pauses, [250, 250, 500, 1_000, 16_000, 30_000, 30_000, 30_000]);
    }
}
