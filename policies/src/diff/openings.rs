//! What a change opens, in words, for whoever is to approve it. The words say nothing of the moment at which they are asked
//! for: the same change reads the same tomorrow, so that an approval can be of exactly these words.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::change::{AspectChange, EdgeDifference, Effect};
use super::widening::{Widening, first_openings};
use crate::catalogue::TransferableFields;
use crate::cut::retention_at_home;
use crate::edge::{CompiledEdge, EdgeId};
use crate::names::{RegionName, TenantId};
use crate::region_policy::TenantHome;
use crate::source::{PolicySource, RegionFacts, TenantFacts};
use crate::spec::{AgeOfConsent, JurisdictionSpec};
use crate::vocabulary::DataClass;

/// What regions hold: it is in force, whether or not a source says so.
#[derive(Debug, Clone, Default)]
pub struct HeldPolicy {
    /// By name.
    pub edges: BTreeMap<EdgeId, CompiledEdge>,
    /// The tenants that write in each region.
    pub homes: BTreeMap<(RegionName, TenantId), TenantHome>,
    /// From which age a person consents alone there.
    pub ages: BTreeMap<RegionName, AgeOfConsent>,
}

/// Everything that `after` lets happen, at `now` or later, and `before` does not: edges, as far as they go beyond what `held`
/// has of them, tenants that move in or pass to another controller, data that is kept longer, people who consent at a lower
/// age, and regions that pass to somebody else. Where `before` does not know the law of a region, what `held` has of it
/// counts. One sentence each, in the order of the names. Empty: nobody else needs to approve the change.
#[must_use]
pub fn openings(
    before: &PolicySource,
    after: &PolicySource,
    held: &HeldPolicy,
    fields: &TransferableFields,
    now: Timestamp,
) -> Vec<String> {
    let edges = first_openings(before, after, &held.edges, fields, now);
    let edges = edges.iter().map(|(widening, edge)| edge_in_words(widening, edge));
    let tenants = after.tenants.iter().flat_map(|(id, is)| match before.tenants.get(id) {
        None => vec![format!(
            "tenant {id} of {} moves in at {}",
            is.spec.organization, is.spec.home.region
        )],
        Some(was) => tenant_in_words((before, was), (after, is), held),
    });
    let laws = after.jurisdictions.iter().filter(|(name, law)| {
        let before = before.jurisdictions.get(*name);
        before.is_some_and(|was| law.age_of_digital_consent.is_lower_than(&was.age_of_digital_consent))
    });
    let laws = laws.map(|(name, _)| format!("jurisdiction {name} lets people consent alone at a lower age"));
    let regions = after.regions.values();
    let younger = regions
        .clone()
        .filter(|region| lowers_what_is_held(before, after, region, held));
    let younger = younger.map(|region| {
        let (law, region) = (&region.jurisdiction, &region.name);
        format!("jurisdiction {law} lets people consent alone at a lower age than until now in region {region}")
    });
    let passing = regions.flat_map(|is| {
        before
            .regions
            .get(&is.name)
            .map_or_else(Vec::new, |was| passes(was, is))
    });
    laws.chain(younger).chain(tenants).chain(edges).chain(passing).collect()
}

fn law_at<'a>(source: &'a PolicySource, region: &RegionName) -> Option<&'a JurisdictionSpec> {
    source.jurisdictions.get(&source.regions.get(region)?.jurisdiction)
}

/// A law that went and is written anew must not lower the age that its regions hold.
fn lowers_what_is_held(before: &PolicySource, after: &PolicySource, region: &RegionFacts, held: &HeldPolicy) -> bool {
    let ages = || held.ages.get(&region.name).zip(law_at(after, &region.name));
    law_at(before, &region.name).is_none()
        && ages().is_some_and(|(was, law)| law.age_of_digital_consent.is_lower_than(was))
}

/// Whoever runs a region has what lies in it, and its law decides about that: also while no edge leads there.
fn passes(was: &RegionFacts, is: &RegionFacts) -> Vec<String> {
    let region = &is.name;
    let mut words = Vec::new();
    if was.operated_by != is.operated_by {
        words.push(format!(
            "region {region} passes from {} to {}",
            was.operated_by, is.operated_by
        ));
    }
    if was.jurisdiction != is.jurisdiction {
        words.push(format!(
            "region {region} passes from the law of {} to that of {}",
            was.jurisdiction, is.jurisdiction
        ));
    }
    words
}

fn edge_in_words(widening: &Widening, edge: &CompiledEdge) -> String {
    match &widening.change.difference {
        EdgeDifference::Changed { aspects } => {
            let wider = aspects.iter().filter(|aspect| aspect.effect == Effect::Widens);
            let wider: Vec<String> = wider
                .map(
                    |AspectChange {
                         aspect, before, after, ..
                     }| { format!("{aspect} from {before} to {after}") },
                )
                .collect();
            format!("edge {} widens: {}", edge.id, wider.join("; "))
        }
        EdgeDifference::Opened { .. } | EdgeDifference::Closed { .. } => opened(edge),
    }
}

fn opened(edge: &CompiledEdge) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    let mut protections = vec![if edge.needs_consent {
        "with consent"
    } else {
        "without consent"
    }];
    if edge.pseudonymise {
        protections.push("pseudonymised");
    }
    if edge.onward {
        protections.push("with onward transfer");
    }
    let condition = edge
        .condition
        .as_ref()
        .map(|condition| format!("if {}", condition.as_str()));
    let protections: Vec<&str> = protections.into_iter().chain(condition.as_deref()).collect();
    format!(
        "edge {} opens: {} for {} to {} in {}, under {} '{}' until {}, {}",
        edge.id,
        list(&mut edge.fields.iter().cloned()),
        list(&mut edge.purposes.iter().map(ToString::to_string)),
        edge.importer,
        edge.to,
        edge.mechanism,
        edge.instrument,
        edge.expires,
        protections.join(", "),
    )
}

fn tenant_in_words(
    was: (&PolicySource, &TenantFacts),
    is: (&PolicySource, &TenantFacts),
    held: &HeldPolicy,
) -> Vec<String> {
    let (id, before, after) = (&is.1.spec.tenant, &was.1.spec, &is.1.spec);
    let mut words = Vec::new();
    if before.home != after.home {
        words.push(format!(
            "tenant {id} moves from {} to {}",
            before.home.region, after.home.region
        ));
    }
    if before.organization != after.organization {
        words.push(format!(
            "tenant {id} passes from {} to {}",
            before.organization, after.organization
        ));
    }
    let home = (before.home.region.clone(), id.clone());
    let kept = match held.homes.get(&home) {
        Some(home) if law_at(was.0, &before.home.region).is_none() => home.retention.clone(),
        _ => retention_at_home(was.0, was.1),
    };
    let keeps = retention_at_home(is.0, is.1);
    for class in DataClass::ALL {
        let (before, after) = (kept.get(class).copied(), keeps.get(class).copied());
        if after.unwrap_or(u32::MAX) > before.unwrap_or(u32::MAX) {
            let days =
                |days: Option<u32>| days.map_or_else(|| "without limit".to_owned(), |days| format!("for {days} days"));
            words.push(format!(
                "tenant {id} keeps {class} {} instead of {}",
                days(after),
                days(before)
            ));
        }
    }
    words
}
