//! Kafka's jars, by Maven from `tests/kind/kafka/pom.xml`.

use std::path::PathBuf;
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
            log.run(
                Command::new("mvn")
                    .current_dir(paths.kind().join("kafka"))
                    .args(["--batch-mode", "--no-transfer-progress", "dependency:copy-dependencies"])
                    .arg(format!("-DoutputDirectory={}", dir.display()))
                    .arg("-DincludeScope=runtime"),
            )
        })
    })
}
