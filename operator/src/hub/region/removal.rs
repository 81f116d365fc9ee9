//! A FitnessRegion that is being deleted: held while tenants have their home there, then closed like any other border, then
//! taken out of its member. What the stack laid down there stays, unless `deletionPolicy` says `Delete`: then the region
//! removes it before it lets its RegionStack go.

use jiff::Timestamp;
use meridian_crds::ClosingEdge;
use meridian_policy::{CompiledPolicy, PolicyRevision, RegionName, RegionPolicy};
use serde_json::Value;

use super::{RegionError, place};
use crate::apply::{ApplyError, observed};
use crate::hub::closing::{self, Missing, Stacks};
use crate::hub::departure::{FINALIZER, Waiting};
use crate::hub::members::Member;
use crate::hub::{Hub, source};
use crate::manifest::{
    INGEST_POOL, MANAGED_BY, MANAGED_BY_LABEL, ObjectKey, REGION_LABEL, REGION_STACK, TENANT_PLACEMENT,
};
use crate::policy_form;
use crate::watch::Cache;

/// What a pass over a deleted region is to do.
pub(super) enum Step {
    /// Lay it down as ever: it is still needed.
    Stay(Waiting),
    /// It is being taken out of its member.
    Removing {
        /// What for.
        waiting: Waiting,
        /// The stack as the member holds it.
        stack: Value,
        /// Something was deleted in this pass.
        wrote: bool,
    },
    /// What it still holds there is not known yet.
    Unlisted(Waiting),
    /// Nothing of it is left there.
    Gone,
}

/// What is due of a deleted region's removal.
pub(crate) enum Removal {
    /// Nothing yet: it is still needed.
    Stay(Waiting),
    /// These go, in this order; without a UID when they are on their way already.
    Due(Vec<(ObjectKey, Option<String>)>),
    /// Nothing of it is left in its member.
    Done,
}

impl Removal {
    /// What is due, by the hub's resources and what the members hold: the region's own, and every region's stack. Pure.
    pub(crate) fn of(
        region: &RegionName,
        object: &Value,
        hub: &Cache,
        held: &Cache,
        stacks: &Stacks,
        now: Timestamp,
    ) -> Self {
        if let Some(home) = still_home(region.as_str(), hub) {
            return Self::Stay(home);
        }
        let stack = source::stack(held, region).unwrap_or(Value::Null);
        let remains = remains(held, region);
        // Only from when they are written down: what nobody remembers, nobody waits for.
        let missing = closing::recorded(object)
            .map(|recorded| closing::missing(&seen(Some(recorded), region.as_str(), stacks, now), stacks, now));
        if let Some(open) = open(&stack, &remains, missing.as_deref()) {
            return Self::Stay(waiting("EdgesOpen", open));
        }
        if let Some(other) = other_policy(object, &stack) {
            return Self::Stay(waiting("DeletionPolicyUntold", other));
        }
        if remains.is_empty() {
            Self::Done
        } else {
            Self::Due(remains)
        }
    }
}

/// Tenants that a message names; the count is of all.
const NAMED: usize = 5;

/// The edges from and to the region that are to be closed: nothing while tenants have their home there, or while they
/// cannot be known.
pub(super) fn to_close(hub: &Hub, name: &str, object: &Value, stacks: &Stacks) -> Option<Vec<ClosingEdge>> {
    let recorded = closing::recorded(object);
    // The first compile waits until every member that can be asked is listed.
    let known = hub.newest.get().is_some() && source::homed_in(&hub.cache, name).is_empty();
    if known {
        Some(seen(recorded, name, stacks, Timestamp::now()))
    } else {
        recorded
    }
}

fn seen(recorded: Option<Vec<ClosingEdge>>, region: &str, stacks: &Stacks, now: Timestamp) -> Vec<ClosingEdge> {
    closing::seen(recorded, stacks, |ends| ends.from == region || ends.to == region, now)
}

