//! What the policy is compiled from, read off the hub's and the members' caches.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use kube::api::DynamicObject;
use meridian_crds::FitnessRegionSpec;
use meridian_policy::{
    Epoch, OrganizationName, PolicySource, RegionFacts, RegionName, RegionTrust, Shared, TenantFacts,
    TenantResidencySpec,
};
use serde::Deserialize;
use serde_json::Value;

use super::admission::named;
use super::closing;
use super::departure::{FINALIZER, LEAVING};
use super::gathered::Gatherer;
use super::members::OBSERVED;
use super::trust::is_newer;
use crate::apply::into_observed;
use crate::manifest::{FITNESS_REGION, JURISDICTION, Kind, ObjectKey, PARTY, REGION_STACK, TENANT_DATA_RESIDENCY};
use crate::policy_form;
use crate::watch::Cache;

/// What is known of one member.
#[derive(Clone, Default)]
pub struct Seen {
    /// What it holds, as far as it was listed; none when it cannot be asked.
    pub held: Option<Cache>,
    /// Whether waiting could tell more.
    pub awaited: bool,
}

impl Seen {
    /// What it holds, if everything that the hub reads there has been listed.
    pub(crate) fn known(&self) -> Option<&Cache> {
        self.held.as_ref().filter(|held| held.is_synced(OBSERVED))
    }
}

/// [`Gatherer::gather`] of somebody who asks once.
#[must_use]
pub fn gather(hub: &Cache, seen: impl Fn(&str) -> Seen) -> Option<PolicySource> {
    Gatherer::default().gather(hub, seen)
}

/// What the webhook judges by: the same, without what only members know, and as it is written. No edge is compiled from it.
/// A region that is being deleted is none that anything new could name.
pub(crate) fn for_review(hub: &Cache) -> PolicySource {
    let mut written = as_written(hub);
    written.regions.retain(|region, _| !is_deleted(hub, region));
    written
}

/// As it is written on the hub, whoever is being deleted.
pub(crate) fn as_written(hub: &Cache) -> PolicySource {
    written(hub, |object| {
        let spec = TenantResidencySpec::deserialize(&object.data["spec"]);
        spec.ok().map(Shared::from)
    })
}

/// What the hub alone tells of the policy: its edges and their ends as [`gather`] would have them, but no epochs and no keys.
pub(crate) fn of_hub(hub: &Cache) -> PolicySource {
    let departing = Departing::of(hub);
    written(hub, |object| departing.asked(object))
}

fn written(hub: &Cache, asked: impl Fn(&DynamicObject) -> Option<Shared<TenantResidencySpec>>) -> PolicySource {
    let tenants = hub
        .of_kind(TENANT_DATA_RESIDENCY)
        .into_iter()
        .filter_map(|(_, object)| {
            let spec = asked(&object)?;
            Some((
                spec.tenant.clone(),
                TenantFacts {
                    spec,
                    epoch: Epoch::from(1),
                },
            ))
        });
    PolicySource {
        jurisdictions: named(specs(hub, JURISDICTION)),
        parties: named(specs(hub, PARTY)),
        regions: regions(hub)
            .into_iter()
            .map(|(name, spec)| (name.clone(), facts(&name, &spec, None)))
            .collect(),
        tenants: tenants.collect(),
    }
}

pub(super) fn specs(cache: &Cache, kind: Kind) -> impl Iterator<Item = (String, Value)> {
    cache
        .of_kind(kind)
        .into_iter()
        .map(|(key, object)| (key.name, object.data["spec"].clone()))
}

/// The regions that can be read.
pub(crate) fn regions(hub: &Cache) -> BTreeMap<RegionName, FitnessRegionSpec> {
    named(specs(hub, FITNESS_REGION))
}

/// Names of the regions that have this cluster.
pub(super) fn regions_in(hub: &Cache, cluster: &str) -> BTreeSet<String> {
    let regions = hub.of_kind(FITNESS_REGION).into_iter();
    let has = |clusters: &Value| {
        let mut clusters = clusters.as_array().into_iter().flatten();
        clusters.any(|known| known["name"] == cluster)
    };
    regions
        .filter(|(_, region)| has(&region.data["spec"]["clusters"]))
        .map(|(key, _)| key.name)
        .collect()
}

