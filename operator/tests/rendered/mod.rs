//! The chart as it renders: `charts/snapshots`, which `cargo xtask test` compares with what helm makes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde::Deserialize;
use serde_json::Value;

/// The namespace that the snapshots are rendered for.
pub const SYSTEM: &str = "meridian-system";

/// All objects of one rendering.
pub fn documents(rendering: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/snapshots")
        .join(format!("{rendering}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let documents = serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

/// Where an object is written.
pub fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Applies an object as helm does.
pub async fn apply(client: &Client, object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap();
    let params = PatchParams::apply("chart").force();
    api_of(client, object)
        .patch(name, &params, &Patch::Apply(object))
        .await
        .unwrap_or_else(|error| panic!("{} {name}: {error}", object["kind"]));
}

/// Applies those objects of a rendering that are of these kinds.
pub async fn install(client: &Client, rendering: &str, kinds: &[&str]) {
    for object in documents(rendering) {
        if kinds.contains(&object["kind"].as_str().unwrap()) {
            apply(client, &object).await;
        }
    }
}
