//! The aggregated API external.metrics.k8s.io/v1beta1: of the pools that a HorizontalPodAutoscaler scales, how many writers
//! are desired. Nothing else is asked or answered here.
//!
//! | module | what it is for |
//! |---|---|
//! | [`front_proxy`] | whose requests are taken: the API server's, as it says of itself |
//! | [`announce`] | by which CA the API server verifies this one |
//!
//! Who may ask is decided by the API server, by RBAC, before it passes a request on; from anybody else none is taken.

mod announce;
mod front_proxy;

use super::identity::Identity;
use super::ingest::driver::metric_name;
use super::ingest::served::{Pools, Untold};
use super::ingest::validate::Driver;
use super::stack::validate::namespace;
use crate::apply::Applier;
use crate::listener::TlsListener;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use front_proxy::FrontProxy;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const GROUP_VERSION: &str = "external.metrics.k8s.io/v1beta1";

/// Serves until shutdown, as soon as there is a certificate for it.
///
/// # Errors
/// When the port cannot be had, or TLS not be set up.
pub async fn serve(
    applier: Applier,
    identity: Identity,
    pools: Pools,
    operator_namespace: String,
    listen: SocketAddr,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let Some(tls) = shutdown.run_until_cancelled(identity.tls()).await else {
        return Ok(());
    };
    let tls = tls.map_err(|error| error.to_string())?;
    let proxy = Arc::new(FrontProxy::default());
    let config = tls.server_config_for(proxy.clone());
    let mut config = config.map_err(|error| error.to_string())?;
    // The API server is spoken to by HTTP/1.1.
    config.alpn_protocols.clear();
    let bound = TlsListener::bind(listen, config).await;
    let listener = bound.map_err(|error| format!("{listen}: {error}"))?;
    let stop = shutdown.clone();
    let server = axum::serve(listener, router(pools)).with_graceful_shutdown(stop.cancelled_owned());
    let follows = proxy.follow(applier.client().clone());
    let announces = announce::keep(applier, tls.region().clone(), operator_namespace);
    tokio::select! {
        served = server => served.map_err(|error| error.to_string()),
        never = follows => match never {},
        never = announces => match never {},
        () = tls.watch(shutdown) => Ok(()),
    }
}

fn router(pools: Pools) -> Router {
    let root = format!("/apis/{GROUP_VERSION}");
    Router::new()
        .route(&root, get(|| async { Json(resources()) }))
        .route(&format!("{root}/namespaces/{{namespace}}/{{metric}}"), get(values))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "NotFound", "there is nothing at this address") })
        .with_state(pools)
}

/// What `kubectl api-resources` would list: metrics are asked for by name, and nobody needs to know those of others.
fn resources() -> Value {
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": []})
}

async fn values(
    State(pools): State<Pools>,
    Path((asked_in, metric)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    if selects(query.as_deref().unwrap_or_default()) {
        let message = "this metric has no labels to select by";
        return failure(StatusCode::BAD_REQUEST, "BadRequest", message);
    }
    let here = pools.region().is_some_and(|region| namespace(&region) == asked_in);
    let pool = metric.strip_prefix(&metric_name("")).filter(|_| here);
    match pool.map_or(Err(Untold::NotItsDriver), |pool| pools.desired(pool, Driver::Hpa)) {
        Ok(desired) => Json(list(&metric, desired, Timestamp::now())).into_response(),
        Err(Untold::NotItsDriver) => failure(StatusCode::NOT_FOUND, "NotFound", "no such metric in this namespace"),
        Err(Untold::NotObserved) => failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            "the pool's backlog is not seen; its writers stay as they are",
        ),
    }
}

/// Whether a query has a selector that selects anything less than everything.
fn selects(query: &str) -> bool {
    let mut selectors = query.split('&').filter_map(|part| part.split_once('='));
    selectors.any(|(name, value)| name.ends_with("Selector") && !value.is_empty())
}

fn list(metric: &str, desired: u32, now: Timestamp) -> Value {
    let seen = format!("{now:.0}");
    json!({"kind": "ExternalMetricValueList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": [
        {"metricName": metric, "metricLabels": {}, "timestamp": seen, "value": desired.to_string()},
    ]})
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16()});
    (code, Json(status)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_written_as_kubernetes_reads_it() {
        let list = list("ingest-desired-samples", 3, Timestamp::from_second(7).unwrap());
        assert_eq!(list["items"][0]["value"], "3");
        assert_eq!(list["items"][0]["timestamp"], "1970-01-01T00:00:07Z");
        assert_eq!(
            list["items"].as_array().map(Vec::len),
            Some(1),
            "they would be added up"
        );
    }

    #[test]
    fn only_a_selector_that_selects_everything_is_answered() {
        assert!(!selects("") && !selects("labelSelector=") && !selects("timeout=5s"));
        assert!(selects("labelSelector=pool%3Dsamples") && selects("a=b&fieldSelector=x"));
    }
}
