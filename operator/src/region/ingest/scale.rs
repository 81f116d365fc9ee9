//! How many writers a pool needs. Pure: one decision per look, from what the looks before it showed.
//!
//! What must be drained per second is what arrives, plus what has piled up spread over the target time. What one writer
//! drains is learnt from looks during which writers had enough to do from beginning to end; from any other, such as the one
//! in which a burst began, only that they drain no less than was seen. Up and down only when every wish of the direction's
//! window agreed; a window of nothing is over at once.

use std::collections::VecDeque;
use std::time::Duration;

/// A pool's bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Never fewer.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// More than one writer per partition has nothing to do.
    pub partitions: u32,
    /// A backlog is to be gone after this long.
    pub target_drain: Duration,
    /// More writers only after this long without a wish for fewer.
    pub scale_up_after: Duration,
    /// Fewer writers only after this long without a wish for more.
    pub scale_down_after: Duration,
}

impl Limits {
    /// The most writers that have something to do.
    #[must_use]
    pub fn ceiling(&self) -> u32 {
        self.max.min(self.partitions).max(1)
    }
}

/// One look at the pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// When, on the operator's monotonic clock.
    pub at: Duration,
    /// Records not yet stored.
    pub lag: u64,
    /// Records that arrived per second since the look before.
    pub arrival_rate: f64,
    /// Records that were stored per second since the look before, by all writers.
    pub drain_rate: f64,
    /// Writers that were asked for.
    pub replicas: u32,
    /// Writers that are ready: whoever drained.
    pub ready: u32,
}

/// What kept the decision from being what the load asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CappedBy {
    /// The pool's maximum.
    Max,
    /// The number of partitions.
    Partitions,
    /// A recent wish for fewer, or for more.
    Stabilization,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Writers that there should be.
    pub desired: u32,
    /// What kept it from being otherwise.
    pub capped_by: Option<CappedBy>,
}

/// What earlier looks showed. A restart begins anew: without a wish in the window nothing is taken away before it is over.
#[derive(Clone, Debug, Default)]
pub struct History {
    wishes: VecDeque<(Duration, u32)>,
    /// Records per second that one writer drains when it has enough to do.
    per_writer: Option<f64>,
    before: Option<Load>,
    since: Option<Duration>,
    /// Since when as many writers are asked for as now.
    asked: Duration,
    /// When something was drained last, or there was nothing to drain.
    moved: Duration,
}

/// Writers are planned to be this busy at most.
const BUSY: f64 = 0.8;
/// How fast what was learnt is replaced by what is seen.
const LEARN: f64 = 0.4;
/// After so long without a record stored, while more wait than arrive in two seconds, writers hang: whatever they could do.
const HANGS: Duration = Duration::from_secs(3);
/// A writer that is not ready so long after it was asked for does not start any more, it hangs too.
const COMES: Duration = Duration::from_secs(10);
/// Wishes are bounded by the window and this many.
const WISHES: usize = 4096;

/// Decides, and remembers what it saw.
pub fn desired(load: &Load, limits: &Limits, history: &mut History) -> Decision {
    history.learn(load);
    let since = *history.since.get_or_insert(load.at);
    let ceiling = limits.ceiling();
    let floor = limits.min.min(ceiling);
    let wish = history.wish(load, limits);
    let bounded = wish.clamp(floor, ceiling);
    history.remember(load.at, bounded, limits.scale_up_after.max(limits.scale_down_after));
    let is_over = |window: Duration| load.at.saturating_sub(since) >= window;

    if bounded >= load.replicas {
        let lowest = history.wishes_within(load.at, limits.scale_up_after).min();
        let settled = match lowest {
            Some(lowest) if is_over(limits.scale_up_after) => lowest.max(load.replicas),
            _ => load.replicas,
        };
        // At most double at once: what one writer drains may have been learnt from too few looks.
        let step = load
            .replicas
            .saturating_mul(2)
            .max(load.replicas.saturating_add(2))
            .max(floor);
        let desired = settled.min(step).clamp(floor, ceiling);
        let capped_by = match () {
            () if settled.max(floor) < bounded => Some(CappedBy::Stabilization),
            () if wish > ceiling && limits.partitions < limits.max => Some(CappedBy::Partitions),
            () if wish > ceiling => Some(CappedBy::Max),
            () => None,
        };
        return Decision { desired, capped_by };
    }
    let highest = history.wishes_within(load.at, limits.scale_down_after).max();
    let highest = highest.unwrap_or(bounded);
    let settled = if is_over(limits.scale_down_after) {
        highest
    } else {
        highest.max(load.replicas)
    };
    let desired = settled.min(load.replicas).clamp(floor, ceiling);
    Decision {
        desired,
        capped_by: (desired > bounded).then_some(CappedBy::Stabilization),
    }
}

