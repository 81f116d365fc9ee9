//! The services of a region: an address and a certificate each, started, stopped and killed as a test wants.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use axum::Router;
use tokio::task::JoinHandle;

use super::{Authority, Client, Database, Region, unlocked, until};
use crate::config::{Brokers, Config, Secret};
use crate::db::Migration;
use crate::policy_feed::FEED_SERVICE;
use crate::service::{self, Parts};
use crate::start::{Listeners, Start, StartError};
use crate::tls::{PeerId, Tls};

/// Services that every other one knows the address of.
pub(super) const SERVICES: [&str; 10] = [
    "keyring",
    "identity",
    "consent",
    "training",
    "telemetry",
    "telemetry-writer",
    "social",
    "promotions",
    "replicator",
    "gateway",
];

pub(super) struct Place {
    main: SocketAddr,
    admin: SocketAddr,
    /// Bound and not listening: the port is ours, and callers are refused rather than kept waiting.
    reserved: Option<(tokio::net::TcpSocket, tokio::net::TcpSocket)>,
}

pub(super) struct Running {
    start: Start,
    task: JoinHandle<Result<(), StartError>>,
}

fn try_reserve(address: SocketAddr) -> std::io::Result<tokio::net::TcpSocket> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn reserve(address: SocketAddr) -> tokio::net::TcpSocket {
    try_reserve(address).expect("a port of this machine")
}

pub(super) fn place() -> Place {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (main, admin) = (reserve(any), reserve(any));
    let address = |socket: &tokio::net::TcpSocket| socket.local_addr().expect("an address");
    Place {
        main: address(&main),
        admin: address(&admin),
        reserved: Some((main, admin)),
    }
}

impl Region {
    /// Makes a fresh database for a service, with its owner and runtime roles, and migrates it; see
    /// [`Database::beside_the_next_release`].
    pub async fn database(&self, service: &str, migrations: &[Migration]) -> Database {
        let database = Database::beside_the_next_release(service, migrations).await;
        unlocked(&self.databases).insert(service.to_owned(), database.clone());
        database
    }

    /// The start that a service of this region would be given. Its database is the one made before, if any.
    #[must_use]
    pub fn start(&self, service: &'static str) -> Start {
        self.start_with(service, |_| {})
    }

    /// As [`Region::start`] with a changed configuration.
    #[must_use]
    pub fn start_with(&self, service: &'static str, change: impl FnOnce(&mut Config)) -> Start {
        let (mut config, listeners) = self.config(service);
        change(&mut config);
        Start::with_config(service, config, listeners).expect("a start in a test's region")
    }

    /// The environment of a service that is started as a program of its own, at its place in this region. Its ports are
    /// nobody's until it listens.
    #[must_use]
    pub fn environment(&self, service: &str, change: impl FnOnce(&mut Config)) -> Vec<(String, String)> {
        let (mut config, _) = self.config(service);
        change(&mut config);
        let path = |path: Option<PathBuf>| path.unwrap_or_default().display().to_string();
        let kafka = match config.kafka {
            Brokers::Plain(addresses) => addresses,
            Brokers::Mutual(_) => unreachable!("a test's broker speaks in clear"),
        };
        let variables = [
            ("REGION", config.region.to_string()),
            ("LISTEN", config.listen.to_string()),
            ("ADMIN_LISTEN", config.admin_listen.to_string()),
            ("TLS_DIR", path(Some(config.tls_dir))),
            (
                "DATABASE_URL",
                config
                    .database_url
                    .map(|url| url.expose().to_owned())
                    .unwrap_or_default(),
            ),
            ("KAFKA", kafka),
            ("TOPIC_PREFIX", config.topic_prefix),
            ("POLICY_URL", config.policy_url),
            ("POLICY_FILE", path(Some(config.policy_file))),
            ("DATA_DIR", path(config.data_dir)),
            ("PEPPER_FILE", path(config.pepper_file)),
            ("KEK_FILE", path(config.kek_file)),
            ("EVIDENCE_KEY_FILE", path(config.evidence_key_file)),
        ];
        let peer =
            |(name, url): (String, String)| (format!("{}_URL", name.to_ascii_uppercase().replace('-', "_")), url);
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        let all = variables.into_iter().chain(config.peers.into_iter().map(peer));
        all.map(|(name, value)| (format!("MERIDIAN_{name}"), value)).collect()
    }

