//! Who may see a workout, and who may see whose it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How many may see something, from few to many. What is not known is for its owner only.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Audience {
    /// Its owner.
    #[default]
    OnlyMe,
    /// Also those who follow the owner.
    Followers,
    /// Every athlete of the tenant.
    Everyone,
}

impl Audience {
    /// The word in the database and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnlyMe => "only-me",
            Self::Followers => "followers",
            Self::Everyone => "everyone",
        }
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A word that is no audience.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an audience is everyone, followers or only-me")]
pub struct NotAnAudience;

impl FromStr for Audience {
    type Err = NotAnAudience;

    fn from_str(text: &str) -> Result<Self, NotAnAudience> {
        match text {
            "only-me" => Ok(Self::OnlyMe),
            "followers" => Ok(Self::Followers),
            "everyone" => Ok(Self::Everyone),
            _ => Err(NotAnAudience),
        }
    }
}

/// What the viewer is to the author.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Relation {
    /// Nothing.
    Stranger,
    /// Follows the author.
    Follower,
    /// The author.
    Author,
}

/// What is known about a workout's audience.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// Chosen when the workout was shared.
    pub shared: Option<Audience>,
    /// Set on the workout.
    pub visibility: Option<Audience>,
    /// The author's setting for workouts; none: the author is not known here yet.
    pub workouts: Option<Audience>,
    /// The author's setting for the profile; none: the author is not known here yet.
    pub profile: Option<Audience>,
}

impl Settings {
    /// Who may see the workout: what was decided last and most closely goes first.
    #[must_use]
    pub fn audience(&self) -> Audience {
        self.shared.or(self.visibility).or(self.workouts).unwrap_or_default()
    }

    /// Whether the viewer may see the workout.
    #[must_use]
    pub fn may_see(&self, relation: Relation) -> bool {
        admits(self.audience(), relation)
    }

    /// Whether the viewer may see whose it is. A workout can be shared without saying so.
    #[must_use]
    pub fn may_see_author(&self, relation: Relation) -> bool {
        admits(self.profile.unwrap_or_default(), relation)
    }
}

const fn admits(audience: Audience, relation: Relation) -> bool {
    match relation {
        Relation::Author => true,
        Relation::Follower => matches!(audience, Audience::Followers | Audience::Everyone),
        Relation::Stranger => matches!(audience, Audience::Everyone),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_decided_most_closely_goes_first() {
        use Audience::{Everyone, Followers, OnlyMe};
        let table = [
            (None, None, None, OnlyMe),
            (None, None, Some(Everyone), Everyone),
            (None, Some(OnlyMe), Some(Everyone), OnlyMe),
            (None, Some(Followers), Some(OnlyMe), Followers),
            (Some(Everyone), Some(OnlyMe), Some(OnlyMe), Everyone),
        ];
        for (shared, visibility, workouts, expected) in table {
            let settings = Settings {
                shared,
                visibility,
                workouts,
                profile: None,
            };
            assert_eq!(settings.audience(), expected);
        }
    }

    #[test]
    fn each_audience_admits_exactly_whom_it_names() {
        for (audience, admitted) in [
            (Audience::OnlyMe, [false, false, true]),
            (Audience::Followers, [false, true, true]),
            (Audience::Everyone, [true, true, true]),
        ] {
            let seen =
                [Relation::Stranger, Relation::Follower, Relation::Author].map(|relation| admits(audience, relation));
            assert_eq!(seen, admitted, "{audience}");
        }
    }

    fn any_audience() -> impl Strategy<Value = Option<Audience>> {
        prop::sample::select(vec![
            None,
            Some(Audience::OnlyMe),
            Some(Audience::Followers),
            Some(Audience::Everyone),
        ])
    }

    proptest! {
        #[test]
        fn being_closer_never_shows_less(shared in any_audience(), visibility in any_audience(), workouts in any_audience(), profile in any_audience()) {
            let settings = Settings { shared, visibility, workouts, profile };
            let seen = [Relation::Stranger, Relation::Follower, Relation::Author]
                .map(|relation| (settings.may_see(relation), settings.may_see_author(relation)));
            prop_assert!(seen.is_sorted());
            prop_assert_eq!(seen[2], (true, true));
        }

        #[test]
        fn an_unknown_author_is_seen_by_nobody(visibility in prop::sample::select(vec![None, Some(Audience::OnlyMe)])) {
            let settings = Settings { visibility, ..Settings::default() };
            for relation in [Relation::Stranger, Relation::Follower] {
                prop_assert!(!settings.may_see(relation) && !settings.may_see_author(relation));
            }
        }
    }
}
