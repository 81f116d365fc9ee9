//! A region whose data plane other operators run, by their own schemas, on a real API server
//! (`cargo xtask parts apiserver member -- cargo test --workspace --test region_data_plane`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;

use bed::{
    Bed, client, client_of, fresh_region, install, install_custom_resources, install_custom_resources_of_a_member,
    kubeconfig, region_stack, until,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use meridian_operator::manifest::{
    DISRUPTION_BUDGET, KAFKA_CLUSTER, KAFKA_NODE_POOL, NETWORK_POLICY, POSTGRES_CLUSTER, REGION_STACK, SECRET, SERVICE,
    STATEFUL_SET,
};
use meridian_operator::manifest::{Kind, Manifest, ObjectKey};
use meridian_operator::region::stack::plan::{Material, plan};
use meridian_operator::region::stack::validate::{Images, policy, validate};
use meridian_operator::watch::{OnChange, Selection, follow};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// As CloudNativePG publishes it, of the version that is pinned.
fn clusters() -> CustomResourceDefinition {
    let file = std::env::var("MERIDIAN_TEST_CLOUDNATIVEPG_CLUSTER");
    let file = file.expect("MERIDIAN_TEST_CLOUDNATIVEPG_CLUSTER is not set: run `cargo xtask parts apiserver`");
    serde_yaml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// What Strimzi's say of the fields that we write: see operator/tests/crds/README.md.
const STRIMZI: &str = include_str!("crds/strimzi.yaml");

/// Installs ours and those of the operators that run data planes.
async fn install_all(client: &Client) {
    install_custom_resources(client).await;
    let strimzi = serde_yaml::Deserializer::from_str(STRIMZI);
    let strimzi = strimzi.map(|document| CustomResourceDefinition::deserialize(document).unwrap());
    let of_operators: Vec<_> = std::iter::once(clusters()).chain(strimzi).collect();
    install(client, &of_operators).await;
}

fn stack_of(region: &str, data_plane: Value) -> Value {
    let mut stack = region_stack(region, 1, 1);
    stack["spec"]["dataPlane"] = data_plane;
    stack
}

/// What is planned of a kind for this.
fn planned(kind: Kind, data_plane: Value) -> Manifest {
    let images = Images {
        meridian: "meridian:1".into(),
        postgres: "postgres:17".into(),
        kafka: "kafka:4.1".into(),
    };
    let stack = stack_of("eu", data_plane);
    let (request, policy) = (validate(&stack, &images).unwrap(), policy(&stack["spec"]).unwrap());
    let plan = plan(&request.with(policy, None), &Material::default()).unwrap();
    plan.manifests()
        .find(|manifest| manifest.key().kind == kind)
        .unwrap()
        .clone()
}

/// As the region role does where the chart says that there is an operator of this kind.
fn watch(bed: &Bed, kind: Kind) {
    let quiet: OnChange = Arc::new(|_, _| {});
    let (client, cache) = (bed.client.clone(), bed.cache.clone());
    tokio::spawn(follow(client, Selection::managed(kind), cache, quiet));
}

/// What the API server says to it by its operator's own schema, where unknown fields are refused.
async fn checked(client: &Client, kind: Kind, manifest: &Value) -> Result<(), kube::Error> {
    let resources: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind.resource());
    let mut manifest = manifest.clone();
    manifest["metadata"]["namespace"] = json!("default");
    let params = PatchParams::apply("test").dry_run().validation_strict();
    let name = manifest["metadata"]["name"].as_str().unwrap();
    resources.patch(name, &params, &Patch::Apply(&manifest)).await.map(drop)
}

/// As planned it is taken, and what is wrong with one field is noticed.
async fn is_as_wanted(client: &Client, manifest: &Manifest, field: &str, wrong: Value) {
    let (kind, manifest) = (manifest.key().kind, manifest.body());
    checked(client, kind, manifest).await.unwrap();
    let mut unknown = manifest.clone();
    unknown["spec"]["superuser"] = json!(true);
    assert!(
        checked(client, kind, &unknown).await.is_err(),
        "a field that is not there is noticed"
    );
    let mut mistyped = manifest.clone();
    *mistyped.pointer_mut(field).unwrap() = wrong;
    assert!(
        checked(client, kind, &mistyped).await.is_err(),
        "a type that does not fit is noticed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_planned_is_as_cloud_native_pg_wants_it() {
    let client = client().await;
    install_all(&client).await;
    for postgres in [
        json!({"mode": "CloudNativePG"}),
        json!({"mode": "CloudNativePG", "instances": 1, "storage": "100Gi", "image": "ghcr.io/cloudnative-pg/postgresql:17",
            "resources": {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}, "objectStore": "backups"}),
    ] {
        let manifest = planned(POSTGRES_CLUSTER, json!({ "postgres": postgres }));
        is_as_wanted(&client, &manifest, "/spec/instances", json!("three")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_planned_is_as_strimzi_wants_it() {
    let client = client().await;
    install_all(&client).await;
    for kafka in [
        json!({"mode": "Strimzi"}),
        json!({"mode": "Strimzi", "replicas": 1, "storage": "100Gi", "image": "quay.io/strimzi/kafka:1.2.0-kafka-4.3.1",
            "resources": {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}}),
    ] {
        let data_plane = json!({ "kafka": kafka });
        let cluster = planned(KAFKA_CLUSTER, data_plane.clone());
        is_as_wanted(&client, &cluster, "/spec/kafka/listeners/0/port", json!("many")).await;
        let nodes = planned(KAFKA_NODE_POOL, data_plane);
        is_as_wanted(&client, &nodes, "/spec/replicas", json!("three")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_by_strimzi_is_ready_when_that_says_so_of_what_was_asked_last() {
    let client = client().await;
    install_all(&client).await;
    let region = fresh_region();
    let bed = Bed::beside(client, region.clone()).await;
    for kind in [KAFKA_CLUSTER, KAFKA_NODE_POOL] {
        watch(&bed, kind);
    }
    bed.cache.synced(&[KAFKA_CLUSTER, KAFKA_NODE_POOL]).await;
    bed.put(stack_of(&region, json!({"kafka": {"mode": "Strimzi"}}))).await;
    bed.seen(&ObjectKey::cluster(REGION_STACK, &region)).await;
    waits_for(&bed, "kafka").await;
    assert!(bed.get(STATEFUL_SET, "kafka").await.is_none());
    assert!(
        bed.get(SERVICE, "kafka").await.is_some(),
        "services find it by the same name"
    );
    assert!(bed.get(SECRET, "tls-kafka").await.is_some());

    ready(&bed, KAFKA_CLUSTER, "kafka", 0).await;
    bed.pass().await.unwrap();
    assert_eq!(
        bed.condition("DataPlaneReady").await,
        "False",
        "that was said of an older one"
    );
    ready(&bed, KAFKA_CLUSTER, "kafka", 1).await;
    bed.settle().await;
    assert_eq!(bed.condition("DataPlaneReady").await, "True");
}

/// Everything is ready but for what another operator runs.
async fn waits_for(bed: &Bed, part: &str) {
    until(&format!("everything but {part} is ready"), || async {
        bed.pass().await.unwrap();
        bed.all_pods_are_fine().await;
        let status = bed.status().await["conditions"].to_string();
        status.contains(&format!("databases wait for {part}")) && status.contains(&format!("waiting for {part}\""))
    })
    .await;
}

/// What its operator would say.
async fn ready(bed: &Bed, kind: Kind, name: &str, generation: u32) {
    let ready = json!({"status": {"observedGeneration": generation, "conditions": [{"type": "Ready", "status": "True",
        "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let key = bed.key(kind, name);
    bed.api(&key)
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&ready))
        .await
        .unwrap();
    bed.seen(&key).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_by_cloud_native_pg_is_ready_when_that_says_so_and_finds_what_it_would_find_embedded() {
    let client = client().await;
    install_all(&client).await;
    let region = fresh_region();
    let bed = Bed::beside(client, region.clone()).await;
    watch(&bed, POSTGRES_CLUSTER);
    bed.cache.synced(&[POSTGRES_CLUSTER]).await;
    bed.put(stack_of(&region, json!({"postgres": {"mode": "CloudNativePG"}})))
        .await;
    bed.seen(&ObjectKey::cluster(REGION_STACK, &region)).await;

    waits_for(&bed, "postgres").await;
    for (kind, name) in [
        (STATEFUL_SET, "postgres"),
        (SERVICE, "postgres"),
        (DISRUPTION_BUDGET, "postgres"),
    ] {
        assert!(bed.get(kind, name).await.is_none(), "{name} is CloudNativePG's to make");
    }
    assert!(bed.get(NETWORK_POLICY, "postgres-instances").await.is_some());
    let secret = bed.get(SECRET, "db-superuser").await.unwrap();
    assert_eq!(secret.data["type"], "kubernetes.io/basic-auth");

    ready(&bed, POSTGRES_CLUSTER, "postgres", 1).await;
    bed.settle().await;
    assert_eq!(bed.condition("DataPlaneReady").await, "True");

    // Data does not move by an edit.
    let embedded = json!({"spec": {"dataPlane": {"postgres": {"mode": "Embedded"}}}});
    let stacks = bed.api(&ObjectKey::cluster(REGION_STACK, &region));
    let refused = stacks
        .patch(&region, &PatchParams::default(), &Patch::Merge(&embedded))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("immutable"), "{refused}");
}

/// Another API server than the other tests': none of them may find the definition gone.
async fn without_definition(name: &str) -> Bed {
    let client = client_of(&kubeconfig("MERIDIAN_TEST_MEMBER_KUBECONFIG")).await;
    install_custom_resources_of_a_member(&client).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let _ = definitions.delete(name, &DeleteParams::default()).await;
    until("the definition is gone", || async {
        definitions.get_opt(name).await.unwrap().is_none()
    })
    .await;
    Bed::beside(client, fresh_region()).await
}

async fn said(bed: &Bed, kind: &str) -> (String, String, String) {
    let status = bed.status().await;
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == kind).unwrap();
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("status"), text("reason"), text("message"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_whose_operator_is_not_there_is_held_by_the_definition_that_is_missing_until_it_comes() {
    let bed = without_definition("clusters.postgresql.cnpg.io").await;
    watch(&bed, POSTGRES_CLUSTER);
    bed.put(stack_of(&bed.region, json!({"postgres": {"mode": "CloudNativePG"}})))
        .await;
    bed.seen(&ObjectKey::cluster(REGION_STACK, &bed.region)).await;
    bed.pass().await.unwrap();

    let (status, reason, message) = said(&bed, "DataPlaneReady").await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "DefinitionMissing"));
    assert!(message.contains("clusters.postgresql.cnpg.io"), "{message}");
    assert_eq!(bed.condition("Stalled").await, "True");
    for (kind, name) in [
        (STATEFUL_SET, "postgres"),
        (STATEFUL_SET, "keyring"),
        (SECRET, "db-superuser"),
    ] {
        assert!(bed.get(kind, name).await.is_none(), "{name} takes the place of nothing");
    }

    install(&bed.client, &[clusters()]).await;
    bed.cache.synced(&[POSTGRES_CLUSTER]).await;
    bed.pass().await.unwrap();
    bed.pass().await.unwrap();
    assert!(bed.get(POSTGRES_CLUSTER, "postgres").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_lives_in_one_mode_is_held_in_it_even_where_no_rule_stops_the_edit() {
    let bed = Bed::new().await;
    watch(&bed, POSTGRES_CLUSTER);
    bed.cache.synced(&[POSTGRES_CLUSTER]).await;
    until("PostgreSQL is laid down", || async {
        bed.pass().await.unwrap();
        bed.get(STATEFUL_SET, "postgres").await.is_some()
    })
    .await;
    // A stack made anew has no old one that a rule could compare it with.
    let stacks = bed.api(&ObjectKey::cluster(REGION_STACK, &bed.region));
    stacks.delete(&bed.region, &DeleteParams::default()).await.unwrap();
    bed.put(stack_of(&bed.region, json!({"postgres": {"mode": "CloudNativePG"}})))
        .await;
    bed.seen(&ObjectKey::cluster(REGION_STACK, &bed.region)).await;
    bed.pass().await.unwrap();

    let (status, reason, message) = said(&bed, "DataPlaneReady").await;
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "ModeChanged"),
        "{message}"
    );
    assert!(bed.get(STATEFUL_SET, "postgres").await.is_some());
    assert!(bed.get(POSTGRES_CLUSTER, "postgres").await.is_none());
}

fn with_external(region: &str, address: &str) -> Value {
    stack_of(
        region,
        json!({"postgres": {
            "mode": "External", "address": address, "networks": ["10.20.0.0/28"], "connectionSecret": "their-db",
        }}),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_postgres_that_moves_is_found_by_the_same_roles_and_passwords() {
    let client = client().await;
    install_all(&client).await;
    let region = fresh_region();
    let bed = Bed::beside(client, region.clone()).await;
    let login = || async {
        let secret = bed.get(SECRET, "db-identity").await?;
        let text = |key: &str| secret.data["data"][key].as_str().map(ToOwned::to_owned);
        Some((text("password")?, text("url")?))
    };
    let laid_down_at = |address: &'static str| {
        let (bed, region) = (&bed, &region);
        async move {
            bed.put(with_external(region, address)).await;
            bed.seen(&ObjectKey::cluster(REGION_STACK, region)).await;
            bed.pass().await.unwrap();
            bed.pass().await.unwrap();
        }
    };
    laid_down_at("db.eu.example:6432").await;
    let before = login().await.unwrap();
    assert!(bed.get(STATEFUL_SET, "postgres").await.is_none());
    assert!(bed.get(NETWORK_POLICY, "identity").await.is_some());

    laid_down_at("db-2.eu.example:6432").await;
    let after = login().await.unwrap();
    assert_eq!(before.0, after.0, "the password stays");
    assert_ne!(before.1, after.1, "the way to the server does not");
}