    fn config(&self, service: &str) -> (Config, Listeners) {
        let folder = |name: &str| self.dir.path().join(name);
        let tls_dir = self.certificate(service);
        let data_dir = folder(&format!("data-{service}"));
        std::fs::create_dir_all(&data_dir).expect("a folder of the service");
        let policy_file = folder("policy.json");
        std::fs::write(&policy_file, serde_json::to_vec(&self.policy()).expect("JSON")).expect("a file of the region");
        let (listen, admin_listen, listeners) = self.take_place(service);
        let peers = unlocked(&self.places)
            .iter()
            .map(|(name, place)| (name.clone(), format!("https://{}", place.main)))
            .collect();
        let owned = unlocked(&self.databases)
            .get(service)
            .map(|database| Secret::new(database.url()));
        let config = Config {
            region: self.name.parse().expect("a region's name"),
            listen,
            admin_listen,
            tls_dir,
            database_url: owned,
            kafka: Brokers::Plain(std::env::var("MERIDIAN_TEST_KAFKA").unwrap_or_else(|_| "127.0.0.1:1".to_owned())),
            topic_prefix: self.topic_prefix.clone(),
            policy_url: self.feed.url(),
            policy_file,
            peers,
            otlp_endpoint: None,
            data_dir: Some(data_dir),
            pepper_file: Some(self.secret_file("pepper")),
            kek_file: Some(self.secret_file("kek")),
            evidence_key_file: Some(self.secret_file("evidence")),
        };
        (config, listeners)
    }

    /// The folder of a service's certificate, issued when it is first asked for.
    fn certificate(&self, service: &str) -> PathBuf {
        let mut issued = unlocked(&self.issued);
        let dir = self.dir.path().join(format!("tls-{service}"));
        if issued.insert(service.to_owned()) {
            self.authority.issue(service, &dir);
        }
        dir
    }

    /// Has every certificate holder of this region trust another bundle of CAs, as soon as it looks at its files again.
    ///
    /// # Panics
    /// When that cannot be written.
    pub fn trust(&self, bundle: &str) {
        for (_, dir) in self.holders() {
            std::fs::write(dir.join("ca.crt"), bundle).expect("a file of the region");
        }
    }

    /// Replaces every certificate of this region by one of another CA; what is trusted stays.
    pub fn issue_by(&self, authority: &Authority) {
        for (service, dir) in self.holders() {
            let trusted = std::fs::read(dir.join("ca.crt")).expect("a file of the region");
            authority.issue(&service, &dir);
            std::fs::write(dir.join("ca.crt"), trusted).expect("a file of the region");
        }
    }

    /// Who has a certificate, and in which folder.
    fn holders(&self) -> Vec<(String, PathBuf)> {
        let issued = unlocked(&self.issued).clone();
        let folder = |name: &str| self.dir.path().join(format!("tls-{name}"));
        let services = issued.into_iter().map(|name| (name.clone(), folder(&name)));
        services
            .chain([(FEED_SERVICE.to_owned(), folder("operator"))])
            .collect()
    }

    fn secret_file(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        if !path.exists() {
            let mut bytes = [0_u8; 32];
            aws_lc_rs::rand::fill(&mut bytes).expect("random numbers");
            std::fs::write(&path, bytes).expect("a file of the region");
        }
        path
    }

    fn take_place(&self, service: &str) -> (SocketAddr, SocketAddr, Listeners) {
        let mut places = unlocked(&self.places);
        let place = places.entry(service.to_owned()).or_insert_with(place);
        let (main, admin) = place
            .reserved
            .take()
            .unwrap_or_else(|| (reserve(place.main), reserve(place.admin)));
        let listening = |socket: tokio::net::TcpSocket| {
            socket
                .listen(128)
                .and_then(tokio::net::TcpListener::into_std)
                .expect("the reserved port")
        };
        let listeners = Listeners {
            main: Some(listening(main)),
            admin: Some(listening(admin)),
        };
        (place.main, place.admin, listeners)
    }

