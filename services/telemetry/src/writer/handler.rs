//! One round of batches: opened, checked, sealed again for its row, stored in one transaction per tenant.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use meridian_kit::db::{Pool, TenantTx};
use meridian_kit::event::Event;
use meridian_kit::kafka::{BatchHandler, Consumed, Failure};
use meridian_kit::metrics::Metrics;
use meridian_kit::residency::Homes;
use meridian_kit::subject_keys::{Error as KeyError, KeyRequest, KeyScope, Keyring, SubjectKey};
use meridian_policy::TenantId;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::domain::retention::Month;
use crate::ingest::{EVENT, Ingested, NotABatch, chunk_context};
use crate::store::{self, NewChunk};

#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
enum Reason {
    /// The athlete was erased, or the month's retention has ended: what arrives after that is not stored.
    KeyDestroyed,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    reason: Reason,
}

/// What the writer counts.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    records: Counter,
    batches: Counter,
    repeated: Counter,
    dropped: Family<Labels, Counter>,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            records: metrics.counter("meridian_ingest_records", "Samples stored, each counted once"),
            batches: metrics.counter("meridian_ingest_batches", "Batches taken from the topic and settled"),
            repeated: metrics.counter(
                "meridian_ingest_repeated",
                "Batches with samples that were stored before",
            ),
            dropped: metrics.register(
                "meridian_ingest_dropped",
                "Batches that may not be stored any more",
                Family::default(),
            ),
        }
    }
}

/// Stores batches.
pub(super) struct Chunks {
    pool: Pool,
    keyring: Keyring,
    homes: Homes,
    counts: Counts,
    /// Partitions that are known to be there.
    months: Mutex<HashSet<Month>>,
}

impl Chunks {
    pub(super) fn new(pool: Pool, keyring: Keyring, homes: Homes, counts: Counts) -> Self {
        Self {
            pool,
            keyring,
            homes,
            counts,
            months: Mutex::default(),
        }
    }

