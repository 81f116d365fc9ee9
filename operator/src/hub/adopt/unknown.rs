//! Tenants that a member holds and the hub does not know.
//!
//! The finalizer of a TenantDataResidency is there before the tenant is placed, and goes only after every member has let go
//! of it. So a member that holds one without a residency is no leftover: the hub has lost its state, or is being rebuilt,
//! and would cut edges, have copies purged and fence homes because it does not know better. What such a member has of these tenants is kept as it is;
//! everything else is applied as ever. Nothing vouches for that policy, so the lease is not renewed on the strength of it.
//!
//! Where a finalizer was taken off by hand, a person says which tenant a region is to forget ([`FORGET_ANNOTATION`]).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt;
use meridian_policy::{CompiledEdge, CompiledPolicy, RegionName, RegionPolicy, Rule};
use serde_json::Value;

use crate::hub::region::RegionError;
use crate::hub::source::Departing;
use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL, ObjectKey, REGION_LABEL, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT};
use crate::policy_form;
use crate::watch::Cache;

/// Annotation of a FitnessRegion with the tenants that it is to forget: `TENANT@UID`, separated by commas, with the UID of
/// the FitnessRegion. The UID is there so that a release which came to lie among the manifests says nothing once the hub is
/// rebuilt from them.
pub const FORGET_ANNOTATION: &str = "meridian.sh/forget-tenants";
/// Tenants that a message names; the count is of all.
const NAMED: usize = 5;

/// The tenants of one region that the hub does not know, and what is kept of them.
#[derive(Debug, Default)]
pub(crate) struct Unknown {
    tenants: BTreeSet<String>,
    kept: Option<RegionPolicy>,
    said: Option<String>,
}

impl Unknown {
    /// By the hub's resources, the policy compiled from them, and what the region's member holds, `stack` before all. Pure.
    ///
    /// # Errors
    /// [`RegionError::TenantsUnknown`] when the policy that the member has cannot be read: then there is nothing to keep
    /// them by, and nothing may be written.
    pub(crate) fn of(
        region: &RegionName,
        object: &Value,
        hub: &Cache,
        compiled: &CompiledPolicy,
        held: &Cache,
        stack: &Value,
        now: Timestamp,
    ) -> Result<Self, RegionError> {
        let policy = &stack["spec"]["policy"];
        let forgotten = forgotten(object);
        let is_unknown = |tenant: &str| !is_known(tenant, hub, compiled) && !forgotten.contains(tenant);
        let placed = placements(region, held)
            .filter(|key| is_unknown(&key.name) && is_ours(region, key, held))
            .map(|key| key.name);
        let named = named(policy).filter(|tenant| is_unknown(tenant));
        let tenants: BTreeSet<String> = named.map(ToOwned::to_owned).chain(placed).collect();
        if tenants.is_empty() {
            return Ok(Self::default());
        }
        let said = sentence(region, object, &tenants);
        let Ok(mut kept) = policy_form::read(policy) else {
            return Err(RegionError::TenantsUnknown(format!(
                "{said}. The policy that the member has cannot be read, so nothing is written there"
            )));
        };
        let departing = Departing::of(hub);
        let keeps = |edge: &CompiledEdge| {
            edge.expires > now
                && !departing.receives_nothing(&edge.organization, &edge.to)
                && stays(edge, &tenants, compiled)
        };
        kept.homes.retain(|home| tenants.contains(home.tenant.as_str()));
        kept.exports.retain(keeps);
        kept.imports.retain(keeps);
        // What this hub cannot read of an edge it cannot write either: that the region goes on holding it, it can.
        kept.held.retain(|edge| tenants.contains(edge.id.tenant()));
        if kept.homes.is_empty() {
            kept.retention = BTreeMap::new();
        }
        // Of regions that the hub knows, only who lives there may be unknown; others are as unknown as their tenants.
        let regions = &compiled.source().regions;
        kept.directory.retain(|entry| !regions.contains_key(&entry.region));
        kept.peers
            .retain(|peer| regions.get(&peer.region).is_none_or(|facts| facts.trust.is_some()));
        for peer in &mut kept.peers {
            peer.tenants.retain(|peer| is_unknown(peer.tenant.as_str()));
        }
        Ok(Self {
            tenants,
            kept: Some(kept),
            said: Some(said),
        })
    }

    /// Whether what the member has of this tenant stays as it is.
    pub(crate) fn keeps(&self, tenant: &str) -> bool {
        self.tenants.contains(tenant)
    }

    /// Whether the hub knows every tenant there.
    pub(crate) fn is_nobody(&self) -> bool {
        self.tenants.is_empty()
    }

    /// What is the matter and what to do, when there are any.
    pub(crate) fn said(self) -> Option<String> {
        self.said
    }

