//! Where a region's objects come to lie: its own cluster under its own law, or nowhere; and what lies there no longer.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use meridian_operator::manifest::{FITNESS_REGION, REGION_STACK, TENANT_DATA_RESIDENCY};
use serde_json::{Value, json};

use crate::bed::until;
use crate::rendered::{self, SYSTEM, api_of};
use crate::table::{Leak, leak};
use crate::world::{Clusters, World, placement};

async fn is_there(world: &World, region: &str) -> bool {
    world.held(REGION_STACK).get_opt(region).await.unwrap().is_some()
}

/// Changes eu's FitnessRegion.
async fn change(world: &World, change: &Value) {
    let regions: Api<DynamicObject> = world.asked(FITNESS_REGION);
    regions
        .patch("eu", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_mis_stated_locality() {
    const NODES: &str = "nodes say where they stand";
    leak("mis-stated locality", &[NODES], async |on| {
        let world = World::new().await;
        // The member stands in the US; eu's region says DE.
        let labels = if on.has(NODES) {
            json!({"meridian.sh/country": "US"})
        } else {
            json!({})
        };
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "somewhere", "labels": labels}});
        rendered::apply(&world.clusters.member, &node).await;
        world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
        if on.has(NODES) {
            world.is_refused("eu", "CountryContradicted", "says US").await;
        } else {
            world.is_laid_down("eu").await;
        }
        let seen = is_there(&world, "eu").await;
        api_of(&world.clusters.member, &node)
            .delete("somewhere", &DeleteParams::default())
            .await
            .unwrap();
        world.end().await;
        Leak::by(seen)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_durability_overrides_placement() {
    const UNDER_ITS_LAW: &str = "every cluster stands under its region's law";
    leak("durability overrides placement", &[UNDER_ITS_LAW], async |on| {
        let world = World::new().await;
        // A standby that is nearer, cheaper, free: in a country where the law of eu does not hold.
        let country = if on.has(UNDER_ITS_LAW) { "US" } else { "FR" };
        world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
        world.is_laid_down("eu").await;
        let clusters = json!({"spec": {"clusters": [
            {"name": "eu", "role": "Primary", "country": "DE", "kubeconfigSecret": {"name": "member-eu", "key": "kubeconfig"}},
            {"name": "eu-standby", "role": "Standby", "country": country,
                "kubeconfigSecret": {"name": "member-eu", "key": "kubeconfig"}}]}});
        change(&world, &clusters).await;
        if on.has(UNDER_ITS_LAW) {
            world.is_refused("eu", "CountryOutsideLaw", "eu-standby").await;
        } else {
            until("the standby is looked at, and nothing else is the matter", || async {
                let eu = world.asked(FITNESS_REGION).get("eu").await.unwrap();
                let stalled = world.condition("eu", "Stalled").await.unwrap_or_default();
                eu.data["status"]["observedGeneration"].as_i64() == eu.metadata.generation && stalled["status"] == "False"
            })
            .await;
        }
        let stalled = world.condition("eu", "Stalled").await.unwrap();
        let alone = json!({"spec": {"clusters": [clusters["spec"]["clusters"][0]]}});
        change(&world, &alone).await;
        world.says("eu", "Stalled", "False").await;
        world.end().await;
        Leak::by(stalled["status"] == "False")
    })
    .await;
}

/// A tenant without edges: when it goes, nobody has anything to purge.
async fn wish(world: &World, tenant: &str, home: &str) {
    let object = json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "TenantDataResidency", "metadata": {"name": tenant},
        "spec": {"organization": "stride", "tenant": tenant, "home": {"region": home}}});
    let params = PatchParams::apply("somebody").force();
    let tenants = world.asked(TENANT_DATA_RESIDENCY);
    tenants.patch(tenant, &params, &Patch::Apply(&object)).await.unwrap();
}

/// Where a tenant's home is, by the stacks that the members hold.
async fn homes_of(world: &World, tenant: &str) -> Vec<String> {
    let mut homes = Vec::new();
    for region in ["eu", "us"] {
        let stack = world.held(REGION_STACK).get_opt(region).await.unwrap();
        let policy = stack.map(|stack| stack.data["spec"]["policy"]["homes"].to_string());
        if policy.is_some_and(|homes| homes.contains(tenant)) {
            homes.push(region.to_owned());
        }
    }
    homes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_no_legal_target() {
    const HELD: &str = "held until its own region can be asked";
    leak("no legal target", &[HELD], async |on| {
        let world = World::new().await;
        if on.has(HELD) {
            // eu's cluster is lost, and nobody has another one for it; us has room.
            let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(world.clusters.hub.clone(), SYSTEM);
            secrets.delete("member-eu", &DeleteParams::default()).await.unwrap();
        }
        world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
        world.is_laid_down("us").await;
        let tenants = world.asked(TENANT_DATA_RESIDENCY);
        wish(&world, "stride-us", "us").await;
        wish(&world, "stride-eu", "eu").await;
        let phase = if on.has(HELD) { "Pending" } else { "Active" };
        until(&format!("the tenant of eu is {phase}"), || async {
            tenants.get("stride-eu").await.unwrap().data["status"]["phase"] == phase
        })
        .await;
        until("us has its own tenant", || async {
            homes_of(&world, "stride-us").await == ["us"]
        })
        .await;
        if !on.has(HELD) {
            // Its phase is told before its region's stack is written.
            until("eu has its own tenant", || async {
                !homes_of(&world, "stride-eu").await.is_empty()
            })
            .await;
        }
        let homes = homes_of(&world, "stride-eu").await;
        if on.has(HELD) {
            world.give("eu", &world.member_kubeconfig().await).await;
            world.is_laid_down("eu").await;
        }
        world.end().await;
        Leak::by(!homes.is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_stale_placement() {
    const TAKEN_OUT: &str = "the hub takes out what it does not want there";
    leak("stale placement", &[TAKEN_OUT], async |on| {
        let old = placement("meridian-us", "stride-us");
        if on.has(TAKEN_OUT) {
            let world = World::new().await;
            world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
            wish(&world, "stride-us", "us").await;
            let placements = api_of(&world.clusters.member, &old);
            let is_there = async || placements.get_opt("stride-us").await.unwrap().is_some();
            until("it is placed", &is_there).await;
            let tenants = world.asked(TENANT_DATA_RESIDENCY);
            tenants.delete("stride-us", &DeleteParams::default()).await.unwrap();
            until("nobody asks for it any more", async || {
                tenants.get_opt("stride-us").await.unwrap().is_none()
            })
            .await;
            let seen = is_there().await;
            world.end().await;
            return Leak::by(seen);
        }
        // With nobody who looks at what lies there.
        let clusters = Clusters::new().await;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "meridian-us"}});
        rendered::apply(&clusters.member, &namespace).await;
        rendered::apply(&clusters.member, &old).await;
        let placements = api_of(&clusters.member, &old);
        let stays = placements.get_opt("stride-us").await.unwrap().is_some();
        placements.delete("stride-us", &DeleteParams::default()).await.unwrap();
        Leak::by(stays)
    })
    .await;
}
