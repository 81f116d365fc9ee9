//! The hub role as the real binary, and what it says of itself in /metrics.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use meridian_kit::testing::free_address;
use tokio::process::{Child, Command};

use super::servers::Server;
use crate::process::{self, Memory};

/// The operator's namespace.
pub const SYSTEM: &str = "meridian-system";
/// A hub is idle when it has begun nothing for so long.
const QUIET: Duration = Duration::from_secs(3);
/// How long it may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// A running hub role. It is killed when this is dropped, and by the kernel when this program is.
pub struct Hub {
    child: Child,
    pid: u32,
    admin: SocketAddr,
    started: Instant,
}

/// What a hub has done so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// Reconcile passes that have ended.
    pub passes: u64,
    /// Of these, over regions.
    pub region_passes: u64,
    /// Write requests sent, but for the leases that are renewed all the time.
    pub writes: u64,
    /// Objects that wait for a pass.
    pub waiting: u64,
}

impl Hub {
    /// Starts it on its API server; what it logs goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(meridian: &Path, server: &Server, log: &Path) -> Result<Self> {
        let (admin, webhook) = (free_address(), free_address());
        let child = role(meridian, "hub", &server.kubeconfig, log)?
            .env("POD_NAME", "bench-hub")
            .env("MERIDIAN_ADMIN_LISTEN", admin.to_string())
            .env("MERIDIAN_WEBHOOK_LISTEN", webhook.to_string())
            .env("MERIDIAN_APPROVAL", "NotRequired")
            .spawn()
            .context("setpriv (util-linux) cannot start the hub role")?;
        let pid = child.id().context("the hub role has ended at once")?;
        Ok(Self {
            child,
            pid,
            admin,
            started: Instant::now(),
        })
    }

    /// Since when it runs.
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// What it has in memory.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self) -> Result<Memory> {
        process::memory(self.pid)
    }

    /// The processor time that it has used.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.pid)
    }

    /// What it has done. Before it listens, nothing.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn counts(&mut self) -> Result<Counts> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the hub role ended with {status}; see its log");
        }
        let asked = reqwest::get(format!("http://{}/metrics", self.admin)).await;
        match asked {
            Ok(answer) => Ok(counts_in(&answer.text().await?)),
            Err(_) => Ok(Counts::default()),
        }
    }

    /// Waits until it has nothing left to do and `there` says that what it had to do is done; gives the moment at which
    /// it last ended a pass or `there` was not so yet.
    ///
    /// # Errors
    /// When that does not come in time, with what there is then.
    pub async fn idle(&mut self, limit: Duration, there: impl Fn() -> Result<(), String>) -> Result<Instant> {
        let (mut before, mut since) = (Counts::default(), Instant::now());
        let began = Instant::now();
        loop {
            let now = self.counts().await?;
            let missing = there();
            if now != before || now.waiting > 0 || now.passes == 0 || missing.is_err() {
                (before, since) = (now, Instant::now());
            } else if since.elapsed() >= QUIET {
                return Ok(since);
            }
            if began.elapsed() > limit {
                let missing = missing.err().unwrap_or_else(|| "it goes on making passes".to_owned());
                bail!(
                    "the hub is not idle within {} s: {missing}; {before:?}",
                    limit.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Stops it as Kubernetes does, and waits until it has ended.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(mut self) -> Result<()> {
        let asked = Command::new("kill")
            .args(["-TERM", &self.pid.to_string()])
            .status()
            .await?;
        if !asked.success() {
            bail!("the hub role cannot be stopped");
        }
        tokio::time::timeout(STOP_LIMIT, self.child.wait())
            .await
            .context("the hub role does not end after SIGTERM")??;
        Ok(())
    }
}

/// A role of the operator on an API server, not started yet; what it logs goes to `log`. It is killed when it is dropped,
/// and by the kernel when this program ends.
///
/// # Errors
/// When the log cannot be written.
pub fn role(meridian: &Path, role: &str, kubeconfig: &Path, log: &Path) -> Result<Command> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let output = fs::OpenOptions::new().create(true).append(true).open(log);
    let output = output.with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(meridian)
        .args(["operator", role])
        .env("KUBECONFIG", kubeconfig)
        .env("POD_NAMESPACE", SYSTEM)
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true);
    Ok(command)
}

/// The samples of an OpenMetrics text, by name and labels.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let sample = |line: &'_ str| -> Option<(usize, f64)> {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.len(), value.parse().ok()?))
    };
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| sample(line).map(|(end, value)| (&line[..end], value)))
        .collect()
}

fn counts_in(text: &str) -> Counts {
    let samples = samples(text);
    let sum = |metric: &str, label: &str| {
        let of_metric = samples
            .iter()
            .filter(|(name, _)| name.starts_with(metric) && name.contains(label));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts, and never negative"
        )]
        of_metric.map(|(_, value)| *value as u64).sum::<u64>()
    };
    Counts {
        passes: sum("meridian_operator_reconcile_duration_seconds_count", ""),
        region_passes: sum(
            "meridian_operator_reconcile_duration_seconds_count",
            "controller=\"region\"",
        ),
        writes: sum("meridian_operator_api_writes_total", "")
            .saturating_sub(sum("meridian_operator_api_writes_total", "kind=\"Lease\"")),
        waiting: sum("meridian_operator_queue_depth", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_hubs_own_metrics() {
        let metrics = meridian_operator::metrics::Metrics::default();
        metrics.pass("region", "steady", Duration::from_millis(1));
        metrics.pass("region", "failed", Duration::from_millis(1));
        metrics.pass("residency", "steady", Duration::from_millis(1));
        metrics.queue_depth("pool", 7);
        for kind in ["RegionStack", "Lease"] {
            metrics.write(&meridian_operator::metrics::Write {
                kind,
                verb: "apply",
                failed: false,
            });
        }
        let counts = counts_in(&metrics.render());
        let expected = Counts {
            passes: 3,
            region_passes: 2,
            writes: 1,
            waiting: 7,
        };
        assert_eq!(counts, expected);
    }
}
