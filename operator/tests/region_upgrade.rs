//! What an upgrade does to a region, on a real API server: of the operator, of the services' image, of a hub that is older
//! or newer than the region (`cargo xtask parts apiserver member -- cargo test -p meridian-operator --test region_upgrade`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;

use bed::{Bed, region_stack};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use meridian_kit::testing::pause;
use meridian_operator::hub::lease::{Settled, may_renew};
use meridian_operator::manifest::{DEPLOYMENT, REGION_STACK, STATEFUL_SET, TENANT_PLACEMENT};
use meridian_operator::policy_form::{self, Others};
use meridian_operator::reconcile::Outcome;
use meridian_policy::RegionPolicy;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A rollout that fails is known to have failed after its deadline, 10 s here; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(180);

/// A region that runs, with `meridian:1`.
async fn running() -> Bed {
    let bed = Bed::new().await;
    bed.pass().await.unwrap();
    bed.place(1).await;
    bed.settle().await;
    bed
}

/// The operator of the same region after an upgrade: its images are others.
async fn upgraded(bed: &Bed) -> Bed {
    let mut newer = Bed::beside(bed.client.clone(), bed.region.clone()).await;
    newer.stacks.images.meridian = "meridian:2".into();
    newer.stacks.images.postgres = "postgres:18".into();
    newer
}

async fn put(bed: &Bed, revision: u64, change: impl FnOnce(&mut Value)) {
    let mut stack = region_stack(&bed.region, revision, 1);
    change(&mut stack["spec"]);
    bed.put(stack).await;
    bed.seen(&bed.key(REGION_STACK, &bed.region)).await;
}

/// The image of every Deployment and StatefulSet of the region, but for PostgreSQL's and Kafka's.
async fn images(bed: &Bed) -> BTreeMap<String, String> {
    let mut images = BTreeMap::new();
    for kind in [DEPLOYMENT, STATEFUL_SET] {
        for workload in bed.api(&bed.key(kind, "")).list(&ListParams::default()).await.unwrap() {
            let image = workload.data.pointer("/spec/template/spec/containers/0/image").unwrap();
            images.insert(workload.name_any(), image.as_str().unwrap().to_owned());
        }
    }
    images.retain(|name, _| !["postgres", "kafka"].contains(&name.as_str()));
    images
}

/// The pods of the region, by UID.
async fn pods(bed: &Bed) -> BTreeSet<String> {
    let api: Api<Pod> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let pods = api.list(&ListParams::default()).await.unwrap();
    pods.into_iter().filter_map(|pod| pod.uid()).collect()
}

fn with<'a>(images: &'a BTreeMap<String, String>, image: &str) -> Vec<&'a str> {
    let found = images.iter().filter(|(_, runs)| *runs == image);
    found.map(|(name, _)| name.as_str()).collect()
}

