//! The region role's stack, its API server behind a proxy.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Api, DeleteParams, PostParams};
use meridian_kit::testing::free_address;
use meridian_operator::manifest::{CONFIG_MAP, DEPLOYMENT, NAMESPACE, NETWORK_POLICY, REGION_STACK, SECRET};
use meridian_operator::reconcile::Outcome;
use serde_json::json;

use crate::bed::{Bed, client, fresh_region, install_custom_resources, kubeconfig, region_stack, until};
use crate::proxy::{Asked, Proxy, Trouble};

/// A region whose operator reaches its API server through a proxy, asked for and not looked at yet.
async fn begun() -> (Proxy, Bed) {
    install_custom_resources(&client().await).await;
    let proxy = Proxy::before(&kubeconfig("MERIDIAN_TEST_KUBECONFIG")).await;
    let region = fresh_region();
    let bed = Bed::beside(proxy.client().await, region.clone()).await;
    ask(&bed, 1).await;
    (proxy, bed)
}

async fn ask(bed: &Bed, revision: u64) {
    bed.put(region_stack(&bed.region, revision, 1)).await;
    bed.seen(&bed.key(REGION_STACK, &bed.region)).await;
}

/// As [`Bed::settle`], with an operator that tries again what failed. Gives how many passes failed.
async fn settled(bed: &Bed) -> usize {
    let (began, mut failed, mut placed) = (Instant::now(), 0, false);
    while bed.condition("Ready").await != "True" {
        failed += usize::from(bed.pass().await.is_err());
        bed.all_pods_are_fine().await;
        if !placed && bed.get(NAMESPACE, &bed.namespace).await.is_some() {
            bed.place(1).await;
            placed = true;
        }
        assert!(began.elapsed().as_secs() < 60, "not ready: {:#}", bed.status().await);
    }
    bed.settle().await;
    failed
}

async fn steady(bed: &Bed) {
    let writes = bed.metrics.writes();
    assert_eq!(bed.pass().await.unwrap().outcome, Outcome::Steady);
    assert_eq!(bed.metrics.writes(), writes, "no request was sent");
}

