//! All custom resource definitions, as they are written to `crds/generated` and installed by the chart.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::{CustomResourceExt, ResourceExt};

use crate::{
    FitnessRegion, IngestPool, Jurisdiction, Party, PolicyApproval, PrivacyIncident, RegionStack, TenantDataResidency,
    TenantPlacement,
};

/// `helm uninstall` leaves the definitions where they are: with them it would delete every resource of their kinds, and
/// with a RegionStack what the region holds.
const KEEP: (&str, &str) = ("helm.sh/resource-policy", "keep");

/// Every definition, in the order of their names.
#[must_use]
pub fn all_crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        FitnessRegion::crd(),
        IngestPool::crd(),
        Jurisdiction::crd(),
        Party::crd(),
        PolicyApproval::crd(),
        PrivacyIncident::crd(),
        RegionStack::crd(),
        TenantDataResidency::crd(),
        TenantPlacement::crd(),
    ];
    for crd in &mut crds {
        crd.annotations_mut().insert(KEEP.0.to_owned(), KEEP.1.to_owned());
        for version in &mut crd.spec.versions {
            if let Some(schema) = version
                .schema
                .as_mut()
                .and_then(|schema| schema.open_api_v3_schema.as_mut())
            {
                known_formats(schema);
            }
        }
    }
    crds
}

/// The API server knows signed numbers only and warns about each `uint32`: the bounds say what the format would.
fn known_formats(schema: &mut JSONSchemaProps) {
    match schema.format.as_deref() {
        Some("uint8" | "uint16" | "int8" | "int16") => schema.format = Some("int32".into()),
        Some("uint32" | "uint64" | "uint") => schema.format = Some("int64".into()),
        _ => {}
    }
    for nested in schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
    {
        known_formats(nested);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        known_formats(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        known_formats(values);
    }
}

/// A definition as the YAML that is checked in, and the name of its file.
///
/// # Errors
/// When it cannot be written as YAML.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<(String, String), serde_yaml::Error> {
    let yaml = serde_yaml::to_string(crd)?;
    let text = format!("# Generated from crds/src by `cargo xtask crds`. Do not edit.\n{yaml}");
    Ok((format!("{}.yaml", crd.spec.names.plural), text))
}
