//! Compiles the policy: from what people wrote to the edges that may carry data, and the refusal of every other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::assess::{AskedEdge, Homes, framework_of};
use crate::catalogue::{Catalogue, TransferableFields};
use crate::edge::{CompiledEdge, EdgeId};
use crate::index::{FieldLists, Index, Outcome, Verdict, Verdicts};
use crate::names::{OrganizationName, RegionName, TenantId};
use crate::rule::{Denial, Rule, Violation};
use crate::source::{PolicySource, TenantFacts};
use crate::spec::ReplicateTo;
use crate::vocabulary::DataClass;

/// The policy in the form that every enforcement point asks.
#[derive(Debug, Clone)]
pub struct CompiledPolicy {
    pub(crate) source: PolicySource,
    pub(crate) fields: Arc<TransferableFields>,
    pub(crate) homes: Arc<Homes>,
    pub(crate) index: Index,
}

/// Compiles the policy as it stands at `now`, with the catalogue that is part of the product. What is wrong with one tenant
/// refuses that tenant's edges and touches no other.
#[must_use]
pub fn compile(source: &PolicySource, now: Timestamp) -> CompiledPolicy {
    compile_with(source, Catalogue::embedded().transferable(), now)
}

/// Like [`compile`], with another catalogue's fields.
#[must_use]
pub fn compile_with(source: &PolicySource, fields: TransferableFields, now: Timestamp) -> CompiledPolicy {
    let homes = Homes::of(source);
    let mut lists = FieldLists::new();
    let verdicts = |(id, tenant)| {
        let verdicts = verdicts((source, &homes), (&fields, &mut lists), (id, tenant), now);
        (TenantId::clone(id), verdicts)
    };
    let index = Index::of(source.tenants.iter().map(verdicts));
    CompiledPolicy {
        source: source.clone(),
        fields: Arc::new(fields),
        homes: Arc::new(homes),
        index,
    }
}

/// What became of the edges that a tenant asks for.
fn verdicts(
    of: (&PolicySource, &Homes),
    (fields, lists): (&TransferableFields, &mut FieldLists),
    (id, tenant): (&TenantId, &TenantFacts),
    now: Timestamp,
) -> Verdicts {
    let twice = asked_twice(tenant);
    let mut verdicts = BTreeMap::new();
    for (class, ask) in asks(tenant) {
        let edge_id = EdgeId::new(id, class, &ask.region);
        let twice = twice.contains(&edge_id);
        let outcome = match compile_edge(of, fields, (id, tenant), (class, ask), twice, now) {
            Ok(edge) => Outcome::Open(Box::new(edge)),
            Err(denials) => Outcome::refused((&edge_id, class, &ask.region), denials),
        };
        verdicts.insert(edge_id, Verdict::new(outcome, lists));
    }
    verdicts.into_values().collect()
}

/// One edge as it stands at `now`, or every refusal of it: at least one.
pub(crate) fn compile_edge(
    (source, homes): (&PolicySource, &Homes),
    fields: &TransferableFields,
    (id, tenant): (&TenantId, &TenantFacts),
    (class, ask): (DataClass, &ReplicateTo),
    asked_twice: bool,
    now: Timestamp,
) -> Result<CompiledEdge, Vec<Denial>> {
    if let Some(denial) = misplaced(id, tenant) {
        return Err(vec![denial]);
    }
    if asked_twice {
        let edge_id = EdgeId::new(id, class, &ask.region);
        return Err(vec![duplicate(source, tenant, &edge_id)]);
    }
    let assessed = AskedEdge {
        source,
        homes,
        fields,
        tenant,
        class,
        ask,
        now,
    }
    .assess();
    let denials: Vec<Denial> = assessed.denials().map(|(_, denial)| denial.clone()).collect();
    assessed.edge.ok_or(denials)
}

/// A tenant filed under another tenant's name is a mistake of whoever gathered the source: nothing of it may leave.
fn misplaced(id: &TenantId, tenant: &TenantFacts) -> Option<Denial> {
    (tenant.spec.tenant != *id).then(|| {
        Denial::new(
            Rule::TenantUnknown,
            crate::LegalFramework::Other,
            format!(
                "the residency filed for tenant {id} speaks of tenant {}",
                tenant.spec.tenant
            ),
        )
    })
}

pub(crate) fn duplicate(source: &PolicySource, tenant: &TenantFacts, id: &EdgeId) -> Denial {
    Denial::new(
        Rule::Duplicate,
        framework_of(source, tenant),
        format!("edge {id} is written down twice, and the two could disagree; keep one"),
    )
}

/// What the other edges of its organization look at of a tenant.
fn home(facts: &TenantFacts) -> (&TenantId, &OrganizationName, &RegionName) {
    (&facts.spec.tenant, &facts.spec.organization, &facts.spec.home.region)
}

/// Every edge that a tenant asks for.
pub(crate) fn asks(tenant: &TenantFacts) -> impl Iterator<Item = (DataClass, &ReplicateTo)> {
    tenant
        .spec
        .classes
        .iter()
        .flat_map(|entry| entry.replicate_to.iter().map(move |ask| (entry.class, ask)))
}

