//! FitnessRegion → its member: the `RegionStack`, the placements of its tenants, and whether its lease may be renewed.
//!
//! observe → validate → plan (pure) → apply → status

use std::collections::BTreeSet;
use std::sync::Arc;

use meridian_crds::{ClusterMember, ClusterRole, FitnessRegionSpec};
use meridian_policy::{CompiledPolicy, PolicyRevision, RegionName, RegionPolicy};
use serde_json::{Value, json};

use super::lease::Settled;
use super::members::{Health, Member};
use super::{Hub, source};
use crate::apply::{ApplyError, Purpose, observed};
use crate::conditions::{Observation, Standing, Status};
use crate::manifest::{
    FITNESS_REGION, MANAGED_BY, MANAGED_BY_LABEL, Manifest, NODE, NotAManifest, OWNER_UID_LABEL, ObjectKey,
    REGION_LABEL, REGION_STACK, SECRET, TENANT_PLACEMENT,
};
use crate::member::MemberError;
use crate::reconcile::{Outcome, Pass};
use crate::watch::Cache;

/// Node label by which a cluster's nodes say in which country they stand.
const COUNTRY_LABEL: &str = "meridian.sh/country";

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The resource itself does not say what is needed.
    #[error("FitnessRegion {region} cannot be read: {cause}")]
    Invalid {
        /// Which one.
        region: String,
        /// What is wrong.
        cause: String,
    },
    /// The member's kubeconfig Secret is missing.
    #[error("region {region}: Secret {secret} has no key {key}; create it with the kubeconfig of cluster {cluster}")]
    NoKubeconfig {
        /// Which region.
        region: String,
        /// Which Secret in the operator's namespace.
        secret: String,
        /// Which key in it.
        key: String,
        /// Of which cluster.
        cluster: String,
    },
    /// The kubeconfig is refused.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The cluster stands somewhere else than declared.
    #[error("cluster {cluster} of region {region} is declared to be in {declared}, but its node {node} says {found}")]
    Elsewhere {
        /// Which region.
        region: String,
        /// Which cluster.
        cluster: String,
        /// What FitnessRegion says.
        declared: String,
        /// Which node contradicts.
        node: String,
        /// What its label says.
        found: String,
    },
    /// The member does not answer.
    #[error("cluster {cluster} of region {region} does not answer: {cause}")]
    Unreachable {
        /// Which region.
        region: String,
        /// Which cluster.
        cluster: String,
        /// What came back.
        cause: String,
    },
    /// The policy has no place for the region.
    #[error("{0}")]
    Policy(String),
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A plan was not a manifest.
    #[error(transparent)]
    Plan(#[from] NotAManifest),
}

impl RegionError {
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "Invalid",
            Self::NoKubeconfig { .. } => "KubeconfigMissing",
            Self::Member(_) => "KubeconfigRefused",
            Self::Elsewhere { .. } => "CountryContradicted",
            Self::Unreachable { .. } => "MemberUnreachable",
            Self::Policy(_) => "PolicyRefused",
            Self::Apply(_) | Self::Plan(_) => "ApplyFailed",
        }
    }

    /// Only a change of a resource can help; trying again cannot.
    const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Invalid { .. }
                | Self::NoKubeconfig { .. }
                | Self::Member(_)
                | Self::Elsewhere { .. }
                | Self::Policy(_)
        )
    }
}

/// One pass over a region.
///
/// # Errors
/// What failed, after the status has said so too.
pub async fn reconcile(hub: Arc<Hub>, name: String) -> Result<Pass, RegionError> {
    let key = ObjectKey::cluster(FITNESS_REGION, &name);
    let Some(object) = hub.cache.get(&key) else {
        // Deleting a region with tenants is a later step: its stack stays in the member, and its lease ends.
        hub.ledger.forget(&name);
        return Ok(Pass::of(Outcome::Gone));
    };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let object = observed(&object);
    let result = lay_down(&hub, &name, &uid, &object).await;
    if result.is_err() {
        hub.ledger.forget(&name);
    }
    let status = status(&hub, &name, &object, &result);
    let told = hub.applier.apply_status(&key, &object["status"], status).await;
    match result {
        Ok(done) => {
            told?;
            Ok(Pass::of(if done.wrote {
                Outcome::Progressed
            } else {
                done.outcome()
            }))
        }
        Err(error) if error.is_refusal() => {
            tracing::warn!(region = %name, error = %error, "region refused");
            told?;
            Ok(Pass::of(Outcome::Refused))
        }
        Err(error) => Err(error),
    }
}

/// What a pass found and did.
struct Done {
    wrote: bool,
    revision: u64,
    stack: Value,
}

impl Done {
    fn applied(&self) -> u64 {
        self.stack["status"]["appliedRevision"].as_u64().unwrap_or_default()
    }

