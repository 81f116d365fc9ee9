//! A region for tests: real certificates, a real policy feed, real databases with the roles that production has, real
//! Kafka, and any service of the workspace, run in the test's process.
//!
//! It needs what `cargo xtask test` gives: `MERIDIAN_TEST_POSTGRES` and, where Kafka is used, `MERIDIAN_TEST_KAFKA`. For
//! one crate: `cargo xtask parts postgres kafka -- cargo test -p meridian-training`. Without them a test fails and says so.
//!
//! The kit knows no service, so a test hands in the `run` of those that it wants. A service's `Cargo.toml` has:
//!
//! ```toml
//! [dev-dependencies]
//! meridian-keyring.workspace = true
//! meridian-kit = { workspace = true, features = ["testing"] }
//! ```
//!
//! and a test in `tests/*.rs`:
//!
//! ```text
//! #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
//! async fn a_workout_is_started_once() {
//!     let region = Region::new("eu", &["stride-eu"]).await;
//!     region.run("keyring", meridian_keyring::run).await;
//!     region.database("training", meridian_training::MIGRATIONS).await;
//!     region.run("training", meridian_training::run).await;          // returns when /readyz says ready
//!     let athlete = region.athlete("stride-eu");
//!     let api = region.client("gateway", "training");                // calls training as the gateway does
//!     let answer = api.post("/api/v1/workouts").bearer_auth(&athlete.token).json(&command).send().await.unwrap();
//!     assert_eq!(answer.status(), 201);
//!     let events = region.events("training.events", 1).await;
//!     let started: serde_json::Value = region.open(&events[0]).await;
//! }
//! ```
//!
//! `region.serve("consent", router)` puts a router in a service's place where the test is not about that service;
//! `region.kill(..)` and `region.run(..)` again restart one at the same address; `region.change_policy(..)`,
//! `region.lose_lease()` and `region.renew_lease()` move the policy.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod authority;
pub mod catalogue;
mod database;
mod feed;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use meridian_policy::{Epoch, RegionPolicy, TenantId};
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

pub use authority::Authority;
pub use database::Database;
pub use tokens::{Athlete, Signer};

use crate::config::{Config, Secret};
use crate::db::Migration;
use crate::event::Event;
use crate::policy_feed::Ack;
use crate::service::{self, Parts};
use crate::start::{Listeners, Start, StartError};
use crate::subject_keys::Keyring;
use crate::tls::{PeerId, Tls};
use feed::Feed;