impl History {
    /// What one writer drained since the look before.
    ///
    /// When not even the backlog of then was drained by now, every writer was busy all the time, and what they drained is
    /// what they can. Otherwise they may have had nothing to do for some of it: they can do that much at least.
    fn learn(&mut self, load: &Load) {
        if self.before.is_none_or(|before| before.replicas != load.replicas) {
            self.asked = load.at;
        }
        if self.before.is_none() || load.drain_rate > 0.0 || load.lag == 0 {
            self.moved = load.at;
        }
        let Some(before) = self.before.replace(*load) else {
            return;
        };
        let writers = before.ready.max(load.ready);
        if writers == 0 || load.drain_rate <= 0.0 {
            return;
        }
        let drained = load.drain_rate * load.at.saturating_sub(before.at).as_secs_f64();
        let busy = before.ready == load.ready && precise(before.lag) > drained;
        let seen = load.drain_rate / f64::from(writers);
        self.per_writer = match self.per_writer {
            None => busy.then_some(seen),
            Some(known) if busy || seen > known => Some(known + LEARN * (seen - known)),
            known => known,
        };
    }

    /// Nothing is drained of what piles up, and nobody is on the way who will.
    fn hangs(&self, load: &Load) -> bool {
        let nobody_comes = load.ready >= load.replicas || load.at.saturating_sub(self.asked) >= COMES;
        piles_up(load) && nobody_comes && load.at.saturating_sub(self.moved) >= HANGS
    }

    fn wish(&self, load: &Load, limits: &Limits) -> u32 {
        let enough = self.enough(load, limits);
        if self.hangs(load) {
            // What was learnt is of writers that worked.
            return enough.max(load.replicas.saturating_add(1));
        }
        enough
    }

    fn enough(&self, load: &Load, limits: &Limits) -> u32 {
        let lag = precise(load.lag);
        let needed = load.arrival_rate.max(0.0) + lag / limits.target_drain.as_secs_f64().max(1.0);
        match self.per_writer {
            // No work needs no writer, whatever one can do.
            _ if needed <= 0.0 => 0,
            Some(rate) if rate > 0.0 => whole(needed / (rate * BUSY)),
            // Nothing learnt yet: one more while work piles up that those who are there do not even begin to drain. (What
            // they drain of a backlog is learnt as soon as it is more than they drain between two looks.)
            _ if load.drain_rate <= 0.0 && load.ready >= load.replicas && piles_up(load) => {
                load.replicas.saturating_add(1)
            }
            _ if lag <= load.arrival_rate.max(1.0) => load.replicas.saturating_sub(1),
            _ => load.replicas,
        }
    }

    fn wishes_within(&self, at: Duration, window: Duration) -> impl Iterator<Item = u32> {
        let recent = self.wishes.iter();
        recent
            .filter(move |(then, _)| at.saturating_sub(*then) <= window)
            .map(|(_, wish)| *wish)
    }

    fn remember(&mut self, at: Duration, wish: u32, window: Duration) {
        self.wishes.push_back((at, wish));
        while self
            .wishes
            .front()
            .is_some_and(|(then, _)| at.saturating_sub(*then) > window)
            || self.wishes.len() > WISHES
        {
            self.wishes.pop_front();
        }
    }
}

/// More waits than arrives in two seconds.
fn piles_up(load: &Load) -> bool {
    precise(load.lag) > load.arrival_rate.max(1.0) * 2.0
}

/// A count as a number to calculate with; beyond 2^53 a few records more or less do not matter.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn precise(count: u64) -> f64 {
    count as f64
}

