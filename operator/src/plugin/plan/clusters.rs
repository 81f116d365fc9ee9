//! What the hub would write into each member, by its own plans. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
use meridian_policy::{CompiledPolicy, PolicyRevision, RegionName};
use serde::Serialize;
use serde_json::{Value, json};

use super::admit::Refusal;
use super::fields::{FieldChange, changes};
use super::{Action, schema};
use crate::apply::{Applied, foresee, observed};
use crate::finalizer;
use crate::hub::departure::FINALIZER;
use crate::hub::region::{
    CONTENT_ANNOTATION, RegionError, RegionPlan, Removal, Told, named_primary, parse, stands_under_its_law,
    stands_where_declared,
};
use crate::hub::source::Departing;
use crate::hub::{closing, pool, source, trust};
use crate::manifest::{FITNESS_REGION, INGEST_POOL, Kind, Manifest, ObjectKey, TENANT_DATA_RESIDENCY};
use crate::plugin::observe::Members;
use crate::policy_form;
use crate::watch::Cache;

/// What would happen in the member of one region.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRow {
    /// The cluster; empty when the region names none that could be written into.
    pub cluster: String,
    /// The region.
    pub region: String,
    /// Why nothing can be written there, or could not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// The refusal stands whatever the files say, and they change nothing there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refused_already: bool,
    /// What would be created, changed and removed.
    pub copies: Vec<CopyRow>,
    /// What comes later.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// An object in a member.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyRow {
    /// What would become of it.
    pub action: Action,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Which fields would change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
    /// The hub is about to do this anyway: the files have no part in it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub under_way: bool,
}

/// Every region's member, in the order of the regions' names; last the pools of regions that there are not.
pub(super) fn clusters(hub: &Cache, policy: &CompiledPolicy, members: &Members, now: Timestamp) -> Vec<ClusterRow> {
    let regions = hub.of_kind(FITNESS_REGION);
    let rows = regions.iter().map(|(key, object)| {
        let (cluster, planned) = region(&key.name, object, hub, policy, members, now);
        let (copies, notes, refusal) = match planned {
            Ok((copies, notes)) => (copies, notes, None),
            Err(refusal) => (Vec::new(), Vec::new(), Some(refusal)),
        };
        ClusterRow {
            cluster,
            region: key.name.clone(),
            refusal,
            refused_already: false,
            copies,
            notes,
        }
    });
    let homeless = hub.of_kind(INGEST_POOL).into_iter().filter_map(|(key, object)| {
        let named = object.data["spec"]["region"].as_str().unwrap_or_default();
        let known = regions.iter().any(|(region, _)| region.name == named);
        (!known).then(|| ClusterRow {
            cluster: String::new(),
            region: named.to_owned(),
            refusal: Some(Refusal {
                rule: "unknown-region".to_owned(),
                path: None,
                message: format!("{key} cannot be placed: there is no FitnessRegion '{named}'"),
                what_to_do: Some("apply the FitnessRegion first, or correct spec.region"),
            }),
            refused_already: false,
            copies: Vec::new(),
            notes: Vec::new(),
        })
    });
    rows.chain(homeless).collect()
}

type Planned = Result<(Vec<CopyRow>, Vec<String>), Refusal>;

