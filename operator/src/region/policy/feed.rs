//! The policy feed: `GET /v1/policy/stream` (NDJSON), `POST /v1/acks` and `POST /v1/checkpoints`, over mTLS with the region's CA.
//!
//! A stream begins with the policy and, when there is one, the lease with what is left of it; then come changes of both.
//! An empty line every few seconds tells the reader that the connection lives.

use super::acks::Acks;
use super::backlog::Backlogs;
use super::lease::Held;
use super::verified::Verifications;
use crate::metrics::Metrics;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures::stream::unfold;
use jiff::Timestamp;
use meridian_evidence::Checkpoint;
use meridian_kit::headers::CONTENT_TYPE;
use meridian_kit::policy_feed::{Ack, Backlog, FeedLine, Lease, Verification};
use meridian_kit::problem::{Json, Problem};
use meridian_kit::tls::PeerId;
use meridian_policy::RegionPolicy;
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Shorter than the silence after which kit takes a stream for dead (12 s).
const HEARTBEAT: Duration = Duration::from_secs(4);

/// What is in force, for whoever follows it. Clones share it.
#[derive(Clone, Default)]
pub struct Feed {
    policy: Arc<watch::Sender<Option<Published>>>,
    lease: Arc<watch::Sender<Held>>,
}

/// [`FeedLine::Policy`], of a policy that lies elsewhere.
#[derive(Serialize)]
struct PolicyLine<'a> {
    policy: &'a RegionPolicy,
}

/// A policy, and the line that tells it to all who follow.
#[derive(Clone)]
struct Published {
    policy: Arc<RegionPolicy>,
    line: Bytes,
}

