//! Events that were just queued, kept until they are taken for delivery, which is a moment later: what is in memory need not
//! be read out of the queue again. The queue alone says what is to be delivered; what is not here is read from it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meridian_kit::event::Event;
use uuid::Uuid;

/// Bytes kept at most. The oldest make room.
const MOST_BYTES: usize = 32 * 1024 * 1024;
/// What nobody took for so long was taken by another exporter, or ended.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Events by the ids under which their copies leave.
#[derive(Default)]
pub(super) struct AtHand(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    events: HashMap<Uuid, Arc<Event>>,
    bytes: usize,
    /// Since when each is kept, the oldest first. Some of them are not here any more.
    since: VecDeque<(Instant, Uuid)>,
}

impl AtHand {
    /// Keeps events.
    pub(super) fn keep(&self, events: impl IntoIterator<Item = (Uuid, Arc<Event>)>, now: Instant) {
        let mut kept = self.kept();
        for (copy, event) in events {
            kept.forget(copy);
            kept.bytes += event.length();
            kept.events.insert(copy, event);
            kept.since.push_back((now, copy));
        }
        kept.tidy(now);
    }

    /// Gives one away.
    pub(super) fn take(&self, copy: Uuid) -> Option<Arc<Event>> {
        self.kept().forget(copy)
    }

    /// Forgets what got old.
    pub(super) fn tidy(&self, now: Instant) {
        self.kept().tidy(now);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget(&mut self, copy: Uuid) -> Option<Arc<Event>> {
        let event = self.events.remove(&copy)?;
        self.bytes -= event.length();
        Some(event)
    }

    fn tidy(&mut self, now: Instant) {
        while let Some((since, copy)) = self.since.front().copied() {
            let stays = now.duration_since(since) < KEPT_FOR && self.bytes <= MOST_BYTES;
            if stays && self.events.contains_key(&copy) {
                return;
            }
            self.since.pop_front();
            self.forget(copy);
        }
    }
}

#[cfg(test)]
mod tests {
    use meridian_kit::SubjectId;
    use meridian_kit::event::{Draft, EventSource};
    use meridian_kit::subject_keys::{KeyScope, SubjectKey};
    use meridian_policy::{DataClass, Epoch};
    use zeroize::Zeroizing;

    use super::*;

    fn event(bytes: usize) -> Arc<Event> {
        let tenant = "stride-eu".parse().unwrap();
        let subject = SubjectId(Uuid::from_u128(7));
        let key = SubjectKey::from_bytes(tenant, subject, KeyScope::Personal, Zeroizing::new([7; 32]));
        let draft = Draft {
            kind: "sh.meridian.workout.shared.v1",
            stream: "w-1".to_owned(),
            sequence: 1,
            class: DataClass::WorkoutSummary,
            epoch: Epoch(1),
        };
        let source = EventSource::new("eu".parse().unwrap(), "social");
        Arc::new(Event::sealed(&source, draft, &key, &"x".repeat(bytes)).unwrap())
    }

    fn is_empty(at_hand: &AtHand) -> bool {
        let kept = at_hand.kept();
        kept.events.is_empty() && kept.since.is_empty() && kept.bytes == 0
    }

    #[test]
    fn an_event_is_given_away_once_and_none_after_it_got_old() {
        let (at_hand, now) = (AtHand::default(), Instant::now());
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        at_hand.keep([(first, event(1)), (second, event(2)), (second, event(3))], now);
        assert!(at_hand.take(first).is_some());
        assert!(at_hand.take(first).is_none());
        at_hand.tidy(now + KEPT_FOR);
        assert!(at_hand.take(second).is_none());
        assert!(is_empty(&at_hand));
    }

    #[test]
    fn the_oldest_make_room_and_what_was_taken_needs_none() {
        let (at_hand, now) = (AtHand::default(), Instant::now());
        let large = event(400 * 1024);
        let fit = MOST_BYTES / large.length();
        let copies: Vec<Uuid> = (0..fit as u128 + 2).map(Uuid::from_u128).collect();
        at_hand.keep(copies.iter().map(|copy| (*copy, Arc::clone(&large))), now);
        let here: Vec<bool> = copies.iter().map(|copy| at_hand.take(*copy).is_some()).collect();
        assert_eq!(here.iter().position(|here| *here), Some(2));
        assert_eq!(here.iter().filter(|here| **here).count(), fit);
        at_hand.tidy(now);
        assert!(is_empty(&at_hand));
    }
}
