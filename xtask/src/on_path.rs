//! Programs under the names that people type: a folder of links for the front of PATH.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::paths::Paths;
use crate::programs::Programs;
use crate::tools;

/// What people type beside the project's own programs.
const TOOLS: &[&str] = &["kubectl", "helm", "kind"];

/// PATH with kubectl, helm, kind, `meridian` and the plugin `kubectl meridian` before everything else.
///
/// # Errors
/// When a tool cannot be had, or the folder cannot be written.
pub fn path(paths: &Paths, cache: &Cache, programs: &Programs) -> Result<OsString> {
    let folder = paths.target.join("xtask/bin");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let ours = ["kubectl-meridian", "meridian"];
    let mut links: Vec<(&str, PathBuf)> = ours.map(|name| (name, programs.meridian.clone())).to_vec();
    for name in TOOLS {
        links.push((name, tools::path(paths, cache, name)?));
    }
    for (name, program) in links {
        let link = folder.join(name);
        if fs::read_link(&link).is_ok_and(|there| there == program) {
            continue;
        }
        // Put in place at once: somebody may be running the program by its old link.
        let new = folder.join(format!(".{name}"));
        let _ = fs::remove_file(&new);
        symlink(&program, &new)
            .and_then(|()| fs::rename(&new, &link))
            .with_context(|| format!("cannot write {}", link.display()))?;
    }
    let rest = env::var_os("PATH").unwrap_or_default();
    let all = [folder].into_iter().chain(env::split_paths(&rest));
    env::join_paths(all).context("a folder on PATH has a colon in its name")
}
