//! The region's stack on a real API server (`cargo xtask parts apiserver -- cargo test -p meridian-operator`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;

use bed::{Bed, region_stack};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use meridian_operator::manifest::{
    CONFIG_MAP, DEPLOYMENT, JOB, NAMESPACE, NETWORK_POLICY, REGION_STACK, SECRET, SERVICE, STATEFUL_SET,
};
use meridian_operator::reconcile::Outcome;
use serde_json::{Value, json};

#[tokio::test]
async fn a_stack_comes_up_in_order_and_then_a_pass_writes_nothing() {
    let bed = Bed::new().await;
    bed.pass().await.unwrap();
    assert!(bed.get(STATEFUL_SET, "postgres").await.is_some());
    assert!(
        bed.get(DEPLOYMENT, "identity").await.is_none(),
        "services wait for their migrations"
    );
    bed.place(1).await;
    bed.settle().await;
    for ready in [
        "Ready",
        "DataPlaneReady",
        "MigrationsComplete",
        "ServicesReady",
        "ResidencyEnforced",
    ] {
        assert_eq!(bed.condition(ready).await, "True", "{ready}");
    }
    let status = bed.status().await;
    assert_eq!(
        (status["appliedRevision"].as_u64(), status["namespaceReady"].as_bool()),
        (Some(1), Some(true))
    );
    assert!(
        status["caBundle"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE-----")
    );
    assert!(!status.to_string().contains("PRIVATE KEY"));

    let (versions, writes) = (bed.versions().await, bed.metrics.writes());
    let pass = bed.pass().await.unwrap();
    assert_eq!(pass.outcome, Outcome::Steady);
    assert_eq!(bed.metrics.writes(), writes, "no request was sent");
    assert_eq!(bed.versions().await, versions);

    // Nor does an operator that starts anew and knows nothing but what it reads.
    let other = Bed::beside(bed.client.clone(), bed.region.clone()).await;
    let pass = other.pass().await.unwrap();
    assert_eq!(
        (pass.outcome, other.metrics.writes()),
        (Outcome::Steady, 0),
        "{}",
        other.metrics.render()
    );
}

#[tokio::test]
async fn drift_is_corrected_whoever_caused_it() {
    let bed = Bed::new().await;
    bed.pass().await.unwrap();
    let deny = bed.key(NETWORK_POLICY, "default-deny");
    let opened = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "default-deny"},
        "spec": {"ingress": [{}]}});
    let params = PatchParams::apply("kubectl").force();
    bed.api(&deny)
        .patch("default-deny", &params, &Patch::Apply(&opened))
        .await
        .unwrap();
    let service = bed.key(SERVICE, "identity");
    bed.api(&service)
        .delete("identity", &DeleteParams::default())
        .await
        .unwrap();
    bed.seen(&deny).await;
    bed.seen(&service).await;

    bed.pass().await.unwrap();
    let policy = bed.get(NETWORK_POLICY, "default-deny").await.unwrap();
    assert_eq!(policy.data["spec"]["ingress"].as_array().map_or(0, Vec::len), 0);
    assert!(bed.get(SERVICE, "identity").await.is_some());
}

#[tokio::test]
async fn the_policy_in_force_is_written_over_what_others_made_of_it() {
    let bed = Bed::new().await;
    bed.pass().await.unwrap();
    let (key, stack) = (
        bed.key(CONFIG_MAP, "meridian-policy"),
        bed.key(REGION_STACK, &bed.region),
    );
    let theirs = json!({"metadata": {"labels": {"theirs": "yes"}}, "data": {"policy.json": "theirs"}});
    bed.api(&key)
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(&theirs))
        .await
        .unwrap();
    bed.put(region_stack(&bed.region, 2, 1)).await;
    bed.seen(&key).await;
    bed.seen(&stack).await;
    bed.pass().await.unwrap();
    let written = bed.get(CONFIG_MAP, "meridian-policy").await.unwrap();
    let revision = |written: &kube::api::DynamicObject| {
        let text = written.data["data"]["policy.json"].as_str().unwrap();
        serde_json::from_str::<Value>(text).unwrap()["revision"].clone()
    };
    assert_eq!(revision(&written), 2);
    assert_eq!(written.labels()["theirs"], "yes");

    // It is made anew when it is gone, whether or not this operator has seen that yet.
    bed.api(&key).delete(&key.name, &DeleteParams::default()).await.unwrap();
    bed.put(region_stack(&bed.region, 3, 1)).await;
    bed.seen(&stack).await;
    bed.pass().await.unwrap();
    let written = bed.get(CONFIG_MAP, "meridian-policy").await.unwrap();
    assert_eq!(revision(&written), 3);
}

