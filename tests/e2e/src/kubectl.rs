//! kubectl as a person runs it: for what is about applying, and for looking into pods.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// kubectl against one cluster.
#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    context: String,
}

/// What came back.
pub struct Answer {
    /// True when kubectl ended with code 0.
    pub accepted: bool,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub complaint: String,
}

impl Kubectl {
    /// For the kubeconfig context `kind-<cluster>`.
    pub fn new(program: &std::path::Path, cluster: &str) -> Self {
        Self {
            program: program.to_path_buf(),
            context: format!("kind-{cluster}"),
        }
    }

    /// kubectl for this cluster, still without anything to do; ended when dropped.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--context").arg(&self.context).kill_on_drop(true);
        command
    }

    /// Runs kubectl and gives whatever came back.
    pub async fn try_run(&self, arguments: &[&str], input: Option<&str>) -> Result<Answer> {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(text.as_bytes()).await.context("kubectl's input")?;
        }
        let done = child.wait_with_output().await.context("kubectl")?;
        Ok(Answer {
            accepted: done.status.success(),
            output: String::from_utf8_lossy(&done.stdout).into_owned(),
            complaint: String::from_utf8_lossy(&done.stderr).into_owned(),
        })
    }

    /// Runs kubectl, which must succeed.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let answer = self.try_run(arguments, None).await?;
        if !answer.accepted {
            bail!(
                "kubectl {} in {}: {}",
                arguments.join(" "),
                self.context,
                answer.complaint.trim()
            );
        }
        Ok(answer.output)
    }

    /// `kubectl apply -f -`.
    pub async fn apply(&self, manifest: &str) -> Result<Answer> {
        self.try_run(&["apply", "-f", "-"], Some(manifest)).await
    }
}
