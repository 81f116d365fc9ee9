//! Real parts as plain processes, without containers, for integration tests: PostgreSQL, Kafka, kube-apiserver.
//!
//! Each part has three phases: `prepare` (slow, may run beside others), `start` (by the main thread: a part dies with
//! the thread that started it) and `wait` (until it answers).

mod apiserver;
mod definitions;
pub mod kafka;
pub mod postgres;
mod process;

use std::fs;
use std::io::{Read as _, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use self::apiserver::Wanted;
use self::postgres::{Databases, Postgres};
use crate::cache::{self, Cache};
use crate::paths::{self, Paths};
use crate::preflight;
use crate::progress;

/// A part that tests can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// PostgreSQL 17: `MERIDIAN_TEST_POSTGRES`, a superuser's URL; `MERIDIAN_TEST_POSTGRES_LOG`, the file
    /// that it logs to.
    Postgres,
    /// Kafka 4.1, one broker that takes whoever comes: `MERIDIAN_TEST_KAFKA`, host:port; and its jars, for tests that start
    /// a region's broker with what the region says: `MERIDIAN_TEST_KAFKA_JARS`, with the options of Java by which it starts
    /// fast: `MERIDIAN_TEST_KAFKA_CLASSES`.
    Kafka,
    /// etcd, kube-apiserver and kube-controller-manager without nodes: `MERIDIAN_TEST_KUBECONFIG`.
    Apiserver,
    /// A second control plane on the same etcd: `MERIDIAN_TEST_MEMBER_KUBECONFIG`.
    Member,
    /// A second pair of them, for tests that run beside those on the first: `MERIDIAN_TEST_OTHER_KUBECONFIG` and
    /// `MERIDIAN_TEST_OTHER_MEMBER_KUBECONFIG`.
    Other,
}

/// The variable with a hub's kubeconfig.
pub const HUB: &str = "MERIDIAN_TEST_KUBECONFIG";
/// The variable with a member's kubeconfig.
pub const MEMBER: &str = "MERIDIAN_TEST_MEMBER_KUBECONFIG";
/// The variable with the kubeconfig of the second pair's hub.
pub const OTHER: &str = "MERIDIAN_TEST_OTHER_KUBECONFIG";
/// The variable with the kubeconfig of the second pair's member.
pub const OTHER_MEMBER: &str = "MERIDIAN_TEST_OTHER_MEMBER_KUBECONFIG";

/// The variable with the kubeconfig of a fleet's hub.
const FLEET_HUB: &str = "MERIDIAN_BENCH_HUB";
/// The variable with the kubeconfigs of a fleet's members, as `PATH` lists folders.
const FLEET_MEMBERS: &str = "MERIDIAN_BENCH_MEMBERS";
/// The variable with the process ids of a fleet's API servers and of their etcd, separated by colons.
const FLEET_PROCESSES: &str = "MERIDIAN_BENCH_PROCESSES";

/// The variable with a superuser's URL of the PostgreSQL of one region, on which nothing is yet.
const REGION_POSTGRES: &str = "MERIDIAN_BENCH_POSTGRES";

/// The variable with the address of the broker beyond a border.
const OTHER_KAFKA: &str = "MERIDIAN_BENCH_OTHER_KAFKA";

/// The control planes of the parts `apiserver`, `member` and `other`.
fn planes(wanted: &[Part]) -> Vec<Wanted> {
    let of = |name: &str, variable| Wanted {
        name: name.to_owned(),
        variable,
        controllers: true,
    };
    let mut planes = vec![of("hub", HUB)];
    if wanted.contains(&Part::Member) {
        planes.push(of("member", MEMBER));
    }
    if wanted.contains(&Part::Other) {
        planes.extend([of("other", OTHER), of("other-member", OTHER_MEMBER)]);
    }
    planes
}

