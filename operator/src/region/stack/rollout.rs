//! Which services get a change now. Pure.
//!
//! What is not there yet is made at once: a first start goes in parallel. A change of what runs goes to one service first,
//! the canary; when that has become available in time, to all others; the gateway comes last, as its phase says. A canary
//! that fails halts the change, and the others keep what they run. What is not available anyway has nothing to lose and
//! gets its change at once, so a reverted change recovers without waiting for what it broke.

use super::plan::components::KEYRING;
use super::plan::{Phase, Plan};
use super::progress::{self, Progress};
use crate::apply::{Applied, ApplyError, digest, foresee};
use crate::manifest::{Manifest, STATEFUL_SET};
use crate::watch::Cache;
use serde_json::{Value, json};

/// What a change finds of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not there.
    Absent,
    /// As it was before the change.
    Outdated {
        /// And available.
        available: bool,
    },
    /// Has the change.
    Changed(Progress),
}

/// What to do about a change now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Services to write.
    pub write: Vec<usize>,
    /// Services that keep what they run.
    pub keep: Vec<usize>,
    /// The service that all others wait for.
    pub canary: Option<usize>,
}

/// The next step; `canary` is the service that was chosen for this same change, if one was.
#[must_use]
pub fn step(states: &[State], canary: Option<usize>) -> Step {
    let those = |is: &dyn Fn(State) -> bool| -> Vec<usize> {
        let all = states.iter().enumerate();
        all.filter(|(_, state)| is(**state)).map(|(index, _)| index).collect()
    };
    let state_of = |index: usize| states.get(index).copied();
    let chosen = canary.filter(|index| matches!(state_of(*index), Some(State::Changed(_))));
    if chosen.and_then(state_of) == Some(State::Changed(Progress::Failed)) {
        // Also what is unavailable for a moment: it has a chance with what it ran, and none with this.
        return Step {
            write: those(&|state| state == State::Absent),
            keep: those(&|state| matches!(state, State::Outdated { .. })),
            canary: chosen,
        };
    }
    let mut write = those(&|state| matches!(state, State::Absent | State::Outdated { available: false }));
    let waiting = those(&|state| state == State::Outdated { available: true });
    if waiting.is_empty() {
        return Step {
            write,
            ..Step::default()
        };
    }
    // What has failed with what it is to run is no better for a change of others: they keep what they run.
    let failed = states
        .iter()
        .position(|state| *state == State::Changed(Progress::Failed));
    if let (None, Some(failed)) = (chosen, failed) {
        return Step {
            write,
            keep: waiting,
            canary: Some(failed),
        };
    }
    if chosen.and_then(state_of) == Some(State::Changed(Progress::Ready)) {
        write.extend(waiting);
        return Step {
            write,
            keep: vec![],
            canary: chosen,
        };
    }
    let broken = |index: &usize| state_of(*index) == Some(State::Outdated { available: false });
    let canary = chosen.or_else(|| write.iter().copied().find(broken));
    let canary = canary.or_else(|| waiting.first().copied());
    let (now, keep): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|index| canary == Some(*index));
    write.extend(now);
    Step { write, keep, canary }
}

/// The services that a change goes through together: all but the gateway. The keyring is made with the stores, which
/// services need before they start, and changed with the services.
#[must_use]
pub fn together(plan: &Plan) -> Vec<&Manifest> {
    let services = plan.phases.iter().filter(|phase| phase.name == "services");
    let keyring = plan.manifests().filter(|manifest| is_keyring(manifest));
    services.flat_map(|phase| &phase.manifests).chain(keyring).collect()
}

fn is_keyring(manifest: &Manifest) -> bool {
    manifest.key().kind == STATEFUL_SET && manifest.key().name == KEYRING
}

/// What a phase other than the services' writes: everything, but for a keyring that is there and waits for its turn, which
/// does not come while the change is `halted`. What is `settled` surely is as planned.
#[must_use]
pub fn of_phase<'a>(
    phase: &'a Phase,
    halted: bool,
    cache: &Cache,
    settled: impl Fn(&Manifest) -> bool,
) -> Vec<&'a Manifest> {
    let waits = |manifest: &&Manifest| {
        is_keyring(manifest)
            && (settled(manifest)
                || match state(manifest, cache) {
                    Ok(State::Outdated { available }) => available || halted,
                    Ok(State::Changed(_)) => true,
                    _ => false,
                })
    };
    phase.manifests.iter().filter(|manifest| !waits(manifest)).collect()
}

/// What the change finds of one service.
///
/// # Errors
/// [`ApplyError::Foreign`].
pub fn state(manifest: &Manifest, cache: &Cache) -> Result<State, ApplyError> {
    let live = cache.get(manifest.key());
    let progress = || progress::of(manifest.key(), progress::Observed::get(cache, manifest.key()).as_ref());
    Ok(match foresee(live.as_deref(), manifest)? {
        Applied::Created => State::Absent,
        Applied::Unchanged => State::Changed(progress()),
        Applied::Changed => State::Outdated {
            available: progress() == Progress::Ready,
        },
    })
}

