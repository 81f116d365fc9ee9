//! The rules that a refusal can name, and refusals themselves.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::vocabulary::{LegalFramework, closed_vocabulary};

closed_vocabulary! {
    /// Why something is refused. The word is part of the product's interface: it appears in admission answers, status,
    /// evidence and metrics.
    Rule, "rule";
    /// An edge leads to the tenant's own home.
    HomeNamedAsTarget = "home-named-as-target",
    /// No such region.
    UnknownRegion = "unknown-region",
    /// No such data class.
    UnknownClass = "unknown-class",
    /// A region names a jurisdiction that is not there.
    UnknownJurisdiction = "unknown-jurisdiction",
    /// A region is operated by a party that is not there.
    UnknownParty = "unknown-party",
    /// The jurisdiction offers the mechanism, but not for this class.
    ClassNotListed = "class-not-listed",
    /// The jurisdiction of the home does not offer the cited mechanism and instrument to the target's jurisdiction.
    MechanismNotOffered = "mechanism-not-offered",
    /// The mechanism is not in force yet.
    MechanismNotInForce = "mechanism-not-in-force",
    /// The mechanism, or the tenant's use of it, has expired.
    MechanismExpired = "mechanism-expired",
    /// A transfer impact assessment is needed and missing.
    AssessmentMissing = "assessment-missing",
    /// The transfer impact assessment is past its review date.
    AssessmentStale = "assessment-stale",
    /// An Art 49 derogation is cited for systematic replication.
    DerogationNeverSystematic = "derogation-never-systematic",
    /// A special category without an Art 9 condition.
    Art9ConditionMissing = "art9-condition-missing",
    /// Consent to share is cited as if it were consent to a risky transfer.
    ConsentIsNotArt49 = "consent-is-not-art49",
    /// A field is not of this class, or not of this edge.
    FieldNotAllowed = "field-not-allowed",
    /// A purpose is not of this edge.
    PurposeNotAllowed = "purpose-not-allowed",
    /// No edge carries this class there.
    NoEdge = "no-edge",
    /// The policy at hand is not known to be current.
    PolicyStale = "policy-stale",
    /// No such tenant, or no tenant of the organization to import into.
    TenantUnknown = "tenant-unknown",
    /// The importing party does not hold what the mechanism needs.
    PartyNotCertified = "party-not-certified",
    /// A retention is outside what the jurisdiction allows.
    RetentionOutsideLaw = "retention-outside-law",
    /// The tenant's condition on the edge cannot be read, or looks at what is not there.
    ConditionInvalid = "condition-invalid",
    /// The tenant's condition on the edge does not hold.
    ConditionNotMet = "condition-not-met",
    /// The data subject objects to the purpose.
    SubjectObjects = "subject-objects",
    /// The data subject has had the use of their data restricted.
    ProcessingRestricted = "processing-restricted",
    /// The same thing is written down twice, and the two could disagree.
    Duplicate = "duplicate",
}

impl Rule {
    /// The article that the rule rests on, where `framework` has one.
    #[must_use]
    pub const fn article(self, framework: LegalFramework) -> Option<&'static str> {
        match framework {
            LegalFramework::Gdpr => self.gdpr_article(),
            // The United Kingdom renumbered parts of chapter V in 2025: the chapter is cited, not an article.
            LegalFramework::UkGdpr => match self {
                Self::Art9ConditionMissing => Some("UK GDPR Art 9"),
                Self::FieldNotAllowed => Some("UK GDPR Art 5(1)(c)"),
                Self::PurposeNotAllowed => Some("UK GDPR Art 5(1)(b)"),
                Self::RetentionOutsideLaw => Some("UK GDPR Art 5(1)(e)"),
                Self::UnknownClass => Some("UK GDPR Art 25(2)"),
                Self::SubjectObjects => Some("UK GDPR Art 21"),
                Self::ProcessingRestricted => Some("UK GDPR Art 18(2)"),
                _ if self.gdpr_article().is_some() => Some("UK GDPR chapter V"),
                _ => None,
            },
            LegalFramework::Other => None,
        }
    }

    const fn gdpr_article(self) -> Option<&'static str> {
        match self {
            Self::ClassNotListed
            | Self::MechanismNotOffered
            | Self::MechanismNotInForce
            | Self::MechanismExpired
            | Self::PartyNotCertified
            | Self::NoEdge
            | Self::PolicyStale
            // A transfer to nobody in particular, or under nobody's law, meets no condition of chapter V.
            | Self::UnknownRegion
            | Self::UnknownJurisdiction
            | Self::UnknownParty
            | Self::TenantUnknown => Some("GDPR Art 44"),
            Self::AssessmentMissing | Self::AssessmentStale => Some("GDPR Art 46(1)"),
            Self::DerogationNeverSystematic => Some("GDPR Art 49(1)"),
            Self::ConsentIsNotArt49 => Some("GDPR Art 49(1)(a)"),
            Self::Art9ConditionMissing => Some("GDPR Art 9(2)"),
            Self::FieldNotAllowed => Some("GDPR Art 5(1)(c)"),
            Self::PurposeNotAllowed => Some("GDPR Art 5(1)(b)"),
            Self::RetentionOutsideLaw => Some("GDPR Art 5(1)(e)"),
            // By default only what a stated purpose needs: what nobody classed has none.
            Self::UnknownClass => Some("GDPR Art 25(2)"),
            Self::SubjectObjects => Some("GDPR Art 21"),
            Self::ProcessingRestricted => Some("GDPR Art 18(2)"),
            // Mistakes in how something is written down, and the tenant's own wish: no question of law.
            Self::HomeNamedAsTarget | Self::Duplicate | Self::ConditionInvalid | Self::ConditionNotMet => None,
        }
    }
}

/// A refusal: the rule, a sentence in words, and the article where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{rule}: {reason}")]
pub struct Denial {
    /// The rule that refuses.
    pub rule: Rule,
    /// What is refused, for whom, and what would change it.
    pub reason: String,
    /// The article that the rule rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub article: Option<&'static str>,
}

impl Denial {
    /// A refusal under `framework`.
    #[must_use]
    pub fn new(rule: Rule, framework: LegalFramework, reason: impl Into<String>) -> Self {
        Self {
            rule,
            reason: reason.into(),
            article: rule.article(framework),
        }
    }

    /// The refusal of whoever cannot know that its policy is current: nothing crosses a border.
    #[must_use]
    pub fn policy_stale() -> Self {
        Self::new(
            Rule::PolicyStale,
            LegalFramework::Other,
            "the policy's lease is not valid here, so no transfer can be known to be allowed; it resumes when the hub renews the lease",
        )
    }

    /// The refusal of data whose class is not in the vocabulary.
    #[must_use]
    pub fn unknown_class(text: &str) -> Self {
        let text: String = text.chars().take(60).collect();
        Self::new(
            Rule::UnknownClass,
            LegalFramework::Other,
            format!("'{text}' is not a data class, so nothing allows it to be transferred"),
        )
    }
}

/// What is wrong in a resource, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// The rule that refuses.
    pub rule: Rule,
    /// The field, for example `spec.classes[health].replicateTo[us].mechanism`.
    #[schemars(length(max = 256))]
    pub path: String,
    /// A sentence that says what is wrong and what to do.
    #[schemars(length(max = 2048))]
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.rule, self.path, self.message)
    }
}
