//! Gathers what the policy is compiled from, again and again. It is gathered at every change of anything: parsing ten
//! thousand tenants and their placements for one that differs would make each change as late as all of them together, so
//! what was made of an observation is kept as long as that is the last one.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::api::DynamicObject;
use meridian_policy::{
    Epoch, PolicySource, RegionName, RegionTrust, Shared, TenantFacts, TenantId, TenantResidencySpec,
};
use serde::Deserialize;
use tokio::time::Instant;

use super::admission::named;
use super::source::{Course, Departing, Seen, facts, is_deleted, is_held, is_let_go, own_trust, regions, specs, told};
use crate::manifest::{JURISDICTION, ObjectKey, PARTY, REGION_STACK, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT};
use crate::watch::{Cache, Identity};

/// How long a policy waits for a member that is not listed (again) yet, once there is one that knows all members. A cut in
/// another region must not wait for it; and until then one that is connected anew usually is listed.
const PATIENCE: Duration = Duration::from_millis(500);

/// What earlier looks made of what is still the same.
#[derive(Default)]
pub struct Gatherer {
    /// Nothing was missing at an earlier look: from then on it is known of each member what it held last.
    complete: bool,
    /// By region: since when its member is awaited.
    awaited: BTreeMap<RegionName, Instant>,
    residencies: Kept<Residency>,
    /// By region: the epochs of the placements that its member holds.
    epochs: BTreeMap<RegionName, Kept<Option<u64>>>,
    /// By region: what its stack tells.
    stacks: BTreeMap<RegionName, Kept<Stack>>,
}

/// What the policy needs of a region's stack.
struct Stack {
    trust: Option<RegionTrust>,
    /// The first epoch of who moves in.
    floor: u64,
}

impl Stack {
    fn of(object: &DynamicObject) -> Self {
        Self {
            trust: own_trust(object),
            floor: object.data["spec"]["epochFloor"].as_u64().unwrap_or_default(),
        }
    }
}

/// What the policy needs of a TenantDataResidency.
struct Residency {
    spec: Option<Shared<TenantResidencySpec>>,
    course: Course,
    epoch: Option<u64>,
    held: bool,
}

impl Residency {
    fn of(object: &DynamicObject) -> Self {
        Self {
            spec: TenantResidencySpec::deserialize(&object.data["spec"])
                .ok()
                .map(Shared::from),
            course: Course::of(object),
            epoch: object.data["status"]["epoch"].as_u64(),
            held: is_held(object),
        }
    }
}

impl Gatherer {
    /// Everything, or nothing while a member that could be asked has not been listed yet: a policy compiled from half of
    /// what there is would cut edges that are lawful. Once everything was there, a member that is awaited again counts as it
    /// was last seen, after a moment: nothing is allocated to its tenants, and everybody else's edges are compiled.
    /// `seen` tells what is known of the member with that name.
    #[must_use]
    pub fn gather(&mut self, hub: &Cache, seen: impl Fn(&str) -> Seen) -> Option<PolicySource> {
        let regions = regions(hub);
        let placed: BTreeMap<RegionName, Seen> = regions
            .iter()
            .map(|(name, spec)| {
                let seen = spec.primary().map(|cluster| seen(&cluster.name));
                (name.clone(), seen.unwrap_or_default())
            })
            .collect();
        // Nobody connects the member of a region that is let go of: it would be awaited for ever.
        let awaited = placed
            .iter()
            .filter(|(name, seen)| seen.awaited && !is_let_go(hub, name));
        if self.waits_for(awaited.map(|(name, _)| name).collect()) {
            return None;
        }
        let known: Vec<&Cache> = placed.values().filter_map(Seen::known).collect();
        let told = LazyCell::new(|| told(&known));
        self.stacks.retain(|region, _| placed.contains_key(region));
        let regions = regions
            .into_iter()
            .map(|(name, spec)| {
                let own = self.own_trust(&name, placed.get(&name));
                let facts = facts(&name, &spec, own.or_else(|| told.get(&name).cloned()));
                (name, facts)
            })
            .collect();
        Some(PolicySource {
            jurisdictions: named(specs(hub, JURISDICTION)),
            parties: named(specs(hub, PARTY)),
            tenants: self.tenants(hub, &placed),
            regions,
        })
    }

