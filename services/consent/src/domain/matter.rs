//! What can be consented to: a purpose for a class of data.

use meridian_policy::{DataClass, Purpose};
use serde::Serialize;

/// A purpose for a class. Only pairs for which consent is the lawful basis exist.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Matter {
    purpose: Purpose,
    class: DataClass,
}

/// Why a pair is no matter of consent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAMatter {
    /// Not a word of the vocabulary.
    #[error("there is no purpose of this name")]
    UnknownPurpose,
    /// Not a word of the vocabulary.
    #[error("there is no class of this name")]
    UnknownClass,
    /// The purpose rests on a contract or a law: consent to it would promise a choice that does not exist.
    #[error("{0} does not rest on consent, so it can be neither granted nor withdrawn")]
    OtherBasis(Purpose),
    /// The class serves the running of the service, whatever the subject consents to.
    #[error("{0} data is never used on the basis of consent")]
    NotConsentable(DataClass),
}

impl NotAMatter {
    /// The field that is wrong.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::UnknownPurpose | Self::OtherBasis(_) => "purpose",
            Self::UnknownClass | Self::NotConsentable(_) => "class",
        }
    }

    /// What the field may be.
    #[must_use]
    pub fn allowed(&self) -> Vec<&'static str> {
        match self {
            Self::UnknownPurpose | Self::OtherBasis(_) => purposes().map(|purpose| purpose.as_str()).collect(),
            Self::UnknownClass | Self::NotConsentable(_) => DataClass::ALL
                .iter()
                .filter(|class| is_consentable(**class))
                .map(|class| class.as_str())
                .collect(),
        }
    }

    /// For programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownPurpose => "unknown-purpose",
            Self::UnknownClass => "unknown-class",
            Self::OtherBasis(_) => "purpose-without-consent",
            Self::NotConsentable(_) => "class-without-consent",
        }
    }
}

/// The purposes that rest on the subject's choice: what can be consented to, and objected to.
pub fn purposes() -> impl Iterator<Item = Purpose> {
    Purpose::ALL.iter().copied().filter(|purpose| purpose.needs_consent())
}

const fn is_consentable(class: DataClass) -> bool {
    !matches!(
        class,
        DataClass::Credentials | DataClass::Consent | DataClass::SecurityLog | DataClass::Operational
    )
}

impl Matter {
    /// The pair, if consent is what it rests on.
    ///
    /// # Errors
    /// Which of the two does not, and why.
    pub const fn new(purpose: Purpose, class: DataClass) -> Result<Self, NotAMatter> {
        if !purpose.needs_consent() {
            return Err(NotAMatter::OtherBasis(purpose));
        }
        if !is_consentable(class) {
            return Err(NotAMatter::NotConsentable(class));
        }
        Ok(Self { purpose, class })
    }

    /// Reads the two words.
    ///
    /// # Errors
    /// Which of the two is wrong, and why.
    pub fn parse(purpose: &str, class: &str) -> Result<Self, NotAMatter> {
        let purpose = purpose.parse().map_err(|_| NotAMatter::UnknownPurpose)?;
        let class = class.parse().map_err(|_| NotAMatter::UnknownClass)?;
        Self::new(purpose, class)
    }

    /// What the data is used for.
    #[must_use]
    pub const fn purpose(self) -> Purpose {
        self.purpose
    }

    /// What is used.
    #[must_use]
    pub const fn class(self) -> DataClass {
        self.class
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marketing_with_a_contact_is_a_matter_of_consent() {
        let matter = Matter::parse("marketing", "contact").unwrap();
        assert_eq!(
            (matter.purpose(), matter.class()),
            (Purpose::Marketing, DataClass::Contact)
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        for (purpose, class, code, field) in [
            ("spam", "contact", "unknown-purpose", "purpose"),
            ("marketing", "moods", "unknown-class", "class"),
            ("service-provision", "contact", "purpose-without-consent", "purpose"),
            ("marketing", "credentials", "class-without-consent", "class"),
        ] {
            let refused = Matter::parse(purpose, class).unwrap_err();
            assert_eq!((refused.code(), refused.field()), (code, field));
            assert!(
                !refused.allowed().is_empty()
                    && !refused.allowed().contains(&purpose)
                    && !refused.allowed().contains(&class)
                    || field == "purpose"
            );
        }
    }
}
