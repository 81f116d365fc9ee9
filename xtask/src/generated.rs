//! Files that are made from code and checked in: the custom resources' YAML and the chart's copy of it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::paths::Paths;
use crate::progress;

/// Writes crds/generated and the chart's copy.
///
/// # Errors
/// When the generator fails or a file cannot be written.
pub fn write(paths: &Paths) -> Result<()> {
    progress::output(
        paths
            .cargo()
            .args(["run", "--quiet", "--package", "meridian-crds", "--example", "generate"]),
    )?;
    let copy = copy_folder(paths);
    fs::create_dir_all(&copy).with_context(|| format!("cannot create {}", copy.display()))?;
    for (name, content) in originals(paths)? {
        fs::write(copy.join(&name), content).with_context(|| format!("cannot write the chart's {name}"))?;
    }
    Ok(())
}

/// Checks that the chart's copy is what crds/generated holds.
///
/// # Errors
/// When a file differs, is missing, or is left over.
pub fn verify(paths: &Paths) -> Result<()> {
    let originals = originals(paths)?;
    let copy = copy_folder(paths);
    for (name, content) in &originals {
        let held = fs::read_to_string(copy.join(name)).unwrap_or_default();
        if held != *content {
            bail!("charts/meridian/files/crds/{name} differs from crds/generated/{name}; run `cargo xtask crds`");
        }
    }
    for entry in fs::read_dir(&copy).with_context(|| format!("cannot list {}", copy.display()))? {
        let name = entry
            .context("cannot list the chart's CRDs")?
            .file_name()
            .to_string_lossy()
            .into_owned();
        if !originals.iter().any(|(known, _)| *known == name) {
            bail!("charts/meridian/files/crds/{name} has no original in crds/generated; remove it");
        }
    }
    Ok(())
}

fn copy_folder(paths: &Paths) -> PathBuf {
    paths.project.join("charts/meridian/files/crds")
}

fn originals(paths: &Paths) -> Result<Vec<(String, String)>> {
    let dir = paths.project.join("crds/generated");
    let mut files = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry.context("cannot list crds/generated")?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let content = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.push((name, content));
        }
    }
    files.sort();
    if files.is_empty() {
        bail!("crds/generated holds no YAML; run `cargo xtask crds`");
    }
    Ok(files)
}
