//! What the API server wants to know of a schema beyond JSON Schema: which lists are maps or sets.
//!
//! `meridian-policy` knows nothing of Kubernetes, so its types are annotated here, when a resource wraps them.
//!
//! A list of up to hundreds of entries that one writer writes whole is neither: of a map the API server keeps, and merges at
//! each write, whose each field of each entry is, which is more than the list itself (docs/adr/0034).

use meridian_policy::DataClass;
use schemars::Schema;
use serde_json::{Value, json};

/// Where a nested schema is: property names, with `[]` for the items of a list.
type Path<'a> = &'a [&'a str];

/// Makes the list at `path` a map keyed by `keys`: server-side apply merges it entry by entry.
pub(crate) fn list_map(schema: &mut Schema, path: Path<'_>, keys: &[&str]) {
    if let Some(list) = at(schema, path) {
        list.insert("x-kubernetes-list-type".into(), json!("map"));
        list.insert("x-kubernetes-list-map-keys".into(), json!(keys));
    }
}

/// Makes the list at `path` a set: the API server refuses duplicates.
pub(crate) fn list_set(schema: &mut Schema, path: Path<'_>) {
    if let Some(list) = at(schema, path) {
        list.insert("x-kubernetes-list-type".into(), json!("set"));
    }
}

fn at<'a>(schema: &'a mut Schema, path: Path<'_>) -> Option<&'a mut serde_json::Map<String, Value>> {
    let mut here = schema.as_object_mut()?;
    for step in path {
        here = match *step {
            "[]" => here.get_mut("items")?.as_object_mut()?,
            name => here.get_mut("properties")?.get_mut(name)?.as_object_mut()?,
        };
    }
    Some(here)
}

/// A CEL rule: every key of the optional map `field` is a data class. (A schema cannot say this of a map's keys.)
pub(crate) fn keys_are_classes(field: &str) -> String {
    let classes: Vec<String> = DataClass::ALL.iter().map(|class| format!("'{class}'")).collect();
    format!(
        "!has(self.{field}) || self.{field}.all(key, key in [{}])",
        classes.join(", ")
    )
}