#[tokio::test]
async fn a_foreign_object_in_the_way_is_kept_and_named() {
    let bed = Bed::new().await;
    bed.make_namespace(&bed.namespace).await;
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kafka-config", "namespace": bed.namespace},
        "data": {"theirs": "yes"}});
    let before = bed.put(theirs).await;
    // The namespace is somebody else's too, until it is handed over.
    let error = bed.pass().await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("Namespace {}", bed.namespace)), "{error}");
    let adopted = json!({"metadata": {"annotations": {"meridian.sh/adopt": "true"}}});
    let namespace = bed.key(meridian_operator::manifest::NAMESPACE, &bed.namespace);
    bed.api(&namespace)
        .patch(&bed.namespace, &PatchParams::default(), &Patch::Merge(&adopted))
        .await
        .unwrap();

    let error = bed.pass().await.unwrap_err().to_string();
    assert!(
        error.contains("kafka-config") && error.contains("meridian.sh/adopt"),
        "{error}"
    );
    let after = bed.get(CONFIG_MAP, "kafka-config").await.unwrap();
    assert_eq!(after.resource_version(), before.resource_version());
    assert_eq!(bed.condition("Stalled").await, "True");
    assert_eq!(bed.condition("DataPlaneReady").await, "Unknown");
}

#[tokio::test]
async fn what_left_the_plan_goes_and_others_objects_stay() {
    let bed = Bed::new().await;
    bed.pass().await.unwrap();
    let uid = bed
        .get(meridian_operator::manifest::REGION_STACK, &bed.region)
        .await
        .unwrap()
        .uid()
        .unwrap();
    let config = |name: &str, labels: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": bed.namespace, "labels": labels}})
    };
    let ours = |owner: &str| json!({"app.kubernetes.io/managed-by": "meridian", "meridian.sh/owner-uid": owner});
    bed.put(config("old", ours(&uid))).await;
    bed.put(config("another-owners", ours("somebody"))).await;
    bed.put(config("only-labelled", json!({"meridian.sh/owner-uid": uid})))
        .await;
    bed.put(config("theirs", json!({}))).await;
    bed.put(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db-retired", "namespace": bed.namespace, "labels": ours(&uid)}})).await;
    bed.seen(&bed.key(CONFIG_MAP, "old")).await;
    bed.seen(&bed.key(CONFIG_MAP, "another-owners")).await;
    bed.seen(&bed.key(SECRET, "db-retired")).await;

    bed.pass().await.unwrap();
    assert!(bed.get(CONFIG_MAP, "old").await.is_none());
    for kept in ["another-owners", "only-labelled", "theirs"] {
        assert!(bed.get(CONFIG_MAP, kept).await.is_some(), "{kept}");
    }
    assert!(
        bed.get(SECRET, "db-retired").await.is_some(),
        "data may depend on a credential"
    );
}

#[tokio::test]
async fn credentials_are_made_once_and_a_lost_certificate_is_issued_anew() {
    let bed = Bed::new().await;
    bed.pass().await.unwrap();
    let data = |secret: Option<kube::api::DynamicObject>| secret.unwrap().data["data"].clone();
    let (password, kek) = (
        data(bed.get(SECRET, "db-identity").await),
        data(bed.get(SECRET, "keyring-kek").await),
    );
    let certificate = bed.key(SECRET, "tls-identity");
    bed.api(&certificate)
        .delete("tls-identity", &DeleteParams::default())
        .await
        .unwrap();
    bed.seen(&certificate).await;

    bed.pass().await.unwrap();
    assert!(bed.get(SECRET, "tls-identity").await.is_some());
    assert_eq!(data(bed.get(SECRET, "db-identity").await), password);
    assert_eq!(data(bed.get(SECRET, "keyring-kek").await), kek);
}

#[tokio::test]
async fn a_decrease_of_revision_or_epoch_is_refused_and_said() {
    let bed = Bed::new().await;
    bed.pass().await.unwrap();
    bed.place(5).await;
    bed.put(region_stack(&bed.region, 7, 5)).await;
    let stack = bed.key(meridian_operator::manifest::REGION_STACK, &bed.region);
    bed.seen(&stack).await;
    bed.pass().await.unwrap();
    let held = bed.stacks.feed.policy().unwrap();
    assert_eq!((held.revision.0, held.homes[0].epoch.0), (7, 5));

    // The custom resource itself refuses a decrease; a hub that lost its state, or a GitOps rollback, makes it anew.
    bed.api(&stack)
        .delete(&bed.region, &DeleteParams::default())
        .await
        .unwrap();
    bed.put(region_stack(&bed.region, 3, 2)).await;
    bed.seen(&stack).await;
    bed.pass().await.unwrap();
    let held = bed.stacks.feed.policy().unwrap();
    assert_eq!((held.revision.0, held.homes[0].epoch.0), (7, 5));
    let status = bed.status().await;
    assert_eq!(status["appliedRevision"], 7);
    assert!(
        status.to_string().contains("policy revision 3 is older than 7"),
        "{status:#}"
    );
}

