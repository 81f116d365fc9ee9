//! Row 7: load on eu's IngestPool. The writers become more and, when it is over, as few as before; samples acknowledged =
//! samples stored, none twice, though every twentieth batch is sent again on purpose.
//!
//! One writer stores more than one machine's gateway takes in, so the load alone makes no backlog: it begins while the
//! writers that are there hang, frozen by the container runtime. What piles up makes the operator start more of them; then
//! the frozen ones go on, and are found to have stored nothing twice. One athlete sends more than the quota admits, and
//! waits as the answer says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::Api;
use meridian_crds::IngestPool;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use crate::athlete::Athlete;
use crate::rows::Outcome;
use crate::rows::frozen::Frozen;
use crate::world::{Site, World, until};

const POOL: &str = "eu-telemetry";
const DEPLOYMENT: &str = "ingest-eu-telemetry";
/// Athletes whose devices deliver at once.
const DEVICES: usize = 8;
/// Requests of one device at once.
const LANES: usize = 16;
/// Batches that one device delivers at once.
const AT_ONCE: usize = 40;
/// Seconds of samples in a batch; what is delivered until the pool has grown is below the quota.
const SAMPLES: usize = 20;
/// Every so many batches one is sent again though it was acknowledged.
const RESENT: usize = 20;
/// The quota saves up ten minutes of 50 samples a second: 30 of the largest batches. One that is sent again is too many.
const LARGEST: usize = 1000;
const QUOTA: usize = 30;

/// For the whole row.
const ROW: Duration = Duration::from_secs(150);
const AT_REST: Duration = Duration::from_secs(35);
const GROWS: Duration = Duration::from_secs(50);
const STORED: Duration = Duration::from_secs(20);
/// The pool waits half a minute before it takes writers away.
pub(super) const SHRINKS: Duration = Duration::from_secs(60);

pub async fn prove(world: &World) -> Result<Outcome> {
    let proved = tokio::time::timeout(ROW, up_and_down(world)).await;
    proved.with_context(|| format!("not proved within {} s", ROW.as_secs()))?
}

async fn up_and_down(world: &World) -> Result<Outcome> {
    let eu = &world.eu;
    let few = at_rest(eu, AT_REST).await?;
    let mut greedy = Device::new(eu).await?;
    let (grown, turned_away) = tokio::try_join!(grow(eu, few), over_quota(eu, &mut greedy))?;
    let quota = none_lost_none_twice(eu, &[greedy]).await?;

    let began = Instant::now();
    ensure!(
        at_rest(eu, SHRINKS).await? == few,
        "the pool's minimum changed meanwhile"
    );
    Ok(Outcome::Proved(format!(
        "{few} → {} → {few} writers (up after {:.0} s of load on one that hung, down {:.0} s after the last; most waiting {}); \
         {} samples in {} batches acknowledged = stored, {} batches sent twice, {turned_away} answers 429 obeyed",
        grown.writers,
        grown.after.as_secs_f64(),
        began.elapsed().as_secs_f64(),
        grown.lag,
        grown.kept.samples + quota.samples,
        grown.kept.batches + quota.batches,
        grown.kept.resent + quota.resent,
    )))
}

/// A pool that has grown under load.
pub(super) struct Grown {
    /// Writers at the start, and the most that came beside them and were ready.
    pub(super) writers: u32,
    /// The most that waited.
    lag: u64,
    /// How long the load lasted.
    after: Duration,
    /// What was acknowledged meanwhile, and is stored.
    kept: Kept,
}

/// Loads the pool, which has its few writers, until it has more; every sample is followed into the database.
pub(super) async fn grow(site: &Site, few: u32) -> Result<Grown> {
    let mut devices = Vec::new();
    for _ in 0..DEVICES {
        devices.push(Device::new(site).await?);
    }
    let (seen, looks) = watch::channel(Seen::default());
    let hanging = Frozen::component(site, "telemetry-writer").await?;
    let began = Instant::now();
    let loaded = tokio::select! {
        load = load(site, &mut devices, &looks) => load,
        blind = look_on(site, &hanging, &seen) => Err(blind),
    };
    hanging.go_on().await?;
    loaded?;
    let after = began.elapsed();
    let kept = none_lost_none_twice(site, &devices).await?;
    let Seen { came, lag } = looks.borrow().clone();
    Ok(Grown {
        writers: few + came,
        lag,
        after,
        kept,
    })
}

/// The most that was seen.
#[derive(Clone, Default)]
struct Seen {
    /// Writers that are ready and are not those that hang, which are not ready any more soon.
    came: u32,
    lag: u64,
}

/// The pool as its Deployment and its status have it.
struct Look {
    min: u32,
    /// Asked for, there (also those that are ending), ready.
    writers: [u32; 3],
    desired: Option<u32>,
    lag: Option<u64>,
}

