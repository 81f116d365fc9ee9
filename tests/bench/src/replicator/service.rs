//! One program of a bench, killed when the bench is done with it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use meridian_kit::config::Config;
use meridian_kit::testing::Region;

use crate::process::cpu_time;

/// How long a program may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that runs as a process of its own, so that what it costs is its own.
pub struct Service {
    name: String,
    child: Child,
}

impl Service {
    /// Starts a command; what it says goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        let name = name.to_owned();
        Ok(Self { name, child })
    }

    /// Starts a service of `region` from the platform's binary, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub async fn of(
        region: &Region,
        service: &str,
        meridian: &Path,
        folder: &Path,
        change: impl FnOnce(&mut Config),
    ) -> Result<Self> {
        let name = format!("{}/{service}", region.name());
        let mut command = Command::new(meridian);
        command.arg(service).envs(region.environment(service, change));
        let log = folder.join(format!("{}-{service}.log", region.name()));
        let mut started = Self::start(&name, &mut command, &log)?;
        let health = format!("{}/healthcheck", region.admin_url(service));
        let http = reqwest::Client::builder().no_proxy().build()?;
        let begun = Instant::now();
        loop {
            if http
                .get(&health)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return Ok(started);
            }
            started.runs()?;
            if begun.elapsed() > PATIENCE {
                bail!(
                    "{name} is not ready after {PATIENCE:?}; it says why in {}",
                    log.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The processor time that it has used, user and system, all threads.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu(&mut self) -> Result<Duration> {
        self.runs()?;
        cpu_time(self.child.id())
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// With its exit status.
    pub fn runs(&mut self) -> Result<()> {
        match self.child.try_wait().context("a process cannot be asked for")? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}", self.name),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
