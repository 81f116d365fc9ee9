//! The webhook's server: a certificate of its own making, kept in a Secret so that all replicas show the same one, and the
//! CA of it written into the webhook's configuration.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::admission;
use crate::apply::Purpose;

/// The Service in front of the webhook, which is the name in its certificate.
const SERVICE: &str = "meridian-webhook";
/// Where the certificate is kept, in the operator's namespace.
const SECRET: &str = "meridian-webhook-tls";
/// The ValidatingWebhookConfiguration of the chart, and the webhook in it.
const CONFIGURATION: &str = "meridian";
const WEBHOOK: &str = "policy.meridian.sh";
/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// How often the configuration is looked at: a chart upgrade writes it anew without the CA.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The same while the API server does not trust this replica yet.
const LOOK_AT_FIRST: Duration = Duration::from_millis(500);

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
    /// The certificate could not be made or read.
    #[error("the webhook's certificate: {0}")]
    Certificate(String),
    /// The port could not be opened.
    #[error("the webhook's port: {0}")]
    Listen(#[from] io::Error),
}

/// Certificate, key and CA, PEM.
struct Identity {
    certificate: String,
    key: String,
    ca: String,
}

/// Serves reviews until shutdown.
///
/// # Errors
/// When the certificate or the port cannot be had.
pub async fn serve(hub: Arc<Hub>, listen: SocketAddr, shutdown: CancellationToken) -> Result<(), WebhookError> {
    let identity = identity(&hub).await?;
    let acceptor = acceptor(&identity)?;
    let listener = TlsListener {
        tcp: TcpListener::bind(listen).await?,
        acceptor,
        handshakes: JoinSet::new(),
    };
    let router = Router::new().route("/validate", post(validate)).with_state(hub.clone());
    let announcing = announce(&hub, &identity.ca);
    tokio::select! {
        served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()) => Ok(served?),
        never = announcing => match never {},
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
    let answer = match quick {
        Some(answer) if answer.allowed => answer,
        _ => match hub.fresh_source().await {
            Ok(source) => admission::answer(&request, &source, now),
            Err(error) => {
                AdmissionResponse::from(&request).deny(format!("policy-stale: the policy cannot be read: {error}"))
            }
        },
    };
    if !answer.allowed {
        tracing::info!(kind = %request.kind.kind, resource = %request.name, "refused at admission");
    }
    Json(answer.into_review())
}

async fn identity(hub: &Hub) -> Result<Identity, WebhookError> {
    let api: Api<Secret> = Api::namespaced(hub.applier.client().clone(), &hub.namespace);
    let failed = |verb| {
        move |source| WebhookError::Api {
            what: "Secret",
            verb,
            source: Box::new(source),
        }
    };
    if let Some(identity) = api
        .get_opt(SECRET)
        .await
        .map_err(failed("read"))?
        .as_ref()
        .and_then(read)
    {
        return Ok(identity);
    }
    let made = issue(&hub.namespace).map_err(|error| WebhookError::Certificate(error.to_string()))?;
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": SECRET, "namespace": hub.namespace, "labels": {"app.kubernetes.io/part-of": "meridian"}},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": made.ca},
    }))
    .map_err(|error| WebhookError::Certificate(error.to_string()))?;
    match api.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(made),
        // Another replica was first: its certificate is the one.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let stored = api.get(SECRET).await.map_err(failed("read"))?;
            read(&stored).ok_or_else(|| {
                WebhookError::Certificate(format!("Secret {SECRET} lacks tls.crt, tls.key or ca.crt; delete it"))
            })
        }
        Err(error) => Err(failed("written")(error)),
    }
}

fn read(secret: &Secret) -> Option<Identity> {
    let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    Some(Identity {
        certificate: text("tls.crt")?,
        key: text("tls.key")?,
        ca: text("ca.crt")?,
    })
}

fn issue(namespace: &str) -> Result<Identity, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca.distinguished_name.push(DnType::CommonName, "meridian webhook");
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec![
        format!("{SERVICE}.{namespace}.svc"),
        format!("{SERVICE}.{namespace}.svc.cluster.local"),
    ])?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Identity {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        ca: ca_certificate.pem(),
    })
}

fn acceptor(identity: &Identity) -> Result<TlsAcceptor, WebhookError> {
    let wrong = |error: &dyn std::fmt::Display| WebhookError::Certificate(error.to_string());
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(&error))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|error| wrong(&error))?;
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Keeps the CA in the webhook's configuration. A configuration that somebody deleted is not made anew: the chart's is the
/// only one, and the controllers refuse without it too.
async fn announce(hub: &Hub, ca: &str) -> std::convert::Infallible {
    let bundle = BASE64.encode(ca);
    let mut pause = LOOK_AT_FIRST;
    loop {
        match announce_once(hub, &bundle).await {
            Ok(true) => {
                hub.readiness.open("webhook");
                pause = LOOK_EVERY;
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(error = %error, "the webhook's CA is not announced yet"),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Whether the API server will trust this replica's certificate, or there is nothing to be trusted by.
async fn announce_once(hub: &Hub, bundle: &str) -> Result<bool, WebhookError> {
    let resource = kube::api::ApiResource {
        group: "admissionregistration.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "admissionregistration.k8s.io/v1".to_owned(),
        kind: "ValidatingWebhookConfiguration".to_owned(),
        plural: "validatingwebhookconfigurations".to_owned(),
    };
    let api: Api<DynamicObject> = Api::all_with(hub.applier.client().clone(), &resource);
    let failed = |verb| {
        move |source| WebhookError::Api {
            what: "configuration",
            verb,
            source: Box::new(source),
        }
    };
    let Some(current) = api.get_opt(CONFIGURATION).await.map_err(failed("read"))? else {
        return Ok(true);
    };
    let webhook = current.data["webhooks"]
        .as_array()
        .and_then(|all| all.iter().find(|webhook| webhook["name"] == WEBHOOK));
    if webhook.is_none_or(|webhook| webhook["clientConfig"]["caBundle"] == *bundle) {
        return Ok(true);
    }
    if !hub.leadership.may_write() {
        return Ok(false);
    }
    // A strategic merge finds the webhook by its name and leaves everything else in it to the chart.
    let patch: Value = json!({"webhooks": [{"name": WEBHOOK, "clientConfig": {"caBundle": bundle}}]});
    let params = PatchParams {
        field_manager: Some(Purpose::HubAdmission.manager().to_owned()),
        ..PatchParams::default()
    };
    api.patch(CONFIGURATION, &params, &Patch::Strategic(&patch))
        .await
        .map_err(failed("written"))?;
    tracing::info!("the webhook's CA is announced");
    Ok(true)
}

/// Accepts connections and shakes hands beside each other, so that one slow client holds up nobody.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

/// Connections that shake hands at the same time, at most.
const HANDSHAKES: usize = 64;

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                accepted = self.tcp.accept(), if self.handshakes.len() < HANDSHAKES => {
                    let Ok((stream, peer)) = accepted else {
                        // Out of file descriptors, or a client that left at once: neither is a reason to stop listening.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    };
                    let handshake = self.acceptor.accept(stream);
                    self.handshakes.spawn(async move {
                        let done = tokio::time::timeout(HANDSHAKE, handshake).await.ok()?.ok()?;
                        Some((done, peer))
                    });
                }
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
