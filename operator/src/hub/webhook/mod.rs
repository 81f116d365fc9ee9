//! The webhook's server.
//!
//! | module | what it is for |
//! |---|---|
//! | [`certificates`] | what the Secret holds and which step comes next (pure) |
//! | [`rotation`] | every replica follows the Secret; the leader takes the steps and announces the CA |
//! | [`serving`] | whichever certificate is served now |

mod certificates;
mod rotation;
mod serving;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use jiff::Timestamp;
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::admission;
use crate::listener::TlsListener;
use serving::Serving;

/// The Service in front of the webhook, which is the name in its certificate.
const SERVICE: &str = "meridian-webhook";
/// Where the certificate is kept, in the operator's namespace.
const SECRET: &str = "meridian-webhook-tls";
/// The ValidatingWebhookConfiguration of the chart, and the webhook in it.
const CONFIGURATION: &str = "meridian";
const WEBHOOK: &str = "policy.meridian.sh";
/// What readiness waits for.
const GATE: &str = "webhook";

/// Why the webhook cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The Secret or the configuration could not be read or written.
    #[error("the webhook's {what} could not be {verb}: {source}")]
    Api {
        /// Secret or configuration.
        what: &'static str,
        /// Read or written.
        verb: &'static str,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("the webhook's {what} could not be {verb} in time")]
    Timeout {
        /// Secret or configuration.
        what: &'static str,
        /// Read or written.
        verb: &'static str,
    },
    /// The Secret was changed by somebody else, or damaged.
    #[error(
        "Secret {namespace}/{SECRET} cannot be used: {cause}. Restore it, or delete it \
         (kubectl -n {namespace} delete secret {SECRET}) to have a new one made"
    )]
    Damaged {
        /// The operator's.
        namespace: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The library refused.
    #[error("the webhook's certificate cannot be made: {0}")]
    Make(String),
    /// The port could not be opened.
    #[error("the webhook's port: {0}")]
    Listen(#[from] io::Error),
}

/// Serves reviews until shutdown.
///
/// # Errors
/// When the port cannot be had, or is lost.
pub async fn serve(hub: Arc<Hub>, listen: SocketAddr, shutdown: CancellationToken) -> Result<(), WebhookError> {
    let _closes = hub.readiness.closes_at_the_end(GATE);
    let serving = Arc::new(Serving::default());
    let listener = TlsListener::bind(listen, serving::config(serving.clone())).await?;
    let router = Router::new().route("/validate", post(validate)).with_state(hub.clone());
    tokio::select! {
        served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()) => Ok(served?),
        never = rotation::keep(hub, serving) => match never {},
    }
}

async fn validate(
    State(hub): State<Arc<Hub>>,
    Json(review): Json<AdmissionReview<DynamicObject>>,
) -> Json<AdmissionReview<DynamicObject>> {
    let request: AdmissionRequest<DynamicObject> = match review.try_into() {
        Ok(request) => request,
        Err(error) => {
            return Json(AdmissionResponse::invalid(format!("not an admission review: {error}")).into_review());
        }
    };
    // The caches may lag behind what was applied a moment ago, which would refuse a tenant whose region is just there.
    // So a refusal is given only on a fresh look.
    let now = Timestamp::now();
    let quick = hub
        .source_for_review()
        .map(|source| admission::answer(&request, &source, now));
    let (answer, rules) = match quick {
        Some((answer, rules)) if answer.allowed => (answer, rules),
        _ => match hub.fresh_source().await {
            Ok(source) => admission::answer(&request, &source, now),
            Err(error) => {
                let stale = format!("policy-stale: the policy cannot be read: {error}");
                (AdmissionResponse::from(&request).deny(stale), BTreeSet::new())
            }
        },
    };
    if !answer.allowed {
        for rule in rules {
            hub.metrics.refused(rule.as_str());
        }
        tracing::info!(kind = %request.kind.kind, resource = %request.name, "refused at admission");
    }
    Json(answer.into_review())
}
