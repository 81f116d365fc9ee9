//! What a plan is made of: the kinds that Meridian writes, a planned object, and the key that names it.

use kube::api::{ApiResource, DynamicObject};
use serde_json::Value;
use std::fmt;
use std::sync::OnceLock;

/// Label that every object of ours carries; the value is [`MANAGED_BY`].
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "meridian";
/// Label with the region that an object belongs to.
pub const REGION_LABEL: &str = "meridian.sh/region";
/// Label with the UID of the custom resource whose plan holds the object. Pruning asks for label *and* UID.
pub const OWNER_UID_LABEL: &str = "meridian.sh/owner-uid";
/// Annotation with the digest of the manifest as it was last applied; see [`crate::apply`].
pub const APPLIED_ANNOTATION: &str = "meridian.sh/applied";
/// Annotation with the W3C trace context of the write that made the object as it is; see `crate::trace`.
pub const TRACE_ANNOTATION: &str = "meridian.sh/traceparent";
/// Annotation by which a person hands an object that exists already over to Meridian (value `"true"`).
pub const ADOPT_ANNOTATION: &str = "meridian.sh/adopt";

/// A kind of object: enough to address it without asking the API server what it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// API group, empty for core.
    pub group: &'static str,
    /// API version within the group.
    pub version: &'static str,
    /// Kind in PascalCase.
    pub kind: &'static str,
    /// Plural as in URLs.
    pub plural: &'static str,
    /// Whether objects of this kind live in a namespace.
    pub namespaced: bool,
}

const fn kind(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind {
        group,
        version,
        kind,
        plural,
        namespaced: true,
    }
}

impl Kind {
    /// The cluster-scoped twin of a namespaced kind constant.
    #[must_use]
    pub const fn cluster_scoped(self) -> Self {
        Self {
            namespaced: false,
            ..self
        }
    }

