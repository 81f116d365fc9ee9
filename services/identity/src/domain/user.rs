//! The user as a sequence of events: commands are decided on the state, the state is folded from the events.

use serde::{Deserialize, Serialize};

use super::InvalidField;
use super::profile::{Profile, ProfileChange};

/// What happened to a user. Every payload is stored sealed under the subject's personal key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum UserEvent {
    /// The account came to be.
    UserRegistered {
        /// First state of the profile.
        profile: Profile,
        /// Declared country of residence, which decided the tenant.
        country: String,
        /// Declared year of birth.
        birth_year: Option<i16>,
    },
    /// The athlete changed the profile.
    ProfileUpdated {
        /// What changed.
        change: ProfileChange,
    },
}

impl UserEvent {
    /// The name under which the event is stored.
    pub fn name(&self) -> &'static str {
        match self {
            Self::UserRegistered { .. } => "UserRegistered",
            Self::ProfileUpdated { .. } => "ProfileUpdated",
        }
    }
}

/// A user's state after its first `version` events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// How many events made this state.
    pub version: i64,
    /// The profile now.
    pub profile: Profile,
    /// Declared country of residence.
    pub country: String,
    /// Declared year of birth.
    pub birth_year: Option<i16>,
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody else changed the profile first.
    #[error("the profile is at version {actual}, the change was made for version {expected}; read it and try again")]
    VersionConflict {
        /// What the change was made for.
        expected: i64,
        /// What the profile is at.
        actual: i64,
    },
    /// The profile would break a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
}

/// The history of a user cannot be folded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {version} of a user's history does not continue it; the event table was changed by hand")]
pub struct BrokenHistory {
    /// The event that does not fit, counted from 1.
    pub version: i64,
}

impl User {
    /// Decides a change of the profile; `None` when it changes nothing.
    pub fn update_profile(&self, expected: i64, change: ProfileChange) -> Result<Option<UserEvent>, Refusal> {
        if expected != self.version {
            return Err(Refusal::VersionConflict {
                expected,
                actual: self.version,
            });
        }
        let after = self.profile.clone().with(&change);
        after.check()?;
        Ok((after != self.profile).then_some(UserEvent::ProfileUpdated { change }))
    }

    /// The state after one more event.
    pub fn apply(state: Option<Self>, event: &UserEvent) -> Result<Self, BrokenHistory> {
        match (state, event) {
            (
                None,
                UserEvent::UserRegistered {
                    profile,
                    country,
                    birth_year,
                },
            ) => Ok(Self {
                version: 1,
                profile: profile.clone(),
                country: country.clone(),
                birth_year: *birth_year,
            }),
            (Some(user), UserEvent::ProfileUpdated { change }) => Ok(Self {
                version: user.version + 1,
                profile: user.profile.with(change),
                ..user
            }),
            (None, UserEvent::ProfileUpdated { .. }) => Err(BrokenHistory { version: 1 }),
            (Some(user), UserEvent::UserRegistered { .. }) => Err(BrokenHistory {
                version: user.version + 1,
            }),
        }
    }

    /// The state that a whole history leads to; `None` for an empty one.
    pub fn replay<'e>(history: impl IntoIterator<Item = &'e UserEvent>) -> Result<Option<Self>, BrokenHistory> {
        history
            .into_iter()
            .try_fold(None, |state, event| Self::apply(state, event).map(Some))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn registered() -> UserEvent {
        UserEvent::UserRegistered {
            profile: Profile {
                first_name: "Ada".into(),
                last_name: "Lovelace".into(),
                ..Profile::default()
            },
            country: "DE".into(),
            birth_year: None,
        }
    }

    fn bio(text: &str) -> ProfileChange {
        ProfileChange {
            bio: Some(text.into()),
            ..ProfileChange::default()
        }
    }

    #[test]
    fn a_change_made_for_an_older_version_is_refused() {
        let user = User::apply(None, &registered()).unwrap();
        assert_eq!(
            user.update_profile(0, bio("x")),
            Err(Refusal::VersionConflict { expected: 0, actual: 1 })
        );
    }

    #[test]
    fn a_change_that_changes_nothing_makes_no_event() {
        let user = User::apply(None, &registered()).unwrap();
        assert_eq!(user.update_profile(1, bio("")), Ok(None));
    }

    #[test]
    fn a_change_that_breaks_a_rule_is_refused_and_names_the_field() {
        let user = User::apply(None, &registered()).unwrap();
        let change = ProfileChange {
            first_name: Some(String::new()),
            ..ProfileChange::default()
        };
        assert!(matches!(user.update_profile(1, change), Err(Refusal::Invalid(field)) if field.field == "first_name"));
    }

    #[test]
    fn a_history_that_does_not_begin_with_a_registration_is_broken() {
        let update = UserEvent::ProfileUpdated { change: bio("x") };
        assert_eq!(User::replay([&update]), Err(BrokenHistory { version: 1 }));
        assert_eq!(
            User::replay([&registered(), &registered()]),
            Err(BrokenHistory { version: 2 })
        );
        assert_eq!(User::replay([]), Ok(None));
    }

    proptest! {
        #[test]
        fn replaying_what_was_decided_gives_the_state_it_was_decided_on(bios in proptest::collection::vec("[a-c]{0,2}", 0..20)) {
            let mut history = vec![registered()];
            let mut user = User::apply(None, &history[0]).unwrap();
            for text in bios {
                if let Some(event) = user.update_profile(user.version, bio(&text)).unwrap() {
                    user = User::apply(Some(user), &event).unwrap();
                    let stored = serde_json::to_vec(&event).unwrap();
                    history.push(serde_json::from_slice(&stored).unwrap());
                }
            }
            prop_assert_eq!(user.version, i64::try_from(history.len()).unwrap());
            prop_assert_eq!(User::replay(&history).unwrap().unwrap(), user);
        }
    }
}
