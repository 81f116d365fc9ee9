//! Would applying this change anything? A pure comparison of a planned object with the observed one.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Maps that the API server treats as one atom: an added key changes their meaning, so they must match whole.
const ATOMIC: &[&str] = &[
    "selector",
    "podSelector",
    "namespaceSelector",
    "matchLabels",
    "nodeSelector",
];
/// Maps whose strings are quantities: `1000m` and `1` are the same.
const QUANTITIES: &[&str] = &[
    "requests",
    "limits",
    "hard",
    "default",
    "defaultRequest",
    "max",
    "min",
    "capacity",
];

/// SHA-256 of the manifest in hexadecimal; serde_json keeps object keys sorted, so equal manifests have equal digests.
#[must_use]
pub fn digest(manifest: &Value) -> String {
    hex::encode(Sha256::digest(manifest.to_string()))
}

/// The path of the first planned field that the observed object lacks or holds differently; `None` when all are there.
///
/// Fields that the plan does not mention are not ours and are not looked at. Lists whose items have names are matched by
/// name (others may add items); other lists must match item by item.
#[must_use]
pub fn difference(planned: &Value, observed: &Value) -> Option<String> {
    compare(planned, observed, "", false)
}

fn compare(planned: &Value, observed: &Value, path: &str, quantity: bool) -> Option<String> {
    match (planned, observed) {
        (Value::Null, _) => None,
        (Value::Object(planned), Value::Object(observed)) => {
            planned.iter().find_map(|(key, value)| match observed.get(key) {
                Some(found) if ATOMIC.contains(&key.as_str()) => exact(value, found, path, key),
                Some(found) => compare(
                    value,
                    found,
                    &format!("{path}/{key}"),
                    QUANTITIES.contains(&key.as_str()) || (quantity && found.is_string()),
                ),
                None if is_empty(value) => None,
                None => Some(format!("{path}/{key}")),
            })
        }
        (Value::Array(planned), Value::Array(observed)) => lists(planned, observed, path),
        (Value::String(a), Value::String(b)) if quantity => (quantity_of(a) != quantity_of(b)).then(|| path.to_owned()),
        (a, b) if is_empty(a) && b.is_null() => None,
        (a, b) => (a != b).then(|| path.to_owned()),
    }
}

/// Subset both ways: an atom that gained a key is as wrong as one that lost it.
fn exact(planned: &Value, observed: &Value, path: &str, key: &str) -> Option<String> {
    let path = format!("{path}/{key}");
    compare(planned, observed, &path, false).or_else(|| compare(observed, planned, &path, false))
}

fn lists(planned: &[Value], observed: &[Value], path: &str) -> Option<String> {
    let name = |v: &Value| v.get("name").and_then(Value::as_str).map(ToOwned::to_owned);
    if !planned.is_empty() && planned.iter().all(|v| name(v).is_some()) {
        return planned.iter().find_map(|item| {
            let wanted = name(item);
            let item_path = format!("{path}/{}", wanted.as_deref().unwrap_or_default());
            match observed.iter().find(|v| name(v) == wanted) {
                Some(found) => compare(item, found, &item_path, false),
                None => Some(item_path),
            }
        });
    }
    if planned.len() != observed.len() {
        return Some(path.to_owned());
    }
    planned
        .iter()
        .zip(observed)
        .enumerate()
        .find_map(|(i, (a, b))| compare(a, b, &format!("{path}/{i}"), false))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A Kubernetes quantity in thousandths of its unit, or the text itself where it is none.
fn quantity_of(text: &str) -> Result<i128, &str> {
    const SUFFIXES: &[(&str, i128)] = &[
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    if let Some(milli) = text.strip_suffix('m') {
        return milli.parse().map_err(|_| text);
    }
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|n| (n, *factor)))
        .unwrap_or((text, 1));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = format!("{fraction:0<3}");
    let whole: i128 = whole.parse().map_err(|_| text)?;
    let thousandths: i128 = fraction.get(..3).and_then(|f| f.parse().ok()).ok_or(text)?;
    Ok((whole * 1_000 + thousandths) * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_fills_in_is_no_difference() {
        let planned = json!({"spec": {"containers": [{"name": "a", "image": "i"}], "volumes": [], "emptyDir": {}}});
        let observed = json!({"spec": {"containers": [{"name": "a", "image": "i", "imagePullPolicy": "Always"}], "dnsPolicy": "X"}, "status": {}});
        assert_eq!(difference(&planned, &observed), None);
    }

    #[test]
    fn a_changed_or_missing_field_is_named_by_its_path() {
        let planned = json!({"spec": {"containers": [{"name": "a", "image": "i"}]}});
        let changed = json!({"spec": {"containers": [{"name": "x"}, {"name": "a", "image": "j"}]}});
        assert_eq!(
            difference(&planned, &changed).as_deref(),
            Some("/spec/containers/a/image")
        );
        assert_eq!(
            difference(&planned, &json!({"spec": {}})).as_deref(),
            Some("/spec/containers")
        );
    }

    #[test]
    fn an_item_that_another_manager_added_to_a_named_list_is_left_alone() {
        let planned = json!({"containers": [{"name": "a"}]});
        assert_eq!(
            difference(&planned, &json!({"containers": [{"name": "sidecar"}, {"name": "a"}]})),
            None
        );
    }

    #[test]
    fn a_selector_or_a_rule_that_gained_an_entry_is_drift() {
        let planned = json!({"podSelector": {}, "ingress": [{"from": []}]});
        let narrowed = json!({"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"from": []}]});
        assert_eq!(
            difference(&planned, &narrowed).as_deref(),
            Some("/podSelector/matchLabels")
        );
        let opened = json!({"podSelector": {}, "ingress": [{"from": []}, {}]});
        assert_eq!(difference(&planned, &opened).as_deref(), Some("/ingress"));
    }

    #[test]
    fn quantities_are_compared_by_value() {
        let planned = json!({"limits": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(
            difference(&planned, &json!({"limits": {"cpu": "1", "memory": "1Gi"}})),
            None
        );
        assert!(difference(&planned, &json!({"limits": {"cpu": "2", "memory": "1Gi"}})).is_some());
        assert_eq!(quantity_of("0.5"), quantity_of("500m"));
    }

    #[test]
    fn equal_manifests_have_equal_digests_whatever_the_order_they_were_written_in() {
        assert_eq!(digest(&json!({"a": 1, "b": 2})), digest(&json!({"b": 2, "a": 1})));
        assert_ne!(digest(&json!({"a": 1})), digest(&json!({"a": 2})));
    }
}
