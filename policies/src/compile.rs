//! Compiles the policy: from what people wrote to the edges that may carry data, and the refusal of every other.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::assess::{AskedEdge, Homes, framework_of};
use crate::catalogue::{Catalogue, TransferableFields};
use crate::edge::{CompiledEdge, EdgeId};
use crate::names::{RegionName, TenantId};
use crate::rule::{Denial, Rule, Violation};
use crate::source::{PolicySource, TenantFacts};
use crate::spec::ReplicateTo;
use crate::vocabulary::DataClass;

/// The policy in the form that every enforcement point asks.
#[derive(Debug, Clone)]
pub struct CompiledPolicy {
    pub(crate) source: PolicySource,
    pub(crate) fields: TransferableFields,
    pub(crate) homes: Homes,
    edges: BTreeMap<EdgeId, CompiledEdge>,
    refusals: BTreeMap<EdgeId, Vec<Denial>>,
    exports: BTreeMap<RegionName, Vec<EdgeId>>,
    imports: BTreeMap<RegionName, Vec<EdgeId>>,
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
    let mut outcome = Outcome::default();
    for (id, tenant) in &source.tenants {
        outcome.assess((source, &homes), &fields, (id, tenant), now);
    }
    CompiledPolicy::of(source.clone(), homes, fields, outcome.edges, outcome.refusals)
}

/// What became of the edges that tenants ask for.
#[derive(Default)]
struct Outcome {
    edges: BTreeMap<EdgeId, CompiledEdge>,
    refusals: BTreeMap<EdgeId, Vec<Denial>>,
}

impl Outcome {
    fn assess(
        &mut self,
        of: (&PolicySource, &Homes),
        fields: &TransferableFields,
        (id, tenant): (&TenantId, &TenantFacts),
        now: Timestamp,
    ) {
        let twice = asked_twice(tenant);
        for (class, ask) in asks(tenant) {
            let edge_id = EdgeId::new(id, class, &ask.region);
            let twice = twice.contains(&edge_id);
            match compile_edge(of, fields, (id, tenant), (class, ask), twice, now) {
                Ok(edge) => {
                    self.edges.insert(edge_id, edge);
                }
                Err(denials) => {
                    self.refusals.insert(edge_id, denials);
                }
            }
        }
    }

    fn take_over(&mut self, earlier: &CompiledPolicy, id: &TenantId, tenant: &TenantFacts) {
        for (class, ask) in asks(tenant) {
            let edge_id = EdgeId::new(id, class, &ask.region);
            if let Some(edge) = earlier.edges.get(&edge_id) {
                self.edges.insert(edge_id, edge.clone());
            } else if let Some(denials) = earlier.refusals.get(&edge_id) {
                self.refusals.insert(edge_id, denials.clone());
            }
        }
    }
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
    pub(crate) fn of(
        source: PolicySource,
        homes: Homes,
        fields: TransferableFields,
        edges: BTreeMap<EdgeId, CompiledEdge>,
        refusals: BTreeMap<EdgeId, Vec<Denial>>,
    ) -> Self {
        let (mut exports, mut imports) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        for (id, edge) in &edges {
            exports.entry(edge.from.clone()).or_default().push(id.clone());
            imports.entry(edge.to.clone()).or_default().push(id.clone());
        }
        Self {
            source,
            fields,
            homes,
            edges,
            refusals,
            exports,
            imports,
        }
    }

    /// The policy of `source` at `now`, as [`compile`] would make it, where it differs from what this one was compiled from
    /// in `tenants` alone, nothing begins or ends in between, and `tenants` are whole organizations: an edge looks at no
    /// other. The edges of everybody else are taken over.
    #[must_use]
    pub fn recompile(&self, source: PolicySource, tenants: &BTreeSet<TenantId>, now: Timestamp) -> Self {
        let homes = Homes::of(&source);
        let mut outcome = Outcome::default();
        for (id, tenant) in &source.tenants {
            if tenants.contains(id) {
                outcome.assess((&source, &homes), &self.fields, (id, tenant), now);
            } else {
                outcome.take_over(self, id, tenant);
            }
        }
        Self::of(source, homes, self.fields.clone(), outcome.edges, outcome.refusals)
    }

    /// The edges that may carry data.
    pub fn edges(&self) -> impl Iterator<Item = &CompiledEdge> {
        self.edges.values()
    }

    /// The edges that leave from a region.
    pub fn exports_of(&self, region: &RegionName) -> impl Iterator<Item = &CompiledEdge> {
        let ids = self.exports.get(region).into_iter().flatten();
        ids.filter_map(|id| self.edges.get(id))
    }

    /// The edges that arrive in a region.
    pub fn imports_of(&self, region: &RegionName) -> impl Iterator<Item = &CompiledEdge> {
        let ids = self.imports.get(region).into_iter().flatten();
        ids.filter_map(|id| self.edges.get(id))
    }

    /// The edge of that name, if it may carry data.
    #[must_use]
    pub fn edge(&self, id: &EdgeId) -> Option<&CompiledEdge> {
        self.edges.get(id)
    }

    /// The edges that were asked for and refused, with every refusal. Each has at least one.
    pub fn refusals(&self) -> impl Iterator<Item = (&EdgeId, &[Denial])> {
        self.refusals.iter().map(|(id, denials)| (id, denials.as_slice()))
    }

    /// The refusals of one edge; empty when it was not asked for, or may carry data.
    #[must_use]
    pub fn refusals_of(&self, id: &EdgeId) -> &[Denial] {
        self.refusals.get(id).map_or(&[], Vec::as_slice)
    }

    /// What is wrong with a tenant now, for its status.
    #[must_use]
    pub fn violations_of(&self, tenant: &TenantId, now: Timestamp) -> Vec<Violation> {
        self.source.tenants.get(tenant).map_or_else(Vec::new, |facts| {
            crate::review::review_with(
                (&facts.spec, facts.epoch),
                (&self.source, &self.homes),
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