/// A kubelet that cannot pull `meridian:broken` for services; its jobs succeed, so that services are what fails.
async fn kubelet(bed: &Bed) {
    let api: Api<Pod> = Api::namespaced(bed.client.clone(), &bed.namespace);
    for pod in api.list(&ListParams::default()).await.unwrap() {
        let spec = pod.spec.clone().unwrap_or_default();
        let of_job = pod.owner_references().iter().any(|owner| owner.kind == "Job");
        let broken = spec
            .containers
            .iter()
            .any(|c| c.image.as_deref() == Some("meridian:broken"));
        let pending = pod.status.clone().unwrap_or_default().phase.as_deref() == Some("Pending");
        if !pending || (broken && !of_job) {
            continue;
        }
        let (phase, ready) = if of_job {
            ("Succeeded", "False")
        } else {
            ("Running", "True")
        };
        let patch = json!({"status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]}});
        let _ = api
            .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await;
    }
}

/// Passes, with that kubelet, until the stack's condition is so; then its reason and message.
async fn until_condition(bed: &Bed, kind: &str, status: &str) -> (String, String) {
    let began = Instant::now();
    loop {
        bed.pass().await.unwrap();
        kubelet(bed).await;
        let all = bed.status().await;
        let conditions = all["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions
            .iter()
            .find(|c| c["type"] == kind)
            .cloned()
            .unwrap_or_default();
        if found["status"] == status {
            let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
            return (text("reason"), text("message"));
        }
        assert!(began.elapsed() < PATIENCE, "{kind} is not {status}: {all:#}");
        pause(began).await;
    }
}

#[tokio::test]
async fn an_upgraded_operator_restarts_nothing_of_a_region_that_names_no_image() {
    let bed = running().await;
    let recorded = bed.status().await["images"].clone();
    assert_eq!(
        recorded,
        json!({"meridian": "meridian:1", "postgres": "postgres:17", "kafka": "kafka:4.1"})
    );
    let before = bed.versions().await;

    let newer = upgraded(&bed).await;
    assert_eq!(newer.pass().await.unwrap().outcome, Outcome::Steady);
    assert_eq!(newer.metrics.writes(), 0, "{}", newer.metrics.render());
    assert_eq!(bed.versions().await, before);

    // The explicit step; and leaving it out again takes nothing back.
    put(&newer, 2, |spec| spec["image"] = json!("meridian:2")).await;
    newer.settle().await;
    assert_eq!(with(&images(&bed).await, "meridian:1"), Vec::<&str>::new());
    assert_eq!(newer.status().await["images"]["meridian"], "meridian:2");
    put(&newer, 3, |_| ()).await;
    newer.settle().await;
    assert_eq!(with(&images(&bed).await, "meridian:1"), Vec::<&str>::new());
    let postgres = bed.get(STATEFUL_SET, "postgres").await.unwrap();
    assert_eq!(
        postgres.data["spec"]["template"]["spec"]["containers"][0]["image"],
        "postgres:17"
    );
}

#[tokio::test]
async fn a_region_that_follows_the_operator_is_upgraded_with_it() {
    let bed = running().await;
    put(&bed, 2, |spec| {
        spec["rollout"] = json!({"unnamedImage": "FollowsOperator"})
    })
    .await;
    let newer = upgraded(&bed).await;
    newer.settle().await;
    assert_eq!(with(&images(&bed).await, "meridian:1"), Vec::<&str>::new());
    assert_eq!(newer.status().await["images"]["postgres"], "postgres:18");
}

#[tokio::test]
async fn a_stack_made_anew_adopts_what_runs() {
    let bed = running().await;
    let before = pods(&bed).await;
    let stack = bed.key(REGION_STACK, &bed.region);
    bed.api(&stack)
        .delete(&bed.region, &DeleteParams::default())
        .await
        .unwrap();
    put(&bed, 2, |_| ()).await;
    let newer = upgraded(&bed).await;
    newer.settle().await;
    assert_eq!(with(&images(&bed).await, "meridian:2"), Vec::<&str>::new());
    assert_eq!(newer.status().await["images"]["meridian"], "meridian:1");
    assert_eq!(pods(&bed).await, before, "no pod was restarted");
    let identity = bed.get(DEPLOYMENT, "identity").await.unwrap();
    assert_eq!(identity.data["spec"]["progressDeadlineSeconds"], 300);
}

#[tokio::test]
async fn a_change_goes_to_one_service_then_to_the_others_to_the_gateway_and_to_the_verifier_last() {
    let bed = running().await;
    put(&bed, 2, |spec| spec["image"] = json!("meridian:2")).await;
    let (began, mut steps) = (Instant::now(), Vec::new());
    while bed.condition("Ready").await != "True" || images(&bed).await["verifier"] != "meridian:2" {
        bed.pass().await.unwrap();
        let now = images(&bed).await;
        let changed: Vec<String> = with(&now, "meridian:2").into_iter().map(ToOwned::to_owned).collect();
        if !changed.is_empty() && steps.last() != Some(&changed) {
            steps.push(changed);
        }
        kubelet(&bed).await;
        assert!(began.elapsed() < PATIENCE, "{:#}", bed.status().await);
        pause(began).await;
    }
    assert_eq!(
        steps.iter().map(Vec::len).collect::<Vec<_>>(),
        [1, 8, 9, 10],
        "{steps:?}"
    );
    let last = |step: &[String]| ["gateway", "verifier"].map(|name| step.iter().any(|changed| changed == name));
    assert_eq!((last(&steps[1]), last(&steps[2])), ([false, false], [true, false]));
    bed.settle().await;
    assert!(bed.status().await["rollout"].is_null());
}

#[tokio::test]
async fn a_canary_that_fails_halts_the_rollout_and_reverting_it_recovers() {
    let bed = running().await;
    put(&bed, 2, |spec| {
        spec["image"] = json!("meridian:broken");
        spec["rollout"] = json!({"deadlineSeconds": 10});
    })
    .await;
    let (reason, message) = until_condition(&bed, "Stalled", "True").await;
    assert_eq!(reason, "RolloutHalted", "{message}");
    let now = images(&bed).await;
    let broken = with(&now, "meridian:broken");
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert!(message.contains(&format!("halted: {} did not", broken[0])), "{message}");
    assert!(message.contains("gateway"), "{message}");
    let canary = bed.get(DEPLOYMENT, broken[0]).await.unwrap();
    assert_eq!(canary.data["status"]["availableReplicas"], 1, "the old pod serves on");
    assert_eq!(bed.status().await["images"]["meridian"], "meridian:1");
    assert_eq!(bed.condition("Ready").await, "False");

    // Another change, which does not touch what is broken, breaks no other service with it.
    put(&bed, 3, |spec| {
        spec["image"] = json!("meridian:broken");
        spec["rollout"] = json!({"deadlineSeconds": 10});
        spec["services"] = json!({"social": {"replicas": 2}, "promotions": {"replicas": 2}});
    })
    .await;
    for _ in 0..3 {
        bed.pass().await.unwrap();
        kubelet(&bed).await;
    }
    let now = images(&bed).await;
    assert_eq!(with(&now, "meridian:broken"), broken);
    let (reason, _) = until_condition(&bed, "Stalled", "True").await;
    assert_eq!(reason, "RolloutHalted");

    put(&bed, 4, |_| ()).await;
    until_condition(&bed, "Ready", "True").await;
    assert_eq!(with(&images(&bed).await, "meridian:1").len(), 10);
    assert_eq!(bed.condition("Stalled").await, "False");
}

#[tokio::test]
async fn a_broken_image_of_a_stateful_set_is_reverted_without_a_hand() {
    let bed = running().await;
    put(&bed, 2, |spec| {
        spec["services"] = json!({"keyring": {"image": "meridian:broken"}})
    })
    .await;
    let keyring: Api<Pod> = Api::namespaced(bed.client.clone(), &bed.namespace);
    let runs = |image: &'static str, phase: &'static str| {
        let (bed, keyring) = (&bed, &keyring);
        async move {
            let began = Instant::now();
            loop {
                bed.pass().await.unwrap();
                kubelet(bed).await;
                let pod = keyring.get_opt("keyring-0").await.unwrap();
                let (runs, is) = pod.map_or((None, None), |pod| {
                    let image = pod.spec.and_then(|spec| spec.containers.into_iter().next()?.image);
                    (image, pod.status.and_then(|status| status.phase))
                });
                if (runs.as_deref(), is.as_deref()) == (Some(image), Some(phase)) {
                    break;
                }
                assert!(began.elapsed() < PATIENCE, "it runs {runs:?}, and is {is:?}");
                pause(began).await;
            }
        }
    };
    runs("meridian:broken", "Pending").await;
    put(&bed, 3, |_| ()).await;
    runs("meridian:1", "Running").await;
    until_condition(&bed, "Ready", "True").await;
}

#[tokio::test]
async fn resources_that_nobody_can_have_are_reverted() {
    let bed = running().await;
    put(&bed, 2, |spec| {
        // More than the region's quota.
        spec["services"] = json!({"consent": {"resources": {"requests": {"cpu": "500"}}}});
        spec["rollout"] = json!({"deadlineSeconds": 10});
    })
    .await;
    let (_, message) = until_condition(&bed, "Stalled", "True").await;
    assert!(message.contains("consent"), "{message}");
    let consent = bed.get(DEPLOYMENT, "consent").await.unwrap();
    assert_eq!(consent.data["status"]["availableReplicas"], 1, "the old pod serves on");

    put(&bed, 3, |_| ()).await;
    until_condition(&bed, "Ready", "True").await;
}

fn edge(region: &str) -> Value {
    json!({
        "id": "stride-eu.workout-summary.us", "tenant": "stride-eu", "organization": "stride", "from": region, "to": "us",
        "exporter": "stride-europe", "importer": "stride-inc", "importer_tenant": "stride-us", "class": "workout-summary",
        "purposes": ["cross-border-sharing"], "fields": ["sport_type"], "mechanism": "SCC", "instrument": "scc-2021",
        "effective_from": "2026-01-01T00:00:00Z", "expires": "2099-01-01T00:00:00Z", "ends_with": "mechanism-expired",
        "pseudonymise": true, "onward": false, "needs_consent": true, "framework": "GDPR", "rule": "SCC", "epoch": 1,
    })
}

#[tokio::test]
async fn what_a_newer_hub_says_of_a_region_is_kept_and_otherwise_ignored() {
    let bed = running().await;
    put(&bed, 2, |spec| {
        spec["tomorrow"] = json!({"a": 1});
        spec["policy"]["tomorrow"] = json!(["b"]);
    })
    .await;
    let mut known_in_part = edge(&bed.region);
    known_in_part["tomorrow"] = json!(1);
    bed.put(json!({
        "apiVersion": "meridian.sh/v1alpha1", "kind": "TenantPlacement",
        "metadata": {"name": "stride-eu", "namespace": bed.namespace},
        "spec": {"tenant": "stride-eu", "organization": "stride", "home": bed.region, "epoch": 2, "revision": 2,
            "edges": [known_in_part], "tomorrow": true},
    }))
    .await;
    bed.seen(&bed.key(TENANT_PLACEMENT, "stride-eu")).await;
    bed.settle().await;
    let kept = |object: Option<kube::api::DynamicObject>| object.unwrap().data["spec"].clone();
    let stack = kept(bed.get(REGION_STACK, &bed.region).await);
    assert_eq!(
        (&stack["tomorrow"]["a"], &stack["policy"]["tomorrow"][0]),
        (&json!(1), &json!("b"))
    );
    let placement = kept(bed.get(TENANT_PLACEMENT, "stride-eu").await);
    assert_eq!(
        (&placement["tomorrow"], &placement["edges"][0]["tomorrow"]),
        (&json!(true), &json!(1))
    );
    let held = bed.stacks.feed.policy().unwrap();
    assert_eq!((held.revision.0, held.homes[0].epoch.0), (2, 2));
}

/// As a hub writes it for a region that says that it reads it.
fn packed(policy: &Value) -> Value {
    let mut own: RegionPolicy = serde_json::from_value(policy.clone()).unwrap();
    let others = policy_form::packed_others(&Others::taken_from(&mut own)).unwrap();
    policy_form::packed(&own, &others).unwrap()
}

#[tokio::test]
async fn a_packed_policy_is_obeyed_as_a_plain_one_and_a_damaged_one_is_not() {
    let bed = running().await;
    assert_eq!(bed.status().await["policyForms"], json!(["packed"]));
    let plain = bed.stacks.feed.policy().unwrap();
    put(&bed, 2, |spec| spec["policy"] = packed(&spec["policy"])).await;
    bed.settle().await;
    let held = bed.stacks.feed.policy().unwrap();
    assert_eq!(
        (held.revision.0, &held.homes, &held.peers),
        (2, &plain.homes, &plain.peers)
    );
    put(&bed, 3, |spec| {
        spec["policy"] = json!({"packed": {"own": "AAAA", "others": "AAAA"}})
    })
    .await;
    bed.settle().await;
    let (reason, message) = until_condition(&bed, "ResidencyEnforced", "True").await;
    assert_eq!(reason, "PolicyNotUnderstood");
    assert!(message.contains("it is damaged"), "{message}");
    assert_eq!(bed.status().await["appliedRevision"], 2);
    assert_eq!(
        bed.stacks.feed.policy().unwrap(),
        held,
        "what is in force stays in force"
    );
}

#[tokio::test]
async fn an_edge_that_says_more_than_the_region_knows_is_never_obeyed_in_part() {
    let bed = running().await;
    put(&bed, 2, |spec| spec["policy"]["exports"] = json!([edge(&bed.region)])).await;
    bed.settle().await;
    put(&bed, 3, |spec| {
        let mut narrower = edge(&bed.region);
        narrower["adults_only"] = json!(true);
        spec["policy"]["exports"] = json!([narrower]);
        spec["services"] = json!({"gateway": {"replicas": 3}});
    })
    .await;
    // Nothing passes along it, and it is not cut either; everything else is taken.
    bed.settle().await;
    let policy = bed.stacks.feed.policy().unwrap();
    assert_eq!((policy.revision.0, policy.exports.len(), policy.homes.len()), (3, 0, 1));
    assert!(policy.holds(&"stride-eu.workout-summary.us".parse().unwrap()));
    let (reason, message) = until_condition(&bed, "ResidencyEnforced", "True").await;
    assert_eq!(reason, "PolicyNotUnderstood");
    assert!(message.contains("says adults_only"), "{message}");
    let replicas = |object: Option<kube::api::DynamicObject>| object.unwrap().data["spec"]["replicas"].clone();
    assert_eq!(replicas(bed.get(DEPLOYMENT, "gateway").await), 3);

    put(&bed, 4, |spec| spec["policy"]["exports"] = json!([edge(&bed.region)])).await;
    bed.settle().await;
    assert_eq!(bed.stacks.feed.policy().unwrap().exports.len(), 1);
    assert_eq!(bed.status().await["appliedRevision"], 4);
}

#[tokio::test]
async fn a_policy_that_is_not_understood_stops_transfers_and_nothing_else() {
    let bed = running().await;
    put(&bed, 2, |spec| spec["policy"]["exports"] = json!([edge(&bed.region)])).await;
    bed.settle().await;
    put(&bed, 3, |spec| {
        spec["policy"]["retention"] = json!({"a-class-of-tomorrow": 30});
        spec["services"] = json!({"gateway": {"replicas": 3}});
    })
    .await;
    bed.settle().await;
    let (reason, message) = until_condition(&bed, "ResidencyEnforced", "True").await;
    assert_eq!(reason, "PolicyNotUnderstood");
    assert!(message.contains("a-class-of-tomorrow"), "{message}");
    let gateway = bed.get(DEPLOYMENT, "gateway").await.unwrap();
    assert_eq!(gateway.data["spec"]["replicas"], 3, "what runs is as asked");
    assert_eq!(
        bed.stacks.feed.policy().unwrap().homes.len(),
        1,
        "and the tenant is at home"
    );
    // The hub sees that its policy is not applied, and renews no lease, without which nothing is transferred.
    let status = bed.status().await;
    assert_eq!(status["appliedRevision"], 2);
    let settled = Settled {
        complete: true,
        member: "m".into(),
        serial: 1,
        written: 3,
        applied: status["appliedRevision"].as_u64().unwrap(),
    };
    assert!(!may_renew(&settled, 1));
}

/// The definitions as they were before rollouts: on the other API server, which no test of this file shares.
fn older_custom_resources() -> Vec<CustomResourceDefinition> {
    let mut all = bed::custom_resources_of_a_member();
    let stack = all.iter_mut().find(|crd| crd.spec.names.kind == "RegionStack").unwrap();
    let mut version = serde_json::to_value(&stack.spec.versions[0]).unwrap();
    let schema = &mut version["schema"]["openAPIV3Schema"]["properties"];
    let spec = schema["spec"].as_object_mut().unwrap();
    spec.remove("x-kubernetes-preserve-unknown-fields");
    spec["properties"].as_object_mut().unwrap().remove("rollout");
    let status = schema["status"]["properties"].as_object_mut().unwrap();
    status.remove("images");
    status.remove("rollout");
    stack.spec.versions[0] = serde_json::from_value(version).unwrap();
    all
}

#[tokio::test]
async fn an_operator_beside_older_definitions_says_what_they_know_and_restarts_nothing() {
    let client = bed::client_of(&bed::kubeconfig("MERIDIAN_TEST_MEMBER_KUBECONFIG")).await;
    bed::install(&client, &older_custom_resources()).await;
    let bed = Bed::beside(client.clone(), bed::fresh_region()).await;
    put(&bed, 1, |_| ()).await;
    bed.pass().await.unwrap();
    bed.place(1).await;
    bed.settle().await;
    assert_eq!(bed.condition("Ready").await, "True");
    // Nothing is recorded there: what runs is adopted.
    let newer = upgraded(&bed).await;
    newer.pass().await.unwrap();
    assert_eq!(with(&images(&bed).await, "meridian:2"), Vec::<&str>::new());
    assert_eq!(newer.pass().await.unwrap().outcome, Outcome::Steady);

    bed::install(&client, &bed::custom_resources_of_a_member()).await;
}
