//! The region operator's policy feed, as a test moves it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use meridian_evidence::Checkpoint;
use meridian_policy::RegionPolicy;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Authority, Shared, unlocked};
use crate::policy_feed::{Ack, Backlog, FEED_SERVICE, FeedLine, Lease};
use crate::tls::{Accept, Tls};

/// How often a lease is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// What a newer operator says besides.
type Addition = Box<dyn Fn(&mut Value) + Send>;

struct Inner {
    policy: RegionPolicy,
    addition: Option<Addition>,
    renewing: bool,
    valid: Duration,
    listeners: Vec<mpsc::UnboundedSender<Vec<u8>>>,
    acks: Vec<(Instant, Ack)>,
    checkpoints: Vec<Checkpoint>,
    backlog: Option<Backlog>,
}

impl Inner {
    fn send(&mut self, line: &FeedLine) {
        self.send_line(encoded(line));
    }

    fn send_line(&mut self, line: Vec<u8>) {
        self.listeners.retain(|listener| listener.send(line.clone()).is_ok());
    }

    fn policy(&self) -> Vec<u8> {
        let mut policy = serde_json::to_value(&self.policy).expect("JSON");
        if let Some(addition) = &self.addition {
            addition(&mut policy);
        }
        encoded(&serde_json::json!({"policy": policy}))
    }

    fn lease(&self) -> FeedLine {
        let valid_for_ms = u64::try_from(self.valid.as_millis()).unwrap_or(u64::MAX);
        FeedLine::Lease {
            lease: Lease {
                revision: self.policy.revision,
                valid_for_ms,
                sent_at: Some(jiff::Timestamp::now()),
            },
        }
    }
}

fn encoded(line: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("JSON");
    bytes.push(b'\n');
    bytes
}

pub(super) struct Feed {
    inner: Shared<Inner>,
    url: String,
    stop: CancellationToken,
}

impl Feed {
    pub(super) async fn serve(authority: &Authority, dir: &Path, policy: RegionPolicy) -> Self {
        let region = policy.region.clone();
        let (renewing, valid) = (true, Duration::from_secs(20));
        let inner = Arc::new(Mutex::new(Inner {
            policy,
            addition: None,
            renewing,
            valid,
            listeners: Vec::new(),
            acks: Vec::new(),
            checkpoints: Vec::new(),
            backlog: None,
        }));
        let tls_dir = dir.join("tls-operator");
        authority.issue(FEED_SERVICE, &tls_dir);
        let tls = Tls::load(&tls_dir, region).expect("a certificate of the region");
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let router = Router::new()
            .route("/v1/policy/stream", get(stream))
            .route("/v1/acks", post(take_ack))
            .route("/v1/checkpoints", post(take_checkpoint))
            .route("/v1/backlog", post(take_backlog))
            .with_state(Arc::clone(&inner));
        let stop = CancellationToken::new();
        let config = Arc::new(tls.server_config(Accept::OwnRegion).expect("a TLS set-up"));
        tokio::spawn(crate::server::serve_mtls(listener, router, config, stop.clone()));
        let ends = stop.clone();
        tokio::spawn(async move { tls.watch(ends).await });
        tokio::spawn(renew_again_and_again(Arc::clone(&inner), stop.clone()));
        Self { inner, url, stop }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn policy(&self) -> RegionPolicy {
        unlocked(&self.inner).policy.clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut RegionPolicy)) {
        let mut inner = unlocked(&self.inner);
        change(&mut inner.policy);
        inner.policy.revision = inner.policy.revision.next();
        let policy = inner.policy();
        inner.send_line(policy);
        if inner.renewing {
            let lease = inner.lease();
            inner.send(&lease);
        }
    }

    pub(super) fn say_more(&self, addition: impl Fn(&mut Value) + Send + 'static) {
        unlocked(&self.inner).addition = Some(Box::new(addition));
        self.change(|_| ());
    }

    pub(super) fn lose_lease(&self) {
        let mut inner = unlocked(&self.inner);
        inner.renewing = false;
        inner.send(&FeedLine::LeaseLost { lease_lost: true });
    }

    pub(super) fn stop_renewing(&self) {
        unlocked(&self.inner).renewing = false;
    }

    pub(super) fn renew(&self) {
        let mut inner = unlocked(&self.inner);
        inner.renewing = true;
        let lease = inner.lease();
        inner.send(&lease);
    }

    pub(super) fn set_duration(&self, valid: Duration) {
        unlocked(&self.inner).valid = valid;
    }

    pub(super) fn checkpoints(&self) -> Vec<Checkpoint> {
        unlocked(&self.inner).checkpoints.clone()
    }

    pub(super) fn acks(&self) -> Vec<(Instant, Ack)> {
        unlocked(&self.inner).acks.clone()
    }

    pub(super) fn backlog(&self) -> Option<Backlog> {
        unlocked(&self.inner).backlog.clone()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn renew_again_and_again(inner: Shared<Inner>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(RENEW_EVERY))
        .await
        .is_some()
    {
        let mut inner = unlocked(&inner);
        if inner.renewing {
            let lease = inner.lease();
            inner.send(&lease);
        }
    }
}

async fn stream(State(inner): State<Shared<Inner>>) -> Response {
    let (sender, receiver) = mpsc::unbounded_channel();
    {
        let mut inner = unlocked(&inner);
        let _ = sender.send(inner.policy());
        if inner.renewing {
            let _ = sender.send(encoded(&inner.lease()));
        }
        inner.listeners.push(sender);
    }
    let lines = futures::stream::unfold(receiver, |mut receiver| async {
        receiver
            .recv()
            .await
            .map(|line| (Ok::<_, std::convert::Infallible>(line), receiver))
    });
    Response::new(Body::from_stream(lines))
}

async fn take_checkpoint(State(inner): State<Shared<Inner>>, Json(checkpoint): Json<Checkpoint>) {
    unlocked(&inner).checkpoints.push(checkpoint);
}

async fn take_ack(State(inner): State<Shared<Inner>>, Json(ack): Json<Ack>) {
    unlocked(&inner).acks.push((Instant::now(), ack));
}

async fn take_backlog(State(inner): State<Shared<Inner>>, Json(backlog): Json<Backlog>) {
    unlocked(&inner).backlog = Some(backlog);
}
