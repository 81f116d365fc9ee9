//! A queue of keys, each at most once: due now, due later, or running (and then, when triggered, due again after).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Exponential back-off with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            longest: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// The delay after `failures` failures in a row (≥ 1); `jitter` in 0..=1 spreads it over its upper half.
    #[must_use]
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doubled = self
            .first
            .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(20)));
        doubled.min(self.longest).mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// Keys that wait for a pass. Bounded by the number of objects, since each key is held once. Clones share it.
pub struct Queue<K> {
    name: &'static str,
    state: Arc<Mutex<State<K>>>,
    wake: Arc<Notify>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            state: self.state.clone(),
            wake: self.wake.clone(),
        }
    }
}

struct State<K> {
    due: BTreeSet<(Instant, K)>,
    when: HashMap<K, Instant>,
    running: HashSet<K>,
    /// Triggered while running: the time at which they want the next pass.
    after: BTreeMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Ord + Hash + Clone> State<K> {
    /// The earlier of two wishes wins.
    fn schedule(&mut self, key: K, at: Instant) {
        if self.running.contains(&key) {
            let known = self.after.entry(key).or_insert(at);
            *known = (*known).min(at);
            return;
        }
        if let Some(known) = self.when.get(&key).copied() {
            if known <= at {
                return;
            }
            self.due.remove(&(known, key.clone()));
        }
        self.when.insert(key.clone(), at);
        self.due.insert((at, key));
    }

    fn take(&mut self, now: Instant) -> Result<K, Option<Instant>> {
        match self.due.first() {
            Some((at, _)) if *at > now => Err(Some(*at)),
            None => Err(None),
            Some(_) => {
                let Some((_, key)) = self.due.pop_first() else {
                    return Err(None);
                };
                self.when.remove(&key);
                self.running.insert(key.clone());
                Ok(key)
            }
        }
    }
}

impl<K: Ord + Hash + Clone> Queue<K> {
    /// An empty queue for the controller of this name.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let state = State {
            due: BTreeSet::new(),
            when: HashMap::new(),
            running: HashSet::new(),
            after: BTreeMap::new(),
            failures: HashMap::new(),
        };
        Self {
            name,
            state: Arc::new(Mutex::new(state)),
            wake: Arc::new(Notify::new()),
        }
    }

    /// The controller's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // No code of a caller runs under the lock, so it cannot be poisoned half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a pass as soon as there is room.
    pub fn now(&self, key: K) {
        self.after(key, Duration::ZERO);
    }

    /// Asks for a pass after `delay`, or earlier if somebody asked for that.
    pub fn after(&self, key: K, delay: Duration) {
        self.lock().schedule(key, Instant::now() + delay);
        self.wake.notify_one();
    }

    /// Waits for the next key that is due. The caller must report [`Queue::done`] or [`Queue::failed`].
    pub async fn next(&self) -> K {
        loop {
            let woken = self.wake.notified();
            let taken = self.lock().take(Instant::now());
            match taken {
                Ok(key) => return key,
                Err(Some(at)) => tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(at) => {}
                    () = woken => {}
                },
                Err(None) => woken.await,
            }
        }
    }

    /// A pass ended well: failures are forgotten.
    pub fn done(&self, key: &K, again: Option<Duration>) {
        let mut state = self.lock();
        state.failures.remove(key);
        Self::release(&mut state, key, again.map(|delay| Instant::now() + delay));
        drop(state);
        self.wake.notify_one();
    }

    /// A pass failed: the next comes after the back-off, or after its first step when something changed meanwhile (that
    /// may be the cure, and may be the failing pass's own writes, whose pace the first step bounds).
    pub fn failed(&self, key: &K, backoff: Backoff) -> Duration {
        let mut state = self.lock();
        let failures = state.failures.entry(key.clone()).or_insert(0);
        *failures = failures.saturating_add(1);
        let grown = backoff.delay(*failures, jitter(key, *failures));
        let delay = if state.after.remove(key).is_some() {
            grown.min(backoff.first)
        } else {
            grown
        };
        Self::release(&mut state, key, Some(Instant::now() + delay));
        drop(state);
        self.wake.notify_one();
        delay
    }

    fn release(state: &mut State<K>, key: &K, again: Option<Instant>) {
        state.running.remove(key);
        let wishes = [state.after.remove(key), again];
        if let Some(at) = wishes.into_iter().flatten().min() {
            state.schedule(key.clone(), at);
        }
    }

    /// Keys that wait and are due now or later within a second: what a growing backlog shows in.
    #[must_use]
    pub fn depth(&self) -> usize {
        let soon = Instant::now() + Duration::from_secs(1);
        let state = self.lock();
        state.due.iter().take_while(|(at, _)| *at <= soon).count()
    }
}

/// In 0..=1, by key and failures: objects that fail together are spread, and a run can be played again.
fn jitter(key: &impl Hash, failures: u32) -> f64 {
    let mut hasher = DefaultHasher::new();
    (key, failures).hash(&mut hasher);
    let upper = u32::try_from(hasher.finish() >> 32).unwrap_or(u32::MAX);
    f64::from(upper) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_longest_and_jitter_stays_in_the_upper_half() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(10),
        };
        assert_eq!(backoff.delay(1, 1.0), Duration::from_secs(1));
        assert_eq!(backoff.delay(3, 1.0), Duration::from_secs(4));
        assert_eq!(backoff.delay(30, 1.0), Duration::from_secs(10));
        assert_eq!(backoff.delay(30, 0.0), Duration::from_secs(5));
    }

    #[test]
    fn objects_that_fail_together_are_spread() {
        let delays: BTreeSet<String> = (0..100).map(|key| format!("{:.3}", jitter(&key, 1))).collect();
        assert!(delays.len() > 50, "{delays:?}");
        assert!((0..100).all(|failures| (0.0..=1.0).contains(&jitter(&"a", failures))));
    }

    #[tokio::test]
    async fn a_key_triggered_many_times_runs_once() {
        let queue = Queue::new("test");
        (0..5).for_each(|_| queue.now("a"));
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test]
    async fn a_key_triggered_while_running_runs_again_after_and_never_beside() {
        let queue = Queue::new("test");
        queue.now("a");
        let running = queue.next().await;
        queue.now("a");
        assert_eq!(queue.depth(), 0);
        queue.done(&running, None);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test]
    async fn a_success_resets_the_backoff() {
        let (queue, backoff) = (Queue::new("test"), Backoff::default());
        let fail = || {
            queue.now("a");
            let mut state = queue.lock();
            let _ = state.take(Instant::now());
            drop(state);
            queue.failed(&"a", backoff)
        };
        let (first, _, third) = (fail(), fail(), fail());
        assert!(third > first);
        queue.done(&"a", None);
        assert!(fail() <= backoff.first);
    }

    #[tokio::test]
    async fn an_earlier_wish_wins_over_a_later_one() {
        let queue = Queue::new("test");
        queue.after("a", Duration::from_secs(100));
        queue.after("a", Duration::from_millis(5));
        queue.after("a", Duration::from_secs(50));
        let began = Instant::now();
        queue.next().await;
        assert!(began.elapsed() < Duration::from_secs(50));
    }
}