async fn look(site: &Site) -> Result<Look> {
    let deployments: Api<Deployment> = Api::namespaced(site.cluster.client.clone(), &site.namespace());
    let deployment = deployments.get(DEPLOYMENT).await.context(DEPLOYMENT)?;
    let asked = deployment.spec.and_then(|spec| spec.replicas);
    let status = deployment.status.unwrap_or_default();
    let there = status.replicas.unwrap_or(0) + status.terminating_replicas.unwrap_or(0);
    let writers = [asked.unwrap_or(1), there, status.ready_replicas.unwrap_or(0)];
    let pools: Api<IngestPool> = Api::all(site.cluster.client.clone());
    let pool = pools.get(POOL).await.with_context(|| format!("IngestPool {POOL}"))?;
    let status = pool.status.unwrap_or_default();
    Ok(Look {
        min: pool.spec.scaling.min,
        writers: writers.map(|count| u32::try_from(count).unwrap_or(0)),
        desired: status.desired,
        lag: status.lag,
    })
}

/// Waits until the pool has its fewest writers and nothing to do, and gives how many that are.
pub(super) async fn at_rest(site: &Site, limit: Duration) -> Result<u32> {
    until(limit, "the pool at its minimum", || async {
        let look = look(site).await?;
        let rest = look.writers == [look.min; 3] && look.desired == Some(look.min) && look.lag == Some(0);
        if !rest {
            let [asked, there, ready] = look.writers;
            bail!(
                "{asked} writers asked for, {there} there, {ready} ready; the status wants {:?}, lag {:?}",
                look.desired,
                look.lag
            );
        }
        Ok(Some(look.min))
    })
    .await
}