    fn outcome(&self) -> Outcome {
        if self.applied() == self.revision {
            Outcome::Steady
        } else {
            Outcome::Waiting
        }
    }
}

async fn lay_down(hub: &Hub, name: &str, uid: &str, object: &Value) -> Result<Done, RegionError> {
    // observe
    let invalid = |cause: String| RegionError::Invalid {
        region: name.to_owned(),
        cause,
    };
    let region: RegionName = name
        .parse()
        .map_err(|error| invalid(format!("metadata.name: {error}")))?;
    let spec: FitnessRegionSpec =
        serde_json::from_value(object["spec"].clone()).map_err(|error| invalid(format!("spec: {error}")))?;
    let cluster = primary(&spec).ok_or_else(|| invalid("spec.clusters: one must have the role Primary".to_owned()))?;
    let member = connect(hub, name, cluster).await?;
    // validate
    if let Health::Unreachable(cause) = member.health() {
        return Err(RegionError::Unreachable {
            region: name.to_owned(),
            cluster: cluster.name.clone(),
            cause,
        });
    }
    stands_where_declared(name, cluster, member.cache())?;
    let Some(compiled) = hub.newest.get().filter(|_| member.is_known()) else {
        // The first compile waits for every member; it triggers this region again.
        return Ok(Done {
            wrote: false,
            revision: 0,
            stack: Value::Null,
        });
    };
    // plan
    let plan = plan(&region, uid, object, &compiled.policy, member.cache())?;
    let revision = plan.revision;
    // apply
    let mut wrote = false;
    for (purpose, manifest) in plan.manifests() {
        wrote |= member.applier.apply(purpose, manifest).await? != crate::apply::Applied::Unchanged;
    }
    if !plan.surplus.is_empty() {
        let surplus = |key: &ObjectKey| plan.surplus.contains(key);
        wrote |= !member.applier.prune_unless(uid, |key| !surplus(key)).await?.is_empty();
    }
    let stack = source::stack(member.cache(), &region).unwrap_or(Value::Null);
    let done = Done { wrote, revision, stack };
    hub.ledger.record(
        name,
        Settled {
            member: cluster.name.clone(),
            serial: compiled.serial,
            written: revision,
            applied: done.applied(),
        },
    );
    Ok(done)
}

/// What a region's member must hold.
pub(crate) struct RegionPlan {
    /// Of the policy as it is written.
    pub(crate) revision: u64,
    /// The region's stack.
    pub(crate) stack: Manifest,
    /// Its tenants.
    pub(crate) placements: Vec<Manifest>,
    /// Placements that must go.
    pub(crate) surplus: BTreeSet<ObjectKey>,
}

impl RegionPlan {
    /// Everything to apply, in order.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (Purpose, &Manifest)> {
        std::iter::once((Purpose::HubStack, &self.stack))
            .chain(self.placements.iter().map(|manifest| (Purpose::HubPlacement, manifest)))
    }
}

/// The plan of a region, from its FitnessRegion, the policy and what its member holds. Pure.
///
/// # Errors
/// [`RegionError::Policy`] when the policy has no place for the region.
pub(crate) fn plan(
    region: &RegionName,
    uid: &str,
    object: &Value,
    compiled: &CompiledPolicy,
    held: &Cache,
) -> Result<RegionPlan, RegionError> {
    let existing = source::stack(held, region).unwrap_or(Value::Null);
    let policy = compiled
        .for_region(region, PolicyRevision::default())
        .map_err(|denial| RegionError::Policy(denial.to_string()))?;
    let revision = next_revision(&existing, &policy, object);
    let policy = RegionPolicy {
        revision: PolicyRevision::from(revision),
        ..policy
    };
    let stack = plan_stack(region, uid, object, &policy, revision)?;
    let placements = plan_placements(region, uid, &existing, compiled, &policy, held)?;
    // The namespace is the region role's to make: until it is there, no placement is planned and none is pruned either.
    let surplus = if existing["status"]["namespaceReady"].as_bool() == Some(true) {
        let owned = held.owned_by(uid).into_iter().map(|(key, _)| key);
        owned
            .filter(|key| key.kind == TENANT_PLACEMENT && !placements.iter().any(|placement| placement.key() == key))
            .collect()
    } else {
        BTreeSet::new()
    };
    Ok(RegionPlan {
        revision,
        stack,
        placements,
        surplus,
    })
}

pub(crate) fn primary(spec: &FitnessRegionSpec) -> Option<&ClusterMember> {
    spec.clusters
        .iter()
        .find(|cluster| cluster.role == ClusterRole::Primary)
}

