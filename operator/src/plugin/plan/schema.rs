//! What the API server makes of a spec before it keeps it: fields that the schema does not know are refused (as kubectl
//! does), fields that were left out get their defaults. Pure, from the definitions that the chart installs.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use meridian_crds::all_crds;
use serde_json::Value;

use crate::manifest::Kind;

/// By kind, the schema of its spec.
static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    all_crds()
        .iter()
        .filter_map(|definition| {
            // A definition always serialises: its keys are strings.
            let definition = serde_json::to_value(definition).ok()?;
            let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")?;
            Some((definition["spec"]["names"]["kind"].as_str()?.to_owned(), schema.clone()))
        })
        .collect()
});

/// The spec as it would be kept.
///
/// # Errors
/// The field that the schema does not know, and those that it does.
pub(super) fn kept(kind: Kind, spec: &Value) -> Result<Value, (String, String)> {
    let mut kept = spec.clone();
    if let Some(schema) = SCHEMAS.get(kind.kind) {
        known(schema, &kept, "spec")?;
        fill(schema, &mut kept);
    }
    Ok(kept)
}

/// The spec with the schema's defaults.
pub(super) fn defaulted(kind: Kind, spec: &Value) -> Value {
    let mut kept = spec.clone();
    if let Some(schema) = SCHEMAS.get(kind.kind) {
        fill(schema, &mut kept);
    }
    kept
}

fn known(schema: &Value, value: &Value, path: &str) -> Result<(), (String, String)> {
    match value {
        Value::Object(fields) => {
            let Some(properties) = schema["properties"].as_object() else {
                let values = &schema["additionalProperties"];
                return match values.is_object() {
                    true => fields
                        .iter()
                        .try_for_each(|(name, value)| known(values, value, &format!("{path}.{name}"))),
                    // An object without a shape holds anything.
                    false => Ok(()),
                };
            };
            fields.iter().try_for_each(|(name, value)| {
                let field = format!("{path}.{name}");
                match properties.get(name) {
                    Some(schema) => known(schema, value, &field),
                    None if schema["x-kubernetes-preserve-unknown-fields"] == true => Ok(()),
                    None => {
                        let names: Vec<&str> = properties.keys().map(String::as_str).collect();
                        Err((
                            field,
                            format!("there is no such field; there are: {}", names.join(", ")),
                        ))
                    }
                }
            })
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| known(&schema["items"], item, &format!("{path}[{index}]"))),
        _ => Ok(()),
    }
}

fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let default = &property["default"];
                let absent = match fields.get(name) {
                    None => true,
                    // A null where none may be is as if it had been left out.
                    Some(Value::Null) => property["nullable"] != true,
                    Some(_) => false,
                };
                if absent && !default.is_null() {
                    fields.insert(name.clone(), default.clone());
                } else if absent {
                    fields.remove(name);
                }
                if let Some(value) = fields.get_mut(name) {
                    fill(property, value);
                }
            }
            if schema["additionalProperties"].is_object() {
                fields
                    .values_mut()
                    .for_each(|value| fill(&schema["additionalProperties"], value));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(&schema["items"], item)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{FITNESS_REGION, INGEST_POOL, TENANT_DATA_RESIDENCY};
    use serde_json::json;

    #[test]
    fn what_is_left_out_gets_the_defaults_that_the_api_server_would_fill_in() {
        let pool = json!({"region": "eu", "partitions": 6, "scaling": {"min": 1, "max": 2}});
        let kept = kept(INGEST_POOL, &pool).unwrap();
        assert_eq!(kept["onSaturation"], "Shed");
        assert_eq!(kept["streams"], json!(["samples"]));
        assert_eq!(kept["scaling"]["stabilization"]["scaleDownSeconds"], 300);
    }

    #[test]
    fn defaults_reach_into_lists() {
        let region = json!({"clusters": [{"name": "eu", "kubeconfigSecret": {"name": "member-eu"}}]});
        let kept = defaulted(FITNESS_REGION, &region);
        assert_eq!(kept["clusters"][0]["kubeconfigSecret"]["key"], "kubeconfig");
        assert_eq!(kept["dataPlane"]["postgres"]["mode"], "Embedded");
    }

    #[test]
    fn a_field_that_is_not_known_is_refused_by_its_path_and_the_known_ones_are_named() {
        let tenant = json!({"organization": "stride", "tenant": "stride-eu", "home": {"region": "eu"},
            "classes": [{"class": "health", "replicatesTo": []}]});
        let (field, cause) = kept(TENANT_DATA_RESIDENCY, &tenant).unwrap_err();
        assert_eq!(field, "spec.classes[0].replicatesTo");
        assert!(cause.contains("class, replicateTo"), "{cause}");
    }
}
