//! Who may come in now: bounded requests, bounded bytes on their way to Kafka, bounded files in memory, and quotas.
//! Whatever is over a bound is told so at once and when to come again; nothing waits without end.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meridian_kit::SubjectId;
use meridian_kit::metrics::Metrics;
use meridian_policy::TenantId;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::quota::{Bucket, Quota};
use crate::settings::Settings;

/// Requests with samples at once.
const REQUESTS: usize = 256;
/// Bytes of events that wait for Kafka; below the producer's own queue of 8 MiB, so that queue is never full.
const IN_FLIGHT_BYTES: usize = 6 << 20;
/// Files in memory at once, in MiB: two of the largest.
const FILE_MIB: usize = 64;
/// Files being parsed at once: the samples of a file may take fifty times its bytes.
const PARSES: usize = 2;
/// Tracks being read at once: a page of the largest takes about 30 MB until it is written out.
const READS: usize = 6;
/// Athletes whose quota is remembered.
const BUCKETS: usize = 65_536;
/// When to come again after a bound that frees itself within moments.
const SOON: Duration = Duration::from_secs(1);
/// How long a file or a reader waits for room.
const TURN: Duration = Duration::from_secs(5);

/// Why somebody is turned away.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub enum Reason {
    /// Too many requests at once.
    Requests,
    /// Kafka takes less than comes.
    InFlight,
    /// Too many files at once.
    Files,
    /// Too many tracks read at once.
    Reads,
    /// The athlete's quota.
    SubjectQuota,
    /// The tenant's quota.
    TenantQuota,
}

/// Not now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much at once ({reason:?}); repeat in {} s", .retry_after.as_secs())]
pub struct Shed {
    /// Why.
    pub reason: Reason,
    /// When to come again.
    pub retry_after: Duration,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    reason: Reason,
}

/// The bounds of one API process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admission {
    requests: Arc<Semaphore>,
    in_flight: Arc<Semaphore>,
    files: Arc<Semaphore>,
    parses: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    quotas: Arc<Quotas>,
    shed: Family<Labels, Counter>,
}

#[derive(Debug)]
struct Quotas {
    subject: Quota,
    tenant: Option<Quota>,
    began: Instant,
    subjects: Mutex<HashMap<(TenantId, SubjectId), Bucket>>,
    tenants: Mutex<HashMap<TenantId, Bucket>>,
}

impl Admission {
    /// With the pool's quotas.
    #[must_use]
    pub fn new(settings: &Settings, metrics: &Metrics) -> Self {
        let quotas = Quotas {
            subject: settings.subject,
            tenant: settings.tenant,
            began: Instant::now(),
            subjects: Mutex::default(),
            tenants: Mutex::default(),
        };
        Self {
            requests: Arc::new(Semaphore::new(REQUESTS)),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_BYTES)),
            files: Arc::new(Semaphore::new(FILE_MIB)),
            parses: Arc::new(Semaphore::new(PARSES)),
            reads: Arc::new(Semaphore::new(READS)),
            quotas: Arc::new(quotas),
            shed: metrics.register(
                "meridian_ingest_shed",
                "Requests turned away, by the bound that they met",
                Family::default(),
            ),
        }
    }

    fn shed(&self, reason: Reason, retry_after: Duration) -> Shed {
        self.shed.get_or_create(&Labels { reason }).inc();
        Shed { reason, retry_after }
    }

    /// Room for a request with samples, before its body is read.
    ///
    /// # Errors
    /// There is none.
    pub fn request(&self) -> Result<OwnedSemaphorePermit, Shed> {
        Arc::clone(&self.requests)
            .try_acquire_owned()
            .map_err(|_| self.shed(Reason::Requests, SOON))
    }

    /// Room to read a track; waits a moment.
    ///
    /// # Errors
    /// There is none.
    pub async fn read(&self) -> Result<OwnedSemaphorePermit, Shed> {
        self.turn(&self.reads, 1, Reason::Reads).await
    }

    /// Room for a file of so many bytes, before it is received; waits a moment.
    ///
    /// # Errors
    /// There is none.
    pub async fn file(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Shed> {
        let weight = u32::try_from(bytes.div_ceil(1 << 20).clamp(1, FILE_MIB)).unwrap_or(1);
        self.turn(&self.files, weight, Reason::Files).await
    }

    /// A turn to parse a file; waits a moment.
    ///
    /// # Errors
    /// There is none.
    pub async fn parse(&self) -> Result<OwnedSemaphorePermit, Shed> {
        self.turn(&self.parses, 1, Reason::Files).await
    }

    async fn turn(&self, room: &Arc<Semaphore>, weight: u32, reason: Reason) -> Result<OwnedSemaphorePermit, Shed> {
        let turn = tokio::time::timeout(TURN, Arc::clone(room).acquire_many_owned(weight)).await;
        // The semaphores are never closed.
        turn.ok().and_then(Result::ok).ok_or_else(|| self.shed(reason, TURN))
    }

    /// Room on the way to Kafka, now.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn in_flight(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Shed> {
        let permit = Arc::clone(&self.in_flight).try_acquire_many_owned(weight(bytes));
        permit.map_err(|_| self.shed(Reason::InFlight, SOON))
    }

    /// Room on the way to Kafka, waiting for it until `deadline`.
    ///
    /// # Errors
    /// There was none in time.
    pub(super) async fn in_flight_until(
        &self,
        bytes: usize,
        deadline: tokio::time::Instant,
    ) -> Result<OwnedSemaphorePermit, Shed> {
        let acquire = Arc::clone(&self.in_flight).acquire_many_owned(weight(bytes));
        let permit = tokio::time::timeout_at(deadline, acquire).await;
        permit
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| self.shed(Reason::InFlight, SOON))
    }

    /// Charges an athlete, and the tenant, with so many samples.
    ///
    /// # Errors
    /// One of them has no more for now; nothing is charged then.
    pub fn quota(&self, tenant: &TenantId, subject: SubjectId, samples: usize) -> Result<(), Shed> {
        let now = self.quotas.began.elapsed();
        // A batch is at most a few thousand.
        let samples = f64::from(u32::try_from(samples).unwrap_or(u32::MAX));
        let charged = |reason| move |wait: Duration| (reason, wait);
        let outcome = {
            let mut subjects = self.quotas.subjects.lock().unwrap_or_else(PoisonError::into_inner);
            let mut tenants = self.quotas.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            let quota = &self.quotas.subject;
            let before = *bucket(&mut subjects, (tenant.clone(), subject), quota, now);
            let own = bucket(&mut subjects, (tenant.clone(), subject), quota, now);
            own.take(quota, samples, now)
                .map_err(charged(Reason::SubjectQuota))
                .and_then(|()| {
                    let Some(quota) = &self.quotas.tenant else {
                        return Ok(());
                    };
                    let shared = bucket(&mut tenants, tenant.clone(), quota, now);
                    let taken = shared.take(quota, samples, now).map_err(charged(Reason::TenantQuota));
                    if taken.is_err() {
                        *bucket(&mut subjects, (tenant.clone(), subject), &self.quotas.subject, now) = before;
                    }
                    taken
                })
        };
        outcome.map_err(|(reason, wait)| self.shed(reason, wait))
    }
}

