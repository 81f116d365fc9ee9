//! Which files of a root file system go into a layer.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::output;

/// Below these, nothing is needed to run a program: documentation, translations, the package system, build tools.
const NEEDLESS: &[&str] = &[
    "boot",
    "dev",
    "etc/apt",
    "etc/machine-id",
    "etc/resolv.conf",
    "etc/hostname",
    "home",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
    "usr/games",
    "usr/include",
    "usr/lib/apt",
    "usr/lib/dpkg",
    "usr/lib/llvm-19",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/gcc",
    "usr/share/gdb",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/share/pixmaps",
    "usr/share/polkit-1",
    "usr/share/postgresql-common",
    "usr/share/zsh",
    "usr/src",
    "var/backups",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/lib/postgresql",
    "var/log",
    "var/tmp",
];

/// Files whose names begin so, in any folder, are not needed either. PostgreSQL's compiler of queries alone would be a
/// third of the image; without its library the server runs without it.
const NEEDLESS_NAMES: &[&str] = &[
    "apt-",
    "dpkg",
    "libLLVM",
    "libapt-pkg",
    "libperl",
    "libz3.so",
    "llvmjit",
    "perl",
    "src.zip",
];

/// The needed files and folders of a root file system, by path.
///
/// # Errors
/// When a folder cannot be read.
pub fn needed(root: &Path, more_needless: &[&str]) -> Result<BTreeMap<PathBuf, Metadata>> {
    let mut found = BTreeMap::new();
    let needless: Vec<&Path> = NEEDLESS.iter().chain(more_needless).map(Path::new).collect();
    walk(root, Path::new(""), &needless, &mut found)?;
    Ok(found)
}

fn walk(root: &Path, below: &Path, needless: &[&Path], found: &mut BTreeMap<PathBuf, Metadata>) -> Result<()> {
    let dir = root.join(below);
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        let path = below.join(entry.file_name());
        let name = entry.file_name();
        let named_so = NEEDLESS_NAMES
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start));
        if named_so || needless.contains(&path.as_path()) || path.ends_with("bitcode") || path.ends_with("gconv") {
            continue;
        }
        let about = entry
            .metadata()
            .with_context(|| format!("cannot read {}", entry.path().display()))?;
        let is_folder = about.is_dir();
        found.insert(path.clone(), about);
        if is_folder {
            walk(root, &path, needless, found)?;
        }
    }
    Ok(())
}

/// The paths that are the same in both, to the byte.
///
/// # Errors
/// When a file cannot be read.
pub fn common(
    one: (&Path, &BTreeMap<PathBuf, Metadata>),
    other: (&Path, &BTreeMap<PathBuf, Metadata>),
) -> Result<Vec<PathBuf>> {
    let mut same = Vec::new();
    for (path, about) in one.1 {
        let Some(also) = other.1.get(path) else { continue };
        let alike = (about.mode(), about.uid(), about.gid()) == (also.mode(), also.uid(), also.gid());
        if alike && (about.is_dir() || equal(&one.0.join(path), &other.0.join(path), about, also)?) {
            same.push(path.clone());
        }
    }
    Ok(same)
}

fn equal(one: &Path, other: &Path, about: &Metadata, also: &Metadata) -> Result<bool> {
    if about.is_symlink() {
        let target = |link: &Path| fs::read_link(link).with_context(|| format!("cannot read {}", link.display()));
        return Ok(target(one)? == target(other)?);
    }
    if about.len() != also.len() {
        return Ok(false);
    }
    let content = |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    Ok(content(one)? == content(other)?)
}

/// The paths of `all` that are not among `taken`.
pub fn rest(all: &BTreeMap<PathBuf, Metadata>, taken: &[PathBuf]) -> Vec<PathBuf> {
    let taken: std::collections::BTreeSet<&PathBuf> = taken.iter().collect();
    all.keys().filter(|path| !taken.contains(path)).cloned().collect()
}

/// What dynamically linked programs need to start: their libraries and their loader, as absolute paths.
///
/// # Errors
/// When `ldd` cannot be asked, or one of the programs is linked statically.
pub fn libraries(programs: &[PathBuf], root: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut ldd = match root {
        Some(root) => {
            let mut command = Command::new("chroot");
            command.arg(root).arg("ldd");
            command
        }
        None => Command::new("ldd"),
    };
    let text = output(ldd.args(programs)).context("cannot tell which libraries a program needs")?;
    Ok(listed(&text))
}

/// The files in what `ldd` prints: `name => /file (address)` and `/file (address)`, below a line `/program:` each when
/// there are several programs.
fn listed(text: &str) -> Vec<PathBuf> {
    let file = |line: &str| {
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from)
    };
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter(|line| !line.ends_with(':'))
        .filter_map(file)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_ldd_names_are_read() {
        let text = "/bin/a:\n\tvdso (0x7)\n\tlibm.so.6 => /lib/x/libm.so.6 (0x7f)\n\t/lib64/ld.so.2 (0x7f)\n/bin/b:\n";
        assert_eq!(
            listed(text),
            [PathBuf::from("/lib/x/libm.so.6"), PathBuf::from("/lib64/ld.so.2")]
        );
    }

    #[test]
    fn what_two_root_file_systems_share_is_found_once_and_the_rest_is_kept_apart() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (root, own) in [(&one, "postgres"), (&other, "java")] {
            fs::create_dir_all(root.path().join("usr/share/doc")).unwrap();
            fs::write(root.path().join("usr/share/doc/readme"), "").unwrap();
            fs::write(root.path().join("usr/libc"), "same").unwrap();
            fs::write(root.path().join("usr/differs"), own).unwrap();
            fs::write(root.path().join("usr").join(own), "").unwrap();
        }
        let (all, others) = (needed(one.path(), &[]).unwrap(), needed(other.path(), &[]).unwrap());
        let shared = common((one.path(), &all), (other.path(), &others)).unwrap();
        assert_eq!(shared, ["usr", "usr/libc", "usr/share"].map(PathBuf::from));
        assert_eq!(rest(&all, &shared), ["usr/differs", "usr/postgres"].map(PathBuf::from));
    }
}
