//! The one way this program speaks while it works: a line when a long step starts, a line when it ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths::Paths;

static STARTED: OnceLock<Instant> = OnceLock::new();

/// Starts the clock that every line shows.
pub fn start_clock() {
    STARTED.get_or_init(Instant::now);
}

/// Prints a line with the time since the program started. Progress goes to standard error, so that the output of a
/// command that `parts` runs stays clean.
pub fn say(text: &str) {
    let elapsed = STARTED.get_or_init(Instant::now).elapsed();
    // A closed terminal is no reason to stop half-way through a build.
    let _ = writeln!(std::io::stderr(), "[{}] {text}", clock(elapsed));
}

/// Minutes and seconds, as `mm:ss`.
pub fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

/// A long step: says that it starts, and how long it took.
///
/// # Errors
/// Those of `work`, with the step's name before them.
pub fn step<T>(name: &str, log: Option<&str>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match log {
        Some(log) => say(&format!("{name} … (log: {log})")),
        None => say(&format!("{name} …")),
    }
    let began = Instant::now();
    let done = work().with_context(|| format!("{name}: failed"))?;
    say(&format!("{name}: done in {:.1} s", began.elapsed().as_secs_f32()));
    Ok(done)
}

/// A log file that several commands of one step append to.
#[derive(Debug, Clone)]
pub struct Log {
    path: PathBuf,
    shown: String,
}

impl Log {
    /// Opens the step's log anew: what an earlier run wrote is gone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn fresh(paths: &Paths, step: &str) -> Result<Self> {
        let path = paths.log(step)?;
        File::create(&path).with_context(|| format!("cannot write the log {}", path.display()))?;
        let shown = paths.shown(&path);
        Ok(Self { path, shown })
    }

    /// Where it is, relative to the project.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The file itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle for a child's output.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn append(&self) -> Result<File> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .with_context(|| format!("cannot write the log {}", self.path.display()))
    }

    /// Runs a command with its output in this log.
    ///
    /// # Errors
    /// When it cannot be started, or ends with another code than 0: then with the log's last lines.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        self.run_as(mortal(command), command)
    }

    /// The same, with the time that everything else leaves.
    ///
    /// # Errors
    /// As [`Log::run`].
    pub fn run_behind(&self, command: &Command) -> Result<()> {
        self.run_as(mortal(&behind(command)), command)
    }

    fn run_as(&self, mut started: Command, command: &Command) -> Result<()> {
        let mut out = self.append()?;
        writeln!(out, "$ {command:?}").context("cannot write the log")?;
        let status = started
            .stdin(Stdio::null())
            .stdout(out.try_clone().context("cannot write the log")?)
            .stderr(out)
            .status()
            .with_context(|| missing(command))?;
        if !status.success() {
            bail!(
                "`{}` ended with {status}; the end of {}:\n{}",
                name(command),
                self.shown,
                self.tail(15)
            );
        }
        Ok(())
    }

    /// The last lines, for an error message.
    pub fn tail(&self, lines: usize) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(8192)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..]
            .iter()
            .map(|line| format!("    {line}\n"))
            .collect()
    }
}

/// What starts a program so that the kernel kills it when the thread that started it ends.
pub const MORTAL: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];

/// The same command, killed by the kernel when the thread that started it ends: a build that outlives an interrupted
/// run would go on writing where the next run starts anew.
pub fn mortal(command: &Command) -> Command {
    as_arguments_of(&MORTAL, command)
}

/// The command, started by what is given before it.
fn as_arguments_of(starter: &[&str], command: &Command) -> Command {
    let mut started = Command::new(starter[0]);
    started
        .args(&starter[1..])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => started.env(name, value),
            None => started.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        started.current_dir(dir);
    }
    started
}

/// The same command at the lowest priority. The programs of a session have one share of the machine (autogroups), however
/// nice each is among them, so it begins a session of its own. Where systemd gives each login a share of its own too, it has
/// no less of that than containers have of theirs.
fn behind(command: &Command) -> Command {
    let script = "echo 19 2>/dev/null >/proc/self/autogroup; exec nice -n 19 \"$@\"";
    as_arguments_of(&["setsid", "sh", "-c", script, "sh"], command)
}

/// Runs a short command and gives its standard output.
///
/// # Errors
/// When it cannot be started or fails: then with what it wrote to standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| missing(command))?;
    if !done.status.success() {
        bail!(
            "`{}` ended with {}: {}",
            line(command),
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Whether a short command succeeds; its output is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn missing(command: &Command) -> String {
    format!("`{}` cannot be started: is it installed?", name(command))
}

fn name(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    Path::new(&program)
        .file_name()
        .map_or(program.clone(), |file| file.to_string_lossy().into_owned())
}

fn line(command: &Command) -> String {
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(name(command))
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}
