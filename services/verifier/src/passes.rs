//! The verifier as it runs in a region: looks again and again, and tells the region operator what it found.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use meridian_kit::policy_feed::{Found, Verification};
use meridian_kit::service::{self, Parts};
use meridian_kit::{Start, StartError};
use meridian_policy::RegionPolicy;
use prometheus_client::metrics::gauge::Gauge;

use crate::{Events, Region, Report, VerifyError, verify, verify_events};

/// Between the end of a look and the next.
const PAUSE: Duration = Duration::from_secs(30);
/// At most one part in this many of the time is spent looking: counting rows costs the databases.
const SHARE: u32 = 10;
/// The longest pause: sooner than what was found counts as stale.
const LONGEST_PAUSE: Duration = Duration::from_secs(20 * 60);
/// A policy that never settles is looked at all the same.
const NEVER_SETTLES: Duration = Duration::from_secs(10 * 60);
/// How long a policy has been in force before rows are held against it: what it forbids is being purged until then.
const SETTLED: Duration = Duration::from_secs(30);

/// How long one look waits for the policy.
const HEARD: Duration = Duration::from_secs(30);

/// How soon a stream of the feed says its policy.
const FIRST_LINE: Duration = Duration::from_secs(2);

/// Findings that are told one by one; the count is of all.
const TOLD: usize = 32;

/// Runs until the process is told to stop.
///
/// # Errors
/// When the settings are wrong, or a part of it ended.
pub async fn run(start: Start, region: Region) -> Result<(), StartError> {
    let url = start.config().database_url.clone();
    let url = url.ok_or_else(|| StartError::other("MERIDIAN_DATABASE_URL", "is not set, and the verifier needs it"))?;
    let (meters, looked_at) = (Meters::new(&start), LookedAt::new(&start, url.expose(), region));
    let looking = {
        let (start, stop) = (start.clone(), start.stop());
        let passes = async move {
            loop {
                let _ = tokio::time::timeout(NEVER_SETTLES, settled(&start)).await;
                let began = Instant::now();
                let looked = pass(&start, &looked_at, &meters).await;
                tokio::time::sleep(pause(looked, began.elapsed())).await;
            }
        };
        async move {
            stop.run_until_cancelled_owned(passes).await;
            Ok::<(), Infallible>(())
        }
    };
    service::serve(start, Parts::without_server().background("looking", looking)).await
}

/// What is looked at.
struct LookedAt {
    url: String,
    region: Region,
    events: Option<Events>,
}

impl LookedAt {
    fn new(start: &Start, url: &str, region: Region) -> Self {
        Self {
            url: url.to_owned(),
            events: region.kafka.clone().map(|planned| Events::of(start, planned)),
            region,
        }
    }

    async fn verify(&self, policy: &RegionPolicy) -> Result<Report, VerifyError> {
        let Region { server, databases, .. } = &self.region;
        let now = Timestamp::now();
        let report = verify(&self.url, server, databases, policy, now).await?;
        Ok(match &self.events {
            Some(events) => report.and(verify_events(events, policy, now).await?),
            None => report,
        })
    }
}

/// The region operator was told nothing by a look; why is logged.
struct Untold;

/// How long to wait after a look that took so long. One that told nothing is repeated sooner, since nothing is known without it;
/// also then half of the time at most is spent looking.
fn pause(looked: Result<(), Untold>, took: Duration) -> Duration {
    let share = if looked.is_ok() { SHARE } else { 1 };
    (took * share).clamp(PAUSE, LONGEST_PAUSE)
}

async fn pass(start: &Start, looked_at: &LookedAt, meters: &Meters) -> Result<(), Untold> {
    let feed = start.feed();
    let report = looked_at.verify(&feed.current()).await.map_err(|error| {
        tracing::warn!(error = %error, "the region could not be verified");
        Untold
    })?;
    if feed.current().revision != report.revision {
        tracing::info!("the policy changed during a look, which is not told");
        return Err(Untold);
    }
    meters.saw(&report);
    if !report.is_clean() {
        tracing::warn!(
            count = report.findings.len(),
            "violations; RegionStack's status names them"
        );
    }
    feed.report_verification(&told(&report)).await.map_err(|error| {
        tracing::warn!(error = %error, "the region operator was not told what was found; the next look says it anew");
        Untold
    })
}

