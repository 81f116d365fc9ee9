//! The user's kubeconfig, which several kinds at once would fight over.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;

use super::Spec;
use crate::progress::{self, Log};

/// A lock file that is older than this was left by a program that died: writing a kubeconfig takes milliseconds.
const STALE: Duration = Duration::from_secs(30);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Gives a command of kind a kubeconfig beside its log: kind locks the user's for an instant and does not wait for it.
pub fn aside<'a>(command: &'a mut Command, log: &Log) -> &'a mut Command {
    command.env("KUBECONFIG", log.path().with_extension("kubeconfig"))
}

/// Writes the cluster's context into the user's kubeconfig.
///
/// # Errors
/// When the kubeconfig cannot be written.
pub fn export(spec: &Spec, kind: &std::path::Path, log: &Log) -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    remove_stale_lock();
    log.run(Command::new(kind).args(["export", "kubeconfig", "--name", spec.name]))
}

/// Removes the lock that an interrupted kind, kubectl or helm left.
pub fn remove_stale_lock() {
    let Some(home) = std::env::var_os("HOME") else { return };
    let first = std::env::var_os("KUBECONFIG").and_then(|all| std::env::split_paths(&all).next());
    let mut lock = first
        .unwrap_or_else(|| PathBuf::from(home).join(".kube/config"))
        .into_os_string();
    lock.push(".lock");
    let age = fs::metadata(&lock)
        .and_then(|about| about.modified())
        .ok()
        .and_then(|then| then.elapsed().ok());
    if age.is_some_and(|age| age > STALE) && fs::remove_file(&lock).is_ok() {
        progress::say(&format!(
            "removed {}, which an interrupted program had left",
            lock.to_string_lossy()
        ));
    }
}
