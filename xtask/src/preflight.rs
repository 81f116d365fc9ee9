//! What this machine must have, looked at before long work begins: half an hour into a build is late to hear of a
//! missing program.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::docker::engine;
use crate::host;
use crate::jars;
use crate::local::{Part, postgres};
use crate::paths::Paths;
use crate::progress::output;
use crate::rootfs::{self, RootFs};
use crate::tools::{self, TOOLS};

/// A program of this machine, or the path of another file, and the Debian package that brings it.
type Program = (&'static str, &'static str);

/// What the platform is built with: librdkafka comes as C, and is linked with this machine's OpenSSL (docs/adr/0025).
const BUILDING: [Program; 4] = [
    ("cc", "gcc"),
    ("make", "make"),
    ("pkg-config", "pkg-config"),
    ("/usr/include/openssl/ssl.h", "libssl-dev"),
];

/// What every run of the demo needs beside that: to end its children, to pack images.
const ALWAYS: &[Program] = &[
    ("strip", "binutils"),
    ("ldd", "libc-bin"),
    ("tar", "tar"),
    ("setpriv", "util-linux"),
    ("timeout", "coreutils"),
];

/// Free space, in MiB, that a first run fills with tools, images, build output and clusters; and a later one.
const FIRST_RUN: u64 = 12 * 1024;
const LATER_RUN: u64 = 2 * 1024;

/// What is not in the cache yet.
#[derive(Debug, Default, Clone, Copy)]
struct Unmade {
    tools: bool,
    roots: bool,
    jars: bool,
}

impl Unmade {
    fn of(paths: &Paths, cache: &Cache, tools: &[&str], roots: &[&RootFs], jars: bool) -> Result<Self> {
        let mut unmade = Self {
            roots: roots.iter().any(|root| !cache.is_whole(root.name, &rootfs::key(root))),
            jars: jars && !cache.is_whole(jars::NAME, &jars::key(paths)?),
            ..Self::default()
        };
        for name in tools {
            unmade.tools |= tools::built(paths, cache, name)?.is_none();
        }
        Ok(unmade)
    }

    fn programs(self) -> Vec<Program> {
        let mut programs = Vec::new();
        if self.roots {
            programs.extend([("debootstrap", "debootstrap"), ("unshare", "util-linux")]);
        }
        if self.jars {
            programs.push(("mvn", "maven"));
        }
        programs
    }
}

/// Before anything is built: what every run of the demo needs, and Go for its clients.
///
/// # Errors
/// One sentence that says what to install.
pub fn demo(paths: &Paths, cache: &Cache) -> Result<()> {
    let unmade = Unmade::of(paths, cache, tools::CLIENTS, &[], false)?;
    go(paths, unmade)?;
    host::ensure_packages(paths, &[&BUILDING[..], ALWAYS].concat())
}

/// Before images are built here, where no registry can be reached.
///
/// # Errors
/// One sentence that says what to install, what needs root, or that the disk is full.
pub fn images(paths: &Paths, cache: &Cache) -> Result<()> {
    let roots = [&rootfs::POSTGRES, &rootfs::JAVA, &rootfs::NODE];
    let all: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
    let unmade = Unmade::of(paths, cache, &all, &roots, true)?;
    if let Some(sentence) = needs_root(unmade, host::is_root()) {
        bail!(sentence);
    }
    go(paths, unmade)?;
    if unmade.roots {
        host::debian_mirror()?;
    }
    let first = unmade.roots || unmade.tools;
    space(&[&paths.cache, &paths.target, Path::new(engine::DATA_ROOT)], first)?;
    host::ensure_packages(
        paths,
        &[&[("gcc", "gcc"), ("ld", "binutils")], &unmade.programs()[..]].concat(),
    )
}

