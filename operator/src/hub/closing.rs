//! Edges that a deletion closes. What was in force is written into the status of what is deleted before the policy loses
//! it, and stays there until both ends have acknowledged: the importer that its copies are gone, the exporter that it has
//! been told so. That a region applies a policy without the edge only says that its purge has begun. Both are told to
//! acknowledge it (`region/cuts.rs`), whether or not they ever had it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meridian_crds::{ClosingEdge, FitnessRegionSpec};
use meridian_policy::{CutEdge, EdgeId, PolicyRevision, RegionName, TenantId};
use serde::Deserialize;
use serde_json::Value;

use super::departure::FINALIZER;
use super::source;
use crate::policy_form;
use crate::watch::Cache;

/// Of every region that is named: its stack as its member holds it (null when there is none); nothing when it cannot be
/// asked.
pub(crate) type Stacks = BTreeMap<RegionName, Option<Value>>;

/// An acknowledgement that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Whose.
    pub region: RegionName,
    /// Of which edge.
    pub edge: EdgeId,
}

/// What of an edge decides whom it concerns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    /// The tenant whose data it is.
    pub tenant: &'a str,
    /// The tenant that receives it; nothing where only the acknowledgement is left of the edge.
    pub importer: Option<&'a str>,
    /// The exporting region.
    pub from: &'a str,
    /// The importing region.
    pub to: &'a str,
}

/// `held`: what the member with that name holds, if that is known.
pub(crate) fn stacks(hub: &Cache, held: impl Fn(&str) -> Option<Cache>) -> Stacks {
    let of = |name: &RegionName, spec: &FitnessRegionSpec| {
        let held = held(&spec.primary()?.name)?;
        let stack = source::stack(&held, name).unwrap_or(Value::Null);
        (!policy_form::is_closed(&stack["spec"]["policy"])).then_some(stack)
    };
    source::regions(hub)
        .into_iter()
        .map(|(name, spec)| {
            let stack = of(&name, &spec);
            (name, stack)
        })
        .collect()
}

/// What is written down in the status of something that is deleted; nothing before it was.
pub(crate) fn recorded(object: &Value) -> Option<Vec<ClosingEdge>> {
    serde_json::from_value(object["status"]["closing"].clone())
        .ok()
        .flatten()
}

/// Edges that a status holds: its schema's bound. More wait in the stacks that they are taken out of.
const RECORDED: usize = 512;

