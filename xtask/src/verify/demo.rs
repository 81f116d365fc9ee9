//! The clusters for the end-to-end rows: they come up while everything else is checked, which is mostly waiting, and stop
//! where they are until their rows are proved.

use std::fs::File;
use std::thread::{self, JoinHandle};

use anyhow::Result;

use super::{Scope, Tally};
use crate::cache::Cache;
use crate::cluster::{self, Clusters};
use crate::deploy;
use crate::docker::engine;
use crate::paths::Paths;
use crate::programs::Programs;
use crate::progress;

/// Clusters that come up, or the reason why there will be none.
pub enum Beginning {
    /// None, and why.
    Without(String),
    /// The lock by which nobody else changes the demo, and the thread at work.
    With(File, JoinHandle<Result<()>>),
}

/// Clusters that came up, and may be paused since.
pub struct Up {
    _alone: File,
}

/// Begins to bring the clusters up, unless they are not wanted or this machine has no engine and may not start one.
///
/// # Errors
/// When the lock cannot be taken.
pub fn begin(paths: &Paths, cache: &Cache, scope: Scope) -> Result<Beginning> {
    if scope.fast {
        return Ok(Beginning::Without("--fast leaves them out".to_owned()));
    }
    if let Some(sentence) = engine::lacking() {
        return Ok(Beginning::Without(sentence));
    }
    let alone = cache.lock("demo")?;
    let (paths, cache) = (paths.clone(), cache.clone());
    let thread = thread::spawn(move || {
        // Said at once, although it is counted only when the rows would be proved.
        cluster::up(&paths, &cache).inspect(rest).map(drop).inspect_err(failed)
    });
    Ok(Beginning::With(alone, thread))
}

impl Beginning {
    /// Waits until the clusters came up; else gives what to count for the rows.
    pub fn end(self) -> Result<Up, Tally> {
        match self {
            Self::Without(reason) => Err(Tally::skip(format!("the end-to-end rows on kind: {reason}"))),
            Self::With(alone, thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .map(|()| Up { _alone: alone })
                .map_err(|_| Tally::one(false)),
        }
    }
}

/// Stops clusters where they are: three idle control planes take a quarter of a small machine from the build and the tests.
/// Those that an earlier run left with the platform in them go on, since it would have to recover.
fn rest(clusters: &Clusters) {
    if !clusters.changed {
        return;
    }
    if let Err(error) = cluster::pause(&clusters.containers) {
        progress::say(&format!("the clusters go on beside the tests: {error:#}"));
    }
}

impl Up {
    /// Deploys the platform and proves every row, those about operating it too.
    pub fn prove(self, paths: &Paths, cache: &Cache, programs: &Programs) -> Tally {
        cluster::up(paths, cache)
            .and_then(|clusters| deploy::deploy(paths, cache, &clusters, programs))
            .and_then(|deployed| deploy::prove_all(paths, cache, programs, &deployed.changed(), true))
            .inspect_err(failed)
            .unwrap_or_else(|_| Tally::one(false))
    }
}

fn failed(error: &anyhow::Error) {
    progress::say(&format!("the end-to-end rows on kind: FAILED: {error:#}"));
}
