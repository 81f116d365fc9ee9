//! When a FitnessRegion's status is told. A region's policy changes with each of its tenants, and is applied a moment later:
//! a status for every step of that would be most of what a hub of a hundred regions writes, and make Ready blink.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// How long a region that was settled may take to apply a policy before it is said that it has not.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is told that nothing but the revision is another.
const NUMBERS_EVERY: Duration = Duration::from_secs(10);
/// The fields that say so.
const NUMBERS: [&str; 2] = ["revision", "appliedRevision"];

/// What was told of every region, and when.
#[derive(Default)]
pub(crate) struct Pace(Mutex<BTreeMap<String, Entry>>);

#[derive(Default)]
struct Entry {
    /// When the status was told last.
    told: Option<Instant>,
    /// Since when the region has not applied what is written.
    behind: Option<Instant>,
}

impl Pace {
    /// How long the status can wait; none when it is to be told now. `told` is the status as it stands, `behind` whether the
    /// region has not applied what is written.
    pub(super) fn wait(
        &self,
        region: &str,
        (told, status): (&Value, &Value),
        behind: bool,
        now: Instant,
    ) -> Option<Duration> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(region.to_owned()).or_default();
        let left = if behind {
            let since = *entry.behind.get_or_insert(now);
            left_of(PATIENCE, since, now).filter(|_| was_settled(told, status))
        } else {
            entry.behind = None;
            let last = entry.told;
            last.and_then(|last| left_of(NUMBERS_EVERY, last, now))
                .filter(|_| same_but_numbers(told, status))
        };
        if left.is_none() && told != status {
            entry.told = Some(now);
        }
        left
    }

    pub(super) fn forget(&self, region: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(region);
    }
}

fn left_of(limit: Duration, since: Instant, now: Instant) -> Option<Duration> {
    limit
        .checked_sub(now.saturating_duration_since(since))
        .filter(|left| !left.is_zero())
}

/// Whether what is told is that this very generation is Ready.
fn was_settled(told: &Value, status: &Value) -> bool {
    let conditions = told["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    told["observedGeneration"] == status["observedGeneration"] && ready.next().is_some()
}

fn same_but_numbers(told: &Value, status: &Value) -> bool {
    let rest = |of: &Value| {
        let mut of = of.clone();
        if let Some(fields) = of.as_object_mut() {
            NUMBERS.iter().for_each(|number| drop(fields.remove(*number)));
        }
        of
    };
    told != status && rest(told) == rest(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(ready: &str, revision: u64) -> Value {
        json!({"observedGeneration": 1, "revision": revision, "appliedRevision": revision,
            "conditions": [{"type": "Ready", "status": ready}]})
    }

    #[test]
    fn a_region_that_is_a_moment_behind_does_not_blink_and_one_that_stays_behind_is_told_of() {
        let (pace, now) = (Pace::default(), Instant::now());
        let step = (&status("True", 1), &status("False", 2));
        assert_eq!(pace.wait("eu", step, true, now), Some(PATIENCE));
        assert_eq!(
            pace.wait("eu", step, true, now + PATIENCE / 3),
            Some(PATIENCE - PATIENCE / 3)
        );
        assert_eq!(pace.wait("eu", step, true, now + PATIENCE), None);
        // It catches up, which is told at once, and has its patience again.
        let back = (&status("False", 2), &status("True", 2));
        assert_eq!(pace.wait("eu", back, false, now + PATIENCE), None);
        assert_eq!(pace.wait("eu", step, true, now + PATIENCE), Some(PATIENCE));
    }

    #[test]
    fn a_region_that_was_not_ready_or_is_changed_itself_is_told_of_at_once() {
        let (pace, now) = (Pace::default(), Instant::now());
        assert_eq!(
            pace.wait("eu", (&status("False", 1), &status("False", 2)), true, now),
            None
        );
        let mut changed = status("False", 2);
        changed["observedGeneration"] = json!(2);
        assert_eq!(pace.wait("eu", (&status("True", 1), &changed), true, now), None);
    }

    #[test]
    fn a_revision_alone_is_told_now_and_then() {
        let (pace, now) = (Pace::default(), Instant::now());
        let step = |from, to| (status("True", from), status("True", to));
        let (told, next) = step(1, 2);
        assert_eq!(pace.wait("eu", (&told, &next), false, now), None);
        let (told, next) = step(2, 3);
        assert_eq!(pace.wait("eu", (&told, &next), false, now), Some(NUMBERS_EVERY));
        assert_eq!(pace.wait("eu", (&told, &next), false, now + NUMBERS_EVERY), None);
        assert_eq!(
            pace.wait("us", (&told, &next), false, now),
            None,
            "each region for itself"
        );
        pace.forget("eu");
        assert_eq!(pace.wait("eu", (&told, &next), false, now + NUMBERS_EVERY), None);
    }
}
