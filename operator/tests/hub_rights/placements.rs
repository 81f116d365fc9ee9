//! The member's admission policy: nobody but the hub writes placements and stacks, whatever rights they have.

use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use meridian_operator::manifest::{FITNESS_REGION, INGEST_POOL, LEASE, TENANT_DATA_RESIDENCY};
use serde_json::{Value, json};

use crate::bed::{self, until};
use crate::rendered::{self, SYSTEM, api_of};
use crate::world::{
    Clusters, HUB_ACCOUNT, MEMBER, OPERATOR_ACCOUNT, World, client_with, kubeconfig_with, placement, token,
};

const NAMESPACE: &str = "meridian-guarded";

async fn acting_as(clusters: &Clusters, account: &str) -> Client {
    client_with(&kubeconfig_with(MEMBER, &token(&clusters.member, account, None).await)).await
}

/// An account that RBAC lets do everything.
async fn make_all_powerful(clusters: &Clusters, account: &str) {
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": account, "namespace": SYSTEM}});
    rendered::apply(&clusters.member, &object).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": SYSTEM}]});
    rendered::apply(&clusters.member, &binding).await;
}

async fn put(client: &Client, object: &Value) -> Result<(), kube::Error> {
    let params = PatchParams::apply("test").force();
    let name = object["metadata"]["name"].as_str().unwrap();
    api_of(client, object)
        .patch(name, &params, &Patch::Apply(object))
        .await
        .map(drop)
}

async fn label(client: &Client, object: &Value) -> Result<(), kube::Error> {
    let name = object["metadata"]["name"].as_str().unwrap();
    let patch = json!({"metadata": {"labels": {"touched": "yes"}}});
    api_of(client, object)
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map(drop)
}

async fn delete(client: &Client, object: &Value) -> Result<(), kube::Error> {
    let name = object["metadata"]["name"].as_str().unwrap();
    api_of(client, object)
        .delete(name, &DeleteParams::default())
        .await
        .map(drop)
}

fn is_denied(result: Result<(), kube::Error>, what: &str) {
    let error = result.expect_err(what).to_string();
    assert!(error.contains("only the hub writes"), "{what}: {error}");
}

#[tokio::test]
async fn only_the_hub_writes_placements_and_stacks_administrators_included() {
    let clusters = Clusters::new().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    rendered::apply(&clusters.member, &namespace).await;
    make_all_powerful(&clusters, "almighty").await;
    let hub = acting_as(&clusters, HUB_ACCOUNT).await;
    let region = acting_as(&clusters, OPERATOR_ACCOUNT).await;
    let almighty = acting_as(&clusters, "almighty").await;
    let body = async {
        let objects = [placement(NAMESPACE, "stride-eu"), bed::region_stack("guarded", 1, 1)];
        for object in &objects {
            let kind = &object["kind"];
            for (who, client) in [
                ("an administrator", &clusters.member),
                ("an account with all rights", &almighty),
            ] {
                is_denied(put(client, object).await, &format!("{who} creates a {kind}"));
            }
            put(&hub, object).await.unwrap();
            for (who, client) in [
                ("an administrator", &clusters.member),
                ("an account with all rights", &almighty),
            ] {
                is_denied(label(client, object).await, &format!("{who} changes a {kind}"));
                is_denied(delete(client, object).await, &format!("{who} deletes a {kind}"));
            }
            label(&hub, object).await.unwrap();
            // It holds and releases its finalizer.
            label(&region, object).await.unwrap();
        }
        let [placed, stack] = &objects;
        delete(&hub, stack).await.unwrap();
        // What goes with its namespace goes by Kubernetes' own hand.
        delete(&clusters.member, &namespace).await.unwrap();
        let placements = api_of(&clusters.member, placed);
        until("the placement goes with its namespace", || async {
            placements.get_opt("stride-eu").await.unwrap().is_none()
        })
        .await;
        // Without the policy's names, the rights alone would have let each of them through.
        let review = json!({"spec": {"resourceAttributes":
            {"group": "meridian.sh", "resource": "tenantplacements", "verb": "create", "namespace": NAMESPACE}}});
        let review = serde_json::from_value(review).unwrap();
        let reviews: Api<k8s_openapi::api::authorization::v1::SelfSubjectAccessReview> = Api::all(almighty.clone());
        let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
        assert!(answer.status.unwrap().allowed);
    };
    clusters.under_admission(body).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hub_does_all_of_its_work_with_these_rights_and_under_this_policy() {
    let world = World::new().await;
    let body = async {
        world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
        world.apply(INGEST_POOL, "local/50-pools.yaml").await;
        // A tenant without edges: when it goes, nobody has anything to purge.
        let tenant = json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "TenantDataResidency",
            "metadata": {"name": "stride-us"},
            "spec": {"organization": "stride", "tenant": "stride-us", "home": {"region": "us"}}});
        let tenants = world.asked(TENANT_DATA_RESIDENCY);
        let params = PatchParams::apply("somebody").force();
        tenants
            .patch("stride-us", &params, &Patch::Apply(&tenant))
            .await
            .unwrap();
        for region in ["eu", "us"] {
            world.is_laid_down(region).await;
        }
        let placements = api_of(&world.clusters.member, &placement("meridian-us", "stride-us"));
        until("the tenant is placed", || async {
            placements.get_opt("stride-us").await.unwrap().is_some()
        })
        .await;
        let pools = world.held(INGEST_POOL);
        until("the pools are copied", || async {
            pools.get_opt("eu-telemetry").await.unwrap().is_some()
        })
        .await;
        let lease = json!({"apiVersion": LEASE.api_version(), "kind": LEASE.kind, "metadata": {"namespace": SYSTEM}});
        let leases = api_of(&world.clusters.member, &lease);
        until("the policy lease is renewed", || async {
            let lease = leases.get("meridian-policy").await.unwrap();
            lease.data["spec"]["holderIdentity"] == "hub-0"
        })
        .await;
        tenants.delete("stride-us", &DeleteParams::default()).await.unwrap();
        until("its placement is taken out again", || async {
            placements.get_opt("stride-us").await.unwrap().is_none()
        })
        .await;
    };
    world.clusters.under_admission(body).await;
    world.end().await;
}
