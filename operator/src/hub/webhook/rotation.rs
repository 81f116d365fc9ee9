//! Follows the Secret, announces what is trusted, and replaces the certificate before it expires, without a gap.
//!
//! Nobody can ask an API server what it trusts at this moment, or a replica what it shows. So each step stands for a
//! while before the next ([`PAUSE_ANNOTATION`]): API servers see the configuration by a watch, in less; a replica that
//! could not read the Secret for half of that time says that it is not ready, and is asked no more.
//!
//! The time is counted on the leader's own clock from when it saw the step; a new leader counts anew.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;
use tokio::time::Instant;

use super::certificates::{Issued, Step, Stored};
use super::serving::Serving;
use super::{CONFIGURATION, GATE, SECRET, WEBHOOK, WebhookError};
use crate::apply::{Purpose, REQUEST_TIMEOUT, merge_by};
use crate::hub::Hub;
use crate::rotation::{PAUSE_ANNOTATION, ROTATE_ANNOTATION, blocks, pause};

/// How often Secret and configuration are looked at: a chart upgrade writes the configuration anew without the CA.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The same while the API server does not trust this replica yet.
const LOOK_AT_FIRST: Duration = Duration::from_millis(500);

/// Keeps what is served and what is trusted in step with the Secret.
pub(super) async fn keep(hub: Arc<Hub>, serving: Arc<Serving>) -> Infallible {
    let secrets: Api<Secret> = Api::namespaced(hub.applier.client().clone(), &hub.namespace);
    let only_this = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
    let mut changes = pin!(watcher(secrets.clone(), only_this).default_backoff());
    let mut rotation = Rotation {
        hub,
        secrets,
        serving,
        known: None,
        stands: None,
        pause: pause(None, SECRET),
        read_at: Instant::now(),
        trusted: false,
    };
    loop {
        if let Err(error) = rotation.look().await {
            rotation.doubt(&error);
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(rotation.until_the_next_look()) => {}
            _ = changes.next() => {}
        }
    }
}

struct Rotation {
    hub: Arc<Hub>,
    secrets: Api<Secret>,
    serving: Arc<Serving>,
    /// What the Secret held when it was last whole: what this replica shows.
    known: Option<Stored>,
    /// The step that was taken last, and since when this leader has seen it announced.
    stands: Option<(Stored, Instant)>,
    pause: Duration,
    /// When this replica last knew what the Secret holds.
    read_at: Instant,
    /// Whether the API server trusts what this replica shows.
    trusted: bool,
}

/// The webhook's configuration as it was read.
struct Configuration {
    version: Option<String>,
    bundle: String,
}

impl Rotation {
    async fn look(&mut self) -> Result<(), WebhookError> {
        let read = within("Secret", "read", self.secrets.get_opt(SECRET)).await?;
        self.read_at = Instant::now();
        let Some(secret) = read else {
            return self.create().await;
        };
        self.pause = pause(secret.annotations().get(PAUSE_ANNOTATION).map(String::as_str), SECRET);
        let stored = Stored::read(&secret, &self.hub.namespace).map_err(|cause| WebhookError::Damaged {
            namespace: self.hub.namespace.clone(),
            cause,
        })?;
        self.serving.show(stored.served.tls.clone());
        self.known = Some(stored.clone());
        let announced = self.announce(&stored).await?;
        if !self.hub.leadership.may_write() {
            self.stands = None;
            return Ok(());
        }
        let since = match self.stands.take() {
            Some((seen, since)) if announced && seen.is(&stored) => since,
            _ => Instant::now(),
        };
        self.stands = announced.then(|| (stored.clone(), since));
        let asked = secret.annotations().contains_key(ROTATE_ANNOTATION);
        let step = stored.step(asked, announced && since.elapsed() >= self.pause, Timestamp::now());
        self.take(step, &secret, &stored).await
    }

    /// Makes the Secret. When somebody deleted it, what is shown is not thrown away before the API server trusts the new one.
    async fn create(&mut self) -> Result<(), WebhookError> {
        if !self.hub.leadership.may_write() {
            return Ok(());
        }
        let new = self.issue()?;
        let stored = match &self.known {
            Some(known) => known.staged(new),
            None => Stored::first(new),
        };
        let mut secret = stored.content();
        secret["metadata"] = json!({"name": SECRET, "namespace": self.hub.namespace,
            "labels": {"app.kubernetes.io/part-of": "meridian"}});
        secret["type"] = json!("kubernetes.io/tls");
        if let Some(secret) = secret.as_object_mut() {
            // To create from, nothing has to be removed.
            secret.remove("data");
        }
        let secret: Secret =
            serde_json::from_value(secret).map_err(|error| WebhookError::Make(format!("the Secret: {error}")))?;
        let params = PostParams {
            field_manager: by_us().field_manager,
            ..PostParams::default()
        };
        within("Secret", "written", self.secrets.create(&params, &secret)).await?;
        tracing::info!(resource = SECRET, "the webhook's certificate is made");
        Ok(())
    }

