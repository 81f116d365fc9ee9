//! Who scales a pool's writers, on a real API server with real controllers
//! (`cargo xtask parts kafka apiserver member -- cargo test -p meridian-operator --test region_scaling`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;
mod samples;

use bed::{Bed, fresh_region, install, install_custom_resources, region_stack, until};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Client, ResourceExt};
use meridian_operator::apply::Applier;
use meridian_operator::election::Leadership;
use meridian_operator::events::Events;
use meridian_operator::manifest::{AUTOSCALER, DEPLOYMENT, INGEST_POOL, Kind, REGION_STACK, SCALED_OBJECT};
use meridian_operator::metrics::Metrics;
use meridian_operator::reconcile::{Outcome, Pass};
use meridian_operator::region::identity::Identity;
use meridian_operator::region::ingest::{PoolError, Pools};
use meridian_operator::region::kafka::Reach;
use meridian_operator::region::stack::validate::Images;
use meridian_operator::watch::{OnChange, Selection, follow};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn keda() -> CustomResourceDefinition {
    let path = std::env::var("MERIDIAN_TEST_KEDA_SCALED_OBJECT")
        .expect("MERIDIAN_TEST_KEDA_SCALED_OBJECT is not set: run `cargo xtask parts apiserver`");
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A region that is laid down, with one pool of it.
struct World {
    bed: Bed,
    pools: Pools,
    metrics: Metrics,
    pool: String,
}

impl World {
    async fn with(driver: &str) -> Self {
        let client = bed::client().await;
        install_custom_resources(&client).await;
        install(&client, &[keda()]).await;
        let world = Self::on(client, driver).await;
        until("KEDA's definition is seen", || async {
            world.bed.cache.is_synced(&[SCALED_OBJECT])
        })
        .await;
        world
    }

    async fn on(client: Client, driver: &str) -> Self {
        let region = fresh_region();
        let bed = Bed::beside(client.clone(), region.clone()).await;
        bed.put(region_stack(&region, 1, 1)).await;
        bed.seen(&bed.key(REGION_STACK, &region)).await;
        bed.pass().await.unwrap();
        bed.place(1).await;
        until("migrations are done", || async {
            bed.pass().await.unwrap();
            bed.all_pods_are_fine().await;
            bed.condition("MigrationsComplete").await == "True"
        })
        .await;
        let quiet: OnChange = Arc::new(|_, _| {});
        let optional = Selection::managed(SCALED_OBJECT).optional();
        tokio::spawn(follow(client.clone(), optional, bed.cache.clone(), quiet));
        samples::make().await;
        let metrics = Metrics::default();
        let applier = Applier::new(client.clone(), bed.cache.clone(), Leadership::alone(), metrics.clone());
        let images = Images {
            meridian: "meridian:1".into(),
            postgres: "postgres:17".into(),
            kafka: "kafka:4.1".into(),
        };
        let events = Events::new(client, "test", "test", metrics.clone());
        let folder = std::env::temp_dir().join(&region);
        let reach = Reach::new(Identity::below(&folder).unwrap(), Some(samples::broker()));
        let pools = Pools::new(applier, events, images, reach);
        let world = Self {
            pool: format!("p-{region}"),
            bed,
            pools,
            metrics,
        };
        world.ask(|spec| spec["scaling"]["driver"] = json!(driver)).await;
        world
    }

    /// Changes what the pool asks for: two writers of at most four, unless it says otherwise.
    async fn ask(&self, change: impl FnOnce(&mut Value)) {
        let mut spec = match self.bed.get(INGEST_POOL, &self.pool).await {
            Some(pool) => pool.data["spec"].clone(),
            None => json!({"region": self.bed.region, "partitions": 6, "scaling": {"min": 2, "max": 4,
                "stabilization": {"scaleUpSeconds": 0, "scaleDownSeconds": 0}}}),
        };
        change(&mut spec);
        let pool = json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "IngestPool",
            "metadata": {"name": self.pool}, "spec": spec});
        self.bed.put(pool).await;
        self.bed.seen(&self.bed.key(INGEST_POOL, &self.pool)).await;
    }

    async fn driven_by(&self, driver: &str) {
        self.ask(|spec| spec["scaling"]["driver"] = json!(driver)).await;
    }

    fn writers(&self) -> String {
        format!("ingest-{}", self.pool)
    }

    /// A pass that knows of everything that was written before.
    async fn pass(&self) -> Pass {
        for kind in [DEPLOYMENT, AUTOSCALER] {
            self.bed.seen(&self.bed.key(kind, &self.writers())).await;
        }
        if self.bed.cache.is_synced(&[SCALED_OBJECT]) {
            self.bed.seen(&self.bed.key(SCALED_OBJECT, &self.writers())).await;
        }
        self.bed.seen(&self.bed.key(INGEST_POOL, &self.pool)).await;
        let began = Instant::now();
        loop {
            match self.pools.clone().reconcile(self.pool.clone()).await {
                // A broker that has just started does not know its groups yet; a controller tries again.
                Err(PoolError::Look(_)) if began.elapsed() < Duration::from_secs(30) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                pass => return pass.unwrap(),
            }
        }
    }

    async fn told(&self, kind: Kind) -> Option<DynamicObject> {
        self.bed.get(kind, &self.writers()).await
    }

    async fn replicas(&self) -> u64 {
        let writers = self.bed.get(DEPLOYMENT, &self.writers()).await.unwrap();
        writers.data["spec"]["replicas"].as_u64().unwrap()
    }

    /// Sets them as somebody would by hand.
    async fn set_replicas(&self, replicas: u32) {
        let key = self.bed.key(DEPLOYMENT, &self.writers());
        let patch = json!({"spec": {"replicas": replicas}});
        let api = self.bed.api(&key);
        api.patch_scale(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
    }

    async fn condition(&self, kind: &str) -> (String, String, String) {
        let pool = self.bed.get(INGEST_POOL, &self.pool).await.unwrap();
        let conditions = pool.data["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = conditions.into_iter().find(|one| one["type"] == kind).unwrap();
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    async fn desired(&self) -> Option<u64> {
        let pool = self.bed.get(INGEST_POOL, &self.pool).await.unwrap();
        pool.data["status"]["desired"].as_u64()
    }

    /// How often replicas were written by the region's operator.
    fn scaled(&self) -> usize {
        let text = self.metrics.render();
        let scales = text.lines().filter(|line| line.contains("verb=\"scale\""));
        scales
            .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
            .sum()
    }

    async fn finalizer(&self, kind: Kind, finalizers: Value) {
        let key = self.bed.key(kind, &self.writers());
        let patch = json!({"metadata": {"finalizers": finalizers}});
        let api = self.bed.api(&key);
        api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
    }

    /// Passes until one of them has found it so.
    async fn until<F: Future<Output = bool>>(&self, what: &str, look: impl Fn() -> F) {
        until(what, || async {
            self.pass().await;
            look().await
        })
        .await;
    }
}

fn text(object: &DynamicObject, pointer: &str) -> String {
    let value = object.data.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_operator_scales_what_it_drives_itself() {
    let world = World::with("Direct").await;
    world.pass().await;
    assert_eq!((world.replicas().await, world.scaled()), (2, 1));
    assert_eq!(world.condition("ScalingActive").await.1, "Direct");
}

#[tokio::test]
async fn an_autoscaler_is_told_once_and_the_operator_leaves_replicas_alone() {
    let world = World::with("HPA").await;
    world.pass().await;
    let told = world.told(AUTOSCALER).await.unwrap();
    assert_eq!(
        text(&told, "/spec/metrics/0/external/metric/name"),
        format!("ingest-desired-{}", world.pool)
    );
    assert_eq!(text(&told, "/spec/metrics/0/external/target/averageValue"), "1");
    // Kubernetes' own controller does it: the minimum needs no metric.
    world
        .until("the autoscaler has scaled", || async { world.replicas().await == 2 })
        .await;
    assert_eq!(world.scaled(), 0);

    // It goes on saying of itself what it does, and is answered with nothing.
    until("a pass writes nothing", || async {
        let writes = world.metrics.writes();
        world.pass().await.outcome == Outcome::Steady && world.metrics.writes() == writes
    })
    .await;
}

#[tokio::test]
async fn an_autoscaler_wakes_writers_that_were_scaled_to_zero_before() {
    let world = World::with("Direct").await;
    world.ask(|spec| spec["scaling"]["min"] = json!(0)).await;
    world.pass().await;
    world.set_replicas(0).await;
    world
        .ask(|spec| spec["scaling"] = json!({"driver": "HPA", "min": 1, "max": 4}))
        .await;
    world.pass().await;
    assert_eq!(world.replicas().await, 1);
    assert!(world.told(AUTOSCALER).await.is_some());
}

#[tokio::test]
async fn a_former_driver_goes_first_and_nobody_scales_until_it_is_gone() {
    let world = World::with("HPA").await;
    world.pass().await;
    world
        .until("the autoscaler has scaled", || async { world.replicas().await == 2 })
        .await;
    world.finalizer(AUTOSCALER, json!(["test/held"])).await;
    world.driven_by("Direct").await;
    world.ask(|spec| spec["scaling"]["min"] = json!(3)).await;
    for _ in 0..3 {
        world.pass().await;
        assert_eq!(world.condition("ScalingActive").await.1, "HandingOver");
        assert_eq!((world.replicas().await, world.scaled()), (2, 0));
    }
    assert!(
        world
            .told(AUTOSCALER)
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some()
    );

    world.finalizer(AUTOSCALER, json!([])).await;
    world
        .until("the operator scales", || async { world.replicas().await == 3 })
        .await;
    assert!(world.told(AUTOSCALER).await.is_none());
    assert_eq!(world.scaled(), 1);
}

#[tokio::test]
async fn keda_is_told_and_what_it_made_is_waited_for_when_it_is_to_scale_no_more() {
    let world = World::with("KEDA").await;
    world.pass().await;
    let told = world.told(SCALED_OBJECT).await.unwrap();
    let url = text(&told, "/spec/triggers/0/metadata/url");
    assert!(url.ends_with(&format!("/v1/pools/{}/desired", world.pool)), "{url}");
    assert!(world.told(AUTOSCALER).await.is_none());
    assert_eq!(world.scaled(), 0);
    world.pass().await;
    assert_eq!(
        world.told(SCALED_OBJECT).await.unwrap().resource_version(),
        told.resource_version()
    );

    // As KEDA does, which copies labels unless it is told not to.
    let made = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": format!("keda-hpa-{}", world.writers()), "namespace": world.bed.namespace, "labels": told.labels(),
            "finalizers": ["test/held"],
            "ownerReferences": [{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": told.name_any(),
                "uid": told.uid(), "controller": true, "blockOwnerDeletion": true}]},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": world.writers()},
            "minReplicas": 2, "maxReplicas": 4,
            "metrics": [{"type": "External", "external": {"metric": {"name": "s0"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]}});
    let made = world.bed.put(made).await.name_any();
    world
        .until("what KEDA made has scaled", || async { world.replicas().await == 2 })
        .await;
    assert!(
        world.bed.get(AUTOSCALER, &made).await.is_some(),
        "it is not taken for ours"
    );

    world.driven_by("Direct").await;
    world.ask(|spec| spec["scaling"]["min"] = json!(3)).await;
    world
        .until("the ScaledObject is gone", || async {
            world.told(SCALED_OBJECT).await.is_none()
        })
        .await;
    world
        .until("it waits for what KEDA made", || async {
            world.condition("ScalingActive").await.2.contains(&made)
        })
        .await;
    assert_eq!((world.replicas().await, world.scaled()), (2, 0));
    let key = world.bed.key(AUTOSCALER, &made);
    let free = json!({"metadata": {"finalizers": []}});
    let api = world.bed.api(&key);
    api.patch(&made, &PatchParams::default(), &Patch::Merge(&free))
        .await
        .unwrap();
    world
        .until("the operator scales", || async { world.replicas().await == 3 })
        .await;
}

#[tokio::test]
async fn what_somebody_else_told_to_scale_the_writers_is_named_and_neither_removed_nor_fought() {
    let world = World::with("Direct").await;
    world.pass().await;
    let by_hand = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "by-hand", "namespace": world.bed.namespace},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": world.writers()},
            "minReplicas": 4, "maxReplicas": 4,
            "metrics": [{"type": "External", "external": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]}});
    world.bed.put(by_hand).await;
    until("the other autoscaler has scaled", || async {
        world.replicas().await == 4
    })
    .await;
    let before = world.scaled();
    world.pass().await;
    let (status, reason, message) = world.condition("Stalled").await;
    assert_eq!((status.as_str(), reason.as_str()), ("True", "ScaledByAnother"));
    assert!(message.contains("by-hand"), "{message}");
    assert_eq!((world.replicas().await, world.scaled()), (4, before));

    // Nor is another driver told beside it.
    world.driven_by("HPA").await;
    world.pass().await;
    assert!(world.told(AUTOSCALER).await.is_none());
    assert!(world.bed.get(AUTOSCALER, "by-hand").await.is_some());
}

