//! PrivacyIncident: something found where it must not be, and by when whom the laws concerned want to be told of it.
//!
//! It holds counts, places and the names of tenants, and nothing about a person. What was found never shrinks, a clock that
//! began is never set back, and what a person closed stays closed.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use meridian_policy::{
    BreachRisk, DataClass, JurisdictionName, NoticeRecipient, PolicyRevision, RegionName, TenantId, bounds,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// The name that a notice to be given has where a jurisdiction lists none.
pub const NOT_COVERED: &str = "not-covered";

/// The spec of a PrivacyIncident: what was found, which nobody takes back, and what people have done about it.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.sh",
    version = "v1alpha1",
    kind = "PrivacyIncident",
    plural = "privacyincidents",
    shortname = "pinc",
    category = "meridian",
    status = "PrivacyIncidentStatus",
    doc = "Something found where it must not be, with the legal clocks of every jurisdiction concerned. The hub opens it when a region's verifier reports a violation; people acknowledge, assess, record notices and close. It holds counts and no personal data.",
    derive = "PartialEq",
    printcolumn(name = "REGION", type_ = "string", json_path = ".spec.region"),
    printcolumn(name = "KIND", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "TENANTS", type_ = "string", json_path = ".spec.tenants"),
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "DUE", type_ = "string", json_path = ".status.nextDue"),
    printcolumn(name = "OWED", type_ = "integer", json_path = ".status.owed"),
    printcolumn(name = "LAWS", type_ = "string", json_path = ".spec.jurisdictions", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("size(self.metadata.name) <= 150", "the name of an incident has at most 150 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.region == oldSelf.region && self.kind == oldSelf.kind && self.detectedAt == oldSelf.detectedAt", "region, kind and detectedAt are immutable: they say what was found, and when"),
    validation = ("oldSelf.found.all(o, self.found.exists(n, n.check == o.check && n.place == o.place && n.count >= o.count))", "found never shrinks: no entry goes, and no count falls"),
    validation = ("oldSelf.tenants.all(t, t in self.tenants)", "tenants never shrink: add those who are concerned as well"),
    validation = ("oldSelf.jurisdictions.all(j, j in self.jurisdictions)", "jurisdictions never shrink: add those that are concerned as well"),
    validation = ("!has(oldSelf.acknowledged) || has(self.acknowledged) && self.acknowledged.awareSince <= oldSelf.acknowledged.awareSince", "acknowledged stays, and acknowledged.awareSince never moves to a later time: clocks are not set back"),
    validation = ("!has(self.acknowledged) || self.acknowledged.awareSince <= self.detectedAt || has(self.acknowledged.because)", "acknowledged.because says why awareSince is later than detectedAt"),
    validation = ("oldSelf.notices.all(o, self.notices.exists(n, n == o))", "notices that were recorded stay as they are; add others"),
    validation = ("self.notices.all(n, n.at >= self.detectedAt || has(self.acknowledged) && n.at >= self.acknowledged.awareSince)", "a notice's at is not before detectedAt or acknowledged.awareSince"),
    validation = ("!has(self.closed) || has(self.acknowledged) && has(self.assessment)", "closed needs acknowledged (awareSince) and assessment (risk: Unlikely, Risk or High, and because)"),
    validation = ("!has(self.closed) || size(self.notices) > 0 || !has(self.assessment) || self.assessment.risk != 'High'", "closed without a notice needs an assessment.risk other than High"),
    validation = ("!has(self.closed) || !has(self.acknowledged) || self.closed.at >= self.acknowledged.awareSince", "closed.at is not before acknowledged.awareSince"),
    validation = ("!has(oldSelf.closed) || has(self.closed) && self.closed == oldSelf.closed && self.acknowledged == oldSelf.acknowledged && self.assessment == oldSelf.assessment", "what was closed stays closed, as it was assessed; what is found again opens another incident")
)]
pub struct PrivacyIncidentSpec {
    /// Where.
    pub region: RegionName,
    /// What kind of thing was found.
    pub kind: IncidentKind,
    /// Since when it has been there as far as is known: when the verifier first found it. Clocks run from here until somebody
    /// has acknowledged.
    #[schemars(schema_with = "bounds::timestamp")]
    pub detected_at: Timestamp,
    /// Whose data: names of tenants. None: not known.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub tenants: Vec<TenantId>,
    /// What was found, place by place.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub found: Vec<IncidentFinding>,
    /// What shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<IncidentEvidence>,
    /// Whose laws are concerned: at least that of the region and those of the tenants' homes, which count even if they are
    /// not listed here.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub jurisdictions: Vec<JurisdictionName>,
    /// A person has taken note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledgement>,
    /// How likely harm to the persons is. Until somebody has said so, every notice is owed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assessment: Option<RiskAssessment>,
    /// Notices that were given.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["jurisdiction".into(), "notice".into()]))]
    pub notices: Vec<GivenNotice>,
    /// Nothing is left to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closing>,
}

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IncidentKind {
    /// Personal data where the policy does not let them be.
    DataOutOfPlace,
    /// Something by which personal data could be reached or leave: a guard that is missing, a way out.
    Exposure,
    /// What was observed in evidence is not what was declared.
    UndeclaredFlow,
    /// Something else, that a person writes down.
    Other,
}