async fn connect(hub: &Hub, region: &str, cluster: &ClusterMember) -> Result<Arc<Member>, RegionError> {
    let secret = &cluster.kubeconfig_secret;
    let key = ObjectKey::namespaced(SECRET, &hub.namespace, &secret.name);
    let text = hub
        .cache
        .get(&key)
        .and_then(|object| decoded(&object.data["data"][secret.key.as_str()]));
    let Some(text) = text else {
        hub.members.refuse(&cluster.name);
        hub.newest.source_changed();
        return Err(RegionError::NoKubeconfig {
            region: region.to_owned(),
            secret: format!("{}/{}", hub.namespace, secret.name),
            key: secret.key.clone(),
            cluster: cluster.name.clone(),
        });
    };
    let connected = hub.members.ensure(&cluster.name, &text).await;
    if connected.is_err() {
        hub.members.refuse(&cluster.name);
        hub.newest.source_changed();
    }
    Ok(connected?)
}

pub(crate) fn decoded(value: &Value) -> Option<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

/// A node that says nothing does not contradict; one that names another country does.
pub(crate) fn stands_where_declared(region: &str, cluster: &ClusterMember, held: &Cache) -> Result<(), RegionError> {
    for (key, node) in held.of_kind(NODE) {
        let label = node
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(COUNTRY_LABEL));
        if let Some(found) = label.filter(|found| found.as_str() != cluster.country.as_str()) {
            return Err(RegionError::Elsewhere {
                region: region.to_owned(),
                cluster: cluster.name.clone(),
                declared: cluster.country.to_string(),
                node: key.name,
                found: found.clone(),
            });
        }
    }
    Ok(())
}

/// The revision that the stack is written with: the one that is there when nothing changed for this region, else one more
/// than the highest that the member has seen.
fn next_revision(existing: &Value, policy: &RegionPolicy, region: &Value) -> u64 {
    let written = existing["spec"]["revision"].as_u64().unwrap_or_default();
    let applied = existing["status"]["appliedRevision"].as_u64().unwrap_or_default();
    let same =
        existing["metadata"]["annotations"][CONTENT_ANNOTATION].as_str() == Some(content(policy, region).as_str());
    if same && written >= applied {
        written
    } else {
        written.max(applied) + 1
    }
}

/// Annotation with the digest of everything that the revision stands for.
pub(crate) const CONTENT_ANNOTATION: &str = "meridian.sh/content";

fn content(policy: &RegionPolicy, region: &Value) -> String {
    format!(
        "{}-{}",
        policy.content_digest(),
        &crate::apply::digest(&region["spec"])[..16]
    )
}

fn labels(region: &RegionName, uid: &str) -> Value {
    json!({
        MANAGED_BY_LABEL: MANAGED_BY, "app.kubernetes.io/part-of": "meridian",
        REGION_LABEL: region.as_str(), OWNER_UID_LABEL: uid,
    })
}

fn plan_stack(
    region: &RegionName,
    uid: &str,
    object: &Value,
    policy: &RegionPolicy,
    revision: u64,
) -> Result<Manifest, NotAManifest> {
    let wanted = &object["spec"];
    let mut spec = json!({
        "region": region, "jurisdiction": policy.jurisdiction, "revision": revision,
        "publicHost": wanted["gateway"]["host"], "publicUrl": policy.public_url, "peerUrl": wanted["gateway"]["peerUrl"],
        "countriesServed": policy.countries_served, "policy": policy,
    });
    for optional in ["image", "dataPlane", "services", "paused"] {
        if !wanted[optional].is_null() {
            spec[optional] = wanted[optional].clone();
        }
    }
    Manifest::new(json!({
        "apiVersion": REGION_STACK.api_version(), "kind": REGION_STACK.kind,
        "metadata": {
            "name": region, "labels": labels(region, uid),
            "annotations": { CONTENT_ANNOTATION: content(policy, object) },
        },
        "spec": spec,
    }))
}

