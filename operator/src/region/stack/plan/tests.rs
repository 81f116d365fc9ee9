//! The plan as a whole: its snapshot, and what must hold of every object in it.

use super::super::validate::example;
use super::*;
use crate::manifest;
use k8s_openapi::api::{
    apps::v1 as apps, batch::v1 as batch, core::v1 as core, networking::v1 as net, policy::v1 as policy,
};
use serde::{Serialize, de::DeserializeOwned};

fn material(stack: &Stack) -> Material {
    let credentials = components::credentials(stack).into_iter().map(|c| c.secret());
    let certificates = components::certificates(stack).into_iter().map(|w| w.secret);
    Material {
        ca_certificate: "-----BEGIN CERTIFICATE-----\n(the region's CA)\n-----END CERTIFICATE-----\n".to_owned(),
        digests: credentials
            .chain(certificates)
            .map(|name| (name.clone(), format!("digest of {name}")))
            .collect(),
    }
}

fn planned() -> Plan {
    plan(&example(), &material(&example())).unwrap()
}

#[test]
fn the_whole_stack_renders_as_reviewed() {
    insta::assert_snapshot!("stack", render(&planned()));
}

#[test]
fn the_same_input_gives_the_same_plan() {
    assert_eq!(render(&planned()), render(&planned()));
}

/// A field that the type does not know would be dropped here: a typing error in a builder.
fn survives<T: DeserializeOwned + Serialize>(body: &Value) -> Option<String> {
    let typed: T = serde_json::from_value(body.clone())
        .map_err(|e| panic!("{e}: {body}"))
        .ok()?;
    let back = serde_json::to_value(typed).ok()?;
    crate::apply::difference(body, &back)
}

#[test]
fn every_object_is_valid_for_its_type_to_the_last_field() {
    for manifest in planned().manifests() {
        let body = manifest.body();
        let lost = match manifest.key().kind {
            manifest::NAMESPACE => survives::<core::Namespace>(body),
            manifest::CONFIG_MAP => survives::<core::ConfigMap>(body),
            manifest::SERVICE => survives::<core::Service>(body),
            manifest::SERVICE_ACCOUNT => survives::<core::ServiceAccount>(body),
            manifest::RESOURCE_QUOTA => survives::<core::ResourceQuota>(body),
            manifest::LIMIT_RANGE => survives::<core::LimitRange>(body),
            manifest::DEPLOYMENT => survives::<apps::Deployment>(body),
            manifest::STATEFUL_SET => survives::<apps::StatefulSet>(body),
            manifest::JOB => survives::<batch::Job>(body),
            manifest::DISRUPTION_BUDGET => survives::<policy::PodDisruptionBudget>(body),
            manifest::NETWORK_POLICY => survives::<net::NetworkPolicy>(body),
            other => panic!("no type for {other:?}"),
        };
        assert_eq!(lost, None, "{}", manifest.key());
    }
}

#[test]
fn every_object_carries_who_it_belongs_to_and_no_two_share_a_key() {
    let plan = planned();
    for manifest in plan.manifests() {
        assert_eq!(
            manifest.label(manifest::MANAGED_BY_LABEL),
            "meridian",
            "{}",
            manifest.key()
        );
        assert_eq!(manifest.label(manifest::REGION_LABEL), "eu", "{}", manifest.key());
        assert_eq!(
            manifest.label(manifest::OWNER_UID_LABEL),
            example().uid,
            "{}",
            manifest.key()
        );
    }
    assert_eq!(plan.keys().len(), plan.manifests().count());
}

fn pod_specs(plan: &Plan) -> Vec<(String, Value)> {
    let spec = |m: &Manifest| Some((m.key().to_string(), m.body().pointer("/spec/template/spec")?.clone()));
    plan.manifests().filter_map(spec).collect()
}

#[test]
fn no_pod_can_escalate_write_its_root_or_speak_to_the_api_server() {
    for (name, pod) in pod_specs(&planned()) {
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{name}"
        );
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{name}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
        }
    }
}