/// Looks once, with the policy that the region operator serves now.
///
/// # Errors
/// In words, when there is no such policy or it could not look everywhere.
pub async fn once(start: &Start, region: Region) -> Result<Report, String> {
    let url = start.config().database_url.clone();
    let url = url.ok_or("MERIDIAN_DATABASE_URL is not set")?;
    let feed = start.feed();
    let mut policy = feed.subscribe();
    policy.mark_unchanged();
    let following = tokio::spawn(feed.clone().run(start.tls().clone(), start.stop()));
    let heard = tokio::time::timeout(HEARD, async {
        while !feed.connected() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let heard = heard.await;
    // A stream begins with the policy; the one that the process began with may be the same.
    let _ = tokio::time::timeout(FIRST_LINE, policy.changed()).await;
    following.abort();
    heard.map_err(|_| format!("the region operator does not answer within {} s", HEARD.as_secs()))?;
    let policy = feed.current();
    let report = LookedAt::new(start, url.expose(), region).verify(&policy).await;
    report.map_err(|error| error.to_string())
}

/// Waits until the policy has not changed for a while.
async fn settled(start: &Start) {
    let mut policy = start.feed().subscribe();
    loop {
        policy.mark_unchanged();
        match tokio::time::timeout(SETTLED, policy.changed()).await {
            Ok(Ok(())) => {}
            // Nobody tells of a policy any more: the process is about to end.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

fn told(report: &Report) -> Verification {
    let found = report.findings.iter().take(TOLD).map(|finding| Found {
        check: finding.check.as_str().to_owned(),
        place: finding.place.clone(),
        of: finding.of.clone(),
        classes: finding.classes.iter().copied().collect(),
        count: finding.count,
    });
    Verification {
        revision: report.revision,
        at: report.at,
        tables: report.looked.tables,
        rows: report.looked.rows,
        records: report.looked.records,
        violations: u64::try_from(report.findings.len()).unwrap_or(u64::MAX),
        found: found.collect(),
    }
}

struct Meters {
    findings: Gauge,
    rows: Gauge,
    records: Gauge,
    last: Gauge,
}

impl Meters {
    fn new(start: &Start) -> Self {
        let gauge = |name, help| start.metrics().register(name, help, Gauge::default());
        Self {
            findings: gauge("meridian_verifier_findings", "Violations that the last look found"),
            rows: gauge("meridian_verifier_rows", "Rows that the last look counted"),
            records: gauge(
                "meridian_verifier_records",
                "Records of topics that the last look looked at",
            ),
            last: gauge(
                "meridian_verifier_last_look_seconds",
                "When the last look ended, in Unix time",
            ),
        }
    }

    fn saw(&self, report: &Report) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.findings.set(count(report.findings.len()));
        let sum = |sum: u64| i64::try_from(sum).unwrap_or(i64::MAX);
        self.rows.set(sum(report.looked.rows));
        self.records.set(sum(report.looked.records));
        self.last.set(Timestamp::now().as_second());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_took_long_is_followed_by_a_long_pause_and_one_that_told_nothing_is_repeated_sooner() {
        let seconds = Duration::from_secs;
        assert_eq!(pause(Ok(()), seconds(12)), seconds(120));
        assert_eq!(pause(Ok(()), seconds(1)), PAUSE);
        assert_eq!(pause(Ok(()), seconds(3600)), LONGEST_PAUSE);
        assert_eq!(pause(Err(Untold), seconds(45)), seconds(45));
        assert_eq!(pause(Err(Untold), seconds(2)), PAUSE);
    }
}
