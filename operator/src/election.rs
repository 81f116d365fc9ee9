//! One writer per role: a `coordination.k8s.io` Lease.
//!
//! The holder renews every [`Timing::retry`]; when it has not managed to for [`Timing::renew_deadline`], counted on its own
//! monotonic clock from *before* the last renewal was sent, it may not write any more. That is earlier than the
//! end of the lease by more than one request may take ([`crate::apply::REQUEST_TIMEOUT`]), so its last write has ended
//! before anybody else can begin. Candidates trust no clock but their own either: they take the lease when they have seen
//! it unchanged for its whole duration, or at once when it was released, which a watch tells them.

use crate::metrics::Metrics;
use crate::tasks::RunError;
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a lease lasts and how often it is renewed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long others wait without seeing a renewal before they take over.
    pub duration: Duration,
    /// How long the holder writes without having renewed.
    pub renew_deadline: Duration,
    /// Between attempts, of the holder and of candidates.
    pub retry: Duration,
}

impl Default for Timing {
    /// 12 s, 7 s, 1 s: a replica that was killed is replaced within 15 s, one that left within 2 s.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(12),
            renew_deadline: Duration::from_secs(7),
            retry: Duration::from_secs(1),
        }
    }
}

/// Whether this process may write. Clones share the answer.
#[derive(Clone)]
pub struct Leadership {
    /// Milliseconds after `base` until which writes are allowed; zero before the first acquisition.
    until: Arc<AtomicU64>,
    base: Instant,
    /// What must hold besides.
    bounds: Option<Arc<Leadership>>,
    writes: Writes,
}

/// The writes of a process that are on their way, wherever they go, and whether more may begin.
#[derive(Clone)]
struct Writes {
    under_way: Arc<watch::Sender<usize>>,
    ended: Arc<AtomicBool>,
}

impl Writes {
    fn none() -> Self {
        Self {
            under_way: Arc::new(watch::Sender::new(0)),
            ended: Arc::default(),
        }
    }
}

/// A write that is on its way, until this is dropped.
#[must_use]
pub struct Writing(Writes);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|writes| *writes -= 1);
    }
}

impl Leadership {
    /// Nobody's leadership: every write is refused until an [`Election`] grants it.
    #[must_use]
    pub fn none() -> Self {
        Self {
            until: Arc::new(AtomicU64::new(0)),
            base: Instant::now(),
            bounds: None,
            writes: Writes::none(),
        }
    }

    /// A process that needs no election (tests, command-line tools).
    #[must_use]
    pub fn alone() -> Self {
        let alone = Self::none();
        alone.until.store(u64::MAX, Ordering::SeqCst);
        alone
    }

    /// The same leadership in one place, which has to be granted too: until it is, writes there are refused.
    #[must_use]
    pub fn within(&self) -> Self {
        Self {
            bounds: Some(Arc::new(self.clone())),
            writes: self.writes.clone(),
            ..Self::none()
        }
    }

    /// Whether a write may begin now.
    #[must_use]
    pub fn may_write(&self) -> bool {
        if self.writes.ended.load(Ordering::SeqCst) {
            return false;
        }
        let now = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX);
        now < self.until.load(Ordering::SeqCst) && self.bounds.as_ref().is_none_or(|bounds| bounds.may_write())
    }

    /// Begins a write, if one may begin now.
    #[must_use]
    pub fn begin_write(&self) -> Option<Writing> {
        // Counted first: who ends all writes sees it, or it sees that they have ended.
        self.writes.under_way.send_modify(|writes| *writes += 1);
        let writing = Writing(self.writes.clone());
        self.may_write().then_some(writing)
    }

    /// No write begins any more, here and in every place; returns when those that are on their way have been answered or
    /// given up. A write that is dropped instead may still be done when somebody else leads.
    pub async fn end_writes(&self) {
        self.writes.ended.store(true, Ordering::SeqCst);
        let mut under_way = self.writes.under_way.subscribe();
        let limit = crate::apply::REQUEST_TIMEOUT;
        // The sender lives in self, so waiting ends with the condition, or by the time that no write outlasts.
        let _ = tokio::time::timeout(limit, under_way.wait_for(|writes| *writes == 0)).await;
    }

    pub(crate) fn grant(&self, until: Instant) {
        let millis = until.saturating_duration_since(self.base).as_millis();
        self.until
            .store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    pub(crate) fn revoke(&self) {
        self.until.store(0, Ordering::SeqCst);
    }
}

/// On shutdown: no write begins any more, and what writes is stopped once those that are under way have ended.
pub(crate) async fn end_writes(
    leadership: Leadership,
    shutdown: CancellationToken,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    shutdown.cancelled().await;
    leadership.end_writes().await;
    stop.cancel();
    Ok(())
}

/// A candidacy for one lease.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    leadership: Leadership,
    metrics: Metrics,
}

/// What a look at the lease says to do. Pure, so that every case has a test.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create,
    Renew,
    Take,
    Wait,
}

