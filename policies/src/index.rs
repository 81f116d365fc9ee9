//! What became of the edges that tenants ask for, found by tenant. A copy shares with the original everything that is not
//! changed in it, so that a policy in which one tenant differs is made in the time that one tenant takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::edge::{CompiledEdge, EdgeId};
use crate::names::{RegionName, TenantId};
use crate::rule::Denial;
use crate::vocabulary::DataClass;

/// What became of one edge.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) id: EdgeId,
    class: DataClass,
    to: RegionName,
    pub(crate) outcome: Outcome,
}

/// An edge that may carry data, or every refusal of it: at least one.
#[derive(Debug)]
pub(crate) enum Outcome {
    Open(Arc<CompiledEdge>),
    Refused(Vec<Denial>),
}

impl Verdict {
    pub(crate) fn new(id: EdgeId, class: DataClass, to: RegionName, outcome: Outcome) -> Self {
        Self { id, class, to, outcome }
    }

    pub(crate) fn edge(&self) -> Option<&Arc<CompiledEdge>> {
        match &self.outcome {
            Outcome::Open(edge) => Some(edge),
            Outcome::Refused(_) => None,
        }
    }

    pub(crate) fn refusals(&self) -> &[Denial] {
        match &self.outcome {
            Outcome::Open(_) => &[],
            Outcome::Refused(denials) => denials,
        }
    }
}

/// Everything that one tenant asks for, in the order of the names.
pub(crate) type Verdicts = Arc<[Verdict]>;

/// So many that few tenants share a part, and copying the list of parts is nothing.
const PARTS: usize = 256;

/// The verdicts of every tenant.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    parts: Vec<Arc<HashMap<TenantId, Verdicts>>>,
    /// The tenants that have an open edge into a region.
    importing: BTreeMap<RegionName, Arc<BTreeSet<TenantId>>>,
}

impl Index {
    pub(crate) fn of(all: impl IntoIterator<Item = (TenantId, Verdicts)>) -> Self {
        let mut parts: Vec<HashMap<TenantId, Verdicts>> = Vec::new();
        parts.resize_with(PARTS, HashMap::new);
        let mut importing: BTreeMap<RegionName, BTreeSet<TenantId>> = BTreeMap::new();
        for (tenant, verdicts) in all {
            for region in targets(&verdicts) {
                importing.entry(region.clone()).or_default().insert(tenant.clone());
            }
            parts[part_of(&tenant)].insert(tenant, verdicts);
        }
        Self {
            parts: parts.into_iter().map(Arc::new).collect(),
            importing: importing
                .into_iter()
                .map(|(region, tenants)| (region, Arc::new(tenants)))
                .collect(),
        }
    }

    /// Puts the verdicts of a tenant in the place of those that it had; none takes them away.
    pub(crate) fn replace(&mut self, tenant: &TenantId, verdicts: Option<Verdicts>) {
        let had = self.of_tenant(tenant).map(Arc::clone);
        let before: BTreeSet<&RegionName> = had.iter().flat_map(|verdicts| targets(verdicts)).collect();
        let after: BTreeSet<&RegionName> = verdicts.iter().flat_map(|verdicts| targets(verdicts)).collect();
        for region in before.difference(&after) {
            if let Some(tenants) = self.importing.get_mut(*region) {
                Arc::make_mut(tenants).remove(tenant);
            }
        }
        for region in after.difference(&before) {
            let tenants = self.importing.entry((*region).clone()).or_default();
            Arc::make_mut(tenants).insert(tenant.clone());
        }
        let part = Arc::make_mut(&mut self.parts[part_of(tenant)]);
        match verdicts {
            Some(verdicts) => part.insert(tenant.clone(), verdicts),
            None => part.remove(tenant),
        };
    }

    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> Option<&Verdicts> {
        self.parts[part_of(tenant)].get(tenant)
    }

    /// What became of what a tenant asks for of one class, to one region.
    pub(crate) fn find(&self, tenant: &TenantId, class: DataClass, to: &RegionName) -> Option<&Verdict> {
        let mut verdicts = self.of_tenant(tenant)?.iter();
        verdicts.find(|verdict| verdict.class == class && verdict.to == *to)
    }

    pub(crate) fn importing(&self, region: &RegionName) -> impl Iterator<Item = &TenantId> {
        self.importing
            .get(region)
            .into_iter()
            .flat_map(|tenants| tenants.iter())
    }
}

fn targets(verdicts: &[Verdict]) -> impl Iterator<Item = &RegionName> {
    verdicts
        .iter()
        .filter(|verdict| verdict.edge().is_some())
        .map(|verdict| &verdict.to)
}

/// FNV-1a.
fn part_of(tenant: &TenantId) -> usize {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = tenant.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    // The upper half is mixed best; a remainder of so few parts fits any usize.
    usize::try_from((hash >> 32) % PARTS as u64).unwrap_or_default()
}
