//! The stack of the demo's eu region under another name, from the very manifests that the demo applies: the policy is
//! compiled from `regions/`, validated and planned by the operator's own code. Names differ so that every run has a
//! namespace of its own.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result};
use jiff::Timestamp;
use meridian_crds::FitnessRegionSpec;
use meridian_operator::policy_form::{self, Others};
use meridian_operator::region::ingest::validate::Settings;
use meridian_operator::region::stack::plan::{Material, Plan, components, plan};
use meridian_operator::region::stack::secrets::{Authority, Data, digest};
use meridian_operator::region::stack::validate::{self, Images, NodePorts, Stack};
use meridian_policy::{
    Epoch, PolicyRevision, PolicySource, RegionFacts, RegionName, RegionPolicy, RegionTrust, TenantFacts,
    TenantResidencySpec, compile,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const MANIFESTS: [&str; 6] = [
    include_str!("../../../../regions/jurisdictions/eu.yaml"),
    include_str!("../../../../regions/jurisdictions/us.yaml"),
    include_str!("../../../../regions/jurisdictions/uk.yaml"),
    include_str!("../../../../regions/local/10-parties.yaml"),
    include_str!("../../../../regions/local/30-regions.yaml"),
    include_str!("../../../../regions/local/40-tenants.yaml"),
];

/// Every manifest of the demo that the policy is compiled from.
///
/// # Errors
/// When one is no YAML.
pub fn manifests() -> Result<Vec<Value>> {
    let documents = MANIFESTS
        .iter()
        .flat_map(|text| serde_yaml::Deserializer::from_str(text));
    let parsed = documents.map(|document| Value::deserialize(document).context("a manifest of regions/"));
    parsed.collect()
}

fn specs<K: FromStr + Ord, T: DeserializeOwned>(manifests: &[Value], kind: &str) -> Result<BTreeMap<K, T>> {
    manifests
        .iter()
        .filter(|manifest| manifest["kind"] == kind)
        .map(|manifest| {
            let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
            let key = name.parse().ok().with_context(|| format!("{kind} {name}: its name"))?;
            let spec = T::deserialize(&manifest["spec"]).with_context(|| format!("{kind} {name}"))?;
            Ok((key, spec))
        })
        .collect()
}

/// What a region that has reported says of itself: a CA of its own making, and a token key of the real size.
///
/// # Errors
/// When the CA cannot be made.
pub fn trust(region: &RegionName) -> Result<RegionTrust> {
    let ca_pem = Authority::new(region, Timestamp::now())?.certificate().to_owned();
    let jwks = json!({"keys": [{
        "kty": "EC", "use": "sig", "crv": "P-256", "alg": "ES256", "kid": format!("{region}-0197f0a2"),
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }]});
    Ok(RegionTrust { ca_pem, jwks })
}

fn policy() -> Result<RegionPolicy> {
    let manifests = manifests()?;
    let regions: BTreeMap<RegionName, FitnessRegionSpec> = specs(&manifests, "FitnessRegion")?;
    let mut source = PolicySource {
        jurisdictions: specs(&manifests, "Jurisdiction")?,
        parties: specs(&manifests, "Party")?,
        ..PolicySource::default()
    };
    for (name, spec) in regions {
        let facts = RegionFacts {
            name: name.clone(),
            jurisdiction: spec.jurisdiction,
            operated_by: spec.operated_by,
            countries_served: spec.countries_served,
            public_url: spec.gateway.public_url,
            replicator_url: spec.gateway.peer_url,
            trust: Some(trust(&name)?),
        };
        source.regions.insert(name, facts);
    }
    let tenants: BTreeMap<meridian_policy::TenantId, TenantResidencySpec> = specs(&manifests, "TenantDataResidency")?;
    for (name, spec) in tenants {
        let epoch = Epoch::from(1);
        source.tenants.insert(
            name,
            TenantFacts {
                spec: spec.into(),
                epoch,
            },
        );
    }
    let eu: RegionName = "eu".parse()?;
    compile(&source, Timestamp::now())
        .for_region(&eu, PolicyRevision::from(1))
        .map_err(|denial| anyhow::anyhow!("{denial}"))
}

/// The images that the demo runs.
pub fn images() -> Images {
    Images {
        meridian: "ghcr.io/meridian/meridian:0.1.0".to_owned(),
        postgres: "postgres:17".to_owned(),
        kafka: "apache/kafka:4.1.1".to_owned(),
    }
}

/// The RegionStack that the hub writes for it.
///
/// # Errors
/// When the demo's manifests do not compile.
pub fn region_stack(region: &str) -> Result<Value> {
    let policy = RegionPolicy {
        region: region.parse()?,
        ..policy()?
    };
    Ok(json!({
        "apiVersion": "meridian.sh/v1alpha1", "kind": "RegionStack", "metadata": {"name": region},
        "spec": {
            "region": region, "jurisdiction": policy.jurisdiction, "revision": 1, "publicHost": "eu.meridian.localhost",
            "publicUrl": policy.public_url, "peerUrl": "https://eu-control-plane:30444",
            "countriesServed": policy.countries_served, "policy": policy,
            "dataPlane": {"postgres": {"mode": "Embedded", "storage": "2Gi"}, "kafka": {"mode": "Embedded", "storage": "2Gi"}},
        },
    }))
}

/// The same, as the hub writes it for a region that reads the packed form.
///
/// # Errors
/// When the demo's manifests do not compile.
pub fn packed_region_stack(region: &str) -> Result<Value> {
    let mut stack = region_stack(region)?;
    let mut own: RegionPolicy = serde_json::from_value(stack["spec"]["policy"].take())?;
    let others = policy_form::packed_others(&Others::taken_from(&mut own))?;
    stack["spec"]["policy"] = policy_form::packed(&own, &others)?;
    Ok(stack)
}

/// Everything that the region role lays down for it, but for its Secrets, whose content would be born there.
///
/// # Errors
/// When the operator would refuse it.
pub fn planned(region: &str) -> Result<Plan> {
    let mut object = region_stack(region)?;
    object["metadata"]["uid"] = json!("0b4a7c1e-0000-4000-8000-000000000001");
    let request = validate::validate(&object, &images())?;
    let policy = validate::policy(&object["spec"]).map_err(anyhow::Error::msg)?;
    let pool = Settings {
        partitions: 6,
        ..Settings::default()
    };
    let stack = Stack {
        node_ports: NodePorts::Allocated,
        ..request.with(policy, Some(pool))
    };
    Ok(plan(&stack, &material(&stack)?)?)
}

fn material(stack: &Stack) -> Result<Material> {
    let credentials = components::credentials(stack)
        .into_iter()
        .map(|credential| credential.secret());
    let certificates = components::certificates(stack).into_iter().map(|wanted| wanted.secret);
    let named = credentials.chain(certificates).map(|name| {
        let content = Data::from([("name".to_owned(), name.clone().into_bytes())]);
        let digest = digest(&content);
        (name, digest)
    });
    Ok(Material {
        ca_certificate: trust(&stack.region)?.ca_pem,
        digests: named.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_eu_region_is_planned_under_another_name_with_its_edge() {
        let plan = planned("elsewhere").unwrap();
        assert!(plan.manifests().count() > 50);
        let spaces = plan
            .manifests()
            .filter_map(|manifest| manifest.key().namespace.as_deref());
        assert!(spaces.into_iter().all(|space| space == "meridian-elsewhere"));
        assert_eq!(policy().unwrap().exports.len(), 1);
    }
}
