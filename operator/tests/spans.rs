//! What a collector of traces is sent by both roles, on real API servers: the hub's and the region's spans of one change name
//! each other, they say nothing that is not on the list, and nobody waits for the collector
//! (`cargo xtask parts apiserver member -- cargo test -p meridian-operator`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on says so by panicking; the times are to be read"
)]

mod bed;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use bed::hubs::{SYSTEM, World};
use bed::until;
use meridian_kit::log;
use meridian_kit::testing::free_address;
use meridian_operator::manifest::FITNESS_REGION;
use meridian_operator::region::stack::data_plane::Operators;
use meridian_operator::region::stack::validate::{Images, NodePorts};
use meridian_operator::region::{RegionArgs, run_with};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Said;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long an export may take: a pass that waited for one that gets no answer would take as long.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes what is exported, until it is told to answer no more.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    resources: Arc<Mutex<BTreeSet<String>>>,
    silent: Arc<AtomicBool>,
}

impl Collector {
    /// With its address.
    async fn start() -> (Self, String) {
        let (collector, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/v1/traces", post(take))
            .with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (collector, url)
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn until_there(&self, what: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        let found = || self.spans().into_iter().find(|span| wanted(span));
        until(what, || async { found().is_some() }).await;
        found().unwrap()
    }
}

async fn take(State(collector): State<Collector>, body: Bytes) {
    if collector.silent.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.unwrap_or_default().attributes;
        let mut resources = collector.resources.lock().unwrap_or_else(PoisonError::into_inner);
        resources.extend(attributes.into_iter().map(|attribute| attribute.key));
        let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
        collector
            .spans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(spans);
    }
}

/// What a span says under a name.
fn said(span: &Span, name: &str) -> Value {
    let mut attributes = span.attributes.iter();
    let found = attributes.find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Said::StringValue(text)) => json!(text),
        Some(Said::IntValue(number)) => json!(number),
        _ => Value::Null,
    }
}

/// Trace and span that a stack's annotation names.
fn carried(stack: &Value) -> (Vec<u8>, Vec<u8>) {
    let text = stack["metadata"]["annotations"]["meridian.sh/traceparent"]
        .as_str()
        .unwrap_or_default();
    let mut parts = text.split('-').map(|part| hex::decode(part).unwrap_or_default());
    (parts.nth(1).unwrap_or_default(), parts.next().unwrap_or_default())
}

async fn run_training(world: &World, replicas: u32) {
    let spec = json!({"spec": {"services": {"training": {"replicas": replicas}}}});
    world.hub.patch(FITNESS_REGION, "eu", &spec).await;
    until("the change is in the member", || async {
        world.stack("eu").await["spec"]["services"]["training"]["replicas"] == replicas
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_is_followed_from_the_hub_into_its_region_and_no_collector_is_waited_for() {
    let (collector, url) = Collector::start().await;
    log::install("operator", "", Some(&url)).unwrap();
    let world = World::settled().await;
    world.hand_over_the_regions().await;
    let (address, stop) = (free_address(), CancellationToken::new());
    let scratch = std::env::temp_dir().join(format!("meridian-traces-{}", std::process::id()));
    let args = RegionArgs {
        namespace: SYSTEM.to_owned(),
        identity: "region-0".to_owned(),
        region: Some("eu".parse().unwrap()),
        images: Images {
            meridian: "meridian:1".into(),
            postgres: "postgres:17".into(),
            kafka: "kafka:4.1".into(),
        },
        operators: Operators::default(),
        node_ports: NodePorts::Allocated,
        feed_listen: Some(address),
        metrics_api_listen: None,
        admin_listen: "127.0.0.1:0".parse().unwrap(),
        scratch,
        brokers: None,
    };
    let region = tokio::spawn(run_with(world.member.clone(), args, stop.clone()));

    run_training(&world, 2).await;
    let stack = world.stack("eu").await;
    let (trace, span) = carried(&stack);
    let links_to_it = |seen: &Span| {
        let mut links = seen.links.iter();
        links.any(|link| link.trace_id == trace && link.span_id == span)
    };
    let write = collector
        .until_there("the hub's write", |seen| seen.span_id == span)
        .await;
    assert_eq!(
        (write.name.as_str(), said(&write, "kind")),
        ("apply", json!("RegionStack"))
    );
    let pass = collector
        .until_there("the hub's pass", |seen| seen.span_id == write.parent_span_id)
        .await;
    let hub = world.hub.get(FITNESS_REGION, "eu").await.unwrap();
    assert_eq!((pass.name.as_str(), &pass.trace_id), ("region", &trace));
    assert_eq!(said(&pass, "uid"), hub["metadata"]["uid"]);
    assert_eq!(said(&pass, "generation"), hub["metadata"]["generation"]);
    assert_eq!(said(&pass, "outcome"), "progressed");
    collector
        .until_there("the hub's plan", |seen| {
            seen.name == "plan" && seen.parent_span_id == pass.span_id
        })
        .await;
    let applied = collector.until_there("the region's pass", links_to_it).await;
    assert_eq!(
        (applied.name.as_str(), said(&applied, "uid")),
        ("stack", stack["metadata"]["uid"].clone())
    );
    assert_ne!(applied.trace_id, trace, "linked, and a trace of its own");
    let elsewhere = carried(&world.stack("us").await).0;
    assert!(
        elsewhere.len() == 16 && elsewhere != trace,
        "no id is known in two regions"
    );

    // A pass that changes nothing writes nothing, so what is carried stays. While regions still get to know each other there
    // may be something to write: then another pass is looked at.
    let mut unchanged = false;
    for touched in 0..20 {
        let (stack, before) = (world.stack("eu").await, collector.spans().len());
        let label = json!({"metadata": {"labels": {"touched": touched.to_string()}}});
        world.hub.patch(FITNESS_REGION, "eu", &label).await;
        until("another pass of the hub", || async {
            let spans = collector.spans();
            spans
                .iter()
                .skip(before)
                .any(|seen| seen.name == "region" && said(seen, "uid") == hub["metadata"]["uid"])
        })
        .await;
        let after = world.stack("eu").await;
        unchanged = after["metadata"]["generation"] == stack["metadata"]["generation"];
        if unchanged {
            assert_eq!(carried(&after), carried(&stack));
            break;
        }
    }
    assert!(unchanged, "every pass wrote something");

    // Only what is on the list, whoever looks.
    let allowed: BTreeSet<&str> = log::ALLOWED.iter().chain(log::OF_SPANS).copied().collect();
    for seen in collector.spans() {
        for attribute in seen
            .attributes
            .iter()
            .chain(seen.links.iter().flat_map(|link| &link.attributes))
        {
            assert!(allowed.contains(attribute.key.as_str()), "{}: {attribute:?}", seen.name);
        }
        assert!(seen.events.is_empty() && seen.status.is_none_or(|status| status.message.is_empty()));
    }
    assert_eq!(
        *collector.resources.lock().unwrap(),
        BTreeSet::from(["service.name".to_owned()])
    );

    // A collector that takes everything and answers nothing holds up nobody.
    collector.silent.store(true, Ordering::SeqCst);
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let began = Instant::now();
        run_training(&world, 3 + round % 2).await;
        slowest = slowest.max(began.elapsed());
    }
    eprintln!("with a silent collector: the slowest of 20 changes was in the member after {slowest:.1?}");
    assert!(slowest < EXPORT_TIMEOUT, "{slowest:?}");

    stop.cancel();
    region.await.unwrap().unwrap();
    world.end().await;
}
