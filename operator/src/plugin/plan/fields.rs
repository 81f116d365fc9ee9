//! What differs between two versions of a resource, field by field, with list items named by what identifies them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::plugin::table::short;

/// Longer values are cut for people.
const SHOWN: usize = 100;
/// By what the items of a list are told apart: the first of these that all items have, and no two alike.
const IDENTITIES: &[&[&str]] = &[
    &["id"],
    &["name"],
    &["tenant"],
    &["class"],
    &["region"],
    &["to", "mechanism", "instrument"],
    &["instrument"],
];

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// Where, for example `spec.classes[health].replicateTo[us].expires`.
    pub path: String,
    /// What is there; absent when the field is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What would be there; absent when the field goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Value| match value {
            Value::String(text) => short(text, SHOWN),
            other => short(&other.to_string(), SHOWN),
        };
        match (&self.before, &self.after) {
            (None, Some(after)) => write!(f, "+ {}: {}", self.path, shown(after)),
            (Some(before), None) => write!(f, "- {}: {}", self.path, shown(before)),
            (before, after) => write!(
                f,
                "~ {}: {} -> {}",
                self.path,
                before.as_ref().map(shown).unwrap_or_default(),
                after.as_ref().map(shown).unwrap_or_default()
            ),
        }
    }
}

/// Every field that differs, below `path`.
#[must_use]
pub fn changes(path: &str, before: &Value, after: &Value) -> Vec<FieldChange> {
    let mut found = Vec::new();
    compare(path, Some(before), Some(after), &mut found);
    found
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<FieldChange>) {
    let (before, after) = (present(before), present(after));
    match (before, after) {
        (None, None) => {}
        (Some(a), Some(b)) if a == b => {}
        (Some(Value::Object(_)) | None, Some(Value::Object(_)) | None) => {
            let fields = |side: Option<&Value>| side.and_then(Value::as_object).cloned().unwrap_or_default();
            let (a, b) = (fields(before), fields(after));
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                compare(&format!("{path}.{name}"), a.get(name), b.get(name), found);
            }
        }
        (Some(Value::Array(_)) | None, Some(Value::Array(_)) | None) => {
            let items = |side: Option<&Value>| side.and_then(Value::as_array).cloned().unwrap_or_default();
            lists(path, &items(before), &items(after), found);
        }
        (before, after) => found.push(change(path, before, after)),
    }
}

/// An empty list or map is as good as none.
fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    })
}

fn change(path: &str, before: Option<&Value>, after: Option<&Value>) -> FieldChange {
    FieldChange {
        path: path.to_owned(),
        before: before.cloned(),
        after: after.cloned(),
    }
}

fn lists(path: &str, before: &[Value], after: &[Value], found: &mut Vec<FieldChange>) {
    if let Some((before, after)) = identified(before, after) {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let path = format!("{path}[{name}]");
            match (before.get(name).copied(), after.get(name).copied()) {
                (Some(a), Some(b)) => compare(&path, Some(a), Some(b), found),
                // An item that comes or goes is told whole.
                (a, b) => found.push(change(&path, a, b)),
            }
        }
        return;
    }
    let whole = |side: &[Value]| (!side.is_empty()).then(|| Value::Array(side.to_vec()));
    let scalars = before
        .iter()
        .chain(after)
        .all(|item| !item.is_object() && !item.is_array());
    let known = found.len();
    if scalars && !before.is_empty() && !after.is_empty() {
        let path = format!("{path}[]");
        let gone = before.iter().filter(|item| !after.contains(item));
        let come = after.iter().filter(|item| !before.contains(item));
        found.extend(gone.map(|item| change(&path, Some(item), None)));
        found.extend(come.map(|item| change(&path, None, Some(item))));
    }
    if found.len() == known {
        found.push(change(path, whole(before).as_ref(), whole(after).as_ref()));
    }
}

type Items<'a> = BTreeMap<String, &'a Value>;

/// The items of both lists by what identifies them, if something does.
fn identified<'a>(before: &'a [Value], after: &'a [Value]) -> Option<(Items<'a>, Items<'a>)> {
    IDENTITIES
        .iter()
        .find_map(|fields| by(fields, before).zip(by(fields, after)))
}

fn by<'a>(fields: &[&str], items: &'a [Value]) -> Option<Items<'a>> {
    let named: Option<Items<'a>> = items
        .iter()
        .map(|item| {
            let parts: Option<Vec<&str>> = fields.iter().map(|field| item.get(*field)?.as_str()).collect();
            Some((parts?.join("/"), item))
        })
        .collect();
    named.filter(|named| named.len() == items.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(before: Value, after: Value) -> Vec<String> {
        changes("spec", &before, &after)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn items_are_told_apart_by_their_names_not_by_their_places() {
        let before = json!({"classes": [{"class": "health", "n": 1}, {"class": "media", "n": 2}]});
        let after = json!({"classes": [{"class": "media", "n": 3}, {"class": "health", "n": 1}]});
        assert_eq!(said(before, after), ["~ spec.classes[media].n: 2 -> 3"]);
    }

    #[test]
    fn a_list_of_words_tells_which_came_and_which_went() {
        let (before, after) = (json!({"fields": ["a", "b"]}), json!({"fields": ["b", "c"]}));
        assert_eq!(said(before, after), ["- spec.fields[]: a", "+ spec.fields[]: c"]);
    }

    #[test]
    fn a_new_item_is_told_whole_and_an_empty_list_is_no_difference() {
        let (before, after) = (
            json!({"exports": [], "x": []}),
            json!({"exports": [{"id": "e", "to": "us"}]}),
        );
        assert_eq!(said(before, after), [r#"+ spec.exports[e]: {"id":"e","to":"us"}"#]);
        assert_eq!(said(json!({"a": []}), json!({})), Vec::<String>::new());
    }

    #[test]
    fn words_in_another_order_are_a_difference() {
        let (before, after) = (json!({"a": [1, 2]}), json!({"a": [2, 1]}));
        assert_eq!(said(before, after), ["~ spec.a: [1,2] -> [2,1]"]);
    }
}
