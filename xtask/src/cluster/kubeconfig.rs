//! The user's kubeconfig, which several kinds at once would fight over.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Spec;
use crate::progress::{self, Log};

/// A lock file that is older than this was left by a program that died: writing a kubeconfig takes milliseconds.
const STALE: Duration = Duration::from_secs(10);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Gives a command of kind a kubeconfig beside its log: kind locks the user's for an instant and does not wait for it.
pub fn aside<'a>(command: &'a mut Command, log: &Log) -> &'a mut Command {
    let file = log.path().with_extension("kubeconfig");
    // What an interrupted run left of it is worth nothing, and its lock would stop this one.
    for left in [lock_of(&file), file.clone()] {
        let _ = fs::remove_file(left);
    }
    command.env("KUBECONFIG", file)
}

/// Writes the cluster's context into the user's kubeconfig.
///
/// # Errors
/// When the kubeconfig cannot be written.
pub fn export(spec: &Spec, kind: &Path, log: &Log) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    wait_for_lock();
    log.run(Command::new(kind).args(["export", "kubeconfig", "--name", spec.name]))
}

/// Waits while another program writes the kubeconfig; removes the lock that an interrupted kind, kubectl or helm left.
pub fn wait_for_lock() {
    let Some(lock) = own().map(|file| lock_of(&file)) else {
        return;
    };
    let age = || {
        fs::metadata(&lock)
            .and_then(|about| about.modified())
            .ok()?
            .elapsed()
            .ok()
    };
    while let Some(age) = age() {
        if age <= STALE {
            thread::sleep(Duration::from_millis(100));
            continue;
        }
        if fs::remove_file(&lock).is_ok() {
            progress::say(&format!(
                "removed {}, which an interrupted program had left",
                lock.display()
            ));
        }
        return;
    }
}

/// Fails when the kubeconfig cannot be written: that would show only once a cluster is made.
///
/// # Errors
/// One sentence that names the file.
pub fn check_writable() -> Result<()> {
    let Some(file) = own() else {
        bail!("no kubeconfig: neither KUBECONFIG nor HOME is set; set one of them");
    };
    let advice = || {
        format!(
            "the kubeconfig {} cannot be written: make it writable, or name another one in KUBECONFIG",
            file.display()
        )
    };
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(advice)?;
    }
    // Whoever writes it makes a lock beside it first.
    let mut probe = file.clone().into_os_string();
    probe.push(format!(".{}", std::process::id()));
    fs::write(&probe, "").with_context(advice)?;
    fs::remove_file(&probe).with_context(advice)?;
    match OpenOptions::new().append(true).open(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(advice),
        _ => Ok(()),
    }
}

/// Fails when kubectl does not understand the kubeconfig.
///
/// # Errors
/// One sentence with what kubectl says.
pub fn check_readable(kubectl: &Path) -> Result<()> {
    progress::output(Command::new(kubectl).args(["config", "get-contexts", "--output=name"]))
        .map(drop)
        .context("the kubeconfig cannot be read: mend it, or name another one in KUBECONFIG")
}

/// The file that kind and kubectl write a new context into.
fn own() -> Option<PathBuf> {
    let (listed, home) = (std::env::var_os("KUBECONFIG"), std::env::var_os("HOME"));
    written_to(listed.as_deref(), home.as_deref(), |file| file.is_file())
}

/// Of the files that `KUBECONFIG` lists the first that exists, else the last; without a list the one in the home folder.
fn written_to(listed: Option<&OsStr>, home: Option<&OsStr>, exists: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let files: Vec<PathBuf> = std::env::split_paths(listed.unwrap_or_default())
        .filter(|file| !file.as_os_str().is_empty())
        .collect();
    match files.iter().find(|file| exists(file)).or(files.last()) {
        Some(file) => Some(file.clone()),
        None => home
            .filter(|home| !home.is_empty())
            .map(|home| Path::new(home).join(".kube/config")),
    }
}

fn lock_of(file: &Path) -> PathBuf {
    let mut name: OsString = file.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_is_the_first_that_exists_else_the_last_else_the_one_at_home() {
        let of = |listed: Option<&str>, existing: &str| {
            written_to(listed.map(OsStr::new), Some(OsStr::new("/home/ada")), |file| {
                file == Path::new(existing)
            })
        };
        assert_eq!(of(Some("/a:/b"), "/b"), Some("/b".into()));
        assert_eq!(of(Some("/a:/b:"), "/c"), Some("/b".into()));
        assert_eq!(of(Some(""), "/c"), Some("/home/ada/.kube/config".into()));
        assert_eq!(of(None, "/c"), Some("/home/ada/.kube/config".into()));
        assert_eq!(written_to(None, None, |_| false), None);
    }
}
