//! A HorizontalPodAutoscaler asks a region's operator through a real API server, which verifies it and which it verifies
//! (`cargo xtask parts kafka apiserver -- cargo test -p meridian-operator --test region_metrics_api`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;
mod rendered;
mod samples;

use bed::{Bed, fresh_region, install_custom_resources, region_stack, until};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use meridian_kit::client::ServiceClient;
use meridian_kit::testing::free_address;
use meridian_kit::tls::{PeerId, Tls};
use meridian_operator::RunError;
use meridian_operator::manifest::{DEPLOYMENT, INGEST_POOL};
use meridian_operator::region::stack::data_plane::Operators;
use meridian_operator::region::stack::validate::{Images, NodePorts};
use meridian_operator::region::{RegionArgs, run_with};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rendered::{SYSTEM, documents};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const API: &str = "v1beta1.external.metrics.k8s.io";

/// A region that runs, whose operator serves metrics to the API server.
struct World {
    bed: Bed,
    pool: String,
    metrics: SocketAddr,
    scratch: PathBuf,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl World {
    async fn new() -> Self {
        let client = bed::client().await;
        install_custom_resources(&client).await;
        let region = fresh_region();
        let bed = Bed::beside(client.clone(), region.clone()).await;
        bed.make_namespace(SYSTEM).await;
        let (metrics, stop) = (free_address(), CancellationToken::new());
        samples::remove().await;
        samples::make().await;
        api_service(&client, metrics.port()).await;
        let scratch = std::env::temp_dir().join(format!("meridian-metrics-{region}"));
        let args = RegionArgs {
            namespace: SYSTEM.to_owned(),
            identity: "one".to_owned(),
            region: Some(region.parse().unwrap()),
            images: Images {
                meridian: "meridian:1".into(),
                postgres: "postgres:17".into(),
                kafka: "kafka:4.1".into(),
            },
            node_ports: NodePorts::Allocated,
            feed_listen: None,
            metrics_api_listen: Some(metrics),
            operators: Operators::default(),
            admin_listen: free_address(),
            scratch: scratch.join("operator"),
            brokers: Some(samples::broker()),
        };
        let running = tokio::spawn(run_with(client, args, stop.clone()));
        bed.put(region_stack(&region, 1, 1)).await;
        until("the region has a namespace", || async {
            bed.get(meridian_operator::manifest::NAMESPACE, &bed.namespace)
                .await
                .is_some()
        })
        .await;
        bed.place(1).await;
        let pool = format!("p-{region}");
        Self {
            bed,
            pool,
            metrics,
            scratch,
            stop,
            running,
        }
    }

    async fn ask(&self, driver: &str) {
        let scaling = json!({"driver": driver, "min": 1, "max": 4, "targetDrainSeconds": 1});
        self.bed
            .put(
                json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "IngestPool", "metadata": {"name": self.pool},
                "spec": {"region": self.bed.region, "partitions": 6, "scaling": scaling}}),
            )
            .await;
    }

    /// Until it is so, with a kubelet that says that every pod is fine.
    async fn until<F: Future<Output = bool>>(&self, what: &str, look: impl Fn() -> F) {
        until(what, || async {
            self.bed.all_pods_are_fine().await;
            look().await
        })
        .await;
    }

    async fn replicas(&self) -> u64 {
        let writers = self.bed.get(DEPLOYMENT, &format!("ingest-{}", self.pool)).await;
        writers.map_or(0, |writers| writers.data["spec"]["replicas"].as_u64().unwrap_or(0))
    }

    async fn status(&self) -> Value {
        let pool = self.bed.get(INGEST_POOL, &self.pool).await.unwrap();
        pool.data["status"].clone()
    }

    async fn metric(&self, namespace: &str, pool: &str, user: Option<&str>) -> Result<Value, u16> {
        let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/ingest-desired-{pool}");
        let mut request = http_get(&path);
        if let Some(user) = user {
            request.headers_mut().insert("Impersonate-User", user.parse().unwrap());
        }
        match self.bed.client.request::<Value>(request).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err(status.code),
            Err(error) => panic!("{error}"),
        }
    }

    /// Work that nobody does.
    fn produce(&self, records: usize) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", samples::broker());
        let producer: BaseProducer = config.create().unwrap();
        for record in 0..records {
            let record = record.to_string();
            producer
                .send(BaseRecord::to(samples::TOPIC).key(&record).payload("x"))
                .unwrap();
        }
        producer.flush(Duration::from_secs(10)).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

