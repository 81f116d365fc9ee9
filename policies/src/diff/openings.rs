//! What a change opens, in words, for whoever is to approve it. The words say nothing of the moment at which they are asked
//! for: the same change reads the same tomorrow, so that an approval can be of exactly these words.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::change::{AspectChange, EdgeDifference, Effect};
use super::widening::{Widening, first_widenings};
use crate::catalogue::TransferableFields;
use crate::cut::retention_at_home;
use crate::edge::{CompiledEdge, EdgeId};
use crate::source::{PolicySource, TenantFacts};
use crate::vocabulary::DataClass;

/// Everything that `after` lets happen, at `now` or later, and `before` does not: edges, as far as they go beyond what `held`
/// has of them, tenants that move in or pass to another controller, data that is kept longer, and people who consent at a
/// lower age. One sentence each, in the order of the names. Empty: nobody else needs to approve the change.
#[must_use]
pub fn openings(
    before: &PolicySource,
    after: &PolicySource,
    held: &BTreeMap<EdgeId, CompiledEdge>,
    fields: &TransferableFields,
    now: Timestamp,
) -> Vec<String> {
    let edges = first_widenings(before, after, held, fields, now);
    let edges = edges.iter().map(|(widening, edge)| edge_in_words(widening, edge));
    let tenants = after.tenants.iter().flat_map(|(id, is)| match before.tenants.get(id) {
        None => vec![format!(
            "tenant {id} of {} moves in at {}",
            is.spec.organization, is.spec.home.region
        )],
        Some(was) => tenant_in_words((before, was), (after, is)),
    });
    let laws = after.jurisdictions.iter().filter(|(name, law)| {
        let before = before.jurisdictions.get(*name);
        before.is_some_and(|was| law.age_of_digital_consent.is_lower_than(&was.age_of_digital_consent))
    });
    let laws = laws.map(|(name, _)| format!("jurisdiction {name} lets people consent alone at a lower age"));
    laws.chain(tenants).chain(edges).collect()
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

fn tenant_in_words(was: (&PolicySource, &TenantFacts), is: (&PolicySource, &TenantFacts)) -> Vec<String> {
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
    let (kept, keeps) = (retention_at_home(was.0, was.1), retention_at_home(is.0, is.1));
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
