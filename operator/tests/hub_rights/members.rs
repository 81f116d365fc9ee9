//! A member that stands elsewhere, that may not be connected, whose credential changes, or that does not answer.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use meridian_operator::manifest::{FITNESS_REGION, REGION_STACK, TENANT_DATA_RESIDENCY};
use serde_json::{Value, json};

use crate::bed::until;
use crate::proxy::Proxy;
use crate::rendered::{self, SYSTEM, api_of};
use crate::world::{HUB_ACCOUNT, MEMBER, World, kubeconfig_with, token};

/// A node of the member whose label says that it stands there; or says nothing.
async fn node(world: &World, country: Option<&str>) {
    let labels = country.map_or_else(|| json!({}), |country| json!({"meridian.sh/country": country}));
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "somewhere", "labels": labels}});
    rendered::apply(&world.clusters.member, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_nodes_stand_in_another_country_than_declared_is_refused() {
    let world = World::new().await;
    node(&world, Some("US")).await;
    world.apply(FITNESS_REGION, "local/30-regions.yaml").await;

    let message = world.is_refused("eu", "CountryContradicted", "somewhere").await;
    assert!(
        message.contains("declared to be in DE") && message.contains("says US"),
        "{message}"
    );
    world.is_laid_down("us").await;
    assert!(
        world.held(REGION_STACK).get_opt("eu").await.unwrap().is_none(),
        "nothing is written into a cluster that stands elsewhere"
    );

    // Nothing said is nothing contradicted.
    node(&world, None).await;
    world.is_laid_down("eu").await;
    world.says("eu", "Stalled", "False").await;

    // A node that comes later counts as much.
    node(&world, Some("FR")).await;
    for region in ["eu", "us"] {
        world.is_refused(region, "CountryContradicted", "says FR").await;
    }
    node(&world, Some("DE")).await;
    world.says("eu", "Stalled", "False").await;
    world.is_refused("us", "CountryContradicted", "says DE").await;

    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {}});
    let nodes = api_of(&world.clusters.member, &node);
    nodes.delete("somewhere", &DeleteParams::default()).await.unwrap();
    world.says("us", "Stalled", "False").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubeconfig_that_runs_reads_or_skips_something_is_refused_in_status_and_tried_by_nobody() {
    let world = World::new().await;
    world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
    world.is_laid_down("us").await;
    let lawful = world.member_kubeconfig().await;
    let secret = lawful["users"][0]["user"]["token"].as_str().unwrap().to_owned();
    let marker = std::env::temp_dir().join(format!("ran-{}", std::process::id()));
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": [marker],
        "interactiveMode": "Never"});
    let users = [
        ("exec", exec),
        ("auth-provider", json!({"name": "gcp", "config": {}})),
        ("tokenFile", json!("/var/run/secrets/token")),
        ("client-certificate", json!("/etc/client.crt")),
        ("client-key", json!("/etc/client.key")),
        ("as", json!("admin")),
    ];
    let clusters = [
        ("insecure-skip-tls-verify", json!(true)),
        ("certificate-authority", json!("/etc/ca.crt")),
        ("proxy-url", json!("http://127.0.0.1:1")),
    ];
    let of_user = users.map(|(field, value)| ("/users/0/user", field, value));
    let of_cluster = clusters.map(|(field, value)| ("/clusters/0/cluster", field, value));
    for (part, field, value) in of_user.into_iter().chain(of_cluster) {
        let mut config = lawful.clone();
        config.pointer_mut(part).unwrap()[field] = value;
        world.give("us", &config).await;
        let message = world.is_refused("us", "KubeconfigRefused", &format!("`{field}`")).await;
        assert!(!message.contains(&secret), "{message}");
    }
    assert!(!marker.exists(), "a program of a kubeconfig was run");
    // The connection by the earlier kubeconfig has ended: nobody is asked any more.
    world.says("us", "ClustersReachable", "Unknown").await;
    world.says("eu", "ClustersReachable", "True").await;

    world.give("us", &lawful).await;
    world.says("us", "ClustersReachable", "True").await;
    world.says("us", "Stalled", "False").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubeconfig_is_rotated_deleted_and_restored_without_a_restart() {
    let world = World::new().await;
    let member = world.clusters.member.clone();
    let secrets: Api<Secret> = Api::namespaced(member.clone(), SYSTEM);
    let object = json!({"metadata": {"name": "token-of-the-day"}});
    let bound = secrets
        .create(&PostParams::default(), &serde_json::from_value(object).unwrap())
        .await
        .unwrap();
    let first = kubeconfig_with(MEMBER, &token(&member, HUB_ACCOUNT, Some(&bound)).await);
    world.give("us", &first).await;
    world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
    for region in ["eu", "us"] {
        world.says(region, "ClustersReachable", "True").await;
    }
    let before = world.condition("eu", "ClustersReachable").await.unwrap()["lastTransitionTime"].clone();

    // Rotated after the old credential has ended.
    secrets
        .delete("token-of-the-day", &DeleteParams::default())
        .await
        .unwrap();
    let noticed = world.says("us", "ClustersReachable", "False").await;
    let second = world.member_kubeconfig().await;
    world.give("us", &second).await;
    let rotated = world.says("us", "ClustersReachable", "True").await;

    // Deleted and restored.
    let of_hub: Api<Secret> = Api::namespaced(world.clusters.hub.clone(), SYSTEM);
    of_hub.delete("member-us", &DeleteParams::default()).await.unwrap();
    let deleted = Instant::now();
    let message = world.is_refused("us", "KubeconfigMissing", "member-us").await;
    assert!(
        message.contains("create it with the kubeconfig of cluster us"),
        "{message}"
    );
    let missed = deleted.elapsed();
    world.give("us", &second).await;
    let restored = world.says("us", "ClustersReachable", "True").await;
    world.says("us", "Stalled", "False").await;

    println!(
        "MEASURED kubeconfig: ended credential noticed in {noticed:.1?}, rotated in {rotated:.1?}, deletion said in \
         {missed:.1?}, restored in {restored:.1?}"
    );
    let after = world.condition("eu", "ClustersReachable").await.unwrap();
    assert_eq!(after["status"], "True");
    assert_eq!(after["lastTransitionTime"], before, "another region noticed");
    world.end().await;
}

