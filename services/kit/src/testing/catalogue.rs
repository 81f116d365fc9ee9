//! The catalogue (policies/catalogue) held against what there is, both ways: what is there has a class, and what has a
//! class is there. Each service has a test for each kind of thing that it has, named `catalogue_…`; tests/sources.rs
//! sees to it that none is missing.

use std::collections::BTreeSet;

use meridian_policy::catalogue::{Catalogue, FieldKey, FieldKind};
use serde_json::Value;

use super::Database;

/// The tables that every service has, through the kit's migration.
const OF_KIT: [&str; 8] = [
    "tenant_fence",
    "outbox",
    "inbox",
    "idempotency",
    "evidence_pending",
    "evidence_chain",
    "evidence_checkpoint",
    "_sqlx_migrations",
];
/// The longest that a label's value can be: a route template is the longest of them.
const LONGEST_LABEL: usize = 120;

#[track_caller]
fn assert_agrees(concerns: impl Fn(&FieldKey) -> bool, there: &BTreeSet<FieldKey>) {
    let disagreements = Catalogue::embedded().disagreements(concerns, there);
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

/// Asserts that the catalogue lists every column of a service's database, the kit's tables included, and no other.
///
/// # Panics
/// With a sentence for each column where they differ.
pub async fn assert_columns(service: &str, database: &Database) {
    let there: BTreeSet<FieldKey> = database
        .columns()
        .await
        .into_iter()
        .map(|(table, column)| {
            let owner = if OF_KIT.contains(&table.as_str()) {
                "kit"
            } else {
                service
            };
            FieldKey::new(FieldKind::Column, &format!("{owner}.{table}"), &column)
        })
        .collect();
    let ours =
        |key: &FieldKey| matches!(key.owner.split_once('.'), Some((owner, _)) if owner == service || owner == "kit");
    assert_agrees(|key| key.kind == FieldKind::Column && ours(key), &there);
}

/// Asserts that a service tells the events that the catalogue says it tells, with the fields that it lists. A payload is
/// given as the service's own type writes it, each of its fields filled.
///
/// # Panics
/// With a sentence for each event or field where they differ, and for a payload with something left empty.
#[track_caller]
pub fn assert_event_fields(service: &str, told: &[(&str, Value)]) {
    let types: BTreeSet<&str> = told.iter().map(|(event, _)| *event).collect();
    let listed: BTreeSet<&str> = Catalogue::embedded().told_by(service).collect();
    assert_eq!(
        types, listed,
        "the events that {service} tells, and those in policies/catalogue/{service}.yaml"
    );
    let mut there = BTreeSet::new();
    for (event, payload) in told {
        let mut names = BTreeSet::new();
        name_fields("", payload, &mut names);
        there.extend(
            names
                .iter()
                .map(|name| FieldKey::new(FieldKind::EventField, event, name)),
        );
    }
    assert_agrees(
        |key| key.kind == FieldKind::EventField && types.contains(key.owner.as_str()),
        &there,
    );
}

/// `outer`, `outer.inner`; what is in a list counts as in what holds the list.
#[track_caller]
fn name_fields(outer: &str, value: &Value, names: &mut BTreeSet<String>) {
    let inside: Vec<(&str, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.as_str(), value)).collect(),
        Value::Array(values) => values.iter().map(|value| ("", value)).collect(),
        Value::Null => panic!("'{outer}' is null: fill it, or what it can hold is not seen"),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => return,
    };
    assert!(
        outer.is_empty() || !inside.is_empty(),
        "'{outer}' is empty: fill it, or what it can hold is not seen"
    );
    for (name, value) in inside {
        let path = [outer, name].into_iter().filter(|part| !part.is_empty());
        let path = path.collect::<Vec<_>>().join(".");
        names.insert(path.clone());
        name_fields(&path, value, names);
    }
}

/// Asserts that the catalogue lists these names for an owner, and no other. What it lists for `kit` is every service's.
///
/// # Panics
/// With a sentence for each name where they differ.
#[track_caller]
pub fn assert_names<'a>(kind: FieldKind, owner: &str, names: impl IntoIterator<Item = &'a str>) {
    let is_kit = owner == "kit" || owner.starts_with("kit.");
    let every_services = |name: &str| Catalogue::embedded().class_of(kind, "kit", name).is_some();
    let there = names
        .into_iter()
        .filter(|name| is_kit || !every_services(name))
        .map(|name| FieldKey::new(kind, owner, name))
        .collect();
    assert_agrees(|key| key.kind == kind && key.owner == owner, &there);
}

/// Asserts the same of the labels in an exposition text, in which every metric has been counted once; and that no value
/// is one of unboundedly many, like an id or an address.
///
/// # Panics
/// With a sentence for each label or value.
#[track_caller]
pub fn assert_labels(owner: &str, exposition: &str) {
    let labels: Vec<(&str, &str)> = exposition
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(labels_of)
        .collect();
    assert_names(FieldKind::MetricLabel, owner, labels.iter().map(|(name, _)| *name));
    for (name, value) in labels {
        let id = uuid::Uuid::try_parse(value).is_ok();
        assert!(
            value.len() <= LONGEST_LABEL && !value.contains('@') && !id,
            "the label {name} has the value '{value}', which could be anybody's"
        );
    }
}

/// The labels of one line, `name{a="b",c="d"} 1`. A value may hold anything; a quote in it is escaped.
fn labels_of(line: &str) -> Vec<(&str, &str)> {
    let mut labels = Vec::new();
    let mut rest = line.split_once('{').map_or("", |(_, rest)| rest);
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut escaped = false;
        let end = after.find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some((value, after)) = end.and_then(|end| after.split_at_checked(end)) else {
            break;
        };
        labels.push((name, value));
        match after.strip_prefix("\",") {
            Some(more) => rest = more,
            None => break,
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_payload_are_named_to_the_last() {
        let mut names = BTreeSet::new();
        let payload = serde_json::json!({"a": {"b": 1, "c": {"d": true}}, "e": [{"f": "x"}]});
        name_fields("", &payload, &mut names);
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            ["a", "a.b", "a.c", "a.c.d", "e", "e.f"]
        );
    }

    #[test]
    #[should_panic(expected = "'a.b' is null")]
    fn a_field_that_is_left_out_is_refused() {
        name_fields("", &serde_json::json!({"a": {"b": null}}), &mut BTreeSet::new());
    }

    #[test]
    fn labels_are_read_whatever_their_values_hold() {
        assert_eq!(
            labels_of(r#"requests_total{method="GET",route="/a/{id},\"x\""} 1"#),
            [("method", "GET"), ("route", r#"/a/{id},\"x\""#)]
        );
        assert!(labels_of("requests_total 1").is_empty());
    }
}