/// What the change finds of all of them.
///
/// # Errors
/// [`ApplyError::Foreign`].
pub fn states(manifests: &[&Manifest], cache: &Cache) -> Result<Vec<State>, ApplyError> {
    manifests.iter().map(|manifest| state(manifest, cache)).collect()
}

/// The manifests at these places.
#[must_use]
pub fn pick(manifests: &[&Manifest], places: &[usize]) -> Vec<Manifest> {
    let found = places.iter().filter_map(|place| manifests.get(*place));
    found.map(|manifest| (*manifest).clone()).collect()
}

/// Digest of a change: of everything that is rolled out together.
#[must_use]
pub fn change(manifests: &[&Manifest]) -> String {
    let all: Vec<&Value> = manifests.iter().map(|manifest| manifest.body()).collect();
    digest(&json!(all)).chars().take(16).collect()
}

/// Why a rollout does not go on: a service that has the change failed, and others wait for it.
#[must_use]
pub fn halt(plan: &Plan, cache: &Cache) -> Option<String> {
    let services = plan.phases.iter().filter(|phase| phase.name == "gateway");
    let services = together(plan)
        .into_iter()
        .chain(services.flat_map(|phase| &phase.manifests));
    let (mut failed, mut keep) = (Vec::new(), Vec::new());
    for manifest in services {
        match state(manifest, cache) {
            Ok(State::Changed(Progress::Failed)) => failed.push(manifest.key().name.clone()),
            Ok(State::Outdated { .. }) => keep.push(manifest.key().name.clone()),
            _ => {}
        }
    }
    halted(&failed, &keep)
}

fn halted(failed: &[String], keep: &[String]) -> Option<String> {
    (!failed.is_empty() && !keep.is_empty()).then(|| {
        format!(
            "the rollout is halted: {} did not become available in time; {} keep what they ran; revert the change, or make \
             another",
            failed.join(", "),
            keep.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Progress::{Failed, Pending, Ready};

    const OLD: State = State::Outdated { available: true };
    const BROKEN: State = State::Outdated { available: false };

    fn new(progress: Progress) -> State {
        State::Changed(progress)
    }

    fn looks(states: &[State], canary: Option<usize>) -> (Vec<usize>, Vec<usize>, Option<usize>) {
        let step = step(states, canary);
        (step.write, step.keep, step.canary)
    }

    #[test]
    fn a_first_start_goes_in_parallel() {
        assert_eq!(looks(&[State::Absent; 3], None), (vec![0, 1, 2], vec![], None));
    }

    #[test]
    fn a_change_goes_to_one_service_and_to_the_others_when_that_is_available() {
        assert_eq!(looks(&[OLD, OLD, OLD], None), (vec![0], vec![1, 2], Some(0)));
        assert_eq!(looks(&[new(Pending), OLD, OLD], Some(0)), (vec![], vec![1, 2], Some(0)));
        assert_eq!(looks(&[new(Ready), OLD, OLD], Some(0)), (vec![1, 2], vec![], Some(0)));
        assert_eq!(looks(&[new(Ready); 3], Some(0)), (vec![], vec![], None));
    }

    #[test]
    fn a_failed_canary_keeps_the_others_as_they_are() {
        assert_eq!(looks(&[new(Failed), OLD, OLD], Some(0)), (vec![], vec![1, 2], Some(0)));
        assert_eq!(
            looks(&[new(Failed), BROKEN, OLD], Some(0)),
            (vec![], vec![1, 2], Some(0))
        );
        assert_eq!(looks(&[new(Failed), BROKEN], Some(0)), (vec![], vec![1], Some(0)));
    }

    #[test]
    fn another_change_picks_no_other_canary_while_what_failed_is_to_run_on() {
        assert_eq!(looks(&[new(Failed), OLD, OLD], None), (vec![], vec![1, 2], Some(0)));
        assert_eq!(looks(&[OLD, new(Failed), BROKEN], None), (vec![2], vec![0], Some(1)));
        assert_eq!(
            looks(&[BROKEN, OLD, OLD], None),
            (vec![0], vec![1, 2], Some(0)),
            "it is mended"
        );
    }

    #[test]
    fn what_does_not_change_is_no_canary() {
        assert_eq!(looks(&[new(Ready), OLD, OLD], None), (vec![1], vec![2], Some(1)));
    }

    #[test]
    fn what_is_broken_gets_its_change_at_once_and_is_the_canary_of_the_others() {
        assert_eq!(looks(&[BROKEN, new(Ready), new(Ready)], None), (vec![0], vec![], None));
        assert_eq!(looks(&[OLD, BROKEN, OLD], None), (vec![1], vec![0, 2], Some(1)));
    }

    #[test]
    fn a_canary_that_was_changed_back_by_somebody_gets_the_change_again() {
        assert_eq!(looks(&[OLD, OLD], Some(0)), (vec![0], vec![1], Some(0)));
    }

    #[test]
    fn it_is_halted_only_while_somebody_waits_for_what_failed() {
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(halted(&[], &named(&["consent"])), None);
        assert_eq!(halted(&named(&["identity"]), &[]), None);
        assert!(
            halted(&named(&["identity"]), &named(&["consent"]))
                .unwrap()
                .contains("identity did not")
        );
    }
}
