//! What a service is given when it starts: configuration, identity, policy, metrics, and the makers of everything else.

use std::net::TcpListener as StdListener;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use meridian_policy::RegionName;
use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::auth::{IdentityKeys, KeySource, Verifier};
use crate::client::{ClientError, ServiceClient};
use crate::config::{Brokers, Config, ConfigErrors};
use crate::db::{self, Pool};
use crate::event::EventSource;
use crate::kafka::Kafka;
use crate::log::OtlpError;
use crate::metrics::Metrics;
use crate::policy_feed::{FeedError, PolicyFeed};
use crate::ready::Readiness;
use crate::residency::Homes;
use crate::subject_keys::Keyring;
use crate::tls::{Tls, TlsError};

/// Why a service did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Wrong variables.
    #[error("the environment is wrong: {0}")]
    Config(#[from] ConfigErrors),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no policy.
    #[error(transparent)]
    Policy(#[from] FeedError),
    /// Traces cannot be exported.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// A client for another service cannot be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// Kafka cannot be used.
    #[error(transparent)]
    Kafka(#[from] crate::kafka::KafkaError),
    /// An address is taken or not ours.
    #[error("{variable}: {address} cannot be listened on: {error}")]
    Listen {
        /// The variable that names it.
        variable: &'static str,
        /// It.
        address: String,
        /// Why.
        error: std::io::Error,
    },
    /// A file that a variable names cannot be read.
    #[error("{variable}: {problem}")]
    File {
        /// The variable.
        variable: &'static str,
        /// Why.
        problem: String,
    },
    /// A part that runs as long as the process ended.
    #[error("{task} ended: {reason}; the process stops so that it is started afresh")]
    TaskEnded {
        /// Which.
        task: String,
        /// Why.
        reason: String,
    },
    /// Something of the service's own.
    #[error("{what}: {source}")]
    Other {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StartError {
    /// An error of the service's own.
    pub fn other(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other {
            what,
            source: source.into(),
        }
    }
}

/// The start of a service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Start {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    service: &'static str,
    config: Config,
    tls: Tls,
    feed: PolicyFeed,
    verifier: Verifier,
    metrics: Metrics,
    held_edges: Gauge,
    readiness: Readiness,
    stop: CancellationToken,
    database: OnceLock<Pool>,
    keyring: OnceLock<Keyring>,
    listeners: Mutex<Listeners>,
}

/// Sockets that were opened before the start, by tests that need to know their port.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For requests.
    pub main: Option<StdListener>,
    /// For health and metrics.
    pub admin: Option<StdListener>,
}

impl Start {
    /// Reads the environment, installs logs and the crypto provider, loads certificate and policy. Needs a Tokio runtime.
    ///
    /// # Errors
    /// One sentence for each thing that is wrong.
    pub fn from_env(service: &'static str) -> Result<Self, StartError> {
        let config = Config::from_env()?;
        crate::log::install(service, config.region.as_str(), config.otlp_endpoint.as_deref())?;
        Self::with_config(service, config, Listeners::default())
    }

    /// As [`Start::from_env`] with a configuration at hand.
    ///
    /// # Errors
    /// One sentence for each thing that is wrong.
    pub fn with_config(service: &'static str, config: Config, listeners: Listeners) -> Result<Self, StartError> {
        let tls = Tls::load(&config.tls_dir, config.region.clone())?;
        let feed = PolicyFeed::from_file(&config.policy_file, &config.region, &config.policy_url, &tls)?;
        let policy = feed.current();
        tls.set_peer_cas(policy.peers.iter().map(|peer| (&peer.region, peer.ca_pem.as_str())));
        let expected = crate::tls::PeerId::new(config.region.clone(), "identity");
        let identity = ServiceClient::peer(&tls, &config.peer_url("identity"), expected)?;
        let verifier = Verifier::new(feed.clone(), Arc::new(IdentityKeys::new(identity)));
        let metrics = Metrics::new(service);
        let held_edges = metrics.gauge(
            "meridian_policy_held_edges",
            "Edges along which nothing passes because what is told of them is not understood.",
        );
        let readiness = Readiness::default();
        readiness.policy(feed.clone());
        let shared = Shared {
            service,
            config,
            tls,
            feed,
            verifier,
            metrics,
            held_edges,
            readiness,
            stop: CancellationToken::new(),
            database: OnceLock::new(),
            keyring: OnceLock::new(),
            listeners: Mutex::new(listeners),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The service's name: its certificate's, its database's, its consumer group's.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.shared.service
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        &self.shared.config.region
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The certificate and what is trusted.
    #[must_use]
    pub fn tls(&self) -> &Tls {
        &self.shared.tls
    }

    /// The live policy.
    #[must_use]
    pub fn feed(&self) -> &PolicyFeed {
        &self.shared.feed
    }

    /// The tenants at home here.
    #[must_use]
    pub fn homes(&self) -> Homes {
        Homes::new(self.shared.feed.clone())
    }

    /// Verifies tokens.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.shared.verifier
    }

    /// Identity verifies with the keys it has, instead of asking itself.
    pub fn use_local_keys(&self, source: Arc<dyn KeySource>) {
        self.shared.verifier.set_source(source);
    }

    /// The exposition text of all metrics, as of now.
    #[must_use]
    pub fn measured(&self) -> String {
        let held = self.shared.feed.current().held.len();
        self.shared.held_edges.set(i64::try_from(held).unwrap_or(i64::MAX));
        self.shared.metrics.encode()
    }

    /// The metrics registry.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What must hold for the service to be ready.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.shared.readiness
    }

    /// Cancelled when the process is to stop. Background parts end when it is.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.shared.stop.clone()
    }

    /// The service's database. Connections are opened when they are needed.
    ///
    /// # Errors
    /// When `MERIDIAN_DATABASE_URL` is missing or malformed.
    pub fn database(&self) -> Result<Pool, StartError> {
        if let Some(pool) = self.shared.database.get() {
            return Ok(pool.clone());
        }
        let url = self.shared.config.database_url.as_ref().ok_or(StartError::File {
            variable: "MERIDIAN_DATABASE_URL",
            problem: "is missing; set it to the URL in the secret db-<service>".to_owned(),
        })?;
        let pool = db::connect(url.expose(), self.service())?;
        let pool = self.shared.database.get_or_init(|| pool).clone();
        self.shared.readiness.database(pool.clone());
        Ok(pool)
    }

    /// The database, if the service asked for it.
    pub(crate) fn opened_database(&self) -> Option<Pool> {
        self.shared.database.get().cloned()
    }

    /// The keys of data subjects.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn keyring(&self) -> Result<Keyring, StartError> {
        if let Some(keyring) = self.shared.keyring.get() {
            return Ok(keyring.clone());
        }
        let keyring = Keyring::new(ServiceClient::new(self, "keyring")?);
        Ok(self.shared.keyring.get_or_init(|| keyring).clone())
    }

    /// Producers and consumers.
    #[must_use]
    pub fn kafka(&self) -> Kafka {
        let prefix = &self.shared.config.topic_prefix;
        match &self.shared.config.kafka {
            Brokers::Mutual(brokers) => Kafka::mutual(self.tls(), brokers, prefix, self.service()),
            Brokers::Plain(brokers) => Kafka::plain(brokers, prefix, self.service()),
        }
    }

    /// Who this service's events come from.
    #[must_use]
    pub fn event_source(&self) -> EventSource {
        EventSource::new(self.region().clone(), self.service())
    }

    /// A client for another service of the region.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn client(&self, peer: &str) -> Result<ServiceClient, StartError> {
        Ok(ServiceClient::new(self, peer)?)
    }

    /// 32 secret bytes or more from the file that a variable names (`MERIDIAN_PEPPER_FILE`, `MERIDIAN_KEK_FILE`,
    /// `MERIDIAN_EVIDENCE_KEY_FILE`).
    ///
    /// # Errors
    /// When the variable is not set, or the file is missing or too short.
    pub fn secret_file(&self, variable: &'static str) -> Result<Zeroizing<Vec<u8>>, StartError> {
        let path = match variable {
            "MERIDIAN_PEPPER_FILE" => self.shared.config.pepper_file.as_deref(),
            "MERIDIAN_KEK_FILE" => self.shared.config.kek_file.as_deref(),
            "MERIDIAN_EVIDENCE_KEY_FILE" => self.shared.config.evidence_key_file.as_deref(),
            _ => None,
        };
        let wrong = |problem: String| StartError::File { variable, problem };
        let path: &Path =
            path.ok_or_else(|| wrong("is missing; set it to the path of the mounted secret".to_owned()))?;
        let bytes =
            std::fs::read(path).map_err(|error| wrong(format!("{} cannot be read: {error}", path.display())))?;
        let bytes = Zeroizing::new(bytes);
        if bytes.len() < 32 {
            return Err(wrong(format!(
                "{} holds {} bytes, and 32 are needed",
                path.display(),
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    /// The socket for requests, if it was opened before the start: for a service with a server of its own (the gateway).
    #[must_use]
    pub fn take_main_listener(&self) -> Option<StdListener> {
        self.shared
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .main
            .take()
    }

    /// Takes the sockets that were opened before the start.
    pub(crate) fn take_listeners(&self) -> Listeners {
        std::mem::take(&mut *self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
