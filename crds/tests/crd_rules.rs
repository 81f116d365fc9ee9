//! The CEL rules, evaluated without an API server: one behaviour each.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use kube::core::cel::{validate_cel, validate_cel_update};
use kube::{CustomResourceExt, Resource};
use meridian_crds::{
    FitnessRegion, IngestPool, Jurisdiction, Party, RegionStack, TenantDataResidency, TenantPlacement,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn object<T: Resource<DynamicType = ()> + DeserializeOwned>(name: &str, spec: Value) -> T {
    serde_json::from_value(json!({
        "apiVersion": T::api_version(&()), "kind": T::kind(&()), "metadata": {"name": name}, "spec": spec,
    }))
    .unwrap()
}

/// What creating says: empty when it is accepted.
fn created<T: CustomResourceExt + Serialize>(object: &T) -> String {
    validate_cel(object)
        .err()
        .map(|errors| errors.to_string())
        .unwrap_or_default()
}

/// What updating says: empty when it is accepted.
fn updated<T: CustomResourceExt + Serialize>(old: &T, new: &T) -> String {
    validate_cel_update(new, old)
        .err()
        .map(|errors| errors.to_string())
        .unwrap_or_default()
}

fn with(mut spec: Value, pointer: &str, value: Value) -> Value {
    *spec.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    spec
}

fn residency() -> Value {
    json!({
        "organization": "stride", "tenant": "stride-eu", "home": {"region": "eu"},
        "classes": [{"class": "workout-summary", "replicateTo": [{
            "region": "us", "purposes": ["cross-border-sharing"], "fields": ["sport_type"], "mechanism": "SCC",
            "instrument": "SCC 2021/914 module 1", "expires": "2030-01-01T00:00:00Z",
        }]}],
        "retention": {"location": 30},
    })
}

fn tenant(spec: Value) -> TenantDataResidency {
    object("stride-eu", spec)
}

#[test]
fn a_residency_is_accepted() {
    assert_eq!(created(&tenant(residency())), "");
    assert_eq!(updated(&tenant(residency()), &tenant(residency())), "");
}

#[test]
fn a_residency_is_named_after_its_tenant() {
    let other: TenantDataResidency = object("other", residency());
    assert!(created(&other).contains("named after its tenant"));
}

#[test]
fn an_edge_to_its_own_home_is_refused() {
    let home = with(residency(), "/classes/0/replicateTo/0/region", json!("eu"));
    assert!(created(&tenant(home)).contains("home-named-as-target"));
}

#[test]
fn a_home_never_changes_by_an_edit() {
    let moved = with(residency(), "/home/region", json!("us"));
    assert!(updated(&tenant(residency()), &tenant(moved)).contains("home is immutable"));
}

#[test]
fn a_tenant_never_changes_its_organization() {
    let sold = with(residency(), "/organization", json!("other"));
    assert!(updated(&tenant(residency()), &tenant(sold)).contains("immutable"));
}

#[test]
fn an_unknown_mechanism_class_or_purpose_does_not_parse() {
    for (pointer, value) in [
        ("/classes/0/replicateTo/0/mechanism", "Goodwill"),
        ("/classes/0/class", "moods"),
        ("/classes/0/replicateTo/0/purposes/0", "curiosity"),
        ("/home/region", "The EU"),
    ] {
        let spec = with(residency(), pointer, json!(value));
        assert!(
            serde_json::from_value::<meridian_crds::TenantResidency>(spec).is_err(),
            "{pointer}"
        );
    }
}

#[test]
fn an_edge_without_an_end_does_not_parse() {
    let mut spec = residency();
    spec["classes"][0]["replicateTo"][0]
        .as_object_mut()
        .unwrap()
        .remove("expires");
    assert!(serde_json::from_value::<meridian_crds::TenantResidency>(spec).is_err());
}

fn pool(spec: Value) -> IngestPool {
    object("eu-telemetry", spec)
}

fn scaling() -> Value {
    json!({"region": "eu", "partitions": 6, "scaling": {"min": 1, "max": 4}})
}

#[test]
fn a_pool_scales_between_min_and_max_within_its_partitions() {
    assert_eq!(created(&pool(scaling())), "");
    assert!(created(&pool(with(scaling(), "/scaling/min", json!(5)))).contains("scaling.min is at most scaling.max"));
    assert!(created(&pool(with(scaling(), "/scaling/max", json!(7)))).contains("at most partitions"));
}

#[test]
fn a_pool_never_leaves_its_region_nor_loses_partitions() {
    let elsewhere = with(scaling(), "/region", json!("us"));
    assert!(updated(&pool(scaling()), &pool(elsewhere)).contains("region is immutable"));
    let fewer = with(scaling(), "/partitions", json!(5));
    assert!(updated(&pool(scaling()), &pool(fewer)).contains("partitions never decrease"));
}

fn placement(epoch: u64, revision: u64, home: &str) -> TenantPlacement {
    object(
        "stride-eu",
        json!({"tenant": "stride-eu", "organization": "stride", "home": home, "epoch": epoch, "revision": revision}),
    )
}

#[test]
fn epoch_and_revision_of_a_placement_only_grow() {
    let old = placement(2, 7, "eu");
    assert_eq!(updated(&old, &placement(2, 7, "eu")), "");
    assert_eq!(updated(&old, &placement(3, 8, "eu")), "");
    assert!(updated(&old, &placement(1, 8, "eu")).contains("epoch never decreases"));
    assert!(updated(&old, &placement(3, 6, "eu")).contains("revision never decreases"));
}

#[test]
fn another_home_needs_a_higher_epoch() {
    let old = placement(2, 7, "eu");
    assert!(updated(&old, &placement(2, 8, "us")).contains("another home needs a higher epoch"));
    assert_eq!(updated(&old, &placement(3, 8, "us")), "");
}

fn stack(revision: u64, floor: u64) -> RegionStack {
    object(
        "eu",
        json!({
            "region": "eu", "jurisdiction": "eu", "publicHost": "eu.meridian.localhost",
            "publicUrl": "https://eu.meridian.localhost:8443", "peerUrl": "https://eu-control-plane:30444",
            "revision": revision, "epochFloor": floor,
            "policy": {
                "region": "eu", "jurisdiction": "eu", "revision": revision, "public_url": "u", "issuer": "u",
                "countries_served": [], "homes": [], "directory": [], "peers": [], "exports": [], "imports": [],
                "retention": {},
            },
        }),
    )
}

#[test]
fn revision_and_epoch_floor_of_a_stack_only_grow() {
    assert_eq!(updated(&stack(5, 1), &stack(6, 2)), "");
    assert!(updated(&stack(5, 1), &stack(4, 1)).contains("revision never decreases"));
    assert!(updated(&stack(5, 1), &stack(5, 0)).contains("epochFloor never decreases"));
}

fn region() -> Value {
    let cluster = |name: &str, role: &str| json!({"name": name, "role": role, "country": "DE", "kubeconfigSecret": {"name": "member-eu"}});
    json!({
        "jurisdiction": "eu", "operatedBy": "stride-europe", "countriesServed": ["DE"],
        "clusters": [cluster("eu", "Primary"), cluster("eu-2", "Standby")],
        "gateway": {"host": "eu.example", "publicUrl": "https://eu.example", "peerUrl": "https://eu.example:30444"},
        "services": {"training": {"replicas": 2}},
    })
}

fn fitness_region(spec: Value) -> FitnessRegion {
    object("eu", spec)
}

#[test]
fn a_region_has_exactly_one_primary() {
    assert_eq!(created(&fitness_region(region())), "");
    for (cluster, role) in [(0, "Standby"), (1, "Primary")] {
        let spec = with(region(), &format!("/clusters/{cluster}/role"), json!(role));
        assert!(created(&fitness_region(spec)).contains("exactly one cluster"), "{role}");
    }
}

#[test]
fn a_region_never_changes_its_law_by_an_edit() {
    let other = with(region(), "/jurisdiction", json!("us"));
    assert!(updated(&fitness_region(region()), &fitness_region(other)).contains("jurisdiction is immutable"));
}

#[test]
fn only_services_can_be_tuned() {
    let spec = with(region(), "/services", json!({"postgres": {"replicas": 2}}));
    assert!(created(&fitness_region(spec)).contains("not a service"));
}

#[test]
fn an_external_data_plane_says_where_it_is() {
    let mut spec = region();
    spec["dataPlane"] = json!({"postgres": {"mode": "External"}, "kafka": {"mode": "External"}});
    let said = created(&fitness_region(spec));
    assert!(
        said.contains("connectionSecret") && said.contains("bootstrap"),
        "{said}"
    );
}

fn law() -> Value {
    json!({
        "law": "GDPR", "framework": "GDPR", "countries": ["DE", "FR"],
        "sensitivity": {"health": "Special"},
        "ageOfDigitalConsent": {"default": 16, "byCountry": {"FR": 15}},
        "retention": {"location": {"minDays": 1, "maxDays": 183}},
        "mechanisms": [{
            "to": "us", "mechanism": "SCC", "instrument": "SCC 2021/914 module 1", "classes": ["workout-summary"],
            "effectiveFrom": "2021-06-27T00:00:00Z", "expires": "2031-01-01T00:00:00Z",
        }],
    })
}

fn jurisdiction(spec: Value) -> Jurisdiction {
    object("eu", spec)
}

#[test]
fn a_law_is_accepted() {
    assert_eq!(created(&jurisdiction(law())), "");
}

#[test]
fn a_mechanism_leads_elsewhere_and_ends_after_it_began() {
    let home = with(law(), "/mechanisms/0/to", json!("eu"));
    assert!(created(&jurisdiction(home)).contains("leads to another jurisdiction"));
    let over = with(law(), "/mechanisms/0/expires", json!("2021-06-27T00:00:00Z"));
    assert!(created(&jurisdiction(over)).contains("expires after it takes effect"));
}

#[test]
fn a_retention_has_its_min_below_its_max() {
    let spec = with(law(), "/retention/location/minDays", json!(200));
    assert!(created(&jurisdiction(spec)).contains("minDays is at most its maxDays"));
}

#[test]
fn an_age_is_given_for_a_country_of_the_law() {
    let spec = with(law(), "/ageOfDigitalConsent/byCountry", json!({"US": 13}));
    assert!(created(&jurisdiction(spec)).contains("where the law does not hold"));
}

#[test]
fn a_certification_expires_after_it_takes_effect() {
    let party: Party = object(
        "stride-inc",
        json!({
            "legalName": "Stride Inc.", "role": "Controller", "country": "US",
            "certifications": [{
                "instrument": "EU-US DPF", "effectiveFrom": "2026-01-01T00:00:00Z", "expires": "2025-01-01T00:00:00Z",
            }],
        }),
    );
    assert!(created(&party).contains("expires after it takes effect"));
}