/// What is to be written down: of what is, and of what any member has of it now, what is not acknowledged yet. An edge
/// keeps the revisions that it was first seen with, unless a region has had it again since.
pub(super) fn seen(
    recorded: Option<Vec<ClosingEdge>>,
    stacks: &Stacks,
    concerns: impl Fn(Ends<'_>) -> bool,
    now: Timestamp,
) -> Vec<ClosingEdge> {
    let mut edges: BTreeMap<EdgeId, ClosingEdge> = BTreeMap::new();
    for edge in recorded.into_iter().flatten() {
        edges.insert(edge.edge.clone(), edge);
    }
    for stack in stacks.values().flatten() {
        for edge in in_force(stack, stacks, &concerns).chain(half_cut(stack, stacks, &concerns)) {
            edges.entry(edge.edge.clone()).or_insert(edge);
        }
        for (edge, cut) in taken_out(stack, stacks, &concerns) {
            let known = edges.entry(edge.edge.clone()).or_insert(edge);
            let here = match stack["spec"]["region"] == known.from.as_str() {
                true => &mut known.export_revision,
                false => &mut known.import_revision,
            };
            *here = (*here).max(cut);
        }
    }
    let open = edges
        .into_values()
        .filter(|edge| !open_at(edge, stacks, now).is_empty());
    open.take(RECORDED).collect()
}

fn in_force(stack: &Value, stacks: &Stacks, concerns: &impl Fn(Ends<'_>) -> bool) -> impl Iterator<Item = ClosingEdge> {
    let policy = &stack["spec"]["policy"];
    list(&policy["exports"])
        .chain(list(&policy["imports"]))
        .filter_map(move |edge| {
            let ends = Ends {
                tenant: edge["tenant"].as_str()?,
                importer: Some(edge["importer_tenant"].as_str()?),
                from: edge["from"].as_str()?,
                to: edge["to"].as_str()?,
            };
            concerns(ends).then_some(())?;
            let (from, to): (RegionName, RegionName) = (ends.from.parse().ok()?, ends.to.parse().ok()?);
            Some(ClosingEdge {
                edge: EdgeId::deserialize(&edge["id"]).ok()?,
                importer_tenant: TenantId::deserialize(&edge["importer_tenant"]).ok(),
                // An exporter that has lost the edge already may have acknowledged that: what the importer acknowledges
                // counts, which is waited for by its revision.
                export_revision: if exports(stacks, &from, &edge["id"]) {
                    written(stacks, &from)
                } else {
                    PolicyRevision::default()
                },
                // It may purge on its exporter's word before it applies what is written.
                import_revision: written(stacks, &to).min(applied(stacks, &to)),
                expires: Timestamp::deserialize(&edge["expires"]).ok()?,
                from,
                to,
            })
        })
}

/// Edges that a stack is told to acknowledge, and the revision that this takes. Of the other end, what it says counts.
fn taken_out(
    stack: &Value,
    stacks: &Stacks,
    concerns: &impl Fn(Ends<'_>) -> bool,
) -> impl Iterator<Item = (ClosingEdge, PolicyRevision)> {
    told(stack).filter_map(move |cut| {
        let ends = Ends {
            tenant: cut.tenant.as_str(),
            importer: Some(cut.importer_tenant.as_str()),
            from: cut.from.as_str(),
            to: cut.to.as_str(),
        };
        let is_asked = concerns(ends) && stacks.contains_key(&cut.from) && stacks.contains_key(&cut.to);
        (is_asked && !is_acknowledged(&cut, stack)).then(|| {
            let edge = ClosingEdge {
                edge: cut.id,
                importer_tenant: Some(cut.importer_tenant),
                from: cut.from,
                export_revision: PolicyRevision::default(),
                to: cut.to,
                import_revision: PolicyRevision::default(),
                expires: Timestamp::MAX,
            };
            (edge, cut.revision)
        })
    })
}

/// The edges that a stack is told to acknowledge.
pub(super) fn told(stack: &Value) -> impl Iterator<Item = CutEdge> {
    list(&stack["spec"]["policy"]["closing"]).filter_map(|edge| CutEdge::deserialize(edge).ok())
}

/// Whether the stack's region has acknowledged that an edge, of which it is an end, is closed: it says so under a newer
/// revision than any that had the edge.
pub(super) fn is_acknowledged(edge: &CutEdge, stack: &Value) -> bool {
    let role = match stack["spec"]["region"] == edge.from.as_str() {
        true => "exporter",
        false => "importer",
    };
    acks(stack, &edge.id, role).any(|ack| is_final(ack) && revision(ack) > edge.revision.0)
}

/// Edges that were cut before the deletion, and of whose purge the exporter has not heard yet.
fn half_cut(stack: &Value, stacks: &Stacks, concerns: &impl Fn(Ends<'_>) -> bool) -> impl Iterator<Item = ClosingEdge> {
    let begun = list(&stack["status"]["acks"]).filter(|ack| ack["role"] == "exporter" && !is_final(ack));
    begun.filter_map(move |ack| {
        let edge = EdgeId::deserialize(&ack["edge"]).ok()?;
        let from = stack["spec"]["region"].as_str()?;
        let ends = Ends {
            tenant: edge.tenant(),
            importer: None,
            from,
            to: edge.to(),
        };
        concerns(ends).then_some(())?;
        let (from, to): (RegionName, RegionName) = (from.parse().ok()?, edge.to().parse().ok()?);
        // The second acknowledgement may carry the revision of the first, and the importer's may be older than both.
        let export_revision = PolicyRevision::from(revision(ack).saturating_sub(1));
        stacks.contains_key(&to).then(|| ClosingEdge {
            edge: edge.clone(),
            importer_tenant: None,
            from,
            export_revision,
            to,
            import_revision: PolicyRevision::default(),
            expires: Timestamp::MAX,
        })
    })
}

/// The acknowledgements that are still missing. Of a region that nobody names any more, none is waited for, and neither
/// is of one that never applied a policy: nothing can have come there.
pub(super) fn missing(closing: &[ClosingEdge], stacks: &Stacks, now: Timestamp) -> Vec<Missing> {
    let missing = closing.iter().flat_map(|edge| open_at(edge, stacks, now));
    missing.collect()
}

/// The ends at which an edge is still open.
fn open_at(edge: &ClosingEdge, stacks: &Stacks, now: Timestamp) -> Vec<Missing> {
    let mut missing = Vec::new();
    let (Some(exporter), Some(importer)) = (stacks.get(&edge.from), stacks.get(&edge.to)) else {
        return missing;
    };
    if !has_purged(edge, importer.as_ref()) {
        missing.push(of(&edge.to, edge));
    }
    let unused = importer.as_ref().is_some_and(never_applied);
    if !has_heard(edge, exporter.as_ref(), unused, now) {
        missing.push(of(&edge.from, edge));
    }
    missing
}

fn of(region: &RegionName, edge: &ClosingEdge) -> Missing {
    Missing {
        region: region.clone(),
        edge: edge.edge.clone(),
    }
}

/// By its own policy or by its exporter's word: the latter may come before it has applied the former.
fn has_purged(edge: &ClosingEdge, importer: Option<&Value>) -> bool {
    importer.is_some_and(|stack| {
        never_applied(stack) || acks(stack, &edge.edge, "importer").any(|ack| revision(ack) >= edge.import_revision.0)
    })
}

/// `unused`: nothing can have arrived, so that the importer has nothing to say.
fn has_heard(edge: &ClosingEdge, exporter: Option<&Value>, unused: bool, now: Timestamp) -> bool {
    // An edge that ended by itself was cut under the revision that still names it.
    let oldest = edge.export_revision.0 + u64::from(edge.expires > now);
    exporter.is_some_and(|stack| {
        never_applied(stack)
            || acks(stack, &edge.edge, "exporter").any(|ack| (unused || is_final(ack)) && revision(ack) >= oldest)
    })
}

fn acks<'a>(stack: &'a Value, edge: &'a EdgeId, role: &'a str) -> impl Iterator<Item = &'a Value> {
    list(&stack["status"]["acks"]).filter(move |ack| ack["edge"] == edge.as_str() && ack["role"] == role)
}

/// An exporter acknowledges twice: that no delivery starts any more, and then where copies were purged from.
fn is_final(ack: &Value) -> bool {
    list(&ack["sinks"]).next().is_some()
}

fn revision(ack: &Value) -> u64 {
    ack["revision"].as_u64().unwrap_or_default()
}

fn never_applied(stack: &Value) -> bool {
    stack["status"]["appliedRevision"].is_null()
}

fn written(stacks: &Stacks, region: &RegionName) -> PolicyRevision {
    let stack = stacks.get(region).and_then(Option::as_ref);
    let revision = stack.and_then(|stack| stack["spec"]["revision"].as_u64());
    PolicyRevision::from(revision.unwrap_or_default())
}

fn exports(stacks: &Stacks, region: &RegionName, edge: &Value) -> bool {
    let stack = stacks.get(region).and_then(Option::as_ref);
    stack.is_some_and(|stack| list(&stack["spec"]["policy"]["exports"]).any(|export| export["id"] == *edge))
}

fn applied(stacks: &Stacks, region: &RegionName) -> PolicyRevision {
    let stack = stacks.get(region).and_then(Option::as_ref);
    let revision = stack.and_then(|stack| stack["status"]["appliedRevision"].as_u64());
    PolicyRevision::from(revision.unwrap_or_default())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What is waited for and what to do when it never comes, in a sentence; nothing where nothing is.
pub(super) fn sentence(missing: &[Missing]) -> Option<String> {
    let first = missing.first()?;
    let more = match missing.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "region {} has not acknowledged yet that edge {} is closed and purged{more}; if its replicator never had that edge \
         and never will, make sure that no copies are there and take the finalizer {FINALIZER} off by hand",
        first.region, first.edge
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const EDGE: &str = "stride-eu.workout-summary.us";

    fn edge() -> Value {
        json!({"id": EDGE, "tenant": "stride-eu", "importer_tenant": "stride-us", "from": "eu", "to": "us",
            "expires": "2030-01-01T00:00:00Z"})
    }

    fn stack(region: &str, revision: u64, policy: &Value, acks: &Value) -> Option<Value> {
        Some(json!({
            "spec": {"region": region, "revision": revision, "policy": policy},
            "status": {"appliedRevision": revision, "acks": acks},
        }))
    }

    fn stacks(eu: Option<Value>, us: Option<Value>) -> Stacks {
        [("eu", eu), ("us", us)]
            .map(|(name, stack)| (name.parse().unwrap(), stack))
            .into()
    }

    fn ack(role: &str, revision: u64, sinks: &Value) -> Value {
        json!({"edge": EDGE, "role": role, "revision": revision, "purged": 0, "sinks": sinks})
    }

    fn before() -> Vec<ClosingEdge> {
        let eu = stack("eu", 4, &json!({"exports": [edge()]}), &json!([]));
        let us = stack("us", 7, &json!({"imports": [edge()]}), &json!([]));
        seen(
            None,
            &stacks(eu, us),
            |ends| ends.importer == Some("stride-us"),
            Timestamp::UNIX_EPOCH,
        )
    }

    fn open(eu: &Value, us: &Value) -> usize {
        let eu = stack("eu", 5, &json!({}), eu);
        let us = stack("us", 8, &json!({}), us);
        missing(&before(), &stacks(eu, us), Timestamp::UNIX_EPOCH).len()
    }

    #[test]
    fn an_edge_is_written_down_once_with_the_revisions_that_have_it() {
        let [edge] = before().try_into().unwrap();
        assert_eq!((edge.export_revision.0, edge.import_revision.0), (4, 7));
        let later = stack("eu", 9, &json!({"exports": [self::edge()]}), &json!([]));
        let again = seen(
            Some(vec![edge.clone()]),
            &stacks(later, None),
            |_| true,
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(again, [edge]);
    }

    #[test]
    fn an_edge_is_open_until_both_ends_have_acknowledged_its_purge() {
        let purged = json!(["replicator", "social"]);
        let (told, heard) = (ack("exporter", 5, &json!([])), ack("exporter", 5, &purged));
        let gone = ack("importer", 8, &purged);
        assert_eq!(open(&json!([]), &json!([])), 2);
        assert_eq!(
            open(&json!([told]), &json!([gone])),
            1,
            "its exporter has not heard of the purge"
        );
        assert_eq!(open(&json!([heard]), &json!([])), 1);
        assert_eq!(open(&json!([heard]), &json!([gone])), 0);
        let old = [ack("exporter", 4, &purged), ack("importer", 6, &purged)];
        assert_eq!(open(&json!([old[0]]), &json!([old[1]])), 2, "of an earlier cut");
    }

    #[test]
    fn a_member_that_cannot_be_asked_has_not_acknowledged_and_one_that_nobody_names_is_not_waited_for() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(missing(&before(), &stacks(None, None), now).len(), 2);
        let never = Some(json!({"spec": {"revision": 1}}));
        assert_eq!(missing(&before(), &stacks(never.clone(), never), now).len(), 0);
        assert_eq!(missing(&before(), &Stacks::new(), now).len(), 0);
    }

    #[test]
    fn an_exporter_that_has_acknowledged_already_is_not_asked_again() {
        let purged = json!(["replicator"]);
        let eu = || stack("eu", 5, &json!({}), &json!([ack("exporter", 5, &purged)]));
        let us = stack(
            "us",
            7,
            &json!({"imports": [edge()]}),
            &json!([ack("importer", 3, &purged)]),
        );
        let closing = seen(None, &stacks(eu(), us), |_| true, Timestamp::UNIX_EPOCH);
        let open = |acks: &Value| {
            let us = stack("us", 8, &json!({}), acks);
            missing(&closing, &stacks(eu(), us), Timestamp::UNIX_EPOCH).len()
        };
        assert_eq!(open(&json!([ack("importer", 3, &purged)])), 1, "of an earlier cut");
        assert_eq!(open(&json!([ack("importer", 8, &purged)])), 0);
    }

    #[test]
    fn an_edge_that_was_cut_before_the_deletion_is_waited_for_too() {
        let eu = stack("eu", 4, &json!({}), &json!([ack("exporter", 4, &json!([]))]));
        let all = stacks(eu, stack("us", 7, &json!({}), &json!([])));
        let closing = seen(None, &all, |ends| ends.tenant == "stride-eu", Timestamp::UNIX_EPOCH);
        assert_eq!(missing(&closing, &all, Timestamp::UNIX_EPOCH).len(), 2);
    }
}
