//! The hub role between two real API servers, a hub's and a member's: what becomes of a member when a region or a tenant is
//! deleted (`cargo xtask parts apiserver member -- cargo test -p meridian-operator`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;
mod world;

use bed::until;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use meridian_kit::testing::free_address;
use meridian_operator::hub::departure::FINALIZER;
use meridian_operator::manifest::{
    FITNESS_REGION, INGEST_POOL, JURISDICTION, REGION_STACK, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use world::{SYSTEM, World, count, kubeconfig_of_the_member};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_goes_only_after_its_edges_are_closed_at_both_ends() {
    let world = World::with_tenants().await;
    world.be_slow("us");
    world.delete(TENANT_DATA_RESIDENCY, "stride-eu").await;

    let message = world.held_for(TENANT_DATA_RESIDENCY, "stride-eu", "EdgesOpen").await;
    assert!(message.contains("us"), "{message}");
    until("the edge is closed", || async {
        let home = world.placement("eu", "stride-eu").await;
        home.is_some_and(|home| count(&home["spec"]["edges"]) == 0)
            && world.placement("us", "stride-eu").await.is_none()
    })
    .await;
    let imports = world.held(REGION_STACK, "us").await.unwrap()["spec"]["policy"]["imports"].clone();
    assert_eq!(count(&imports), 0);
    // The importer has not applied that: the tenant stays at home, so that both ends can purge.
    world.is_still_home("stride-eu").await;

    // It applies it, and its purge goes on: nobody has acknowledged it yet.
    world.be_mute("us");
    world.catch_up("us");
    until("the importer applies that the edge is closed", || async {
        let stack = world.held(REGION_STACK, "us").await.unwrap();
        stack["status"]["appliedRevision"] == stack["spec"]["revision"]
    })
    .await;
    until("the acknowledgement is waited for", || async {
        let message = world.held_for(TENANT_DATA_RESIDENCY, "stride-eu", "EdgesOpen").await;
        message.contains("has not acknowledged yet that edge stride-eu.")
    })
    .await;
    world.is_still_home("stride-eu").await;

    world.speak("us");
    world.is_gone(TENANT_DATA_RESIDENCY, "stride-eu").await;
    assert!(world.placement("eu", "stride-eu").await.is_none());
    let homes = world.held(REGION_STACK, "eu").await.unwrap()["spec"]["policy"]["homes"].clone();
    assert_eq!(count(&homes), 0);
    assert!(
        world.placement("us", "stride-us").await.is_some(),
        "another tenant stays where it is"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_goes_also_when_an_edge_of_it_came_and_went_before_anybody_opened_it() {
    let world = World::with_tenants().await;
    let edges = |edges: usize| {
        let (world, ways) = (&world, [("eu", "exports"), ("us", "imports")]);
        let what = format!("both stacks have {edges} edges");
        async move {
            until(&what, || async {
                let mut all = true;
                for (region, way) in ways {
                    let stack = world.held(REGION_STACK, region).await.unwrap();
                    all &= count(&stack["spec"]["policy"][way]) == edges;
                }
                all
            })
            .await;
        }
    };
    let asked = world.get(TENANT_DATA_RESIDENCY, "stride-eu").await.unwrap()["spec"]["classes"].clone();
    let change = json!({"spec": {"classes": []}});
    world.merge(TENANT_DATA_RESIDENCY, "stride-eu", &change).await.unwrap();
    edges(0).await;
    until("its cut is acknowledged, and nobody asks any more", || async {
        let mut done = true;
        for region in ["eu", "us"] {
            let stack = world.held(REGION_STACK, region).await.unwrap();
            done &= count(&stack["status"]["acks"]) == 1 && stack["spec"]["policy"]["closing"].is_null();
        }
        done
    })
    .await;

    for region in ["eu", "us"] {
        world.be_slow(region);
    }
    let change = json!({"spec": {"classes": asked}});
    world.merge(TENANT_DATA_RESIDENCY, "stride-eu", &change).await.unwrap();
    edges(1).await;
    let revision = world.held(REGION_STACK, "eu").await.unwrap()["spec"]["revision"].clone();
    world.delete(TENANT_DATA_RESIDENCY, "stride-eu").await;
    edges(0).await;
    for region in ["eu", "us"] {
        let stack = world.held(REGION_STACK, region).await.unwrap();
        let closing = &stack["spec"]["policy"]["closing"];
        assert_eq!(count(closing), 1, "{region}: {closing}");
        assert_eq!(closing[0]["importer_tenant"], "stride-us");
    }
    let eu = world.held(REGION_STACK, "eu").await.unwrap();
    assert!(eu["spec"]["policy"]["closing"][0]["revision"].as_u64() >= revision.as_u64());
    world.is_still_home("stride-eu").await;

    for region in ["eu", "us"] {
        world.catch_up(region);
    }
    world.is_gone(TENANT_DATA_RESIDENCY, "stride-eu").await;
    until("nothing is asked any more", || async {
        let stack = world.held(REGION_STACK, "us").await.unwrap();
        stack["spec"]["policy"]["closing"].is_null()
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_of_an_older_version_let_a_tenant_go_whose_edges_they_had() {
    let world = World::with_tenants().await;
    for region in ["eu", "us"] {
        world.be_unaware(region);
    }
    world.delete(TENANT_DATA_RESIDENCY, "stride-eu").await;
    world.is_gone(TENANT_DATA_RESIDENCY, "stride-eu").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_held_by_its_tenants_and_then_taken_out_of_its_member_without_its_data() {
    let world = World::with_tenants().await;
    let data: Api<ConfigMap> = Api::namespaced(world.member.clone(), "meridian-us");
    let kept: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "what-the-stack-laid-down"}})).unwrap();
    let _ = data.create(&PostParams::default(), &kept).await;
    world.delete(FITNESS_REGION, "us").await;

    let message = world.held_for(FITNESS_REGION, "us", "TenantsHomed").await;
    assert!(
        message.starts_with("1 tenant has its home here (stride-us)"),
        "{message}"
    );
    for (kind, name) in [(REGION_STACK, "us"), (INGEST_POOL, "us-telemetry")] {
        assert!(
            world.held(kind, name).await.is_some(),
            "{name} stays while it is needed"
        );
    }
    assert!(world.metrics().await.contains("member=\"us\""));

    // Nobody moves in any more.
    let late = json!({
        "apiVersion": TENANT_DATA_RESIDENCY.api_version(), "kind": TENANT_DATA_RESIDENCY.kind, "metadata": {"name": "late-us"},
        "spec": {"tenant": "late-us", "organization": "late", "home": {"region": "us"}, "classes": []},
    });
    let params = PatchParams::apply("somebody").force();
    let tenants = world.asked(TENANT_DATA_RESIDENCY);
    tenants.patch("late-us", &params, &Patch::Apply(&late)).await.unwrap();
    until("the tenant waits", || async {
        let late = world.get(TENANT_DATA_RESIDENCY, "late-us").await.unwrap();
        late["status"]["phase"] == "Pending"
    })
    .await;
    assert!(world.placement("us", "late-us").await.is_none());

    for tenant in ["late-us", "stride-us"] {
        world.delete(TENANT_DATA_RESIDENCY, tenant).await;
        world.is_gone(TENANT_DATA_RESIDENCY, tenant).await;
    }
    world.is_gone(FITNESS_REGION, "us").await;
    for (kind, name) in [(REGION_STACK, "us"), (INGEST_POOL, "us-telemetry")] {
        assert!(world.held(kind, name).await.is_none(), "{name} is taken out");
    }
    for tenant in ["stride-us", "stride-eu"] {
        assert!(world.placement("us", tenant).await.is_none(), "{tenant}");
    }
    assert!(data.get_opt("what-the-stack-laid-down").await.unwrap().is_some());
    // Its neighbour in the same cluster notices nothing but that an edge has ended.
    assert!(world.held(REGION_STACK, "eu").await.is_some());
    assert!(world.placement("eu", "stride-eu").await.is_some());

    // Nobody names its member any more; when somebody does again, it is connected anew.
    until("the member is forgotten", || async {
        !world.metrics().await.contains("member=\"us\"")
    })
    .await;
    world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
    until("the region is laid down again", || async {
        world.held(REGION_STACK, "us").await.is_some() && world.held(INGEST_POOL, "us-telemetry").await.is_some()
    })
    .await;
    assert!(world.metrics().await.contains("member=\"us\""));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_answer_holds_the_deletion_and_says_so() {
    let world = World::new().await;
    world.regions_are_laid_down().await;
    world.give_kubeconfig("us", &World::nowhere()).await;
    world.delete(FITNESS_REGION, "us").await;

    let message = world.held_for(FITNESS_REGION, "us", "MemberUnreachable").await;
    assert!(
        message.starts_with("cluster us of region us does not answer"),
        "{message}"
    );
    assert!(message.contains(FINALIZER), "{message}");
    assert!(world.held(REGION_STACK, "us").await.is_some());

    world.give_kubeconfig("us", &kubeconfig_of_the_member()).await;
    world.is_gone(FITNESS_REGION, "us").await;
    assert!(world.held(REGION_STACK, "us").await.is_none());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_never_reached_its_member_goes_at_once() {
    let world = World::new().await;
    world.give_kubeconfig("us", &World::nowhere()).await;
    world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
    until("its member is found not to answer", || async {
        let region = world.get(FITNESS_REGION, "us").await.unwrap();
        let conditions = region["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == "ClustersReachable" && condition["status"] == "False")
    })
    .await;
    assert!(!world.is_held(FITNESS_REGION, "us").await);
    world.delete(FITNESS_REGION, "us").await;
    world.is_gone(FITNESS_REGION, "us").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deletion_policy_that_holds_is_the_one_that_was_written_last() {
    let world = World::new().await;
    world.regions_are_laid_down().await;
    // Its operator may hold it like this for a while.
    let stacks: Api<DynamicObject> = Api::all_with(world.member.clone(), &REGION_STACK.resource());
    let finalizers = |finalizers: Value| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    let params = PatchParams::default();
    stacks
        .patch("us", &params, &finalizers(json!(["test.meridian.sh/looked-at"])))
        .await
        .unwrap();

    world.give_kubeconfig("us", &World::nowhere()).await;
    until("its member is gone", || async {
        let region = world.get(FITNESS_REGION, "us").await.unwrap();
        region["status"]["clustersReachable"] == "0/1"
    })
    .await;
    world
        .merge(FITNESS_REGION, "us", &json!({"spec": {"deletionPolicy": "Delete"}}))
        .await
        .unwrap();
    world.delete(FITNESS_REGION, "us").await;
    world.held_for(FITNESS_REGION, "us", "MemberUnreachable").await;
    world.give_kubeconfig("us", &kubeconfig_of_the_member()).await;
    until("the stack is deleted", || async {
        let stack = world.held(REGION_STACK, "us").await.unwrap();
        !stack["metadata"]["deletionTimestamp"].is_null()
    })
    .await;
    let stack = world.held(REGION_STACK, "us").await.unwrap();
    assert_eq!(stack["spec"]["deletionPolicy"], "Delete");
    assert_eq!(stack["status"]["appliedRevision"], stack["spec"]["revision"]);
    stacks.patch("us", &params, &finalizers(Value::Null)).await.unwrap();
    world.is_gone(FITNESS_REGION, "us").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_is_gone_keeps_no_finalizer_from_being_written() {
    let world = World::new().await;
    world.regions_are_laid_down().await;
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/meridian/templates/hub/webhook.yaml");
    let chart = std::fs::read_to_string(chart).unwrap();
    let expression = chart.lines().find_map(|line| line.trim().strip_prefix("expression: "));
    let configuration: ValidatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": SYSTEM},
        "webhooks": [{
            "name": "policy.meridian.sh", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 1, "clientConfig": {"url": format!("https://{}", free_address())},
            "rules": [{"apiGroups": ["meridian.sh"], "apiVersions": ["v1alpha1"], "operations": ["CREATE", "UPDATE"],
                "resources": ["fitnessregions"], "scope": "Cluster"}],
            "matchConditions": [{"name": "spec-changes", "expression": expression.expect("the chart has one")}],
        }],
    }))
    .unwrap();
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(world.hub.clone());
    configurations
        .create(&PostParams::default(), &configuration)
        .await
        .unwrap();
    // Another one each time: the API server may not ask yet.
    let paused = AtomicBool::new(true);
    until("a changed spec is refused, as nobody can review it", || async {
        let patch = json!({"spec": {"paused": paused.fetch_not(Ordering::Relaxed)}});
        world.merge(FITNESS_REGION, "us", &patch).await.is_err()
    })
    .await;
    world
        .merge(FITNESS_REGION, "us", &json!({"metadata": {"finalizers": null}}))
        .await
        .unwrap();
    until("the finalizer is back", || world.is_held(FITNESS_REGION, "us")).await;
    world.delete(FITNESS_REGION, "us").await;
    world.is_gone(FITNESS_REGION, "us").await;
    configurations.delete(SYSTEM, &DeleteParams::default()).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_goes_also_when_its_law_was_deleted_with_it() {
    let world = World::with_tenants().await;
    world.delete(JURISDICTION, "us").await;
    world.delete(FITNESS_REGION, "us").await;
    for tenant in ["stride-us", "stride-eu"] {
        world.delete(TENANT_DATA_RESIDENCY, tenant).await;
    }
    for tenant in ["stride-us", "stride-eu"] {
        world.is_gone(TENANT_DATA_RESIDENCY, tenant).await;
    }
    world.is_gone(FITNESS_REGION, "us").await;
    assert!(world.held(REGION_STACK, "us").await.is_none());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_go_while_their_regions_law_is_missing_and_the_region_stays() {
    let world = World::with_tenants().await;
    world.delete(JURISDICTION, "us").await;
    until("the region says that its law is missing", || async {
        let region = world.get(FITNESS_REGION, "us").await.unwrap();
        let conditions = region["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == "Stalled" && condition["reason"] == "PolicyRefused")
    })
    .await;
    for tenant in ["stride-us", "stride-eu"] {
        world.delete(TENANT_DATA_RESIDENCY, tenant).await;
    }
    for tenant in ["stride-us", "stride-eu"] {
        world.is_gone(TENANT_DATA_RESIDENCY, tenant).await;
    }
    assert!(world.placement("us", "stride-us").await.is_none());
    let policy = world.held(REGION_STACK, "us").await.unwrap()["spec"]["policy"].clone();
    assert_eq!((count(&policy["homes"]), count(&policy["imports"])), (0, 0));
    assert!(world.get(FITNESS_REGION, "us").await.is_some());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_made_anew_has_a_higher_epoch_than_it_ever_had() {
    let world = World::with_tenants().await;
    let placements: Api<DynamicObject> =
        Api::namespaced_with(world.member.clone(), "meridian-eu", &TENANT_PLACEMENT.resource());
    let moved = Patch::Merge(json!({"spec": {"epoch": 5}}));
    placements
        .patch("stride-eu", &PatchParams::default(), &moved)
        .await
        .unwrap();
    until("the epoch is adopted", || async {
        let stack = world.held(REGION_STACK, "eu").await.unwrap();
        stack["spec"]["policy"]["homes"][0]["epoch"] == 5
    })
    .await;
    world.delete(TENANT_DATA_RESIDENCY, "stride-eu").await;
    world.is_gone(TENANT_DATA_RESIDENCY, "stride-eu").await;

    world.apply(TENANT_DATA_RESIDENCY, "local/40-tenants.yaml").await;
    until("it is placed again", || async {
        world.placement("eu", "stride-eu").await.is_some()
    })
    .await;
    let again = world.placement("eu", "stride-eu").await.unwrap();
    assert_eq!(again["spec"]["epoch"], 6);
    let us = world.placement("us", "stride-us").await.unwrap();
    assert_eq!(us["spec"]["epoch"], 1, "who stayed has the epoch that it had");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_restarted_in_mid_deletion_goes_on_with_it() {
    let mut world = World::with_tenants().await;
    world.be_mute("us");
    world.delete(TENANT_DATA_RESIDENCY, "stride-eu").await;
    until("the acknowledgement is waited for", || async {
        let message = world.held_for(TENANT_DATA_RESIDENCY, "stride-eu", "EdgesOpen").await;
        message.contains("has not acknowledged yet that edge stride-eu.")
    })
    .await;
    world.restart().await;
    // It knows what it waits for, from what was written down, and lets nothing go for not having seen it open.
    until("the new process has looked", || async {
        let eu = world.get(FITNESS_REGION, "eu").await.unwrap();
        eu["status"]["clustersReachable"] == "1/1" && world.metrics().await.contains("member=\"us\"")
    })
    .await;
    until("both regions are asked still", || async {
        let mut asked = true;
        for region in ["eu", "us"] {
            let stack = world.held(REGION_STACK, region).await.unwrap();
            asked &= count(&stack["spec"]["policy"]["closing"]) == 1;
        }
        asked
    })
    .await;
    world.is_still_home("stride-eu").await;

    // And again when everything is acknowledged, and it is leaving its home.
    world.be_slow("eu");
    world.speak("us");
    until("the importer has acknowledged", || async {
        let stack = world.held(REGION_STACK, "us").await.unwrap();
        count(&stack["status"]["acks"]) == 1
    })
    .await;
    world.restart().await;
    world.is_still_home("stride-eu").await;
    world.catch_up("eu");
    world.is_gone(TENANT_DATA_RESIDENCY, "stride-eu").await;
    assert!(world.placement("eu", "stride-eu").await.is_none());
    assert!(world.placement("us", "stride-us").await.is_some());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pool_takes_its_copy_out_of_the_member() {
    let world = World::with_tenants().await;
    assert!(world.held(INGEST_POOL, "us-telemetry").await.is_some());
    // Not while the member cannot be asked.
    world.give_kubeconfig("us", &World::nowhere()).await;
    until("its member is gone", || async {
        let region = world.get(FITNESS_REGION, "us").await.unwrap();
        region["status"]["clustersReachable"] == "0/1"
    })
    .await;
    world.delete(INGEST_POOL, "us-telemetry").await;
    world.held_for(INGEST_POOL, "us-telemetry", "MemberUnreachable").await;
    world.give_kubeconfig("us", &kubeconfig_of_the_member()).await;
    world.is_gone(INGEST_POOL, "us-telemetry").await;
    assert!(world.held(INGEST_POOL, "us-telemetry").await.is_none());
    assert!(world.held(INGEST_POOL, "eu-telemetry").await.is_some());
    world.end().await;
}
