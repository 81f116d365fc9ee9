//! What people write: jurisdictions, parties and the residency of tenants. The custom resources wrap these types.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::breach::BreachNotice;
use crate::condition::Condition;
use crate::names::{
    CountryCode, DocumentDigest, JurisdictionName, OrganizationName, RegionName, SubdivisionCode, TenantId,
};
use crate::vocabulary::{Art9Condition, DataClass, LegalFramework, Mechanism, PartyRole, Purpose, Sensitivity};

/// A law, where it holds, and what it lets out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JurisdictionSpec {
    /// The law's name, for people.
    #[schemars(length(min = 1, max = 200))]
    pub law: String,
    /// The body of law whose articles refusals cite.
    pub framework: LegalFramework,
    /// The countries where the law holds.
    #[schemars(length(max = 64))]
    pub countries: Vec<CountryCode>,
    /// Parts of countries where it holds, when not the whole country.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub subdivisions: Vec<SubdivisionCode>,
    /// How sensitive each class is here. A class that is not listed has its default: see [`DataClass::sensitivity`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Sensitivity>", extend("maxProperties" = 32))]
    pub sensitivity: BTreeMap<DataClass, Sensitivity>,
    /// From which age a person consents alone.
    pub age_of_digital_consent: AgeOfConsent,
    /// For how long each class may, and must, be kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, RetentionLimits>", extend("maxProperties" = 32))]
    pub retention: BTreeMap<DataClass, RetentionLimits>,
    /// The mechanisms under which data may go to other jurisdictions. None listed, no transfer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub mechanisms: Vec<OfferedMechanism>,
    /// By when the law wants whom to be told of a breach. None listed: not covered, and the shortest term that any
    /// jurisdiction lists is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub breach_notices: Vec<BreachNotice>,
}

/// The age from which a person consents to an online service without a parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgeOfConsent {
    /// Years, where a country says nothing else.
    #[schemars(range(min = 0, max = 21))]
    pub default: u8,
    /// Years, by country.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, u8>", extend("maxProperties" = 64))]
    pub by_country: BTreeMap<CountryCode, u8>,
}

/// The shortest and longest time that a class may be kept, in days.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetentionLimits {
    /// At least this many days, where a law wants records kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 36_500))]
    pub min_days: Option<u32>,
    /// At most this many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36_500))]
    pub max_days: Option<u32>,
}

/// A mechanism that a jurisdiction offers towards another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferedMechanism {
    /// The jurisdiction that data may go to.
    pub to: JurisdictionName,
    /// What makes it lawful.
    pub mechanism: Mechanism,
    /// The decision, clauses or scheme, by name. For a certification: the scheme that the importer must be certified under.
    #[schemars(length(min = 1, max = 120))]
    pub instrument: String,
    /// The classes that may go. A class that is not listed stays.
    #[schemars(length(min = 1, max = 32))]
    pub classes: Vec<DataClass>,
    /// In force from.
    #[schemars(schema_with = "bounds::timestamp")]
    pub effective_from: Timestamp,
    /// When people should look at it again. A date for people: passing it stops nothing, `expires` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::optional_timestamp")]
    pub review_by: Option<Timestamp>,
    /// In force until. At this moment every edge that cites it is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::optional_timestamp")]
    pub expires: Option<Timestamp>,
}

/// A legal entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartySpec {
    /// Its name in the register.
    #[schemars(length(min = 1, max = 200))]
    pub legal_name: String,
    /// What it is to the data.
    pub role: PartyRole,
    /// Where it is established.
    pub country: CountryCode,
    /// Certifications and approvals that it holds itself. They belong to an entity, not to its country.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub certifications: Vec<Certification>,
}

/// A certification (or membership in approved binding corporate rules) that a party holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Certification {
    /// The scheme, equal to the `instrument` of the mechanism that asks for it.
    #[schemars(length(min = 1, max = 120))]
    pub instrument: String,
    /// Held from.
    #[schemars(schema_with = "bounds::timestamp")]
    pub effective_from: Timestamp,
    /// Held until.
    #[schemars(schema_with = "bounds::timestamp")]
    pub expires: Timestamp,
}