    async fn take(&self, step: Step, secret: &Secret, stored: &Stored) -> Result<(), WebhookError> {
        let sentence = match step {
            Step::Wait => return Ok(()),
            Step::Replace => "the webhook's certificate had expired and is made anew",
            Step::Stage => "rotation of the webhook's certificate: a new CA is trusted beside the old one",
            Step::Promote => "rotation of the webhook's certificate: the new one is served",
            Step::Retire => "rotation of the webhook's certificate: the old CA is trusted no more",
        };
        let after = stored.after(step, || self.issue().map_err(|error| error.to_string()));
        let mut patch = after.map_err(WebhookError::Make)?.content();
        // Nobody else has changed it since it was read.
        patch["metadata"] = json!({"resourceVersion": secret.resource_version()});
        if matches!(step, Step::Stage | Step::Replace) {
            patch["metadata"]["annotations"] = json!({ROTATE_ANNOTATION: null});
        }
        let (params, patch) = (by_us(), Patch::Merge(&patch));
        within("Secret", "written", self.secrets.patch(SECRET, &params, &patch)).await?;
        tracing::info!(resource = SECRET, "{sentence}");
        Ok(())
    }

    fn issue(&self) -> Result<Issued, WebhookError> {
        Issued::new(&self.hub.namespace, Timestamp::now()).map_err(WebhookError::Make)
    }

    /// Whether the configuration trusts what the Secret says, which the leader sees to. A configuration that somebody
    /// deleted is not made anew: the chart's is the only one, and the controllers refuse without it too.
    async fn announce(&mut self, stored: &Stored) -> Result<bool, WebhookError> {
        let api: Api<DynamicObject> = Api::all_with(self.hub.applier.client().clone(), &configurations());
        let read = within("configuration", "read", api.get_opt(CONFIGURATION)).await?;
        let Some(configuration) = read.as_ref().and_then(|read| configuration(read, &self.hub.namespace)) else {
            self.is_trusted(true);
            return Ok(true);
        };
        let bundle = stored.bundle();
        if configuration.bundle == bundle || !self.hub.leadership.may_write() {
            self.is_trusted(blocks(&configuration.bundle).contains(&stored.served.ca));
            return Ok(configuration.bundle == bundle);
        }
        // A strategic merge finds the webhook by its name and leaves everything else in it to the chart.
        let patch = json!({
            "metadata": {"resourceVersion": configuration.version},
            "webhooks": [{"name": WEBHOOK, "clientConfig": {"caBundle": BASE64.encode(&bundle)}}],
        });
        let (params, patch) = (by_us(), Patch::Strategic(&patch));
        within("configuration", "written", api.patch(CONFIGURATION, &params, &patch)).await?;
        tracing::info!("the webhook's CA is announced");
        self.is_trusted(true);
        Ok(true)
    }

    fn is_trusted(&mut self, trusted: bool) {
        self.trusted = trusted;
        match trusted {
            true => self.hub.readiness.open(GATE),
            false => self
                .hub
                .readiness
                .close(GATE, "the API server does not trust this replica's certificate yet"),
        }
    }

    /// Something could not be read or written. What is shown goes on; for how long it may is said in the module's words.
    fn doubt(&mut self, error: &WebhookError) {
        let late = self.read_at.elapsed() > self.pause / 2;
        match error {
            WebhookError::Damaged { .. } => tracing::error!(error = %error, "the webhook's certificate stays as it is"),
            _ => tracing::warn!(error = %error, "the webhook's certificate is looked at again"),
        }
        if self.known.is_none() || late {
            self.trusted = false;
            self.hub.readiness.close(GATE, &error.to_string());
        }
    }

    fn until_the_next_look(&self) -> Duration {
        match self.trusted {
            true => LOOK_EVERY.min(self.pause / 4),
            false => LOOK_AT_FIRST,
        }
    }
}

async fn within<T>(
    what: &'static str,
    verb: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, WebhookError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|source| WebhookError::Api {
            what,
            verb,
            source: Box::new(source),
        }),
        Err(_) => Err(WebhookError::Timeout { what, verb }),
    }
}

/// What of the configuration is ours; `None` when it has no webhook of ours. One that leads to another namespace is that of
/// another hub, whose CA a hub that was started by mistake must not replace.
fn configuration(object: &DynamicObject, namespace: &str) -> Option<Configuration> {
    let mut webhooks = object.data["webhooks"].as_array()?.iter();
    let ours = webhooks.find(|webhook| {
        let leads_to = &webhook["clientConfig"]["service"]["namespace"];
        webhook["name"] == WEBHOOK && leads_to.as_str().is_none_or(|leads_to| leads_to == namespace)
    })?;
    let written = ours["clientConfig"]["caBundle"].as_str().unwrap_or_default();
    let bundle = BASE64.decode(written).unwrap_or_default();
    Some(Configuration {
        version: object.resource_version(),
        // Whatever is no text is nothing of ours, and is written anew.
        bundle: String::from_utf8(bundle).unwrap_or_default(),
    })
}

fn configurations() -> ApiResource {
    ApiResource {
        group: "admissionregistration.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "admissionregistration.k8s.io/v1".to_owned(),
        kind: "ValidatingWebhookConfiguration".to_owned(),
        plural: "validatingwebhookconfigurations".to_owned(),
    }
}

fn by_us() -> PatchParams {
    merge_by(Purpose::HubAdmission.manager())
}
