//! The clusters' nodes, which are containers: what only somebody with the machine in hand can do or see.

use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::program;

/// The one node of a cluster.
pub fn name(cluster: &str) -> String {
    format!("{cluster}-control-plane")
}

/// Files and folders of the cluster's node as a tar archive, with holes left out. Files that change while they are read are
/// no failure (tar's code 1).
pub async fn archive(cluster: &str, folder: &str, what: &str) -> Result<Vec<u8>> {
    let files = read(
        cluster,
        &format!("tar -C {folder} --sparse -cf - {what}; test $? -le 1"),
    )
    .await?;
    ensure!(!files.is_empty(), "{what} in {folder} of {} is empty", name(cluster));
    Ok(files)
}

/// Standard output of a command on the cluster's node, bytes as they are. It must succeed.
pub async fn read(cluster: &str, command: &str) -> Result<Vec<u8>> {
    let node = name(cluster);
    let done = Command::new("docker")
        .args(["exec", &node, "sh", "-c", command])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("docker cannot be started")?;
    if !done.status.success() {
        let complaint = String::from_utf8_lossy(&done.stderr);
        bail!(
            "on the node {node}: {}",
            complaint.lines().last().unwrap_or("no answer")
        );
    }
    Ok(done.stdout)
}

/// Gives a command on the cluster's node bytes to read; it must succeed.
pub async fn write(cluster: &str, command: &str, input: &[u8]) -> Result<()> {
    let node = name(cluster);
    let mut child = Command::new("docker")
        .args(["exec", "-i", &node, "sh", "-c", command])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("docker cannot be started")?;
    child.stdin.take().context("docker's input")?.write_all(input).await?;
    ensure!(child.wait().await?.success(), "on the node {node}: `{command}` failed");
    Ok(())
}

/// Runs docker, which must succeed, and gives what it printed.
pub async fn docker(arguments: &[&str]) -> Result<String> {
    program::run("docker", arguments).await
}

/// Runs docker where a proof may be ending by a panic. Nobody is left to tell when this fails too; the error that led here is
/// told.
pub fn docker_at_last(arguments: &[&str]) {
    let _ = std::process::Command::new("docker").args(arguments).output();
}

/// docker's arguments for a verb of containerd's tasks on a node: what reaches a container past the kubelet and the API
/// server.
pub fn task<'a>(node: &'a str, verb: &[&'a str]) -> Vec<&'a str> {
    let tasks = ["exec", node, "ctr", "--namespace", "k8s.io", "tasks"];
    [tasks.as_slice(), verb].concat()
}

/// The node's id of a container's first process, running or paused; none once containerd has no task of it.
pub async fn process(node: &str, container: &str) -> Result<Option<u32>> {
    let tasks = docker(&task(node, &["list"])).await?;
    let columns = tasks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    for columns in columns {
        if let [id, process, ..] = columns.as_slice()
            && *id == container
        {
            let process = process.parse().with_context(|| format!("the process of {container}"))?;
            return Ok(Some(process));
        }
    }
    Ok(None)
}

/// containerd's id of a pod's one container; none before it has been started.
pub fn container(pod: &Pod) -> Option<&str> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.first()?.container_id.as_deref()?.strip_prefix("containerd://")
}
