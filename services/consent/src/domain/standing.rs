//! The state machine of one consent: never asked → granted ⇄ withdrawn, with a version that grows at each change.

use serde::{Deserialize, Serialize};

/// What a subject does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Agrees.
    Grant,
    /// Agrees no longer. As easy as to grant (Art 7(3) GDPR), also before anything was granted.
    Withdraw,
}

/// Where a consent stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// In force.
    Granted,
    /// Not in force.
    Withdrawn,
}

impl State {
    /// The word in the database and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "granted" => Some(Self::Granted),
            "withdrawn" => Some(Self::Withdrawn),
            _ => None,
        }
    }
}

/// A state and how often it has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// The state.
    pub state: State,
    /// From 1.
    pub version: u64,
}

/// What an action comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// A new standing, to be stored, receipted and told.
    Changed(Standing),
    /// It stands so already.
    Unchanged(Standing),
}

/// Applies an action. Doing the same again changes nothing.
#[must_use]
pub const fn apply(current: Option<Standing>, action: Action) -> Outcome {
    let wanted = match action {
        Action::Grant => State::Granted,
        Action::Withdraw => State::Withdrawn,
    };
    match current {
        Some(standing)
            if matches!(
                (standing.state, wanted),
                (State::Granted, State::Granted) | (State::Withdrawn, State::Withdrawn)
            ) =>
        {
            Outcome::Unchanged(standing)
        }
        Some(standing) => Outcome::Changed(Standing {
            state: wanted,
            version: standing.version + 1,
        }),
        None => Outcome::Changed(Standing {
            state: wanted,
            version: 1,
        }),
    }
}

/// Whether a delivery may start. What was never asked is not granted.
#[must_use]
pub const fn allows(current: Option<Standing>) -> bool {
    matches!(
        current,
        Some(Standing {
            state: State::Granted,
            ..
        })
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn standing(state: State, version: u64) -> Standing {
        Standing { state, version }
    }

    #[test]
    fn consent_is_granted_withdrawn_and_granted_again() {
        let table = [
            (None, Action::Grant, Outcome::Changed(standing(State::Granted, 1))),
            (None, Action::Withdraw, Outcome::Changed(standing(State::Withdrawn, 1))),
            (
                Some(standing(State::Granted, 1)),
                Action::Grant,
                Outcome::Unchanged(standing(State::Granted, 1)),
            ),
            (
                Some(standing(State::Granted, 1)),
                Action::Withdraw,
                Outcome::Changed(standing(State::Withdrawn, 2)),
            ),
            (
                Some(standing(State::Withdrawn, 2)),
                Action::Withdraw,
                Outcome::Unchanged(standing(State::Withdrawn, 2)),
            ),
            (
                Some(standing(State::Withdrawn, 2)),
                Action::Grant,
                Outcome::Changed(standing(State::Granted, 3)),
            ),
        ];
        for (current, action, expected) in table {
            assert_eq!(apply(current, action), expected, "{current:?} {action:?}");
        }
    }

    #[test]
    fn silence_is_not_consent() {
        assert!(!allows(None));
    }

    proptest! {
        #[test]
        fn the_last_word_counts_and_versions_only_grow(actions in prop::collection::vec(prop::sample::select(vec![Action::Grant, Action::Withdraw]), 1..40)) {
            let mut current = None;
            for action in &actions {
                let before = current.map_or(0, |standing: Standing| standing.version);
                current = Some(match apply(current, *action) {
                    Outcome::Changed(next) => {
                        prop_assert_eq!(next.version, before + 1);
                        next
                    }
                    Outcome::Unchanged(same) => {
                        prop_assert_eq!(same.version, before);
                        same
                    }
                });
            }
            prop_assert_eq!(allows(current), actions.last() == Some(&Action::Grant));
        }
    }
}
