//! The edges that a region had and has no more, until it has acknowledged that they are closed. They stand in the same
//! stack that takes them out, so that none goes unremembered, and the region acknowledges each of them: also one that came
//! and went before its replicator had opened it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use meridian_crds::ClosingEdge;
use meridian_policy::{CompiledPolicy, CutEdge, EdgeId, PolicyRevision, RegionName, RegionPolicy};
use serde::Deserialize;
use serde_json::Value;

use crate::hub::closing;
use crate::manifest::{FITNESS_REGION, TENANT_DATA_RESIDENCY};
use crate::watch::Cache;

/// As many as a stack keeps acknowledgements. Others get their turn as these are acknowledged; that they are cut does not
/// wait for it.
const TOLD: usize = 512;

/// What the region is to acknowledge: by what it was told before (`existing`, its stack), what its policy is now, and what
/// deletions wait for. Those come first, and in the same order in every region: both ends of each get their turn.
pub(super) fn to_acknowledge(
    region: &RegionName,
    existing: &Value,
    policy: &RegionPolicy,
    hub: &Cache,
    compiled: &CompiledPolicy,
) -> Vec<CutEdge> {
    let mut cut = BTreeMap::new();
    let told = closing::told(existing).filter(|edge| !closing::is_acknowledged(edge, existing));
    told.chain(taken_out(existing, policy))
        .for_each(|edge| add(&mut cut, edge));
    let awaited: Vec<CutEdge> = awaited(region, hub, compiled).collect();
    let first: BTreeSet<EdgeId> = awaited.iter().map(|edge| edge.id.clone()).collect();
    awaited.into_iter().for_each(|edge| add(&mut cut, edge));
    if cut.is_empty() {
        return Vec::new();
    }
    let homes: BTreeSet<_> = policy.homes.iter().map(|home| &home.tenant).collect();
    // Records lie under a tenant: where it is not at home any more, nobody can look, and nobody waits for it either.
    let is_home = |edge: &CutEdge| match edge.from == *region {
        true => homes.contains(&edge.tenant),
        false => homes.contains(&edge.importer_tenant),
    };
    let regions = &compiled.source().regions;
    cut.retain(|id, edge| {
        let in_force = policy.export(id).is_some() || policy.import(id).is_some() || policy.holds(id);
        let known = regions.contains_key(&edge.from) && regions.contains_key(&edge.to);
        !in_force && known && is_home(edge)
    });
    let mut cut: Vec<CutEdge> = cut.into_values().collect();
    if cut.len() > TOLD {
        tracing::warn!(region = %region, count = cut.len(), "more edges are cut at once than are told to be acknowledged");
        cut.sort_by_key(|edge| !first.contains(&edge.id));
        cut.truncate(TOLD);
        cut.sort_by(|one, other| one.id.cmp(&other.id));
    }
    cut
}

/// The newer of two cuts of the same edge counts.
fn add(cut: &mut BTreeMap<EdgeId, CutEdge>, edge: CutEdge) {
    let known = cut.entry(edge.id.clone()).or_insert_with(|| edge.clone());
    known.revision = known.revision.max(edge.revision);
}

/// The edges that the stack has and the policy has no more.
fn taken_out(existing: &Value, policy: &RegionPolicy) -> impl Iterator<Item = CutEdge> {
    let stay: BTreeSet<&str> = policy
        .exports
        .iter()
        .chain(&policy.imports)
        .map(|edge| edge.id.as_str())
        .collect();
    let revision = PolicyRevision::from(existing["spec"]["revision"].as_u64().unwrap_or_default());
    ["exports", "imports"]
        .into_iter()
        .filter_map(|way| existing["spec"]["policy"][way].as_array())
        .flatten()
        .filter(move |edge| edge["id"].as_str().is_none_or(|id| !stay.contains(id)))
        .filter_map(move |edge| {
            Some(CutEdge {
                id: EdgeId::deserialize(&edge["id"]).ok()?,
                tenant: Deserialize::deserialize(&edge["tenant"]).ok()?,
                importer_tenant: Deserialize::deserialize(&edge["importer_tenant"]).ok()?,
                from: RegionName::deserialize(&edge["from"]).ok()?,
                to: RegionName::deserialize(&edge["to"]).ok()?,
                revision,
            })
        })
}

/// The edges of the region that a deletion waits for.
fn awaited(region: &RegionName, hub: &Cache, compiled: &CompiledPolicy) -> impl Iterator<Item = CutEdge> {
    let deleted = [FITNESS_REGION, TENANT_DATA_RESIDENCY]
        .into_iter()
        .flat_map(|kind| hub.deleting(kind))
        .filter_map(|key| hub.get(&key));
    let edges = deleted.filter_map(|object| closing::recorded(&object.data)).flatten();
    edges.filter_map(|edge| of_deletion(region, edge, compiled))
}