    /// The keys of a round, in the order of its events; none for a key that is gone.
    async fn keys(&self, events: &[Consumed<'_>]) -> Result<Vec<Option<SubjectKey>>, Failure> {
        let request = |event: &Event| KeyRequest {
            tenant: event.tenant.clone(),
            subject: event.data_subject,
            scope: event.key_scope.clone(),
            create: false,
        };
        // Each is asked for once, however many batches of an athlete a round has.
        let mut wanted: HashMap<KeyRequest, usize> = HashMap::new();
        let mut requests = Vec::new();
        for Consumed { event, .. } in events {
            wanted.entry(request(event)).or_insert_with_key(|request| {
                requests.push(request.clone());
                requests.len() - 1
            });
        }
        let mut answers = Vec::with_capacity(requests.len());
        for answer in self.keyring.keys(requests).await? {
            answers.push(match answer {
                Ok(key) => Some(key),
                // The API made the key before it sent the batch: if there is none, it was destroyed and forgotten.
                Err(KeyError::KeyDestroyed | KeyError::KeyAbsent) => None,
                Err(error) => return Err(error.into()),
            });
        }
        Ok(events
            .iter()
            .map(|Consumed { event, .. }| answers[wanted[&request(event)]].clone())
            .collect())
    }

    async fn make_months(&self, chunks: &[NewChunk]) -> Result<(), Failure> {
        let known = || self.months.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: HashSet<Month> = chunks
            .iter()
            .map(|chunk| chunk.month)
            .filter(|month| !known().contains(month))
            .collect();
        for month in missing {
            store::make_month(&self.pool, month).await?;
            known().insert(month);
        }
        Ok(())
    }

    async fn store(&self, tenant: &TenantId, events: &[&Event], chunks: Vec<NewChunk>) -> Result<u64, Failure> {
        // The tenant's epoch now, not the one of the acknowledgement: a batch that was acknowledged here before the epoch
        // rose is still this home's to keep. The fence holds against a process that missed the rise.
        let scope = self.homes.scope(tenant);
        let scope =
            scope.ok_or_else(|| Failure::Retry("the batch's tenant is not at home in this region".to_owned()))?;
        if events.iter().any(|event| event.epoch > scope.epoch()) {
            return Err(Failure::Unavailable(
                "the policy here is behind the batch's epoch".to_owned(),
            ));
        }
        self.make_months(&chunks).await?;
        let mut tx = TenantTx::begin(&self.pool, &scope).await?;
        let stored = store::insert(&mut tx, &chunks).await?;
        tx.commit().await?;
        Ok(stored)
    }
}

/// Opens a batch, checks it, and seals its chunk for its row.
fn prepare(event: &Event, key: &SubjectKey) -> Result<NewChunk, Failure> {
    let dead = |error: &dyn std::fmt::Display| Failure::Dead(format!("the batch cannot be stored: {error}"));
    if event.kind != EVENT {
        return Err(dead(&NotABatch::OtherType));
    }
    let KeyScope::Location { year, month } = *key.scope() else {
        return Err(dead(&"it is not sealed under a month's key"));
    };
    let payload: Ingested = event.open_with(key).map_err(|error| dead(&error))?;
    let samples = payload.samples(event).map_err(|error| dead(&error))?;
    let times = || samples.iter().map(|sample| sample.time_ms);
    let (Some(first_ms), Some(last_ms)) = (times().min(), times().max()) else {
        return Err(dead(&"it holds no samples"));
    };
    if !samples.iter().all(crate::domain::sample::Sample::has_plausible_time) {
        return Err(dead(&"a sample's time is impossible"));
    }
    let context = chunk_context(event.data_subject, payload.session_id, payload.batch_id);
    Ok(NewChunk {
        subject: event.data_subject,
        track: payload.session_id,
        batch: payload.batch_id,
        month: Month { year, month },
        first_ms,
        last_ms,
        // A chunk holds at most a few thousand.
        count: i32::try_from(samples.len()).unwrap_or(i32::MAX),
        sealed: key.seal(&context, &payload.chunk).map_err(|error| dead(&error))?,
    })
}

impl BatchHandler for Chunks {
    async fn handle(&self, events: &[Consumed<'_>]) -> Result<(), Failure> {
        let keys = self.keys(events).await?;
        let mut by_tenant: HashMap<&TenantId, (Vec<&Event>, Vec<NewChunk>)> = HashMap::new();
        let (mut gone, mut repeated) = (0, 0);
        let mut seen = HashSet::new();
        for (Consumed { event, .. }, key) in events.iter().zip(&keys) {
            let Some(key) = key else {
                gone += 1;
                continue;
            };
            let chunk = prepare(event, key)?;
            if !seen.insert((&event.tenant, event.id)) {
                repeated += 1;
                continue;
            }
            let (sources, chunks) = by_tenant.entry(&event.tenant).or_default();
            sources.push(event);
            chunks.push(chunk);
        }
        let mut stored = 0;
        for (tenant, (sources, chunks)) in by_tenant {
            let expected: u64 = chunks.iter().map(|chunk| u64::from(chunk.count.unsigned_abs())).sum();
            let new = self.store(tenant, &sources, chunks).await?;
            repeated += u64::from(new < expected);
            stored += new;
        }
        self.counts.records.inc_by(stored);
        self.counts.batches.inc_by(events.len() as u64);
        self.counts.repeated.inc_by(repeated);
        if gone > 0 {
            self.counts
                .dropped
                .get_or_create(&Labels {
                    reason: Reason::KeyDestroyed,
                })
                .inc_by(gone);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_metric_labels() {
        let metrics = Metrics::new("telemetry-writer");
        let reason = Reason::KeyDestroyed;
        Counts::new(&metrics).dropped.get_or_create(&Labels { reason }).inc();
        meridian_kit::testing::catalogue::assert_labels("telemetry", &metrics.encode());
    }
}
