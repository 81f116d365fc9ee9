//! One Kafka broker as a process, in KRaft mode, broker and controller in one.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::free_port;
use super::process::{Process, Stop, until};
use crate::cache::{self, Cache, Inputs};
use crate::host;
use crate::jars;
use crate::paths::Paths;
use crate::progress::{self, Log, output};

/// A prepared broker.
pub struct Kafka {
    java: PathBuf,
    jars: PathBuf,
    /// The options about the JVM's archive of classes.
    classes: Vec<String>,
    settings: PathBuf,
    port: u16,
    log: Log,
}

impl Kafka {
    /// Formats its storage in `dir`; `log` is the name of its log.
    ///
    /// # Errors
    /// When there is no Java, the jars cannot be had, or the storage cannot be formatted.
    pub fn prepare(paths: &Paths, cache: &Cache, dir: &Path, log: &str) -> Result<Self> {
        let log = Log::fresh(paths, log)?;
        let java = java(paths)?;
        let jars = jars::path(paths, cache)?;
        let classes = classes(paths, cache, &java, &jars)?;
        Self::formatted(java, jars, classes, dir, log)
    }

    fn formatted(java: PathBuf, jars: PathBuf, classes: Vec<String>, dir: &Path, log: Log) -> Result<Self> {
        let port = free_port()?;
        let settings = dir.join("server.properties");
        fs::write(&settings, properties(&dir.join("data"), port, free_port()?))
            .with_context(|| format!("cannot write {}", settings.display()))?;
        let kafka = Self {
            java,
            jars,
            classes,
            settings,
            port,
            log,
        };
        // Any cluster id will do: 16 bytes in URL-safe base64.
        let mut format = kafka.command("kafka.tools.StorageTool");
        format
            .args(["format", "--cluster-id", "bWVyaWRpYW4tcGFydHMtMQ", "--config"])
            .arg(&kafka.settings);
        kafka
            .log
            .run(&mut format)
            .context("Kafka's storage cannot be formatted")?;
        Ok(kafka)
    }

    /// Starts the broker.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<Process> {
        let mut broker = self.command("kafka.Kafka");
        broker.arg(&self.settings);
        Process::start("kafka", &broker, Stop::Terminate, &self.log)
    }

    /// Waits until it answers a request of its protocol.
    ///
    /// # Errors
    /// When it ends or does not answer in time.
    pub fn wait(&self, processes: &mut [Process]) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        until("Kafka answers", Duration::from_secs(60), processes, || {
            answers(address).is_ok()
        })
    }

    /// Its bootstrap address.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The folder of its jars, for tests that start a broker of their own.
    pub fn jars(&self) -> String {
        self.jars.display().to_string()
    }

    /// The options by which a JVM of this machine finds Kafka's classes ready, as words; none if it cannot.
    pub fn classes(&self) -> String {
        self.classes.join(" ")
    }

    fn command(&self, class: &str) -> Command {
        let mut command = Command::new(&self.java);
        command
            .args(&self.classes)
            .args([
                "-Xms64m",
                "-Xmx384m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-cp",
            ])
            .arg(format!("{}/*", self.jars.display()))
            .arg(class);
        command
    }
}

/// The options by which the JVM takes the classes of a broker from an archive, laid out as they are in memory: with it a broker
/// starts for half of the processor time. One that serves and is then asked to stop leaves the archive; a JVM that leaves none
/// starts brokers as it did before.
fn classes(paths: &Paths, cache: &Cache, java: &Path, jars: &Path) -> Result<Vec<String>> {
    const ARCHIVE: &str = "classes.jsa";
    let key = Inputs::new()
        .text("java", &output(Command::new(java).arg("--version"))?)
        .text("jars", &listed(jars)?)
        .key();
    let made = cache.entry("kafka-classes", &key, |dir| {
        let log = Log::fresh(paths, "kafka-classes")?;
        progress::step("laying out Kafka's classes", Some(log.shown()), || {
            let scratch = dir.join("broker");
            fs::create_dir(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
            let leave = vec![format!("-XX:ArchiveClassesAtExit={}", dir.join(ARCHIVE).display())];
            let (java, jars) = (java.to_path_buf(), jars.to_path_buf());
            // The tool that formats the storage leaves one too, which the broker's replaces.
            let broker = Kafka::formatted(java, jars, leave, &scratch, log.clone())?;
            let mut serving = broker.start()?;
            broker.wait(std::slice::from_mut(&mut serving))?;
            serving.end(Duration::from_secs(120))?;
            cache::remove_tree(&scratch)
        })
    })?;
    let archive = made.join(ARCHIVE);
    if !archive.is_file() {
        progress::say("this Java leaves no archive of classes: brokers take longer to start");
        return Ok(Vec::new());
    }
    // What does not fit is told on standard output otherwise, where tools have their answers.
    let quiet = ["-Xlog:disable", "-Xlog:all=error:stderr"].map(str::to_owned);
    let take = format!("-XX:SharedArchiveFile={}", archive.display());
    Ok(std::iter::once(take).chain(quiet).collect())
}

/// The files of a folder with their sizes and times, by which the JVM knows them again.
fn listed(folder: &Path) -> Result<String> {
    let listed = || -> std::io::Result<Vec<String>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let (entry, path) = entry.map(|entry| (entry.metadata(), entry.path()))?;
            let of = entry?;
            files.push(format!("{} {} {}", path.display(), of.size(), of.mtime()));
        }
        files.sort();
        Ok(files)
    };
    let files = listed().with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(files.join("\n"))
}

/// Asks which versions of the protocol the broker speaks: it answers that only once it serves.
fn answers(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(300))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    // Length 10: API key 18 (ApiVersions), version 0, correlation id 1, no client id.
    stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff])?;
    stream.read_exact(&mut [0; 8])
}

fn properties(data: &Path, port: u16, controller: u16) -> String {
    format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={data}\n\
         num.partitions=1\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=4\ngroup.initial.rebalance.delay.ms=0\n\
         auto.create.topics.enable=false\nlog.cleaner.dedupe.buffer.size=4194304\n",
        data = data.display()
    )
}

/// This machine's Java, installed when there is none.
///
/// # Errors
/// When there is none that is new enough, and none can be installed.
pub fn java(paths: &Paths) -> Result<PathBuf> {
    host::ensure_packages(paths, &[("java", "default-jre-headless")])?;
    let java = host::program("java").context("`java` is missing; install Java 17 or newer")?;
    let version = output(Command::new(&java).arg("--version")).unwrap_or_default();
    if major(&version).is_none_or(|major| major < 17) {
        bail!(
            "{} is older than Java 17, which Kafka needs; install a newer one",
            java.display()
        );
    }
    Ok(java)
}

/// The major version in the first line of `java --version`.
fn major(version: &str) -> Option<u32> {
    version
        .lines()
        .next()?
        .split_whitespace()
        .nth(1)?
        .split('.')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_major_version_of_java_is_read() {
        assert_eq!(major("openjdk 17.0.15 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(major("openjdk 21 2023-09-19\n"), Some(21));
        assert_eq!(major(""), None);
    }
}
