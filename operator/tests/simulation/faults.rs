//! What goes wrong, by seed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use crate::api::request::{Ask, Verb};
use crate::process::Process;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Nothing is done, and this is the answer.
    Refused(u16, &'static str),
    /// Nothing is done, and the connection breaks.
    Broken,
    /// Nothing is done, and no answer comes.
    Silent,
    /// It is done, and the connection breaks.
    DoneAndBroken,
    /// It is done, and no answer comes.
    DoneAndSilent,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    /// Never longer than the operator waits for an answer: what it gives up was done by then or never.
    pub before: Duration,
    pub after: Duration,
    pub outcome: Outcome,
}

/// When a process dies of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    Before,
    After,
}

/// Some requests.
pub type Which = fn(&Ask) -> bool;

/// Kills a role at one of its requests, counted from one.
struct Plan {
    role: &'static str,
    countdown: usize,
    crash: Crash,
    counts: Which,
}

pub struct Faults {
    rng: Mutex<fastrand::Rng>,
    level: Mutex<u32>,
    calmed: Mutex<Option<Instant>>,
    plan: Mutex<Option<Plan>>,
    cut_off: Mutex<Option<&'static str>>,
    refused: Mutex<Option<Which>>,
    requests: AtomicUsize,
    began: Instant,
    played: Mutex<Vec<String>>,
}

/// More requests than any run makes: one that makes so many goes round in circles.
const ENDLESS: usize = 200_000;

impl Faults {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            level: Mutex::new(0),
            calmed: Mutex::default(),
            plan: Mutex::new(None),
            cut_off: Mutex::new(None),
            refused: Mutex::new(None),
            requests: AtomicUsize::new(0),
            began: Instant::now(),
            played: Mutex::default(),
        }
    }

    /// Whether requests have become so many that nobody gets an answer any more.
    pub fn is_endless(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed) > ENDLESS
    }

    /// Keeps what is asked, by whom and when.
    pub fn note(&self, process: &Process, ask: &Ask) {
        let millis = self.began.elapsed().as_millis();
        // An Event is named by the time of the day.
        let name = Some(&ask.key.name).filter(|_| !ask.key.resource.ends_with("/events"));
        let asked = format!(
            "{millis} ms: {} {:?} {} {name:?}",
            process.role, ask.verb, ask.key.resource
        );
        self.played.lock().unwrap().push(asked);
    }

    /// Everything that was asked.
    pub fn played(&self) -> Vec<String> {
        std::mem::take(&mut self.played.lock().unwrap())
    }

    /// Nothing of this role reaches the hub's API server.
    pub fn cut_off(&self, role: Option<&'static str>) {
        *self.cut_off.lock().unwrap() = role;
    }

    pub fn is_cut_off(&self, process: &Process, server: &str) -> bool {
        server == "hub" && *self.cut_off.lock().unwrap() == Some(process.role)
    }

    /// Of a hundred requests, about so many meet with something.
    pub fn set(&self, level: u32) {
        let before = std::mem::replace(&mut *self.level.lock().unwrap(), level);
        if before > 0 && level == 0 {
            *self.calmed.lock().unwrap() = Some(Instant::now());
        }
    }

    /// Whether nothing but what a test has asked for goes wrong, and has not for as long as a watch may be late by it.
    pub fn is_calm(&self) -> bool {
        let for_long = self
            .calmed
            .lock()
            .unwrap()
            .is_none_or(|at| at.elapsed() > Duration::from_secs(120));
        for_long && *self.level.lock().unwrap() == 0 && self.cut_off.lock().unwrap().is_none()
    }

    /// These requests are refused from now on.
    pub fn refuse(&self, which: Option<Which>) {
        *self.refused.lock().unwrap() = which;
    }

    pub fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap())
    }

    fn strikes(&self, of: u32) -> bool {
        let level = *self.level.lock().unwrap();
        level > 0 && self.draw(|rng| rng.u32(..of)) < level
    }

    pub fn kill_at(&self, role: &'static str, request: usize, crash: Crash, counts: Which) {
        *self.plan.lock().unwrap() = Some(Plan {
            role,
            countdown: request,
            crash,
            counts,
        });
    }

    /// From now on, counts the requests of a role.
    pub fn count(&self, role: &'static str, counts: Which) {
        self.kill_at(role, usize::MAX, Crash::Before, counts);
    }

    /// How many there were.
    pub fn counted(&self) -> usize {
        self.plan
            .lock()
            .unwrap()
            .as_ref()
            .map_or(0, |plan| usize::MAX - plan.countdown)
    }

    pub fn crash(&self, process: &Process, ask: &Ask) -> Option<Crash> {
        let mut plan = self.plan.lock().unwrap();
        let due = plan
            .as_mut()
            .filter(|plan| plan.role == process.role && (plan.counts)(ask))?;
        due.countdown = due.countdown.saturating_sub(1);
        if due.countdown > 0 {
            return None;
        }
        plan.take().map(|plan| plan.crash)
    }

    pub fn fate(&self, ask: &Ask) -> Fate {
        let refused = self.refused.lock().unwrap().is_some_and(|which| which(ask));
        if refused {
            return Fate {
                before: Duration::from_millis(1),
                after: Duration::from_millis(1),
                outcome: Outcome::Refused(500, "InternalError"),
            };
        }
        let millis = |rng: &mut fastrand::Rng, most: u64| Duration::from_millis(rng.u64(..most));
        if *self.level.lock().unwrap() == 0 {
            return Fate {
                before: Duration::from_millis(1),
                after: Duration::from_millis(1),
                outcome: Outcome::Done,
            };
        }
        let strikes = self.strikes(100);
        self.draw(|rng| {
            let mut fate = Fate {
                before: millis(rng, 20),
                after: millis(rng, 20),
                outcome: Outcome::Done,
            };
            if strikes {
                match rng.u32(..9) {
                    0 => fate.before = millis(rng, 3900),
                    1 => fate.after = millis(rng, 6000),
                    2 => fate.outcome = Outcome::Refused(500, "InternalError"),
                    3 => fate.outcome = Outcome::Refused(429, "TooManyRequests"),
                    4 if ask.verb.writes() => fate.outcome = Outcome::Refused(409, "Conflict"),
                    4 | 5 => fate.outcome = Outcome::Broken,
                    6 => fate.outcome = Outcome::Silent,
                    7 => fate.outcome = Outcome::DoneAndBroken,
                    _ => fate.outcome = Outcome::DoneAndSilent,
                }
            }
            if matches!(ask.verb, Verb::Watch(_)) && fate.outcome == Outcome::DoneAndSilent {
                fate.outcome = Outcome::Silent;
            }
            fate
        })
    }

    pub fn life_of_a_watch(&self, most: Duration) -> Duration {
        if self.strikes(60) {
            self.draw(|rng| Duration::from_millis(rng.u64(..20_000)))
        } else {
            most
        }
    }

    pub fn watch_is_too_old(&self) -> bool {
        self.strikes(200)
    }

    pub fn delay_of_an_event(&self) -> Duration {
        if *self.level.lock().unwrap() == 0 {
            return Duration::from_millis(1);
        }
        let most = if self.strikes(100) { 5000 } else { 30 };
        self.draw(|rng| Duration::from_millis(rng.u64(..most)))
    }
}
