//! IngestPool: the writers of telemetry in one region, and how they scale.

use kube::{CustomResource, KubeSchema};
use meridian_policy::RegionName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;
use crate::workload::Resources;

/// The spec of an IngestPool.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.sh",
    version = "v1alpha1",
    kind = "IngestPool",
    // Not `ip`: Kubernetes itself has taken that for IPAddress since 1.33, and a built-in wins.
    shortname = "ipool",
    category = "meridian",
    status = "IngestPoolStatus",
    doc = "A pool of telemetry writers in one region. It scales inside its region only: at its cap it sheds load, it never spills.",
    derive = "PartialEq",
    printcolumn(name = "REGION", type_ = "string", json_path = ".spec.region"),
    printcolumn(name = "REPLICAS", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "DESIRED", type_ = "integer", json_path = ".status.desired"),
    printcolumn(name = "LAG", type_ = "integer", json_path = ".status.lag"),
    printcolumn(name = "CAPPED", type_ = "string", json_path = ".status.cappedBy"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("size(self.metadata.name) <= 40", "the name of a pool has at most 40 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.region == oldSelf.region", "region is immutable: a pool does not move its data by an edit"),
    validation = ("self.partitions >= oldSelf.partitions", "partitions never decrease: Kafka cannot take a partition away"),
    validation = ("self.scaling.max <= self.partitions", "scaling.max is at most partitions: a writer without a partition would idle")
)]
pub struct IngestPoolSpec {
    /// Where it runs.
    pub region: RegionName,
    /// What it writes.
    #[serde(default = "all_streams")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub streams: Vec<Stream>,
    /// Partitions of its topic: at most so many writers have work.
    #[schemars(range(min = 1, max = 256))]
    pub partitions: u32,
    /// How it scales.
    pub scaling: Scaling,
    /// What one sender may send.
    #[serde(default)]
    pub quotas: Quotas,
    /// What happens when the pool is at its cap and falls behind.
    #[serde(default)]
    pub on_saturation: OnSaturation,
    /// Of a writer's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Change nothing that runs: writers are neither scaled nor rolled out anew. The backlog is still looked at.
    #[serde(default)]
    pub paused: bool,
}

/// A stream of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Per-second samples of devices and files.
    Samples,
}

fn all_streams() -> Vec<Stream> {
    vec![Stream::Samples]
}

/// How a pool scales.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.min <= self.max", "scaling.min is at most scaling.max"),
    validation = ("self.driver != 'HPA' || self.min >= 1", "scaling.min is at least 1 with the driver HPA: a HorizontalPodAutoscaler does not scale from zero")
)]
pub struct Scaling {
    /// Who sets the replicas. All are fed the same `desired`.
    #[serde(default)]
    pub driver: ScalingDriver,
    /// At least so many.
    #[schemars(range(min = 0, max = 256))]
    pub min: u32,
    /// At most so many.
    #[schemars(range(min = 1, max = 256))]
    pub max: u32,
    /// A backlog should be gone within so many seconds.
    #[serde(default = "target_drain_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub target_drain_seconds: u32,
    /// How long a change must be wanted before it is made.
    #[serde(default)]
    pub stabilization: Stabilization,
}

fn target_drain_seconds() -> u32 {
    30
}

/// Who sets the replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScalingDriver {
    /// The region's operator.
    #[default]
    Direct,
    /// A HorizontalPodAutoscaler, which asks the region's operator by the external metrics API.
    #[serde(rename = "HPA")]
    Hpa,
    /// A ScaledObject of KEDA, which asks the region's operator over HTTP.
    #[serde(rename = "KEDA")]
    Keda,
}

/// How long a change must be wanted before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Stabilization {
    /// Before replicas are added, in seconds.
    #[schemars(range(min = 0, max = 3600))]
    pub scale_up_seconds: u32,
    /// Before replicas are taken away, in seconds.
    #[schemars(range(min = 0, max = 3600))]
    pub scale_down_seconds: u32,
}

impl Default for Stabilization {
    fn default() -> Self {
        Self {
            scale_up_seconds: 0,
            scale_down_seconds: 300,
        }
    }
}

/// What one sender may send, in samples per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quotas {
    /// One device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_device_per_second: Option<u32>,
    /// One tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub per_tenant_per_second: Option<u32>,
}

/// What happens when the pool is at its cap and falls behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnSaturation {
    /// New batches get 429 with Retry-After. Nothing is ever sent to another region.
    #[default]
    Shed,
}

/// The status of an IngestPool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngestPoolStatus {
    /// Ready, Reconciling, Stalled, Saturated, ScalingActive, Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The generation that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Writers that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Writers that are wanted: what feeds every driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u32>,
    /// Records that wait, over all partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Records per second that arrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival_rate: Option<u64>,
    /// Records per second that are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_rate: Option<u64>,
    /// What keeps `desired` below what the load asks for: `Max`, `Partitions`, `Stabilization`; absent when nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub capped_by: Option<String>,
}