/// Services that every other one knows the address of.
const SERVICES: [&str; 10] = [
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
/// The longest that a test waits for something that should happen.
const PATIENCE: Duration = Duration::from_secs(30);

struct Place {
    main: SocketAddr,
    admin: SocketAddr,
    /// Bound and not listening: the port is ours, and callers are refused rather than kept waiting.
    reserved: Option<(tokio::net::TcpSocket, tokio::net::TcpSocket)>,
}

struct Running {
    start: Start,
    task: JoinHandle<Result<(), StartError>>,
}

/// A region that lives as long as the value.
pub struct Region {
    name: String,
    dir: tempfile::TempDir,
    authority: Authority,
    signer: Signer,
    feed: Feed,
    topic_prefix: String,
    issued: Mutex<BTreeSet<String>>,
    places: Mutex<BTreeMap<String, Place>>,
    databases: Mutex<BTreeMap<String, Database>>,
    running: Mutex<BTreeMap<String, Running>>,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Region")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn unlocked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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

fn place() -> Place {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (main, admin) = (reserve(any), reserve(any));
    let address = |socket: &tokio::net::TcpSocket| socket.local_addr().expect("an address");
    Place {
        main: address(&main),
        admin: address(&admin),
        reserved: Some((main, admin)),
    }
}

/// What a variable that `cargo xtask test` sets holds.
///
/// # Panics
/// When it is not set: a test without its parts must not pass.
#[must_use]
pub fn required(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set; run cargo xtask test"))
}

impl Region {
    /// A region with tenants at home at epoch 1. The lease is valid and renewed; identity's keys are served.
    pub async fn new(name: &str, tenants: &[&str]) -> Self {
        crate::tls::install_crypto_provider();
        let authority = Authority::new(name);
        let signer = Signer::new(&format!("https://{name}.meridian.test"));
        let dir = tempfile::tempdir().expect("a folder for temporary files");
        let places: BTreeMap<String, Place> = SERVICES
            .iter()
            .map(|service| ((*service).to_owned(), place()))
            .collect();
        let policy = first_policy(name, tenants, signer.issuer());
        let feed = Feed::serve(&authority, dir.path(), policy).await;
        let region = Self {
            name: name.to_owned(),
            dir,
            authority,
            signer,
            feed,
            topic_prefix: format!("t{}.", &uuid::Uuid::new_v4().simple().to_string()[..12]),
            issued: Mutex::default(),
            places: Mutex::new(places),
            databases: Mutex::default(),
            running: Mutex::default(),
        };
        let jwks = region.signer.jwks();
        let keys = Router::new().route(
            "/.well-known/jwks.json",
            axum::routing::get(move || async move { axum::Json(jwks) }),
        );
        region.serve("identity", keys).await;
        region
    }

    /// The region's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its CA, which signs any certificate that a test wants.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Who signs its tokens.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    // ---- policy -------------------------------------------------------------------------------------------------------

    /// The policy as it is served now.
    #[must_use]
    pub fn policy(&self) -> RegionPolicy {
        self.feed.policy()
    }

    /// Changes the policy, gives it the next revision, sends it and renews the lease for it (unless lost).
    pub fn change_policy(&self, change: impl FnOnce(&mut RegionPolicy)) {
        self.feed.change(change);
    }

    /// Raises a tenant's epoch by one and returns it.
    pub fn raise_epoch(&self, tenant: &str) -> Epoch {
        let mut raised = Epoch(0);
        self.change_policy(|policy| {
            let home = policy
                .homes
                .iter_mut()
                .find(|home| home.tenant.as_str() == tenant)
                .expect("a tenant at home here");
            home.epoch = home.epoch.next();
            raised = home.epoch;
        });
        raised
    }

    /// Makes another region a peer of this one: its CA, addresses, keys and tenants. For both directions call it twice.
    pub fn add_peer(&self, other: &Self) {
        let peer = serde_json::from_value(serde_json::json!({
            "region": other.name, "public_url": other.signer.issuer(), "replicator_url": other.url("replicator"),
            "ca_pem": other.authority.ca_pem(), "issuer": other.signer.issuer(), "jwks": other.signer.jwks(),
            "tenants": other.policy().homes.iter().map(|home| serde_json::json!({
                "tenant": home.tenant, "organization": home.organization,
            })).collect::<Vec<_>>(),
        }))
        .expect("a peer of the policy's shape");
        self.change_policy(|policy| policy.peers.push(peer));
    }

    /// Says that the lease is lost, and renews it no more.
    pub fn lose_lease(&self) {
        self.feed.lose_lease();
    }

    /// Stops renewing without a word, as when the hub is gone: the last renewal runs out.
    pub fn stop_renewing(&self) {
        self.feed.stop_renewing();
    }

    /// Renews the lease, once at once and then again and again.
    pub fn renew_lease(&self) {
        self.feed.renew();
    }

    /// How long a renewal is valid from now on. Tests of a lease that runs out make it short.
    pub fn set_lease_duration(&self, valid: Duration) {
        self.feed.set_duration(valid);
    }

    /// What was acknowledged to the region operator so far.
    #[must_use]
    pub fn acks(&self) -> Vec<Ack> {
        self.feed.acks()
    }

    // ---- services -----------------------------------------------------------------------------------------------------

    /// Makes a fresh database for a service, with its owner and runtime roles, and migrates it.
    pub async fn database(&self, service: &str, migrations: &[Migration]) -> Database {
        let database = Database::create(service, migrations).await;
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
        let mut config = Config {
            region: self.name.parse().expect("a region's name"),
            listen,
            admin_listen,
            tls_dir,
            database_url: owned,
            kafka: std::env::var("MERIDIAN_TEST_KAFKA").unwrap_or_else(|_| "127.0.0.1:1".to_owned()),
            topic_prefix: self.topic_prefix.clone(),
            policy_url: self.feed.url(),
            policy_file,
            peers,
            otlp_endpoint: None,
            data_dir: Some(data_dir),
            pepper_file: Some(self.secret_file("pepper")),
            kek_file: Some(self.secret_file("kek")),
        };
        change(&mut config);
        Start::with_config(service, config, listeners).expect("a start in a test's region")
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

    // ---- athletes, keys, events ---------------------------------------------------------------------------------------

    /// A new athlete of a tenant with a valid token.
    ///
    /// # Panics
    /// When the tenant is not at home here.
    #[must_use]
    pub fn athlete(&self, tenant: &str) -> Athlete {
        self.signer.athlete(tenant, self.epoch(tenant))
    }

    /// A token of a tenant's marketing system.
    ///
    /// # Panics
    /// When the tenant is not at home here.
    #[must_use]
    pub fn marketing_token(&self, tenant: &str) -> String {
        self.signer.marketing(tenant, self.epoch(tenant))
    }

    fn epoch(&self, tenant: &str) -> Epoch {
        let tenant: TenantId = tenant.parse().expect("a tenant's name");
        let policy = self.policy();
        policy
            .homes
            .iter()
            .find(|home| home.tenant == tenant)
            .expect("a tenant at home here")
            .epoch
    }

    /// A client of the keyring that runs in this region.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn keyring(&self, caller: &str) -> Keyring {
        let expected = PeerId::new(self.name.parse().expect("a region's name"), "keyring");
        let client = crate::client::ServiceClient::peer(&self.tls(caller), &self.url("keyring"), expected);
        Keyring::new(client.expect("a client"))
    }

    /// Opens an event with the keyring of this region, as training would.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub async fn open<T: DeserializeOwned>(&self, event: &Event) -> T {
        event
            .open(&self.keyring("training"))
            .await
            .expect("an event that opens")
    }

    /// Kafka as a service sees it.
    #[must_use]
    pub fn kafka(&self, service: &'static str) -> crate::kafka::Kafka {
        crate::kafka::Kafka::new(&required("MERIDIAN_TEST_KAFKA"), &self.topic_prefix, service)
    }

    /// The first `count` events of a topic, in the order in which they are received; waits for them.
    ///
    /// # Panics
    /// When fewer arrive in time, or a record is no event.
    pub async fn events(&self, topic: &str, count: usize) -> Vec<Event> {
        let records = self.records(topic, count).await;
        records
            .iter()
            .map(|record| Event::from_bytes(record).expect("an event"))
            .collect()
    }

    /// The first `count` records of a topic as bytes; waits for them.
    ///
    /// # Panics
    /// When fewer arrive in time.
    pub async fn records(&self, topic: &str, count: usize) -> Vec<Vec<u8>> {
        let consumer: StreamConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", required("MERIDIAN_TEST_KAFKA"))
            .set("group.id", format!("test-{}", uuid::Uuid::new_v4()))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("topic.metadata.refresh.interval.ms", "500")
            .create()
            .expect("a consumer");
        consumer
            .subscribe(&[&format!("{}{topic}", self.topic_prefix)])
            .expect("a subscription");
        let mut records = Vec::new();
        let all = async {
            while records.len() < count {
                // A topic that is not there yet is an error that passes.
                if let Ok(message) = consumer.recv().await {
                    records.push(message.payload().unwrap_or_default().to_vec());
                }
            }
        };
        let arrived = tokio::time::timeout(PATIENCE, all).await.is_ok();
        assert!(arrived, "{topic}: {} of {count} records arrived", records.len());
        records
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

/// Calls one service as another.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// A request; `path` begins with `/`.
    pub fn request(&self, method: http::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// A GET.
    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.request(http::Method::GET, path)
    }

    /// A POST.
    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.request(http::Method::POST, path)
    }

    /// A PATCH.
    pub fn patch(&self, path: &str) -> reqwest::RequestBuilder {
        self.request(http::Method::PATCH, path)
    }

    /// A DELETE.
    pub fn delete(&self, path: &str) -> reqwest::RequestBuilder {
        self.request(http::Method::DELETE, path)
    }
}

/// Asks again and again until there is an answer; `None` when there is none within 30 s. For conditions that come true by
/// themselves; a test never sleeps for a fixed time instead.
pub async fn until<T, F, R>(mut ask: F) -> Option<T>
where
    F: FnMut() -> R,
    R: Future<Output = Option<T>>,
{
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.ok()
}

fn first_policy(region: &str, tenants: &[&str], issuer: &str) -> RegionPolicy {
    let homes: Vec<serde_json::Value> = tenants
        .iter()
        .map(|tenant| {
            let organization = tenant
                .rsplit_once('-')
                .map_or(*tenant, |(organization, _)| organization);
            serde_json::json!({"tenant": tenant, "organization": organization, "epoch": 1})
        })
        .collect();
    let country = if region == "us" { "US" } else { "DE" };
    serde_json::from_value(serde_json::json!({
        "region": region, "jurisdiction": region, "revision": 1, "public_url": issuer, "issuer": issuer,
        "countries_served": [country], "homes": homes,
        "directory": [{"region": region, "public_url": issuer, "countries": [country]}],
        "peers": [], "exports": [], "imports": [], "retention": {}
    }))
    .expect("a policy of the right shape")
}

/// Something shared with the feed's handlers.
pub(crate) type Shared<T> = Arc<Mutex<T>>;