/// Where a tenant's data lives and what of it may go where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantResidencySpec {
    /// The controller.
    pub organization: OrganizationName,
    /// Its partition.
    pub tenant: TenantId,
    /// The one region where the tenant's data is written.
    pub home: Home,
    /// Per class, where it may go. A class that is not listed stays at home.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 18))]
    pub classes: Vec<ClassResidency>,
    /// How many days each class is kept, where the tenant wants less than its jurisdiction allows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, u32>", extend("maxProperties" = 32))]
    pub retention: BTreeMap<DataClass, u32>,
    /// The customer's own key, by reference, when it brings one. Never the key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub key_reference: Option<String>,
}

/// A tenant's home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Home {
    /// The region.
    pub region: RegionName,
}

/// Where one class of a tenant's data may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassResidency {
    /// The class.
    pub class: DataClass,
    /// The regions that it may go to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub replicate_to: Vec<ReplicateTo>,
}

/// One edge as a tenant asks for it: one class, to one region, on stated grounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicateTo {
    /// The importing region.
    pub region: RegionName,
    /// What the data is used for there.
    #[schemars(length(min = 1, max = 6))]
    pub purposes: Vec<Purpose>,
    /// The fields that go, and no other.
    #[schemars(schema_with = "bounds::field_names")]
    pub fields: Vec<String>,
    /// The mechanism relied on: one that the home's jurisdiction offers. Inside one jurisdiction: `NotRestricted`.
    pub mechanism: Mechanism,
    /// The instrument relied on, as the jurisdiction names it.
    #[schemars(length(min = 1, max = 120))]
    pub instrument: String,
    /// The condition for a special category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub art9_condition: Option<Art9Condition>,
    /// Replace the subject's identifier by a pairwise one.
    #[serde(default)]
    pub pseudonymise: bool,
    /// May the importer pass it on.
    #[serde(default)]
    pub onward: bool,
    /// The transfer impact assessment that SCC, IDTA and BCR need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tia: Option<ImpactAssessment>,
    /// What must hold besides at each transfer, in Cedar: for example `context.purpose == "analytics"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// When this edge ends unless someone prolongs it. No edge is for ever.
    #[schemars(schema_with = "bounds::timestamp")]
    pub expires: Timestamp,
}

/// A transfer impact assessment: which document, and until when it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImpactAssessment {
    /// Of the document.
    pub digest: DocumentDigest,
    /// The assessment counts until then.
    #[schemars(schema_with = "bounds::timestamp")]
    pub review_by: Timestamp,
}

impl JurisdictionSpec {
    /// How sensitive `class` is under this law.
    #[must_use]
    pub fn sensitivity_of(&self, class: DataClass) -> Sensitivity {
        self.sensitivity
            .get(&class)
            .copied()
            .unwrap_or_else(|| class.sensitivity())
    }

    /// Whether the law holds in `country`, in the whole of it or in a listed part.
    #[must_use]
    pub fn holds_in(&self, country: &CountryCode) -> bool {
        self.countries.contains(country) || self.subdivisions.iter().any(|part| part.country() == country.as_str())
    }
}

impl DataClass {
    /// The sensitivity of the class where a jurisdiction does not say. Special are health, what is inferred about a person,
    /// and what can say anything or betray a belief: free text and tags, and membership in groups.
    #[must_use]
    pub const fn sensitivity(self) -> Sensitivity {
        match self {
            Self::Health | Self::Inference | Self::Messages | Self::SocialGraph | Self::TrainingContent => {
                Sensitivity::Special
            }
            _ => Sensitivity::Ordinary,
        }
    }
}

impl PartySpec {
    /// The certification under `instrument` that is current at `now`, if any; of several, the one that ends last.
    #[must_use]
    pub fn certified(&self, instrument: &str, now: Timestamp) -> Option<&Certification> {
        self.certifications
            .iter()
            .filter(|held| held.instrument == instrument && held.effective_from <= now && now < held.expires)
            .max_by_key(|held| held.expires)
    }
}