#[test]
fn every_pod_belongs_to_a_component_that_the_network_table_knows() {
    let known: BTreeSet<_> = COMPONENTS.iter().map(|c| c.name).collect();
    for manifest in planned().manifests() {
        if let Some(labels) = manifest.body().pointer("/spec/template/metadata/labels") {
            let component = labels[components::COMPONENT_LABEL].as_str().unwrap();
            assert!(known.contains(component), "{}", manifest.key());
        }
    }
}

#[test]
fn only_migrations_see_owner_roles_and_only_the_first_sees_the_superuser() {
    for (name, pod) in pod_specs(&planned()) {
        let text = pod.to_string();
        assert_eq!(text.contains("-owner\""), name.contains("/migrate-"), "{name}");
        assert_eq!(
            text.contains("db-superuser"),
            name.contains("/migrate-cluster-") || name.ends_with("/postgres"),
            "{name}"
        );
    }
}

#[test]
fn no_service_sees_anothers_credentials() {
    for component in components::with_database() {
        let body = services::workload(&example(), component, &material(&example()))
            .unwrap()
            .to_string();
        for other in components::with_database().filter(|c| c.name != component.name) {
            assert!(
                !body.contains(&format!("\"db-{}\"", other.name)),
                "{} sees {}",
                component.name,
                other.name
            );
        }
    }
}

fn job_names(material: &Material, stack: &Stack) -> BTreeSet<String> {
    let plan = plan(stack, material).unwrap();
    plan.manifests()
        .filter(|m| m.key().kind == manifest::JOB)
        .map(|m| m.key().name.clone())
        .collect()
}

#[test]
fn a_migration_runs_again_when_its_image_or_its_credential_changes_and_not_otherwise() {
    let (stack, before) = (example(), material(&example()));
    let names = job_names(&before, &stack);
    let mut tuned = example();
    tuned.tuning.clear();
    assert_eq!(job_names(&before, &tuned), names);

    let mut newer = example();
    newer.images.meridian = "meridian:2".to_owned();
    assert!(job_names(&before, &newer).is_disjoint(&names));

    let mut rotated = before;
    rotated
        .digests
        .insert("db-consent-owner".to_owned(), "other".to_owned());
    let changed: Vec<_> = job_names(&rotated, &stack).difference(&names).cloned().collect();
    assert!(
        changed.iter().any(|n| n.starts_with("migrate-consent-")) && changed.len() == 2,
        "{changed:?}"
    );
}

fn template_of<'a>(plan: &'a Plan, name: &str) -> &'a Value {
    let is = |m: &&Manifest| m.key().name == name && m.body().pointer("/spec/template").is_some();
    plan.manifests()
        .find(is)
        .and_then(|m| m.body().pointer("/spec/template"))
        .unwrap()
}

#[test]
fn a_changed_credential_rolls_only_its_service_and_a_renewed_certificate_rolls_no_service() {
    let (stack, before) = (example(), planned());
    let mut rotated = material(&stack);
    rotated.digests.insert("db-consent".to_owned(), "other".to_owned());
    rotated.digests.insert("tls-training".to_owned(), "other".to_owned());
    let after = plan(&stack, &rotated).unwrap();
    assert_ne!(template_of(&before, "consent"), template_of(&after, "consent"));
    for same in ["training", "identity", "gateway", "keyring", "postgres", "kafka"] {
        assert_eq!(template_of(&before, same), template_of(&after, same), "{same}");
    }
}

#[test]
fn a_new_policy_revision_rolls_no_pod() {
    let (mut stack, before) = (example(), planned());
    stack.policy.revision = stack.policy.revision.next();
    let after = plan(&stack, &material(&stack)).unwrap();
    assert_eq!(pod_specs(&before), pod_specs(&after));
    assert_ne!(render(&before), render(&after));
}

#[test]
fn stores_come_before_migrations_before_services_before_the_gateway() {
    let names: Vec<_> = planned().phases.iter().map(|p| (p.name, p.gate)).collect();
    assert_eq!(
        names,
        [
            ("foundation", Gate::Open),
            ("data plane", Gate::Open),
            ("databases", Gate::WorkloadsReady),
            ("migrations", Gate::JobsComplete),
            ("services", Gate::JobsComplete),
            ("gateway", Gate::WorkloadsReady),
            ("verifier", Gate::WorkloadsReady),
        ]
    );
}
