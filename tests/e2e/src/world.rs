//! The running demo as the proofs see it: three clusters, two gateways.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, to_value};

use crate::kubectl::Kubectl;
use crate::psql::Psql;

/// Everything there is.
pub struct World {
    /// The hub.
    pub hub: Cluster,
    /// The region eu.
    pub eu: Site,
    /// The region us.
    pub us: Site,
    /// `cargo xtask` itself, if it was named.
    pub xtask: Option<PathBuf>,
    folder: PathBuf,
    kubectl: PathBuf,
}

/// A cluster of the demo.
pub struct Cluster {
    /// As an administrator.
    pub client: kube::Client,
    /// As a person.
    pub kubectl: Kubectl,
}

/// A region: its cluster, its gateway and the demo's tenant there.
pub struct Site {
    /// `eu` or `us`.
    pub region: &'static str,
    /// Its tenant of the organization `stride`.
    pub tenant: &'static str,
    /// A country it serves.
    pub country: &'static str,
    /// The member cluster.
    pub cluster: Cluster,
    /// Where athletes reach it.
    pub url: String,
    /// Trusts this region's gateway only.
    pub http: reqwest::Client,
    /// PEM of the CA behind the gateway's certificate.
    pub ca_pem: String,
    psql: Psql,
}

impl World {
    /// Connects to the demo once its regions, tenants and pools are Ready.
    pub async fn connect(folder: PathBuf, kubectl: PathBuf, xtask: Option<PathBuf>) -> Result<Self> {
        let hub = Cluster::connect("hub", &kubectl).await?;
        let eu = Site::connect("eu", "stride-eu", "DE", 8443, &folder, &kubectl).await?;
        let us = Site::connect("us", "stride-us", "US", 9443, &folder, &kubectl).await?;
        for site in [&eu, &us] {
            site.rolled_out().await?;
        }
        for resource in ["fitnessregions", "tenantdataresidencies", "ingestpools"] {
            hub.kubectl
                .run(&["wait", "--for=condition=Ready", resource, "--all", "--timeout=300s"])
                .await?;
        }
        Ok(Self {
            hub,
            eu,
            us,
            xtask,
            folder,
            kubectl,
        })
    }

    /// The same demo after one of its clusters was made anew.
    pub async fn connect_again(&self) -> Result<Self> {
        Self::connect(self.folder.clone(), self.kubectl.clone(), self.xtask.clone()).await
    }

    /// Tells this demo from one that was brought up anew.
    pub async fn identity(&self) -> Result<String> {
        let mut identity = Vec::new();
        for cluster in [&self.hub, &self.eu.cluster, &self.us.cluster] {
            let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
            let namespace = namespaces.get("kube-system").await.context("kube-system")?;
            identity.push(namespace.metadata.uid.context("a namespace has a uid")?);
        }
        Ok(identity.join(" "))
    }
}

impl Cluster {
    async fn connect(name: &str, kubectl: &Path) -> Result<Self> {
        let config = Kubeconfig::read().context("no kubeconfig; run `cargo xtask up`")?;
        let options = KubeConfigOptions {
            context: Some(format!("kind-{name}")),
            ..KubeConfigOptions::default()
        };
        let config = kube::Config::from_custom_kubeconfig(config, &options)
            .await
            .with_context(|| format!("no cluster kind-{name}; run `cargo xtask up`"))?;
        Ok(Self {
            client: kube::Client::try_from(config)?,
            kubectl: Kubectl::new(kubectl, name),
        })
    }
}

