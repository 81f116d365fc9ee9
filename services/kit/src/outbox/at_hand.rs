//! Events that were just committed to the outbox, kept until the relay of the same process has sent them, which is a moment
//! later: what is in memory need not be read out of the table again. The table alone says what waits and in which order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Bytes kept at most. What comes later is read from the table.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// Events that one transaction appended, and their rows. Worth nothing before it has committed.
#[derive(Debug, Default)]
#[must_use = "once the transaction has committed the relay can have them, or nobody"]
pub struct Appended(Vec<(i64, Bytes)>);

impl Appended {
    /// The ids are those of the events' rows, in the events' order.
    pub(super) fn new(ids: impl IntoIterator<Item = i64>, events: impl IntoIterator<Item = Bytes>) -> Self {
        Self(ids.into_iter().zip(events).collect())
    }
}

/// The relay's events at hand. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AtHand(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// Whether the relay of this process is the one that sends.
    serves: bool,
    events: BTreeMap<i64, Bytes>,
    bytes: usize,
}

impl AtHand {
    /// Keeps what a transaction appended that has committed since, if the relay of this process is the active one and there
    /// is room.
    pub fn keep(&self, appended: Appended) {
        let mut kept = self.kept();
        for (id, event) in appended.0 {
            if !kept.serves || kept.bytes + event.len() > MOST_BYTES {
                return;
            }
            kept.bytes += event.len();
            kept.events.insert(id, event);
        }
    }

    /// Keeps events from now on, until what is returned is dropped.
    pub(super) fn serve(&self) -> Serving<'_> {
        self.kept().serves = true;
        Serving(self)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The active relay's side.
pub(super) struct Serving<'a>(&'a AtHand);

impl Serving<'_> {
    /// Gives away those of the lowest rows, at most so many.
    pub(super) fn take(&self, most: usize) -> BTreeMap<i64, Bytes> {
        let mut kept = self.0.kept();
        let mut taken = BTreeMap::new();
        while taken.len() < most
            && let Some((id, event)) = kept.events.pop_first()
        {
            kept.bytes -= event.len();
            taken.insert(id, event);
        }
        taken
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        *self.0.kept() = Kept::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(ids: impl IntoIterator<Item = i64>, length: usize) -> Appended {
        let event = Bytes::from(vec![7; length]);
        Appended::new(ids, std::iter::repeat(event))
    }

    fn taken(serving: &Serving<'_>, most: usize) -> Vec<i64> {
        serving.take(most).into_keys().collect()
    }

    #[test]
    fn nothing_is_kept_for_a_relay_that_does_not_send() {
        let at_hand = AtHand::default();
        at_hand.keep(appended([1, 2], 1));
        let serving = at_hand.serve();
        at_hand.keep(appended([3, 4], 1));
        assert_eq!(taken(&serving, 1), [3]);
        drop(serving);
        at_hand.keep(appended([5], 1));
        assert!(taken(&at_hand.serve(), 9).is_empty());
    }

    #[test]
    fn what_has_no_room_is_left_to_the_table_and_what_was_taken_makes_room() {
        let at_hand = AtHand::default();
        let serving = at_hand.serve();
        at_hand.keep(appended(1..=5, MOST_BYTES / 4));
        assert_eq!(taken(&serving, 2), [1, 2]);
        at_hand.keep(appended(6..=9, MOST_BYTES / 4));
        assert_eq!(taken(&serving, 9), [3, 4, 6, 7]);
        assert_eq!(at_hand.kept().bytes, 0);
    }
}
