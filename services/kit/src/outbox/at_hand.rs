//! Events that were just committed to the outbox, kept until the relay of the same process next looks, which is a moment later:
//! what is in memory need not be read out of the table again. The table alone says what waits and in which order. What is not
//! here is read from it, so that what comes too late, or has no room, costs nothing but that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

/// About so many bytes are kept. What comes later is read from the table.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// Events that one transaction appended, and their rows. Worth nothing before it has committed.
#[derive(Debug, Default)]
pub struct Appended(Vec<(i64, OfRow)>);

/// The event of a row.
#[derive(Clone, Debug)]
pub(super) struct OfRow {
    /// Its id. A database that was set back gives a row's id to another row, but not with this event.
    pub(super) event_id: Uuid,
    pub(super) event: Bytes,
    /// Bytes of memory: its share of what it lies in.
    holds: usize,
}

impl Appended {
    /// The rows have these ids and events' ids; the events lie in `holds` bytes of memory together.
    pub(super) fn new(rows: impl ExactSizeIterator<Item = (i64, Uuid, Bytes)>, holds: usize) -> Self {
        let holds = holds.div_ceil(rows.len().max(1));
        let of_rows = rows.map(|(id, event_id, event)| (id, OfRow { event_id, event, holds }));
        Self(of_rows.collect())
    }
}

/// The relay's events at hand. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct AtHand(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// Whether the relay of this process is the one that sends.
    serves: bool,
    events: BTreeMap<i64, OfRow>,
    bytes: usize,
}

impl AtHand {
    /// Keeps what a transaction appended that has committed since, if the relay of this process is the active one and there
    /// is room for all of it: what is left of it holds the memory of the whole.
    pub fn keep(&self, appended: Appended) {
        let mut kept = self.kept();
        let bytes = kept.bytes + appended.0.iter().map(|(_, of_row)| of_row.holds).sum::<usize>();
        if kept.serves && bytes <= MOST_BYTES {
            kept.bytes = bytes;
            kept.events.extend(appended.0);
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
    /// Those of the lowest rows, at most so many.
    pub(super) fn first(&self, most: usize) -> BTreeMap<i64, OfRow> {
        let kept = self.0.kept();
        let first = kept.events.iter().take(most);
        first.map(|(id, of_row)| (*id, of_row.clone())).collect()
    }

    /// Forgets the rows up to one.
    pub(super) fn forget_through(&self, last: i64) {
        let mut kept = self.0.kept();
        while let Some(lowest) = kept.events.first_entry()
            && *lowest.key() <= last
        {
            let gone = lowest.remove();
            kept.bytes -= gone.holds;
        }
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

    fn appended(ids: impl ExactSizeIterator<Item = i64>, holds: usize) -> Appended {
        let rows = ids.map(|id| (id, Uuid::nil(), Bytes::from_static(b"event")));
        Appended::new(rows, holds)
    }

    fn first(serving: &Serving<'_>, most: usize) -> Vec<i64> {
        serving.first(most).into_keys().collect()
    }

    #[test]
    fn nothing_is_kept_for_a_relay_that_does_not_send() {
        let at_hand = AtHand::default();
        at_hand.keep(appended([1, 2].into_iter(), 1));
        let serving = at_hand.serve();
        at_hand.keep(appended([3, 4].into_iter(), 1));
        assert_eq!(first(&serving, 1), [3]);
        drop(serving);
        at_hand.keep(appended([5].into_iter(), 1));
        assert!(first(&at_hand.serve(), 9).is_empty());
    }

    #[test]
    fn a_transaction_without_room_is_left_to_the_table_and_what_is_forgotten_makes_room() {
        let at_hand = AtHand::default();
        let serving = at_hand.serve();
        at_hand.keep(appended([1, 2, 3].into_iter(), MOST_BYTES / 2));
        at_hand.keep(appended([4, 5].into_iter(), MOST_BYTES));
        at_hand.keep(appended([6, 7].into_iter(), MOST_BYTES / 4));
        assert_eq!(first(&serving, 9), [1, 2, 3, 6, 7]);
        serving.forget_through(6);
        at_hand.keep(appended([8].into_iter(), MOST_BYTES / 2));
        assert_eq!(first(&serving, 9), [7, 8]);
        serving.forget_through(8);
        assert_eq!(at_hand.kept().bytes, 0);
    }
}
