//! What a member is to hold of its region: the stack, and a placement for every tenant that concerns it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use meridian_policy::{CompiledPolicy, Denial, PolicyRevision, RegionName, RegionPolicy, Rule};
use serde_json::{Value, json};

use super::told::{self, Told};
use super::{RegionError, cuts, removal};
use crate::apply::observed;
use crate::hub::adopt::unknown::Unknown;
use crate::hub::{adopt, source};
use crate::manifest::{
    MANAGED_BY, MANAGED_BY_LABEL, Manifest, NotAManifest, OWNER_UID_LABEL, ObjectKey, REGION_LABEL, REGION_STACK,
    TENANT_PLACEMENT,
};
use crate::policy_form::{self, Others};
use crate::watch::Cache;

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
    /// The stack as the member holds it; null when it does not.
    pub(crate) existing: Value,
    /// What is the matter with tenants that the hub does not know, when there are any: what the member has of them is in the
    /// plan as it is.
    pub(crate) unknown: Option<String>,
    /// Why the region has no policy of its own: then the plan is what it has, without edges and without who has left.
    /// Whoever is to go can go; nobody moves in.
    pub(crate) lawless: Option<Box<Denial>>,
    /// What the stack's `epochFloor` must be raised to before the stack is written: above the epochs of those that leave.
    /// It is no part of the stack's manifest: a hub of an older version would take it back.
    pub(crate) epoch_floor: Option<u64>,
}

impl RegionPlan {
    /// The plan of a region, from its FitnessRegion, the policy, what its member holds, and the hub's resources, which say
    /// what of that the hub knows.
    ///
    /// # Errors
    /// [`RegionError::Policy`] when the policy has no place for the region; [`RegionError::TenantsUnknown`] when nothing can
    /// be planned without losing what the member has of tenants that the hub does not know.
    pub(crate) fn of(
        region: &RegionName,
        uid: &str,
        object: &Value,
        hub: &Cache,
        (compiled, told): (&CompiledPolicy, &Told),
        held: &Cache,
        now: Timestamp,
    ) -> Result<Self, RegionError> {
        let existing = source::stack(held, region).unwrap_or(Value::Null);
        let unknown = Unknown::of(region, object, hub, compiled, held, &existing, now)?;
        // What the policy tells of others is the same for all regions; what only the member knows is not.
        let (mut policy, others, lawless) = match compiled.own_part(region, PolicyRevision::default()) {
            Ok(policy) if unknown.is_nobody() => (policy, None, None),
            Ok(mut policy) => {
                let Others { directory, peers } = told::others(region, compiled);
                (policy.directory, policy.peers) = (directory, peers);
                let mut policy = unknown.join(policy);
                let others = Others::taken_from(&mut policy);
                (policy, Some(others), None)
            }
            Err(denial) => {
                let deleted = crate::finalizer::is_deleting(object);
                let narrowed = (deleted || denial.rule == Rule::UnknownJurisdiction)
                    .then(|| removal::without_law(&existing, compiled))
                    .flatten();
                let denial = Box::new(denial);
                let Some(left) = narrowed else {
                    return Err(RegionError::Policy(denial));
                };
                let mut policy = unknown.join(left);
                let others = Others::taken_from(&mut policy);
                (policy, Some(others), (!deleted).then_some(denial))
            }
        };
        policy.closing = cuts::to_acknowledge(region, &existing, &policy, hub, compiled);
        let epoch_floor = epoch_floor(region, &existing, &policy, held);
        let digest = others.as_ref().map_or_else(|| told.digest(region), told::digest);
        let content = content(&policy, &digest, object);
        let revision = next_revision(&existing, &content);
        policy.revision = PolicyRevision::from(revision);
        let form = policy_form::is_read_by(&existing)
            .then(|| {
                let there = policy_form::others_of(&existing["spec"]["policy"]);
                let text = match &others {
                    Some(others) => policy_form::packed_others(others),
                    None => told.text(region, compiled, there),
                };
                policy_form::packed(&policy, &text.ok()?).ok()
            })
            .flatten();
        let form = form.unwrap_or_else(|| {
            let Others { directory, peers } = others.unwrap_or_else(|| told::others(region, compiled));
            let mut plain = json!(policy);
            (plain["directory"], plain["peers"]) = (json!(directory), json!(peers));
            plain
        });
        let stack = stack(region, uid, object, (&policy, form), &content)?;
        // The namespace is the region role's to make: until it is there, no placement is planned and none is pruned either.
        let (placements, surplus) = if existing["status"]["namespaceReady"].as_bool() == Some(true) {
            let placements = placements(region, uid, compiled, &policy, held)?;
            let surplus = surplus(region, &placements, held, &unknown);
            (placements, surplus)
        } else {
            (Vec::new(), BTreeSet::new())
        };
        Ok(Self {
            revision,
            stack,
            placements,
            surplus,
            existing,
            unknown: unknown.said(),
            lawless,
            epoch_floor,
        })
    }