fn region(
    name: &str,
    object: &DynamicObject,
    hub: &Cache,
    policy: &CompiledPolicy,
    members: &Members,
    now: Timestamp,
) -> (String, Planned) {
    let object = observed(object);
    let placed = parse(name, &object).and_then(|(region, spec)| {
        let cluster = named_primary(name, &spec)?.clone();
        Ok((region, spec, cluster))
    });
    let (region, spec, cluster) = match placed {
        Ok(placed) => placed,
        Err(error) => return (String::new(), Err(refused(&error))),
    };
    let lay_down = |held: &Cache| {
        stands_where_declared(name, &cluster, held)?;
        stands_under_its_law(name, &spec, policy.source().jurisdictions.get(&spec.jurisdiction))?;
        copies(&region, &object, hub, policy, held, || stacks(hub, members), now)
    };
    let planned = match members.get(&cluster.name) {
        Some(Ok(held)) => leaving(&region, &object, hub, members, held, now)
            .map_or_else(|| lay_down(held), Ok)
            .map_err(|error| refused(&error)),
        Some(Err(silence)) => Err(Refusal {
            rule: silence.reason.to_owned(),
            path: None,
            message: silence.message.clone(),
            what_to_do: None,
        }),
        None => Err(Refusal {
            rule: "MemberUnreachable".to_owned(),
            path: None,
            message: format!("cluster {} was not asked", cluster.name),
            what_to_do: None,
        }),
    };
    (cluster.name, planned)
}

/// What goes from the member of a region that is being deleted; none while it is laid down as ever.
fn leaving(
    region: &RegionName,
    object: &Value,
    hub: &Cache,
    members: &Members,
    held: &Cache,
    now: Timestamp,
) -> Option<(Vec<CopyRow>, Vec<String>)> {
    if !finalizer::is_deleting(object) {
        return None;
    }
    // Nobody waits for it any more: the hub looks away.
    if !finalizer::is_held(object, FINALIZER) {
        return Some((Vec::new(), Vec::new()));
    }
    let stacks = stacks(hub, members);
    let due = match Removal::of(region, object, hub, held, &stacks, now) {
        Removal::Stay(_) => return None,
        Removal::Done => Vec::new(),
        Removal::Due(due) => due,
    };
    let going = due.iter().filter(|(_, uid)| uid.is_some());
    let rows = going.map(|(key, _)| removed(key, held)).collect();
    Some((rows, vec![format!("{region} is being deleted")]))
}

fn stacks(hub: &Cache, members: &Members) -> closing::Stacks {
    closing::stacks(hub, |member| members.get(member)?.as_ref().ok().cloned())
}

fn removed(key: &ObjectKey, held: &Cache) -> CopyRow {
    let before = held.get(key).map(|object| observed(&object)).unwrap_or_default();
    row(Action::Removed, key, changes("spec", &opened(&before), &Value::Null))
}

fn refused(error: &RegionError) -> Refusal {
    Refusal {
        rule: error.reason().to_owned(),
        path: None,
        message: error.to_string(),
        what_to_do: None,
    }
}

fn copies(
    region: &RegionName,
    object: &Value,
    hub: &Cache,
    policy: &CompiledPolicy,
    held: &Cache,
    stacks: impl FnOnce() -> closing::Stacks,
    now: Timestamp,
) -> Result<(Vec<CopyRow>, Vec<String>), RegionError> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let mut plan = RegionPlan::of(region, uid, object, hub, (policy, &Told::of(policy)), held, now)?;
    if let Some(denial) = plan.lawless {
        return Err(RegionError::Policy(denial));
    }
    plan.stack = trust::with_rotation(plan.stack, region, object, &plan.existing, stacks)?;
    let mut rows = Vec::new();
    for manifest in plan.manifests() {
        rows.extend(copy(manifest, held)?);
    }
    rows.extend(plan.surplus.iter().map(|key| removed(key, held)));
    let departing = Departing::of(hub).regions.contains(region);
    for (key, pool) in hub.of_kind(INGEST_POOL) {
        if pool.data["spec"]["region"] == region.as_str() && !departing {
            let uid = pool.uid().unwrap_or_default();
            let manifest = pool::copy(&key.name, region.as_str(), &uid, &observed(&pool))?;
            rows.extend(copy(&manifest, held)?);
        }
    }
    let mut notes = notes(region, policy, held);
    notes.extend(plan.unknown.clone());
    Ok((rows, notes))
}

