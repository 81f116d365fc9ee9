//! Who owns which field: server-side apply and merge patches, as far as the operator uses them. Lists are whole: nothing of
//! ours is written into somebody else's list.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A field, from the top of the object down.
pub type Path = Vec<String>;

/// By manager.
pub type Owners = BTreeMap<String, BTreeSet<Path>>;

/// Fields of metadata that nobody owns.
const UNOWNED: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
];

/// The ends of an object's fields.
pub fn leaves(value: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    descend(value, &mut Vec::new(), &mut found);
    found.retain(|path| {
        let unowned = path.len() == 2 && path[0] == "metadata" && UNOWNED.contains(&path[1].as_str());
        !unowned && path[0] != "apiVersion" && path[0] != "kind"
    });
    found
}

fn descend(value: &Value, at: &mut Path, found: &mut BTreeSet<Path>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                at.push(name.clone());
                descend(value, at, found);
                at.pop();
            }
        }
        _ if at.is_empty() => {}
        _ => {
            found.insert(at.clone());
        }
    }
}

pub fn get<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

fn set(value: &mut Value, path: &[String], to: Value) {
    let Some((last, before)) = path.split_last() else {
        return;
    };
    let mut at = value;
    for name in before {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[name.as_str()];
    }
    if !at.is_object() {
        *at = Value::Object(Map::new());
    }
    at[last.as_str()] = to;
}

fn remove(value: &mut Value, path: &[String]) {
    let Some((last, before)) = path.split_last() else {
        return;
    };
    let mut at = &mut *value;
    for name in before {
        let Some(next) = at.get_mut(name) else { return };
        at = next;
    }
    if let Some(map) = at.as_object_mut() {
        map.remove(last);
    }
    // What holds nothing any more goes with it.
    if !before.is_empty() && get(value, before).and_then(Value::as_object).is_some_and(Map::is_empty) {
        remove(value, before);
    }
}

/// What a manager applies by force; what it applied before and does not now goes, unless somebody else owns it too.
pub fn apply(object: &mut Value, owners: &mut Owners, manager: &str, wanted: &Value) {
    let new = leaves(wanted);
    let old = owners.remove(manager).unwrap_or_default();
    for path in old.difference(&new) {
        let shared = owners.values().any(|paths| paths.contains(path));
        let replaced = new
            .iter()
            .any(|other| other.starts_with(path) || path.starts_with(other));
        if !shared && !replaced {
            remove(object, path);
        }
    }
    for path in &new {
        let value = get(wanted, path).cloned().unwrap_or_default();
        if get(object, path) != Some(&value) {
            owners.values_mut().for_each(|paths| {
                paths.remove(path);
            });
            set(object, path, value);
        }
    }
    owners.insert(manager.to_owned(), new);
}

/// JSON merge patch (RFC 7386).
pub fn merge(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(map) = object.as_object_mut() {
                map.remove(name);
            }
        } else {
            merge(&mut object[name.as_str()], value);
        }
    }
}

/// A strategic merge patch of a webhook's configuration: its webhooks are found by name.
pub fn merge_by_name(object: &mut Value, patch: &Value) {
    let mut patch = patch.clone();
    let listed = patch.as_object_mut().and_then(|map| map.remove("webhooks"));
    for wanted in listed.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let webhooks = object["webhooks"].as_array_mut().into_iter().flatten();
        for webhook in webhooks.filter(|webhook| webhook["name"] == wanted["name"]) {
            merge(webhook, wanted);
        }
    }
    merge(object, &patch);
}

/// What differs, to be read by people.
pub fn difference(before: Option<&Value>, after: Option<&Value>) -> String {
    let (before, after) = (before.unwrap_or(&Value::Null), after.unwrap_or(&Value::Null));
    let paths: BTreeSet<Path> = leaves(before).union(&leaves(after)).cloned().collect();
    let differing = paths.into_iter().filter(|path| get(before, path) != get(after, path));
    let told = |path: Path| {
        let text = |value| get(value, &path).map(Value::to_string).unwrap_or_default();
        format!("{} from {} to {}; ", path.join("."), text(before), text(after))
    };
    differing.map(told).collect()
}

/// After an update by other means than apply: what it changed is its manager's.
pub fn updated(before: &Value, after: &Value, owners: &mut Owners, manager: &str) {
    let differing: Vec<Path> = leaves(after)
        .into_iter()
        .filter(|path| get(before, path) != get(after, path))
        .collect();
    for path in differing {
        owners.values_mut().for_each(|paths| {
            paths.remove(&path);
        });
        owners.entry(manager.to_owned()).or_default().insert(path);
    }
    owners
        .values_mut()
        .for_each(|paths| paths.retain(|path| get(after, path).is_some()));
}
