//! PostgreSQL as a process: version 17 of the demo's own root file system for root, an installed one for others.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::process::{Process, Stop, until};
use super::{free_port, random_word, write_private};
use crate::cache::Cache;
use crate::host;
use crate::paths::Paths;
use crate::progress::Log;
use crate::rootfs;

/// Settings of a server whose data nobody keeps: it survives a killed process of its own, not a power cut.
const THROW_AWAY: &[&str] = &[
    "fsync=off",
    "full_page_writes=off",
    "max_connections=200",
    "shared_buffers=64MB",
    "unix_socket_directories=",
    "listen_addresses=127.0.0.1",
    "wal_level=logical",
];

/// Where a server's databases lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Databases {
    /// In memory of its own, gone with the server, where this starts it as root; else on the disk. A database is three hundred
    /// files, and tests make hundreds of databases: a third of what the server did for them was to have a disk's file system
    /// find room for files.
    InMemory,
    /// On a disk, as a region's.
    OnDisk,
}

/// A prepared server.
pub struct Postgres {
    programs: Programs,
    databases: Databases,
    data: PathBuf,
    port: u16,
    password: String,
    log: Log,
}

enum Programs {
    /// In a root file system: its path, and its user there. The data folder is mounted into it.
    Rooted { root: PathBuf, user: u32, group: u32 },
    /// Installed on this machine.
    Installed { bin: PathBuf },
}

/// The data folder as a server in a root file system sees it.
const DATA_INSIDE: &str = "/var/lib/postgresql";

impl Postgres {
    /// Makes the database files.
    ///
    /// # Errors
    /// When there is no PostgreSQL to run, or `initdb` fails.
    pub fn prepare(paths: &Paths, cache: &Cache, dir: &Path, databases: Databases) -> Result<Self> {
        let programs = Programs::find(paths, cache)?;
        let log = Log::fresh(paths, "part-postgres")?;
        let password = random_word()?;
        let secret = dir.join("password");
        write_private(&secret, &password)?;
        if let Programs::Rooted { user, group, .. } = &programs {
            for path in [dir, &secret] {
                chown(path, Some(*user), Some(*group))
                    .with_context(|| format!("cannot give {} to the database's user", path.display()))?;
            }
        }
        let seen = programs.seen(dir);
        let mut initdb = programs.command("initdb", dir, Databases::OnDisk);
        initdb
            .arg(format!("--pgdata={}", seen.join("data").display()))
            .arg(format!("--pwfile={}", seen.join("password").display()))
            .args([
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ]);
        log.run(&mut initdb).context("PostgreSQL's initdb failed")?;
        Ok(Self {
            programs,
            databases,
            data: dir.to_path_buf(),
            port: free_port()?,
            password,
            log,
        })
    }

    /// Starts the server.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<Process> {
        let mut server = self.programs.command("postgres", &self.data, self.databases);
        server
            .arg("-D")
            .arg(self.programs.seen(&self.data).join("data"))
            .arg(format!("--port={}", self.port));
        for setting in THROW_AWAY {
            server.args(["-c", setting]);
        }
        Process::start("postgres", &server, Stop::Interrupt, &self.log)
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub fn wait(&self, processes: &mut [Process]) -> Result<()> {
        let state = self.data.join("data/postmaster.pid");
        until(
            "PostgreSQL accepts connections",
            Duration::from_secs(30),
            processes,
            || {
                // The eighth line is the state that `pg_ctl --wait` waits for.
                fs::read_to_string(&state).is_ok_and(|text| text.lines().nth(7).map(str::trim) == Some("ready"))
            },
        )
    }

    /// The file that it logs to.
    pub fn log(&self) -> &Path {
        self.log.path()
    }

    /// The superuser's URL.
    pub fn url(&self) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/postgres", self.password, self.port)
    }
}

impl Programs {
    fn find(paths: &Paths, cache: &Cache) -> Result<Self> {
        if host::is_root() {
            let root = rootfs::path(paths, cache, &rootfs::POSTGRES)?;
            let (user, group) = user_in(&root, "postgres")?;
            return Ok(Self::Rooted { root, user, group });
        }
        found().map(|bin| Self::Installed { bin })
    }

    /// A folder of this machine as the server sees it.
    fn seen(&self, dir: &Path) -> PathBuf {
        match self {
            Self::Rooted { .. } => PathBuf::from(DATA_INSIDE),
            Self::Installed { .. } => dir.to_path_buf(),
        }
    }

    /// A program of PostgreSQL that sees `dir`.
    fn command(&self, name: &str, dir: &Path, databases: Databases) -> Command {
        match self {
            Self::Installed { bin } => Command::new(bin.join(name)),
            Self::Rooted { root, user, group } => {
                // Every program here replaces the one before it, so the process that is started is the server itself.
                // The death signal comes last: the kernel clears it when a process changes its user.
                let script = "mount --bind \"$2\" \"$1$3\"; mount --bind /dev \"$1/dev\"; \
                              mount -t tmpfs tmpfs \"$1/dev/shm\"; \
                              if [ -n \"$4\" ]; then mount -t tmpfs -o size=4g,mode=0700 tmpfs \"$1/mnt\"; cp -a \"$1$3/$4/.\" \"$1/mnt\"; \
                              mount --move \"$1/mnt\" \"$1$3/$4\"; fi; root=$1; shift 4; exec chroot \"$root\" \"$@\"";
                let in_memory = match databases {
                    Databases::InMemory => "data/base",
                    Databases::OnDisk => "",
                };
                let mut command = host::private_mounts();
                command
                    .args(["sh", "-euc", script, "sh"])
                    .args([root.as_path(), dir, Path::new(DATA_INSIDE), Path::new(in_memory)])
                    .args(["setpriv", "--reuid", &user.to_string(), "--regid", &group.to_string()])
                    .args(["--clear-groups", "--pdeathsig", "INT", "--"])
                    .arg(Path::new("/usr/lib/postgresql/17/bin").join(name));
                command
            }
        }
    }
}

/// The folder of the programs of an installed PostgreSQL: what users who are not root need.
///
/// # Errors
/// One sentence that says what to install.
pub fn found() -> Result<PathBuf> {
    installed().context("no PostgreSQL 15 or newer is installed; install it (Debian: sudo apt-get install postgresql)")
}

/// The newest installed PostgreSQL that is new enough.
fn installed() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(version, bin)| *version >= 15 && bin.join("initdb").is_file())
        .collect();
    versions.sort();
    versions
        .pop()
        .map(|(_, bin)| bin)
        .or_else(|| Some(host::program("initdb")?.canonicalize().ok()?.parent()?.into()))
}

/// The numbers of a user and its group in a root file system.
fn user_in(root: &Path, name: &str) -> Result<(u32, u32)> {
    let file = root.join("etc/passwd");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(|fields| fields.first() == Some(&name))
        .find_map(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
        .with_context(|| format!("{} names no user {name}", file.display()))
}
