//! An API server with the chart's webhook configuration, and what is asked of it.

use crate::service::Service;
use crate::support::{Replica, client, fresh, install, kubeconfig, make_namespace, until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Secret, Service as KubernetesService};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use meridian_operator::manifest::{FITNESS_REGION, PARTY};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

const SECRET: &str = "meridian-webhook-tls";
const CONFIGURATION: &str = "meridian";
/// Leaves the API server time for other tests. A gap in the answers that is shorter is not noticed.
const BETWEEN_APPLIES: Duration = Duration::from_millis(10);

/// The configuration's name is one for the whole API server: one test at a time.
static TURN: Mutex<()> = Mutex::const_new(());

pub struct World {
    pub client: Client,
    pub kubeconfig: PathBuf,
    pub namespace: String,
    pub dir: PathBuf,
    pub service: Service,
    pub applied: AtomicUsize,
    _turn: MutexGuard<'static, ()>,
}

/// What the Secret holds.
pub struct Kept {
    pub trusted: String,
    pub next: Option<String>,
    pub annotations: BTreeMap<String, String>,
}

pub fn certificates(bundle: &str) -> usize {
    bundle.matches("BEGIN CERTIFICATE").count()
}

impl World {
    pub async fn new() -> Self {
        let turn = TURN.lock().await;
        let kubeconfig = kubeconfig("MERIDIAN_TEST_KUBECONFIG");
        let client = client(&kubeconfig).await;
        install(&client, &meridian_crds::all_crds()).await;
        let namespace = fresh("webhook");
        make_namespace(&client, &namespace).await;
        let dir = std::env::temp_dir().join(&namespace);
        std::fs::create_dir_all(&dir).unwrap();
        let world = Self {
            service: Service::start().await,
            client,
            kubeconfig,
            namespace,
            dir,
            applied: AtomicUsize::new(0),
            _turn: turn,
        };
        world.install_the_chart().await;
        world
    }

    /// Its webhook configuration, for the objects of this test, and a Service of its name that leads here.
    async fn install_the_chart(&self) {
        let services: Api<KubernetesService> = Api::namespaced(self.client.clone(), &self.namespace);
        let service = json!({"metadata": {"name": "meridian-webhook"},
            "spec": {"type": "ExternalName", "externalName": "localhost"}});
        let service = serde_json::from_value(service).unwrap();
        services.create(&PostParams::default(), &service).await.unwrap();

        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/meridian/templates/hub/webhook.yaml");
        let text = std::fs::read_to_string(chart).unwrap();
        let document = text.split("---\n").nth(1).unwrap();
        let plain: Vec<String> = document
            .lines()
            .filter(|line| !line.contains("{{-"))
            .map(|line| line.replace("{{ .Release.Namespace }}", &self.namespace))
            .map(|line| line.replace("{{ .Values.hub.webhook.failurePolicy }}", "Fail"))
            // What a loaded machine needs is no failure of the webhook.
            .map(|line| line.replace("{{ .Values.hub.webhook.timeoutSeconds }}", "30"))
            .collect();
        let mut configuration: ValidatingWebhookConfiguration = serde_yaml::from_str(&plain.join("\n")).unwrap();
        let webhook = configuration.webhooks.as_mut().unwrap().first_mut().unwrap();
        webhook.client_config.service.as_mut().unwrap().port = Some(i32::from(self.service.port));
        webhook.object_selector = serde_json::from_value(json!({"matchLabels": {"test": self.namespace}})).unwrap();
        let configurations: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let _ = configurations.delete(CONFIGURATION, &DeleteParams::default()).await;
        configurations
            .create(&PostParams::default(), &configuration)
            .await
            .unwrap();
    }

    pub fn start_unready(&self, identity: &str) -> Replica {
        Replica::hub(&self.kubeconfig, &self.namespace, identity, &self.dir)
    }

    pub async fn start(&self, identity: &str) -> Replica {
        let replica = self.start_unready(identity);
        replica.is_ready().await;
        replica
    }

    /// The API server has seen the configuration, and the Service.
    pub async fn is_asked(&self) {
        until("the webhook is asked", || async { self.unlawful().await.is_ok() }).await;
    }

    /// Something lawful and something that is not; each must be answered by the policy.
    pub async fn applies(&self) {
        self.service.hang_up().await;
        self.lawful()
            .await
            .unwrap_or_else(|error| panic!("a lawful apply failed: {error}"));
        self.service.hang_up().await;
        self.unlawful()
            .await
            .unwrap_or_else(|said| panic!("not the policy's refusal: {said}"));
        self.applied.fetch_add(2, Ordering::SeqCst);
    }

    pub async fn applies_for_ever(self: Arc<Self>) {
        loop {
            self.applies().await;
            tokio::time::sleep(BETWEEN_APPLIES).await;
        }
    }