/// Names of the regions that live in this cluster, whether or not they can be read; not of those that are let go of.
pub(super) fn homes_of(hub: &Cache, cluster: &str) -> BTreeSet<String> {
    let lives_there = |region: &DynamicObject| {
        let mut clusters = region.data["spec"]["clusters"].as_array().into_iter().flatten();
        clusters.any(|known| known["name"] == cluster && known["role"] == "Primary")
    };
    let regions = hub.of_kind(FITNESS_REGION).into_iter();
    let there = regions.filter(|(_, region)| lives_there(region) && !let_go(region));
    there.map(|(key, _)| key.name).collect()
}

/// What the policy needs of a region, from its unparsed spec.
///
/// # Errors
/// Which field cannot be read.
pub(super) fn region_facts(name: &str, spec: &Value, trust: Option<RegionTrust>) -> Result<RegionFacts, String> {
    let name: RegionName = name.parse().map_err(|error| format!("metadata.name: {error}"))?;
    let spec = FitnessRegionSpec::deserialize(spec).map_err(|error| format!("spec cannot be read: {error}"))?;
    Ok(facts(&name, &spec, trust))
}

pub(super) fn facts(name: &RegionName, spec: &FitnessRegionSpec, trust: Option<RegionTrust>) -> RegionFacts {
    RegionFacts {
        name: name.clone(),
        jurisdiction: spec.jurisdiction.clone(),
        operated_by: spec.operated_by.clone(),
        countries_served: spec.countries_served.clone(),
        public_url: spec.gateway.public_url.clone(),
        replicator_url: spec.gateway.peer_url.clone(),
        trust,
    }
}

/// What a region is verified by, as its stack in its member says.
pub(super) fn own_trust(stack: &DynamicObject) -> Option<RegionTrust> {
    let status = &stack.data["status"];
    let ca_pem = status["caBundle"].as_str().filter(|pem| !pem.is_empty())?.to_owned();
    let jwks = status.get("jwks").filter(|jwks| !jwks.is_null())?.clone();
    Some(RegionTrust { ca_pem, jwks })
}

/// What the others were told last about each region: it counts while the region itself cannot be asked.
pub(super) fn told(known: &[&Cache]) -> BTreeMap<RegionName, RegionTrust> {
    let mut told: BTreeMap<RegionName, RegionTrust> = BTreeMap::new();
    for (_, object) in known.iter().flat_map(|held| held.of_kind(REGION_STACK)) {
        for peer in policy_form::peers(&object.data["spec"]["policy"]) {
            let Ok(region) = RegionName::deserialize(&peer["region"]) else {
                continue;
            };
            let Some(ca_pem) = peer["ca_pem"].as_str() else {
                continue;
            };
            let trust = || RegionTrust {
                ca_pem: ca_pem.to_owned(),
                jwks: peer["jwks"].clone(),
            };
            match told.entry(region) {
                Entry::Vacant(unheard) => _ = unheard.insert(trust()),
                // In the middle of a rotation not all have been told the same.
                Entry::Occupied(mut heard) if is_newer(ca_pem, &heard.get().ca_pem) => _ = heard.insert(trust()),
                Entry::Occupied(_) => {}
            }
        }
    }
    told
}

/// How far a tenant's deletion has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// It is not deleted, or nobody has written down yet which edges that closes.
    Stays,
    /// Its edges are being closed.
    Closes,
    /// It has left the policy.
    Gone,
}

impl Course {
    pub(super) fn of(object: &DynamicObject) -> Self {
        if object.metadata.deletion_timestamp.is_none() {
            Self::Stays
        } else if object.data["status"]["phase"] == LEAVING || !is_held(object) {
            Self::Gone
        } else if is_closing(object) {
            Self::Closes
        } else {
            Self::Stays
        }
    }
}

/// Who is being deleted: nothing new is sent to them, so that they can purge while they are still there. Only from when
/// their edges are written down: what nobody remembers, nobody waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Departing {
    /// Regions without tenants of their own.
    pub regions: BTreeSet<RegionName>,
    /// Tenants, by what edges find them by.
    tenants: BTreeSet<(OrganizationName, RegionName)>,
}

impl Departing {
    pub(crate) fn of(hub: &Cache) -> Self {
        let deleted = |kind| hub.deleting(kind).into_iter().filter_map(|key| hub.get(&key));
        let deleted = |kind| deleted(kind).filter(|object| is_closing(object));
        let regions = deleted(FITNESS_REGION)
            .filter_map(|object| object.metadata.name.clone())
            .filter(|name| homed_in(hub, name).is_empty())
            .filter_map(|name| name.parse().ok());
        let tenants = deleted(TENANT_DATA_RESIDENCY)
            .filter_map(|object| TenantResidencySpec::deserialize(&object.data["spec"]).ok())
            .map(|spec| (spec.organization, spec.home.region));
        Self {
            regions: regions.collect(),
            tenants: tenants.collect(),
        }
    }

