//! Changes that are sent on a fixed beat whether earlier ones have arrived or not, each timed from its beat: whoever falls
//! behind is seen to.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;

use crate::measure::percentile;
use crate::report::{Bound, Metric, Report};

/// How long the last change may be on its way before it counts as lost.
const DRAIN: Duration = Duration::from_secs(60);

/// Sends `total` changes; gives the seconds from the beat of each until it has arrived.
///
/// # Errors
/// When a change fails, or is lost.
pub async fn send<F>(per_second: u32, total: u32, change: impl Fn(u32) -> F) -> Result<Vec<f64>>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let beat = Duration::from_secs(1) / per_second;
    let began = Instant::now();
    let mut changes = JoinSet::new();
    for number in 0..total {
        let due = began + beat * number;
        tokio::time::sleep_until(due.into()).await;
        let sent = change(number);
        changes.spawn(async move {
            sent.await?;
            Ok::<_, anyhow::Error>(due.elapsed().as_secs_f64())
        });
    }
    let (mut latencies, lost) = (Vec::new(), tokio::time::Instant::now() + DRAIN);
    while !changes.is_empty() {
        match tokio::time::timeout_at(lost, changes.join_next()).await {
            Ok(Some(ended)) => latencies.push(ended??),
            Ok(None) => {}
            Err(_) => bail!(
                "{} of {total} changes had not arrived {} s after the last was sent",
                changes.len(),
                DRAIN.as_secs()
            ),
        }
    }
    Ok(latencies)
}

/// Reports the latencies of `what`; the bound is of the 99th percentile.
///
/// # Errors
/// When there is none.
pub fn report(report: &mut Report, what: &str, latencies: &[f64], bound: Bound) -> Result<()> {
    for (name, share, bound) in [
        ("p99", 0.99, bound),
        ("p50", 0.5, Bound::Reported),
        ("slowest", 1.0, Bound::Reported),
    ] {
        let latency = percentile(latencies, share).context("no change was measured")?;
        report.add(Metric::own(format!("{what}: {name}"), latency, "s", bound))?;
    }
    Ok(())
}