    /// Runs a service until the region is dropped or the service is stopped; returns when it is ready.
    ///
    /// # Panics
    /// When it ends, or is not ready in time.
    pub async fn run<F, R>(&self, service: &'static str, run: F)
    where
        F: FnOnce(Start) -> R,
        R: Future<Output = Result<(), StartError>> + Send + 'static,
    {
        self.run_start(self.retire(service).await.start(service), run).await;
    }

    /// As [`Region::run`] with a start of the test's own making ([`Region::start_with`]).
    ///
    /// # Panics
    /// When it ends, or is not ready in time.
    pub async fn run_start<F, R>(&self, start: Start, run: F)
    where
        F: FnOnce(Start) -> R,
        R: Future<Output = Result<(), StartError>> + Send + 'static,
    {
        let service = start.service();
        let task = tokio::spawn(run(start.clone()));
        unlocked(&self.running).insert(service.to_owned(), Running { start, task });
        self.ready(service).await;
    }

    /// Puts a router in a service's place.
    ///
    /// # Panics
    /// When it cannot be served.
    pub async fn serve(&self, service: &'static str, router: Router) {
        self.run(service, |start| service::serve(start, Parts::new(router)))
            .await;
    }

    async fn retire(&self, service: &str) -> &Self {
        let running = unlocked(&self.running).remove(service);
        if let Some(running) = running {
            running.start.stop().cancel();
            let _ = running.task.await;
            self.reserve_again(service).await;
        }
        self
    }

    /// Stops a service as SIGTERM does.
    pub async fn stop(&self, service: &str) {
        self.retire(service).await;
    }

    /// Ends a service's task in the middle of whatever it does, as near to `kill -9` as one process comes.
    pub async fn kill(&self, service: &str) {
        let running = unlocked(&self.running).remove(service);
        if let Some(running) = running {
            running.task.abort();
            let _ = running.task.await;
            self.reserve_again(service).await;
        }
    }

    /// Takes the service's ports back, as soon as the sockets of the task that was ended are closed.
    async fn reserve_again(&self, service: &str) {
        let address = |place: &Place| (place.main, place.admin);
        let Some((main, admin)) = unlocked(&self.places).get(service).map(address) else {
            return;
        };
        let reserved = until(|| async { try_reserve(main).ok().zip(try_reserve(admin).ok()) }).await;
        if let Some(place) = unlocked(&self.places).get_mut(service) {
            place.reserved = reserved;
        }
    }

    /// The start that a running service was given.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn running(&self, service: &str) -> Start {
        let running = unlocked(&self.running);
        running
            .get(service)
            .unwrap_or_else(|| panic!("{service} does not run"))
            .start
            .clone()
    }

    async fn ready(&self, service: &str) {
        let url = format!("{}/healthcheck", self.admin_url(service));
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let seen = Mutex::new(String::new());
        let waited = until(|| async {
            if let Some(ended) = self.ended(service).await {
                panic!("{service} did not become ready: {ended}");
            }
            match http.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => Some(()),
                Ok(answer) => {
                    let text = answer.text().await.unwrap_or_default();
                    *unlocked(&seen) = text;
                    None
                }
                Err(_) => None,
            }
        })
        .await;
        assert!(waited.is_some(), "{service} did not become ready: {}", unlocked(&seen));
    }

    async fn ended(&self, service: &str) -> Option<String> {
        let ended = {
            let mut running = unlocked(&self.running);
            if !running.get(service)?.task.is_finished() {
                return None;
            }
            running.remove(service)?
        };
        Some(match ended.task.await {
            Ok(Ok(())) => "it returned".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        })
    }

    /// Where a service is reached.
    #[must_use]
    pub fn url(&self, service: &str) -> String {
        let mut places = unlocked(&self.places);
        format!(
            "https://{}",
            places.entry(service.to_owned()).or_insert_with(place).main
        )
    }

    /// Where its health and metrics are.
    #[must_use]
    pub fn admin_url(&self, service: &str) -> String {
        let mut places = unlocked(&self.places);
        format!(
            "http://{}",
            places.entry(service.to_owned()).or_insert_with(place).admin
        )
    }

    /// What it says of itself at `/metrics`, as text.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metrics(&self, service: &str) -> String {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let asked = http.get(format!("{}/metrics", self.admin_url(service)));
        asked.send().await.expect("an answer").text().await.expect("a text")
    }

    /// The certificate of a service, for any use.
    ///
    /// # Panics
    /// When it cannot be issued.
    #[must_use]
    pub fn tls(&self, service: &str) -> Tls {
        let dir = self.certificate(service);
        let tls = Tls::load(&dir, self.name.parse().expect("a region's name")).expect("a certificate of the region");
        let policy = self.policy();
        tls.set_peer_cas(policy.peers.iter().map(|peer| (&peer.region, peer.ca_pem.as_str())));
        tls
    }

    /// A plain HTTP client that calls one service with another's certificate: any request, any answer.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn client(&self, caller: &str, service: &str) -> Client {
        let expected = PeerId::new(self.name.parse().expect("a region's name"), service);
        let config = self.tls(caller).client_config(expected).expect("a TLS set-up");
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .no_proxy()
            .build()
            .expect("a client");
        Client {
            base: self.url(service),
            http,
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        for (_, running) in std::mem::take(&mut *unlocked(&self.running)) {
            running.start.stop().cancel();
            running.task.abort();
        }
    }
}
