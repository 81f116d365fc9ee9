//! The custom resources of Meridian as types: group `meridian.sh`, version `v1alpha1`.
//!
//! What the API server can check by itself is here, as schema and CEL: shapes, sizes, immutability, numbers that never
//! shrink. What is lawful is not: that is `meridian-policy`, whose spec types the resources wrap.

mod approval;
mod closing;
mod condition;
mod definitions;
mod evidence;
mod fitness_region;
mod ingest_pool;
mod jurisdiction;
mod party;
mod privacy_incident;
mod region_stack;
mod structure;
mod tenant_data_residency;
mod tenant_placement;
mod workload;

pub use approval::{ApprovalStatus, ApprovedKind, PolicyApproval, PolicyApprovalSpec, WaitingChange};
pub use closing::ClosingEdge;
pub use condition::{Condition, ConditionStatus};
pub use definitions::{all_crds, to_yaml};
pub use evidence::{EvidenceCheckpoint, EvidenceContradiction};
pub use fitness_region::{
    ApprovedRegion, ClusterMember, ClusterRole, ClusterState, DeletionPolicy, Endpoints, FitnessRegion,
    FitnessRegionSpec, FitnessRegionStatus, Gateway, KubeconfigSecret,
};
pub use ingest_pool::{
    IngestPool, IngestPoolSpec, IngestPoolStatus, OnSaturation, Quotas, Scaling, ScalingDriver, Stabilization, Stream,
};
pub use jurisdiction::{Jurisdiction, JurisdictionResource, JurisdictionStatus};
pub use party::{Party, PartyResource, PartyStatus};
pub use privacy_incident::{
    Acknowledgement, ClockState, Closing, GivenNotice, IncidentEvidence, IncidentFinding, IncidentKind, IncidentPhase,
    LegalClock, NOT_COVERED, PrivacyIncident, PrivacyIncidentSpec, PrivacyIncidentStatus, RiskAssessment,
};
pub use region_stack::{Ack, AckRole, RegionStack, RegionStackSpec, RegionStackStatus, RolloutProgress, StackImages};
pub use tenant_data_residency::{
    EdgeDecision, EdgeVerdict, TenantDataResidency, TenantDataResidencyStatus, TenantPhase, TenantResidency,
};
pub use tenant_placement::{TenantPlacement, TenantPlacementSpec, TenantPlacementStatus};
pub use workload::{
    DEADLINE_SECONDS, DataPlane, Kafka, KafkaMode, Postgres, PostgresMode, Resources, Rollout, SERVICES, ServiceTuning,
    UnnamedImage,
};
