//! Status conditions. `Ready`, `Reconciling` and `Stalled` follow kstatus, so that `kubectl wait`, Argo CD and Flux
//! understand them; the others say which part.
//!
//! Status is written on failure too: an error becomes a condition, and `lastTransitionTime` changes only with the status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// True, False, or not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It could not be observed.
    Unknown,
}

impl Status {
    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// One observation, made in this pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Condition type, PascalCase.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: Status,
    /// Why, PascalCase, from a closed set.
    pub reason: &'static str,
    /// Why, in a sentence. No random names and no times: an unchanged state must read the same.
    pub message: String,
}

impl Observation {
    /// An observation.
    pub fn new(
        kind: &'static str,
        status: impl Into<Status>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            status: status.into(),
            reason,
            message: message.into(),
        }
    }

    /// Whether somebody asked, with `spec.paused`, for nothing to be changed.
    #[must_use]
    pub fn paused(object: &serde_json::Value) -> Self {
        match object["spec"]["paused"].as_bool() {
            Some(true) => Self::new("Paused", true, "Asked", "nothing is changed until spec.paused is false"),
            _ => Self::new("Paused", false, "NotAsked", ""),
        }
    }

    /// Whether it was seen to hold.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.status == Status::True
    }
}

/// Where an object stands, for the three conditions that kstatus reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As asked.
    Current,
    /// On the way; the message says what is waited for.
    InProgress(String),
    /// Cannot go on without somebody's doing; the message says whose and what.
    Failed {
        /// Reason, PascalCase.
        reason: &'static str,
        /// What to do.
        message: String,
    },
}

impl Standing {
    /// The three observations that say it.
    #[must_use]
    pub fn observations(&self) -> Vec<Observation> {
        let (ready, reconciling, stalled) = ("Ready", "Reconciling", "Stalled");
        match self {
            Self::Current => vec![
                Observation::new(ready, true, "AsPlanned", "everything planned is there and ready"),
                Observation::new(reconciling, false, "AsPlanned", ""),
                Observation::new(stalled, false, "AsPlanned", ""),
            ],
            Self::InProgress(what) => vec![
                Observation::new(ready, false, "Progressing", what.clone()),
                Observation::new(reconciling, true, "Progressing", what.clone()),
                Observation::new(stalled, false, "Progressing", ""),
            ],
            Self::Failed { reason, message } => vec![
                Observation::new(ready, false, reason, message.clone()),
                Observation::new(reconciling, false, reason, ""),
                Observation::new(stalled, true, reason, message.clone()),
            ],
        }
    }
}

const MESSAGE_LIMIT: usize = 1024;

/// The conditions after this pass: each observation replaces the condition of its type, and the time of the last
/// transition stays unless the status flipped. Types that were not observed now are dropped: status says what was seen.
#[must_use]
pub fn merge(
    previous: &[Condition],
    observed: &[Observation],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    observed
        .iter()
        .map(|observation| {
            let status = observation.status.as_str();
            let since = previous
                .iter()
                .find(|c| c.type_ == observation.kind && c.status == status)
                .map_or_else(|| Time(whole_seconds(now)), |c| c.last_transition_time.clone());
            Condition {
                type_: observation.kind.to_owned(),
                status: status.to_owned(),
                reason: observation.reason.to_owned(),
                message: observation.message.chars().take(MESSAGE_LIMIT).collect(),
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

/// The API server keeps whole seconds; a finer time would differ from what it stores and be written again.
fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_stays_until_the_status_flips() {
        let ready = |holds: bool, why: &str| vec![Observation::new("Ready", holds, "R", why)];
        let first = merge(&[], &ready(false, "a"), Some(1), at(10));
        let second = merge(&first, &ready(false, "b"), Some(2), at(20));
        assert_eq!(
            (second[0].last_transition_time.0, second[0].message.as_str()),
            (at(10), "b")
        );
        assert_eq!(second[0].observed_generation, Some(2));
        let third = merge(&second, &ready(true, ""), Some(2), at(30));
        assert_eq!(third[0].last_transition_time.0, at(30));
    }

    #[test]
    fn a_pass_that_sees_the_same_yields_the_same_conditions() {
        let observed = Standing::InProgress("postgres".into()).observations();
        let first = merge(&[], &observed, Some(1), at(10));
        assert_eq!(merge(&first, &observed, Some(1), at(99)), first);
    }

    #[test]
    fn only_a_failed_object_is_stalled_and_only_a_current_one_is_ready() {
        let holding = |s: &Standing| {
            s.observations()
                .into_iter()
                .filter(Observation::holds)
                .map(|o| o.kind)
                .collect::<Vec<_>>()
        };
        assert_eq!(holding(&Standing::Current), ["Ready"]);
        assert_eq!(holding(&Standing::InProgress("x".into())), ["Reconciling"]);
        assert_eq!(
            holding(&Standing::Failed {
                reason: "X",
                message: "y".into()
            }),
            ["Stalled"]
        );
    }
}
