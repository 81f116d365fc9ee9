//! The residency policy of Meridian: what personal data may cross which border, on what grounds, until when.
//!
//! Pure: no clock (`now` is always a parameter), no I/O, no knowledge of Kubernetes, HTTP or databases. What is not known
//! to be allowed is refused.

mod age;
mod assess;
mod basis;
pub mod bounds;
pub mod breach;
pub mod catalogue;
pub mod compile;
pub mod condition;
mod cut;
mod decide;
pub mod decision;
mod diff;
pub mod edge;
mod expiry;
mod index;
mod meet;
pub mod names;
mod onward;
mod refusal;
pub mod region_policy;
pub mod review;
pub mod rule;
mod shared;
pub mod source;
pub mod spec;
pub mod vocabulary;
mod what_if;

pub use basis::LawfulBasis;
pub use breach::{BreachNotice, BreachRisk, BusinessDays, NoticeRecipient, NoticeStart, NoticeTerm};
pub use catalogue::{Catalogue, FieldKey, FieldKind, TransferableFields};
pub use compile::{CompiledPolicy, compile, compile_with};
pub use condition::{Condition, ConditionError};
pub use decision::{Check, Decision, Explanation, Ground, Permission, Question, Subject};
pub use diff::{
    Aspect, AspectChange, EdgeChange, EdgeDifference, Effect, FlowChange, HeldPolicy, PolicyDiff, TenantChange,
    TenantDifference, Widening, diff, openings, widenings, widenings_with,
};
pub use edge::{CompiledEdge, EdgeId};
pub use expiry::{Ending, ExpiryWarning, Instruments, Soon, expiry_warnings};
pub use names::{
    CountryCode, DocumentDigest, Epoch, InvalidName, JurisdictionName, OrganizationName, PartyName, PolicyRevision,
    RegionName, SubdivisionCode, TenantId,
};
pub use refusal::Reason;
pub use region_policy::{CutEdge, DirectoryEntry, HeldEdge, Peer, PeerTenant, RegionPolicy, TenantHome};
pub use review::{review, review_change, review_region};
pub use rule::{Denial, Rule, Violation};
pub use shared::Shared;
pub use source::{PolicySource, RegionFacts, RegionTrust, TenantFacts};
pub use spec::{
    AgeOfConsent, Certification, ClassResidency, Home, ImpactAssessment, JurisdictionSpec, OfferedMechanism, PartySpec,
    ReplicateTo, RetentionLimits, TenantResidencySpec,
};
pub use vocabulary::{Art9Condition, DataClass, LegalFramework, Mechanism, PartyRole, Purpose, Sensitivity};
pub use what_if::{Hypothesis, ImporterImpact, WhatIf, WhatIfAnswer, WhatIfError, what_if, what_if_with};
