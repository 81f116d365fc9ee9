//! The checked-in YAML is what the types give, and everything in it has a largest size.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use meridian_crds::{all_crds, to_yaml};

#[test]
fn the_checked_in_files_are_what_the_types_give() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    for crd in all_crds() {
        let (file, text) = to_yaml(&crd).unwrap();
        let found = std::fs::read_to_string(folder.join(&file)).unwrap_or_default();
        assert!(found == text, "crds/generated/{file} is stale; run `cargo xtask crds`");
    }
}

#[test]
fn every_kind_has_a_short_name_a_category_and_columns() {
    let names: Vec<(String, String)> = all_crds()
        .iter()
        .map(|crd| {
            let names = &crd.spec.names;
            assert_eq!(
                names.categories.as_deref(),
                Some(&["meridian".to_owned()][..]),
                "{}",
                names.kind
            );
            assert!(
                crd.spec.versions[0]
                    .additional_printer_columns
                    .as_ref()
                    .is_some_and(|columns| columns.len() > 3)
            );
            (names.kind.clone(), names.short_names.clone().unwrap()[0].clone())
        })
        .collect();
    let expected = [
        ("FitnessRegion", "fr"),
        ("IngestPool", "ipool"),
        ("Jurisdiction", "jur"),
        ("Party", "party"),
        ("PolicyApproval", "papp"),
        ("PrivacyIncident", "pinc"),
        ("RegionStack", "rstack"),
        ("TenantDataResidency", "tdr"),
        ("TenantPlacement", "tplace"),
    ];
    assert_eq!(names, expected.map(|(kind, short)| (kind.to_owned(), short.to_owned())));
}

/// The API server estimates what a CEL rule costs from these bounds, and refuses what could cost too much.
#[test]
fn every_string_list_and_map_is_bounded() {
    let unbounded = places(|schema| match schema.type_.as_deref() {
        Some("string") => schema.max_length.is_none() && schema.enum_.is_none(),
        Some("array") => schema.max_items.is_none(),
        Some("object") => schema.additional_properties.is_some() && schema.max_properties.is_none(),
        _ => false,
    });
    assert_eq!(unbounded, Vec::<String>::new());
}

/// Where in spec and status of any kind there is such a schema.
fn places(is_such: fn(&JSONSchemaProps) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for crd in all_crds() {
        let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
        for part in ["spec", "status"] {
            if let Some(schema) = schema.properties.as_ref().unwrap().get(part) {
                collect(&format!("{}.{part}", crd.spec.names.kind), schema, is_such, &mut found);
            }
        }
    }
    found
}

fn collect(path: &str, schema: &JSONSchemaProps, is_such: fn(&JSONSchemaProps) -> bool, found: &mut Vec<String>) {
    if is_such(schema) {
        found.push(path.to_owned());
    }
    for (name, nested) in schema.properties.iter().flatten() {
        collect(&format!("{path}.{name}"), nested, is_such, found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        collect(&format!("{path}[]"), items, is_such, found);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        collect(&format!("{path}{{}}"), values, is_such, found);
    }
}

#[test]
fn no_format_is_one_that_the_api_server_warns_about() {
    let text: String = all_crds().iter().map(|crd| to_yaml(crd).unwrap().1).collect();
    assert!(!text.contains("format: uint"));
}

#[test]
fn conditions_merge_by_type() {
    for crd in all_crds() {
        let text = to_yaml(&crd).unwrap().1;
        if text.contains("conditions:\n") {
            assert!(
                text.contains("x-kubernetes-list-map-keys:\n                - type\n"),
                "{}",
                crd.spec.names.kind
            );
        }
    }
}

/// Of a map the API server keeps, and merges at each write, whose each field of each entry is (docs/adr/0034).
#[test]
fn no_long_list_is_a_map() {
    let maps = places(|schema| {
        schema.x_kubernetes_list_type.as_deref() == Some("map") && schema.max_items.is_some_and(|most| most > 64)
    });
    assert_eq!(maps, Vec::<String>::new());
}