    /// `apiVersion` as manifests write it.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The form in which kube addresses it.
    #[must_use]
    pub fn resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: self.api_version(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// The kind with this `apiVersion` and `kind`, when it is one that Meridian writes.
    #[must_use]
    pub fn find(api_version: &str, kind: &str) -> Option<Self> {
        ALL.iter()
            .copied()
            .find(|k| k.kind == kind && k.api_version() == api_version)
    }
}

/// core/v1 Namespace
pub const NAMESPACE: Kind = kind("", "v1", "Namespace", "namespaces").cluster_scoped();
/// core/v1 ConfigMap
pub const CONFIG_MAP: Kind = kind("", "v1", "ConfigMap", "configmaps");
/// core/v1 Secret
pub const SECRET: Kind = kind("", "v1", "Secret", "secrets");
/// core/v1 Service
pub const SERVICE: Kind = kind("", "v1", "Service", "services");
/// core/v1 ServiceAccount
pub const SERVICE_ACCOUNT: Kind = kind("", "v1", "ServiceAccount", "serviceaccounts");
/// core/v1 ResourceQuota
pub const RESOURCE_QUOTA: Kind = kind("", "v1", "ResourceQuota", "resourcequotas");
/// core/v1 LimitRange
pub const LIMIT_RANGE: Kind = kind("", "v1", "LimitRange", "limitranges");
/// apps/v1 Deployment
pub const DEPLOYMENT: Kind = kind("apps", "v1", "Deployment", "deployments");
/// apps/v1 StatefulSet
pub const STATEFUL_SET: Kind = kind("apps", "v1", "StatefulSet", "statefulsets");
/// batch/v1 Job
pub const JOB: Kind = kind("batch", "v1", "Job", "jobs");
/// core/v1 Pod: read, and deleted where it is stuck.
pub const POD: Kind = kind("", "v1", "Pod", "pods");
/// policy/v1 PodDisruptionBudget
pub const DISRUPTION_BUDGET: Kind = kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets");
/// autoscaling/v2 HorizontalPodAutoscaler
pub const AUTOSCALER: Kind = kind(
    "autoscaling",
    "v2",
    "HorizontalPodAutoscaler",
    "horizontalpodautoscalers",
);
/// keda.sh/v1alpha1 ScaledObject: there only where KEDA is installed.
pub const SCALED_OBJECT: Kind = kind("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects");
/// postgresql.cnpg.io/v1 Cluster: PostgreSQL, as CloudNativePG's operator runs it.
pub const POSTGRES_CLUSTER: Kind = kind("postgresql.cnpg.io", "v1", "Cluster", "clusters");
/// kafka.strimzi.io/v1 Kafka: as Strimzi's operator runs it.
pub const KAFKA_CLUSTER: Kind = kind("kafka.strimzi.io", "v1", "Kafka", "kafkas");
/// kafka.strimzi.io/v1 KafkaNodePool: the nodes of one.
pub const KAFKA_NODE_POOL: Kind = kind("kafka.strimzi.io", "v1", "KafkaNodePool", "kafkanodepools");
/// networking.k8s.io/v1 NetworkPolicy
pub const NETWORK_POLICY: Kind = kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies");
/// coordination.k8s.io/v1 Lease
pub const LEASE: Kind = kind("coordination.k8s.io", "v1", "Lease", "leases");
/// meridian.sh/v1alpha1 RegionStack
pub const REGION_STACK: Kind = kind("meridian.sh", "v1alpha1", "RegionStack", "regionstacks").cluster_scoped();
/// meridian.sh/v1alpha1 TenantPlacement
pub const TENANT_PLACEMENT: Kind = kind("meridian.sh", "v1alpha1", "TenantPlacement", "tenantplacements");
/// meridian.sh/v1alpha1 IngestPool
pub const INGEST_POOL: Kind = kind("meridian.sh", "v1alpha1", "IngestPool", "ingestpools").cluster_scoped();
/// core/v1 Node: read, never written.
pub const NODE: Kind = kind("", "v1", "Node", "nodes").cluster_scoped();
/// meridian.sh/v1alpha1 Jurisdiction: people write it.
pub const JURISDICTION: Kind = kind("meridian.sh", "v1alpha1", "Jurisdiction", "jurisdictions").cluster_scoped();
/// meridian.sh/v1alpha1 Party: people write it.
pub const PARTY: Kind = kind("meridian.sh", "v1alpha1", "Party", "parties").cluster_scoped();
/// meridian.sh/v1alpha1 FitnessRegion: people write it.
pub const FITNESS_REGION: Kind = kind("meridian.sh", "v1alpha1", "FitnessRegion", "fitnessregions").cluster_scoped();
/// meridian.sh/v1alpha1 TenantDataResidency: people write it.
pub const TENANT_DATA_RESIDENCY: Kind = kind(
    "meridian.sh",
    "v1alpha1",
    "TenantDataResidency",
    "tenantdataresidencies",
)
.cluster_scoped();
/// meridian.sh/v1alpha1 PolicyApproval: people write it.
pub const POLICY_APPROVAL: Kind = kind("meridian.sh", "v1alpha1", "PolicyApproval", "policyapprovals").cluster_scoped();

/// meridian.sh/v1alpha1 PrivacyIncident: the hub opens them, people go on from there.
pub const PRIVACY_INCIDENT: Kind =
    kind("meridian.sh", "v1alpha1", "PrivacyIncident", "privacyincidents").cluster_scoped();

/// Every kind that we write objects of.
pub const ALL: &[Kind] = &[
    NAMESPACE,
    CONFIG_MAP,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    RESOURCE_QUOTA,
    LIMIT_RANGE,
    DEPLOYMENT,
    STATEFUL_SET,
    JOB,
    DISRUPTION_BUDGET,
    AUTOSCALER,
    SCALED_OBJECT,
    NETWORK_POLICY,
    POSTGRES_CLUSTER,
    KAFKA_CLUSTER,
    KAFKA_NODE_POOL,
    LEASE,
    REGION_STACK,
    TENANT_PLACEMENT,
    INGEST_POOL,
    PRIVACY_INCIDENT,
];

/// Names one object in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; `None` for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// Key of a namespaced object.
    #[must_use]
    pub fn namespaced(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        }
    }

    /// Key of a cluster-scoped object.
    #[must_use]
    pub fn cluster(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            namespace: None,
            name: name.to_owned(),
        }
    }

    /// Key of an object that came from the API server as `kind`; `None` when it has no name.
    #[must_use]
    pub fn of(kind: Kind, object: &DynamicObject) -> Option<Self> {
        Some(Self {
            kind,
            namespace: object.metadata.namespace.clone(),
            name: object.metadata.name.clone()?,
        })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.kind, self.name),
            None => write!(f, "{} {}", self.kind.kind, self.name),
        }
    }
}

