//! What the chart renders, as a real API server sees it, and whether what its alerts and dashboards ask for exists
//! (`cargo xtask parts apiserver member -- cargo test -p meridian-operator --test chart`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;
mod rendered;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, ValidationDirective};
use meridian_operator::metrics::{Metrics, Write};
use rendered::{SYSTEM, api_of, documents};
use serde_json::{Value, json};

/// Kinds of the Prometheus Operator: its definitions are not on the test's API server.
const ELSEWHERE: &str = "monitoring.coreos.com/";

/// What the API server would answer to this object, without keeping it: the whole of its schema, its validation and its
/// admission, with unknown and repeated fields refused.
async fn asked(client: &Client, object: &Value) -> Result<(), kube::Error> {
    let params = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("chart").force()
    };
    let name = object["metadata"]["name"].as_str().unwrap();
    api_of(client, object)
        .patch(name, &params, &Patch::Apply(object))
        .await
        .map(drop)
}

/// Where pods have to meet the strictest of the pod security standards.
async fn system_namespace(client: &Client) {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM, "labels": labels}});
    rendered::apply(client, &namespace).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM);
    bed::until("pods may be made", || async {
        accounts.get_opt("default").await.unwrap().is_some()
    })
    .await;
}

async fn planes() -> [(&'static str, Client); 2] {
    let hub = bed::client().await;
    let member = bed::client_of(&bed::kubeconfig("MERIDIAN_TEST_MEMBER_KUBECONFIG")).await;
    for client in [&hub, &member] {
        system_namespace(client).await;
    }
    [("hub", hub), ("region", member)]
}

fn of_kind(objects: &[Value], kind: &str, name: &str) -> Value {
    let found = objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}")).clone()
}

