//! An unlawful wish while what should refuse it is away, and a home that is edited.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use futures::FutureExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use meridian_operator::manifest::{FITNESS_REGION, REGION_STACK, TENANT_DATA_RESIDENCY};
use serde_json::{Value, json};

use crate::bed::{self, until};
use crate::rendered::{self, SYSTEM, api_of};
use crate::table::{Leak, leak};
use crate::world::{Clusters, World, placement};

const NAMESPACE: &str = "meridian-leaks";

/// Something that the law of the EU does not let go to us, and nothing else.
fn health_to_us() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regions/local/refused/health-to-us.yaml");
    let mut wish: Value = serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let classes = wish["spec"]["classes"].as_array_mut().unwrap();
    classes.retain(|class| class["class"] == "health");
    wish
}

fn tenant(name: &str, home: &str) -> Value {
    json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "TenantDataResidency", "metadata": {"name": name},
        "spec": {"organization": "stride", "tenant": name, "home": {"region": home}}})
}

async fn put(api: &Api<DynamicObject>, object: &Value, dry_run: bool) -> Result<DynamicObject, kube::Error> {
    let name = object["metadata"]["name"].as_str().unwrap();
    let params = PatchParams {
        dry_run,
        ..PatchParams::apply("somebody").force()
    };
    api.patch(name, &params, &Patch::Apply(object)).await
}

/// Runs this while the API server asks the hub's webhook, by a Service of its name that leads to this process.
async fn under_webhook(world: &World, body: impl Future<Output = ()>) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "meridian-webhook", "namespace": SYSTEM},
        "spec": {"type": "ExternalName", "externalName": "localhost"}});
    let is_ours = |object: &Value| object["kind"] == "ValidatingWebhookConfiguration";
    let mut configuration = rendered::documents("hub").into_iter().find(is_ours).unwrap();
    let webhook = &mut configuration["webhooks"][0];
    webhook["clientConfig"]["service"]["port"] = json!(world.webhook.port());
    // What a loaded machine needs is no failure of the webhook.
    webhook["timeoutSeconds"] = json!(30);
    for object in [&service, &configuration] {
        rendered::apply(&world.clusters.hub, object).await;
    }
    let ended = AssertUnwindSafe(body).catch_unwind().await;
    for object in [&configuration, &service] {
        let name = object["metadata"]["name"].as_str().unwrap();
        api_of(&world.clusters.hub, object)
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// Whether a region's member was told that health may leave.
async fn carries_health(world: &World) -> bool {
    let stack = world.held(REGION_STACK).get("eu").await.unwrap();
    let policy = &stack.data["spec"]["policy"];
    assert!(
        policy["exports"].is_array(),
        "it is written so that it can be read here"
    );
    policy.to_string().contains(r#""class":"health""#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_admission_outage() {
    const WEBHOOK: &str = "webhook";
    const RECONCILER: &str = "the reconciler decides again";
    const WRITERS: &str = "ValidatingAdmissionPolicy";
    leak("admission outage", &[WEBHOOK, RECONCILER, WRITERS], async |on| {
        if on.has(WEBHOOK) || on.has(RECONCILER) {
            let world = World::new().await;
            world.apply(FITNESS_REGION, "local/30-regions.yaml").await;
            world.is_laid_down("eu").await;
            let tenants = world.asked(TENANT_DATA_RESIDENCY);
            for (name, home) in [("stride-us", "us"), ("stride-eu", "eu")] {
                put(&tenants, &tenant(name, home), false).await.unwrap();
            }
            if on.has(WEBHOOK) {
                let asked = async {
                    // Until the API server knows of it, and of its CA, nobody is asked, or reached.
                    until("the webhook refuses", async || {
                        let refused = put(&tenants, &health_to_us(), true).await.err();
                        refused.is_some_and(|error| error.to_string().contains("class-not-listed"))
                    })
                    .await;
                    put(&tenants, &health_to_us(), false).await.expect_err("it is refused");
                };
                under_webhook(&world, asked).await;
            } else {
                let stored = put(&tenants, &health_to_us(), false).await.unwrap();
                until("the reconciler has looked", async || {
                    let status = tenants.get("stride-eu").await.unwrap().data["status"].clone();
                    status["observedGeneration"].as_i64() == stored.metadata.generation
                        && status["phase"] == "Violating"
                })
                .await;
            }
            let seen = carries_health(&world).await;
            world.end().await;
            return Leak::by(seen);
        }
        let clusters = Clusters::new().await;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        rendered::apply(&clusters.member, &namespace).await;
        // Past the hub, into the member itself.
        let object = placement(NAMESPACE, "stride-eu");
        let placements = api_of(&clusters.member, &object);
        let by_hand = async || drop(put(&placements, &object, false).await);
        if on.has(WRITERS) {
            clusters.under_admission(by_hand()).await;
        } else {
            by_hand().await;
        }
        let there = placements.get_opt("stride-eu").await.unwrap().is_some();
        if there {
            placements.delete("stride-eu", &DeleteParams::default()).await.unwrap();
        }
        Leak::by(there)
    })
    .await;
}

/// The definition of a kind, without its rules on how it may change.
fn without_rules(kind: &str) -> CustomResourceDefinition {
    fn strip(schema: &mut Value) {
        if let Some(object) = schema.as_object_mut() {
            object.remove("x-kubernetes-validations");
        }
        match schema {
            Value::Object(fields) => fields.values_mut().for_each(strip),
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut crds = meridian_crds::all_crds();
    crds.retain(|crd| crd.spec.names.kind == kind);
    let mut whole = serde_json::to_value(crds.remove(0)).unwrap();
    strip(&mut whole);
    serde_json::from_value(whole).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_auto_rehoming() {
    const IMMUTABLE: &str = "a home is immutable";
    const HIGHER_EPOCH: &str = "another home needs a higher epoch";
    leak("auto-rehoming", &[IMMUTABLE, HIGHER_EPOCH], async |on| {
        let clusters = Clusters::new().await;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        rendered::apply(&clusters.member, &namespace).await;
        let (client, object, home) = if on.has(IMMUTABLE) {
            (&clusters.hub, tenant("moved", "eu"), "/spec/home/region")
        } else {
            (&clusters.member, placement(NAMESPACE, "moved"), "/spec/home")
        };
        if !on.has(IMMUTABLE) && !on.has(HIGHER_EPOCH) {
            bed::install(client, &[without_rules("TenantPlacement")]).await;
        }
        let api = api_of(client, &object);
        put(&api, &object, false).await.unwrap();
        let mut moved = object.clone();
        *moved.pointer_mut(home).unwrap() = json!("us");
        // A definition without its rules is served a moment later.
        let moves = async || put(&api, &moved, false).await.is_ok();
        if on.has(IMMUTABLE) || on.has(HIGHER_EPOCH) {
            moves().await;
        } else {
            until("the rules are gone", moves).await;
        }
        let stored = api.get("moved").await.unwrap();
        let seen = json!({"spec": stored.data["spec"]}).pointer(home) == Some(&json!("us"));
        api.delete(&stored.name_any(), &DeleteParams::default()).await.unwrap();
        bed::install_custom_resources_of_a_member(&clusters.member).await;
        Leak::by(seen)
    })
    .await;
}
