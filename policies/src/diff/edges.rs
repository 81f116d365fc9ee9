//! In what one compiled edge differs from another.

use std::collections::BTreeSet;
use std::fmt;

use super::change::{Aspect, AspectChange, EdgeChange, EdgeDifference, Effect};
use crate::decision::{Check, Ground};
use crate::edge::CompiledEdge;
use crate::rule::{Denial, Rule};

/// What came of an edge in one policy: it may carry data, or what refuses it.
pub(crate) type Outcome<'a> = Result<&'a CompiledEdge, Vec<Denial>>;

/// The difference between two outcomes for the same edge, if there is any. Refused before and after is none, whatever
/// refuses it.
pub(crate) fn compare(before: Outcome<'_>, after: Outcome<'_>) -> Option<EdgeChange> {
    match (before, after) {
        (Ok(was), Ok(is)) => {
            let aspects = aspects(was, is);
            let effect = Effect::of(aspects.iter().map(|aspect| aspect.effect));
            (!aspects.is_empty()).then(|| change(is, effect, EdgeDifference::Changed { aspects }))
        }
        (Err(refused_before), Ok(is)) => {
            let grounds = is.standing_grounds();
            let opened = EdgeDifference::Opened {
                refused_before,
                grounds,
            };
            Some(change(is, Effect::Widens, opened))
        }
        (Ok(was), Err(refused)) => Some(change(was, Effect::Narrows, EdgeDifference::Closed { refused })),
        (Err(_), Err(_)) => None,
    }
}

fn change(edge: &CompiledEdge, effect: Effect, difference: EdgeDifference) -> EdgeChange {
    EdgeChange {
        edge: edge.id.clone(),
        tenant: edge.tenant.clone(),
        class: edge.class,
        from: edge.from.clone(),
        to: edge.to.clone(),
        importer: edge.importer.clone(),
        effect,
        difference,
    }
}

/// When an edge began is no aspect: it has begun in both.
fn aspects(was: &CompiledEdge, is: &CompiledEdge) -> Vec<AspectChange> {
    let mut aspects = Vec::new();
    aspects.extend(sets(
        Aspect::Fields,
        "fields",
        &was.fields,
        &is.fields,
        (is, Rule::FieldNotAllowed),
    ));
    let words = |edge: &CompiledEdge| {
        edge.purposes
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<String>>()
    };
    aspects.extend(sets(
        Aspect::Purposes,
        "purposes",
        &words(was),
        &words(is),
        (is, Rule::PurposeNotAllowed),
    ));
    aspects.extend(expiry(was, is));
    aspects.extend(switches(was, is));
    aspects.extend(condition(was, is));
    aspects.extend(receivers(was, is));
    aspects.extend(grounds(was, is));
    aspects
}

/// What came to a set and what left it, apart: the one widens, the other narrows.
fn sets(
    aspect: Aspect,
    kind: &'static str,
    was: &BTreeSet<String>,
    is: &BTreeSet<String>,
    (edge, rule): (&CompiledEdge, Rule),
) -> Vec<AspectChange> {
    let list = |items: &mut dyn Iterator<Item = &String>| items.map(String::as_str).collect::<Vec<_>>().join(", ");
    let (came, left) = (list(&mut is.difference(was)), list(&mut was.difference(is)));
    let of = |effect, because| AspectChange {
        aspect,
        before: list(&mut was.iter()),
        after: list(&mut is.iter()),
        effect,
        because,
    };
    let mut changes = Vec::new();
    if !came.is_empty() {
        let sentence = format!("{came} as well");
        changes.push(of(Effect::Widens, Check::Holds(Ground { kind, sentence })));
    }
    if !left.is_empty() {
        let denial = edge.deny(rule, format!("no longer {left}"));
        changes.push(of(Effect::Narrows, Check::Refuses(denial)));
    }
    changes
}

fn expiry(was: &CompiledEdge, is: &CompiledEdge) -> Option<AspectChange> {
    let because = match is.expires.cmp(&was.expires) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Greater => Check::Holds(Ground {
            kind: "validity",
            sentence: format!("until {}", is.expires),
        }),
        std::cmp::Ordering::Less => Check::Refuses(is.deny(is.ends_with, format!("it ends at {}", is.expires))),
    };
    let effect = match because {
        Check::Holds(_) => Effect::Widens,
        Check::Refuses(_) => Effect::Narrows,
    };
    Some(differing(Aspect::Expires, &was.expires, &is.expires, effect, because))
}