/// Something that was found in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentFinding {
    /// What was looked for, for example `foreign-rows`.
    #[schemars(length(min = 1, max = 63))]
    pub check: String,
    /// Where: a table, a role, a setting, an edge.
    #[schemars(length(min = 1, max = 256))]
    pub place: String,
    /// The classes of what is there.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub classes: Vec<DataClass>,
    /// How many rows or things.
    pub count: u64,
}

/// What shows it: which policy the region was held against, and how far its chains of evidence had come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentEvidence {
    /// The policy.
    pub revision: PolicyRevision,
    /// `CHAIN@SIZE:HEAD` of each checkpoint at the time: what an export of then verifies against.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(max = 256)))]
    pub checkpoints: Vec<String>,
}

/// A person has taken note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgement {
    /// Since when the controller has been aware that personal data are concerned: the clocks begin here.
    #[schemars(schema_with = "bounds::timestamp")]
    pub aware_since: Timestamp,
    /// Why not since it was detected. Names nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 10, max = 1024))]
    pub because: Option<String>,
}

/// How likely harm to the persons is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RiskAssessment {
    /// To their rights and freedoms.
    pub risk: BreachRisk,
    /// Why (GDPR Art 33(5) wants it written down). Names nobody.
    #[schemars(length(min = 10, max = 2048))]
    pub because: String,
}

/// A notice that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GivenNotice {
    /// Under whose law.
    pub jurisdiction: JurisdictionName,
    /// Which: the name in the jurisdiction's `breachNotices`, or `not-covered`.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub notice: String,
    /// When.
    #[schemars(schema_with = "bounds::timestamp")]
    pub at: Timestamp,
    /// What the recipient calls it: a file number. For notices to persons, where it is kept how they were told.
    #[schemars(length(min = 1, max = 200))]
    pub reference: String,
}

/// Why nothing is left to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Closing {
    /// When.
    #[schemars(schema_with = "bounds::timestamp")]
    pub at: Timestamp,
    /// What was done, and why that is enough. Names nobody.
    #[schemars(length(min = 10, max = 2048))]
    pub because: String,
}

/// The status of a PrivacyIncident.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrivacyIncidentStatus {
    /// Ready (closed, and nothing owed), Reconciling, Stalled (a deadline was missed), Acknowledged, NoticesGiven,
    /// DeadlinesKept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The generation that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<IncidentPhase>,
    /// Notices that are owed and not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed: Option<u32>,
    /// The first of their deadlines, also when it has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::optional_timestamp")]
    pub next_due: Option<Timestamp>,
    /// One for each notice that a law concerned demands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub clocks: Vec<LegalClock>,
    /// How many rows or things of it the verifier still finds. None: it has not said, or cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still_found: Option<u64>,
}

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IncidentPhase {
    /// Nobody has taken note.
    Open,
    /// Somebody has, and notices are owed.
    Acknowledged,
    /// No notice is owed any more.
    Notified,
    /// It is closed, and no notice is owed.
    Closed,
}

/// A notice that a law demands, and by when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LegalClock {
    /// Whose law.
    pub jurisdiction: JurisdictionName,
    /// Which notice: cite it in `spec.notices`.
    #[schemars(length(max = 40))]
    pub notice: String,
    /// Who is told.
    pub to: NoticeRecipient,
    /// Who that is, by name.
    #[schemars(length(max = 200))]
    pub recipient: String,
    /// Where the law says so.
    #[schemars(length(max = 200))]
    pub article: String,
    /// In the law's words.
    #[schemars(length(max = 300))]
    pub term: String,
    /// When the term began.
    #[schemars(schema_with = "bounds::timestamp")]
    pub started: Timestamp,
    /// When it ends. None: the law names no number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::optional_timestamp")]
    pub due: Option<Timestamp>,
    /// How it stands.
    pub state: ClockState,
}

/// How a clock stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClockState {
    /// It runs.
    Running,
    /// It ends within 24 hours.
    Near,
    /// It has ended, and no notice was given.
    Overdue,
    /// The law names no number: the notice is due as soon as it can be given.
    AtOnce,
    /// The notice was given in time.
    Notified,
    /// The notice was given after the end.
    NotifiedLate,
    /// By the risk that was assessed, this notice is not owed.
    NotOwed,
}

impl ClockState {
    /// Whether the notice is still to be given.
    #[must_use]
    pub const fn is_owed(self) -> bool {
        matches!(self, Self::Running | Self::Near | Self::Overdue | Self::AtOnce)
    }
}