    /// Everything to apply, in order.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        std::iter::once(&self.stack).chain(&self.placements)
    }
}

/// Above every epoch of a tenant that has its home here and loses it by this policy; nothing when it is so already. Who that
/// is, stack and placements say: of a stack that cannot be opened, the latter alone.
fn epoch_floor(region: &RegionName, existing: &Value, policy: &RegionPolicy, held: &Cache) -> Option<u64> {
    let stay: BTreeSet<&str> = policy.homes.iter().map(|home| home.tenant.as_str()).collect();
    let homes = existing["spec"]["policy"]["homes"].as_array().into_iter().flatten();
    let told = homes.filter(|home| home["tenant"].as_str().is_some_and(|tenant| !stay.contains(tenant)));
    let told = told.filter_map(|home| home["epoch"].as_u64());
    let placements = adopt::unknown::placements(region, held).filter(|key| !stay.contains(key.name.as_str()));
    let placed = placements
        .filter(|key| adopt::unknown::is_ours(region, key, held))
        .filter_map(|key| {
            let spec = held.get(&key)?.data["spec"].clone();
            spec["epoch"].as_u64().filter(|_| spec["home"] == region.as_str())
        });
    let floor = told.chain(placed).max()?.saturating_add(1);
    let known = existing["spec"]["epochFloor"].as_u64().unwrap_or_default();
    (floor > known).then_some(floor)
}

/// The revision that the stack is written with: the one that is there when nothing changed for this region, else one more
/// than the highest that the member has seen.
fn next_revision(existing: &Value, content: &str) -> u64 {
    let written = existing["spec"]["revision"].as_u64().unwrap_or_default();
    let applied = existing["status"]["appliedRevision"].as_u64().unwrap_or_default();
    let same = existing["metadata"]["annotations"][CONTENT_ANNOTATION].as_str() == Some(content);
    if same && written >= applied {
        written
    } else {
        written.max(applied) + 1
    }
}

/// Annotation with the digest of everything that the revision stands for.
pub(crate) const CONTENT_ANNOTATION: &str = "meridian.sh/content";