/// Protections that are on or off.
fn switches(was: &CompiledEdge, is: &CompiledEdge) -> Vec<AspectChange> {
    // Whether it widens when on.
    let switches = [
        (Aspect::Pseudonymise, was.pseudonymise, is.pseudonymise, false),
        (Aspect::Onward, was.onward, is.onward, true),
        (Aspect::NeedsConsent, was.needs_consent, is.needs_consent, false),
    ];
    let changed = switches.into_iter().filter(|(_, was, is, _)| was != is);
    changed
        .map(|(aspect, was, is, widens_when_on)| {
            let effect = if is == widens_when_on {
                Effect::Widens
            } else {
                Effect::Narrows
            };
            differing(aspect, &was, &is, effect, holds(aspect.as_str(), &is))
        })
        .collect()
}

/// One more condition narrows. Of two conditions it cannot be told which one lets more pass, so another one widens.
fn condition(was: &CompiledEdge, is: &CompiledEdge) -> Option<AspectChange> {
    if was.condition == is.condition {
        return None;
    }
    let said = |edge: &CompiledEdge| {
        let text = edge.condition.as_ref().map(|condition| condition.as_str().to_owned());
        text.unwrap_or_else(|| "none".to_owned())
    };
    let effect = if was.condition.is_none() {
        Effect::Narrows
    } else {
        Effect::Widens
    };
    let (before, after) = (said(was), said(is));
    let because = holds("condition", &after);
    Some(differing(Aspect::Condition, &before, &after, effect, because))
}

/// Another legal entity or tenant that receives is always more: it had nothing before.
fn receivers(was: &CompiledEdge, is: &CompiledEdge) -> Vec<AspectChange> {
    let mut changes = Vec::new();
    if was.importer != is.importer {
        let because = holds("parties", &format!("{} imports", is.importer));
        changes.push(differing(
            Aspect::Importer,
            &was.importer,
            &is.importer,
            Effect::Widens,
            because,
        ));
    }
    if was.importer_tenant != is.importer_tenant {
        let because = holds("importer", &format!("tenant {} receives it", is.importer_tenant));
        changes.push(differing(
            Aspect::ImporterTenant,
            &was.importer_tenant,
            &is.importer_tenant,
            Effect::Widens,
            because,
        ));
    }
    changes
}

/// Grounds that were exchanged for others: the same goes as before.
fn grounds(was: &CompiledEdge, is: &CompiledEdge) -> Vec<AspectChange> {
    let none = || "none".to_owned();
    let mechanism = |edge: &CompiledEdge| format!("{} '{}'", edge.mechanism, edge.instrument);
    let assessment = |edge: &CompiledEdge| edge.assessment.as_ref().map_or_else(none, ToString::to_string);
    let condition = |edge: &CompiledEdge| edge.art9_condition.map_or_else(none, |condition| condition.to_string());
    let exporter = |edge: &CompiledEdge| format!("{} ({})", edge.exporter, edge.from);
    type Words<'a> = &'a dyn Fn(&CompiledEdge) -> String;
    let all: [(Aspect, &'static str, Words<'_>); 4] = [
        (Aspect::Mechanism, "mechanism", &mechanism),
        (Aspect::Assessment, "assessment", &assessment),
        (Aspect::Art9Condition, "art9-condition", &condition),
        (Aspect::Exporter, "parties", &exporter),
    ];
    all.into_iter()
        .map(|(aspect, kind, words)| (aspect, kind, words(was), words(is)))
        .filter(|(_, _, was, is)| was != is)
        .map(|(aspect, kind, was, is)| differing(aspect, &was, &is, Effect::Neither, holds(kind, &is)))
        .collect()
}

fn holds(kind: &'static str, sentence: &impl fmt::Display) -> Check {
    Check::Holds(Ground {
        kind,
        sentence: sentence.to_string(),
    })
}

fn differing<T: fmt::Display>(aspect: Aspect, was: &T, is: &T, effect: Effect, because: Check) -> AspectChange {
    AspectChange {
        aspect,
        before: was.to_string(),
        after: is.to_string(),
        effect,
        because,
    }
}