pub(crate) fn asked_twice(tenant: &TenantFacts) -> BTreeSet<EdgeId> {
    let mut seen = BTreeSet::new();
    asks(tenant)
        .map(|(class, ask)| EdgeId::new(&tenant.spec.tenant, class, &ask.region))
        .filter(|id| !seen.insert(id.clone()))
        .collect()
}

impl CompiledPolicy {
    /// The policy of `source` at `now`, as [`compile`] would make it, where it differs from what this one was compiled from
    /// in `tenants` alone, nothing begins or ends in between, and `tenants` are whole organizations: an edge looks at no
    /// other. Everything of everybody else is shared.
    #[must_use]
    pub fn recompile(&self, source: PolicySource, tenants: &BTreeSet<TenantId>, now: Timestamp) -> Self {
        let stays = |id: &TenantId| match (self.source.tenants.get(id), source.tenants.get(id)) {
            (Some(was), Some(is)) => home(was) == home(is),
            (was, is) => was.is_none() && is.is_none(),
        };
        let homes = if tenants.iter().all(stays) {
            Arc::clone(&self.homes)
        } else {
            Arc::new(Homes::of(&source))
        };
        let (mut index, mut lists) = (self.index.clone(), FieldLists::new());
        for id in tenants {
            let facts = source.tenants.get(id);
            let verdicts = facts.map(|tenant| {
                let of = (&source, homes.as_ref());
                verdicts(of, (&self.fields, &mut lists), (id, tenant), now)
            });
            index.replace(id, verdicts);
        }
        Self {
            source,
            fields: Arc::clone(&self.fields),
            homes,
            index,
        }
    }

    /// Everything that was asked for, by tenant.
    fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        let of_tenants = self.source.tenants.keys().filter_map(|id| self.index.of_tenant(id));
        of_tenants.flat_map(|verdicts| verdicts.iter())
    }

    /// The edges that may carry data.
    pub fn edges(&self) -> impl Iterator<Item = &CompiledEdge> {
        self.verdicts().filter_map(Verdict::edge)
    }

    /// The edges that leave from a region.
    pub fn exports_of(&self, region: &RegionName) -> impl Iterator<Item = &CompiledEdge> {
        let homed = self.homes.in_region(region).iter();
        let verdicts = homed.filter_map(|id| self.index.of_tenant(id));
        let verdicts = verdicts.flat_map(|verdicts| verdicts.iter());
        verdicts.filter_map(Verdict::edge)
    }

    /// The edges that arrive in a region.
    pub fn imports_of(&self, region: &RegionName) -> impl Iterator<Item = &CompiledEdge> {
        let importing = self.index.importing(region).into_iter();
        let verdicts = importing.filter_map(|id| self.index.of_tenant(id));
        let edges = verdicts.flat_map(|verdicts| verdicts.iter()).filter_map(Verdict::edge);
        edges.filter(move |edge| edge.to == *region)
    }

    /// What became of the edge of that name.
    fn verdict(&self, id: &EdgeId) -> Option<&Verdict> {
        let tenant = id.as_str().split('.').next()?.parse().ok()?;
        self.index.of_tenant(&tenant)?.iter().find(|verdict| verdict.id() == id)
    }

    /// The edge of that name, if it may carry data.
    #[must_use]
    pub fn edge(&self, id: &EdgeId) -> Option<&CompiledEdge> {
        self.verdict(id)?.edge()
    }

    /// The edges that were asked for and refused, with every refusal. Each has at least one.
    pub fn refusals(&self) -> impl Iterator<Item = (&EdgeId, &[Denial])> {
        let refused = self.verdicts().filter(|verdict| verdict.edge().is_none());
        refused.map(|verdict| (verdict.id(), verdict.refusals()))
    }

    /// The refusals of one edge; empty when it was not asked for, or may carry data.
    #[must_use]
    pub fn refusals_of(&self, id: &EdgeId) -> &[Denial] {
        self.verdict(id).map_or(&[], Verdict::refusals)
    }

    /// What is wrong with a tenant now, for its status.
    #[must_use]
    pub fn violations_of(&self, tenant: &TenantId, now: Timestamp) -> Vec<Violation> {
        self.source.tenants.get(tenant).map_or_else(Vec::new, |facts| {
            crate::review::review_with(
                (&facts.spec, facts.epoch),
                (&self.source, self.homes.as_ref()),
                &self.fields,
                now,
            )
        })
    }

    /// What it was compiled from.
    #[must_use]
    pub const fn source(&self) -> &PolicySource {
        &self.source
    }

    /// The first moment after `now` at which compiling again could give another result: something ends or begins.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let mechanisms = self.source.jurisdictions.values().flat_map(|law| &law.mechanisms);
        let certifications = self.source.parties.values().flat_map(|party| &party.certifications);
        let asked = self.source.tenants.values().flat_map(asks).map(|(_, ask)| ask);
        let moments = mechanisms
            .flat_map(|offer| [Some(offer.effective_from), offer.expires])
            .chain(certifications.flat_map(|held| [Some(held.effective_from), Some(held.expires)]))
            .chain(asked.flat_map(|ask| [Some(ask.expires), ask.tia.as_ref().map(|tia| tia.review_by)]));
        moments.flatten().filter(|moment| *moment > now).min()
    }
}
