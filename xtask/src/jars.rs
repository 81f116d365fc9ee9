//! Kafka's jars, by Maven from `tests/kind/kafka/pom.xml`, and MirrorMaker 2's from `tests/bench/mirror/pom.xml`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cache::{Cache, Inputs, Key};
use crate::host;
use crate::paths::Paths;
use crate::progress::{self, Log};

/// Their name in the cache.
pub const NAME: &str = "kafka-jars";

/// The hash of what decides which jars there are.
///
/// # Errors
/// When the pom cannot be read.
pub fn key(paths: &Paths) -> Result<Key> {
    Ok(Inputs::new().file(&paths.kind().join("kafka/pom.xml"))?.key())
}

/// The folder with the jars; downloaded now when the cache has none.
///
/// # Errors
/// When Maven is missing and cannot be installed, or an artifact cannot be had.
pub fn path(paths: &Paths, cache: &Cache) -> Result<PathBuf> {
    cache.entry(NAME, &key(paths)?, |dir| {
        host::ensure_packages(paths, &[("mvn", "maven")])?;
        let log = Log::fresh(paths, "kafka-jars")?;
        progress::step("downloading Kafka's jars", Some(log.shown()), || {
            log.run(&mut copy(&paths.kind().join("kafka"), dir))
        })
    })
}

/// MirrorMaker 2's jars in `dir`. Maven downloads each once, and copies it every time.
///
/// # Errors
/// As [`path`].
pub fn mirror(paths: &Paths, dir: &Path) -> Result<()> {
    host::ensure_packages(paths, &[("mvn", "maven")])?;
    let log = Log::fresh(paths, "mirror-jars")?;
    progress::step("fetching MirrorMaker 2's jars", Some(log.shown()), || {
        log.run(&mut copy(&paths.project.join("tests/bench/mirror"), dir))
    })
}

fn copy(pom: &Path, dir: &Path) -> Command {
    let mut mvn = Command::new("mvn");
    mvn.current_dir(pom)
        .args(["--batch-mode", "--no-transfer-progress", "--strict-checksums"])
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", dir.display()))
        .arg("-DincludeScope=runtime");
    mvn
}