#[tokio::test]
async fn every_object_of_the_chart_is_accepted_by_the_api_servers_strict_schema() {
    for (role, client) in planes().await {
        let scaled = ["region-scaled", "region-scaled-operator", "region-scaled-network"].map(ToOwned::to_owned);
        let scaled = scaled.into_iter().filter(|_| role == "region");
        for rendering in [role.to_owned(), format!("{role}-monitored")].into_iter().chain(scaled) {
            let objects = documents(&rendering);
            let known = objects
                .iter()
                .filter(|object| !object["apiVersion"].as_str().unwrap().starts_with(ELSEWHERE));
            for object in known {
                if let Err(error) = asked(&client, object).await {
                    panic!(
                        "{rendering}: {} {}: {error}",
                        object["kind"], object["metadata"]["name"]
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn an_object_with_a_field_or_a_value_that_kubernetes_does_not_know_is_refused() {
    let [(_, client), _] = planes().await;
    let objects = documents("hub");
    let mut field = of_kind(&objects, "Deployment", "meridian-operator");
    field["spec"]["template"]["spec"]["priorityClass"] = json!("x");
    let mut value = of_kind(&objects, "NetworkPolicy", "meridian-operator");
    value["spec"]["ingress"][0]["ports"][0]["port"] = json!(70_000);
    let mut insecure = of_kind(&objects, "Pod", "meridian-operator-test");
    insecure["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    for (object, because) in [(field, "priorityClass"), (value, "port"), (insecure, "restricted")] {
        let error = asked(&client, &object).await.unwrap_err().to_string();
        assert!(error.contains(because), "{error}");
    }
}

#[test]
fn everything_that_selects_the_operators_pods_selects_them_and_not_the_pod_that_tests_them() {
    let selects = |selector: &Value, labels: &Value| {
        let selector = selector.as_object().unwrap();
        assert!(!selector.is_empty());
        selector.iter().all(|(label, value)| labels[label] == *value)
    };
    for role in ["hub", "region"] {
        let objects = documents(role);
        let pods =
            of_kind(&objects, "Deployment", "meridian-operator")["spec"]["template"]["metadata"]["labels"].clone();
        let test = of_kind(&objects, "Pod", "meridian-operator-test")["metadata"]["labels"].clone();
        let second = if role == "hub" {
            "meridian-webhook"
        } else {
            "region-operator"
        };
        for (kind, name, path) in [
            ("Deployment", "meridian-operator", "/spec/selector/matchLabels"),
            ("PodDisruptionBudget", "meridian-operator", "/spec/selector/matchLabels"),
            ("NetworkPolicy", "meridian-operator", "/spec/podSelector/matchLabels"),
            ("Service", "meridian-operator", "/spec/selector"),
            ("Service", second, "/spec/selector"),
        ] {
            let object = of_kind(&objects, kind, name);
            let selector = object.pointer(path).unwrap();
            assert!(selects(selector, &pods), "{role}: {kind} {name}");
            assert!(!selects(selector, &test), "{role}: {kind} {name}");
        }
    }
}

/// Names of series as Prometheus stores them: what the operator exposes, and what the services' sources register.
fn exposed() -> BTreeSet<String> {
    let metrics = Metrics::default();
    metrics.pass("region", "steady", Duration::from_millis(1));
    metrics.queue_depth("region", 1);
    let write = Write {
        kind: "Lease",
        verb: "apply",
        failed: false,
    };
    metrics.write(&write);
    metrics.member_reachable("eu", true);
    metrics.refused("no-edge");
    metrics.incident_open("eu.20261127t120000z", "eu", Some(jiff::Timestamp::UNIX_EPOCH));
    let text = metrics.render();
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let mut names: BTreeSet<String> = series
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../services")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(path).unwrap();
                let written = source.split('"').filter(|word| is_name(word));
                names.extend(written.map(str::to_owned));
            }
        }
    }
    names
}

fn is_name(word: &str) -> bool {
    let ours = word.starts_with("meridian_") || word.starts_with("process_");
    ours && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn exists(exposed: &BTreeSet<String>, name: &str) -> bool {
    let of_a_kind = ["_total", "_bucket", "_sum", "_count"];
    let base = of_a_kind.iter().find_map(|suffix| name.strip_suffix(suffix));
    // The operator's are known as they are exposed; of a service's, only the name that it registers.
    let registered = base.filter(|base| !base.starts_with("meridian_operator_"));
    exposed.contains(name) || registered.is_some_and(|base| exposed.contains(base))
}

/// Every expression in alerts and dashboards.
fn expressions(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let here = fields.get("expr").and_then(Value::as_str).map(str::to_owned);
            here.into_iter().chain(fields.values().flat_map(expressions)).collect()
        }
        Value::Array(items) => items.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn every_metric_that_alerts_and_dashboards_ask_for_exists() {
    let exposed = exposed();
    assert!(!exists(&exposed, "meridian_operator_leader_total") && !exists(&exposed, "meridian_made_up"));
    for role in ["hub", "region"] {
        let objects = documents(&format!("{role}-monitored"));
        let dashboard = of_kind(&objects, "ConfigMap", "meridian-operator-dashboard");
        let dashboard = dashboard["data"][format!("meridian-{role}.json")].as_str().unwrap();
        let dashboard: Value = serde_json::from_str(dashboard).unwrap();
        let rules = of_kind(&objects, "PrometheusRule", "meridian-operator");
        for (what, source, least) in [("dashboard", &dashboard, 7), ("rules", &rules, 8)] {
            let asked = expressions(source);
            assert!(asked.len() >= least, "{role}'s {what}: {asked:?}");
            for expression in asked {
                let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                let names: Vec<_> = words.filter(|word| is_name(word)).collect();
                assert!(!names.is_empty(), "{role}'s {what}: {expression}");
                for name in names {
                    assert!(
                        exists(&exposed, name),
                        "{role}'s {what} asks for {name}, which nobody exposes"
                    );
                }
            }
        }
    }
}

#[test]
fn every_alert_says_what_is_wrong_and_how_bad_it_is() {
    for role in ["hub", "region"] {
        let rules = of_kind(
            &documents(&format!("{role}-monitored")),
            "PrometheusRule",
            "meridian-operator",
        );
        let groups = rules["spec"]["groups"].as_array().unwrap();
        assert_eq!(groups.len(), 2);
        for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
            for path in ["/alert", "/annotations/summary", "/annotations/description"] {
                assert!(rule.pointer(path).is_some_and(Value::is_string), "{path} of {rule}");
            }
            let severity = rule["labels"]["severity"].as_str().unwrap();
            assert!(["critical", "warning", "info"].contains(&severity), "{rule}");
        }
    }
}
