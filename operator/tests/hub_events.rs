//! What the hub role tells of its resources, on real API servers: Events, and refusals in its metrics
//! (`cargo xtask parts apiserver member -- cargo test -p meridian-operator`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;
mod world;

use bed::until;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use meridian_operator::manifest::{FITNESS_REGION, Kind, TENANT_DATA_RESIDENCY};
use world::{World, kubeconfig_of_the_member};

/// The notes of the Events with this reason about a resource of the hub.
async fn told(world: &World, kind: Kind, name: &str, reason: &str) -> Vec<String> {
    let uid = world.get(kind, name).await.unwrap()["metadata"]["uid"].clone();
    let events: Api<Event> = Api::all(world.hub.clone());
    let listed = events.list(&ListParams::default()).await.unwrap();
    let about = |event: &Event| event.regarding.as_ref().and_then(|about| about.uid.clone());
    let ours = listed
        .into_iter()
        .filter(|event| about(event).as_deref() == uid.as_str());
    ours.filter(|event| event.reason.as_deref() == Some(reason))
        .map(|event| event.note.unwrap_or_default())
        .collect()
}

async fn until_told(world: &World, kind: Kind, name: &str, reason: &str) -> Vec<String> {
    until(&format!("{reason} is told of {name}"), || async {
        !told(world, kind, name, reason).await.is_empty()
    })
    .await;
    told(world, kind, name, reason).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_policy_refuses_is_told_of_its_tenant_and_counted_once_by_its_rule() {
    let world = World::with_tenants().await;
    assert!(!world.metrics().await.contains("class-not-listed"));
    world
        .apply(TENANT_DATA_RESIDENCY, "local/refused/health-to-us.yaml")
        .await;
    let notes = until_told(&world, TENANT_DATA_RESIDENCY, "stride-eu", "PolicyRefused").await;
    assert!(notes[0].contains("class-not-listed"), "{notes:?}");

    world.apply(TENANT_DATA_RESIDENCY, "local/40-tenants.yaml").await;
    until_told(&world, TENANT_DATA_RESIDENCY, "stride-eu", "Ready").await;
    let notes = told(&world, TENANT_DATA_RESIDENCY, "stride-eu", "PolicyRefused").await;
    assert_eq!(notes.len(), 1, "{notes:?}");
    let counted = "meridian_operator_policy_refusals_total{rule=\"class-not-listed\"} 1";
    let metrics = world.metrics().await;
    assert!(metrics.contains(counted), "{metrics}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_told_of_when_its_member_stops_and_when_it_begins_again_to_answer() {
    let world = World::new().await;
    world.regions_are_laid_down().await;
    world.give_kubeconfig("us", &World::nowhere()).await;
    until_told(&world, FITNESS_REGION, "us", "MemberUnreachable").await;
    world.give_kubeconfig("us", &kubeconfig_of_the_member()).await;
    until_told(&world, FITNESS_REGION, "us", "MemberReachable").await;
    assert!(told(&world, FITNESS_REGION, "eu", "MemberUnreachable").await.is_empty());
    world.end().await;
}