    /// The compiled policy, and of unknown tenants what the member has.
    pub(crate) fn join(&self, mut policy: RegionPolicy) -> RegionPolicy {
        let Some(kept) = &self.kept else { return policy };
        add(&mut policy.homes, &kept.homes, |home| home.tenant.clone());
        add(&mut policy.exports, &kept.exports, |edge| edge.id.clone());
        add(&mut policy.imports, &kept.imports, |edge| edge.id.clone());
        add(&mut policy.held, &kept.held, |edge| edge.id.clone());
        add(&mut policy.directory, &kept.directory, |entry| entry.region.clone());
        add(&mut policy.peers, &kept.peers, |peer| peer.region.clone());
        for peer in &mut policy.peers {
            let same = kept.peers.iter().find(|kept| kept.region == peer.region);
            let tenants = same.map(|kept| kept.tenants.clone()).unwrap_or_default();
            add(&mut peer.tenants, &tenants, |tenant| tenant.tenant.clone());
        }
        for (class, days) in &kept.retention {
            let strictest = policy.retention.entry(*class).or_insert(*days);
            *strictest = (*strictest).min(*days);
        }
        policy
    }
}

/// In the order in which a policy is compiled.
fn add<T: Clone, K: Ord>(to: &mut Vec<T>, kept: &[T], key: impl Fn(&T) -> K) {
    let known: BTreeSet<K> = to.iter().map(&key).collect();
    to.extend(kept.iter().filter(|item| !known.contains(&key(item))).cloned());
    to.sort_by_key(key);
}

/// A tenant is known by what the policy was compiled from; and one that is being deleted is let go of on purpose. A
/// residency that is there and not compiled yet, or that cannot be read, says nothing of its tenant.
fn is_known(tenant: &str, hub: &Cache, compiled: &CompiledPolicy) -> bool {
    compiled.source().tenants.contains_key(tenant)
        || hub
            .identity(&ObjectKey::cluster(TENANT_DATA_RESIDENCY, tenant))
            .is_some_and(|residency| residency.deleting)
}

/// Whether an edge is kept for what is not known of its ends. What is known counts: an exporter that does not ask for it
/// any more, a law that forbids it, an importer that is gone.
fn stays(edge: &CompiledEdge, unknown: &BTreeSet<String>, compiled: &CompiledPolicy) -> bool {
    let is_unknown = |tenant: &str| unknown.contains(tenant);
    let importer = edge.importer_tenant.as_str();
    if is_unknown(edge.tenant.as_str()) {
        return is_unknown(importer) || compiled.source().tenants.contains_key(&edge.importer_tenant);
    }
    let refusals = compiled.refusals_of(&edge.id);
    let for_want_of_it = refusals.iter().all(|denial| denial.rule == Rule::TenantUnknown);
    is_unknown(importer) && !refusals.is_empty() && for_want_of_it
}

/// The tenants that a member's policy names, but for those of its peers: they go without a finalizer's waiting.
fn named(policy: &Value) -> impl Iterator<Item = &str> {
    let of = |list: &str, field: &'static str| {
        let items = policy[list].as_array().into_iter().flatten();
        items.filter_map(move |item| item[field].as_str())
    };
    of("homes", "tenant")
        .chain(of("exports", "tenant"))
        .chain(of("exports", "importer_tenant"))
        .chain(of("imports", "tenant"))
        .chain(of("imports", "importer_tenant"))
}

/// What lies in a region's namespace as a placement; whose it is, [`is_ours`] says.
pub(crate) fn placements(region: &RegionName, held: &Cache) -> impl Iterator<Item = ObjectKey> {
    let namespace = format!("meridian-{region}");
    let keys = held.keys_of(TENANT_PLACEMENT).into_iter();
    keys.filter(move |key| key.namespace.as_deref() == Some(namespace.as_str()))
}

/// Whether a placement was written for this region, by whichever FitnessRegion of that name.
pub(crate) fn is_ours(region: &RegionName, key: &ObjectKey, held: &Cache) -> bool {
    held.get(key).is_some_and(|placement| {
        let label = |key: &str| placement.labels().get(key).map(String::as_str);
        label(MANAGED_BY_LABEL) == Some(MANAGED_BY) && label(REGION_LABEL) == Some(region.as_str())
    })
}

fn forgotten(object: &Value) -> BTreeSet<String> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let said = object["metadata"]["annotations"][FORGET_ANNOTATION].as_str();
    let items = said
        .unwrap_or_default()
        .split(',')
        .filter_map(|item| item.trim().split_once('@'));
    items
        .filter(|(_, of)| !uid.is_empty() && *of == uid)
        .map(|(tenant, _)| tenant.to_owned())
        .collect()
}