fn http_get(path: &str) -> axum::http::Request<Vec<u8>> {
    axum::http::Request::get(path).body(Vec::new()).unwrap()
}

fn services() -> kube::api::ApiResource {
    kube::api::ApiResource::from_gvk(&GroupVersionKind::gvk("apiregistration.k8s.io", "v1", "APIService"))
}

/// The chart's APIService, at the address where the test serves: no pod network leads to a process of this machine.
async fn api_service(client: &Client, port: u16) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "region-operator", "namespace": SYSTEM},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}});
    rendered::apply(client, &service).await;
    let mut api = documents("region-scaled")
        .into_iter()
        .find(|object| object["kind"] == "APIService")
        .unwrap();
    api["spec"]["service"]["port"] = json!(port);
    rendered::apply(client, &api).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autoscaler_scales_writers_to_what_the_operator_says_and_nobody_else_is_told() {
    let world = World::new().await;
    world.ask("HPA").await;
    let apis: Api<DynamicObject> = Api::all_with(world.bed.client.clone(), &services());
    world
        .until("the API server trusts the operator", || async {
            let conditions = apis.get(API).await.unwrap().data["status"]["conditions"].clone();
            let conditions = conditions.as_array().cloned().unwrap_or_default();
            conditions
                .iter()
                .any(|one| one["type"] == "Available" && one["status"] == "True")
        })
        .await;
    world
        .until("the backlog is seen", || async { world.status().await["desired"] == 1 })
        .await;
    world.produce(500);
    // Kubernetes' own controller asks, and writes the replicas.
    world
        .until("there are more writers than the least", || async {
            world.replicas().await > 1
        })
        .await;
    world
        .until("the metric is what is desired", || async {
            let desired = world.status().await["desired"].to_string();
            let told = world.metric(&world.bed.namespace, &world.pool, None).await;
            told.is_ok_and(|told| told["items"][0]["value"] == desired)
        })
        .await;
    world
        .until("the pool says that it is scaled", || async {
            let conditions = world.status().await["conditions"].clone();
            let conditions = conditions.as_array().cloned().unwrap_or_default();
            conditions.iter().any(|one| {
                one["type"] == "ScalingActive" && one["status"] == "True" && one["reason"] == "HorizontalPodAutoscaler"
            })
        })
        .await;

    // Another namespace's, another pool's, and whom the API server lets ask nothing.
    assert_eq!(world.metric("default", &world.pool, None).await, Err(404));
    assert_eq!(world.metric(&world.bed.namespace, "other", None).await, Err(404));
    assert_eq!(
        world.metric(&world.bed.namespace, &world.pool, Some("somebody")).await,
        Err(403)
    );
    is_refused_without_the_api_server(&world).await;

    // A CA that somebody has taken away is written again.
    let patch = json!({"spec": {"caBundle": null}});
    apis.patch(API, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    until("the CA is announced again", || async {
        apis.get(API).await.unwrap().data["spec"]["caBundle"].is_string()
    })
    .await;

    world.ask("Direct").await;
    until("the metric is no longer told", || async {
        world.metric(&world.bed.namespace, &world.pool, None).await == Err(404)
    })
    .await;
    world.stop.cancel();
    world.running.abort();
    // With an API that nobody serves, no namespace of the cluster is ever done with being deleted: nobody can list what is in it.
    apis.delete(API, &DeleteParams::default()).await.unwrap();
    samples::remove().await;
}

/// A service of the region has a certificate, which is not the API server's.
async fn is_refused_without_the_api_server(world: &World) {
    let secrets: Api<Secret> = Api::namespaced(world.bed.client.clone(), &world.bed.namespace);
    let data = secrets.get("tls-training").await.unwrap().data.unwrap();
    let dir = world.scratch.join("training");
    std::fs::create_dir_all(&dir).unwrap();
    for (file, content) in data {
        std::fs::write(dir.join(file), content.0).unwrap();
    }
    let region: meridian_policy::RegionName = world.bed.region.parse().unwrap();
    let tls = Tls::load(&dir, region.clone()).unwrap();
    let url = format!("https://{}", world.metrics);
    let service = ServiceClient::peer(&tls, &url, PeerId::new(region, "region-operator")).unwrap();
    let refused = service
        .get("/apis/external.metrics.k8s.io/v1beta1")
        .send()
        .await
        .unwrap_err();
    assert_eq!(refused.status(), None, "the handshake fails: {refused}");
}
