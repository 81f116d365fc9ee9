//! Programs of this machine, run to their end.

use std::ffi::OsStr;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// Runs a program, which must succeed, and gives what it printed; ended when dropped.
pub async fn run(program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String> {
    let program = program.as_ref();
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{} cannot be started", program.display()))?;
    ensure!(
        done.status.success(),
        "{} {}: {}",
        program.display(),
        arguments.join(" "),
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