fn copy(manifest: &Manifest, held: &Cache) -> Result<Option<CopyRow>, RegionError> {
    let key = manifest.key();
    let live = held.get(key);
    let action = match foresee(live.as_deref(), manifest)? {
        Applied::Unchanged => return Ok(None),
        Applied::Created => Action::Created,
        Applied::Changed => Action::Changed,
    };
    let before = live.map(|live| observed(&live)).unwrap_or_default();
    Ok(Some(row(action, key, told(key.kind, &before, manifest.body()))))
}

fn row(action: Action, key: &ObjectKey, fields: Vec<FieldChange>) -> CopyRow {
    CopyRow {
        action,
        kind: key.kind.kind,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        fields,
        under_way: false,
    }
}

/// The spec, and the labels by which the copy is known. The annotations keep digests of all that.
fn told(kind: Kind, before: &Value, planned: &Value) -> Vec<FieldChange> {
    let after = schema::defaulted(kind, &opened(planned));
    let old = schema::defaulted(kind, &opened(before));
    let labels = &planned["metadata"]["labels"];
    let known: serde_json::Map<String, Value> = labels
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, _)| Some((name.clone(), before["metadata"]["labels"].get(name)?.clone())))
        .collect();
    let mut fields = changes("metadata.labels", &Value::Object(known), labels);
    fields.extend(changes("spec", &old, &after));
    let content = |object: &Value| object["metadata"]["annotations"][CONTENT_ANNOTATION].clone();
    if fields.is_empty() && content(before) != content(planned) {
        let path = format!("metadata.annotations[{CONTENT_ANNOTATION}]");
        fields.extend(changes(&path, &content(before), &content(planned)));
    }
    fields
}

/// The spec with its policy, if it has one, as people read it. What cannot be opened is told as it is.
fn opened(object: &Value) -> Value {
    let mut spec = object["spec"].clone();
    if let Some(policy) = spec.get_mut("policy") {
        let _ = policy_form::open(policy);
    }
    spec
}

/// What no plan can hold yet, because the region has to do something first.
fn notes(region: &RegionName, policy: &CompiledPolicy, held: &Cache) -> Vec<String> {
    let stack = source::stack(held, region).unwrap_or_default();
    let mut notes = Vec::new();
    if stack["status"]["namespaceReady"] != true {
        let concerned = policy.source().tenants.values().filter(|facts| {
            facts.spec.home.region == *region
                || policy
                    .edges()
                    .any(|edge| edge.to == *region && edge.tenant == facts.spec.tenant)
        });
        let names: Vec<&str> = concerned.map(|facts| facts.spec.tenant.as_str()).collect();
        if !names.is_empty() {
            notes.push(format!(
                "TenantPlacements of {} follow once the region has made its namespace",
                names.join(", ")
            ));
        }
    }
    if stack["status"]["caBundle"].as_str().unwrap_or_default().is_empty() {
        notes.push(format!(
            "{region} becomes a peer of the other regions once it has made its keys"
        ));
    }
    notes
}

/// Everything that decides what a region's member must hold, but for what it holds.
pub(super) fn wanted(hub: &Cache, policy: &CompiledPolicy, region: &str) -> Value {
    let specs = |kind: Kind, ours: fn(&Value) -> &Value| -> Vec<Value> {
        hub.of_kind(kind)
            .into_iter()
            .filter(|(_, object)| ours(&object.data["spec"]) == region)
            .map(|(_, object)| object.data["spec"].clone())
            .collect()
    };
    let own = hub.get(&ObjectKey::cluster(FITNESS_REGION, region));
    let digest = region
        .parse::<RegionName>()
        .ok()
        .and_then(|region| policy.for_region(&region, PolicyRevision::default()).ok())
        .map(|policy| policy.content_digest());
    json!({
        "spec": own.map(|own| own.data["spec"].clone()),
        "policy": digest,
        "pools": specs(INGEST_POOL, |spec| &spec["region"]),
        "tenants": specs(TENANT_DATA_RESIDENCY, |spec| &spec["home"]["region"]),
    })
}