fn sentence(region: &RegionName, object: &Value, tenants: &BTreeSet<String>) -> String {
    let (count, named) = (tenants.len(), tenants.iter().take(NAMED).cloned().collect::<Vec<_>>());
    let more = if count > NAMED { ", …" } else { "" };
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    format!(
        "the hub has no residency in force of {count} that the member holds ({}{more}): what it has of them stays as it is, and \
         its lease is not renewed. Apply their TenantDataResidency; or, to have homes closed and copies purged for good: \
         kubectl annotate fitnessregion {region} {FORGET_ANNOTATION}=TENANT@{uid}",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::observed;
    use crate::hub::RESOURCES;
    use crate::hub::source::{self, Seen, gather};
    use crate::manifest::{FITNESS_REGION, REGION_STACK};
    use crate::plugin::world::{World, edit, now};
    use meridian_policy::{PolicyRevision, compile};
    use serde_json::json;

    /// A hub that knows these tenants, in front of members that know both.
    struct Rebuilt {
        members: World,
        hub: Cache,
        policy: CompiledPolicy,
    }

    impl Rebuilt {
        fn with(tenants: &[&str], edit: impl Fn(&mut Value)) -> Self {
            let (members, hub) = (World::settled(), Cache::default());
            for kind in RESOURCES {
                hub.take(*kind, []);
                for (key, object) in members.hub.of_kind(*kind) {
                    if *kind != TENANT_DATA_RESIDENCY || tenants.contains(&key.name.as_str()) {
                        let mut object = observed(&object);
                        edit(&mut object);
                        hub.put(key, serde_json::from_value(object).unwrap());
                    }
                }
            }
            let seen = |cluster: &str| Seen {
                held: Some(members.held(cluster).clone()),
                awaited: false,
            };
            let policy = compile(&gather(&hub, seen).unwrap(), now());
            Self { members, hub, policy }
        }

        /// What the region would get, and what it has.
        fn policies(&self, region: &str, at: Timestamp) -> (RegionPolicy, RegionPolicy) {
            let name: RegionName = region.parse().unwrap();
            let object = self.hub.get(&ObjectKey::cluster(FITNESS_REGION, region)).unwrap();
            let held = self.members.held(region);
            let stack = source::stack(held, &name).unwrap();
            let object = observed(&object);
            let unknown = Unknown::of(&name, &object, &self.hub, &self.policy, held, &stack, at).unwrap();
            let mut has = policy_form::read(&stack["spec"]["policy"]).unwrap();
            has.revision = PolicyRevision::default();
            let compiled = self.policy.for_region(&name, PolicyRevision::default()).unwrap();
            (unknown.join(compiled), has)
        }
    }

    fn as_is(_: &mut Value) {}

    #[test]
    fn a_hub_that_knows_no_tenant_or_one_of_them_would_write_what_is_there() {
        for known in [&[][..], &["stride-eu"], &["stride-us"], &["stride-eu", "stride-us"]] {
            let rebuilt = Rebuilt::with(known, as_is);
            for region in ["eu", "us"] {
                let (wanted, has) = rebuilt.policies(region, now());
                assert_eq!(wanted, has, "{region}, knowing {known:?}");
            }
        }
    }

    #[test]
    fn an_edge_that_has_ended_is_kept_by_nobody() {
        let rebuilt = Rebuilt::with(&[], as_is);
        let (wanted, has) = rebuilt.policies("us", "2040-01-01T00:00:00Z".parse().unwrap());
        assert_eq!((wanted.imports.len(), has.imports.len()), (0, 1));
    }

    #[test]
    fn an_exporter_that_is_known_and_does_not_ask_any_more_is_obeyed() {
        let rebuilt = Rebuilt::with(&["stride-eu"], |object| {
            if object["kind"] == TENANT_DATA_RESIDENCY.kind {
                object["spec"]["classes"] = json!([]);
            }
        });
        let (wanted, has) = rebuilt.policies("us", now());
        assert_eq!((wanted.imports.len(), has.imports.len()), (0, 1));
        assert_eq!(wanted.homes, has.homes, "of the other tenant nothing is known");
    }

    #[test]
    fn an_edge_of_which_a_newer_hub_said_more_is_held_on() {
        let rebuilt = Rebuilt::with(&["stride-us"], as_is);
        edit(rebuilt.members.held("eu"), REGION_STACK, "eu", |stack| {
            policy_form::open(&mut stack["spec"]["policy"]).unwrap();
            stack["spec"]["policy"]["exports"][0]["adults_only"] = json!(true);
        });
        let (wanted, has) = rebuilt.policies("eu", now());
        assert!(wanted.exports.is_empty() && wanted.held.len() == 1);
        assert_eq!(wanted, has);
    }

    #[test]
    fn a_region_forgets_who_it_is_told_to_by_its_own_uid_alone() {
        for (uid, homes) in [("uid-of-eu", 0), ("uid-of-another", 1)] {
            let rebuilt = Rebuilt::with(&["stride-us"], |object| {
                object["metadata"]["annotations"] = json!({FORGET_ANNOTATION: format!("x@y, stride-eu@{uid}")});
            });
            let (wanted, _) = rebuilt.policies("eu", now());
            assert_eq!((wanted.homes.len(), wanted.exports.len()), (homes, homes));
        }
    }

    #[test]
    fn a_tenant_that_is_being_deleted_is_let_go_of() {
        let rebuilt = Rebuilt::with(&["stride-eu", "stride-us"], |object| {
            if object["metadata"]["name"] == "stride-eu" {
                object["metadata"]["deletionTimestamp"] = json!("2026-11-26T11:00:00Z");
            }
        });
        let (wanted, _) = rebuilt.policies("eu", now());
        assert!(wanted.homes.is_empty());
    }
}
