//! Kafka's own tools, run beside the broker of a region.

use anyhow::{Result, ensure};

use crate::world::Site;

/// As the broker itself, whose certificate is where the tool runs; the producer alone names the file in its own way.
const TOOL: &str = "case $0 in *ConsoleProducer) option=--producer.config;; *) option=--command-config;; esac; \
    exec java -Xmx64m -XX:TieredStopAtLevel=1 -XX:-UsePerfData -cp '/opt/kafka/libs/*' \"$0\" \
    --bootstrap-server localhost:9094 $option /etc/meridian/tools.properties \"$@\"";

/// Runs a tool by the name of its class and gives what it printed.
pub async fn tool(site: &Site, arguments: &[&str]) -> Result<String> {
    tool_with_input(site, arguments, None).await
}

/// Runs a tool that reads its standard input.
pub async fn tool_with_input(site: &Site, arguments: &[&str], input: Option<&str>) -> Result<String> {
    let namespace = site.namespace();
    let mut command = vec!["-n", &namespace, "exec", "-i", "kafka-0", "--", "sh", "-c", TOOL];
    command.extend_from_slice(arguments);
    let answer = site.cluster.kubectl.try_run(&command, input).await?;
    ensure!(answer.accepted, "{}: {}", arguments.join(" "), answer.complaint.trim());
    Ok(answer.output)
}
