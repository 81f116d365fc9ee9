//! How long a permit lives, and why nothing starts after a withdrawal was acknowledged.
//!
//! A deliverer may start within `valid_for` of the moment *before* it asked, on its monotonic clock. The permit was opened
//! after that moment, and a withdrawal that follows is committed later still. The withdrawal is acknowledged when each
//! open permit was closed, or [`LIFE`] after its own commit on a monotonic clock, whichever is first. So every start is
//! earlier than the acknowledgement, whatever wall clocks do:
//! start ≤ asked + [`VALID_FOR`] < opened + [`LIFE`] ≤ committed + [`LIFE`] ≤ acknowledged.

use std::time::Duration;

/// The longest that an open permit is waited for.
pub const LIFE: Duration = Duration::from_millis(2000);

/// What a deliverer is told. The difference covers clocks that run at slightly different speeds.
pub const VALID_FOR: Duration = Duration::from_millis(1900);

/// A permit that was opened longer ago by the database's clock cannot be in use, even if that clock was set meanwhile: it
/// was left open by a deliverer that died, and nobody waits for it again.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Whether a withdrawal still has to wait.
#[must_use]
pub fn must_wait(open_permits: bool, since_commit: Duration) -> bool {
    open_permits && since_commit < LIFE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_withdrawal_waits_for_open_permits_and_no_longer_than_they_live() {
        assert!(must_wait(true, Duration::ZERO));
        assert!(!must_wait(false, Duration::ZERO));
        assert!(!must_wait(true, LIFE));
    }

    #[test]
    fn a_deliverer_stops_before_the_withdrawal_does() {
        assert!(VALID_FOR < LIFE && LIFE < FORGOTTEN_AFTER);
    }
}
