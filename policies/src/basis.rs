//! What a use of data rests on beside the transfer mechanism: its lawful basis (Art 6) and, for special categories, the
//! condition (Art 9) that can carry it. All of them must hold: none stands in for another.

use crate::vocabulary::{Art9Condition, LegalFramework, Purpose, closed_vocabulary};

closed_vocabulary! {
    /// A lawful basis of GDPR Art 6(1), as far as the platform's purposes rest on one.
    LawfulBasis, "lawful basis";
    /// (a) The data subject consented to the purpose.
    Consent = "Consent",
    /// (b) Needed for the contract with the data subject.
    Contract = "Contract",
    /// (c) A law of the controller's own jurisdiction demands it (Art 6(3)): another country's law is no basis.
    LegalObligation = "LegalObligation",
}

impl LawfulBasis {
    /// The article, where `framework` has one.
    #[must_use]
    pub const fn article(self, framework: LegalFramework) -> Option<&'static str> {
        match (framework, self) {
            (LegalFramework::Gdpr, Self::Consent) => Some("GDPR Art 6(1)(a)"),
            (LegalFramework::Gdpr, Self::Contract) => Some("GDPR Art 6(1)(b)"),
            (LegalFramework::Gdpr, Self::LegalObligation) => Some("GDPR Art 6(1)(c)"),
            (LegalFramework::UkGdpr, Self::Consent) => Some("UK GDPR Art 6(1)(a)"),
            (LegalFramework::UkGdpr, Self::Contract) => Some("UK GDPR Art 6(1)(b)"),
            (LegalFramework::UkGdpr, Self::LegalObligation) => Some("UK GDPR Art 6(1)(c)"),
            (LegalFramework::Other, _) => None,
        }
    }
}

impl Purpose {
    /// The lawful basis that the purpose rests on. Each purpose has exactly one, so that none can be chosen afterwards.
    #[must_use]
    pub const fn lawful_basis(self) -> LawfulBasis {
        match self {
            Self::CrossBorderSharing | Self::Marketing | Self::Profiling | Self::Analytics => LawfulBasis::Consent,
            Self::ServiceProvision => LawfulBasis::Contract,
            Self::LegalObligation => LawfulBasis::LegalObligation,
        }
    }

    /// The basis in words, for explanations and grounds.
    pub(crate) fn basis_sentence(self, framework: LegalFramework) -> String {
        let basis = self.lawful_basis();
        match basis.article(framework) {
            Some(article) => format!("{self} rests on {basis} ({article})"),
            None => format!("{self} rests on {basis}"),
        }
    }

    /// True where the purpose rests on the data subject's consent, which must stand at each delivery.
    #[must_use]
    pub const fn needs_consent(self) -> bool {
        matches!(self.lawful_basis(), LawfulBasis::Consent)
    }
}

impl Art9Condition {
    /// Whether the condition can carry a special category for `purpose`. Read narrowly: advertising to people and inferring
    /// traits rest on their explicit consent alone (compare Art 22(4)).
    #[must_use]
    pub const fn carries(self, purpose: Purpose) -> bool {
        match self {
            Self::ExplicitConsent => true,
            // These need a law, or a claim in law, that asks for it.
            Self::EmploymentAndSocialSecurity
            | Self::LegalClaims
            | Self::SubstantialPublicInterest
            | Self::PublicHealth => matches!(purpose, Purpose::LegalObligation),
            Self::VitalInterests | Self::HealthCare => {
                matches!(purpose, Purpose::ServiceProvision | Purpose::LegalObligation)
            }
            // "not disclosed outside that body without the consent of the data subjects"
            Self::NonProfitMembers => matches!(purpose, Purpose::ServiceProvision),
            Self::ManifestlyPublic => !matches!(purpose, Purpose::Marketing | Purpose::Profiling),
            Self::ArchivingAndResearch => matches!(purpose, Purpose::Analytics | Purpose::LegalObligation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertising_and_profiling_rest_on_explicit_consent_alone() {
        for purpose in [Purpose::Marketing, Purpose::Profiling] {
            let carrying: Vec<_> = Art9Condition::ALL
                .iter()
                .filter(|condition| condition.carries(purpose))
                .collect();
            assert_eq!(carrying, [&Art9Condition::ExplicitConsent], "{purpose}");
        }
    }

    #[test]
    fn every_purpose_can_be_carried_and_has_a_basis_with_an_article() {
        for purpose in Purpose::ALL {
            assert!(Art9Condition::ALL.iter().any(|condition| condition.carries(*purpose)));
            for (framework, prefix) in [(LegalFramework::Gdpr, "GDPR"), (LegalFramework::UkGdpr, "UK GDPR")] {
                let article = purpose.lawful_basis().article(framework).unwrap();
                assert!(article.starts_with(&format!("{prefix} Art 6(1)(")), "{article}");
            }
            assert_eq!(purpose.lawful_basis().article(LegalFramework::Other), None);
        }
    }
}
