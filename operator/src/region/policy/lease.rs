//! The policy lease: is what we hold still what the hub wants?
//!
//! The hub renews Lease `meridian-policy` every 5 s and not while a revocation is unapplied; a renewal counts for 20 s on
//! our own monotonic clock. What matters is not when we hear of a renewal but when it was made, and a watch cannot say
//! that: a stalled connection may deliver it late, and after a reconnection old ones are replayed. So the lease is
//! *asked* for, every second: a renewal that one look does not show and the next does was made after the first look was
//! *sent*, and from that moment it is timed. The first look after a start only says what is old.

use super::feed::Feed;
use crate::apply::Applier;
use crate::manifest::{LEASE, ObjectKey};
use crate::metrics::Metrics;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use meridian_policy::PolicyRevision;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Name of the Lease.
pub const LEASE_NAME: &str = "meridian-policy";
/// Annotation with the revision that the hub has in force.
pub const REVISION_ANNOTATION: &str = "meridian.sh/revision";
/// How long a renewal counts; the Lease may say less, never more.
pub const VALID: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One look at the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// When the request was sent.
    pub sent: Instant,
    /// `renewTime` and revision; `None` when there is no usable Lease.
    pub renewal: Option<Renewal>,
}

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Its `renewTime`, only ever compared for equality: it is another machine's clock.
    pub mark: String,
    /// The revision in force at the hub.
    pub revision: PolicyRevision,
    /// How long it counts.
    pub valid: Duration,
}

/// What is known of the lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The revision of the last fresh renewal.
    pub revision: PolicyRevision,
    /// Until when it counts.
    pub until: Option<Instant>,
}

impl Held {
    /// How long it counts from `now` on; `None` when it does not.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }
}

/// Follows looks; pure, so that every order of events has a test.
#[derive(Debug, Default)]
pub struct Follower {
    previous: Option<Look>,
    held: Held,
}

impl Follower {
    /// Takes a look; `Some` when it shows a fresh renewal.
    pub fn look(&mut self, look: Look) -> Option<Held> {
        let fresh = match (&self.previous, &look.renewal) {
            // Seen as absent or with another mark before: made after that look was sent.
            (Some(previous), Some(now)) if previous.renewal.as_ref().map(|r| &r.mark) != Some(&now.mark) => {
                Some(Held {
                    revision: now.revision,
                    until: Some(previous.sent + now.valid.min(VALID)),
                })
            }
            _ => None,
        };
        self.previous = Some(look);
        if let Some(held) = fresh {
            self.held = held;
        }
        fresh
    }

    /// `true` once, when the held lease has ended.
    pub fn ended(&mut self, now: Instant) -> bool {
        let ended = self.held.until.is_some_and(|until| until <= now);
        if ended {
            self.held.until = None;
        }
        ended
    }
}

fn renewal(lease: &Lease) -> Option<Renewal> {
    let LeaseSpec {
        renew_time,
        lease_duration_seconds,
        ..
    } = lease.spec.as_ref()?;
    let revision = lease
        .metadata
        .annotations
        .as_ref()?
        .get(REVISION_ANNOTATION)?
        .parse()
        .ok()?;
    let seconds = lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok())
        .unwrap_or(VALID.as_secs());
    Some(Renewal {
        mark: renew_time.as_ref()?.0.to_string(),
        revision,
        valid: Duration::from_secs(seconds),
    })
}

/// Looks every second until shutdown and tells the feed. A look that fails says nothing; the lease then ends by itself.
pub async fn follow(applier: Applier, namespace: String, feed: Feed, metrics: Metrics, shutdown: CancellationToken) {
    let key = ObjectKey::namespaced(LEASE, &namespace, LEASE_NAME);
    let mut follower = Follower::default();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let sent = Instant::now();
        match applier.read(&key).await {
            Ok(object) => {
                let lease = object.and_then(|o| serde_json::from_value::<Lease>(crate::apply::observed(&o)).ok());
                let renewal = lease.as_ref().and_then(renewal);
                if let Some(held) = follower.look(Look { sent, renewal }) {
                    metrics.lease_valid(true);
                    feed.renewed(held);
                }
            }
            Err(error) => {
                tracing::warn!(resource = LEASE_NAME, error = %error, "the policy lease could not be looked at")
            }
        }
        if follower.ended(Instant::now()) {
            tracing::warn!(
                resource = LEASE_NAME,
                "the policy lease ended without a fresh renewal: transfers stop"
            );
            metrics.lease_valid(false);
            feed.lost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: Instant, second: u64) -> Instant {
        base + Duration::from_secs(second)
    }

    fn look(base: Instant, second: u64, mark: &str) -> Look {
        let renewal = Renewal {
            mark: mark.to_owned(),
            revision: PolicyRevision(7),
            valid: VALID,
        };
        Look {
            sent: at(base, second),
            renewal: Some(renewal),
        }
    }

    #[test]
    fn what_was_there_at_the_start_is_not_fresh() {
        let (base, mut follower) = (Instant::now(), Follower::default());
        assert_eq!(follower.look(look(base, 0, "a")), None);
        assert_eq!(follower.look(look(base, 1, "a")), None);
        assert!(!follower.ended(at(base, 100)));
    }

    #[test]
    fn a_renewal_is_timed_from_the_look_before_it_not_from_when_it_was_heard_of() {
        let (base, mut follower) = (Instant::now(), Follower::default());
        follower.look(look(base, 0, "a"));
        let held = follower.look(look(base, 15, "b")).unwrap();
        assert_eq!(held.until, Some(at(base, 20)));
        assert_eq!(held.remaining(at(base, 16)), Some(Duration::from_secs(4)));
    }

    #[test]
    fn a_lease_ends_once_and_comes_back_with_the_next_renewal() {
        let (base, mut follower) = (Instant::now(), Follower::default());
        follower.look(look(base, 0, "a"));
        follower.look(look(base, 1, "b"));
        assert!(!follower.ended(at(base, 19)));
        assert!(follower.ended(at(base, 20)));
        assert!(!follower.ended(at(base, 21)));
        assert!(follower.look(look(base, 30, "c")).is_some());
    }

    #[test]
    fn a_lease_that_appears_is_fresh_and_one_without_a_revision_is_none() {
        let (base, mut follower) = (Instant::now(), Follower::default());
        follower.look(Look {
            sent: base,
            renewal: None,
        });
        assert!(follower.look(look(base, 1, "a")).is_some());
        let bare: Lease = serde_json::from_value(
            serde_json::json!({"metadata": {}, "spec": {"renewTime": "2026-11-21T00:00:00.000000Z"}}),
        )
        .unwrap();
        assert_eq!(renewal(&bare), None);
    }

    #[test]
    fn a_lease_may_count_for_less_than_20_s_and_never_for_more() {
        let base = Instant::now();
        for (says, counts) in [(5, 5), (3600, 20)] {
            let mut follower = Follower::default();
            follower.look(look(base, 0, "a"));
            let renewal = Renewal {
                mark: "b".into(),
                revision: PolicyRevision(1),
                valid: Duration::from_secs(says),
            };
            let held = follower
                .look(Look {
                    sent: at(base, 1),
                    renewal: Some(renewal),
                })
                .unwrap();
            assert_eq!(held.until, Some(at(base, counts)));
        }
    }
}