    fn waits_for(&mut self, awaited: BTreeSet<&RegionName>) -> bool {
        self.awaited.retain(|region, _| awaited.contains(region));
        for region in &awaited {
            self.awaited.entry((*region).clone()).or_insert_with(Instant::now);
        }
        self.complete |= awaited.is_empty();
        let lately = self.awaited.values().all(|since| since.elapsed() < PATIENCE);
        !awaited.is_empty() && (lately || !self.complete)
    }

    fn own_trust(&mut self, region: &RegionName, seen: Option<&Seen>) -> Option<RegionTrust> {
        let kept = self.stacks.entry(region.clone()).or_default();
        if !self.awaited.contains_key(region) {
            let held = seen.and_then(|seen| seen.held.as_ref())?;
            let key = ObjectKey::cluster(REGION_STACK, region.as_str());
            let stack = held.identity(&key).map(|identity| (key, identity));
            kept.look(held, stack, Stack::of);
        }
        kept.values().next().and_then(|stack| stack.trust.clone())
    }

    /// Tenants with the epoch of their home: the highest that any member or the tenant's own status has seen. A tenant that
    /// is not placed gets an epoch above those of all who have left, and only while its home can be asked whether it holds a
    /// higher one, and once its finalizer is there: one that is placed must not go without every member's leave.
    fn tenants(&mut self, hub: &Cache, placed: &BTreeMap<RegionName, Seen>) -> BTreeMap<TenantId, TenantFacts> {
        let epochs = placed_epochs(&mut self.epochs, placed, &self.awaited);
        let departing = Departing::of(hub);
        let floors = self.stacks.values().flat_map(Kept::values).map(|stack| stack.floor);
        let first = floors.max().unwrap_or_default().max(1);
        let observed = hub.identities_of(TENANT_DATA_RESIDENCY);
        self.residencies.look(hub, observed, Residency::of);
        let facts = self.residencies.values().filter_map(|residency| {
            let spec = departing.left_of(residency.spec.clone()?, residency.course)?;
            let placements = epochs.get(spec.tenant.as_str()).copied();
            let home_is_known = placed.get(&spec.home.region).is_some_and(|seen| seen.known().is_some());
            let epoch = match residency.epoch.max(placements) {
                Some(epoch) => epoch.max(1),
                // Nobody moves in where everybody is to move out.
                None if residency.held && home_is_known && !is_deleted(hub, &spec.home.region) => first,
                None => return None,
            };
            let epoch = Epoch::from(epoch);
            Some((spec.tenant.clone(), TenantFacts { spec, epoch }))
        });
        facts.collect()
    }
}

/// The highest epoch that any member's placements hold, or held when it was last seen, by tenant. Gathered once for all
/// tenants: a look through every member for each of them grows with the square of the fleet.
fn placed_epochs<'a>(
    of_regions: &'a mut BTreeMap<RegionName, Kept<Option<u64>>>,
    placed: &BTreeMap<RegionName, Seen>,
    awaited: &BTreeMap<RegionName, Instant>,
) -> BTreeMap<&'a str, u64> {
    let is_known = |region: &RegionName| placed.get(region).is_some_and(|seen| seen.known().is_some());
    of_regions.retain(|region, _| awaited.contains_key(region) || is_known(region));
    for (region, seen) in placed.iter().filter(|(region, _)| !awaited.contains_key(*region)) {
        if let Some(held) = seen.known() {
            let kept = of_regions.entry(region.clone()).or_default();
            let observed = held.identities_of(TENANT_PLACEMENT);
            kept.look(held, observed, |object| object.data["spec"]["epoch"].as_u64());
        }
    }
    let mut highest = BTreeMap::new();
    for (key, (_, epoch)) in of_regions.values().flat_map(|kept| &kept.0) {
        if let Some(epoch) = *epoch {
            let known = highest.entry(key.name.as_str()).or_insert(epoch);
            *known = epoch.max(*known);
        }
    }
    highest
}