impl Feed {
    /// A policy is in force; the same one again is not told anew.
    pub fn publish(&self, policy: &RegionPolicy) {
        if self.policy().is_some_and(|known| *known == *policy) {
            return;
        }
        let policy = Arc::new(policy.clone());
        match line(&PolicyLine { policy: &policy }) {
            Ok(line) => drop(self.policy.send_replace(Some(Published { policy, line }))),
            // Types that serialise by derive always do.
            Err(error) => tracing::error!(%error, "a policy cannot be told, and the one before it stays in force"),
        }
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Option<Arc<RegionPolicy>> {
        self.policy.borrow().as_ref().map(|known| Arc::clone(&known.policy))
    }

    /// The lease was freshly renewed.
    pub fn renewed(&self, held: Held) {
        self.lease.send_replace(held);
    }

    /// The lease ended.
    pub fn lost(&self) {
        self.lease.send_modify(|held| held.until = None);
    }

    /// Whether a fresh lease is held now.
    #[must_use]
    pub fn lease_valid(&self) -> bool {
        self.lease.borrow().remaining(Instant::now()).is_some()
    }

    /// Sees each renewal and loss.
    #[must_use]
    pub fn leases(&self) -> watch::Receiver<Held> {
        self.lease.subscribe()
    }
}

#[derive(Clone)]
struct Served {
    feed: Feed,
    acks: Acks,
    backlogs: Backlogs,
    verifications: Verifications,
    metrics: Metrics,
}

/// The routes of the feed. The server puts the caller's [`PeerId`] into the extensions.
pub fn router(feed: Feed, acks: Acks, backlogs: Backlogs, verifications: Verifications, metrics: Metrics) -> Router {
    Router::new()
        .route("/v1/policy/stream", get(stream))
        .route("/v1/acks", post(acknowledge))
        .route("/v1/checkpoints", post(checkpoint))
        .route("/v1/backlog", post(report_backlog))
        .route("/v1/verification", post(report_verification))
        .with_state(Served {
            feed,
            acks,
            backlogs,
            verifications,
            metrics,
        })
}

async fn stream(State(served): State<Served>) -> Result<Response, Problem> {
    if served.feed.policy().is_none() {
        return Err(Problem::unavailable(
            "no-policy-yet",
            "no policy is in force here yet; ask again",
        ));
    }
    let follower = Follower::new(&served.feed, served.metrics);
    let lines = unfold(follower, |mut follower| async move {
        Some((Ok::<_, Infallible>(follower.next().await), follower))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn acknowledge(
    State(served): State<Served>,
    Extension(caller): Extension<PeerId>,
    Json(ack): Json<Ack>,
) -> Result<StatusCode, Problem> {
    if caller.service != "replicator" {
        return Err(Problem::forbidden(
            "not-the-replicator",
            "only the replicator acknowledges cut edges",
        ));
    }
    served.acks.record(&ack).await.map_err(|error| {
        tracing::warn!(edge = %ack.edge, error = %error, "an acknowledgement could not be kept");
        Problem::unavailable("ack-not-kept", "the acknowledgement could not be kept; repeat it")
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a checkpoint from the service that writes the chain, and from nobody else.
async fn checkpoint(
    State(served): State<Served>,
    Extension(caller): Extension<PeerId>,
    Json(checkpoint): Json<Checkpoint>,
) -> Result<StatusCode, Problem> {
    let chain = &checkpoint.chain;
    if (chain.region(), chain.service()) != (caller.region.as_str(), caller.service.as_str()) {
        return Err(Problem::forbidden(
            "not-its-chain",
            "a service tells of its own chain of evidence only",
        ));
    }
    if checkpoint.verify().is_err() {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "not-signed",
            "the checkpoint is not signed by the key that it names",
        ));
    }
    served.acks.record_checkpoint(&checkpoint).await.map_err(|error| {
        tracing::warn!(error = %error, "a checkpoint of evidence could not be kept");
        Problem::unavailable("checkpoint-not-kept", "the checkpoint could not be kept; repeat it")
    })?;
    Ok(StatusCode::NO_CONTENT)
}

async fn report_backlog(
    State(served): State<Served>,
    Extension(caller): Extension<PeerId>,
    Json(backlog): Json<Backlog>,
) -> Result<StatusCode, Problem> {
    if caller.service != "replicator" {
        return Err(Problem::forbidden(
            "not-the-replicator",
            "only the replicator knows what waits",
        ));
    }
    served.backlogs.record(&backlog).await.map_err(|error| {
        tracing::warn!(error = %error, "the backlog could not be told");
        Problem::unavailable(
            "backlog-not-kept",
            "the backlog could not be kept; the next report says it anew",
        )
    })?;
    Ok(StatusCode::NO_CONTENT)
}

async fn report_verification(
    State(served): State<Served>,
    Extension(caller): Extension<PeerId>,
    Json(verification): Json<Verification>,
) -> Result<StatusCode, Problem> {
    if caller.service != "verifier" {
        return Err(Problem::forbidden(
            "not-the-verifier",
            "only the verifier says what it found",
        ));
    }
    served.verifications.record(&verification).await.map_err(|error| {
        tracing::warn!(error = %error, "what the verifier found could not be kept");
        Problem::unavailable(
            "verification-not-kept",
            "what was found could not be kept; the next report says it anew",
        )
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// One connection's view of the feed.
struct Follower {
    policy: watch::Receiver<Option<Published>>,
    lease: watch::Receiver<Held>,
    metrics: Metrics,
}

impl Follower {
    fn new(feed: &Feed, metrics: Metrics) -> Self {
        metrics.feed_watchers(1);
        let (mut policy, mut lease) = (feed.policy.subscribe(), feed.lease.subscribe());
        policy.mark_changed();
        // Without a lease at the start there is nothing to tell of it.
        if lease.borrow().remaining(Instant::now()).is_some() {
            lease.mark_changed();
        } else {
            lease.mark_unchanged();
        }
        Self { policy, lease, metrics }
    }

    async fn next(&mut self) -> Bytes {
        loop {
            // The policy first: a lease vouches for a revision that the reader must have.
            tokio::select! {
                biased;
                Ok(()) = self.policy.changed() => {
                    if let Some(published) = &*self.policy.borrow_and_update() {
                        return published.line.clone();
                    }
                }
                Ok(()) = self.lease.changed() => {
                    if let Ok(line) = line(&lease_line(*self.lease.borrow_and_update(), Instant::now())) {
                        return line;
                    }
                }
                () = tokio::time::sleep(HEARTBEAT) => return Bytes::from_static(b"\n"),
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.metrics.feed_watchers(-1);
    }
}

fn line(told: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    let mut text = serde_json::to_vec(told)?;
    text.push(b'\n');
    Ok(Bytes::from(text))
}

fn lease_line(held: Held, now: Instant) -> FeedLine {
    match held.remaining(now) {
        Some(left) => {
            let valid_for_ms = u64::try_from(left.as_millis()).unwrap_or(0);
            FeedLine::Lease {
                lease: Lease {
                    revision: held.revision,
                    valid_for_ms,
                    sent_at: Some(Timestamp::now()),
                },
            }
        }
        None => FeedLine::LeaseLost { lease_lost: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::stack::validate::example;
    use meridian_policy::PolicyRevision;

    fn held(seconds: u64) -> Held {
        Held {
            revision: PolicyRevision(7),
            until: Some(Instant::now() + Duration::from_secs(seconds)),
        }
    }

    fn parsed(line: &Bytes) -> FeedLine {
        assert!(line.ends_with(b"\n"));
        serde_json::from_slice(line).unwrap()
    }

    #[tokio::test]
    async fn a_stream_begins_with_the_policy_and_then_what_is_left_of_the_lease() {
        let feed = Feed::default();
        feed.publish(&example().policy);
        feed.renewed(held(10));
        let mut follower = Follower::new(&feed, Metrics::default());
        assert!(matches!(parsed(&follower.next().await), FeedLine::Policy { .. }));
        let FeedLine::Lease { lease } = parsed(&follower.next().await) else {
            panic!("a lease")
        };
        assert!(lease.valid_for_ms <= 10_000 && lease.valid_for_ms > 8_000);
    }

    #[tokio::test]
    async fn a_change_and_a_lost_lease_are_told_and_the_same_policy_is_not_told_twice() {
        let feed = Feed::default();
        let mut policy = example().policy;
        feed.publish(&policy);
        let mut follower = Follower::new(&feed, Metrics::default());
        follower.next().await;
        feed.publish(&policy);
        feed.renewed(held(10));
        assert!(matches!(parsed(&follower.next().await), FeedLine::Lease { .. }));
        policy.revision = policy.revision.next();
        feed.publish(&policy);
        feed.lost();
        assert!(
            matches!(parsed(&follower.next().await), FeedLine::Policy { policy } if policy.revision == PolicyRevision(8))
        );
        assert_eq!(parsed(&follower.next().await), FeedLine::LeaseLost { lease_lost: true });
    }

    #[test]
    fn a_lease_that_has_run_out_is_told_as_lost() {
        let base = Instant::now();
        let ended = Held {
            revision: PolicyRevision(7),
            until: Some(base),
        };
        assert_eq!(lease_line(ended, base), FeedLine::LeaseLost { lease_lost: true });
    }
}
