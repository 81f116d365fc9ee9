//! What an athlete's consents allow, as far as we have heard. Hearing is late by nature: a "yes" here only makes us ask
//! the consent service, and its answer counts.

use std::collections::BTreeSet;

use meridian_policy::{DataClass, Purpose};

use super::campaign::{Segment, Sport};

/// The two consents that matter to a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Matter {
    /// marketing for promotions: receiving anything at all.
    Promotion,
    /// marketing for workout summaries: being picked by sport.
    Workouts,
}

impl Matter {
    /// Reads a consent event's words; `None` for consents that are nothing to us.
    #[must_use]
    pub fn of(purpose: &str, class: &str) -> Option<Self> {
        if purpose != Purpose::Marketing.as_str() {
            return None;
        }
        [Self::Promotion, Self::Workouts]
            .into_iter()
            .find(|matter| matter.class().as_str() == class)
    }

    /// The class that the consent is for.
    #[must_use]
    pub fn class(self) -> DataClass {
        match self {
            Self::Promotion => DataClass::Promotion,
            Self::Workouts => DataClass::WorkoutSummary,
        }
    }
}

/// Every consent that must stand when a campaign for `segment` is delivered.
#[must_use]
pub fn needed(segment: &Segment) -> &'static [Matter] {
    match segment {
        Segment::All => &[Matter::Promotion],
        Segment::Sport(_) => &[Matter::Promotion, Matter::Workouts],
    }
}

/// What we heard last of one consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// Which change that was, from 1; 0: none.
    pub version: i64,
    /// Whether it granted.
    pub granted: bool,
}

impl Heard {
    /// Takes in a change. `None` for one that is not newer: events may come twice, or late.
    #[must_use]
    pub fn take(self, version: i64, granted: bool) -> Option<Self> {
        (version > self.version).then_some(Self { version, granted })
    }
}

/// An athlete, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Athlete {
    /// marketing/promotion.
    pub promotion: Heard,
    /// marketing/workout-summary.
    pub workouts: Heard,
    /// Kinds of sport.
    pub sports: BTreeSet<Sport>,
}

impl Athlete {
    /// Whether the consent service is to be asked about a campaign for `segment`.
    #[must_use]
    pub fn is_candidate(&self, segment: &Segment) -> bool {
        self.promotion.granted
            && match segment {
                Segment::All => true,
                Segment::Sport(sport) => self.workouts.granted && self.sports.contains(sport),
            }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cycling() -> Sport {
        Sport::parse("cycling").unwrap()
    }

    #[test]
    fn only_marketing_consents_for_our_two_classes_matter() {
        for (purpose, class, matter) in [
            ("marketing", "promotion", Some(Matter::Promotion)),
            ("marketing", "workout-summary", Some(Matter::Workouts)),
            ("marketing", "location", None),
            ("analytics", "promotion", None),
            ("cross-border-sharing", "workout-summary", None),
            ("", "", None),
        ] {
            assert_eq!(Matter::of(purpose, class), matter, "{purpose} {class}");
        }
    }

    #[test]
    fn being_picked_by_sport_takes_both_consents_and_the_sport() {
        let yes = Heard {
            version: 1,
            granted: true,
        };
        let no = Heard {
            version: 2,
            granted: false,
        };
        let sports = BTreeSet::from([cycling()]);
        for (promotion, workouts, sports, all, sport) in [
            (yes, yes, sports.clone(), true, true),
            (yes, yes, BTreeSet::new(), true, false),
            (yes, no, sports.clone(), true, false),
            (no, yes, sports.clone(), false, false),
            (Heard::default(), Heard::default(), sports, false, false),
        ] {
            let athlete = Athlete {
                promotion,
                workouts,
                sports,
            };
            assert_eq!(athlete.is_candidate(&Segment::All), all, "{athlete:?}");
            assert_eq!(athlete.is_candidate(&Segment::Sport(cycling())), sport, "{athlete:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_order_changes_arrive_in_the_newest_counts(mut versions in proptest::collection::vec(1_i64..20, 1..40)) {
            let granted = |version: i64| version % 3 != 0;
            let newest = *versions.iter().max().unwrap();
            let mut heard = Heard::default();
            for version in versions.drain(..) {
                heard = heard.take(version, granted(version)).unwrap_or(heard);
            }
            prop_assert_eq!(heard, Heard { version: newest, granted: granted(newest) });
        }
    }
}
