//! Rows of the status, from resources as they are.

use jiff::Timestamp;
use serde_json::Value;

use super::{Condition, LeaseState, MemberRow, PoolRow, RegionRow, TenantRow, ViolationRow};
use crate::apply::observed;
use crate::hub::lease::REVISION_ANNOTATION;
use crate::hub::source;
use crate::manifest::{FITNESS_REGION, INGEST_POOL, Kind, TENANT_DATA_RESIDENCY};
use crate::plugin::observe::{State, States};
use crate::watch::Cache;

pub(in crate::plugin) fn each(hub: &Cache, kind: Kind) -> impl Iterator<Item = (String, Value)> {
    hub.of_kind(kind)
        .into_iter()
        .map(|(key, object)| (key.name, observed(&object)))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The condition of that type, unless it speaks of an older generation: then nothing is known of this one.
fn condition(object: &Value, kind: &str) -> Option<Condition> {
    let found = object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)?;
    let (seen, there) = (&found["observedGeneration"], &object["metadata"]["generation"]);
    if seen.is_i64() && seen != there {
        return Some(Condition {
            status: "Unknown".to_owned(),
            reason: "NotLookedAt".to_owned(),
            message: format!("generation {there} has not been looked at yet, only {seen}"),
        });
    }
    Some(Condition {
        status: text(&found["status"]),
        reason: text(&found["reason"]),
        message: text(&found["message"]),
    })
}

pub(in crate::plugin) fn ready(object: &Value) -> Condition {
    condition(object, "Ready").unwrap_or_else(|| Condition {
        status: "Unknown".to_owned(),
        reason: "NotLookedAt".to_owned(),
        message: "the hub has said nothing of it yet".to_owned(),
    })
}

pub(super) fn regions(hub: &Cache) -> Vec<RegionRow> {
    each(hub, FITNESS_REGION)
        .map(|(name, object)| RegionRow {
            region: name,
            jurisdiction: text(&object["spec"]["jurisdiction"]),
            clusters: text(&object["status"]["clustersReachable"]),
            revision: object["status"]["revision"].as_u64(),
            applied_revision: object["status"]["appliedRevision"].as_u64(),
            ready: ready(&object),
        })
        .collect()
}

pub(super) fn tenants(hub: &Cache) -> Vec<TenantRow> {
    each(hub, TENANT_DATA_RESIDENCY)
        .map(|(name, object)| {
            let status = &object["status"];
            TenantRow {
                tenant: name,
                home: text(&object["spec"]["home"]["region"]),
                phase: text(&status["phase"]),
                epoch: status["epoch"].as_u64(),
                edges_allowed: status["edgesAllowed"].as_u64(),
                edges_refused: status["edgesRefused"].as_u64(),
                ready: ready(&object),
            }
        })
        .collect()
}

pub(super) fn pools(hub: &Cache) -> Vec<PoolRow> {
    each(hub, INGEST_POOL)
        .map(|(name, object)| {
            let status = &object["status"];
            PoolRow {
                pool: name,
                region: text(&object["spec"]["region"]),
                replicas: status["replicas"].as_u64(),
                desired: status["desired"].as_u64(),
                lag: status["lag"].as_u64(),
                capped_by: status["cappedBy"].as_str().map(ToOwned::to_owned),
                ready: ready(&object),
            }
        })
        .collect()
}

pub(super) fn violations(hub: &Cache) -> Vec<ViolationRow> {
    each(hub, TENANT_DATA_RESIDENCY)
        .flat_map(|(name, object)| {
            let found = object["status"]["violations"].as_array().cloned().unwrap_or_default();
            found.into_iter().map(move |violation| ViolationRow {
                tenant: name.clone(),
                rule: text(&violation["rule"]),
                path: text(&violation["path"]),
                message: text(&violation["message"]),
            })
        })
        .collect()
}

pub(super) fn members(hub: &Cache, states: &States, now: Timestamp) -> Vec<MemberRow> {
    let regions = source::regions(hub);
    regions
        .iter()
        .filter_map(|(region, spec)| Some((region, spec.primary()?)))
        .map(|(region, cluster)| match states.get(&cluster.name) {
            Some(Ok(state)) => {
                let stack = source::stack(&state.stacks, region);
                MemberRow {
                    policy_fresh: stack.and_then(|stack| condition(&stack, "PolicyFresh")),
                    ..leased(region.as_str(), &cluster.name, state, now)
                }
            }
            Some(Err(silence)) => unknown(region.as_str(), &cluster.name, &silence.message),
            None => unknown(region.as_str(), &cluster.name, "it was not asked"),
        })
        .collect()
}

fn unknown(region: &str, cluster: &str, because: &str) -> MemberRow {
    MemberRow {
        region: region.to_owned(),
        cluster: cluster.to_owned(),
        lease: LeaseState::Unknown,
        vouched_revision: None,
        renewed_seconds_ago: None,
        valid_for_seconds: None,
        policy_fresh: None,
        unknown_because: Some(because.to_owned()),
    }
}

/// A lease ends by the clock of whoever holds to it; seen from here, by the times that are written in it.
fn leased(region: &str, cluster: &str, state: &State, now: Timestamp) -> MemberRow {
    let lease = state.lease.as_ref().map(observed).unwrap_or_default();
    let renewed: Option<Timestamp> = lease["spec"]["renewTime"].as_str().and_then(|time| time.parse().ok());
    let age = renewed.map(|renewed| now.duration_since(renewed).as_secs());
    let left = age
        .zip(lease["spec"]["leaseDurationSeconds"].as_i64())
        .map(|(age, duration)| duration - age);
    MemberRow {
        region: region.to_owned(),
        cluster: cluster.to_owned(),
        lease: match left {
            None => LeaseState::Missing,
            Some(left) if left > 0 => LeaseState::Valid,
            Some(_) => LeaseState::Expired,
        },
        vouched_revision: lease["metadata"]["annotations"][REVISION_ANNOTATION]
            .as_str()
            .and_then(|revision| revision.parse().ok()),
        renewed_seconds_ago: age,
        valid_for_seconds: left.map(|left| left.max(0)),
        policy_fresh: None,
        unknown_because: None,
    }
}