    /// The residency that the policy is compiled from: what the TenantDataResidency says, without edges from or to whoever
    /// is being deleted. Nothing, when it cannot be read or the tenant has left.
    pub(crate) fn asked(&self, object: &DynamicObject) -> Option<Shared<TenantResidencySpec>> {
        let spec = TenantResidencySpec::deserialize(&object.data["spec"]).ok()?;
        self.left_of(spec.into(), Course::of(object))
    }

    /// The same of a residency that has been read already.
    pub(super) fn left_of(
        &self,
        mut spec: Shared<TenantResidencySpec>,
        course: Course,
    ) -> Option<Shared<TenantResidencySpec>> {
        if course == Course::Gone {
            return None;
        }
        // Nearly always: then it stays the one that everybody shares.
        if course == Course::Stays && self.regions.is_empty() && self.tenants.is_empty() {
            return Some(spec);
        }
        let organization = spec.organization.clone();
        for class in &mut spec.classes {
            class
                .replicate_to
                .retain(|to| course == Course::Stays && !self.receives_nothing(&organization, &to.region));
        }
        Some(spec)
    }

    /// Whether no edge of an organization leads into the region any more: it, or the organization's tenant there, goes.
    pub(crate) fn receives_nothing(&self, organization: &OrganizationName, region: &RegionName) -> bool {
        self.regions.contains(region) || self.tenants.contains(&(organization.clone(), region.clone()))
    }
}

pub(super) fn is_deleted(hub: &Cache, region: &RegionName) -> bool {
    let found = hub.identity(&ObjectKey::cluster(FITNESS_REGION, region.as_str()));
    found.is_some_and(|region| region.deleting)
}

/// It is being deleted, and this hub has nothing to wait for any more; only somebody else's finalizer keeps it.
pub(super) fn is_let_go(hub: &Cache, region: &RegionName) -> bool {
    let found = hub.get(&ObjectKey::cluster(FITNESS_REGION, region.as_str()));
    found.is_some_and(|region| let_go(&region))
}

fn let_go(region: &DynamicObject) -> bool {
    region.metadata.deletion_timestamp.is_some() && !is_held(region)
}

/// Whether this hub keeps it from going.
pub(super) fn is_held(object: &DynamicObject) -> bool {
    object.finalizers().iter().any(|name| name == FINALIZER)
}

fn is_closing(object: &DynamicObject) -> bool {
    object.metadata.deletion_timestamp.is_some() && closing::recorded(&object.data).is_some()
}

/// The tenants that have their home in a region, by what is written down: whether or not it can be read as a policy.
pub(super) fn homed_in(hub: &Cache, region: &str) -> Vec<String> {
    hub.of_kind(TENANT_DATA_RESIDENCY)
        .into_iter()
        .filter(|(_, object)| object.data["spec"]["home"]["region"] == region)
        .map(|(key, _)| key.name)
        .collect()
}

/// The members that some region names.
pub(super) fn member_names(hub: &Cache) -> BTreeSet<String> {
    let named = |object: &Value| object["name"].as_str().map(ToOwned::to_owned);
    hub.of_kind(FITNESS_REGION)
        .iter()
        .filter_map(|(_, object)| object.data["spec"]["clusters"].as_array())
        .flatten()
        .filter_map(named)
        .collect()
}

/// Whether what was written into a stack is what the region applies. One that applies nothing yet has nothing to undo.
pub(super) fn settled(stack: &Value) -> bool {
    let written = stack["spec"]["revision"].as_u64().unwrap_or_default();
    stack["status"]["appliedRevision"]
        .as_u64()
        .is_none_or(|applied| applied == written)
}

/// The region's stack as its member holds it, with what is its own of its policy opened. What cannot be opened stays
/// packed.
pub(crate) fn stack(held: &Cache, region: &RegionName) -> Option<Value> {
    let key = ObjectKey::cluster(REGION_STACK, region.as_str());
    let mut stack = into_observed(held.get(&key)?);
    if let Some(policy) = stack.pointer_mut("/spec/policy")
        && let Err(error) = policy_form::open_own(policy)
    {
        tracing::warn!(region = %region, error = %error, "what a member holds cannot be read");
    }
    Some(stack)
}
