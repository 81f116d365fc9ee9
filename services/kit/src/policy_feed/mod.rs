//! The region's policy as the region operator streams it, and the lease that says it is current.
//!
//! The file that the process starts from is only a beginning: it tells who is at home here, so that home-region work goes
//! on when nobody else can be reached. Whether data may leave needs [`PolicyFeed::lease_valid`], and that needs a renewal
//! seen by this very process, timed on the monotonic clock.

mod told;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use meridian_evidence::Checkpoint;
use meridian_policy::{PolicyRevision, RegionName, RegionPolicy};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use told::{Ack, AckRole, Backlog, FeedLine, Found, Lease, Verification};

use crate::client::ServiceClient;
use crate::tls::Tls;

/// The service name in the certificate of who serves the feed: `meridian://<region>/region-operator`.
pub const FEED_SERVICE: &str = "region-operator";
/// Silence after which the stream is taken for dead; renewals come every 5 s.
const SILENCE: Duration = Duration::from_secs(12);
/// A lease never counts longer than this, whatever the feed says.
const LONGEST_LEASE: Duration = Duration::from_secs(20);
/// The longest line of the feed.
const LINE_LIMIT_BYTES: usize = 16 * 1024 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why there is no policy, or an acknowledgement did not get through.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The file to start from cannot be used.
    #[error(
        "{path} is not the region's policy: {problem}; mount the ConfigMap meridian-policy at MERIDIAN_POLICY_FILE"
    )]
    Boot {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The region operator did not take the acknowledgement; repeat it.
    #[error("the region operator did not take the acknowledgement: {0}")]
    Ack(String),
    /// The region operator did not take the checkpoint; repeat it.
    #[error("the region operator did not take the checkpoint: {0}")]
    Checkpoint(String),
    /// The region operator did not take the backlog; the next report says it anew.
    #[error("the region operator did not take the backlog: {0}")]
    Backlog(String),
    /// The region operator did not take what the verifier found; the next report says it anew.
    #[error("the region operator did not take what was found: {0}")]
    Verification(String),
}

#[derive(Debug, Default)]
struct LeaseState {
    revision: PolicyRevision,
    until: Option<Deadline>,
    connected: bool,
}

/// An end on both clocks. The monotonic one cannot be set; the wall clock goes on while the machine is suspended. Whichever
/// comes first counts, so that neither a clock set back nor a machine that slept prolongs a lease.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    monotonic: Instant,
    wall: Timestamp,
}

impl Deadline {
    fn after(valid: Duration, heard: Instant, wall: Timestamp) -> Option<Self> {
        let wall = wall.checked_add(SignedDuration::try_from(valid).ok()?).ok()?;
        Some(Self {
            monotonic: heard.checked_add(valid)?,
            wall,
        })
    }

    fn remaining(self, now: Instant, wall: Timestamp) -> Option<Duration> {
        let monotonic = self.monotonic.checked_duration_since(now)?;
        let wall = Duration::try_from(self.wall.duration_since(wall)).ok()?;
        Some(monotonic.min(wall)).filter(|left| !left.is_zero())
    }
}

/// The live policy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PolicyFeed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    policy: watch::Sender<Arc<RegionPolicy>>,
    lease: Mutex<LeaseState>,
    client: Option<ServiceClient>,
}

impl PolicyFeed {
    /// A feed that begins with this policy and no lease. Without a client it changes only by [`PolicyFeed::receive`].
    #[must_use]
    pub fn new(policy: RegionPolicy, client: Option<ServiceClient>) -> Self {
        let (policy, _) = watch::channel(Arc::new(policy));
        Self {
            shared: Arc::new(Shared {
                policy,
                lease: Mutex::default(),
                client,
            }),
        }
    }

