//! From which age a person can be asked alone, and what is kept from those who are younger or whose age nobody knows.

use crate::names::CountryCode;
use crate::rule::{Denial, Rule};
use crate::spec::{AgeOfConsent, JurisdictionSpec};
use crate::vocabulary::{LegalFramework, Purpose};

impl AgeOfConsent {
    /// The age in `country`, in years.
    #[must_use]
    pub fn in_country(&self, country: &CountryCode) -> u8 {
        self.by_country.get(country).copied().unwrap_or(self.default)
    }
}

impl Purpose {
    /// True where a person of unknown age counts as a minor.
    #[must_use]
    pub const fn refused_at_unknown_age(self) -> bool {
        matches!(self, Self::Marketing | Self::Profiling)
    }
}

impl JurisdictionSpec {
    /// Whether someone who lives in `country` and is `years` old (none: not known) can be the subject of `purpose`. Of a
    /// birth year alone, the youngest age that it allows counts.
    ///
    /// # Errors
    /// The refusal: consent is needed, and this person cannot give it alone (GDPR Art 8(1)).
    pub fn permits_at_age(&self, purpose: Purpose, country: &CountryCode, years: Option<u8>) -> Result<(), Denial> {
        let from = self.age_of_digital_consent.in_country(country);
        let because = match years {
            Some(years) if purpose.needs_consent() && years < from => {
                format!("consent to {purpose} is given alone from {from} years of age in {country}, not at {years}")
            }
            None if purpose.refused_at_unknown_age() => format!(
                "without a known age a person counts as a minor for {purpose}; in {country} consent is given alone from {from} years"
            ),
            _ => return Ok(()),
        };
        Err(Denial {
            rule: Rule::PurposeNotAllowed,
            reason: because,
            article: match self.framework {
                LegalFramework::Gdpr => Some("GDPR Art 8(1)"),
                LegalFramework::UkGdpr => Some("UK GDPR Art 8(1)"),
                LegalFramework::Other => None,
            },
        })
    }
}
