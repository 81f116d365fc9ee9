//! Where things live: the project, the cache that survives `cargo clean`, and the logs of this checkout.

use std::env;
use std::fs;
use std::path::{self, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The places that every step reads and writes.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Root of the checkout.
    pub project: PathBuf,
    /// Built tools, root file systems and images, shared by all checkouts of this user.
    pub cache: PathBuf,
    /// Cargo's target folder of this checkout, wherever it was told to be.
    pub target: PathBuf,
}

impl Paths {
    /// Finds the places; creates none of them.
    ///
    /// # Errors
    /// When neither `XDG_CACHE_HOME` nor `HOME` says where a user's cache lives.
    pub fn find() -> Result<Self> {
        // Two checkouts may share a target folder, and with it this program: cargo says which of them runs it.
        let manifest = env::var_os("CARGO_MANIFEST_DIR").filter(|dir| !dir.is_empty());
        let manifest = manifest.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let project = manifest
            .parent()
            .context("xtask lies directly below the project's root")?
            .to_path_buf();
        let cache = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
            (Some(dir), _) if !dir.is_empty() => PathBuf::from(dir).join("meridian"),
            (_, Some(home)) if !home.is_empty() => PathBuf::from(home).join(".cache/meridian"),
            _ => bail!("no cache folder: neither XDG_CACHE_HOME nor HOME is set; set one of them"),
        };
        let asked = env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
        let target = target_folder(&project, asked.map(PathBuf::from), env::current_exe().ok());
        // Commands are started in other folders: there, a relative path would be another place.
        let target = path::absolute(&target).with_context(|| format!("no such target folder: {}", target.display()))?;
        let cache = path::absolute(&cache).with_context(|| format!("no such cache folder: {}", cache.display()))?;
        Ok(Self { project, cache, target })
    }

    /// Cargo in the project's root, with the target folder that this program itself was built in.
    pub fn cargo(&self) -> Command {
        self.as_from_a_shell(Command::new(own_cargo()))
    }

    /// The same, but everything else on this machine goes first: clusters come up while it builds.
    pub fn patient_cargo(&self) -> Command {
        let mut patient = Command::new("nice");
        patient.args(["-n", "10"]).arg(own_cargo());
        self.as_from_a_shell(patient)
    }

    fn as_from_a_shell(&self, mut command: Command) -> Command {
        forget_cargo_run(&mut command);
        command.current_dir(&self.project).env("CARGO_TARGET_DIR", &self.target);
        command
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

    /// A program of the project that cargo has built.
    pub fn built(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// The data files of the node image, the tools and the container images.
    pub fn kind(&self) -> PathBuf {
        self.project.join("tests/kind")
    }
}

/// Takes out what `cargo run` tells this program about itself: build scripts that ask for such variables (ring's) would run
/// again, and all that depends on them with them, whenever cargo is called from here after a call by hand.
pub fn forget_cargo_run(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let told = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_PRIMARY_PACKAGE"
        });
        if told {
            command.env_remove(name);
        }
    }
}

/// The cargo that this program was started by.
fn own_cargo() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The target folder: the one that cargo was asked for, else the one that this program lies in (a configuration file
/// of cargo may name it), else the project's own.
fn target_folder(project: &Path, asked: Option<PathBuf>, own: Option<PathBuf>) -> PathBuf {
    let lies_in = || {
        let profile = own?.parent()?.to_path_buf();
        profile
            .ends_with("debug")
            .then(|| profile.parent().map(Path::to_path_buf))?
    };
    asked.or_else(lies_in).unwrap_or_else(|| project.join("target"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_folder_is_the_one_asked_for_or_the_one_this_program_lies_in() {
        let find = |asked: Option<&str>, own: &str| {
            target_folder(Path::new("/p"), asked.map(PathBuf::from), Some(PathBuf::from(own)))
        };
        assert_eq!(find(Some("/t"), "/other/debug/xtask"), Path::new("/t"));
        assert_eq!(find(None, "/other/debug/xtask"), Path::new("/other"));
        assert_eq!(find(None, "/usr/bin/xtask"), Path::new("/p/target"));
        assert_eq!(target_folder(Path::new("/p"), None, None), Path::new("/p/target"));
    }
}
