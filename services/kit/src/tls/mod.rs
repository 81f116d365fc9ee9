//! mTLS inside the region, TLS 1.3 only. A service is who its certificate's URI SAN says, `meridian://<region>/<service>`,
//! not the DNS name it was reached by: a client names the identity it wants, a server learns the identity it got.
//!
//! A certificate may claim a region only under that region's CA: the peer CAs that the policy pins (for the replicator)
//! can never vouch for a service of this region. Files are read again when they change, without a restart.

mod peer_id;
mod verify;

pub use peer_id::{NoPeerId, PeerId};

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use meridian_policy::RegionName;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use verify::Clients;
use verify::{ClientVerifier, ServerVerifier, Services};

/// How often the files are looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {error}; mount the service's tls secret at MERIDIAN_TLS_DIR")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The parts do not fit together.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// Makes aws-lc-rs the process's one crypto provider. Calling it again changes nothing.
pub fn install_crypto_provider() {
    // Refused only when one is installed already, and this crate tree has no other.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The process's provider of cryptography; the default one where none is installed.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// The CAs of one region, in both forms that verification needs.
struct Anchors {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Anchors {
    fn of_pem(pem: &[u8], path: &Path) -> Result<Self, TlsError> {
        let invalid = |problem: String| TlsError::Invalid {
            path: path.to_owned(),
            problem,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| invalid(format!("is not PEM: {error}")))?;
            roots
                .add(certificate)
                .map_err(|error| invalid(format!("holds a CA that cannot be used: {error}")))?;
        }
        if roots.is_empty() {
            return Err(invalid("holds no certificate; it must hold the region's CA".to_owned()));
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .build()
            .map_err(|error| invalid(format!("cannot verify clients: {error}")))?;
        Ok(Self { roots, clients })
    }
}

struct Material {
    key: Arc<CertifiedKey>,
    anchors: Anchors,
    fingerprint: Vec<u8>,
    files: Arc<Files>,
}

/// What the files hold, as PEM: for a library that does not speak through rustls.
pub(crate) struct Files {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) ca: Vec<u8>,
}

impl Files {
    fn read(dir: &Path) -> Result<Self, TlsError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|error| TlsError::Unreadable { path, error })
        };
        Ok(Self {
            certificate: read("tls.crt")?,
            key: read("tls.key")?,
            ca: read("ca.crt")?,
        })
    }

    fn fingerprint(&self) -> Vec<u8> {
        use aws_lc_rs::digest::{Context, SHA256};
        let mut digest = Context::new(&SHA256);
        for part in [&self.certificate, &self.key, &self.ca] {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        digest.finish().as_ref().to_vec()
    }

    fn parse(self, dir: &Path) -> Result<Material, TlsError> {
        let invalid = |name: &str, problem: String| TlsError::Invalid {
            path: dir.join(name),
            problem,
        };
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| invalid("tls.crt", format!("is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err(invalid("tls.crt", "holds no certificate".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| invalid("tls.key", format!("holds no private key: {error}")))?;
        let key = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|error| invalid("tls.key", format!("does not fit tls.crt: {error}")))?;
        let anchors = Anchors::of_pem(&self.ca, &dir.join("ca.crt"))?;
        Ok(Material {
            key: Arc::new(key),
            anchors,
            fingerprint: self.fingerprint(),
            files: Arc::new(self),
        })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

/// This process's certificate and what it trusts. Cheap to clone; all clones see a reload.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<TlsShared>,
}

struct TlsShared {
    dir: PathBuf,
    region: RegionName,
    material: RwLock<Material>,
    peers: RwLock<BTreeMap<RegionName, Anchors>>,
    /// How often the files were found changed.
    changes: watch::Sender<u64>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tls")
            .field("dir", &self.shared.dir)
            .finish_non_exhaustive()
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    // Writers only replace whole values, so a poisoned lock still guards a whole one.
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Tls {
    /// Reads `tls.crt`, `tls.key` and `ca.crt` of a folder.
    ///
    /// # Errors
    /// When a file is missing, unreadable or does not fit the others.
    pub fn load(dir: &Path, region: RegionName) -> Result<Self, TlsError> {
        install_crypto_provider();
        let material = Files::read(dir)?.parse(dir)?;
        let shared = TlsShared {
            dir: dir.to_owned(),
            region,
            material: RwLock::new(material),
            peers: RwLock::new(BTreeMap::new()),
            changes: watch::Sender::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Reads the files again and says whether they had changed.
    ///
    /// # Errors
    /// When they cannot be used; what was loaded before stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.shared.dir)?;
        if read(&self.shared.material).fingerprint == files.fingerprint() {
            return Ok(false);
        }
        *write(&self.shared.material) = files.parse(&self.shared.dir)?;
        self.shared.changes.send_modify(|changes| *changes += 1);
        Ok(true)
    }

    /// How often certificate or trust have changed, for who cannot take each connection's from here.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Certificate and trust as they are now.
    pub(crate) fn files(&self) -> Arc<Files> {
        Arc::clone(&read(&self.shared.material).files)
    }

    /// Keeps reloading until `stop`.
    pub async fn watch(&self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(RELOAD_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            match self.reload() {
                Ok(true) => tracing::info!("the TLS certificate was replaced"),
                Ok(false) => {}
                // A secret may be half-written; the next look sees it whole.
                Err(error) => tracing::warn!(%error, "the new TLS certificate cannot be used; the old one stays"),
            }
        }
    }

    /// The region whose CA this process trusts.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        &self.shared.region
    }

    /// Replaces the CAs of other regions (PEM), from the policy. One that cannot be read is left out: its region is
    /// then refused, which is the safe side.
    pub fn set_peer_cas<'a>(&self, peers: impl IntoIterator<Item = (&'a RegionName, &'a str)>) {
        let mut anchors = BTreeMap::new();
        for (region, pem) in peers {
            if *region == self.shared.region || pem.trim().is_empty() {
                continue;
            }
            match Anchors::of_pem(pem.as_bytes(), Path::new("the policy's CA")) {
                Ok(one) => {
                    anchors.insert(region.clone(), one);
                }
                Err(error) => {
                    tracing::error!(%region, %error, "a peer region's CA cannot be used; that region is refused")
                }
            }
        }
        *write(&self.shared.peers) = anchors;
    }

    /// For a server that takes services of this region only, or with `peers` also those of peer regions.
    ///
    /// # Errors
    /// When rustls refuses the set-up.
    pub fn server_config(&self, accept: Accept) -> Result<rustls::ServerConfig, TlsError> {
        self.server_config_for(Arc::new(Services {
            tls: self.clone(),
            accept,
        }))
    }

    /// For a server of this region that takes others than its services.
    ///
    /// # Errors
    /// When rustls refuses the set-up.
    pub fn server_config_for(&self, clients: Arc<dyn Clients>) -> Result<rustls::ServerConfig, TlsError> {
        let verifier = Arc::new(ClientVerifier {
            clients,
            algorithms: algorithms(),
        });
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Resolver(self.clone())));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A resumed session would carry an identity that was verified against CAs that may have been replaced since.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For a client that speaks to exactly `expected`.
    ///
    /// # Errors
    /// When rustls refuses the set-up.
    pub fn client_config(&self, expected: PeerId) -> Result<rustls::ClientConfig, TlsError> {
        let verifier = Arc::new(ServerVerifier {
            tls: self.clone(),
            expected,
            algorithms: algorithms(),
        });
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(Resolver(self.clone())));
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn anchors<T>(&self, region: &RegionName, peers: bool, look: impl FnOnce(&Anchors) -> T) -> Option<T> {
        if *region == self.shared.region {
            return Some(look(&read(&self.shared.material).anchors));
        }
        if !peers {
            return None;
        }
        read(&self.shared.peers).get(region).map(look)
    }
}

/// The signatures that the process's provider of cryptography can verify.
#[must_use]
pub fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// Whose certificates a server takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accept {
    /// Only those of its own region.
    OwnRegion,
    /// Also those of the regions whose CA the policy pins (the replicator's import listener).
    PeerRegions,
}

#[derive(Debug)]
struct Resolver(Tls);

impl rustls::server::ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&read(&self.0.shared.material).key))
    }
}

impl rustls::client::ResolvesClientCert for Resolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&read(&self.0.shared.material).key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