/// The parts that run; they stop when this is dropped.
pub struct Running {
    env: Vec<(&'static str, String)>,
    // Dropped in this order: the processes first, then the folder that they write to.
    _parts: Vec<process::Process>,
    _folder: Folder,
}

impl Running {
    /// Starts the parts and waits until each one answers.
    ///
    /// # Errors
    /// When a part cannot be built, started, or does not answer in its time.
    pub fn start(paths: &Paths, cache: &Cache, wanted: &[Part]) -> Result<Self> {
        preflight::parts(paths, cache, wanted)?;
        let began = Instant::now();
        let folder = Folder::create(paths, "parts")?;
        let has = |part: Part| wanted.contains(&part);
        let needs_apiserver = has(Part::Apiserver) || has(Part::Member) || has(Part::Other);

        let (postgres, kafka, apiserver) = thread::scope(|scope| {
            let postgres = has(Part::Postgres).then(|| {
                scope.spawn(|| Postgres::prepare(paths, cache, &folder.make("postgres")?, Databases::InMemory))
            });
            let kafka = has(Part::Kafka)
                .then(|| scope.spawn(|| kafka::Kafka::prepare(paths, cache, &folder.make("kafka")?, "part-kafka")));
            let apiserver = needs_apiserver.then(|| {
                scope.spawn(|| {
                    apiserver::ControlPlane::prepare(paths, cache, &folder.make("apiserver")?, planes(wanted))
                })
            });
            (postgres.map(joined), kafka.map(joined), apiserver.map(joined))
        });
        let (postgres, kafka, apiserver) = (postgres.transpose()?, kafka.transpose()?, apiserver.transpose()?);

        let mut parts = Vec::new();
        let mut env = Vec::new();
        if let Some(postgres) = &postgres {
            parts.push(postgres.start()?);
            env.push(("MERIDIAN_TEST_POSTGRES", postgres.url()));
            env.push(("MERIDIAN_TEST_POSTGRES_LOG", postgres.log().display().to_string()));
        }
        if let Some(kafka) = &kafka {
            parts.push(kafka.start()?);
            env.push(("MERIDIAN_TEST_KAFKA", kafka.address()));
            env.push(("MERIDIAN_TEST_KAFKA_JARS", kafka.jars()));
            env.push(("MERIDIAN_TEST_KAFKA_CLASSES", kafka.classes()));
        }
        if let Some(apiserver) = &apiserver {
            parts.extend(apiserver.start()?);
            env.extend(apiserver.env());
            env.extend(definitions::env(paths)?);
        }
        // The later a part was started, the more it depends on: stop in the opposite order.
        parts.reverse();

        if let Some(postgres) = &postgres {
            postgres.wait(&mut parts)?;
        }
        if let Some(kafka) = &kafka {
            kafka.wait(&mut parts)?;
        }
        if let Some(apiserver) = &apiserver {
            apiserver.wait(&mut parts)?;
        }
        progress::say(&format!("parts ready in {:.1} s", began.elapsed().as_secs_f32()));
        Ok(Self {
            env,
            _parts: parts,
            _folder: folder,
        })
    }

    /// Starts one etcd with a hub's API server and `members` others, all without controllers: what is written there
    /// stays as it was written, so that nobody else's work is measured.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn start_fleet(paths: &Paths, cache: &Cache, members: usize) -> Result<Self> {
        let folder = Folder::create(paths, "fleet")?;
        let bare = |name: String, variable| Wanted {
            name,
            variable,
            controllers: false,
        };
        let hub = bare("bench-hub".to_owned(), FLEET_HUB);
        let members = (0..members).map(|number| bare(format!("bench-member-{number}"), FLEET_MEMBERS));
        let planes = std::iter::once(hub).chain(members).collect();
        let prepared = apiserver::ControlPlane::prepare(paths, cache, &folder.make("apiserver")?, planes)?;
        let mut parts = prepared.start()?;
        parts.reverse();
        prepared.wait(&mut parts)?;
        let of = |wanted: &str| {
            let kubeconfigs = prepared.env().into_iter().filter(|(variable, _)| *variable == wanted);
            kubeconfigs.map(|(_, path)| path).collect::<Vec<_>>().join(":")
        };
        let pids: Vec<String> = parts.iter().map(|part| part.id().to_string()).collect();
        Ok(Self {
            env: vec![
                (FLEET_HUB, of(FLEET_HUB)),
                (FLEET_MEMBERS, of(FLEET_MEMBERS)),
                (FLEET_PROCESSES, pids.join(":")),
            ],
            _parts: parts,
            _folder: folder,
        })
    }

