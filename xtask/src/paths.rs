//! Where things live: the project, the cache that survives `cargo clean`, and the logs of this checkout.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The places that every step reads and writes.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Root of the checkout.
    pub project: PathBuf,
    /// Built tools, root file systems and images, shared by all checkouts of this user.
    pub cache: PathBuf,
    /// Cargo's target folder of this checkout.
    pub target: PathBuf,
}

impl Paths {
    /// Finds the places; creates none of them.
    ///
    /// # Errors
    /// When neither `XDG_CACHE_HOME` nor `HOME` says where a user's cache lives.
    pub fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let project = manifest
            .parent()
            .context("xtask lies directly below the project's root")?
            .to_path_buf();
        let cache = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
            (Some(dir), _) if !dir.is_empty() => PathBuf::from(dir).join("meridian"),
            (_, Some(home)) if !home.is_empty() => PathBuf::from(home).join(".cache/meridian"),
            _ => bail!("no cache folder: neither XDG_CACHE_HOME nor HOME is set; set one of them"),
        };
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| project.join("target"), PathBuf::from);
        Ok(Self { project, cache, target })
    }

    /// A log file of a step, in a folder that exists when this returns.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn log(&self, step: &str) -> Result<PathBuf> {
        let dir = self.target.join("xtask/logs");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create the log folder {}", dir.display()))?;
        Ok(dir.join(format!("{step}.log")))
    }

    /// A path as a reader in the project's root would type it.
    pub fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.project).unwrap_or(path).display().to_string()
    }

    /// The data files of the node image, the tools and the container images.
    pub fn kind(&self) -> PathBuf {
        self.project.join("tests/kind")
    }
}