fn of_deletion(region: &RegionName, edge: ClosingEdge, compiled: &CompiledPolicy) -> Option<CutEdge> {
    let revision = match region {
        region if *region == edge.from => edge.export_revision,
        region if *region == edge.to => edge.import_revision,
        _ => return None,
    };
    let tenants = &compiled.source().tenants;
    let exporter = &tenants.get(edge.edge.tenant())?.spec;
    // Who wrote it down may not have known: then it can only have been the organization's only tenant there.
    let only = || {
        let there = tenants.values().map(|facts| &facts.spec);
        let mut there = there.filter(|spec| spec.organization == exporter.organization && spec.home.region == edge.to);
        let one = there.next()?;
        there.next().is_none().then(|| one.tenant.clone())
    };
    Some(CutEdge {
        importer_tenant: edge.importer_tenant.clone().or_else(only)?,
        id: edge.edge,
        tenant: exporter.tenant.clone(),
        from: edge.from,
        to: edge.to,
        revision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::departure::FINALIZER;
    use crate::hub::source::{self, Seen, gather};
    use crate::plugin::world::{World, edit, now};
    use meridian_policy::compile;
    use serde_json::json;

    const EDGE: &str = "stride-eu.workout-summary.us";

    /// What eu is asked, by its stack after this was done to it, and a policy that has no edge.
    fn asked(world: &World, change: impl FnOnce(&mut Value)) -> Vec<CutEdge> {
        let eu: RegionName = "eu".parse().unwrap();
        let mut stack = source::stack(world.held("eu"), &eu).unwrap();
        change(&mut stack);
        let seen = |cluster: &str| Seen {
            held: Some(world.held(cluster).clone()),
            awaited: false,
        };
        let compiled = compile(&gather(&world.hub, seen).unwrap(), now());
        let mut policy = compiled.for_region(&eu, PolicyRevision::default()).unwrap();
        policy.exports.clear();
        to_acknowledge(&eu, &stack, &policy, &world.hub, &compiled)
    }

    /// The stack as it is once the edge is taken out, with these acknowledgements.
    fn taken_out(acks: Value) -> impl FnOnce(&mut Value) {
        move |stack| {
            stack["spec"]["policy"]["closing"] = json!([{"id": EDGE, "tenant": "stride-eu",
                "importer_tenant": "stride-us", "from": "eu", "to": "us", "revision": 4}]);
            stack["spec"]["policy"]["exports"] = json!([]);
            stack["spec"]["revision"] = json!(5);
            stack["status"]["acks"] = acks;
        }
    }

    fn ack(revision: u64, sinks: Value) -> Value {
        json!([{"edge": EDGE, "role": "exporter", "revision": revision, "purged": 0, "sinks": sinks}])
    }

    #[test]
    fn an_edge_is_asked_for_from_when_it_is_taken_out_until_its_purge_is_acknowledged() {
        let world = World::settled();
        let [edge] = asked(&world, |stack| stack["spec"]["revision"] = json!(4))
            .try_into()
            .unwrap();
        assert_eq!(
            (edge.id.as_str(), edge.importer_tenant.as_str(), edge.revision.0),
            (EDGE, "stride-us", 4)
        );
        let purged = json!(["replicator"]);
        for (acks, open) in [
            (json!([]), 1),
            (ack(4, purged.clone()), 1),
            (ack(5, json!([])), 1),
            (ack(5, purged), 0),
        ] {
            assert_eq!(asked(&world, taken_out(acks.clone())).len(), open, "{acks}");
        }
    }

    #[test]
    fn what_a_deletion_waits_for_is_asked_for_however_it_was_acknowledged() {
        let world = World::settled();
        edit(&world.hub, TENANT_DATA_RESIDENCY, "stride-us", |tenant| {
            tenant["metadata"]["deletionTimestamp"] = json!("2026-11-26T11:59:00Z");
            tenant["metadata"]["finalizers"] = json!([FINALIZER]);
            tenant["status"]["closing"] = json!([{"edge": EDGE, "from": "eu", "exportRevision": 4, "to": "us",
                "importRevision": 2, "expires": "2036-01-01T00:00:00Z"}]);
        });
        let [edge] = asked(&world, taken_out(ack(5, json!(["replicator"]))))
            .try_into()
            .unwrap();
        assert_eq!((edge.importer_tenant.as_str(), edge.revision.0), ("stride-us", 4));
    }

    #[test]
    fn no_more_are_asked_for_than_there_is_room_for_answers_and_none_of_who_is_not_at_home() {
        let world = World::settled();
        let many = |tenant: &'static str| {
            move |stack: &mut Value| {
                let edge = stack["spec"]["policy"]["exports"][0].clone();
                let edges = (0..600).map(|n| {
                    let mut edge = edge.clone();
                    // Only the name of the region at the other end has to be known.
                    edge["id"] = json!(format!("{tenant}.workout-summary.r{n}"));
                    edge["tenant"] = json!(tenant);
                    edge
                });
                stack["spec"]["policy"]["exports"] = edges.collect();
            }
        };
        assert_eq!(asked(&world, many("stride-eu")).len(), TOLD);
        assert_eq!(asked(&world, many("somebody")).len(), 0);
    }
}
