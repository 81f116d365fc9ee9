//! Finds, installs, starts and stops the Docker Engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::capabilities::Bounding;
use super::{docker, front};
use crate::cache::Cache;
use crate::host;
use crate::paths::Paths;
use crate::progress::{self, Log, succeeds};

/// How long an engine that was just started may take to answer.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How long a stopping engine may take to stop its containers.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// Where dockerd keeps the process id of the containerd that it started.
const CONTAINERD_PID: &str = "/var/run/docker/containerd/containerd.pid";

/// Makes sure that an engine answers.
///
/// # Errors
/// One sentence that says what to install or to start, when this user may not do it.
pub fn ensure(paths: &Paths, cache: &Cache) -> Result<()> {
    if host::program("docker").is_some() && answers() {
        return Ok(());
    }
    if !host::is_root() {
        bail!(
            "no Docker Engine answers and this user is not root: install and start one \
             (Debian: sudo apt-get install docker.io; sudo usermod -aG docker $USER), or run this as root"
        );
    }
    host::ensure_packages(
        paths,
        &[
            ("dockerd", "docker.io"),
            ("docker", "docker.io"),
            ("iptables", "iptables"),
        ],
    )?;
    if answers() {
        // Installing the package started its service.
        return Ok(());
    }
    let state = cache.folder("engine")?;
    let _lock = cache.lock("engine")?;
    let log = Log::fresh(paths, "dockerd")?;
    progress::step("starting the Docker Engine", Some(log.shown()), || start(&state, &log))
}

/// Stops the engine if it is one that this program started.
///
/// # Errors
/// When it does not end in its time.
pub fn stop(cache: &Cache) -> Result<()> {
    let state = cache.folder("engine")?;
    let Some(pid) = living(&pid_file(&state), "dockerd") else {
        return Ok(());
    };
    progress::step("stopping the Docker Engine that was started here", None, || {
        succeeds(Command::new("kill").args(["-TERM", &pid.to_string()]));
        wait(STOP_LIMIT, || living(&pid_file(&state), "dockerd").is_none())
            .with_context(|| format!("dockerd (process {pid}) does not end; stop it by hand"))
    })
}

fn answers() -> bool {
    succeeds(&mut docker(["version", "--format", "{{.Server.Version}}"]))
}

fn start(state: &Path, log: &Log) -> Result<()> {
    if let Some(pid) = living(&pid_file(state), "dockerd") {
        return wait(START_LIMIT, answers).with_context(|| {
            format!(
                "dockerd (process {pid}) runs but does not answer; end it and try again; its log: {}",
                log.shown()
            )
        });
    }
    // An engine that was killed leaves these; a process that has the same number today would be taken for it.
    for (file, name) in [
        (pid_file(state), "dockerd"),
        (PathBuf::from(CONTAINERD_PID), "containerd"),
    ] {
        if living(&file, name).is_none() && fs::remove_file(&file).is_ok() {
            progress::say(&format!(
                "removed {}, which an engine that died had left",
                file.display()
            ));
        }
    }
    let mut engine = Command::new("setsid");
    engine
        .arg("dockerd")
        .arg("--pidfile")
        .arg(pid_file(state))
        .args(["--log-opt", "max-size=10m"]);
    let missing = Bounding::own().missing();
    if !missing.is_empty() {
        progress::say(&format!(
            "this machine lacks {}: containers are started without",
            missing.join(", ")
        ));
        let runtime = install_front(state)?;
        engine
            .arg("--add-runtime")
            .arg(format!("meridian={}", runtime.display()));
        engine.args(["--default-runtime", "meridian"]);
    }
    let mut child = engine
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(log.append()?)
        .stderr(log.append()?)
        .spawn()
        .context("dockerd cannot be started")?;
    let deadline = Instant::now() + START_LIMIT;
    while !answers() {
        let ended = child.try_wait().context("dockerd cannot be watched")?;
        if ended.is_some() || Instant::now() > deadline {
            bail!("dockerd does not answer; the end of {}:\n{}", log.shown(), log.tail(15));
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Copies this program to where the engine finds it as its runtime; replaces an older copy at once.
fn install_front(state: &Path) -> Result<PathBuf> {
    let installed = state.join(front::NAME);
    let fresh = state.join("front.new");
    let own = std::env::current_exe().context("this program's own file cannot be found")?;
    fs::copy(&own, &fresh).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, &installed).with_context(|| format!("cannot write {}", installed.display()))?;
    Ok(installed)
}

fn pid_file(state: &Path) -> PathBuf {
    state.join("dockerd.pid")
}

/// The process that a pid file names, when it lives and is what the file says it is.
fn living(file: &Path, name: &str) -> Option<u32> {
    let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // A zombie has ended; only its parent has not looked yet.
    let lives = field("Name:") == Some(name) && !field("State:").is_some_and(|state| state.starts_with('Z'));
    lives.then_some(pid)
}

fn wait(limit: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds() {
        if Instant::now() > deadline {
            bail!("not within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_that_names_another_program_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dockerd.pid");
        assert_eq!(living(&file, "dockerd"), None);
        fs::write(&file, std::process::id().to_string()).unwrap();
        assert_eq!(living(&file, "dockerd"), None);
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(living(&file, own.trim()), Some(std::process::id()));
    }
}
