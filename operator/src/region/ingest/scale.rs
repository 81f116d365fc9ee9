//! How many writers a pool needs. Pure: one decision per look, from what the looks before it showed.
//!
//! What must be drained per second is what arrives, plus what has piled up spread over the target time. What one writer
//! drains is learnt while there is a backlog: without one, writers only drain what arrives, which says nothing about what
//! they could. Up at once; down only when every wish of the window agreed.

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
    /// Fewer writers only after this long without a wish for more.
    pub scale_down_after: Duration,
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
    /// Writers that were ready.
    pub replicas: u32,
}

/// What kept the decision from being what the load asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CappedBy {
    /// The pool's maximum.
    Max,
    /// The number of partitions.
    Partitions,
    /// A recent wish for more.
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
    since: Option<Duration>,
}

/// Writers are planned to be this busy at most.
const BUSY: f64 = 0.8;
/// How fast what was learnt is replaced by what is seen.
const LEARN: f64 = 0.4;
/// A look after longer than this says nothing about rates; wishes are bounded by the window and this many.
const WISHES: usize = 4096;

/// Decides, and remembers what it saw.
pub fn desired(load: &Load, limits: &Limits, history: &mut History) -> Decision {
    history.learn(load);
    let since = *history.since.get_or_insert(load.at);
    let ceiling = limits.max.min(limits.partitions).max(1);
    let floor = limits.min.min(ceiling);
    let wish = history.wish(load, limits);
    let bounded = wish.clamp(floor, ceiling);
    history.remember(load.at, bounded, limits.scale_down_after);

    if bounded >= load.replicas {
        // At most double at once: what one writer drains may have been learnt from too few looks.
        let step = load
            .replicas
            .saturating_mul(2)
            .max(load.replicas.saturating_add(2))
            .max(floor);
        let desired = bounded.min(step).clamp(floor, ceiling);
        let capped_by = match () {
            () if wish > ceiling && limits.partitions < limits.max => Some(CappedBy::Partitions),
            () if wish > ceiling => Some(CappedBy::Max),
            () => None,
        };
        return Decision { desired, capped_by };
    }
    let window_seen = load.at.saturating_sub(since) >= limits.scale_down_after;
    let highest = history.wishes.iter().map(|(_, wish)| *wish).max().unwrap_or(bounded);
    let settled = if window_seen {
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
    /// What one writer drained, while there was more to do than a second's worth.
    fn learn(&mut self, load: &Load) {
        let lag = precise(load.lag);
        if load.replicas == 0 || load.drain_rate <= 0.0 || lag <= load.drain_rate.max(1.0) {
            return;
        }
        let seen = load.drain_rate / f64::from(load.replicas);
        self.per_writer = Some(self.per_writer.map_or(seen, |known| known + LEARN * (seen - known)));
    }

    fn wish(&self, load: &Load, limits: &Limits) -> u32 {
        let lag = precise(load.lag);
        let needed = load.arrival_rate.max(0.0) + lag / limits.target_drain.as_secs_f64().max(1.0);
        match self.per_writer {
            Some(rate) if rate > 0.0 => whole(needed / (rate * BUSY)),
            // Nothing learnt yet: one more while work piles up that writers do not even begin to drain.
            _ if lag > load.arrival_rate.max(1.0) * 2.0 => load.replicas.saturating_add(1),
            _ if lag <= load.arrival_rate.max(1.0) => load.replicas.saturating_sub(1),
            _ => load.replicas,
        }
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
        }
    }

    #[test]
    fn a_backlog_asks_for_enough_writers_to_be_gone_in_the_target_time() {
        // One writer drains 100/s; 200/s arrive and 1000 wait: 200 + 1000/10 = 300/s, at 80 % of 100/s each.
        let mut history = History::default();
        let decision = desired(&look(0, 1000, 200.0, 100.0, 2), &limits(), &mut history);
        let per_writer = 50.0;
        assert_eq!(history.per_writer, Some(per_writer));
        assert_eq!(decision.desired, 4, "doubled at most");
        assert_eq!(decision.capped_by, Some(CappedBy::Partitions));
        assert_eq!(
            desired(&look(3, 1000, 200.0, 200.0, 4), &limits(), &mut history).desired,
            6
        );
    }

    #[test]
    fn it_says_whether_the_maximum_or_the_partitions_kept_it_small() {
        let narrow = Limits { max: 3, ..limits() };
        let load = look(0, 100_000, 1000.0, 10.0, 2);
        assert_eq!(
            desired(&load, &narrow, &mut History::default()),
            Decision {
                desired: 3,
                capped_by: Some(CappedBy::Max)
            }
        );
        assert_eq!(
            desired(&load, &limits(), &mut History::default()).capped_by,
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
    fn writers_go_only_after_a_whole_window_without_a_wish_for_them() {
        let mut history = History::default();
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
        assert_eq!(desired(&look(1031, 0, 0.0, 0.0, 5), &limits(), &mut history).desired, 4);
    }

    #[test]
    fn an_idle_pool_keeps_its_minimum() {
        let mut history = History::default();
        for at in (0..300).step_by(3) {
            assert_eq!(desired(&look(at, 0, 0.0, 0.0, 1), &limits(), &mut history).desired, 1);
        }
    }

    /// A pool in which each writer really drains `rate` per second, looked at every 3 s.
    fn run(limits: &Limits, rate: f64, arrivals: &[f64]) -> Vec<u32> {
        let (mut history, mut lag, mut replicas, mut path) =
            (History::default(), 0.0_f64, limits.min.max(1), Vec::new());
        for (tick, arrival) in arrivals.iter().enumerate() {
            let drained = (f64::from(replicas) * rate * 3.0).min(lag + arrival * 3.0);
            lag = (lag + arrival * 3.0 - drained).max(0.0);
            let at = u64::try_from(tick).unwrap() * 3;
            replicas = desired(
                &look(at, whole(lag).into(), *arrival, drained / 3.0, replicas),
                limits,
                &mut history,
            )
            .desired;
            path.push(replicas);
        }
        path
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
        let arrivals: Vec<f64> = [vec![200.0; 20], vec![0.0; 60]].concat();
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

        #[test]
        fn a_steady_load_never_makes_it_go_up_and_down(rate in 10.0_f64..500.0, arrival in 0.0_f64..2000.0) {
            let path = run(&limits(), rate, &[arrival; 300]);
            let late = &path[150..];
            let turns = late.windows(2).filter(|w| w[0] != w[1]).count();
            prop_assert!(turns <= 1, "{path:?}");
        }
    }
}
