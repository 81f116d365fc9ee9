//! What a subject sets against the use of their data, whatever they consented to: an objection to a purpose, or a restriction
//! of every use. It is in force from one change to the next, with a version that grows at each.

use std::collections::BTreeSet;

use meridian_policy::{Purpose, Rule};
use serde::Deserialize;

/// A limit that a subject can set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limit {
    /// No use for this purpose (Art 21 GDPR).
    Objection(Purpose),
    /// No use at all, except that the data is stored (Art 18 GDPR).
    Restriction,
}

/// The purpose does not rest on a choice of the subject, so there is nothing to object to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} rests on a contract or a law, so it can't be objected to; a restriction covers it")]
pub struct NotObjectable(pub Purpose);

impl Limit {
    /// An objection to a purpose.
    ///
    /// # Errors
    /// When the purpose rests on something else than the subject's choice.
    pub fn objection(purpose: Purpose) -> Result<Self, NotObjectable> {
        if purpose.needs_consent() {
            Ok(Self::Objection(purpose))
        } else {
            Err(NotObjectable(purpose))
        }
    }

    /// The purpose that it is about; none where it is about all of them.
    #[must_use]
    pub const fn purpose(self) -> Option<Purpose> {
        match self {
            Self::Objection(purpose) => Some(purpose),
            Self::Restriction => None,
        }
    }

    /// By which rule a delivery is refused while it is in force.
    #[must_use]
    pub const fn rule(self) -> Rule {
        match self {
            Self::Objection(_) => Rule::SubjectObjects,
            Self::Restriction => Rule::ProcessingRestricted,
        }
    }
}

/// What a subject does about a limit.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum LimitAction {
    /// It holds from now on.
    Set,
    /// It holds no longer. What was consented to counts again.
    Lift,
}

/// Where a limit stands and how often it has changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LimitStanding {
    /// Whether it holds.
    pub in_force: bool,
    /// From 1; 0 where it was never set.
    pub version: u64,
}

impl LimitStanding {
    /// The new standing; none where it stands so already.
    #[must_use]
    pub const fn after(self, action: LimitAction) -> Option<Self> {
        let in_force = matches!(action, LimitAction::Set);
        if in_force == self.in_force {
            return None;
        }
        Some(Self {
            in_force,
            version: self.version + 1,
        })
    }
}

/// All limits of a subject that are in force.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Every use is restricted.
    pub restricted: bool,
    /// What is objected to, by the word for the purpose.
    pub objects_to: BTreeSet<String>,
}

impl Limits {
    /// The limit that a delivery for this purpose meets, the widest first.
    #[must_use]
    pub fn meets(&self, purpose: Purpose) -> Option<Limit> {
        if self.restricted {
            return Some(Limit::Restriction);
        }
        self.objects_to
            .contains(purpose.as_str())
            .then_some(Limit::Objection(purpose))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rests_on_a_contract_or_a_law_cannot_be_objected_to() {
        for purpose in Purpose::ALL.iter().copied() {
            assert_eq!(Limit::objection(purpose).is_ok(), purpose.needs_consent(), "{purpose}");
        }
        assert_eq!(
            Limit::objection(Purpose::ServiceProvision),
            Err(NotObjectable(Purpose::ServiceProvision))
        );
    }

    #[test]
    fn a_limit_changes_only_when_something_else_is_said() {
        let never = LimitStanding::default();
        assert_eq!(never.after(LimitAction::Lift), None);
        let set = never.after(LimitAction::Set).unwrap();
        assert_eq!((set.in_force, set.version), (true, 1));
        assert_eq!(set.after(LimitAction::Set), None);
        let lifted = set.after(LimitAction::Lift).unwrap();
        assert_eq!((lifted.in_force, lifted.version), (false, 2));
    }

    #[test]
    fn a_restriction_meets_every_purpose_and_an_objection_its_own() {
        let none = Limits::default();
        assert_eq!(none.meets(Purpose::Marketing), None);
        let objecting = Limits {
            objects_to: ["marketing".to_owned()].into(),
            ..Limits::default()
        };
        assert_eq!(
            objecting.meets(Purpose::Marketing),
            Some(Limit::Objection(Purpose::Marketing))
        );
        assert_eq!(objecting.meets(Purpose::CrossBorderSharing), None);
        let restricted = Limits {
            restricted: true,
            ..objecting
        };
        for purpose in Purpose::ALL.iter().copied() {
            assert_eq!(restricted.meets(purpose), Some(Limit::Restriction));
        }
    }
}
