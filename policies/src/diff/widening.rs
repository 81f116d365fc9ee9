//! What a change will ever allow that was not allowed, now or later. A mechanism that begins next month widens nothing
//! today, and nobody is asked again when it begins: whoever has to approve what widens must ask this, not the difference of
//! one moment.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::change::{EdgeChange, Effect};
use super::edges;
use crate::assess::Homes;
use crate::catalogue::{Catalogue, TransferableFields};
use crate::compile::{asked_twice, asks, compile_edge};
use crate::edge::{CompiledEdge, EdgeId};
use crate::names::TenantId;
use crate::rule::Denial;
use crate::source::{PolicySource, TenantFacts};
use crate::spec::ReplicateTo;
use crate::vocabulary::DataClass;

/// An edge that will allow what it did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Widening {
    /// From this moment.
    pub from: Timestamp,
    /// What it allows then.
    pub change: EdgeChange,
}

/// Every edge that allows under `after`, at `now` or at any later moment, what `before` would not allow then: at the first
/// such moment. Empty: the change needs no second approver on account of its edges.
#[must_use]
pub fn widenings(before: &PolicySource, after: &PolicySource, now: Timestamp) -> Vec<Widening> {
    widenings_with(before, after, &Catalogue::embedded().transferable(), now)
}

/// Like [`widenings`], with another catalogue's fields.
#[must_use]
pub fn widenings_with(
    before: &PolicySource,
    after: &PolicySource,
    fields: &TransferableFields,
    now: Timestamp,
) -> Vec<Widening> {
    let (was, is) = (Asks::of(before, fields), Asks::of(after, fields));
    // Only what is asked for after the change can widen.
    let found = is
        .by_edge
        .keys()
        .filter_map(|id| first_widening(&was, &is, None, id, now));
    found.map(|(widening, _)| widening).collect()
}

/// Every edge that widens beyond what `held` has of it, at the first such moment, and what it is then. While two tenants
/// could receive, none does, until one of them goes, about which nobody is asked: so that an edge to them opens at once.
pub(super) fn first_openings(
    before: &PolicySource,
    after: &PolicySource,
    held: &BTreeMap<EdgeId, CompiledEdge>,
    fields: &TransferableFields,
    now: Timestamp,
) -> Vec<(Widening, CompiledEdge)> {
    let (was, is) = (Asks::of(before, fields), Asks::of(after, fields));
    let settled = is
        .homes
        .has_rivals()
        .then(|| (was.with_one_receiver(), is.with_one_receiver()));
    is.by_edge
        .keys()
        .filter_map(|id| {
            let first = |(was, is): (&Asks<'_>, &Asks<'_>)| first_widening(was, is, held.get(id), id, now);
            first((&was, &is)).or_else(|| settled.as_ref().and_then(|(was, is)| first((was, is))))
        })
        .collect()
}

fn first_widening(
    was: &Asks<'_>,
    is: &Asks<'_>,
    held: Option<&CompiledEdge>,
    id: &EdgeId,
    now: Timestamp,
) -> Option<(Widening, CompiledEdge)> {
    let mut moments: BTreeSet<Timestamp> = was.moments(id).into_iter().chain(is.moments(id)).collect();
    moments.retain(|moment| *moment > now);
    moments.insert(now);
    moments.into_iter().find_map(|from| {
        let (before, after) = (was.at(id, from), is.at(id, from).ok()?);
        let change = edges::compare(before.as_ref().map_err(Clone::clone), Ok(&after))?;
        let within = |held| edges::compare(Ok(held), Ok(&after)).is_none_or(|beyond| beyond.effect != Effect::Widens);
        (change.effect == Effect::Widens && !held.is_some_and(within)).then_some((Widening { from, change }, after))
    })
}

/// What the tenants of one source ask for, by edge.
#[derive(Clone)]
struct Asks<'a> {
    source: &'a PolicySource,
    homes: Homes,
    fields: &'a TransferableFields,
    by_edge: BTreeMap<EdgeId, (&'a TenantId, &'a TenantFacts, DataClass, &'a ReplicateTo)>,
}

impl<'a> Asks<'a> {
    fn of(source: &'a PolicySource, fields: &'a TransferableFields) -> Self {
        let mut by_edge = BTreeMap::new();
        for (id, tenant) in &source.tenants {
            for (class, ask) in asks(tenant) {
                by_edge.insert(EdgeId::new(id, class, &ask.region), (id, tenant, class, ask));
            }
        }
        Self {
            source,
            homes: Homes::of(source),
            fields,
            by_edge,
        }
    }

    /// As if of the tenants of an organization in a region there were only the first.
    fn with_one_receiver(&self) -> Self {
        Self {
            homes: self.homes.without_rivals(),
            ..self.clone()
        }
    }

    /// The edge as compiling at `moment` would make it.
    fn at(&self, edge: &EdgeId, moment: Timestamp) -> Result<CompiledEdge, Vec<Denial>> {
        let Some((id, tenant, class, ask)) = self.by_edge.get(edge) else {
            return Err(Vec::new());
        };
        let twice = asked_twice(tenant).contains(edge);
        compile_edge(
            (self.source, &self.homes),
            self.fields,
            (id, tenant),
            (*class, ask),
            twice,
            moment,
        )
    }

    /// When the edge can begin or end: the moments of what it cites.
    fn moments(&self, edge: &EdgeId) -> Vec<Timestamp> {
        let Some((_, tenant, _, ask)) = self.by_edge.get(edge) else {
            return Vec::new();
        };
        let regions = [&tenant.spec.home.region, &ask.region].map(|name| self.source.regions.get(name));
        let home_law = regions[0].and_then(|home| self.source.jurisdictions.get(&home.jurisdiction));
        let offers = home_law.into_iter().flat_map(|law| &law.mechanisms);
        let cited = offers.filter(|offer| offer.mechanism == ask.mechanism && offer.instrument == ask.instrument);
        let parties = regions
            .into_iter()
            .flatten()
            .filter_map(|region| self.source.parties.get(&region.operated_by));
        let held = parties.flat_map(|party| &party.certifications);
        cited
            .flat_map(|offer| [Some(offer.effective_from), offer.expires])
            .chain(
                held.filter(|held| held.instrument == ask.instrument)
                    .flat_map(|held| [Some(held.effective_from), Some(held.expires)]),
            )
            .chain([Some(ask.expires), ask.tia.as_ref().map(|tia| tia.review_by)])
            .flatten()
            .collect()
    }
}