/// A planned object: the whole of what Meridian wants to own of it, and nothing that the API server fills in.
#[derive(Clone, Debug)]
pub struct Manifest {
    key: ObjectKey,
    body: Value,
    digest: OnceLock<String>,
}

impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.body == other.body
    }
}

/// Why a value is not a manifest. Plans are written by us, so this is a defect of a plan, never of a user's input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a planned object is not a manifest: {0}; this is a defect in the plan that made it")]
pub struct NotAManifest(String);

impl Manifest {
    /// Takes `{apiVersion, kind, metadata: {name, namespace?}, …}` of one of the kinds in [`ALL`].
    ///
    /// # Errors
    /// When the kind is none of ours, the name is missing, or the namespace does not fit the kind's scope.
    pub fn new(body: Value) -> Result<Self, NotAManifest> {
        let text = |pointer: &str| {
            body.pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (api_version, kind_name) = (text("/apiVersion"), text("/kind"));
        let kind = Kind::find(&api_version, &kind_name)
            .ok_or_else(|| NotAManifest(format!("unknown kind {api_version} {kind_name}")))?;
        let (name, namespace) = (text("/metadata/name"), text("/metadata/namespace"));
        if name.is_empty() {
            return Err(NotAManifest(format!("{kind_name} without a name")));
        }
        if namespace.is_empty() == kind.namespaced {
            return Err(NotAManifest(format!(
                "{kind_name} {name}: its namespace does not fit the kind's scope"
            )));
        }
        let namespace = kind.namespaced.then_some(namespace);
        Ok(Self {
            key: ObjectKey { kind, namespace, name },
            body,
            digest: OnceLock::new(),
        })
    }

    /// Which object this is.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// The whole manifest.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// Its digest, made once: a plan that stays the same is compared many times.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| crate::apply::digest(&self.body))
    }

    /// The same manifest with a label; an existing value is replaced.
    #[must_use]
    pub fn with_label(mut self, key: &str, value: &str) -> Self {
        self.digest = OnceLock::new();
        self.body["metadata"]["labels"][key] = Value::String(value.to_owned());
        self
    }

    /// The same manifest with an annotation; an existing value is replaced.
    #[must_use]
    pub fn with_annotation(mut self, key: &str, value: &str) -> Self {
        self.digest = OnceLock::new();
        self.body["metadata"]["annotations"][key] = Value::String(value.to_owned());
        self
    }

    /// The same manifest for an object of this version alone: the API server refuses it for another.
    #[must_use]
    pub fn with_version(mut self, version: &str) -> Self {
        self.digest = OnceLock::new();
        self.body["metadata"]["resourceVersion"] = Value::String(version.to_owned());
        self
    }

    /// A label's value, empty when absent.
    #[must_use]
    pub fn label(&self, key: &str) -> &str {
        self.body["metadata"]["labels"][key].as_str().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_namespaced_kind_needs_a_namespace_and_a_cluster_kind_has_none() {
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        assert!(Manifest::new(config).is_err());
        let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "namespace": "b"}});
        assert!(Manifest::new(space).is_err());
        let stack = json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "RegionStack", "metadata": {"name": "eu"}});
        assert_eq!(
            Manifest::new(stack).map(|m| m.key().to_string()),
            Ok("RegionStack eu".to_owned())
        );
    }

    #[test]
    fn a_label_can_be_added_where_there_are_none() -> Result<(), NotAManifest> {
        let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "namespace": "b"}});
        let bare = Manifest::new(body)?;
        let before = bare.digest().to_owned();
        let labelled = bare.with_label("x", "y");
        assert_eq!(labelled.label("x"), "y");
        assert_ne!(labelled.digest(), before, "a digest is of what is there now");
        Ok(())
    }
}