impl Site {
    async fn connect(
        region: &'static str,
        tenant: &'static str,
        country: &'static str,
        port: u16,
        folder: &Path,
        kubectl: &Path,
    ) -> Result<Self> {
        let cluster = Cluster::connect(region, kubectl).await?;
        let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &format!("meridian-{region}"));
        let ca_pem = until(Duration::from_secs(300), &format!("the CA of {region}"), || async {
            let secret = secrets.get_opt("region-ca").await?;
            let pem = secret
                .and_then(|secret| secret.data)
                .and_then(|mut data| data.remove("tls.crt"));
            pem.map(|pem| String::from_utf8(pem.0).context("the region's CA is not PEM"))
                .transpose()
        })
        .await?;
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(folder.join(format!("{region}-ca.crt")), &ca_pem).context("cannot write the gateway's CA")?;
        let host = format!("{region}.meridian.localhost");
        let http = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(ca_pem.as_bytes()).context("the region's CA")?])
            .resolve(&host, SocketAddr::from(([127, 0, 0, 1], port)))
            .connect_timeout(Duration::from_secs(3))
            .timeout(Duration::from_secs(30))
            .build()
            .context("HTTP client")?;
        Ok(Self {
            region,
            tenant,
            country,
            cluster,
            url: format!("https://{host}:{port}"),
            http,
            ca_pem,
            psql: Psql::default(),
        })
    }

    /// Waits until what runs in the region is what the operator there would run: a new operator needs a moment to begin, and
    /// until then everything is ready as it was.
    async fn rolled_out(&self) -> Result<()> {
        let operators: Api<Deployment> = Api::namespaced(self.cluster.client.clone(), "meridian-system");
        let what = format!("the operator's own version everywhere in {}", self.region);
        until(Duration::from_secs(300), &what, || async {
            let operator = to_value(operators.get("meridian-operator").await?)?;
            let kinds = "deployments,statefulsets";
            let told = ["-n", &self.namespace(), "get", kinds, "-o", "json"];
            let told: Value = serde_json::from_str(&self.cluster.kubectl.run(&told).await?)?;
            let workloads = told["items"].as_array().cloned().unwrap_or_default();
            ensure!(!workloads.is_empty(), "there is none yet");
            let waiting = workloads
                .iter()
                .chain([&operator])
                .find(|workload| !runs(workload, image(&operator)));
            if let Some(workload) = waiting {
                bail!("{} is not there yet", workload["metadata"]["name"]);
            }
            Ok(Some(()))
        })
        .await
    }

    /// The namespace of the region's stack.
    pub fn namespace(&self) -> String {
        format!("meridian-{}", self.region)
    }

    /// A query against one of the region's databases, as its superuser; the answer's lines, columns parted by `|`.
    pub async fn query(&self, database: &str, sql: &str) -> Result<String> {
        let (kubectl, namespace) = (&self.cluster.kubectl, self.namespace());
        let answer = self.psql.ask(kubectl, &namespace, database, sql).await?;
        Ok(answer.trim().to_owned())
    }

    /// A count that a query gives.
    pub async fn count(&self, database: &str, sql: &str) -> Result<u64> {
        let answer = self.query(database, sql).await?;
        answer
            .parse()
            .with_context(|| format!("the database {database} answered {answer:?}"))
    }

    /// One value of a Secret of the region's stack.
    pub async fn secret(&self, name: &str, key: &str) -> Result<Vec<u8>> {
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client.clone(), &self.namespace());
        let secret = secrets.get(name).await.with_context(|| format!("Secret {name}"))?;
        let value = secret.data.and_then(|mut data| data.remove(key));
        value
            .map(|value| value.0)
            .with_context(|| format!("Secret {name} has no {key}"))
    }
}

fn image(workload: &Value) -> &str {
    let image = &workload["spec"]["template"]["spec"]["containers"][0]["image"];
    image.as_str().unwrap_or_default()
}

/// Whether a Deployment or StatefulSet runs whole, and in this version if it runs our image at all.
fn runs(workload: &Value, version: &str) -> bool {
    let name = |image: &str| image.split(':').next().unwrap_or_default().to_owned();
    let (spec, status) = (&workload["spec"], &workload["status"]);
    let told = status["observedGeneration"] == workload["metadata"]["generation"];
    let whole = ["replicas", "updatedReplicas", "readyReplicas"]
        .iter()
        .all(|count| status[count] == spec["replicas"]);
    told && whole && (image(workload) == version || name(image(workload)) != name(version))
}

/// Tries until there is something, at most for `limit`; the last error is told.
pub async fn until<T, F, Fut>(limit: Duration, what: &str, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let began = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let error = match attempt().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if began.elapsed() > limit {
            match error {
                Some(error) => return Err(error.context(format!("{what} not seen within {} s", limit.as_secs()))),
                None => bail!("{what} not seen within {} s", limit.as_secs()),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// A bare TLS connection to a site's gateway, for requests that no HTTP client would send.
pub async fn tls_stream(site: &Site) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let authority = site.url.trim_start_matches("https://");
    let (host, port) = authority.split_once(':').context("a gateway's address has a port")?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_pki_types::pem::PemObject::pem_slice_iter(site.ca_pem.as_bytes()) {
        let certificate: rustls_pki_types::CertificateDer<'static> = certificate.context("the region's CA")?;
        roots.add(certificate).context("the region's CA")?;
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port.parse::<u16>()?))
        .await
        .context("the gateway's port")?;
    let name = rustls_pki_types::ServerName::try_from(host.to_owned()).context("the gateway's name")?;
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    connector.connect(name, stream).await.context("TLS with the gateway")
}
