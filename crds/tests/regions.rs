//! The manifests in `regions/`: valid, lawful where they should be, refused where they should be.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kube::core::cel::validate_cel;
use kube::{CustomResourceExt, Resource};
use meridian_crds::{FitnessRegion, IngestPool, Jurisdiction, Party, TenantDataResidency};
use meridian_policy::{Epoch, PolicySource, RegionFacts, Rule, TenantFacts, compile, review, review_region};
use serde::{Deserialize, Serialize};
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../regions").join(name)
}

/// The resources of a folder, in the order in which kubectl applies them. Files in folders below are left out, as there.
fn resources(name: &str) -> Vec<Value> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "regions/{name} is empty");
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        serde_yaml::Deserializer::from_str(&text)
            .map(|document| Value::deserialize(document).unwrap())
            .collect::<Vec<_>>()
    };
    files.iter().flat_map(read).collect()
}

/// Those of one kind, by name, each checked against the CEL rules.
fn of_kind<T>(all: &[Value]) -> BTreeMap<String, T>
where
    T: Resource<DynamicType = ()> + CustomResourceExt + Serialize + for<'de> Deserialize<'de>,
{
    all.iter()
        .filter(|value| value["kind"] == T::kind(&()).as_ref())
        .map(|value| {
            let object: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"));
            validate_cel(&object).unwrap_or_else(|errors| panic!("{}: {errors}", value["metadata"]["name"]));
            (object.meta().name.clone().unwrap(), object)
        })
        .collect()
}

fn demo() -> PolicySource {
    let all: Vec<Value> = [resources("jurisdictions"), resources("local")].concat();
    let regions = of_kind::<FitnessRegion>(&all).into_iter().map(|(name, region)| {
        let name: meridian_policy::RegionName = name.parse().unwrap();
        let facts = RegionFacts {
            name: name.clone(),
            jurisdiction: region.spec.jurisdiction,
            operated_by: region.spec.operated_by,
            countries_served: region.spec.countries_served,
            public_url: region.spec.gateway.public_url,
            replicator_url: region.spec.gateway.peer_url,
            trust: None,
        };
        (name, facts)
    });
    let tenants = of_kind::<TenantDataResidency>(&all).into_values().map(|tenant| {
        let spec = tenant.spec.residency;
        (
            spec.tenant.clone(),
            TenantFacts {
                spec: spec.into(),
                epoch: Epoch::new(1),
            },
        )
    });
    PolicySource {
        jurisdictions: of_kind::<Jurisdiction>(&all)
            .into_iter()
            .map(|(name, law)| (name.parse().unwrap(), law.spec.law))
            .collect(),
        parties: of_kind::<Party>(&all)
            .into_iter()
            .map(|(name, party)| (name.parse().unwrap(), party.spec.entity))
            .collect(),
        regions: regions.collect(),
        tenants: tenants.collect(),
    }
}

fn now() -> jiff::Timestamp {
    "2026-11-21T00:00:00Z".parse().unwrap()
}

#[test]
fn every_manifest_is_a_resource_that_we_know() {
    for resource in [
        resources("jurisdictions"),
        resources("local"),
        resources("local/refused"),
    ]
    .concat()
    {
        assert_eq!(resource["apiVersion"], "meridian.sh/v1alpha1", "{resource}");
    }
    let pools = of_kind::<IngestPool>(&resources("local"));
    assert_eq!(pools.keys().collect::<Vec<_>>(), ["eu-telemetry", "us-telemetry"]);
}

#[test]
fn the_demo_is_lawful_with_exactly_one_edge() {
    let source = demo();
    for tenant in source.tenants.values() {
        assert_eq!(review(&tenant.spec, &source, now()), vec![]);
    }
    for region in source.regions.values() {
        assert_eq!(review_region(region, &source), vec![]);
    }
    let policy = compile(&source, now());
    assert_eq!(policy.refusals().count(), 0);
    let [edge] = policy.edges().collect::<Vec<_>>()[..] else {
        panic!("not one edge")
    };
    assert_eq!(edge.id.as_str(), "stride-eu.workout-summary.us");
    assert_eq!(
        edge.fields.iter().collect::<Vec<_>>(),
        ["distance_meters", "duration_sec", "sport_type", "start_day"]
    );
    assert_eq!(edge.importer_tenant.as_str(), "stride-us");
    assert!(edge.needs_consent && edge.pseudonymise && !edge.onward);
}

#[test]
fn a_tenant_comes_after_the_tenants_that_receive_from_it() {
    let order: Vec<String> = resources("local")
        .iter()
        .filter(|resource| resource["kind"] == "TenantDataResidency")
        .map(|resource| resource["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(order, ["stride-us", "stride-eu"]);
}

#[test]
fn health_to_us_is_refused_by_that_one_rule() {
    let source = demo();
    let refused = of_kind::<TenantDataResidency>(&resources("local/refused"))
        .remove("stride-eu")
        .unwrap();
    let violations = review(&refused.spec.residency, &source, now());
    assert_eq!(
        violations.iter().map(|violation| violation.rule).collect::<Vec<_>>(),
        [Rule::ClassNotListed]
    );
    assert_eq!(violations[0].path, "spec.classes[health].replicateTo[us].mechanism");
}

#[test]
fn no_law_lets_health_or_places_out() {
    use meridian_policy::DataClass;
    for (name, law) in demo().jurisdictions {
        for offer in law.mechanisms {
            for class in [
                DataClass::Health,
                DataClass::Location,
                DataClass::Messages,
                DataClass::Inference,
            ] {
                assert!(
                    !offer.classes.contains(&class),
                    "{name} lets {class} go to {}",
                    offer.to
                );
            }
        }
    }
}

#[test]
fn a_region_serves_countries_where_its_law_holds() {
    let source = demo();
    for region in source.regions.values() {
        let law = &source.jurisdictions[&region.jurisdiction];
        for country in &region.countries_served {
            assert!(law.holds_in(country), "{} serves {country}", region.name);
        }
    }
}

#[test]
fn the_assessment_that_is_cited_is_the_one_that_is_there() {
    use sha2::{Digest, Sha256};
    let text = std::fs::read(folder("local/assessments/eu-us.md")).unwrap();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(text)));
    let policy = compile(&demo(), now());
    let edge = policy.edges().next().unwrap();
    assert_eq!(edge.assessment.as_ref().unwrap().as_str(), digest);
}
