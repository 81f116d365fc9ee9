//! The CEL rules, evaluated without an API server: one behaviour each.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use kube::core::cel::{validate_cel, validate_cel_update};
use kube::{CustomResourceExt, Resource};
use meridian_crds::{
    FitnessRegion, IngestPool, Jurisdiction, Party, PrivacyIncident, RegionStack, TenantDataResidency, TenantPlacement,
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
fn a_pool_that_an_autoscaler_scales_is_never_without_a_writer() {
    let from_zero = with(scaling(), "/scaling/min", json!(0));
    let driven_by = |driver: &str| {
        let mut spec = from_zero.clone();
        spec["scaling"]["driver"] = json!(driver);
        created(&pool(spec))
    };
    assert!(driven_by("HPA").contains("scaling.min is at least 1"));
    for driver in ["Direct", "KEDA"] {
        assert_eq!(driven_by(driver), "", "{driver}");
    }
}

#[test]
fn a_pool_is_paused_and_goes_on_by_an_edit() {
    let mut paused = scaling();
    paused["paused"] = json!(true);
    assert_eq!(updated(&pool(scaling()), &pool(paused.clone())), "");
    assert_eq!(updated(&pool(paused), &pool(scaling())), "");
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

#[test]
fn an_external_postgres_is_in_networks_that_are_not_everything() {
    let in_network = |network: &str| {
        let mut spec = region();
        spec["dataPlane"] = json!({"postgres": {
            "mode": "External", "address": "db.example.eu:5432", "networks": [network], "connectionSecret": "their-db",
        }});
        created(&fitness_region(spec))
    };
    assert_eq!(in_network("10.20.0.0/28"), "");
    assert!(in_network("0.0.0.0/0").contains("/0 is everything"));
}

#[test]
fn who_runs_the_data_plane_never_changes_by_an_edit() {
    for (part, mode, title) in [
        ("postgres", "CloudNativePG", "PostgreSQL"),
        ("kafka", "Strimzi", "Kafka"),
    ] {
        let with = |mode: &str| {
            let mut spec = region();
            spec["dataPlane"] = json!({"postgres": {"mode": "Embedded"}, "kafka": {"mode": "Embedded"}});
            spec["dataPlane"][part]["mode"] = json!(mode);
            fitness_region(spec)
        };
        let said = updated(&with("Embedded"), &with(mode));
        assert!(said.contains(&format!("the mode of {title} is immutable")), "{said}");
        assert_eq!(updated(&with(mode), &with(mode)), "");
    }
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

#[test]
fn a_breach_notice_has_one_term_or_none() {
    let notice = |within: Value| {
        let mut spec = law();
        spec["breachNotices"] = json!([{
            "name": "authority", "to": "Authority", "recipient": "the authority", "article": "Art 33(1)", "term": "72 hours",
            "within": within, "from": "Awareness", "owedFrom": "Risk", "source": "https://eur-lex.europa.eu/eli/reg/2016/679/oj",
        }]);
        spec
    };
    assert_eq!(created(&jurisdiction(notice(json!({"hours": 72})))), "");
    assert_eq!(created(&jurisdiction(notice(Value::Null))), "");
    for within in [json!({}), json!({"hours": 72, "days": 3})] {
        assert!(created(&jurisdiction(notice(within))).contains("exactly one of hours, days and businessDays"));
    }
    let reserved = with(
        notice(json!({"hours": 72})),
        "/breachNotices/0/name",
        json!("not-covered"),
    );
    assert!(created(&jurisdiction(reserved)).contains("not-covered is no name"));
}

fn found() -> Value {
    json!({
        "region": "us", "kind": "DataOutOfPlace", "detectedAt": "2026-11-27T12:00:00Z", "tenants": ["stride-eu"],
        "found": [{"check": "foreign-rows", "place": "social.share", "classes": ["workout-summary"], "count": 2}],
        "jurisdictions": ["eu", "us"], "notices": [],
    })
}

fn incident(more: Value) -> PrivacyIncident {
    let mut spec = found();
    for (field, value) in more.as_object().unwrap() {
        spec[field.as_str()] = value.clone();
    }
    object("us.stride-eu.20261127t120000z", spec)
}

/// What people have done up to the closing.
fn closed(risk: &str, notices: Value) -> Value {
    json!({
        "acknowledged": {"awareSince": "2026-11-27T12:00:00Z"}, "notices": notices,
        "assessment": {"risk": risk, "because": "as counsel has written down"},
        "closed": {"at": "2026-11-28T12:00:00Z", "because": "the rows are gone"},
    })
}

fn notice(at: &str) -> Value {
    json!({"jurisdiction": "eu", "notice": "authority", "at": at, "reference": "A-1"})
}

fn changed(before: Value, after: Value) -> String {
    updated(&incident(before), &incident(after))
}

#[test]
fn what_was_found_is_never_taken_back() {
    assert_eq!(created(&incident(json!({}))), "");
    for (field, value, because) in [
        ("region", json!("eu"), "immutable"),
        ("kind", json!("Exposure"), "immutable"),
        ("detectedAt", json!("2026-11-28T12:00:00Z"), "immutable"),
        ("tenants", json!([]), "tenants never shrink"),
        ("jurisdictions", json!(["us"]), "jurisdictions never shrink"),
        ("found", json!([]), "found never shrinks"),
        (
            "found",
            json!([{"check": "foreign-rows", "place": "social.share", "count": 1}]),
            "found never shrinks",
        ),
    ] {
        let said = changed(json!({}), json!({field: value}));
        assert!(said.contains(because), "{field}: {said}");
    }
    assert_eq!(
        changed(
            json!({}),
            json!({"tenants": ["stride-eu", "pace-eu"], "jurisdictions": ["eu", "us", "br"]})
        ),
        ""
    );
}

#[test]
fn a_clock_is_never_set_back() {
    let aware = |since: &str| json!({"acknowledged": {"awareSince": since}});
    assert_eq!(changed(json!({}), aware("2026-11-27T12:00:00Z")), "");
    assert!(changed(json!({}), aware("2026-11-27T12:00:01Z")).contains("acknowledged.because says why"));
    let reasoned =
        json!({"acknowledged": {"awareSince": "2026-11-28T12:00:00Z", "because": "it was looked into for a day"}});
    assert_eq!(changed(json!({}), reasoned.clone()), "");
    assert_eq!(
        changed(reasoned.clone(), aware("2026-11-27T12:00:00Z")),
        "",
        "an earlier one is no favour"
    );
    assert!(changed(aware("2026-11-27T12:00:00Z"), reasoned).contains("never moves to a later time"));
    assert!(changed(aware("2026-11-27T12:00:00Z"), json!({})).contains("acknowledged stays"));
}

#[test]
fn a_notice_that_was_recorded_stays_and_is_not_older_than_the_incident() {
    let recorded = json!({"notices": [notice("2026-11-28T12:00:00Z")]});
    assert_eq!(changed(json!({}), recorded.clone()), "");
    for other in [json!([]), json!([notice("2026-11-28T13:00:00Z")])] {
        assert!(changed(recorded.clone(), json!({"notices": other})).contains("stay as they are"));
    }
    let early = json!({"notices": [notice("2026-11-26T12:00:00Z")]});
    assert!(changed(json!({}), early).contains("is not before detectedAt"));
}

#[test]
fn closing_needs_an_acknowledgement_an_assessment_and_where_the_risk_is_high_a_notice() {
    assert_eq!(changed(json!({}), closed("Unlikely", json!([]))), "");
    assert_eq!(
        changed(json!({}), closed("High", json!([notice("2026-11-28T12:00:00Z")]))),
        ""
    );
    assert!(changed(json!({}), closed("High", json!([]))).contains("needs an assessment.risk other than High"));
    for without in ["acknowledged", "assessment"] {
        let mut spec = closed("Unlikely", json!([]));
        spec.as_object_mut().unwrap().remove(without);
        assert!(
            changed(json!({}), spec).contains("closed needs acknowledged"),
            "{without}"
        );
    }
}

#[test]
fn what_was_closed_stays_closed() {
    let before = closed("Unlikely", json!([]));
    let mut reopened = before.clone();
    reopened.as_object_mut().unwrap().remove("closed");
    let mut reassessed = before.clone();
    reassessed["assessment"]["risk"] = json!("Risk");
    for after in [reopened, reassessed] {
        assert!(changed(before.clone(), after).contains("what was closed stays closed"));
    }
    let mut noticed = before.clone();
    noticed["notices"] = json!([notice("2026-11-28T12:00:00Z")]);
    assert_eq!(changed(before, noticed), "", "a notice can still be recorded");
}