/// At least one, so that nothing passes a closed gate; at most all.
fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes.clamp(1, IN_FLIGHT_BYTES)).unwrap_or(1)
}

fn bucket<'a, K: Eq + Hash>(
    buckets: &'a mut HashMap<K, Bucket>,
    key: K,
    quota: &Quota,
    now: Duration,
) -> &'a mut Bucket {
    if buckets.len() >= BUCKETS && !buckets.contains_key(&key) {
        buckets.retain(|_, bucket| !bucket.is_full(quota, now));
        if buckets.len() >= BUCKETS {
            // All are in use: forgetting them forgives, remembering them would cost memory without bound.
            buckets.clear();
        }
    }
    buckets.entry(key).or_insert_with(|| Bucket::full(quota, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(tenant: Option<f64>) -> Admission {
        let quota = |burst| Quota { per_second: 1.0, burst };
        let settings = Settings {
            subject: quota(100.0),
            tenant: tenant.map(quota),
            ..Settings::default()
        };
        Admission::new(&settings, &Metrics::new("telemetry"))
    }

    fn stride() -> TenantId {
        "stride-eu".parse().expect("a tenant")
    }

    #[test]
    fn an_athlete_over_the_quota_waits_and_the_others_do_not() {
        let admission = admission(None);
        let (one, other) = (SubjectId::random(), SubjectId::random());
        assert_eq!(admission.quota(&stride(), one, 100), Ok(()));
        let shed = admission.quota(&stride(), one, 100).expect_err("must be shed");
        assert_eq!(shed.reason, Reason::SubjectQuota);
        assert!((98..=100).contains(&shed.retry_after.as_secs()), "{shed}");
        assert_eq!(admission.quota(&stride(), other, 100), Ok(()));
    }

    #[test]
    fn a_tenant_over_the_quota_costs_its_athletes_nothing() {
        let admission = admission(Some(150.0));
        let (one, other) = (SubjectId::random(), SubjectId::random());
        assert_eq!(admission.quota(&stride(), one, 100), Ok(()));
        assert_eq!(
            admission.quota(&stride(), other, 100).expect_err("must be shed").reason,
            Reason::TenantQuota
        );
        assert_eq!(
            admission.quota(&stride(), other, 50),
            Ok(()),
            "the athlete was not charged for what was shed"
        );
    }

    #[test]
    fn bytes_on_their_way_are_bounded_and_come_free() {
        let admission = admission(None);
        let permit = admission.in_flight(IN_FLIGHT_BYTES).expect("room");
        assert_eq!(
            admission.in_flight(1).expect_err("must be shed").reason,
            Reason::InFlight
        );
        drop(permit);
        assert!(admission.in_flight(1).is_ok());
    }

    #[test]
    fn requests_are_bounded() {
        let admission = admission(None);
        let held: Vec<_> = (0..REQUESTS).map(|_| admission.request().expect("room")).collect();
        assert_eq!(admission.request().expect_err("must be shed").reason, Reason::Requests);
        drop(held);
        assert!(admission.request().is_ok());
    }

    #[test]
    fn catalogue_metric_labels() {
        let metrics = Metrics::new("telemetry");
        let admission = Admission::new(&Settings::default(), &metrics);
        let _held = admission.in_flight(IN_FLIGHT_BYTES).expect("room");
        assert!(admission.in_flight(1).is_err());
        meridian_kit::testing::catalogue::assert_labels("telemetry", &metrics.encode());
    }
}