/// Rounded up into a number of writers.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range before"
)]
fn whole(number: f64) -> u32 {
    if number.is_nan() {
        0
    } else {
        number.ceil().clamp(0.0, f64::from(u32::MAX)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> Limits {
        Limits {
            min: 1,
            max: 8,
            partitions: 6,
            target_drain: Duration::from_secs(10),
            scale_up_after: Duration::ZERO,
            scale_down_after: Duration::from_secs(30),
        }
    }

    fn look(at: u64, lag: u64, arrival: f64, drain: f64, replicas: u32) -> Load {
        Load {
            at: Duration::from_secs(at),
            lag,
            arrival_rate: arrival,
            drain_rate: drain,
            replicas,
            ready: replicas,
        }
    }

    #[test]
    fn a_backlog_asks_for_enough_writers_to_be_gone_in_the_target_time() {
        // One writer drains 50/s; 200/s arrive and 1000 wait: 200 + 1000/10 = 300/s, at 80 % of 50/s each.
        let mut history = History::default();
        desired(&look(0, 900, 0.0, 0.0, 2), &limits(), &mut history);
        let decision = desired(&look(1, 1000, 200.0, 100.0, 2), &limits(), &mut history);
        let per_writer = 50.0;
        assert_eq!(history.per_writer, Some(per_writer));
        assert_eq!(decision.desired, 4, "doubled at most");
        assert_eq!(decision.capped_by, Some(CappedBy::Partitions));
        assert_eq!(
            desired(&look(4, 1000, 200.0, 200.0, 4), &limits(), &mut history).desired,
            6
        );
    }

    #[test]
    fn the_look_in_which_a_burst_began_says_nothing_about_what_writers_can() {
        let mut history = History {
            per_writer: Some(100.0),
            ..History::default()
        };
        desired(&look(0, 0, 0.0, 0.0, 1), &limits(), &mut history);
        // The burst came in the last fifth of the second: the writer drained for that long only.
        desired(&look(1, 480, 500.0, 20.0, 1), &limits(), &mut history);
        assert_eq!(history.per_writer, Some(100.0));
        // By now it has been busy for a whole look, and is slower than it was.
        desired(&look(2, 900, 480.0, 60.0, 1), &limits(), &mut history);
        assert!(history.per_writer.unwrap() < 100.0);
    }

    #[test]
    fn the_look_in_which_a_backlog_ended_says_nothing_either() {
        let mut history = History {
            per_writer: Some(100.0),
            ..History::default()
        };
        desired(&look(0, 30, 0.0, 0.0, 1), &limits(), &mut history);
        desired(&look(1, 0, 0.0, 30.0, 1), &limits(), &mut history);
        assert_eq!(history.per_writer, Some(100.0));
    }

    #[test]
    fn what_writers_were_seen_to_drain_they_can_drain() {
        let mut history = History {
            per_writer: Some(10.0),
            ..History::default()
        };
        for at in 0..20 {
            desired(&look(at, 0, 100.0, 100.0, 1), &limits(), &mut history);
        }
        assert!(history.per_writer.unwrap() > 99.0, "without any backlog");
    }

    #[test]
    fn a_backlog_is_met_with_more_writers_at_the_second_look() {
        let mut history = History::default();
        desired(&look(0, 0, 0.0, 0.0, 1), &limits(), &mut history);
        desired(&look(1, 150, 200.0, 50.0, 1), &limits(), &mut history);
        assert!(desired(&look(2, 300, 200.0, 50.0, 1), &limits(), &mut history).desired > 1);
    }

    #[test]
    fn writers_that_are_not_there_yet_are_not_asked_for_again() {
        let mut history = History::default();
        let starting = |at, lag| Load {
            ready: 1,
            ..look(at, lag, 10.0, 0.0, 2)
        };
        for at in 0..5 {
            assert_eq!(
                desired(&starting(at, 500 + at * 10), &limits(), &mut history).desired,
                2,
                "at {at}"
            );
        }
    }

    #[test]
    fn it_says_whether_the_maximum_or_the_partitions_kept_it_small() {
        let narrow = Limits { max: 3, ..limits() };
        let load = look(0, 100_000, 1000.0, 10.0, 2);
        let slow = || History {
            per_writer: Some(5.0),
            ..History::default()
        };
        assert_eq!(
            desired(&load, &narrow, &mut slow()),
            Decision {
                desired: 3,
                capped_by: Some(CappedBy::Max)
            }
        );
        assert_eq!(
            desired(&load, &limits(), &mut slow()).capped_by,
            Some(CappedBy::Partitions)
        );
    }

    #[test]
    fn work_that_no_writer_begins_to_drain_gets_one_more_writer_at_a_time() {
        let mut history = History::default();
        assert_eq!(desired(&look(0, 500, 10.0, 0.0, 1), &limits(), &mut history).desired, 2);
        assert_eq!(desired(&look(3, 900, 10.0, 0.0, 2), &limits(), &mut history).desired, 3);
    }

    #[test]
    fn a_writer_that_hangs_gets_another_beside_it_whatever_it_could_do() {
        for (learnt, ready_until) in [(None, 60), (Some(5_000.0), 60), (Some(5_000.0), 2), (None, 0)] {
            let mut history = History {
                per_writer: learnt,
                ..History::default()
            };
            let hanging = |at: u64, replicas| Load {
                ready: u32::from(at < ready_until),
                ..look(at, 170 * at, 170.0, 0.0, replicas)
            };
            let first = (0..30).find(|at| desired(&hanging(*at, 1), &limits(), &mut history).desired > 1);
            let soon = if ready_until > 10 { 3..=3 } else { 3..=10 };
            assert!(
                first.is_some_and(|first| soon.contains(&first)),
                "{learnt:?}: {first:?}"
            );
            let at = first.unwrap() + 1;
            let unlearnt = desired(&hanging(at, 2), &limits(), &mut history).desired;
            assert_eq!(unlearnt, 2, "the second one is on its way");
        }
    }

    #[test]
    fn writers_that_commit_now_and_then_do_not_hang() {
        let mut history = History {
            per_writer: Some(1_000.0),
            ..History::default()
        };
        for at in 0..30 {
            let drained = if at % 3 == 0 { 300.0 } else { 0.0 };
            let decision = desired(&look(at, 250, 100.0, drained, 1), &limits(), &mut history);
            assert_eq!(decision.desired, 1, "at {at}");
        }
    }

    #[test]
    fn writers_go_only_after_a_whole_window_without_a_wish_for_them() {
        let mut history = History {
            per_writer: Some(50.0),
            ..History::default()
        };
        desired(&look(0, 1000, 100.0, 200.0, 4), &limits(), &mut history);
        for at in (3..30).step_by(3) {
            let decision = desired(&look(at, 0, 0.0, 0.0, 4), &limits(), &mut history);
            assert_eq!(
                (decision.desired, decision.capped_by),
                (4, Some(CappedBy::Stabilization)),
                "at {at}"
            );
        }
        assert_eq!(desired(&look(36, 0, 0.0, 0.0, 4), &limits(), &mut history).desired, 1);
    }

    #[test]
    fn an_operator_that_starts_anew_takes_nothing_away_before_it_has_seen_a_window() {
        let mut history = History::default();
        assert_eq!(desired(&look(1000, 0, 0.0, 0.0, 5), &limits(), &mut history).desired, 5);
        // No work then needs no writer, though nothing was learnt of what one can do.
        assert_eq!(desired(&look(1031, 0, 0.0, 0.0, 5), &limits(), &mut history).desired, 1);
    }

    #[test]
    fn writers_come_only_after_a_whole_window_without_a_wish_for_fewer() {
        let slow = Limits {
            scale_up_after: Duration::from_secs(6),
            ..limits()
        };
        let mut history = History {
            per_writer: Some(50.0),
            ..History::default()
        };
        let mut at = |second, lag| desired(&look(second, lag, 100.0, 50.0, 1), &slow, &mut history);
        desired_is(at(0, 1000), 1, Some(CappedBy::Stabilization));
        desired_is(at(3, 1000), 1, Some(CappedBy::Stabilization));
        assert!(at(6, 1000).desired > 1, "the window is over");
    }

    fn desired_is(decision: Decision, desired: u32, capped_by: Option<CappedBy>) {
        assert_eq!(decision, Decision { desired, capped_by });
    }

    #[test]
    fn an_idle_pool_keeps_its_minimum() {
        let mut history = History::default();
        for at in (0..300).step_by(3) {
            assert_eq!(desired(&look(at, 0, 0.0, 0.0, 1), &limits(), &mut history).desired, 1);
        }
    }

    /// A pool in which each writer really drains `rate` per second, looked at every `every` seconds.
    fn run_every(every: u32, limits: &Limits, rate: f64, arrivals: &[f64]) -> Vec<u32> {
        let (mut history, mut lag, mut replicas, mut path) =
            (History::default(), 0.0_f64, limits.min.max(1), Vec::new());
        let seconds = f64::from(every);
        for (tick, arrival) in arrivals.iter().enumerate() {
            let drained = (f64::from(replicas) * rate * seconds).min(lag + arrival * seconds);
            lag = (lag + arrival * seconds - drained).max(0.0);
            let at = u64::try_from(tick).unwrap() * u64::from(every);
            replicas = desired(
                &look(at, whole(lag).into(), *arrival, drained / seconds, replicas),
                limits,
                &mut history,
            )
            .desired;
            path.push(replicas);
        }
        path
    }

    fn run(limits: &Limits, rate: f64, arrivals: &[f64]) -> Vec<u32> {
        run_every(1, limits, rate, arrivals)
    }

    #[test]
    fn under_a_steady_load_the_number_of_writers_settles() {
        let path = run(&limits(), 50.0, &[150.0; 200]);
        let settled = &path[100..];
        assert!(settled.iter().all(|r| r == &settled[0]), "{path:?}");
        assert!(settled[0] >= 3);
    }

    #[test]
    fn a_burst_scales_up_fast_and_down_again_afterwards() {
        let arrivals: Vec<f64> = [vec![200.0; 20], vec![0.0; 120]].concat();
        let path = run(&limits(), 50.0, &arrivals);
        assert!(path[..8].iter().any(|r| *r >= 4), "{path:?}");
        assert_eq!(path.last(), Some(&1), "{path:?}");
    }

    proptest! {
        #[test]
        fn never_below_the_minimum_nor_above_maximum_or_partitions(
            min in 0_u32..10, extra in 0_u32..50, partitions in 1_u32..64,
            loads in prop::collection::vec((0_u64..1_000_000, 0.0_f64..1e6, 0.0_f64..1e6, 0_u32..80), 1..60),
        ) {
            let limits = Limits { min, max: (min + extra).max(1), partitions, ..limits() };
            let mut history = History::default();
            for (tick, (lag, arrival, drain, replicas)) in loads.into_iter().enumerate() {
                let at = u64::try_from(tick).unwrap() * 3;
                let decision = desired(&look(at, lag, arrival, drain, replicas), &limits, &mut history);
                prop_assert!(decision.desired <= limits.max.min(partitions));
                prop_assert!(decision.desired >= min.min(limits.max).min(partitions));
            }
        }

        /// Bursts that come and go anywhere within a look: what is learnt is what a writer really drains, never less.
        #[test]
        fn what_is_learnt_is_what_a_writer_drains(
            rate in 10.0_f64..500.0, writers in 1_u32..6,
            looks in prop::collection::vec((0.0_f64..4000.0, 0.0_f64..1.0), 1..60),
        ) {
            let (mut history, mut lag) = (History::default(), 0.0_f64);
            let capacity = f64::from(writers) * rate;
            for (tick, (arrived, idle)) in looks.into_iter().enumerate() {
                // What waited is drained from the beginning; the burst comes after `idle` of the second.
                let early = lag.min(capacity * idle);
                let drained = early + (lag - early + arrived).min(capacity * (1.0 - idle));
                lag = lag + arrived - drained;
                let at = u64::try_from(tick).unwrap();
                desired(&look(at, whole(lag.floor()).into(), arrived, drained, writers), &limits(), &mut history);
                if let Some(learnt) = history.per_writer {
                    prop_assert!((learnt - rate).abs() < rate * 1e-6, "{learnt} of {rate} at {tick}");
                }
            }
        }

        #[test]
        fn a_steady_load_never_makes_it_go_up_and_down(
            every in 1_u32..4, rate in 10.0_f64..500.0, arrival in 0.0_f64..2000.0,
        ) {
            let path = run_every(every, &limits(), rate, &[arrival; 300]);
            let late = &path[150..];
            let turns = late.windows(2).filter(|w| w[0] != w[1]).count();
            prop_assert!(turns <= 1, "{path:?}");
        }
    }
}