#[tokio::test]
async fn without_keda_a_pool_is_held_with_its_writers_until_keda_is_there() {
    let client = bed::client_of(&bed::kubeconfig("MERIDIAN_TEST_MEMBER_KUBECONFIG")).await;
    install_custom_resources(&client).await;
    let world = World::on(client.clone(), "Direct").await;
    world.pass().await;
    assert_eq!(world.replicas().await, 2);
    world.driven_by("KEDA").await;
    world.ask(|spec| spec["scaling"]["min"] = json!(3)).await;
    world
        .until("the minimum is desired", || async { world.desired().await == Some(3) })
        .await;
    let (status, reason, message) = world.condition("Stalled").await;
    assert_eq!((status.as_str(), reason.as_str()), ("True", "DriverMissing"));
    assert!(message.contains("install KEDA"), "{message}");
    let (held, writes) = (world.replicas().await, world.metrics.writes());
    world.pass().await;
    assert_eq!(
        (held, world.metrics.writes()),
        (2, writes),
        "what is held writes nothing"
    );
    assert_eq!(
        world.condition("Saturated").await.0,
        "False",
        "the backlog is still looked at"
    );

    install(&client, &[keda()]).await;
    world
        .until("KEDA is told", || async {
            world.bed.cache.is_synced(&[SCALED_OBJECT]) && world.told(SCALED_OBJECT).await.is_some()
        })
        .await;
    assert_eq!(world.condition("Stalled").await.0, "False");

    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    definitions
        .delete("scaledobjects.keda.sh", &DeleteParams::default())
        .await
        .unwrap();
    until("the definition is gone", || async {
        !world.bed.cache.is_synced(&[SCALED_OBJECT])
    })
    .await;
    world.pass().await;
    assert_eq!(world.condition("ScalingActive").await.1, "DriverMissing");
    assert_eq!(world.replicas().await, 2);
}

