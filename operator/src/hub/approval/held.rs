//! What members hold of the policy. A resource of which nothing is recorded is new, or the hub is (it was rebuilt, or did not
//! require approvals until now): as far as members have it in force already, it needs no approval.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use meridian_policy::{
    AgeOfConsent, ClassResidency, CompiledEdge, HeldPolicy, ImpactAssessment, PolicySource, RegionName, ReplicateTo,
    Rule, TenantHome, TenantId, TenantResidencySpec,
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
    pub(crate) policy: HeldPolicy,
    /// Regions whose member was listed.
    asked: BTreeSet<RegionName>,
}

impl Held {
    pub(crate) fn of(hub: &Cache, seen: impl Fn(&str) -> Seen, sought: &Sought<'_>) -> Self {
        let (mut held, mut imports) = (Self::default(), Vec::new());
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
                imports.extend(held.take(&region, policy, sought));
            }
        }
        // What leaves a region, that region knows: others may still have an edge that it has cut.
        imports.retain(|edge: &CompiledEdge| !held.knows(&edge.from));
        for edge in imports {
            held.policy.edges.entry(edge.id.clone()).or_insert(edge);
        }
        held
    }

    /// Gives back what the region says of others: the edges that arrive there.
    fn take(&mut self, region: &RegionName, policy: &Value, sought: &Sought<'_>) -> Vec<CompiledEdge> {
        let list = |name: &str| policy[name].as_array().into_iter().flatten();
        // One that says more than is known here may be narrower than what is written: nobody has approved that.
        let edges = |name: &'static str| {
            let sought = list(name).filter(|edge| sought.has(&edge["tenant"]));
            sought.filter_map(|edge| CompiledEdge::read(edge).ok())
        };
        let exports = edges("exports").filter(|edge| edge.from == *region);
        let exports = exports.map(|edge| (edge.id.clone(), edge));
        self.policy.edges.extend(exports);
        for home in list("homes").filter(|home| sought.has(&home["tenant"])) {
            if let Ok(home) = TenantHome::deserialize(home) {
                let of = (region.clone(), home.tenant.clone());
                self.policy.homes.insert(of, home);
            }
        }
        if let Ok(age) = AgeOfConsent::deserialize(&policy["age_of_digital_consent"]) {
            self.policy.ages.insert(region.clone(), age);
        }
        edges("imports").filter(|edge| edge.to == *region).collect()
    }

    /// Whether the member of this region was asked.
    pub(crate) fn knows(&self, region: &RegionName) -> bool {
        self.asked.contains(region)
    }

    /// What is in force of a tenant, as a residency: what its home holds, or others who import from it; nothing where
    /// nobody holds it. `written` says what they do not tell.
    pub(crate) fn residency(&self, tenant: &TenantId, written: &PolicySource) -> Option<TenantResidencySpec> {
        let mut spec = written.tenants.get(tenant)?.spec.clone();
        let edges = self.policy.edges.values();
        let edges: Vec<&CompiledEdge> = edges.filter(|edge| edge.tenant == *tenant).collect();
        let home = self.policy.homes.get(&(spec.home.region.clone(), tenant.clone()));
        match (home, edges.as_slice()) {
            (Some(home), _) => {
                spec.organization = home.organization.clone();
                spec.retention = home.retention.clone();
            }
            (None, [edge, ..]) if !self.knows(&spec.home.region) => spec.organization = edge.organization.clone(),
            (None, _) => return None,
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

/// What asks for exactly this edge. It ends by what ends it now: of two ends at the same time its own would count.
fn asked(edge: &CompiledEdge) -> ReplicateTo {
    let assessed = edge.assessment.clone();
    let later = edge.expires.checked_add(SignedDuration::from_secs(1));
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
        expires: if edge.ends_with == Rule::AssessmentStale {
            later.unwrap_or(edge.expires)
        } else {
            edge.expires
        },
    }
}