pub(super) async fn step(hub: &Hub, name: &str, object: &Value, stacks: &Stacks) -> Result<Step, RegionError> {
    // Said also when nothing else can be: the member may not answer.
    if let Some(home) = still_home(name, &hub.cache) {
        return Ok(Step::Stay(home));
    }
    let (region, spec) = super::parse(name, object)?;
    let (cluster, member) = place(hub, name, &spec).await?;
    let stack = source::stack(member.cache(), &region).unwrap_or(Value::Null);
    if !member.is_known() {
        let message = format!("cluster {} has not been listed yet", cluster.name);
        return Ok(Step::Unlisted(waiting("MemberUnknown", message)));
    }
    let now = Timestamp::now();
    let remains = match Removal::of(&region, object, &hub.cache, member.cache(), stacks, now) {
        Removal::Stay(waiting) => return Ok(Step::Stay(waiting)),
        // A pass over another region could still write an edge from or to this one.
        _ if hub.newest.may_say(|policy| names(policy, &region)) => {
            let message = "its edges are being taken out of the policy".to_owned();
            return Ok(Step::Stay(waiting("EdgesOpen", message)));
        }
        Removal::Done if is_unseen(&member, &region).await? => {
            let message = format!("cluster {} holds a stack that has not been seen yet", cluster.name);
            return Ok(Step::Unlisted(waiting("Removing", message)));
        }
        Removal::Done => return Ok(Step::Gone),
        Removal::Due(remains) => remains,
    };
    let mut wrote = false;
    for (key, uid) in remains.iter().filter_map(|(key, uid)| Some((key, uid.as_ref()?))) {
        member.applier.delete(key, Some(uid.clone())).await?;
        wrote = true;
    }
    let keys: Vec<String> = remains.iter().map(|(key, _)| key.to_string()).collect();
    Ok(Step::Removing {
        waiting: waiting(
            "Removing",
            format!("being removed from cluster {}: {}", cluster.name, keys.join(", ")),
        ),
        stack,
        wrote,
    })
}

/// Whether there is a stack of the region after all, asked past the cache: that may be behind a write whose answer was lost,
/// and what nobody waits for any more, nobody would remove.
async fn is_unseen(member: &Member, region: &RegionName) -> Result<bool, ApplyError> {
    let key = ObjectKey::cluster(REGION_STACK, region.as_str());
    let found = member.applier.read(&key).await?;
    Ok(found.map(|stack| observed(&stack)).is_some_and(|stack| {
        let label = |key: &str| stack["metadata"]["labels"][key].as_str();
        label(MANAGED_BY_LABEL) == Some(MANAGED_BY) && label(REGION_LABEL) == Some(region.as_str())
    }))
}

fn names(policy: &CompiledPolicy, region: &RegionName) -> bool {
    policy
        .exports_of(region)
        .chain(policy.imports_of(region))
        .next()
        .is_some()
}

/// What holds a deletion when a pass failed.
pub(super) fn held_by(error: &RegionError) -> Waiting {
    waiting(
        error.reason(),
        format!(
            "{error}; what the cluster holds of the region cannot be removed until this is mended, or, if the cluster is \
             gone for good, the finalizer {FINALIZER} is taken off by hand"
        ),
    )
}

fn waiting(reason: &'static str, message: String) -> Waiting {
    Waiting { reason, message }
}

fn still_home(region: &str, hub: &Cache) -> Option<Waiting> {
    let homed = source::homed_in(hub, region);
    (!homed.is_empty()).then(|| homes(&homed))
}

fn homes(homed: &[String]) -> Waiting {
    let (count, named) = (homed.len(), homed.iter().take(NAMED).cloned().collect::<Vec<_>>());
    let (tenants, have) = if count == 1 {
        ("tenant", "has its")
    } else {
        ("tenants", "have their")
    };
    let more = if count > NAMED { ", …" } else { "" };
    waiting(
        "TenantsHomed",
        format!(
            "{count} {tenants} {have} home here ({}{more}); the region goes once their TenantDataResidency is deleted",
            named.join(", ")
        ),
    )
}

/// Objects of the region in its member, in the order in which they go; without a UID when they are on their way already.
fn remains(held: &Cache, region: &RegionName) -> Vec<(ObjectKey, Option<String>)> {
    let kinds = [INGEST_POOL, TENANT_PLACEMENT, REGION_STACK].into_iter();
    let objects = kinds.flat_map(|kind| held.of_kind(kind));
    let ours = objects.filter(|(_, object)| {
        let label = |key: &str| object.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        label(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY)
            && label(REGION_LABEL).is_some_and(|value| value == region.as_str())
    });
    ours.map(|(key, object)| {
        let object = observed(&object);
        let uid = object["metadata"]["uid"].as_str().map(ToOwned::to_owned);
        (key, uid.filter(|_| !crate::finalizer::is_deleting(&object)))
    })
    .collect()
}

/// What must be closed before anything is removed: while edges lead here, or tenants are placed here, the region has copies
/// to purge, and must be there to do it.
/// `missing`: the acknowledgements that are waited for, once that is known.
fn open(stack: &Value, remains: &[(ObjectKey, Option<String>)], missing: Option<&[Missing]>) -> Option<String> {
    if stack.is_null() || crate::finalizer::is_deleting(stack) {
        return None;
    }
    let Some(missing) = missing else {
        return Some("the edges that are to be closed are being written down".to_owned());
    };
    if policy_form::is_closed(&stack["spec"]["policy"]) {
        return Some("the policy that its member holds cannot be opened, so nobody knows its edges".to_owned());
    }
    let listed = |way: &str| stack["spec"]["policy"][way].as_array().map_or(0, Vec::len);
    let edges = listed("imports") + listed("exports");
    let placed = remains.iter().filter(|(key, _)| key.kind == TENANT_PLACEMENT).count();
    if edges > 0 || listed("homes") > 0 || placed > 0 {
        return Some(format!("{edges} edges and {placed} placements are being closed"));
    }
    if !source::settled(stack) {
        return Some(format!(
            "revision {} closes the last edges, and the region has not applied it yet",
            stack["spec"]["revision"]
        ));
    }
    closing::sentence(missing)
}

