//! From which age a person can be asked alone, and what is kept from those who are younger or whose age nobody knows.

use std::collections::BTreeMap;

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

    /// The highest age that any law has.
    pub(crate) fn highest() -> Self {
        Self {
            default: 21,
            by_country: BTreeMap::new(),
        }
    }

    /// The same as [`JurisdictionSpec::permits_at_age`] under that body of law; of an unknown country the highest age counts.
    pub(crate) fn permit(
        &self,
        framework: LegalFramework,
        purpose: Purpose,
        country: Option<&CountryCode>,
        years: Option<u8>,
    ) -> Result<(), Denial> {
        let from = match country {
            Some(country) => self.in_country(country),
            None => self.by_country.values().copied().fold(self.default, u8::max),
        };
        let place = country.map_or("a country that is not known", CountryCode::as_str);
        let because = match years {
            Some(years) if purpose.needs_consent() && years < from => {
                format!("consent to {purpose} is given alone from {from} years of age in {place}, not at {years}")
            }
            None if purpose.refused_at_unknown_age() => format!(
                "without a known age a person counts as a minor for {purpose}; in {place} consent is given alone from {from} years"
            ),
            _ => return Ok(()),
        };
        Err(Denial {
            rule: Rule::PurposeNotAllowed,
            reason: because,
            article: match framework {
                LegalFramework::Gdpr => Some("GDPR Art 8(1)"),
                LegalFramework::UkGdpr => Some("UK GDPR Art 8(1)"),
                LegalFramework::Other => None,
            },
        })
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
        self.age_of_digital_consent
            .permit(self.framework, purpose, Some(country), years)
    }
}
