//! In what two policies differ: tenants, edges, classes and streams, each with what makes the difference, and which way it
//! goes.

mod change;
mod edges;
mod openings;
mod print;
mod widening;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

pub use change::{
    Aspect, AspectChange, EdgeChange, EdgeDifference, Effect, FlowChange, PolicyDiff, TenantChange, TenantDifference,
};
pub use openings::{HeldPolicy, openings};
pub use widening::{Widening, widenings, widenings_with};

use crate::compile::{CompiledPolicy, compile};
use crate::cut::retention_at_home;
use crate::edge::{CompiledEdge, EdgeId};
use crate::names::{RegionName, TenantId};
use crate::rule::Denial;
use crate::source::{PolicySource, TenantFacts};
use crate::vocabulary::DataClass;

/// In what `after` differs from `before`, both as they stand at `now`.
#[must_use]
pub fn diff(before: &PolicySource, after: &PolicySource, now: Timestamp) -> PolicyDiff {
    compile(before, now).diff(&compile(after, now))
}

impl CompiledPolicy {
    /// In what `after` differs from this policy, each as it stood at the moment for which it was compiled.
    #[must_use]
    pub fn diff(&self, after: &Self) -> PolicyDiff {
        let ids: BTreeSet<&EdgeId> = self.edges().chain(after.edges()).map(|edge| &edge.id).collect();
        let edges: Vec<EdgeChange> = ids
            .into_iter()
            .filter_map(|id| edges::compare(self.outcome(id, after), after.outcome(id, self)))
            .collect();
        PolicyDiff {
            tenants: self.tenant_changes(after, &edges),
            classes: flows(self, after, &edges, |edge| vec![(edge.class, None)]),
            streams: flows(self, after, &edges, |edge| {
                let fields = edge.fields.iter().cloned();
                fields.map(|field| (edge.class, Some(field))).collect()
            }),
            edges,
        }
    }

    /// The edge, or what refuses it here; `other` knows the edge when this policy never heard of it.
    fn outcome(&self, id: &EdgeId, other: &Self) -> edges::Outcome<'_> {
        if let Some(edge) = self.edge(id) {
            return Ok(edge);
        }
        let refusals = self.refusals_of(id);
        if !refusals.is_empty() {
            return Err(refusals.to_vec());
        }
        let unasked = other
            .edge(id)
            .map(|edge| self.refusal_of(&edge.tenant, edge.class, &edge.to));
        Err(unasked.into_iter().collect())
    }

    fn tenant_changes(&self, after: &Self, edges: &[EdgeChange]) -> Vec<TenantChange> {
        let (was, is) = (&self.source.tenants, &after.source.tenants);
        let tenants: BTreeSet<&TenantId> = was.keys().chain(is.keys()).collect();
        let (exported, exports) = (self.exporting(), after.exporting());
        let mut own: BTreeMap<&TenantId, Vec<&EdgeChange>> = BTreeMap::new();
        for change in edges {
            own.entry(&change.tenant).or_default().push(change);
        }
        let mut changes = Vec::new();
        for tenant in tenants {
            let mut note = |effect, difference| {
                changes.push(TenantChange {
                    tenant: tenant.clone(),
                    effect,
                    difference,
                });
            };
            match (was.get(tenant), is.get(tenant)) {
                (None, Some(facts)) => {
                    let home = facts.spec.home.region.clone();
                    note(Effect::Neither, TenantDifference::Appeared { home });
                }
                (Some(facts), None) => {
                    let home = facts.spec.home.region.clone();
                    note(Effect::Narrows, TenantDifference::Gone { home });
                }
                (Some(one), Some(other)) => {
                    for (effect, difference) in self.tenant_differences(one, other, after) {
                        note(effect, difference);
                    }
                }
                (None, None) => {}
            }
            let own = own.get(tenant).map_or(&[][..], Vec::as_slice);
            let begun = first_or_last_edge(exported.contains(tenant), exports.contains(tenant), own);
            if let Some((effect, difference)) = begun {
                note(effect, difference);
            }
        }
        changes
    }

    fn tenant_differences(&self, was: &TenantFacts, is: &TenantFacts, after: &Self) -> Vec<(Effect, TenantDifference)> {
        let mut differences = Vec::new();
        if was.spec.home != is.spec.home {
            let moved = TenantDifference::Moved {
                from: was.spec.home.region.clone(),
                to: is.spec.home.region.clone(),
            };
            differences.push((Effect::Widens, moved));
        }
        if was.spec.organization != is.spec.organization {
            let changed = TenantDifference::ControllerChanged {
                before: was.spec.organization.clone(),
                after: is.spec.organization.clone(),
            };
            differences.push((Effect::Widens, changed));
        }
        let kept = (
            retention_at_home(&self.source, was),
            retention_at_home(&after.source, is),
        );
        let longest = |days: Option<u32>| days.unwrap_or(u32::MAX);
        for class in DataClass::ALL {
            let (before, after) = (kept.0.get(class).copied(), kept.1.get(class).copied());
            let effect = match longest(after).cmp(&longest(before)) {
                std::cmp::Ordering::Equal => continue,
                std::cmp::Ordering::Greater => Effect::Widens,
                std::cmp::Ordering::Less => Effect::Narrows,
            };
            let class = *class;
            differences.push((effect, TenantDifference::Retention { class, before, after }));
        }
        differences
    }

    fn exporting(&self) -> BTreeSet<&TenantId> {
        self.edges().map(|edge| &edge.tenant).collect()
    }
}