    /// A feed that begins with the policy in a file.
    ///
    /// # Errors
    /// When the file is not this region's policy.
    pub fn from_file(path: &Path, region: &RegionName, url: &str, tls: &Tls) -> Result<Self, FeedError> {
        let boot = |problem: String| FeedError::Boot {
            path: path.display().to_string(),
            problem,
        };
        let bytes = std::fs::read(path).map_err(|error| boot(error.to_string()))?;
        let policy = RegionPolicy::read_text(&bytes).map_err(|error| boot(error.to_string()))?;
        if policy.region != *region {
            return Err(boot(format!(
                "it is the policy of {}, and this is {region}",
                policy.region
            )));
        }
        let client = ServiceClient::streaming(tls, url, FEED_SERVICE).map_err(|error| boot(error.to_string()))?;
        Ok(Self::new(policy, Some(client)))
    }

    /// The policy as last heard.
    #[must_use]
    pub fn current(&self) -> Arc<RegionPolicy> {
        Arc::clone(&self.shared.policy.borrow())
    }

    /// Sees every change (the latest, when several came at once).
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<RegionPolicy>> {
        self.shared.policy.subscribe()
    }

    /// Whether the policy is known to be current right now. Ask at the moment of each transfer.
    #[must_use]
    pub fn lease_valid(&self) -> bool {
        self.lease_remaining().is_some()
    }

    /// How long the policy is still known to be current.
    #[must_use]
    pub fn lease_remaining(&self) -> Option<Duration> {
        let revision = self.shared.policy.borrow().revision;
        let lease = self.lease();
        // A lease for a revision that has not arrived yet vouches for a policy we do not have.
        if lease.revision > revision {
            return None;
        }
        lease.until?.remaining(Instant::now(), Timestamp::now())
    }