/// What becomes of the data is for the FitnessRegion to say as it is now: the member may have been told something older.
fn other_policy(object: &Value, stack: &Value) -> Option<String> {
    if stack.is_null() || crate::finalizer::is_deleting(stack) {
        return None;
    }
    let said = |object: &Value| object["spec"]["deletionPolicy"].as_str().unwrap_or("Retain").to_owned();
    let (asked, told) = (said(object), said(stack));
    (asked != told).then(|| format!("deletionPolicy is {asked}, and the region still has {told}: it is being told"))
}

/// The policy of a region that has none any more, because its law was deleted: the one that it has, without any edge, and
/// without tenants that have left. Otherwise neither it nor its tenants could ever go.
pub(super) fn without_law(existing: &Value, compiled: &CompiledPolicy) -> Option<RegionPolicy> {
    let mut policy = policy_form::read(&existing["spec"]["policy"]).ok()?;
    policy.revision = PolicyRevision::default();
    policy.exports.clear();
    policy.imports.clear();
    policy.held.clear();
    let known = &compiled.source().tenants;
    policy.homes.retain(|home| known.contains_key(&home.tenant));
    Some(policy)
}

/// What else a pass says when the region, which is still needed, cannot be laid down.
pub(super) fn also_failed(held: Waiting, error: Option<&RegionError>) -> Waiting {
    match error {
        Some(error) if !held.message.contains(&error.to_string()) => Waiting {
            message: format!("{}; meanwhile: {error}", held.message),
            ..held
        },
        _ => held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stack(imports: usize, written: u64, applied: Option<u64>) -> Value {
        let imports = vec![json!({}); imports];
        let policy = json!({"imports": imports, "exports": [], "homes": []});
        json!({"spec": {"revision": written, "policy": policy}, "status": {"appliedRevision": applied}})
    }

    #[test]
    fn tenants_at_home_are_counted_and_named() {
        let few = homes(&["stride-eu".to_owned()]);
        assert!(
            few.message.starts_with("1 tenant has its home here (stride-eu);"),
            "{few:?}"
        );
        let many: Vec<String> = (0..7).map(|n| format!("t{n}")).collect();
        let many = homes(&many);
        assert!(
            many.message
                .starts_with("7 tenants have their home here (t0, t1, t2, t3, t4, …);"),
            "{many:?}"
        );
    }

    #[test]
    fn nothing_is_removed_before_edges_are_closed_and_that_is_applied() {
        let none = Some(&[][..]);
        assert!(open(&stack(1, 4, Some(4)), &[], none).is_some());
        assert!(open(&stack(0, 5, Some(4)), &[], none).is_some());
        assert!(open(&stack(0, 5, Some(5)), &[], None).is_some());
        assert!(open(&stack(0, 5, Some(5)), &[], none).is_none());
        let missing = [Missing {
            region: "us".parse().unwrap(),
            edge: "stride-eu.workout-summary.us".parse().unwrap(),
        }];
        assert!(open(&stack(0, 5, Some(5)), &[], Some(&missing)).is_some());
        let placement = ObjectKey::namespaced(TENANT_PLACEMENT, "meridian-us", "stride-eu");
        assert!(open(&stack(0, 5, Some(5)), &[(placement, None)], none).is_some());
    }

    #[test]
    fn what_a_policy_holds_that_cannot_be_opened_counts_as_open() {
        let mut damaged = stack(0, 5, Some(5));
        damaged["spec"]["policy"] = json!({"packed": {"own": "?", "others": "?"}});
        assert!(policy_form::open_own(&mut damaged["spec"]["policy"]).is_err());
        assert!(open(&damaged, &[], Some(&[])).is_some());
    }

    #[test]
    fn a_region_that_never_applied_anything_has_nothing_to_close() {
        assert!(open(&stack(0, 1, None), &[], Some(&[])).is_none());
        assert!(open(&Value::Null, &[], None).is_none());
    }

    #[test]
    fn the_member_is_told_of_the_deletion_policy_that_holds_now() {
        let (retain, delete) = (
            json!({"spec": {"deletionPolicy": "Retain"}}),
            json!({"spec": {"deletionPolicy": "Delete"}}),
        );
        assert!(other_policy(&retain, &delete).is_some());
        assert!(other_policy(&delete, &json!({"spec": {}})).is_some());
        assert!(other_policy(&json!({"spec": {}}), &retain).is_none());
        assert!(other_policy(&delete, &Value::Null).is_none());
    }
}