/// Whether a tenant whose edges differ as in `own` begins or ceases to export.
fn first_or_last_edge(exported: bool, exports: bool, own: &[&EdgeChange]) -> Option<(Effect, TenantDifference)> {
    match (exported, exports) {
        (false, true) => Some((Effect::Widens, TenantDifference::Opened)),
        (true, false) => {
            let refused = own.iter().flat_map(|change| closed_by(change)).cloned().collect();
            Some((Effect::Narrows, TenantDifference::Closed { refused }))
        }
        _ => None,
    }
}

fn closed_by(change: &EdgeChange) -> &[Denial] {
    match &change.difference {
        EdgeDifference::Closed { refused } => refused,
        _ => &[],
    }
}

type Flow = (DataClass, Option<String>);
type Crossing<'a> = (Flow, &'a RegionName, &'a RegionName);

/// What crosses between two regions under one policy and not under the other.
fn flows(
    before: &CompiledPolicy,
    after: &CompiledPolicy,
    changes: &[EdgeChange],
    carried: impl Fn(&CompiledEdge) -> Vec<Flow>,
) -> Vec<FlowChange> {
    let (was, is) = (crossings(before, &carried), crossings(after, &carried));
    let opened = is.iter().filter(|(crossing, _)| !was.contains_key(*crossing));
    let closed = was.iter().filter(|(crossing, _)| !is.contains_key(*crossing));
    let all = opened
        .map(|flow| (Effect::Widens, flow))
        .chain(closed.map(|flow| (Effect::Narrows, flow)));
    all.map(|(effect, (((class, field), from, to), edges))| FlowChange {
        class: *class,
        field: field.clone(),
        from: (*from).clone(),
        to: (*to).clone(),
        effect,
        because: changes
            .iter()
            .filter(|change| edges.contains(&change.edge))
            .flat_map(|change| reasons(change, effect))
            .collect(),
        edges: edges.clone(),
    })
    .collect()
}

fn crossings<'a>(
    policy: &'a CompiledPolicy,
    carried: &impl Fn(&CompiledEdge) -> Vec<Flow>,
) -> BTreeMap<Crossing<'a>, BTreeSet<EdgeId>> {
    let mut crossings: BTreeMap<Crossing<'a>, BTreeSet<EdgeId>> = BTreeMap::new();
    for edge in policy.edges() {
        for flow in carried(edge) {
            let crossing = (flow, &edge.from, &edge.to);
            crossings.entry(crossing).or_default().insert(edge.id.clone());
        }
    }
    crossings
}

/// The grounds or rules of a change that go the way of `effect`, in words.
fn reasons(change: &EdgeChange, effect: Effect) -> Vec<String> {
    match &change.difference {
        EdgeDifference::Opened { grounds, .. } => {
            grounds.iter().take(1).map(|ground| ground.sentence.clone()).collect()
        }
        EdgeDifference::Closed { refused } => refused.iter().map(print::cited).collect(),
        EdgeDifference::Changed { aspects } => aspects
            .iter()
            .filter(|aspect| aspect.effect == effect)
            .map(|aspect| print::because(&aspect.because))
            .collect(),
    }
}