/// Until a change of this region has arrived in its member.
async fn a_change_arrives(world: &World, region: &str, host: &str) -> Duration {
    let gateway = json!({"spec": {"gateway": {"host": host}}});
    let regions = world.asked(FITNESS_REGION);
    regions
        .patch(region, &PatchParams::default(), &Patch::Merge(&gateway))
        .await
        .unwrap();
    let began = Instant::now();
    until(&format!("the change of {region} arrives"), || async {
        let stack = world.held(REGION_STACK).get_opt(region).await.unwrap();
        stack.is_some_and(|stack| stack.data["spec"]["publicHost"] == host)
    })
    .await;
    began.elapsed()
}

fn behind(config: &Value, proxy: &Proxy) -> Value {
    let mut config = config.clone();
    config["clusters"][0]["cluster"]["server"] = json!(format!("https://{}", proxy.address));
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_accepts_and_never_answers_degrades_its_own_region_and_no_other() {
    let world = World::new().await;
    let config = world.member_kubeconfig().await;
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let proxy = Proxy::before(server.trim_start_matches("https://").to_owned(), true).await;
    world.give("us", &behind(&config, &proxy)).await;

    // It is so from the beginning.
    let began = Instant::now();
    world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
    world.is_laid_down("eu").await;
    let first = began.elapsed();
    let said = world.says("us", "Degraded", "True").await;
    assert!(world.held(REGION_STACK).get_opt("us").await.unwrap().is_none());
    proxy.swallow(false);
    world.is_laid_down("us").await;
    world.says("us", "Degraded", "False").await;

    // It becomes so while it is connected.
    proxy.swallow(true);
    let noticed = world.says("us", "Degraded", "True").await;
    let meanwhile = a_change_arrives(&world, "eu", "eu-2.meridian.localhost").await;
    let condition = world.condition("eu", "Degraded").await.unwrap();
    assert_eq!(condition["status"], "False", "{condition}");
    proxy.swallow(false);
    let back = world.says("us", "Degraded", "False").await;
    a_change_arrives(&world, "us", "us-2.meridian.localhost").await;

    println!(
        "MEASURED black hole: the other region laid down in {first:.1?}, said {said:.1?} later; noticed in {noticed:.1?}, \
         a change of the other region arrives in {meanwhile:.1?}, back in {back:.1?}"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_answers_and_cannot_be_listed_keeps_no_cut_from_another() {
    let world = World::new().await;
    world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
    world.apply(TENANT_DATA_RESIDENCY, "local/40-tenants.yaml").await;
    let edges = |region: &'static str, way: &'static str, count: usize| {
        let stacks = world.held(REGION_STACK);
        async move {
            until(&format!("{region} {way} {count} edges"), || async {
                let stack = stacks.get_opt(region).await.unwrap();
                let policy = stack
                    .map(|stack| stack.data["spec"]["policy"].clone())
                    .unwrap_or_default();
                policy[way].as_array().is_some_and(|edges| edges.len() == count)
            })
            .await;
        }
    };
    edges("eu", "exports", 1).await;
    edges("us", "imports", 1).await;

    // As before the chart is installed there, or while its roles are being replaced.
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "powerless", "namespace": SYSTEM}});
    rendered::apply(&world.clusters.member, &account).await;
    let powerless = kubeconfig_with(MEMBER, &token(&world.clusters.member, "powerless", None).await);
    world.give("us", &powerless).await;
    until("it is not listed", || async {
        let ready = world.condition("us", "Ready").await;
        ready.is_some_and(|ready| ready["status"] != "True")
    })
    .await;
    let began = Instant::now();
    let tenants = world.asked(TENANT_DATA_RESIDENCY);
    let nothing = Patch::Merge(json!({"spec": {"classes": []}}));
    let params = PatchParams::default();
    tenants.patch("stride-eu", &params, &nothing).await.unwrap();
    edges("eu", "exports", 0).await;
    let cut = began.elapsed();
    // After 30 s nobody waits for such a member in any case.
    assert!(cut < Duration::from_secs(20), "{cut:?}");
    println!("MEASURED cut beside a member that cannot be listed: {cut:.1?}");

    world.give("us", &world.member_kubeconfig().await).await;
    edges("us", "imports", 0).await;
    world.end().await;
}