/// Keeps the most that was seen; ends only when the pool cannot be looked at.
async fn look_on(site: &Site, hanging: &Frozen, seen: &watch::Sender<Seen>) -> anyhow::Error {
    loop {
        let looked = until(Duration::from_secs(10), "the pool", || async {
            Ok(Some((look(site).await?, hanging.others_ready(site).await?)))
        })
        .await;
        match looked {
            Ok((look, came)) => seen.send_modify(|seen| {
                seen.came = seen.came.max(came);
                seen.lag = seen.lag.max(look.lag.unwrap_or(0));
            }),
            Err(error) => return error,
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Delivery after delivery until another writer is ready.
async fn load(site: &Site, devices: &mut [Device], looks: &watch::Receiver<Seen>) -> Result<()> {
    let began = Instant::now();
    while looks.borrow().came == 0 {
        let deliveries = devices.iter_mut().map(|device| device.deliver(site, AT_ONCE, SAMPLES));
        futures::future::try_join_all(deliveries).await?;
        if began.elapsed() > GROWS {
            let acknowledged: usize = devices.iter().map(|device| device.batches).sum();
            bail!(
                "{acknowledged} batches in {} s made no other writer ready; most waiting {}",
                GROWS.as_secs(),
                looks.borrow().lag
            );
        }
    }
    Ok(())
}

/// More than the quota admits at once. Gives how often the athlete was told to wait.
async fn over_quota(site: &Site, greedy: &mut Device) -> Result<usize> {
    greedy.deliver(site, QUOTA, LARGEST).await?;
    ensure!(
        greedy.turned_away > 0,
        "more samples than the quota saves up were taken at once"
    );
    Ok(greedy.turned_away)
}

/// A device that records one track.
struct Device {
    athlete: Athlete,
    track: Uuid,
    start_ms: i64,
    batches: usize,
    samples: usize,
    resent: usize,
    turned_away: usize,
}

impl Device {
    async fn new(site: &Site) -> Result<Self> {
        Ok(Self {
            athlete: Athlete::register(site, "Lena").await?,
            track: Uuid::new_v4(),
            start_ms: (Timestamp::now() - 48.hours()).as_millisecond(),
            batches: 0,
            samples: 0,
            resent: 0,
            turned_away: 0,
        })
    }

    /// Delivers batches, several at once, and some twice; returns when all are acknowledged.
    async fn deliver(&mut self, site: &Site, batches: usize, samples: usize) -> Result<()> {
        let bodies = (0..batches).map(|batch| {
            let first = self.samples + batch * samples;
            (batch % RESENT == RESENT - 1, self.batch(first, samples))
        });
        let bodies: Vec<_> = bodies.collect();
        let athlete = &self.athlete;
        let sent: Vec<(usize, usize)> = stream::iter(&bodies)
            .map(|(again, body)| async move {
                let mut turned_away = acknowledged(site, athlete, body, samples).await?;
                if *again {
                    turned_away += acknowledged(site, athlete, body, samples).await?;
                }
                anyhow::Ok((usize::from(*again), turned_away))
            })
            .buffer_unordered(LANES)
            .try_collect()
            .await?;
        self.batches += batches;
        self.samples += batches * samples;
        self.resent += sent.iter().map(|(again, _)| again).sum::<usize>();
        self.turned_away += sent.iter().map(|(_, turned_away)| turned_away).sum::<usize>();
        Ok(())
    }

    /// One sample a second from the `first` on.
    fn batch(&self, first: usize, samples: usize) -> Value {
        let sample = |index: usize| {
            let second = i64::try_from(index).unwrap_or(i64::MAX);
            json!({ "t": self.start_ms + second * 1000, "hr": 120 + second % 60, "speed": 3.5 })
        };
        let samples: Vec<Value> = (first..first + samples).map(sample).collect();
        json!({ "session_id": self.track, "batch_id": Uuid::new_v4(), "samples": samples })
    }
}

/// Sends a batch until it is acknowledged, waits as long as a 429 says, and gives how often it did.
async fn acknowledged(site: &Site, athlete: &Athlete, body: &Value, samples: usize) -> Result<usize> {
    let began = Instant::now();
    let mut turned_away = 0;
    loop {
        let request = athlete.request(site, Method::POST, "/api/v1/telemetry").json(body);
        let answer = request.send().await.context("POST /api/v1/telemetry: no answer")?;
        let status = answer.status();
        let wait = answer
            .headers()
            .get("Retry-After")
            .and_then(|value| value.to_str().ok());
        let wait: Option<u64> = wait.and_then(|seconds| seconds.parse().ok());
        let text = answer
            .text()
            .await
            .context("POST /api/v1/telemetry: the answer's body")?;
        match status {
            StatusCode::ACCEPTED => {
                let told: Value = serde_json::from_str(&text).context("the answer is no JSON")?;
                ensure!(
                    told["accepted"] == samples,
                    "{samples} samples sent, the answer says {}",
                    told["accepted"]
                );
                return Ok(turned_away);
            }
            StatusCode::TOO_MANY_REQUESTS => {
                turned_away += 1;
                let wait = wait.context("a 429 without Retry-After")?;
                ensure!((1..=60).contains(&wait), "a 429 that says to wait {wait} s");
                tokio::time::sleep(Duration::from_secs(wait)).await;
            }
            // Not acknowledged: the same ids again.
            _ if status.is_server_error() && began.elapsed() < STORED => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            _ => bail!("POST /api/v1/telemetry: {status}: {text}"),
        }
    }
}

/// What the database has of a track.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stored {
    rows: usize,
    batches: usize,
    samples: usize,
}

async fn stored(site: &Site, devices: &[Device]) -> Result<BTreeMap<Uuid, Stored>> {
    let subjects: Vec<String> = devices
        .iter()
        .map(|device| format!("'{}'", device.athlete.subject))
        .collect();
    let sql = format!(
        "select track_id, count(*), count(distinct batch_id), sum(count) from chunk \
         where tenant = '{}' and subject in ({}) group by track_id",
        site.tenant,
        subjects.join(",")
    );
    let answer = site.query("telemetry", &sql).await?;
    let row = |line: &str| {
        let mut columns = line.split('|');
        let track = columns.next()?.parse().ok()?;
        let mut number = || columns.next()?.parse().ok();
        let (rows, batches, samples) = (number()?, number()?, number()?);
        Some((track, Stored { rows, batches, samples }))
    };
    let rows: Option<BTreeMap<Uuid, Stored>> = answer.lines().map(row).collect();
    rows.with_context(|| format!("the telemetry database answered {answer:?}"))
}

/// What was acknowledged and is stored.
struct Kept {
    batches: usize,
    samples: usize,
    /// Batches that were sent twice.
    resent: usize,
}

/// Track by track: what was acknowledged is stored, and once.
async fn none_lost_none_twice(site: &Site, devices: &[Device]) -> Result<Kept> {
    let sum = |part: fn(&Device) -> usize| devices.iter().map(part).sum::<usize>();
    let all = Kept {
        batches: sum(|device| device.batches),
        samples: sum(|device| device.samples),
        resent: sum(|device| device.resent),
    };
    until(STORED, "everything that was acknowledged in the database", || async {
        let stored: usize = stored(site, devices).await?.values().map(|track| track.samples).sum();
        if stored < all.samples {
            bail!("{stored} of {} samples are stored", all.samples);
        }
        Ok(Some(()))
    })
    .await?;
    // A batch stored twice by writers that are still at it would show now: the pool's lag is zero.
    until(STORED, "an empty backlog", || async {
        Ok((look(site).await?.lag == Some(0)).then_some(()))
    })
    .await?;
    let stored = stored(site, devices).await?;
    ensure!(
        stored.len() == devices.len(),
        "{} of {} tracks are stored",
        stored.len(),
        devices.len()
    );
    for device in devices {
        let expected = Stored {
            rows: device.batches,
            batches: device.batches,
            samples: device.samples,
        };
        let got = stored.get(&device.track).context("a track is not stored")?;
        ensure!(*got == expected, "acknowledged {expected:?}, stored {got:?}");
    }
    Ok(all)
}