/// What was made of each object, and of which observation of it.
pub(super) struct Kept<T>(BTreeMap<ObjectKey, (Identity, T)>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Kept<T> {
    /// Makes anew what is another observation than before, and forgets what is gone.
    pub(super) fn look(
        &mut self,
        cache: &Cache,
        observed: impl IntoIterator<Item = (ObjectKey, Identity)>,
        make: impl Fn(&DynamicObject) -> T,
    ) {
        let mut before = std::mem::take(&mut self.0);
        for (key, identity) in observed {
            // An object without a version cannot be told from another observation of it.
            let same = |known: &Identity| known.version.is_some() && *known == identity;
            let kept = before.remove(&key).filter(|(known, _)| same(known));
            let made = kept.or_else(|| Some((identity, make(cache.get(&key)?.as_ref()))));
            if let Some(made) = made {
                self.0.insert(key, made);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &T)> {
        self.0.iter().map(|(key, (_, made))| (key, made))
    }

    fn values(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|(_, made)| made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::observed;
    use crate::hub::departure::FINALIZER;
    use crate::hub::source::gather;
    use crate::plugin::world::World;
    use serde_json::{Value, json};
    use std::cell::Cell;

    fn put(cache: &Cache, name: &str, version: Option<&str>, epoch: u64) {
        let object = json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": version},
            "spec": {"epoch": epoch}});
        let key = ObjectKey::namespaced(TENANT_PLACEMENT, "n", name);
        cache.put(key, serde_json::from_value(object).unwrap());
    }

    #[test]
    fn a_tenant_moves_in_only_once_its_residency_is_held() {
        let mut world = World::settled();
        world.empty_member("eu");
        world.empty_member("us");
        let key = ObjectKey::cluster(TENANT_DATA_RESIDENCY, "stride-eu");
        let mut residency = observed(&world.hub.get(&key).unwrap());
        residency["status"] = Value::Null;
        let mut epoch = |finalizers: Value| {
            residency["metadata"]["finalizers"] = finalizers;
            world
                .hub
                .put(key.clone(), serde_json::from_value(residency.clone()).unwrap());
            let seen = |cluster: &str| Seen {
                held: Some(world.held(cluster).clone()),
                awaited: false,
            };
            let source = gather(&world.hub, seen).unwrap();
            source.tenants.get("stride-eu").map(|facts| facts.epoch)
        };
        assert_eq!(epoch(json!(["others/one"])), None);
        assert_eq!(epoch(json!([FINALIZER])), Some(Epoch::from(1)));
    }

    #[test]
    fn only_another_observation_is_looked_at_again_and_what_is_gone_is_forgotten() {
        let (mut kept, cache, looks) = (Kept::default(), Cache::default(), Cell::new(0));
        let mut look = |cache: &Cache| {
            kept.look(cache, cache.identities_of(TENANT_PLACEMENT), |object| {
                looks.set(looks.get() + 1);
                object.data["spec"]["epoch"].as_u64()
            });
            (kept.values().copied().flatten().collect::<Vec<_>>(), looks.take())
        };
        put(&cache, "a", Some("1"), 1);
        put(&cache, "b", Some("2"), 2);
        assert_eq!(look(&cache), (vec![1, 2], 2));
        assert_eq!(look(&cache), (vec![1, 2], 0));
        put(&cache, "a", Some("3"), 7);
        assert_eq!(look(&cache), (vec![7, 2], 1));
        assert_eq!(look(&Cache::default()), (vec![], 0));
        put(&cache, "c", None, 9);
        assert_eq!(look(&cache).1, 3);
        assert_eq!(look(&cache).1, 1, "without a version it may be another one each time");
    }
}
