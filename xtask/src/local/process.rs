//! A child process that never outlives this program.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::progress::{self, Log};

/// How a part is asked to stop before it is killed.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// SIGTERM.
    Terminate,
    /// SIGINT: PostgreSQL's fast shutdown.
    Interrupt,
}

/// A running part.
pub struct Process {
    name: &'static str,
    child: Child,
    stop: Stop,
    log: Log,
}

impl Process {
    /// Starts the command. It is killed by the kernel when the calling thread ends, however it ends; call this from
    /// the main thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &'static str, command: &Command, stop: Stop, log: &Log) -> Result<Self> {
        // A group of its own: Ctrl-C reaches this program and the tests, which then end the parts in order.
        use std::os::unix::process::CommandExt;
        let child = progress::mortal(command)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.append()?)
            .stderr(log.append()?)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self {
            name,
            child,
            stop,
            log: log.clone(),
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// When it does not stop in time: it is killed then.
    pub fn end(mut self, limit: Duration) -> Result<()> {
        if !self.stops_within(limit) {
            bail!(
                "{} does not stop within {} s; see {}",
                self.name,
                limit.as_secs(),
                self.log.shown()
            );
        }
        Ok(())
    }

    fn stops_within(&mut self, limit: Duration) -> bool {
        let signal = match self.stop {
            Stop::Terminate => "-TERM",
            Stop::Interrupt => "-INT",
        };
        progress::succeeds(Command::new("kill").args([signal, &self.child.id().to_string()]));
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Fails when the process has ended.
    ///
    /// # Errors
    /// With the end of its log.
    fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                bail!(
                    "{} ended with {status}; the end of {}:\n{}",
                    self.name,
                    self.log.shown(),
                    self.log.tail(15)
                )
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) || self.stops_within(Duration::from_secs(5)) {
            return;
        }
        // Already gone, or killed now; either way it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the condition holds, while every process goes on running.
///
/// # Errors
/// When a process ends, or the condition does not hold in time.
pub fn until(what: &str, limit: Duration, processes: &mut [Process], mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds() {
        for process in processes.iter_mut() {
            process.still_runs()?;
        }
        if Instant::now() > deadline {
            let logs: Vec<&str> = processes.iter().map(|process| process.log.shown()).collect();
            bail!("{what}: not within {} s; see {}", limit.as_secs(), logs.join(", "));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
