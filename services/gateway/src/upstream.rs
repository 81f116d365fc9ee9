//! The way to the region's services: mTLS with the gateway's certificate, the service's name verified against the
//! region's CA, addresses looked up beside the requests.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures::future::join_all;
use meridian_kit::Start;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::domain::table;

/// How often addresses are looked up again.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);
const RESOLVE: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(2);
/// With the TLS handshake.
const CONNECT_IN_ALL: Duration = Duration::from_secs(4);
/// Longer than the longest that a service takes to answer by its own limit.
const ANSWER: Duration = Duration::from_secs(65);
const SEND: Duration = Duration::from_secs(30);
/// Shorter than services keep an idle connection, so that a request never meets one that is being closed.
const IDLE: Duration = Duration::from_secs(8);
const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// Why a service cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The TLS files cannot be used.
    #[error("{path} {problem}; mount the gateway's tls secret at MERIDIAN_TLS_DIR")]
    Material {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The service's URL is not one.
    #[error("the address of {service} is not an https URL with a host")]
    Url {
        /// Which service.
        service: &'static str,
    },
    /// The name does not resolve.
    #[error("{service} cannot be found: {problem}")]
    Resolve {
        /// Which service.
        service: &'static str,
        /// Why.
        problem: String,
    },
}

struct Material {
    files: [Vec<u8>; 3],
    identity: Arc<CertKey>,
    region_ca: Arc<CaType>,
    generation: u64,
}

impl Material {
    fn read(dir: &Path, generation: u64) -> Result<Self, UpstreamError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|error| UpstreamError::Material {
                path,
                problem: format!("cannot be read: {error}"),
            })
        };
        let files = [read("tls.crt")?, read("tls.key")?, read("ca.crt")?];
        let wrong = |name: &str, problem: &str| UpstreamError::Material {
            path: dir.join(name),
            problem: problem.to_owned(),
        };
        let chain = certificates(&files[0]).ok_or_else(|| wrong("tls.crt", "holds no certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&files[1]).map_err(|_| wrong("tls.key", "holds no private key"))?;
        let roots = certificates(&files[2]).ok_or_else(|| wrong("ca.crt", "holds no certificate"))?;
        let region_ca: Arc<CaType> = roots.into_iter().map(|der| WrappedX509::new(der, parse_x509)).collect();
        let identity = Arc::new(CertKey::new(chain, key.secret_der().to_vec()));
        Ok(Self {
            files,
            identity,
            region_ca,
            generation,
        })
    }
}

/// The certificates of a PEM file, only if there is one and all of them are certificates: what goes on from here is
/// parsed by code that panics on anything else.
fn certificates(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let ders: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(pem)
        .map(|der| der.ok().map(|der| der.to_vec()))
        .collect::<Option<_>>()?;
    let all_parse = ders.iter().all(|der| X509Certificate::from_der(der).is_ok());
    (!ders.is_empty() && all_parse).then_some(ders)
}

/// Finds services and the way to them.
pub struct Upstreams {
    start: Start,
    material: RwLock<Material>,
    addresses: Mutex<HashMap<&'static str, SocketAddr>>,
}

impl Upstreams {
    /// With the gateway's certificate.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn new(start: Start) -> Result<Self, UpstreamError> {
        let material = Material::read(&start.config().tls_dir, 0)?;
        Ok(Self {
            start,
            material: RwLock::new(material),
            addresses: Mutex::default(),
        })
    }

    /// Keeps reading the files again until `stop`; what is wrong with new ones is logged, and the old ones stay.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(RELOAD_EVERY);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let generation = self.material.read().unwrap_or_else(PoisonError::into_inner).generation;
            match Material::read(&self.start.config().tls_dir, generation + 1) {
                Ok(new) => {
                    let mut current = self.material.write().unwrap_or_else(PoisonError::into_inner);
                    if current.files != new.files {
                        *current = new;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the new certificate for services cannot be used; the old one stays")
                }
            }
        }
    }

    /// The way to a service.
    ///
    /// # Errors
    /// When its address cannot be found.
    pub async fn peer(&self, service: &'static str) -> Result<HttpPeer, UpstreamError> {
        let address = self.address(service).await?;
        let mut peer = HttpPeer::new(address, true, service.to_owned());
        let material = self.material.read().unwrap_or_else(PoisonError::into_inner);
        peer.client_cert_key = Some(Arc::clone(&material.identity));
        // A connection that was made under replaced certificates is not used again.
        peer.group_key = material.generation;
        peer.options.ca = Some(Arc::clone(&material.region_ca));
        peer.options.verify_cert = true;
        peer.options.verify_hostname = true;
        peer.options.connection_timeout = Some(CONNECT);
        peer.options.total_connection_timeout = Some(CONNECT_IN_ALL);
        peer.options.read_timeout = Some(ANSWER);
        peer.options.write_timeout = Some(SEND);
        peer.options.idle_timeout = Some(IDLE);
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        Ok(peer)
    }

    /// Keeps looking up where services are until `stop`: no request waits for a name server that is slow or away. Services
    /// keep their addresses; one that cannot be looked up is where it was.
    pub async fn keep_addresses(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_UP_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lost = BTreeSet::new();
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let look_up = async |service| (service, self.look_up(service).await);
            let looks = join_all(table::services().into_iter().map(look_up));
            for (service, found) in stop.run_until_cancelled(looks).await.into_iter().flatten() {
                match found {
                    Ok(_) if lost.remove(service) => tracing::info!(peer = service, "a service is found again"),
                    Err(error) if lost.insert(service) => {
                        tracing::warn!(%error, peer = service, "a service cannot be found; it is asked where it was");
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }

    /// The way to a service that could not be reached where it was.
    ///
    /// # Errors
    /// When its address cannot be found.
    pub async fn peer_anew(&self, service: &'static str) -> Result<HttpPeer, UpstreamError> {
        // Where it was may be where it is: then it is tried there.
        let _ = self.look_up(service).await;
        self.peer(service).await
    }

    async fn address(&self, service: &'static str) -> Result<SocketAddr, UpstreamError> {
        let known = self.addresses().get(service).copied();
        match known {
            Some(address) => Ok(address),
            None => self.look_up(service).await,
        }
    }

    async fn look_up(&self, service: &'static str) -> Result<SocketAddr, UpstreamError> {
        let url: http::Uri = self
            .start
            .config()
            .peer_url(service)
            .parse()
            .map_err(|_| UpstreamError::Url { service })?;
        let host = url
            .host()
            .ok_or(UpstreamError::Url { service })?
            .trim_matches(['[', ']']);
        let asked = tokio::net::lookup_host((host, url.port_u16().unwrap_or(443)));
        let found = match tokio::time::timeout(RESOLVE, asked).await {
            Ok(Ok(mut addresses)) => addresses.next().ok_or_else(|| "its name has no address".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the name server does not answer".to_owned()),
        };
        let address = found.map_err(|problem| UpstreamError::Resolve { service, problem })?;
        self.addresses().insert(service, address);
        Ok(address)
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<&'static str, SocketAddr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
