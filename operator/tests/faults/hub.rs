//! The hub role. Its own API server or region us's is in trouble; region eu, which has no part in it, must notice nothing.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Api, DeleteParams, PostParams};
use meridian_kit::testing::free_address;
use meridian_operator::manifest::{FITNESS_REGION, REGION_STACK, TENANT_DATA_RESIDENCY};
use serde_json::{Value, json};

use crate::bed::{kubeconfig, until};
use crate::proxy::{Proxy, Trouble};
use crate::world::{World, kubeconfig_of_the_member};

const US: &str = "/regionstacks/us";

async fn before_us() -> Proxy {
    Proxy::before(&kubeconfig("MERIDIAN_TEST_MEMBER_KUBECONFIG")).await
}

/// The demo's regions and tenants, us's member and the hub's own API server behind proxies.
async fn settled(hub: &Proxy, us: &Proxy) -> World {
    let world = World::among(hub.client().await, &us.kubeconfig()).await.settled().await;
    is_quiet(&world).await;
    world
}

async fn of(world: &World, region: &str, condition: &str) -> Value {
    let object = world.get(FITNESS_REGION, region).await.unwrap_or_default();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|found| found["type"] == condition);
    found.unwrap_or_default()
}

async fn generation(world: &World, region: &str) -> u64 {
    let stack = world.held(REGION_STACK, region).await.unwrap();
    stack["metadata"]["generation"].as_u64().unwrap()
}

/// Both regions apply what is written, and the hub says so.
async fn is_quiet(world: &World) {
    until("both regions apply what is written", || async {
        let mut quiet = true;
        for region in ["eu", "us"] {
            let stack = world.held(REGION_STACK, region).await.unwrap_or_default();
            let told = world.get(FITNESS_REGION, region).await.unwrap_or_default();
            quiet &= stack["spec"]["revision"].is_u64();
            for said in [&stack["status"]["appliedRevision"], &told["status"]["appliedRevision"]] {
                quiet &= *said == stack["spec"]["revision"];
            }
        }
        quiet
    })
    .await;
}

/// Something that every region is told: where us is reached.
async fn move_us(world: &World, url: &str) {
    let patch = json!({"spec": {"gateway": {"publicUrl": url}}});
    world.merge(FITNESS_REGION, "us", &patch).await.unwrap();
}

async fn knows(world: &World, region: &str, url: &str) -> bool {
    let stack = world.held(REGION_STACK, region).await.unwrap_or_default();
    let policy = &stack["spec"]["policy"];
    let listed = |url: &str| {
        let mut directory = policy["directory"].as_array().into_iter().flatten();
        directory.any(|entry| entry["public_url"] == url)
    };
    policy["public_url"] == url || listed(url)
}

