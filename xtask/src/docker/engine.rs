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
use crate::cluster::{self, LABEL};
use crate::host;
use crate::images::PREFIX;
use crate::paths::Paths;
use crate::progress::{self, Log, output, succeeds};

/// What an engine is made of: programs, and the packages that bring them.
pub const NEEDED: &[(&str, &str)] = &[
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("iptables", "iptables"),
];

/// How long an engine that was just started may take to answer.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How long a stopping engine may take to stop its containers.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// Where dockerd keeps the process id of the containerd that it started.
const CONTAINERD_PID: &str = "/var/run/docker/containerd/containerd.pid";

/// How long a client may wait for an answer: an engine that hangs would keep it for ever.
const ANSWER_LIMIT: &str = "20";

/// Where the engine keeps its containers, unless its settings name another folder.
pub const DATA_ROOT: &str = "/var/lib/docker";

/// Makes sure that an engine answers.
///
/// # Errors
/// One sentence that says what to install or to start, when this user may not do it.
pub fn ensure(paths: &Paths, cache: &Cache) -> Result<()> {
    if answers() {
        return Ok(());
    }
    if let Some(sentence) = lacking() {
        bail!(sentence);
    }
    host::ensure_packages(paths, NEEDED)?;
    if answers() {
        // Installing the package started its service.
        return Ok(());
    }
    start_own(paths, cache)
}

/// Why there is no engine and none can be had, when it is so.
pub fn lacking() -> Option<String> {
    if answers() {
        return None;
    }
    refusal(elsewhere().as_deref(), host::is_root(), &complaint())
}

/// Why this program may not start an engine, when it may not.
fn refusal(elsewhere: Option<&str>, root: bool, complaint: &str) -> Option<String> {
    if let Some(setting) = elsewhere {
        return Some(format!(
            "the Docker Engine that {setting} names does not answer: start it, or unset the variable"
        ));
    }
    if root {
        return None;
    }
    Some(if complaint.contains("permission denied") {
        "this user may not talk to the Docker Engine: add it to the group (sudo usermod -aG docker $USER) and log in \
         anew, or run this as root"
            .to_owned()
    } else {
        "no Docker Engine answers and this user is not root: install and start one (Debian: sudo apt-get install \
         docker.io; sudo usermod -aG docker $USER), or run this as root"
            .to_owned()
    })
}

/// The variable that sends Docker's client to another engine than this machine's.
fn elsewhere() -> Option<String> {
    ["DOCKER_HOST", "DOCKER_CONTEXT"].iter().find_map(|name| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        let own = ["unix:///var/run/docker.sock", "unix:///run/docker.sock", "default"];
        (!own.contains(&value.as_str())).then(|| format!("{name}={value}"))
    })
}

fn start_own(paths: &Paths, cache: &Cache) -> Result<()> {
    let state = cache.folder("engine")?;
    let _lock = cache.lock("engine")?;
    let log = Log::fresh(paths, "dockerd")?;
    progress::step("starting the Docker Engine", Some(log.shown()), || start(&state, &log))
}

/// Makes sure that an engine answers if it holds clusters of ours, or `images`; tells whether one does.
///
/// # Errors
/// When nobody can tell what an engine that does not answer holds, or it does not start.
pub fn wake_for_removal(paths: &Paths, cache: &Cache, images: bool) -> Result<bool> {
    if answers() {
        return Ok(true);
    }
    if host::program("dockerd").is_none() && host::program("docker").is_none() {
        return Ok(false);
    }
    if let Some(sentence) = refusal(elsewhere().as_deref(), true, "") {
        bail!(sentence);
    }
    let root = data_root(&fs::read_to_string("/etc/docker/daemon.json").unwrap_or_default());
    let holds = holds_clusters(&root.join("containers")).with_context(|| {
        "no Docker Engine answers, and only root can tell whether it holds clusters of ours: start it and run this again"
    })?;
    let holds = holds || images && holds_images(&root.join("image"));
    if holds {
        progress::say("the Docker Engine does not run but holds something of ours: it is started to remove that");
        start_own(paths, cache)?;
    }
    Ok(holds)
}

