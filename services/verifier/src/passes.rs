//! The verifier as it runs in a region: looks again and again, and tells the region operator what it found.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use meridian_kit::policy_feed::{Found, Verification};
use meridian_kit::service::{self, Parts};
use meridian_kit::{Start, StartError};
use prometheus_client::metrics::gauge::Gauge;

use crate::{Database, Report, verify};

/// Between the end of a look and the next.
const PAUSE: Duration = Duration::from_secs(30);
/// At most one part in this many of the time is spent looking: counting rows costs the databases.
const SHARE: u32 = 20;
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
pub async fn run(start: Start, databases: Vec<Database>) -> Result<(), StartError> {
    let url = start.config().database_url.clone();
    let url = url.ok_or_else(|| StartError::other("MERIDIAN_DATABASE_URL", "is not set, and the verifier needs it"))?;
    let meters = Meters::new(&start);
    let looking = {
        let (start, stop) = (start.clone(), start.stop());
        let passes = async move {
            loop {
                settled(&start).await;
                let began = Instant::now();
                pass(&start, url.expose(), &databases, &meters).await;
                tokio::time::sleep(PAUSE.max(began.elapsed() * SHARE)).await;
            }
        };
        async move {
            stop.run_until_cancelled_owned(passes).await;
            Ok::<(), Infallible>(())
        }
    };
    service::serve(start, Parts::without_server().background("looking", looking)).await
}

async fn pass(start: &Start, url: &str, databases: &[Database], meters: &Meters) {
    let feed = start.feed();
    let report = match verify(url, databases, &feed.current(), Timestamp::now()).await {
        Ok(report) => report,
        Err(error) => {
            tracing::warn!(error = %error, "the region could not be verified");
            return;
        }
    };
    meters.saw(&report);
    if !report.is_clean() {
        tracing::warn!(
            count = report.findings.len(),
            "violations; RegionStack's status names them"
        );
    }
    if let Err(error) = feed.report_verification(&told(&report)).await {
        tracing::warn!(error = %error, "the region operator was not told what was found; the next look says it anew");
    }
}

/// Looks once, with the policy that the region operator serves now.
///
/// # Errors
/// In words, when there is no such policy or it could not look everywhere.
pub async fn once(start: &Start, databases: &[Database]) -> Result<Report, String> {
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
    let report = verify(url.expose(), databases, &policy, Timestamp::now()).await;
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
        violations: u64::try_from(report.findings.len()).unwrap_or(u64::MAX),
        found: found.collect(),
    }
}

struct Meters {
    findings: Gauge,
    rows: Gauge,
    last: Gauge,
}

impl Meters {
    fn new(start: &Start) -> Self {
        let gauge = |name, help| start.metrics().register(name, help, Gauge::default());
        Self {
            findings: gauge("meridian_verifier_findings", "Violations that the last look found"),
            rows: gauge("meridian_verifier_rows", "Rows that the last look counted"),
            last: gauge(
                "meridian_verifier_last_look_seconds",
                "When the last look ended, in Unix time",
            ),
        }
    }

    fn saw(&self, report: &Report) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.findings.set(count(report.findings.len()));
        self.rows.set(i64::try_from(report.looked.rows).unwrap_or(i64::MAX));
        self.last.set(Timestamp::now().as_second());
    }
}
