//! MirrorMaker 2 in its dedicated mode, as `connect-mirror-maker.sh` of Kafka's distribution runs it: the same class with the
//! same options for the JVM. It copies one topic from one broker to the other and nothing else: no heartbeats, no checkpoints,
//! no topics' settings, so that what it costs is the copying.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::service::Service;
use crate::Programs;

/// The options of Kafka's own start script, `kafka-run-class.sh`, and its heap for MirrorMaker.
const JVM: [&str; 8] = [
    "-Xms256M",
    "-Xmx2G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];

/// The name that the copied topic has at its target.
pub fn target_of(topic: &str) -> String {
    format!("source.{topic}")
}

/// Starts it for one topic, from the broker `from` to the broker `to`.
///
/// # Errors
/// When it cannot be started.
pub fn start(programs: &Programs, topic: &str, from: &str, to: &str, folder: &Path) -> Result<Service> {
    let settings = folder.join("mirror.properties");
    std::fs::write(&settings, properties(topic, from, to))
        .with_context(|| format!("cannot write {}", settings.display()))?;
    let mut command = Command::new(&programs.java);
    command
        .args(JVM)
        .arg("-cp")
        .arg(format!("{}/*", programs.mirror.display()))
        .arg("org.apache.kafka.connect.mirror.MirrorMaker")
        .arg(&settings);
    Service::start("MirrorMaker 2", &mut command, &folder.join("mirror.log"))
}

fn properties(topic: &str, from: &str, to: &str) -> String {
    let copied = topic.replace('.', "\\\\.");
    let one = [
        "",
        "offset-syncs.topic.",
        "offset.storage.",
        "status.storage.",
        "config.storage.",
    ]
    .map(|what| format!("{what}replication.factor=1\n"))
    .concat();
    let off = [
        "emit.heartbeats.enabled",
        "emit.checkpoints.enabled",
        "sync.topic.configs.enabled",
        "sync.topic.acls.enabled",
        "refresh.topics.enabled",
        "refresh.groups.enabled",
        "target->source.enabled",
    ]
    .map(|what| format!("{what}=false\n"))
    .concat();
    format!(
        "clusters=source,target\nsource.bootstrap.servers={from}\ntarget.bootstrap.servers={to}\n\
         source->target.enabled=true\nsource->target.topics={copied}\ntasks.max=1\n{one}{off}"
    )
}