/// The folder that the engine's settings name.
fn data_root(settings: &str) -> PathBuf {
    serde_json::from_str::<serde_json::Value>(settings)
        .ok()
        .and_then(|settings| settings.get("data-root")?.as_str().map(PathBuf::from))
        .unwrap_or_else(|| DATA_ROOT.into())
}

/// Whether a container of a cluster with one of our names lies in the engine's folder of containers.
fn holds_clusters(containers: &Path) -> std::io::Result<bool> {
    let listed = match fs::read_dir(containers) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        listed => listed?,
    };
    for entry in listed {
        let Ok(text) = fs::read(entry?.path().join("config.v2.json")) else {
            continue;
        };
        let about: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let label = about
            .get("Config")
            .and_then(|config| config.get("Labels")?.get(LABEL)?.as_str());
        if label.is_some_and(|name| cluster::all().any(|spec| spec.name == name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an image of ours is named in the engine's folder of images, one folder for each way of storing them.
fn holds_images(images: &Path) -> bool {
    fs::read_dir(images).into_iter().flatten().flatten().any(|entry| {
        fs::read_to_string(entry.path().join("repositories.json"))
            .is_ok_and(|text| text.contains(&format!("\"{PREFIX}/")))
    })
}

/// Stops the engine if it is one that this program started, and nothing but what was ours ran in it.
///
/// # Errors
/// When it does not end in its time.
pub fn stop(cache: &Cache) -> Result<()> {
    let state = cache.folder("engine")?;
    let Some(pid) = living(&pid_file(&state), "dockerd") else {
        return Ok(());
    };
    let running = if answers() {
        output(&mut docker(["ps", "--format", "{{.Names}}"])).unwrap_or_default()
    } else {
        String::new()
    };
    let others: Vec<&str> = running.lines().collect();
    if !others.is_empty() {
        progress::say(&format!(
            "the Docker Engine that was started here stays: it runs containers that are not ours: {}",
            others.join(", ")
        ));
        return Ok(());
    }
    progress::step("stopping the Docker Engine that was started here", None, || {
        succeeds(Command::new("kill").args(["-TERM", &pid.to_string()]));
        wait(STOP_LIMIT, || living(&pid_file(&state), "dockerd").is_none())
            .with_context(|| format!("dockerd (process {pid}) does not end; stop it by hand"))
    })
}

/// Whether an engine answers.
pub fn answers() -> bool {
    succeeds(&mut asked())
}

/// What the client says when none does.
fn complaint() -> String {
    output(&mut asked())
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

fn asked() -> Command {
    let mut command = Command::new("timeout");
    command.args([ANSWER_LIMIT, "docker", "version", "--format", "{{.Server.Version}}"]);
    command
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

    #[test]
    fn who_may_not_start_an_engine_is_told_what_to_do() {
        assert_eq!(refusal(None, true, "cannot connect"), None);
        let said = |complaint| refusal(None, false, complaint).unwrap();
        assert!(said("cannot connect").contains("apt-get install docker.io"));
        assert!(said("permission denied while trying to connect").contains("usermod -aG docker"));
        let elsewhere = refusal(Some("DOCKER_HOST=tcp://there"), true, "").unwrap();
        assert!(elsewhere.contains("DOCKER_HOST=tcp://there"), "{elsewhere}");
    }

    #[test]
    fn clusters_of_ours_are_seen_in_the_folder_of_an_engine_that_does_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let put = |id: &str, text: &str| {
            fs::create_dir(dir.path().join(id)).unwrap();
            fs::write(dir.path().join(id).join("config.v2.json"), text).unwrap();
        };
        assert!(!holds_clusters(&dir.path().join("none")).unwrap());
        put(
            "a",
            r#"{"Config": {"Labels": {"io.x-k8s.kind.cluster": "somebody's"}}}"#,
        );
        put("b", "cut short {");
        assert!(!holds_clusters(dir.path()).unwrap());
        put("c", r#"{"Config": {"Labels": {"io.x-k8s.kind.cluster": "eu"}}}"#);
        assert!(holds_clusters(dir.path()).unwrap());
    }

    #[test]
    fn the_engines_folder_is_the_one_that_its_settings_name() {
        assert_eq!(data_root(""), Path::new(DATA_ROOT));
        assert_eq!(data_root(r#"{"data-root": "/big/docker"}"#), Path::new("/big/docker"));
    }
}