#[tokio::test]
async fn a_paused_pool_keeps_its_writers_as_they_are_and_is_still_looked_at() {
    let world = World::with("HPA").await;
    world.pass().await;
    world
        .until("the autoscaler has scaled", || async { world.replicas().await == 2 })
        .await;
    let writers = world.bed.get(DEPLOYMENT, &world.writers()).await.unwrap();
    world.ask(|spec| spec["paused"] = json!(true)).await;
    world
        .ask(|spec| {
            spec["scaling"]["min"] = json!(3);
            spec["resources"] = json!({"requests": {"cpu": "100m"}});
        })
        .await;
    world
        .until("nobody is told to scale", || async {
            world.told(AUTOSCALER).await.is_none()
        })
        .await;
    for driver in ["Direct", "KEDA"] {
        world.driven_by(driver).await;
        world.pass().await;
        assert!(world.told(SCALED_OBJECT).await.is_none());
    }
    world
        .until("the minimum is desired", || async { world.desired().await == Some(3) })
        .await;
    let after = world.bed.get(DEPLOYMENT, &world.writers()).await.unwrap();
    assert_eq!(after.data["spec"], writers.data["spec"]);
    assert_eq!(world.scaled(), 0);
    assert_eq!(world.condition("Paused").await.0, "True");
    let (ready, _, message) = world.condition("Ready").await;
    assert_eq!((ready.as_str(), message.starts_with("paused")), ("False", true));
    world
        .ask(|spec| {
            spec["paused"] = json!(false);
            spec["scaling"]["driver"] = json!("Direct");
        })
        .await;
    world
        .until("it goes on", || async { world.replicas().await == 3 })
        .await;
    assert_eq!(world.condition("Paused").await.0, "False");
}

#[tokio::test]
async fn a_pool_that_is_deleted_takes_its_driver_with_it_also_while_it_is_paused() {
    for (driver, kind) in [("HPA", AUTOSCALER), ("KEDA", SCALED_OBJECT)] {
        let world = World::with(driver).await;
        world.pass().await;
        assert!(world.told(kind).await.is_some());
        world.bed.seen(&world.bed.key(kind, &world.writers())).await;
        world.ask(|spec| spec["paused"] = json!(true)).await;
        let key = world.bed.key(INGEST_POOL, &world.pool);
        world
            .bed
            .api(&key)
            .delete(&world.pool, &DeleteParams::default())
            .await
            .unwrap();
        world.bed.seen(&key).await;
        assert_eq!(world.pass().await.outcome, Outcome::Gone);
        assert!(world.told(kind).await.is_none());
        until("the writers are gone", || async {
            world.bed.get(DEPLOYMENT, &world.writers()).await.is_none()
        })
        .await;
    }
}