    /// Starts the PostgreSQL of one region. Nobody else has anything on it: what a look at the whole server finds is the
    /// region's.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn start_region(paths: &Paths, cache: &Cache) -> Result<Self> {
        preflight::parts(paths, cache, &[Part::Postgres])?;
        let folder = Folder::create(paths, "region")?;
        let postgres = Postgres::prepare(paths, cache, &folder.make("postgres")?, Databases::OnDisk)?;
        let mut parts = vec![postgres.start()?];
        postgres.wait(&mut parts)?;
        Ok(Self {
            env: vec![(REGION_POSTGRES, postgres.url())],
            _parts: parts,
            _folder: folder,
        })
    }

    /// Starts what two regions need that replicate: PostgreSQL for both, and a broker for each.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn start_border(paths: &Paths, cache: &Cache) -> Result<Self> {
        preflight::parts(paths, cache, &[Part::Postgres, Part::Kafka])?;
        let folder = Folder::create(paths, "border")?;
        let postgres = Postgres::prepare(paths, cache, &folder.make("postgres")?, Databases::OnDisk)?;
        let broker = |name: &str| kafka::Kafka::prepare(paths, cache, &folder.make(name)?, name);
        let (kafka, other) = (broker("bench-kafka")?, broker("bench-other-kafka")?);
        let mut parts = vec![postgres.start()?, kafka.start()?, other.start()?];
        parts.reverse();
        postgres.wait(&mut parts)?;
        kafka.wait(&mut parts)?;
        other.wait(&mut parts)?;
        Ok(Self {
            env: vec![
                ("MERIDIAN_TEST_POSTGRES", postgres.url()),
                ("MERIDIAN_TEST_KAFKA", kafka.address()),
                (OTHER_KAFKA, other.address()),
            ],
            _parts: parts,
            _folder: folder,
        })
    }

    /// The variables by which a test finds the parts.
    pub fn env(&self) -> &[(&'static str, String)] {
        &self.env
    }
}

/// Starts the parts, runs the command with their addresses in its environment, and stops the parts.
///
/// # Errors
/// When a part or the command cannot be started. A command that fails is no error here: its status is the answer.
pub fn run_with(paths: &Paths, cache: &Cache, wanted: &[Part], command: &[String]) -> Result<ExitStatus> {
    let running = Running::start(paths, cache, wanted)?;
    let (program, arguments) = command.split_first().context("no command was given after `--`")?;
    let mut asked = Command::new(program);
    paths::forget_cargo_run(&mut asked);
    asked
        .args(arguments)
        .envs(running.env().iter().map(|(name, value)| (*name, value.as_str())));
    progress::mortal(&asked)
        .status()
        .with_context(|| format!("`{program}` cannot be started"))
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Removes the data of runs that were interrupted; that of runs which go on stay.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_left_over(paths: &Paths) -> Result<()> {
    let Ok(listed) = fs::read_dir(all_folders(paths)) else {
        return Ok(());
    };
    for entry in listed.flatten() {
        let owner = entry.file_name().to_string_lossy().into_owned();
        if !Path::new("/proc").join(owner).exists() {
            cache::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn all_folders(paths: &Paths) -> PathBuf {
    paths.target.join("xtask/parts")
}

/// The folder of data of one run, or of one kind of parts that it starts; removed when these end. What an interrupted run left
/// is removed by the next one.
struct Folder(PathBuf);

impl Folder {
    fn create(paths: &Paths, kind: &str) -> Result<Self> {
        remove_left_over(paths)?;
        let own = all_folders(paths).join(std::process::id().to_string()).join(kind);
        cache::remove_tree(&own)?;
        fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
        Ok(Self(own))
    }

    fn make(&self, name: &str) -> Result<PathBuf> {
        let dir = self.0.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = cache::remove_tree(&self.0) {
            progress::say(&format!("{error:#}"));
        }
    }
}

/// A port that nobody listens on now, below those that systems give to connections and Kubernetes to Services: no
/// connection takes it before its part does, or while its part is down.
fn free_port() -> Result<u16> {
    for _ in 0..1000 {
        let port = 10_000 + u16::from_le_bytes(random()?) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1 between 10000 and 29999");
}

/// A random word of 32 hex digits.
fn random_word() -> Result<String> {
    Ok(cache::hex(&random::<16>()?))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read randomness")?;
    Ok(bytes)
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, content: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
