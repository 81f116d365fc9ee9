//! What members hold of the policy. A resource of which nothing is recorded is new, or the hub is (it was rebuilt, or did not
//! require approvals until now): as far as members have it in force already, it needs no approval.

use std::collections::{BTreeMap, BTreeSet};

use meridian_policy::{
    ClassResidency, CompiledEdge, EdgeId, ImpactAssessment, PolicySource, RegionName, ReplicateTo, TenantHome,
    TenantId, TenantResidencySpec,
};
use serde::Deserialize;
use serde_json::Value;

use crate::hub::source::{self, Seen, regions};
use crate::watch::Cache;

/// Whose edges are looked for: reading all of them takes long, and is needed only when the hub knows little.
pub(crate) enum Sought<'a> {
    /// Everybody's.
    All,
    /// These tenants'.
    Of(BTreeSet<&'a str>),
}

impl Sought<'_> {
    fn has(&self, tenant: &Value) -> bool {
        match self {
            Self::All => true,
            Self::Of(tenants) => tenant.as_str().is_some_and(|tenant| tenants.contains(tenant)),
        }
    }
}

/// What members hold.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) edges: BTreeMap<EdgeId, CompiledEdge>,
    homes: BTreeMap<TenantId, (RegionName, TenantHome)>,
    /// Regions whose member was listed.
    asked: BTreeSet<RegionName>,
}

impl Held {
    pub(crate) fn of(hub: &Cache, seen: impl Fn(&str) -> Seen, sought: &Sought<'_>) -> Self {
        let mut held = Self::default();
        for (region, spec) in regions(hub) {
            let seen = spec.primary().map(|cluster| seen(&cluster.name)).unwrap_or_default();
            let Some(cache) = seen.known() else { continue };
            let stack = source::stack(cache, &region);
            let policy = stack.as_ref().map(|stack| &stack["spec"]["policy"]);
            // What cannot be opened is not known: nothing is taken for approved by it.
            if policy.is_some_and(|policy| !policy["exports"].is_array()) {
                continue;
            }
            held.asked.insert(region.clone());
            if let Some(policy) = policy {
                held.take(&region, policy, sought);
            }
        }
        held
    }

    fn take(&mut self, region: &RegionName, policy: &Value, sought: &Sought<'_>) {
        let list = |name: &str| policy[name].as_array().into_iter().flatten();
        for edge in list("exports")
            .chain(list("imports"))
            .filter(|edge| sought.has(&edge["tenant"]))
        {
            if let Ok(edge) = CompiledEdge::deserialize(edge) {
                self.edges.entry(edge.id.clone()).or_insert(edge);
            }
        }
        for home in list("homes").filter(|home| sought.has(&home["tenant"])) {
            if let Ok(home) = TenantHome::deserialize(home) {
                self.homes.insert(home.tenant.clone(), (region.clone(), home));
            }
        }
    }

    /// Whether the member of this region was asked.
    pub(crate) fn knows(&self, region: &RegionName) -> bool {
        self.asked.contains(region)
    }

    /// What is in force of a tenant, as a residency: what its home holds, or others who import from it; nothing where
    /// nobody holds it. `written` says what they do not tell.
    pub(crate) fn residency(&self, tenant: &TenantId, written: &PolicySource) -> Option<TenantResidencySpec> {
        let mut spec = written.tenants.get(tenant)?.spec.clone();
        let edges: Vec<&CompiledEdge> = self.edges.values().filter(|edge| edge.tenant == *tenant).collect();
        match self.homes.get(tenant) {
            Some((region, home)) if *region == spec.home.region => {
                spec.organization = home.organization.clone();
                spec.retention = home.retention.clone();
            }
            _ if self.knows(&spec.home.region) || edges.is_empty() => return None,
            _ => {}
        }
        let mut classes: BTreeMap<_, Vec<ReplicateTo>> = BTreeMap::new();
        for edge in edges {
            classes.entry(edge.class).or_default().push(asked(edge));
        }
        let classes = classes.into_iter();
        spec.classes = classes
            .map(|(class, replicate_to)| ClassResidency { class, replicate_to })
            .collect();
        Some(TenantResidencySpec::clone(&spec))
    }
}

/// What asks for exactly this edge.
fn asked(edge: &CompiledEdge) -> ReplicateTo {
    let assessed = edge.assessment.clone();
    ReplicateTo {
        region: edge.to.clone(),
        purposes: edge.purposes.iter().copied().collect(),
        fields: edge.fields.iter().cloned().collect(),
        mechanism: edge.mechanism,
        instrument: edge.instrument.clone(),
        art9_condition: edge.art9_condition,
        pseudonymise: edge.pseudonymise,
        onward: edge.onward,
        condition: edge.condition.clone(),
        tia: assessed.map(|digest| ImpactAssessment {
            digest,
            review_by: edge.expires,
        }),
        expires: edge.expires,
    }
}