fn makes(asked: &Asked, namespace: &str) -> bool {
    asked.writes() && asked.path.contains(namespace) && asked.path.contains("fieldManager=meridian")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_of_which_every_write_is_refused_once_comes_up_and_nothing_is_made_twice() {
    for trouble in [
        Trouble::Answer(409, "Conflict"),
        Trouble::Later(429, "TooManyRequests", 0),
        Trouble::Answer(500, "InternalError"),
        Trouble::Lost,
    ] {
        let (proxy, bed) = begun().await;
        let namespace = bed.namespace.clone();
        proxy.trouble(trouble, move |asked, before| makes(asked, &namespace) && before == 0);
        let failed = settled(&bed).await;
        // Who is told to come again later does so within the same pass.
        assert_eq!(
            failed > 0,
            !matches!(trouble, Trouble::Later(..)),
            "{trouble:?}: {failed}"
        );
        proxy.calm();
        let mut made: BTreeMap<String, usize> = BTreeMap::new();
        for asked in proxy.asked() {
            let done = asked.answer.is_some_and(|status| status == 201);
            if done && makes(&asked, &bed.namespace) && asked.method == "PATCH" {
                *made.entry(asked.path.clone()).or_default() += 1;
            }
        }
        assert!(
            !made.is_empty() && made.values().all(|count| *count == 1),
            "{trouble:?}: {made:?}"
        );
        steady(&bed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_writes_of_services_hang_the_policy_goes_on_and_status_says_what_hangs() {
    let (proxy, bed) = begun().await;
    bed.pass().await.unwrap();
    bed.place(1).await;
    bed.settle().await;
    let identity = bed.key(DEPLOYMENT, "identity");
    bed.api(&identity)
        .delete("identity", &DeleteParams::default())
        .await
        .unwrap();
    bed.seen(&identity).await;
    proxy.trouble(Trouble::Silence, |asked, _| {
        asked.writes() && asked.path.contains("/deployments/")
    });
    ask(&bed, 2).await;
    let error = bed.pass().await.unwrap_err().to_string();
    assert!(
        error.contains("identity") && error.contains("no answer within 4 s"),
        "{error}"
    );
    assert_eq!(
        bed.stacks.feed.policy().unwrap().revision.0,
        2,
        "a revocation waits for no service"
    );
    let status = bed.status().await;
    assert!(
        status["conditions"].to_string().contains("no answer within 4 s"),
        "{status:#}"
    );
    proxy.calm();
    bed.pass().await.unwrap();
    bed.settle().await;
    assert_eq!(bed.status().await["appliedRevision"], 2);
    steady(&bed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drift_that_an_expired_watch_did_not_tell_is_corrected_after_the_next_listing() {
    let (proxy, bed) = begun().await;
    bed.pass().await.unwrap();
    proxy.trouble(Trouble::Answer(500, "InternalError"), |asked, _| asked.watches());
    proxy.cut_watches();
    proxy.forget();
    until("nobody watches network policies", || async {
        proxy
            .asked()
            .iter()
            .any(|asked| asked.path.contains("networkpolicies") && asked.watches())
    })
    .await;
    let deny = bed.key(NETWORK_POLICY, "default-deny");
    bed.api(&deny)
        .delete("default-deny", &DeleteParams::default())
        .await
        .unwrap();
    bed.pass().await.unwrap();
    assert!(
        bed.get(NETWORK_POLICY, "default-deny").await.is_none(),
        "nobody has told it"
    );
    proxy.trouble(Trouble::Expired, |asked, _| asked.watches());
    until("it is seen to be gone", || async { bed.cache.get(&deny).is_none() }).await;
    bed.pass().await.unwrap();
    assert!(bed.get(NETWORK_POLICY, "default-deny").await.is_some());
    proxy.calm();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_is_missing_at_the_start_holds_everything_until_it_appears() {
    install_custom_resources(&client().await).await;
    let proxy = Proxy::before(&kubeconfig("MERIDIAN_TEST_KUBECONFIG")).await;
    let through = proxy.client().await;
    proxy.trouble(Trouble::Answer(404, "NotFound"), |asked, _| {
        asked.path.contains("/ingestpools")
    });
    let starts = tokio::spawn(Bed::beside(through, fresh_region()));
    until("it has looked in vain more than once", || async {
        let looks = proxy
            .asked()
            .into_iter()
            .filter(|asked| asked.path.contains("/ingestpools"));
        looks.count() > 1
    })
    .await;
    assert!(!starts.is_finished(), "it waits for the first listing of everything");
    proxy.calm();
    let bed = tokio::time::timeout(std::time::Duration::from_secs(60), starts)
        .await
        .unwrap()
        .unwrap();
    assert!(proxy.asked().iter().all(|asked| !asked.writes()));
    ask(&bed, 1).await;
    bed.pass().await.unwrap();
    assert!(bed.get(CONFIG_MAP, "kafka-config").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_of_somebody_elses_that_is_down_is_told_and_what_it_refused_is_laid_down_after() {
    let (_proxy, bed) = begun().await;
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(bed.client.clone());
    let name = format!("down-{}", bed.region);
    let configuration: ValidatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": name},
        "webhooks": [{
            "name": "somebody.example.org", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 1, "clientConfig": {"url": format!("https://{}", free_address())},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": bed.namespace}},
        }],
    }))
    .unwrap();
    configurations
        .create(&PostParams::default(), &configuration)
        .await
        .unwrap();
    bed.make_namespace(&bed.namespace).await;
    until("no Secret can be made", || async {
        let probe =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "probe", "namespace": bed.namespace}});
        let probe = serde_json::from_value(probe).unwrap();
        let key = bed.key(SECRET, "probe");
        bed.api(&key)
            .create(
                &PostParams {
                    dry_run: true,
                    ..PostParams::default()
                },
                &probe,
            )
            .await
            .is_err()
    })
    .await;
    let adopted = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": bed.namespace,
        "annotations": {"meridian.sh/adopt": "true"}}});
    bed.put(adopted).await;
    let error = bed.pass().await.unwrap_err().to_string();
    assert!(error.contains("somebody.example.org"), "{error}");
    let said = bed.status().await["conditions"].to_string();
    assert!(said.contains("somebody.example.org"), "{said}");
    assert_eq!(
        bed.stacks.feed.policy().unwrap().revision.0,
        1,
        "the policy waits for nothing"
    );
    configurations.delete(&name, &DeleteParams::default()).await.unwrap();
    until("Secrets are made", || async { bed.pass().await.is_ok() }).await;
    bed.place(1).await;
    bed.settle().await;
    steady(&bed).await;
}
