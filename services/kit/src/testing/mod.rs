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
mod client;
mod database;
mod feed;
mod services;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use meridian_evidence::Checkpoint;
use meridian_policy::{Epoch, RegionPolicy, TenantId};
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub use authority::Authority;
pub use client::Client;
pub use database::Database;
pub use tokens::{Athlete, Signer};

use crate::event::Event;
use crate::policy_feed::{Ack, Backlog};
use crate::subject_keys::Keyring;
use crate::tls::PeerId;
use feed::Feed;
use services::{Place, Running, SERVICES, place};

/// The longest that a test waits for something that should happen.
const PATIENCE: Duration = Duration::from_secs(90);

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

    /// From now on the policy is told as a newer operator does, with this done to its JSON.
    pub fn say_more(&self, addition: impl Fn(&mut serde_json::Value) + Send + 'static) {
        self.feed.say_more(addition);
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
        self.feed.acks().into_iter().map(|(_, ack)| ack).collect()
    }

    /// The same, each with the moment at which it arrived.
    #[must_use]
    pub fn timed_acks(&self) -> Vec<(Instant, Ack)> {
        self.feed.acks()
    }

    /// The checkpoints of evidence that the region operator was told so far.
    #[must_use]
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        self.feed.checkpoints()
    }

    /// What waits to leave, as the region operator was told last.
    #[must_use]
    pub fn backlog(&self) -> Option<Backlog> {
        self.feed.backlog()
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
        crate::kafka::Kafka::plain(&required("MERIDIAN_TEST_KAFKA"), &self.topic_prefix, service)
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
        let records = self.keyed_records(topic, count).await;
        records.into_iter().map(|(_, record)| record).collect()
    }

    /// As [`Self::records`], each with its key before it.
    ///
    /// # Panics
    /// When fewer arrive in time.
    pub async fn keyed_records(&self, topic: &str, count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
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
                    let (key, record) = (message.key(), message.payload());
                    records.push((key.unwrap_or_default().to_vec(), record.unwrap_or_default().to_vec()));
                }
            }
        };
        let arrived = tokio::time::timeout(PATIENCE, all).await.is_ok();
        assert!(arrived, "{topic}: {} of {count} records arrived", records.len());
        records
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
        let began = Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            pause(began).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.ok()
}

/// An address of this machine that nobody listens on, and that no connection is given as its own: who listened on it can
/// do so again later.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    let free = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, some_port())).ok();
    let listener = (0..1000).find_map(free).expect("a free port");
    listener.local_addr().expect("an address")
}

/// Any port below those that systems give to connections and Kubernetes to Services.
fn some_port() -> u16 {
    let [low, high, ..] = Uuid::new_v4().into_bytes();
    10_000 + u16::from_le_bytes([low, high]) % 20_000
}

/// The pause before a test looks again for what it has waited for since `began`: a twentieth of that time, at least 20 ms and at
/// most half a second, so that what takes long is not looked at hundreds of times.
pub async fn pause(began: Instant) {
    let (soonest, latest) = (Duration::from_millis(20), Duration::from_millis(500));
    tokio::time::sleep((began.elapsed() / 20).clamp(soonest, latest)).await;
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
