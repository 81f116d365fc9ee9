//! The hub role after its state was lost, beside a second hub, and after a rollback, with real API servers
//! (`cargo xtask parts apiserver member -- cargo test -p meridian-operator`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;

use bed::hubs::{Hub, World, count, documents};
use bed::until;
use meridian_operator::manifest::{FITNESS_REGION, INGEST_POOL, OWNER_UID_LABEL, TENANT_DATA_RESIDENCY};
use serde_json::{Value, json};

/// What a member holds of both regions, without what says who wrote it.
async fn held(world: &World) -> Value {
    let placements = [("eu", "stride-eu"), ("us", "stride-eu"), ("us", "stride-us")];
    let mut held = json!({});
    for region in ["eu", "us"] {
        let stack = world.stack(region).await;
        held[region] = json!({
            "uid": stack["metadata"]["uid"], "generation": stack["metadata"]["generation"], "spec": stack["spec"],
        });
    }
    for (region, tenant) in placements {
        let placement = world.placement(region, tenant).await.unwrap_or_default();
        held[format!("{region}/{tenant}")] = json!([placement["metadata"]["uid"], placement["spec"]]);
    }
    held
}

fn tenant(name: &str) -> Value {
    let mut tenants = documents("local/40-tenants.yaml").into_iter();
    tenants.find(|tenant| tenant["metadata"]["name"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_rebuilt_from_its_manifests_adopts_what_its_members_have_and_cuts_nothing() {
    let mut world = World::settled().await;
    world.move_in("stride-eu", 5).await;
    let before = held(&world).await;
    world.lose_the_hub().await;

    // As the files are numbered: there are regions, and nobody lives in them yet.
    let renewed = world.renewed().await;
    world.rebuild_without_tenants().await;
    for region in ["eu", "us"] {
        let message = world.hub.told(region, "TenantsUnknown").await;
        assert!(
            message.contains("stride-eu") && message.contains("stride-us"),
            "{message}"
        );
    }
    assert_eq!(held(&world).await, before);
    // The exporter comes before the tenant that receives.
    world.hub.apply(TENANT_DATA_RESIDENCY, &tenant("stride-eu")).await;
    until("only the receiving tenant is missing", || async {
        let message = world.hub.told("us", "TenantsUnknown").await;
        !message.contains("stride-eu") && message.contains("stride-us")
    })
    .await;
    assert_eq!(held(&world).await, before);
    world.signs_of_life().await;
    assert_eq!(
        world.renewed().await,
        renewed,
        "an incomplete policy lets nothing be transferred"
    );

    world.hub.apply(TENANT_DATA_RESIDENCY, &tenant("stride-us")).await;
    until("the lease is renewed", || async { world.renewed().await != renewed }).await;
    // Revisions only grow: that they are the same says that nothing else was written in between.
    assert_eq!(held(&world).await, before);
    let owner = world.hub.get(FITNESS_REGION, "us").await.unwrap()["metadata"]["uid"].clone();
    let placed = world.placement("us", "stride-eu").await.unwrap();
    assert_eq!(placed["metadata"]["labels"][OWNER_UID_LABEL], owner);
    let status = world.hub.get(TENANT_DATA_RESIDENCY, "stride-eu").await.unwrap()["status"].clone();
    assert_eq!((&status["epoch"], &status["edgesAllowed"]), (&json!(5), &json!(1)));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_nobody_applies_again_is_kept_until_it_is_released_and_holds_up_no_other() {
    let mut world = World::settled().await;
    world.lose_the_hub().await;
    world.rebuild_without_tenants().await;
    world.hub.apply(TENANT_DATA_RESIDENCY, &tenant("stride-us")).await;
    until("only the exporter is missing", || async {
        let message = world.hub.told("us", "TenantsUnknown").await;
        !message.contains("stride-us")
    })
    .await;

    // A release that was written for an earlier FitnessRegion of that name says nothing; the rest is applied as ever.
    world.release("us", "stride-eu@an-earlier-one").await;
    world
        .hub
        .patch(
            FITNESS_REGION,
            "us",
            &json!({"spec": {"countriesServed": ["US", "MX"]}}),
        )
        .await;
    until("the region serves another country", || async {
        count(&world.stack("us").await["spec"]["countriesServed"]) == 2
    })
    .await;
    assert_eq!(count(&world.stack("us").await["spec"]["policy"]["imports"]), 1);
    assert!(world.placement("us", "stride-eu").await.is_some());

    let uid = world.hub.get(FITNESS_REGION, "us").await.unwrap()["metadata"]["uid"].clone();
    world
        .release("us", &format!("stride-eu@{}", uid.as_str().unwrap()))
        .await;
    until("the importer may purge", || async {
        count(&world.stack("us").await["spec"]["policy"]["imports"]) == 0
            && world.placement("us", "stride-eu").await.is_none()
    })
    .await;
    assert!(
        world.placement("us", "stride-us").await.is_some(),
        "another tenant stays"
    );
    assert!(
        world.placement("eu", "stride-eu").await.is_some(),
        "it is released in one region"
    );
    assert_eq!(
        world.stack("eu").await["spec"]["policy"]["homes"][0]["tenant"],
        "stride-eu"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_hub_changes_nothing_while_the_first_one_lives_and_takes_over_when_it_is_gone() {
    let mut world = World::settled().await;
    let before = held(&world).await;
    // By mistake in the member's own cluster, with other manifests.
    let second = Hub::new(world.member.clone()).await;
    second.found().await;
    let mut regions = documents("local/30-regions.yaml");
    regions
        .iter_mut()
        .for_each(|region| region["spec"]["countriesServed"] = json!(["FR"]));
    for region in &regions {
        second.apply(FITNESS_REGION, region).await;
    }
    let message = second.told("us", "OtherHub").await;
    assert!(message.contains("another hub"), "{message}");
    second.told("eu", "OtherHub").await;
    assert_eq!(held(&world).await, before);

    // The first one goes on.
    let renewed = world.renewed().await;
    until("the lease is renewed", || async { world.renewed().await != renewed }).await;
    world
        .hub
        .patch(
            FITNESS_REGION,
            "us",
            &json!({"spec": {"countriesServed": ["US", "MX"]}}),
        )
        .await;
    until("the region serves another country", || async {
        world.stack("us").await["spec"]["countriesServed"] == json!(["US", "MX"])
    })
    .await;
    second.told("us", "OtherHub").await;

    world.hub.stop().await;
    until("the second hub has taken over", || async {
        world.stack("us").await["spec"]["countriesServed"] == json!(["FR"])
    })
    .await;
    let kept = world.stack("us").await["spec"]["policy"]["imports"].clone();
    assert_eq!(count(&kept), 1, "it knows no tenant, and cuts none");
    world.hub.start().await;
    world.hub.told("us", "OtherHub").await;
    assert_eq!(world.stack("us").await["spec"]["countriesServed"], json!(["FR"]));
    second.leave().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_to_an_older_commit_lowers_neither_revisions_nor_epochs() {
    let world = World::settled().await;
    world.move_in("stride-eu", 5).await;
    let revision = |object: &Value| object["spec"]["revision"].as_u64().unwrap();
    let older = (
        world.stack("us").await,
        world.placement("eu", "stride-eu").await.unwrap(),
    );
    let mut narrowed = tenant("stride-eu");
    narrowed["spec"]["classes"][0]["replicateTo"][0]["fields"] = json!(["sport_type"]);
    world.hub.apply(TENANT_DATA_RESIDENCY, &narrowed).await;
    let fields = |stack: &Value| count(&stack["spec"]["policy"]["imports"][0]["fields"]);
    until("the newer commit is written", || async {
        fields(&world.stack("us").await) == 1
    })
    .await;
    let newer = world.stack("us").await;
    assert!(revision(&newer) > revision(&older.0));

    world.hub.apply(TENANT_DATA_RESIDENCY, &tenant("stride-eu")).await;
    until("the older commit is written", || async {
        fields(&world.stack("us").await) == 4
    })
    .await;
    assert!(revision(&world.stack("us").await) > revision(&newer));
    until("the placement is as before", || async {
        let placement = world.placement("eu", "stride-eu").await.unwrap();
        placement["spec"]["edges"] == older.1["spec"]["edges"]
    })
    .await;
    let placement = world.placement("eu", "stride-eu").await.unwrap();
    assert!(revision(&placement) > revision(&older.1));
    assert_eq!(placement["spec"]["epoch"], 5);
    assert_eq!(world.stack("eu").await["spec"]["policy"]["homes"][0]["epoch"], 5);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_stays_as_it_is_while_another_hub_lives() {
    let mut world = World::settled().await;
    let pool = documents("local/50-pools.yaml").remove(0);
    world.hub.apply(INGEST_POOL, &pool).await;
    until("the pool is copied", || async {
        world.member_object(INGEST_POOL, "eu-telemetry").await.is_some()
    })
    .await;
    world.hub.stop().await;
    world.claim_for("another").await;
    world
        .hub
        .patch(INGEST_POOL, "eu-telemetry", &json!({"spec": {"partitions": 12}}))
        .await;
    world.hub.start().await;
    until("the pool says who has its member", || async {
        let pool = world.hub.get(INGEST_POOL, "eu-telemetry").await.unwrap();
        pool["status"]["conditions"].to_string().contains("another hub")
    })
    .await;
    let copy = world.member_object(INGEST_POOL, "eu-telemetry").await.unwrap();
    assert_eq!(copy["spec"]["partitions"], 6);
    // Nobody renews that claim: after its time it counts no more.
    until("the pool is copied", || async {
        world.member_object(INGEST_POOL, "eu-telemetry").await.unwrap()["spec"]["partitions"] == 12
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_of_which_nothing_is_known_holds_back_the_lease_of_its_cluster() {
    let world = World::settled().await;
    // Beside each of the two regions one whose law is missing: it is refused, and nobody has looked what it applies.
    for mut region in documents("local/30-regions.yaml") {
        let name = format!("{}-beside", region["metadata"]["name"].as_str().unwrap());
        region["metadata"]["name"] = json!(name);
        region["spec"]["jurisdiction"] = json!("nowhere");
        world.hub.apply(FITNESS_REGION, &region).await;
        world.hub.told(&name, "PolicyRefused").await;
    }
    let before = world.renewed().await;
    world.signs_of_life().await;
    assert_eq!(world.renewed().await, before, "it is not renewed");

    for name in ["eu-beside", "us-beside"] {
        world.hub.delete(FITNESS_REGION, name).await;
    }
    until("it is renewed again", || async { world.renewed().await != before }).await;
    world.end().await;
}
