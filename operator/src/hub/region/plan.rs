//! What a member is to hold of its region: the stack, and a placement for every tenant that concerns it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use meridian_policy::{CompiledPolicy, PolicyRevision, RegionName, RegionPolicy};
use serde_json::{Value, json};

use super::told::{self, Told};
use super::{RegionError, removal};
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
        let (mut policy, others) = match compiled.own_part(region, PolicyRevision::default()) {
            Ok(policy) if unknown.is_nobody() => (policy, None),
            Ok(mut policy) => {
                let Others { directory, peers } = told::others(region, compiled);
                (policy.directory, policy.peers) = (directory, peers);
                let mut policy = unknown.join(policy);
                let others = Others::taken_from(&mut policy);
                (policy, Some(others))
            }
            Err(denial) => {
                let left = removal::without_law(object, &existing, compiled);
                let mut policy = unknown.join(left.ok_or_else(|| RegionError::Policy(Box::new(denial)))?);
                let others = Others::taken_from(&mut policy);
                (policy, Some(others))
            }
        };
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
        })
    }

    /// Everything to apply, in order.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        std::iter::once(&self.stack).chain(&self.placements)
    }
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
}