/// The same whichever form the policy is written in.
fn content(policy: &RegionPolicy, others: &str, region: &Value) -> String {
    format!(
        "{}-{others}-{}",
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

fn stack(
    region: &RegionName,
    uid: &str,
    object: &Value,
    (policy, form): (&RegionPolicy, Value),
    content: &str,
) -> Result<Manifest, NotAManifest> {
    let wanted = &object["spec"];
    let mut spec = json!({
        "region": region, "jurisdiction": policy.jurisdiction, "revision": policy.revision,
        "publicHost": wanted["gateway"]["host"], "publicUrl": policy.public_url, "peerUrl": wanted["gateway"]["peerUrl"],
        "countriesServed": policy.countries_served, "policy": form,
    });
    for optional in ["image", "rollout", "dataPlane", "services", "paused"] {
        if !wanted[optional].is_null() {
            spec[optional] = wanted[optional].clone();
        }
    }
    // Told only where it is not the default: a member of an older version does not know the field.
    if wanted["deletionPolicy"] == "Delete" {
        spec["deletionPolicy"] = json!("Delete");
    }
    Manifest::new(json!({
        "apiVersion": REGION_STACK.api_version(), "kind": REGION_STACK.kind,
        "metadata": {
            "name": region, "labels": labels(region, uid),
            "annotations": { CONTENT_ANNOTATION: content },
        },
        "spec": spec,
    }))
}

/// A placement for every tenant that has its home here or an edge that leads here.
fn placements(
    region: &RegionName,
    uid: &str,
    compiled: &CompiledPolicy,
    policy: &RegionPolicy,
    held: &Cache,
) -> Result<Vec<Manifest>, NotAManifest> {
    let namespace = format!("meridian-{region}");
    let tenants = compiled.source().tenants.iter();
    let importing: BTreeSet<_> = policy.imports.iter().map(|edge| &edge.tenant).collect();
    let concerned = tenants.filter(|(tenant, facts)| facts.spec.home.region == *region || importing.contains(tenant));
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

/// The region's placements that are there and not planned. By region, not by owner: a FitnessRegion that was made anew
/// takes away what was written for the one before it, too.
fn surplus(region: &RegionName, placements: &[Manifest], held: &Cache, unknown: &Unknown) -> BTreeSet<ObjectKey> {
    let planned: BTreeSet<_> = placements.iter().map(Manifest::key).collect();
    adopt::unknown::placements(region, held)
        .filter(|key| !planned.contains(key) && !unknown.keeps(&key.name) && adopt::unknown::is_ours(region, key, held))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::TENANT_DATA_RESIDENCY;
    use crate::plugin::world::{World, edit};

    #[test]
    fn a_region_is_told_in_the_form_that_it_reads_and_that_is_no_new_revision() {
        let world = World::settled();
        let spec = || {
            let key = ObjectKey::cluster(REGION_STACK, "eu");
            observed(&world.held("eu").get(&key).unwrap())["spec"].clone()
        };
        let packed = spec();
        assert!(policy_form::is_packed(&packed["policy"]));
        edit(world.held("eu"), REGION_STACK, "eu", |stack| {
            stack["status"]["policyForms"] = json!([])
        });
        world.reconcile();
        let plain = spec();
        assert_eq!(plain["policy"]["peers"][0]["region"], "us");
        let read = |spec: &Value| policy_form::read(&spec["policy"]).unwrap();
        assert_eq!((read(&plain), &plain["revision"]), (read(&packed), &packed["revision"]));
        world.reconcile();
        assert_eq!(spec(), packed);
    }

    #[test]
    fn a_packed_policy_asks_about_an_edge_from_the_write_that_takes_it_out_until_that_is_acknowledged() {
        let world = World::settled();
        let stack = || observed(&world.held("eu").get(&ObjectKey::cluster(REGION_STACK, "eu")).unwrap());
        let before = stack()["spec"]["revision"].as_u64().unwrap();
        edit(&world.hub, TENANT_DATA_RESIDENCY, "stride-eu", |tenant| {
            tenant["spec"]["classes"] = json!([]);
        });
        world.reconcile();
        let policy = || {
            let stack = stack();
            assert!(policy_form::is_packed(&stack["spec"]["policy"]));
            policy_form::read(&stack["spec"]["policy"]).unwrap()
        };
        let cut = policy();
        assert_eq!((cut.exports.len(), cut.closing.len()), (0, 1));
        assert_eq!((cut.closing[0].revision.0, cut.revision.0), (before, before + 1));
        world.reconcile();
        assert_eq!(policy(), cut);
        edit(world.held("eu"), REGION_STACK, "eu", |stack| {
            stack["status"]["acks"] = json!([{"edge": cut.closing[0].id, "role": "exporter", "revision": before + 1,
                "purged": 0, "sinks": ["replicator"]}]);
        });
        world.reconcile();
        assert!(policy().closing.is_empty());
    }

    #[test]
    fn the_epoch_floor_rises_above_who_leaves_also_where_the_policy_cannot_be_opened() {
        let (world, eu) = (World::settled(), "eu".parse().unwrap());
        let mut stack = source::stack(world.held("eu"), &eu).unwrap();
        let mut policy = policy_form::read(&stack["spec"]["policy"]).unwrap();
        let floor = |stack: &Value, policy: &RegionPolicy| epoch_floor(&eu, stack, policy, world.held("eu"));
        assert_eq!(floor(&stack, &policy), None);
        let epoch = policy.homes[0].epoch.0;
        policy.homes.clear();
        assert_eq!(floor(&stack, &policy), Some(epoch + 1));
        stack["spec"]["policy"] = json!({"packed": {"own": "?", "others": "?"}});
        assert_eq!(floor(&stack, &policy), Some(epoch + 1));
        stack["spec"]["epochFloor"] = json!(epoch + 1);
        assert_eq!(floor(&stack, &policy), None, "it is so already");
    }
}
