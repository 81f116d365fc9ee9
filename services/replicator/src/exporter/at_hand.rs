//! Events that were just queued, kept until they are taken for delivery, which is a moment later: what is in memory need not
//! be read out of the queue again. The queue alone says what is to be delivered; what is not here is read from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meridian_kit::event::Event;
use uuid::Uuid;

/// Bytes kept at most.
const MOST_BYTES: usize = 32 * 1024 * 1024;
/// What nobody took for so long was taken by another exporter, or waits. It is gone at the latest when as long again has passed.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Events by the ids under which their copies leave.
#[derive(Default)]
pub(super) struct AtHand(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    events: HashMap<Uuid, (Instant, Arc<Event>)>,
    bytes: usize,
    /// When it was last looked for what got old.
    tidied: Option<Instant>,
}

impl AtHand {
    /// Keeps events, as far as there is room.
    pub(super) fn keep(&self, events: impl IntoIterator<Item = (Uuid, Arc<Event>)>, now: Instant) {
        let mut kept = self.kept();
        kept.tidy(now);
        for (copy, event) in events {
            let bytes = kept.bytes + event.length();
            if bytes > MOST_BYTES {
                return;
            }
            if kept.events.insert(copy, (now, event)).is_none() {
                kept.bytes = bytes;
            }
        }
    }

    /// Gives one away.
    pub(super) fn take(&self, copy: Uuid) -> Option<Arc<Event>> {
        let mut kept = self.kept();
        let (_, event) = kept.events.remove(&copy)?;
        kept.bytes -= event.length();
        Some(event)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Forgets what got old, now and then.
    fn tidy(&mut self, now: Instant) {
        let tidied = *self.tidied.get_or_insert(now);
        if now.duration_since(tidied) < KEPT_FOR {
            return;
        }
        self.tidied = Some(now);
        let mut freed = 0;
        self.events.retain(|_, (since, event)| {
            let fresh = now.duration_since(*since) < KEPT_FOR;
            freed += if fresh { 0 } else { event.length() };
            fresh
        });
        self.bytes -= freed;
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

    #[test]
    fn an_event_is_given_away_once_and_none_after_it_got_old() {
        let (at_hand, now) = (AtHand::default(), Instant::now());
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        at_hand.keep([(first, event(1)), (second, event(2))], now);
        assert!(at_hand.take(first).is_some());
        assert!(at_hand.take(first).is_none());
        at_hand.keep([], now + KEPT_FOR);
        assert!(at_hand.take(second).is_none());
        assert_eq!(at_hand.kept().bytes, 0);
    }

    #[test]
    fn what_has_no_room_is_left_to_the_queue_and_room_comes_back() {
        let (at_hand, now) = (AtHand::default(), Instant::now());
        let large = event(400 * 1024);
        let fit = MOST_BYTES / large.length();
        let copies: Vec<Uuid> = (0..=fit as u128).map(Uuid::from_u128).collect();
        at_hand.keep(copies.iter().map(|copy| (*copy, Arc::clone(&large))), now);
        let taken = copies.iter().filter(|copy| at_hand.take(**copy).is_some());
        assert_eq!(taken.count(), fit);
        at_hand.keep([(copies[0], large)], now);
        assert!(at_hand.take(copies[0]).is_some());
    }
}
