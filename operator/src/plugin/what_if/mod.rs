//! `kubectl meridian what-if`: what would close or open if something were so, by what right, and what waits there.
//! [`report`] is pure.

mod asked;
mod backlog;
mod render;

use std::collections::BTreeSet;

use jiff::Timestamp;
use meridian_policy::{
    Check, DataClass, Denial, EdgeChange, EdgeDifference, EdgeId, Effect, ExpiryWarning, FlowChange, Ground, PartyName,
    RegionName, TenantChange, TenantId, WhatIf, WhatIfAnswer, expiry_warnings, what_if,
};
use serde::Serialize;

use super::PluginError;
use super::explain::CheckRow;
use super::observe::States;
use crate::hub::source;
use crate::watch::Cache;
use backlog::Waiting;

pub use asked::{Asked, read};

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WhatIfReport {
    /// What is supposed, a sentence each.
    pub supposed: Vec<String>,
    /// The moment at which the policy is looked at as it is.
    pub before: Timestamp,
    /// The moment at which it is looked at as it would be.
    pub after: Timestamp,
    /// Which way the whole goes.
    pub effect: Effect,
    /// In the order of their names.
    pub edges: Vec<EdgeRow>,
    /// Tenants that differ, their edges apart.
    pub tenants: Vec<TenantChange>,
    /// Classes that begin or cease to cross between two regions.
    pub classes: Vec<FlowChange>,
    /// Event fields that do.
    pub streams: Vec<FlowChange>,
    /// Over all.
    pub sum: Sum,
    /// What ends within 60 days by itself.
    pub ending: Vec<ExpiryWarning>,
}

/// An edge that would differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeRow {
    /// Its name.
    pub edge: EdgeId,
    /// Whose data.
    pub tenant: TenantId,
    /// What.
    pub class: DataClass,
    /// From where.
    pub from: RegionName,
    /// Where to.
    pub to: RegionName,
    /// The legal entity that imports.
    pub importer: PartyName,
    /// `opens`, `closes` or `changes`.
    pub change: &'static str,
    /// What refuses or allows it then.
    pub because: Vec<CheckRow>,
    /// Copies that wait to leave, as the region said last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_unknown: Option<String>,
}

/// Over everything that would differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sum {
    /// Edges that close.
    pub close: usize,
    /// Edges that open.
    pub open: usize,
    /// Edges that go on otherwise.
    pub change: usize,
    /// Tenants whose edges or whose own terms differ.
    pub tenants: usize,
    /// Classes of those edges.
    pub classes: usize,
    /// Copies that wait on edges that close, where that is known.
    pub stopped: u64,
    /// Edges that close and of which it is not known.
    pub stopped_unknown: usize,
}

/// What would change on this hub. Pure.
///
/// # Errors
/// When a hypothesis strikes nothing in the policy.
pub fn report(
    hub: &Cache,
    states: Option<&States>,
    asked: &WhatIf,
    now: Timestamp,
) -> Result<WhatIfReport, PluginError> {
    // Whoever is being deleted sends nothing any more: that closes whatever is supposed.
    let source = source::of_hub(hub);
    let WhatIfAnswer {
        hypotheses,
        before,
        after,
        effect,
        diff,
        ..
    } = what_if(&source, asked, now)?;
    let edges: Vec<EdgeRow> = diff.edges.into_iter().map(|change| row(hub, states, change)).collect();
    Ok(WhatIfReport {
        supposed: hypotheses.iter().map(asked::sentence).collect(),
        before,
        after,
        effect,
        sum: sum(&edges, &diff.tenants),
        edges,
        tenants: diff.tenants,
        classes: diff.classes,
        streams: diff.streams,
        ending: expiry_warnings(&source, now),
    })
}

fn row(hub: &Cache, states: Option<&States>, change: EdgeChange) -> EdgeRow {
    let (word, because) = match change.difference {
        EdgeDifference::Opened { grounds, .. } => ("opens", grounds.into_iter().map(ground).collect()),
        EdgeDifference::Closed { refused } => ("closes", refused.into_iter().map(refusal).collect()),
        EdgeDifference::Changed { aspects } => {
            let because = aspects.into_iter().map(|aspect| {
                let (kind, from_to) = (aspect.aspect, format!("{} → {}", aspect.before, aspect.after));
                let mut check = CheckRow::from(aspect.because);
                check.why = format!("{kind} {from_to}: {}", check.why);
                check
            });
            ("changes", because.collect())
        }
    };
    let (waiting, waiting_unknown) = match backlog::waiting(hub, states, &change.from, &change.edge) {
        // Nothing waits where nothing was let go.
        _ if word == "opens" => (None, None),
        Waiting::Copies(copies) => (Some(copies), None),
        Waiting::Unknown(why) => (None, Some(why)),
    };
    EdgeRow {
        edge: change.edge,
        tenant: change.tenant,
        class: change.class,
        from: change.from,
        to: change.to,
        importer: change.importer,
        change: word,
        because,
        waiting,
        waiting_unknown,
    }
}

fn ground(ground: Ground) -> CheckRow {
    CheckRow::from(Check::Holds(ground))
}

fn refusal(denial: Denial) -> CheckRow {
    CheckRow::from(Check::Refuses(denial))
}

fn sum(edges: &[EdgeRow], tenants: &[TenantChange]) -> Sum {
    let of = |word: &str| edges.iter().filter(|edge| edge.change == word).count();
    let concerned: BTreeSet<&TenantId> = edges
        .iter()
        .map(|edge| &edge.tenant)
        .chain(tenants.iter().map(|change| &change.tenant))
        .collect();
    let classes: BTreeSet<DataClass> = edges.iter().map(|edge| edge.class).collect();
    let closing = || edges.iter().filter(|edge| edge.change == "closes");
    Sum {
        close: of("closes"),
        open: of("opens"),
        change: of("changes"),
        tenants: concerned.len(),
        classes: classes.len(),
        stopped: closing().filter_map(|edge| edge.waiting).sum(),
        stopped_unknown: closing().filter(|edge| edge.waiting.is_none()).count(),
    }
}

#[cfg(test)]
mod tests;