    async fn lawful(&self) -> Result<(), kube::Error> {
        let name = format!("{}-party", self.namespace);
        let legal = format!("Company {}", self.applied.load(Ordering::SeqCst));
        let party = json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "Party",
            "metadata": {"name": name, "labels": {"test": self.namespace}},
            "spec": {"legalName": legal, "role": "Controller", "country": "DE"}});
        let parties: Api<DynamicObject> = Api::all_with(self.client.clone(), &PARTY.resource());
        let params = PatchParams::apply("somebody").force();
        parties.patch(&name, &params, &Patch::Apply(&party)).await.map(drop)
    }

    /// `Err` with what was said when it was not refused by the policy.
    async fn unlawful(&self) -> Result<(), String> {
        let name = "nowhere";
        let region = json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "FitnessRegion",
            "metadata": {"name": name, "labels": {"test": self.namespace}},
            "spec": {"jurisdiction": "nowhere", "operatedBy": "nobody", "countriesServed": ["DE"],
                "clusters": [{"name": "c", "role": "Primary", "country": "DE", "kubeconfigSecret": {"name": "member"}}],
                "gateway": {"host": "nowhere.localhost", "publicUrl": "https://nowhere.localhost:8443",
                    "peerUrl": "https://nowhere.localhost:30444"}}});
        let regions: Api<DynamicObject> = Api::all_with(self.client.clone(), &FITNESS_REGION.resource());
        let params = PatchParams::apply("somebody").force().dry_run();
        match regions.patch(name, &params, &Patch::Apply(&region)).await {
            Err(kube::Error::Api(status))
                if status.message.contains("\"policy.meridian.sh\" denied the request")
                    && status.message.contains("there is no Jurisdiction") =>
            {
                Ok(())
            }
            Err(error) => Err(error.to_string()),
            Ok(_) => Err("it was admitted".to_owned()),
        }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn kept(&self) -> Kept {
        let secret = self.secrets().get(SECRET).await.unwrap();
        let text = |key: &str| {
            let value = secret.data.as_ref()?.get(key)?;
            Some(String::from_utf8(value.0.clone()).unwrap())
        };
        Kept {
            trusted: text("ca.crt").unwrap(),
            next: text("next-ca.crt"),
            annotations: secret.annotations().clone(),
        }
    }

    /// The Secret and the configuration trust one CA, and not this one.
    pub async fn is_rotated(&self, from: &str) -> bool {
        let kept = self.kept().await;
        let announced = self.announced().await;
        kept.next.is_none() && certificates(&kept.trusted) == 1 && kept.trusted != from && announced == kept.trusted
    }

    async fn announced(&self) -> String {
        let configurations: Api<DynamicObject> = Api::all_with(
            self.client.clone(),
            &kube::api::ApiResource::erase::<ValidatingWebhookConfiguration>(&()),
        );
        let configuration = configurations.get(CONFIGURATION).await.unwrap();
        let bundle = &configuration.data["webhooks"][0]["clientConfig"]["caBundle"];
        String::from_utf8(BASE64.decode(bundle.as_str().unwrap_or_default()).unwrap()).unwrap()
    }

    pub async fn annotate(&self, key: &str, value: &str) {
        self.change(json!({"metadata": {"annotations": {key: value}}})).await;
    }

    pub async fn damage(&self) {
        self.change(json!({"stringData": {"tls.crt": "garbage"}})).await;
    }

    async fn change(&self, patch: serde_json::Value) {
        let secrets = self.secrets();
        let params = PatchParams::default();
        secrets.patch(SECRET, &params, &Patch::Merge(&patch)).await.unwrap();
    }

    /// As an operator is told to.
    pub async fn delete_the_secret(&self) {
        let (secrets, before) = (self.secrets(), self.secrets().get(SECRET).await.unwrap().uid());
        secrets.delete(SECRET, &DeleteParams::default()).await.unwrap();
        until("it is made anew", || async {
            let made = secrets.get_opt(SECRET).await.unwrap();
            made.is_some_and(|made| made.uid() != before)
        })
        .await;
    }

    /// Whether a client that trusts only this CA accepts what is shown here.
    pub async fn shows(&self, address: SocketAddr, ca: &str) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(format!("meridian-webhook.{}.svc", self.namespace)).unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.is_ok()
    }

    pub async fn end(self) {
        let parties: Api<DynamicObject> = Api::all_with(self.client.clone(), &PARTY.resource());
        let name = format!("{}-party", self.namespace);
        let _ = parties.delete(&name, &DeleteParams::default()).await;
        let configurations: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        configurations
            .delete(CONFIGURATION, &DeleteParams::default())
            .await
            .unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