#[tokio::test]
async fn a_new_image_runs_the_migrations_again_before_the_services_get_it() {
    let bed = Bed::new().await;
    bed.pass().await.unwrap();
    bed.place(1).await;
    bed.settle().await;
    let jobs = |versions: Vec<(meridian_operator::manifest::ObjectKey, Option<String>)>| {
        versions
            .into_iter()
            .filter(|(key, _)| key.kind == JOB)
            .map(|(key, _)| key.name)
            .collect::<Vec<_>>()
    };
    let before = jobs(bed.versions().await);
    let mut newer = region_stack(&bed.region, 2, 1);
    newer["spec"]["image"] = json!("meridian:2");
    bed.put(newer).await;
    bed.seen(&bed.key(meridian_operator::manifest::REGION_STACK, &bed.region))
        .await;
    bed.pass().await.unwrap();
    let image = |d: Option<kube::api::DynamicObject>| {
        d.unwrap().data["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    assert_eq!(
        image(bed.get(DEPLOYMENT, "identity").await),
        "meridian:1",
        "the schema comes first"
    );
    bed.settle().await;
    assert_eq!(image(bed.get(DEPLOYMENT, "identity").await), "meridian:2");
    let after = jobs(bed.versions().await);
    assert_eq!(after.len(), before.len());
    assert!(
        after.iter().all(|job| !before.contains(job)),
        "finished jobs of the old image are pruned"
    );
}

#[tokio::test]
async fn a_paused_region_obeys_the_policy_and_changes_nothing_else() {
    let bed = Bed::new().await;
    bed.pass().await.unwrap();
    let service = bed.key(SERVICE, "identity");
    bed.api(&service)
        .delete("identity", &DeleteParams::default())
        .await
        .unwrap();
    bed.seen(&service).await;
    let mut paused = region_stack(&bed.region, 2, 1);
    paused["spec"]["paused"] = json!(true);
    bed.put(paused).await;
    bed.seen(&bed.key(REGION_STACK, &bed.region)).await;

    bed.pass().await.unwrap();
    assert_eq!(bed.stacks.feed.policy().unwrap().revision.0, 2);
    assert_eq!(bed.status().await["appliedRevision"], 2);
    assert!(bed.get(SERVICE, "identity").await.is_none());
}

#[tokio::test]
async fn a_deleted_stack_leaves_what_it_laid_down() {
    let bed = Bed::new().await;
    bed.pass().await.unwrap();
    let stack = bed.key(REGION_STACK, &bed.region);
    bed.api(&stack)
        .delete(&bed.region, &DeleteParams::default())
        .await
        .unwrap();
    bed.seen(&stack).await;
    assert_eq!(bed.pass().await.unwrap().outcome, Outcome::Gone);
    assert!(bed.get(STATEFUL_SET, "postgres").await.is_some());
    assert!(bed.get(SECRET, "keyring-kek").await.is_some());
}

#[tokio::test]
async fn a_deleted_stack_whose_policy_says_delete_is_held_until_its_data_is_gone() {
    let bed = Bed::new().await;
    let mut wanted = region_stack(&bed.region, 1, 1);
    wanted["spec"]["deletionPolicy"] = json!("Delete");
    bed.put(wanted).await;
    let stack = bed.key(REGION_STACK, &bed.region);
    bed.seen(&stack).await;
    bed.pass().await.unwrap();
    assert!(bed.get(STATEFUL_SET, "postgres").await.is_some());

    bed.api(&stack)
        .delete(&bed.region, &DeleteParams::default())
        .await
        .unwrap();
    bed.seen(&stack).await;
    // Somebody deleted it while its tenants are at home: not the hub, which takes them out of the policy first.
    assert_eq!(bed.pass().await.unwrap().outcome, Outcome::Refused);
    assert_eq!(bed.condition("Stalled").await, "True");
    let status = bed.status().await.to_string();
    assert!(
        status.contains("deleted while 1 tenants have their home here"),
        "{status}"
    );
    assert!(bed.get(STATEFUL_SET, "postgres").await.is_some());

    let mut left = region_stack(&bed.region, 2, 1);
    left["spec"]["deletionPolicy"] = json!("Delete");
    left["spec"]["policy"]["homes"] = json!([]);
    bed.put(left).await;
    bed.seen(&stack).await;
    assert_eq!(bed.pass().await.unwrap().outcome, Outcome::Progressed);
    assert!(
        bed.get(REGION_STACK, &bed.region).await.is_some(),
        "held while its namespace goes"
    );
    bed::until("the namespace is gone", || async {
        bed.get(NAMESPACE, &bed.namespace).await.is_none()
    })
    .await;
    assert_eq!(bed.pass().await.unwrap().outcome, Outcome::Gone);
    assert!(bed.get(REGION_STACK, &bed.region).await.is_none());
}