/// The lease as a candidate last saw it, and since when it has not changed.
struct Seen {
    version: Option<String>,
    since: Instant,
}

fn step(spec: Option<&LeaseSpec>, identity: &str, unchanged_for: Duration, own_duration: Duration) -> Step {
    let Some(spec) = spec else { return Step::Create };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder == identity {
        return Step::Renew;
    }
    let declared = spec
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok())
        .map(Duration::from_secs);
    // A holder of another version may have declared a longer lease than ours: it keeps it.
    let duration = declared.map_or(own_duration, |d| d.max(own_duration));
    if holder.is_empty() || unchanged_for >= duration {
        Step::Take
    } else {
        Step::Wait
    }
}

impl Election {
    /// A candidate `identity` (the pod's name) for the lease `name`. The leadership starts as refused.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing, metrics: Metrics) -> Self {
        let api = Api::namespaced(client, namespace);
        Self {
            api,
            name: name.to_owned(),
            identity: identity.to_owned(),
            timing,
            leadership: Leadership::none(),
            metrics,
        }
    }

    /// The answer that writers ask.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Waits until this process holds the lease; returns `false` when shutdown came first.
    pub async fn acquire(&mut self, shutdown: &CancellationToken) -> bool {
        let only_this = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut changes = pin!(watcher(self.api.clone(), only_this).default_backoff());
        let mut seen = Seen {
            version: None,
            since: Instant::now(),
        };
        loop {
            if self.attempt(&mut seen).await {
                tracing::info!(resource = %self.name, "leading");
                self.metrics.leader(true);
                return true;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep(self.timing.retry) => {}
                _ = changes.next() => {}
            }
        }
    }

    /// Keeps the lease until shutdown. It is released by [`Self::releaser`], after the last writer has stopped.
    ///
    /// # Errors
    /// When the lease was lost. The leadership refuses writes from that moment; the process should end.
    pub async fn hold(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let mut seen = Seen {
            version: None,
            since: Instant::now(),
        };
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(self.timing.retry) => {}
            }
            let renewed = self.attempt(&mut seen).await;
            if !renewed && !self.leadership.may_write() {
                if self.leadership.writes.ended.load(Ordering::SeqCst) {
                    break;
                }
                self.metrics.leader(false);
                return Err(RunError::LeaseLost(format!(
                    "lease {} could not be renewed in time",
                    self.name
                )));
            }
        }
        Ok(())
    }

    /// Gives the lease up, so that the next candidate need not wait for its end. Writes are refused from here on.
    pub async fn release(api: Api<Lease>, name: &str, identity: &str, leadership: &Leadership) {
        leadership.revoke();
        let released = async {
            let mut lease = api.get(name).await?;
            let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.clone());
            if holder.as_deref() == Some(identity) {
                if let Some(spec) = lease.spec.as_mut() {
                    spec.holder_identity = None;
                    spec.renew_time = Some(MicroTime(Timestamp::now()));
                }
                api.replace(name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(crate::apply::REQUEST_TIMEOUT, released).await {
            Ok(Ok(())) => tracing::info!(resource = name, "released"),
            Ok(Err(error)) => {
                tracing::warn!(resource = name, error = %error, "could not be released; others wait for its end")
            }
            Err(_) => tracing::warn!(
                resource = name,
                "could not be released in time; others wait for its end"
            ),
        }
    }

    /// A function to release the lease after the last writer has stopped; servers may still finish what they were asked.
    pub fn releaser(&self) -> impl FnOnce() -> futures::future::BoxFuture<'static, ()> + Send + 'static {
        let (api, name, identity) = (self.api.clone(), self.name.clone(), self.identity.clone());
        let leadership = self.leadership.clone();
        move || Box::pin(async move { Self::release(api, &name, &identity, &leadership).await })
    }

    /// One try to create, renew or take the lease; true when it is ours afterwards.
    async fn attempt(&self, seen: &mut Seen) -> bool {
        let sent = Instant::now();
        let limit = self.timing.retry.max(Duration::from_secs(2));
        match tokio::time::timeout(limit, self.try_once(seen)).await {
            Ok(Ok(true)) => {
                self.leadership.grant(sent + self.timing.renew_deadline);
                true
            }
            Ok(Ok(false)) => {
                // Seen with another holder: whatever was granted before is over.
                self.leadership.revoke();
                false
            }
            Ok(Err(error)) => {
                tracing::warn!(resource = %self.name, error = %error, "lease not renewed");
                false
            }
            Err(_) => {
                tracing::warn!(resource = %self.name, "lease not renewed in time");
                false
            }
        }
    }

    async fn try_once(&self, seen: &mut Seen) -> Result<bool, kube::Error> {
        let current = self.api.get_opt(&self.name).await?;
        let version = current.as_ref().and_then(ResourceExt::resource_version);
        if version != seen.version {
            *seen = Seen {
                version,
                since: Instant::now(),
            };
        }
        let spec = current.as_ref().and_then(|l| l.spec.as_ref());
        let step = step(spec, &self.identity, seen.since.elapsed(), self.timing.duration);
        let params = PostParams {
            field_manager: Some("meridian-election".to_owned()),
            ..PostParams::default()
        };
        let renews = matches!(step, Step::Renew);
        let written = match step {
            Step::Wait => return Ok(false),
            Step::Create => self.api.create(&params, &self.lease(None, true)).await,
            // The resource version in the metadata makes two takers' writes exclude each other.
            Step::Renew => self.api.replace(&self.name, &params, &self.lease(current, false)).await,
            Step::Take => self.api.replace(&self.name, &params, &self.lease(current, true)).await,
        };
        match written {
            Ok(lease) => {
                *seen = Seen {
                    version: lease.resource_version(),
                    since: Instant::now(),
                };
                Ok(true)
            }
            // Of a holder, this may be an own write that was given up and arrived late: the next look tells.
            Err(kube::Error::Api(status)) if !renews && (status.is_conflict() || status.is_already_exists()) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn lease(&self, current: Option<Lease>, taking: bool) -> Lease {
        let mut lease = current.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let mut spec = lease.spec.take().unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        if taking {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = i32::try_from(self.timing.duration.as_secs()).ok();
        Lease {
            spec: Some(spec),
            ..lease
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn writes_end_when_those_on_their_way_have_and_none_begins_after() {
        let whole = Leadership::alone();
        let place = whole.within();
        place.grant(Instant::now() + Duration::from_secs(60));
        let writing = place.begin_write().unwrap();
        let ending = tokio::spawn({
            let whole = whole.clone();
            async move { whole.end_writes().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!ending.is_finished());
        assert!(whole.begin_write().is_none() && place.begin_write().is_none());
        drop(writing);
        ending.await.unwrap();
        whole.grant(Instant::now() + Duration::from_secs(60));
        assert!(!whole.may_write(), "what has ended does not begin anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_never_answered_holds_the_end_up_no_longer_than_it_may_take() {
        let whole = Leadership::alone();
        let _writing = whole.begin_write().unwrap();
        let began = Instant::now();
        whole.end_writes().await;
        assert_eq!(began.elapsed().as_secs(), crate::apply::REQUEST_TIMEOUT.as_secs());
    }

    #[test]
    fn a_leadership_in_one_place_ends_with_the_whole() {
        let (whole, until) = (Leadership::none(), Instant::now() + Duration::from_secs(60));
        let place = whole.within();
        place.grant(until);
        assert!(!place.may_write());
        whole.grant(until);
        assert!(place.may_write() && !whole.within().may_write());
        whole.revoke();
        assert!(!place.may_write());
    }

    const OWN: Duration = Duration::from_secs(12);

    fn held_by(holder: Option<&str>, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(ToOwned::to_owned),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_free_or_released_lease_is_taken_at_once_and_a_held_one_only_after_its_whole_duration() {
        assert_eq!(step(None, "me", Duration::ZERO, OWN), Step::Create);
        assert_eq!(step(Some(&held_by(None, 12)), "me", Duration::ZERO, OWN), Step::Take);
        assert_eq!(
            step(
                Some(&held_by(Some("other"), 12)),
                "me",
                Duration::from_millis(11_999),
                OWN
            ),
            Step::Wait
        );
        assert_eq!(step(Some(&held_by(Some("other"), 12)), "me", OWN, OWN), Step::Take);
        assert_eq!(
            step(Some(&held_by(Some("me"), 12)), "me", Duration::ZERO, OWN),
            Step::Renew
        );
    }

    #[test]
    fn a_holder_that_declared_a_longer_lease_keeps_it() {
        let spec = held_by(Some("other"), 60);
        assert_eq!(step(Some(&spec), "me", Duration::from_secs(59), OWN), Step::Wait);
        assert_eq!(step(Some(&spec), "me", Duration::from_secs(60), OWN), Step::Take);
    }

    #[tokio::test]
    async fn the_loser_stops_writing_before_its_lease_can_be_taken() {
        let (timing, leadership) = (Timing::default(), Leadership::none());
        assert!(!leadership.may_write());
        leadership.grant(Instant::now() + timing.renew_deadline);
        assert!(leadership.may_write());
        let sent_long_ago = Instant::now()
            .checked_sub(timing.renew_deadline)
            .unwrap_or_else(Instant::now);
        leadership.grant(sent_long_ago + timing.renew_deadline);
        assert!(!leadership.may_write());
        assert!(timing.renew_deadline + crate::apply::REQUEST_TIMEOUT < timing.duration);
    }

    #[tokio::test]
    async fn a_revoked_leader_may_not_write() {
        let leadership = Leadership::alone();
        assert!(leadership.may_write());
        leadership.revoke();
        assert!(!leadership.may_write());
    }
}