/// A placement for every tenant that has its home here or an edge that leads here.
fn plan_placements(
    region: &RegionName,
    uid: &str,
    existing: &Value,
    compiled: &CompiledPolicy,
    policy: &RegionPolicy,
    held: &Cache,
) -> Result<Vec<Manifest>, NotAManifest> {
    if existing["status"]["namespaceReady"].as_bool() != Some(true) {
        return Ok(Vec::new());
    }
    let namespace = format!("meridian-{region}");
    let tenants = compiled.source().tenants.iter();
    let concerned = tenants.filter(|(tenant, facts)| {
        facts.spec.home.region == *region || policy.imports.iter().any(|edge| edge.tenant == **tenant)
    });
    let mut placements = Vec::new();
    for (tenant, facts) in concerned {
        let edges: Vec<_> = policy.exports.iter().filter(|edge| edge.tenant == *tenant).collect();
        let key = ObjectKey::namespaced(TENANT_PLACEMENT, &namespace, tenant.as_str());
        let placed = held.get(&key).map(|object| observed(&object)).unwrap_or(Value::Null);
        let wanted = json!({
            "tenant": tenant, "organization": facts.spec.organization, "home": facts.spec.home.region,
            "epoch": facts.epoch, "edges": edges,
        });
        let digest = crate::apply::digest(&wanted);
        let seen = placed["spec"]["revision"].as_u64().unwrap_or_default();
        let same = placed["metadata"]["annotations"][CONTENT_ANNOTATION].as_str() == Some(digest.as_str());
        let mut spec = wanted;
        spec["revision"] = json!(if same { seen } else { seen + 1 });
        placements.push(Manifest::new(json!({
            "apiVersion": TENANT_PLACEMENT.api_version(), "kind": TENANT_PLACEMENT.kind,
            "metadata": {
                "name": tenant, "namespace": namespace, "labels": labels(region, uid),
                "annotations": { CONTENT_ANNOTATION: digest },
            },
            "spec": spec,
        }))?);
    }
    Ok(placements)
}

fn status(hub: &Hub, name: &str, object: &Value, result: &Result<Done, RegionError>) -> Value {
    let cluster = object["spec"]["clusters"][0]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let member = hub.members.get(&cluster);
    let stack = match (result, name.parse::<RegionName>()) {
        (Ok(done), _) => done.stack.clone(),
        // What was last seen stays said, beside the condition that says why nothing newer was.
        (Err(_), Ok(region)) => member
            .as_deref()
            .and_then(|member| source::stack(member.cache(), &region))
            .unwrap_or(Value::Null),
        (Err(_), Err(_)) => Value::Null,
    };
    let health = member.as_deref().map_or(Health::Unknown, Member::health);
    let reachable = match &health {
        Health::Reachable => Observation::new(
            "ClustersReachable",
            true,
            "Answering",
            format!("cluster {cluster} answers"),
        ),
        Health::Unreachable(cause) => Observation::new(
            "ClustersReachable",
            false,
            "NotAnswering",
            format!("cluster {cluster}: {cause}"),
        ),
        Health::Unknown => Observation::new(
            "ClustersReachable",
            Status::Unknown,
            "NotAsked",
            format!("cluster {cluster} has not answered yet"),
        ),
    };
    let standing = match result {
        Err(error) if error.is_refusal() => Standing::Failed {
            reason: error.reason(),
            message: error.to_string(),
        },
        Err(error) => Standing::InProgress(error.to_string()),
        Ok(done) if done.applied() == done.revision && holds(&stack, "Ready") => Standing::Current,
        Ok(done) if done.applied() == done.revision => Standing::InProgress(message(&stack, "Ready")),
        Ok(done) => Standing::InProgress(format!(
            "revision {} is written, the region applies {}",
            done.revision,
            done.applied()
        )),
    };
    let mut observations = standing.observations();
    let degraded = reachable.status == Status::False;
    observations.push(reachable);
    for kind in ["DataPlaneReady", "ServicesReady", "ResidencyEnforced"] {
        let (status, reason) = if degraded {
            (Status::Unknown, "MemberUnreachable")
        } else if holds(&stack, kind) {
            (Status::True, "Observed")
        } else {
            (Status::False, "Observed")
        };
        observations.push(Observation::new(kind, status, reason, message(&stack, kind)));
    }
    observations.push(Observation::new(
        "Degraded",
        degraded,
        if degraded { "MemberUnreachable" } else { "Healthy" },
        "",
    ));
    let reachable = matches!(health, Health::Reachable);
    let mut status = json!({
        "observedGeneration": object["metadata"]["generation"],
        "conditions": hub.conditions(object, &observations),
        "clusters": [{"name": cluster, "reachable": reachable}],
        "clustersReachable": format!("{}/1", u8::from(reachable)),
    });
    for (told, seen) in [
        ("revision", &stack["spec"]["revision"]),
        ("appliedRevision", &stack["status"]["appliedRevision"]),
    ] {
        if seen.is_u64() {
            status[told] = seen.clone();
        }
    }
    if !stack["status"]["endpoints"].is_null() {
        status["endpoints"] = stack["status"]["endpoints"].clone();
    }
    status
}

fn condition<'a>(stack: &'a Value, kind: &str) -> Option<&'a Value> {
    stack["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
}

fn holds(stack: &Value, kind: &str) -> bool {
    condition(stack, kind).is_some_and(|condition| {
        condition["status"] == "True" && condition["observedGeneration"] == stack["metadata"]["generation"]
    })
}

fn message(stack: &Value, kind: &str) -> String {
    condition(stack, kind)
        .and_then(|condition| condition["message"].as_str())
        .unwrap_or("the region has not said yet")
        .to_owned()
}