async fn is_told(world: &World, region: &str, url: &str) {
    until(&format!("{region} is told of {url}"), || knows(world, region, url)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_refuses_writes_holds_up_its_region_alone_and_gets_each_change_once() {
    let (hub, us) = (
        Proxy::before(&kubeconfig("MERIDIAN_TEST_KUBECONFIG")).await,
        before_us().await,
    );
    let world = settled(&hub, &us).await;
    for (trouble, said) in [
        (Trouble::Answer(409, "Conflict"), "Conflict"),
        // Its client waits as long as it is told, and gives up before that has been often.
        (Trouble::Later(429, "TooManyRequests", 1), "no answer within 4 s"),
        (Trouble::Answer(500, "InternalError"), "InternalError"),
        (Trouble::Silence, "no answer within 4 s"),
    ] {
        let url = format!("https://us-{}.example:9443", said.to_lowercase().replace(' ', "-"));
        let url = if matches!(trouble, Trouble::Silence) {
            url.replace("us-", "silent-")
        } else {
            url
        };
        let before = generation(&world, "us").await;
        us.forget();
        us.trouble(trouble, |asked, _| asked.writes_to(US));
        move_us(&world, &url).await;
        is_told(&world, "eu", &url).await;
        until(&format!("us says {said}"), || async {
            let ready = of(&world, "us", "Ready").await;
            ready["status"] == "False" && ready["message"].as_str().is_some_and(|message| message.contains(said))
        })
        .await;
        until("eu is reachable all the same", || async {
            of(&world, "eu", "ClustersReachable").await["status"] == "True"
        })
        .await;
        assert_eq!(generation(&world, "us").await, before);
        if let Trouble::Later(..) = trouble {
            let tries: Vec<_> = us.asked().into_iter().filter(|asked| asked.writes_to(US)).collect();
            let waited = |pair: &[crate::proxy::Asked]| pair[1].at - pair[0].at;
            let soonest = tries.windows(2).map(waited).min().expect("it is tried again");
            assert!(
                soonest >= Duration::from_millis(900),
                "asked to wait 1 s, waited {soonest:?}"
            );
        }
        us.calm();
        is_told(&world, "us", &url).await;
        is_quiet(&world).await;
        assert_eq!(generation(&world, "us").await, before + 1, "{said}");
        assert_eq!(us.done(US), 1, "{said}: {:?}", us.asked());
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_is_lost_is_not_made_twice() {
    let (hub, us) = (
        Proxy::before(&kubeconfig("MERIDIAN_TEST_KUBECONFIG")).await,
        before_us().await,
    );
    let world = settled(&hub, &us).await;
    let before = generation(&world, "us").await;
    us.forget();
    us.trouble(Trouble::Lost, |asked, _| {
        asked.writes() && !asked.path.contains("/leases/")
    });
    hub.trouble(Trouble::Lost, |asked, _| {
        asked.writes_to("/fitnessregions/us/status") || asked.writes_to("/fitnessregions/eu/status")
    });
    let url = "https://lost.example:9443";
    move_us(&world, url).await;
    for region in ["eu", "us"] {
        is_told(&world, region, url).await;
    }
    // Both are still in trouble, and all has been done.
    is_quiet(&world).await;
    let changed = generation(&world, "us").await - before;
    assert_eq!(changed, us.done(US) as u64, "{:?}", us.asked());
    hub.calm();
    us.calm();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_watch_that_expired_did_not_tell_is_found_by_listing_again() {
    let (hub, us) = (
        Proxy::before(&kubeconfig("MERIDIAN_TEST_KUBECONFIG")).await,
        before_us().await,
    );
    let world = settled(&hub, &us).await;
    us.trouble(Trouble::Answer(500, "InternalError"), |asked, _| asked.watches());
    us.cut_watches();
    us.forget();
    until("nobody watches us's stacks", || async {
        us.asked().iter().any(|asked| asked.path.contains("regionstacks"))
    })
    .await;
    // Nobody tells the hub of this.
    let stack = world.held(REGION_STACK, "us").await.unwrap();
    let stacks: Api<kube::api::DynamicObject> = Api::all_with(world.member.clone(), &REGION_STACK.resource());
    stacks.delete("us", &DeleteParams::default()).await.unwrap();
    until("it is gone", || async {
        world.held(REGION_STACK, "us").await.is_none()
    })
    .await;
    us.trouble(Trouble::Expired, |asked, _| asked.watches());
    until("a new one is there", || async {
        let now = world.held(REGION_STACK, "us").await.unwrap_or_default();
        !now["metadata"]["uid"].is_null() && now["metadata"]["uid"] != stack["metadata"]["uid"]
    })
    .await;
    us.calm();

    // The hub's own.
    hub.trouble(Trouble::Answer(500, "InternalError"), |asked, _| asked.watches());
    hub.forget();
    hub.cut_watches();
    until("nobody watches regions", || async {
        hub.asked().iter().any(|asked| asked.path.contains("fitnessregions"))
    })
    .await;
    let url = "https://expired.example:9443";
    move_us(&world, url).await;
    hub.trouble(Trouble::Expired, |asked, _| asked.watches());
    for region in ["eu", "us"] {
        is_told(&world, region, url).await;
    }
    hub.calm();
    is_quiet(&world).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_whose_own_api_server_takes_no_status_goes_on_telling_members_and_says_so_after() {
    let (hub, us) = (
        Proxy::before(&kubeconfig("MERIDIAN_TEST_KUBECONFIG")).await,
        before_us().await,
    );
    let world = settled(&hub, &us).await;
    for (trouble, url) in [
        (Trouble::Answer(409, "Conflict"), "https://status-409.example:9443"),
        (
            Trouble::Later(429, "TooManyRequests", 1),
            "https://status-429.example:9443",
        ),
        (Trouble::Answer(500, "InternalError"), "https://status-500.example:9443"),
        (Trouble::Silence, "https://status-silent.example:9443"),
    ] {
        hub.trouble(trouble, |asked, _| asked.writes_to("/status"));
        move_us(&world, url).await;
        for region in ["eu", "us"] {
            is_told(&world, region, url).await;
        }
        hub.calm();
        is_quiet(&world).await;
    }
    // It leads on when its lease is refused for less than it may be.
    hub.forget();
    let lease = "/leases/meridian-hub";
    hub.trouble(Trouble::Answer(500, "InternalError"), |asked, before| {
        asked.writes_to("/leases/meridian-hub") && before < 3
    });
    until("the lease is renewed after three refusals", || async {
        hub.done(lease) > 0
    })
    .await;
    let refused = |asked: &&crate::proxy::Asked| asked.writes_to(lease) && asked.answer == Some(500);
    assert_eq!(hub.asked().iter().filter(refused).count(), 3);
    hub.calm();
    let url = "https://leads-on.example:9443";
    move_us(&world, url).await;
    is_told(&world, "us", url).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_starts_before_its_custom_resources_begins_when_they_appear() {
    let hub = Proxy::before(&kubeconfig("MERIDIAN_TEST_KUBECONFIG")).await;
    // A world installs them, so they are taken away from under the hub's own eyes only.
    hub.trouble(Trouble::Answer(404, "NotFound"), |asked, _| {
        asked.path.contains("/parties")
    });
    let world = World::among(hub.client().await, &kubeconfig_of_the_member()).await;
    world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
    until("it has looked in vain more than once", || async {
        let looks = hub.asked().into_iter().filter(|asked| asked.path.contains("/parties"));
        looks.count() > 1
    })
    .await;
    assert!(!world.is_ready().await);
    assert!(
        world.held(REGION_STACK, "us").await.is_none(),
        "nothing is written by half of what there is"
    );
    hub.calm();
    until("it begins", || async { world.held(REGION_STACK, "us").await.is_some() }).await;
    until("it is ready", || world.is_ready()).await;
    is_quiet(&world).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_webhook_is_down_regions_are_kept_and_status_is_told() {
    let (hub, us) = (
        Proxy::before(&kubeconfig("MERIDIAN_TEST_KUBECONFIG")).await,
        before_us().await,
    );
    let world = settled(&hub, &us).await;
    let configuration: ValidatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": "faults-webhook"},
        "webhooks": [{
            "name": "policy.meridian.sh", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 1, "clientConfig": {"url": format!("https://{}", free_address())},
            "rules": [{"apiGroups": ["meridian.sh"], "apiVersions": ["v1alpha1"], "operations": ["CREATE", "UPDATE"],
                "resources": ["fitnessregions", "tenantdataresidencies"], "scope": "Cluster"}],
        }],
    }))
    .unwrap();
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(world.hub.clone());
    configurations
        .create(&PostParams::default(), &configuration)
        .await
        .unwrap();
    until("nobody can change a region", || async {
        let label = json!({"metadata": {"labels": {"asked": format!("{:?}", std::time::Instant::now())}}});
        world.merge(FITNESS_REGION, "us", &label).await.is_err()
    })
    .await;
    // Drift in a member is corrected, and its trouble is told, without anybody to review it.
    let stacks: Api<kube::api::DynamicObject> = Api::all_with(world.member.clone(), &REGION_STACK.resource());
    stacks.delete("eu", &DeleteParams::default()).await.unwrap();
    us.trouble(Trouble::Answer(500, "InternalError"), |_, _| true);
    until("us is said not to answer", || async {
        of(&world, "us", "ClustersReachable").await["status"] == "False"
    })
    .await;
    until("eu is laid down again", || async {
        world.held(REGION_STACK, "eu").await.is_some()
    })
    .await;
    us.calm();
    until("us is said to answer", || async {
        of(&world, "us", "ClustersReachable").await["status"] == "True"
    })
    .await;
    is_quiet(&world).await;
    let phase = world.get(TENANT_DATA_RESIDENCY, "stride-eu").await.unwrap()["status"]["phase"].clone();
    assert_eq!(phase, "Active");
    configurations
        .delete("faults-webhook", &DeleteParams::default())
        .await
        .unwrap();
    until("regions can be changed again", || async {
        let label = json!({"metadata": {"labels": {"asked": null}}});
        world.merge(FITNESS_REGION, "us", &label).await.is_ok()
    })
    .await;
    world.end().await;
}