/// Before parts are started for tests, and what tests is built.
///
/// # Errors
/// One sentence that says what to install, or what needs root.
pub fn parts(paths: &Paths, cache: &Cache, wanted: &[Part]) -> Result<()> {
    let mut programs: Vec<Program> = [&BUILDING[..], &[("setpriv", "util-linux")]].concat();
    let (mut tools, mut roots): (&[&str], &[&RootFs]) = (&[], &[]);
    if wanted
        .iter()
        .any(|part| matches!(part, Part::Apiserver | Part::Member | Part::Other))
    {
        programs.push(("openssl", "openssl"));
        tools = &["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];
    }
    let kafka = wanted.contains(&Part::Kafka);
    if kafka {
        programs.push(("java", "default-jre-headless"));
    }
    if wanted.contains(&Part::Postgres) {
        if host::is_root() {
            roots = &[&rootfs::POSTGRES];
        } else {
            postgres::found()?;
        }
    }
    let unmade = Unmade::of(paths, cache, tools, roots, kafka)?;
    go(paths, unmade)?;
    programs.extend(unmade.programs());
    host::ensure_packages(paths, &programs)
}

fn needs_root(unmade: Unmade, root: bool) -> Option<String> {
    (unmade.roots && !root).then(|| {
        "no container registry can be reached, and root file systems are made of Debian packages, which only root can \
         do: run this as root, or where a registry can be reached"
            .to_owned()
    })
}

/// Fails when Go is needed and missing, or older than the modules want and forbidden to fetch a newer one.
fn go(paths: &Paths, unmade: Unmade) -> Result<()> {
    if !unmade.tools {
        return Ok(());
    }
    // The module that asks for the newest Go of all.
    let module = paths.kind().join("go/containerd");
    let file = module.join("go.mod");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let wanted = text
        .lines()
        .find_map(|line| line.strip_prefix("go "))
        .unwrap_or_default()
        .trim();
    let advice =
        format!("Kubernetes' programs are built from Go modules; install Go {wanted} or newer (https://go.dev/dl)");
    if host::program("go").is_none() {
        bail!("`go` is missing: {advice}");
    }
    let mut ask = Command::new("go");
    ask.current_dir(&module).args(["env", "GOVERSION"]).env("GOWORK", "off");
    let version = output(&mut ask).with_context(|| format!("`go` does not work: {advice}"))?;
    if is_older(version.trim().trim_start_matches("go"), wanted) {
        bail!("`go` is version {}: {advice}", version.trim());
    }
    Ok(())
}

/// Whether one version of Go is older than another. What is no number ends it: `1.27rc1` counts as 1.27.
fn is_older(version: &str, wanted: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        let plain = text
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .map_or(text, |end| &text[..end]);
        plain.split('.').map_while(|number| number.parse().ok()).collect()
    };
    numbers(version) < numbers(wanted)
}

/// Fails when a file system that a run writes to has too little space.
fn space(places: &[&Path], first_run: bool) -> Result<()> {
    let needed = if first_run { FIRST_RUN } else { LATER_RUN };
    for place in places {
        let Some(existing) = place.ancestors().find(|folder| folder.exists()) else {
            continue;
        };
        let mut df = Command::new("df");
        df.args(["--output=avail", "--block-size=1M"]).arg(existing);
        // Where `df` does not know, writing will tell.
        let free = output(&mut df).ok().and_then(|text| free_in(&text));
        if free.is_some_and(|free| free < needed) {
            bail!(
                "{} has {} MiB left and {needed} MiB are needed: make room and try again (`cargo xtask down --cache` \
                 removes what was built here)",
                existing.display(),
                free.unwrap_or_default()
            );
        }
    }
    Ok(())
}

fn free_in(df: &str) -> Option<u64> {
    df.lines().nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_go_is_told_from_a_newer_one() {
        assert!(is_older("1.24.1", "1.26.6"));
        assert!(is_older("1.26.0", "1.26.6"));
        assert!(!is_older("1.26.8", "1.26.6"));
        assert!(!is_older("1.27rc1", "1.26.6"));
        assert!(is_older("1.9", "1.26"));
    }

    #[test]
    fn only_what_is_not_made_yet_asks_for_programs() {
        assert!(Unmade::default().programs().is_empty());
        let jars = Unmade {
            jars: true,
            ..Unmade::default()
        };
        assert_eq!(jars.programs(), [("mvn", "maven")]);
    }

    #[test]
    fn in_an_empty_cache_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::find().unwrap();
        let all: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
        let unmade = Unmade::of(&paths, &Cache::at(dir.path()), &all, &[&rootfs::NODE], true).unwrap();
        assert!(unmade.tools && unmade.roots && unmade.jars);
    }

    #[test]
    fn only_a_missing_root_file_system_needs_root() {
        let missing = Unmade {
            roots: true,
            ..Unmade::default()
        };
        assert!(needs_root(missing, false).unwrap().contains("run this as root"));
        assert_eq!(needs_root(missing, true), None);
        assert_eq!(needs_root(Unmade::default(), false), None);
    }

    #[test]
    fn a_full_disk_is_named() {
        assert_eq!(free_in("Avail\n59053\n"), Some(59053));
        assert_eq!(free_in("df: no such file"), None);
        space(&[Path::new("/")], false).unwrap_or_else(|error| assert!(error.to_string().contains("MiB left")));
    }
}