    /// Whether the stream is up.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.lease().connected
    }

    fn lease(&self) -> MutexGuard<'_, LeaseState> {
        self.shared.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one line of the feed, heard at `heard`.
    pub fn receive(&self, line: FeedLine, heard: Instant) {
        match line {
            FeedLine::Policy { policy } => self.adopt(*policy),
            FeedLine::Lease { lease } => {
                let wall = Timestamp::now();
                // Clocks that differ the other way make the age negative; it then counts as none.
                let age = lease
                    .sent_at
                    .and_then(|sent| Duration::try_from(wall.duration_since(sent)).ok());
                let valid = Duration::from_millis(lease.valid_for_ms).min(LONGEST_LEASE);
                let valid = valid.saturating_sub(age.unwrap_or_default());
                let mut state = self.lease();
                state.revision = lease.revision;
                state.until = Deadline::after(valid, heard, wall);
            }
            FeedLine::LeaseLost { .. } => self.lease().until = None,
        }
    }

    fn adopt(&self, policy: RegionPolicy) {
        let known = self.current();
        if policy.region != known.region {
            tracing::error!(region = %policy.region, "the feed sent another region's policy; it is ignored");
            return;
        }
        if policy.revision < known.revision {
            tracing::warn!(
                revision = policy.revision.0,
                "the feed sent an older policy; it is ignored"
            );
            return;
        }
        let changed = self.shared.policy.send_if_modified(|current| {
            let changed = **current != policy;
            if changed {
                *current = Arc::new(policy);
            }
            changed
        });
        if changed {
            let policy = self.current();
            tracing::info!(revision = policy.revision.0, "the policy changed");
            for edge in &policy.held {
                tracing::warn!(edge = %edge.id, error = %edge.because, "an edge is held: nothing passes along it until this service is upgraded");
            }
        }
    }

    /// Keeps the stream up until `stop`, pausing longer after each failure.
    pub async fn run(self, tls: Tls, stop: CancellationToken) {
        let Some(client) = self.shared.client.clone() else {
            stop.cancelled().await;
            return;
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let ended = stop.run_until_cancelled(self.follow(&client, &tls)).await;
            self.lease().connected = false;
            let Some((reason, heard_something)) = ended else { return };
            // The lease runs on: it ends by its own time, not because a connection broke.
            tracing::warn!(error = %reason, "the policy feed broke off; connecting again");
            pause = if heard_something {
                FIRST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Reads one connection to its end, and says why it ended and whether a line was heard.
    async fn follow(&self, client: &ServiceClient, tls: &Tls) -> (String, bool) {
        let mut response = match client.get("/v1/policy/stream").open().await {
            Ok(response) => response,
            Err(error) => return (error.to_string(), false),
        };
        self.lease().connected = true;
        let mut buffer = Vec::new();
        let mut heard_something = false;
        // Of the buffer, what is known to have no line's end in it.
        let mut searched = 0;
        loop {
            let chunk = match tokio::time::timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return ("the stream ended".to_owned(), heard_something),
                Ok(Err(error)) => return (error.without_url().to_string(), heard_something),
                Err(_) => {
                    return (
                        format!("nothing was heard for {} s", SILENCE.as_secs()),
                        heard_something,
                    );
                }
            };
            let heard = Instant::now();
            buffer.extend_from_slice(&chunk);
            while let Some(end) = memchr::memchr(b'\n', &buffer[searched..]) {
                let rest = buffer.split_off(searched + end + 1);
                let line = std::mem::replace(&mut buffer, rest);
                searched = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                match FeedLine::parse(&line) {
                    Ok(line) => {
                        heard_something = true;
                        self.receive(line, heard);
                        let policy = self.current();
                        tls.set_peer_cas(policy.peers.iter().map(|peer| (&peer.region, peer.ca_pem.as_str())));
                    }
                    Err(_) => return ("a line of the feed is not understood".to_owned(), heard_something),
                }
            }
            searched = buffer.len();
            if buffer.len() > LINE_LIMIT_BYTES {
                return ("a line of the feed is too long".to_owned(), heard_something);
            }
        }
    }

    /// Tells the region operator what was done about an edge.
    ///
    /// # Errors
    /// When it did not get through; repeat it.
    pub async fn acknowledge(&self, ack: &Ack) -> Result<(), FeedError> {
        self.tell("/v1/acks", ack, FeedError::Ack).await
    }

    /// Tells the region operator how far a chain of evidence has come.
    ///
    /// # Errors
    /// When it did not get through; repeat it.
    pub async fn tell_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), FeedError> {
        self.tell("/v1/checkpoints", checkpoint, FeedError::Checkpoint).await
    }

    /// Tells the region operator what the verifier found.
    ///
    /// # Errors
    /// When it did not get through.
    pub async fn report_verification(&self, verification: &Verification) -> Result<(), FeedError> {
        self.tell("/v1/verification", verification, FeedError::Verification)
            .await
    }

    /// Tells the region operator how many copies wait to leave.
    ///
    /// # Errors
    /// When it did not get through.
    pub async fn report_backlog(&self, backlog: &Backlog) -> Result<(), FeedError> {
        self.tell("/v1/backlog", backlog, FeedError::Backlog).await
    }

    async fn tell(
        &self,
        path: &str,
        what: &impl Serialize,
        untold: impl Fn(String) -> FeedError,
    ) -> Result<(), FeedError> {
        let client = self.shared.client.as_ref();
        let client = client.ok_or_else(|| untold("there is no connection".to_owned()))?;
        let told = client.post(path).json(what).idempotent().send().await;
        told.map(drop).map_err(|error| untold(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(region: &str, revision: u64) -> RegionPolicy {
        serde_json::from_value(json!({
            "region": region, "jurisdiction": region, "revision": revision, "public_url": "https://eu.example",
            "issuer": "https://eu.example", "countries_served": ["DE"], "homes": [], "directory": [], "peers": [],
            "exports": [], "imports": [], "retention": {}
        }))
        .expect("a policy")
    }

    fn renewal(revision: u64, valid_for_ms: u64) -> FeedLine {
        FeedLine::Lease {
            lease: Lease {
                revision: PolicyRevision(revision),
                valid_for_ms,
                sent_at: None,
            },
        }
    }

    #[test]
    fn nothing_is_known_to_be_current_before_a_renewal_is_seen() {
        let feed = PolicyFeed::new(policy("eu", 3), None);
        assert!(!feed.lease_valid());
        feed.receive(renewal(3, 20_000), Instant::now());
        assert!(feed.lease_valid());
    }

    #[test]
    fn a_lease_ends_by_its_time() {
        let feed = PolicyFeed::new(policy("eu", 3), None);
        let long_ago = Instant::now()
            .checked_sub(Duration::from_secs(21))
            .expect("the machine is up longer");
        feed.receive(renewal(3, 20_000), long_ago);
        assert!(!feed.lease_valid());
        // Whatever the feed promises, a lease is at most 20 s.
        feed.receive(renewal(3, 3_600_000), long_ago);
        assert!(!feed.lease_valid());
    }

    #[test]
    fn a_renewal_that_lay_in_a_buffer_is_as_old_as_it_is() {
        let feed = PolicyFeed::new(policy("eu", 3), None);
        let sent = |seconds: i64| {
            Timestamp::now()
                .checked_sub(SignedDuration::from_secs(seconds))
                .expect("a time")
        };
        let lease = |sent_at| Lease {
            revision: PolicyRevision(3),
            valid_for_ms: 20_000,
            sent_at: Some(sent_at),
        };
        feed.receive(FeedLine::Lease { lease: lease(sent(30)) }, Instant::now());
        assert!(!feed.lease_valid());
        feed.receive(FeedLine::Lease { lease: lease(sent(5)) }, Instant::now());
        assert!(feed.lease_remaining().expect("valid") <= Duration::from_secs(15));
        // A sender whose clock is ahead gains nothing.
        feed.receive(
            FeedLine::Lease {
                lease: lease(sent(-60)),
            },
            Instant::now(),
        );
        assert!(feed.lease_remaining().expect("valid") <= Duration::from_secs(20));
    }

    #[test]
    fn whichever_clock_says_so_first_ends_a_lease() {
        let (now, wall) = (Instant::now(), Timestamp::now());
        let lease = Deadline::after(Duration::from_secs(20), now, wall).expect("a deadline");
        let later = |seconds| {
            (
                now + Duration::from_secs(seconds),
                wall + SignedDuration::from_secs(seconds as i64),
            )
        };
        assert!(lease.remaining(later(19).0, later(19).1).is_some());
        assert!(
            lease.remaining(later(21).0, wall).is_none(),
            "the wall clock was set back"
        );
        assert!(lease.remaining(now, later(21).1).is_none(), "the machine slept");
    }

    #[test]
    fn a_lost_lease_ends_at_once() {
        let feed = PolicyFeed::new(policy("eu", 3), None);
        feed.receive(renewal(3, 20_000), Instant::now());
        feed.receive(FeedLine::LeaseLost { lease_lost: true }, Instant::now());
        assert!(!feed.lease_valid());
    }

    #[test]
    fn a_lease_for_a_policy_that_has_not_arrived_does_not_count() {
        let feed = PolicyFeed::new(policy("eu", 3), None);
        feed.receive(renewal(4, 20_000), Instant::now());
        assert!(!feed.lease_valid());
        feed.receive(
            FeedLine::Policy {
                policy: Box::new(policy("eu", 4)),
            },
            Instant::now(),
        );
        assert!(feed.lease_valid());
    }

    #[test]
    fn a_policy_never_goes_back_and_never_changes_region() {
        let feed = PolicyFeed::new(policy("eu", 3), None);
        feed.receive(
            FeedLine::Policy {
                policy: Box::new(policy("eu", 2)),
            },
            Instant::now(),
        );
        feed.receive(
            FeedLine::Policy {
                policy: Box::new(policy("us", 9)),
            },
            Instant::now(),
        );
        assert_eq!(feed.current().revision, PolicyRevision(3));
    }
}
