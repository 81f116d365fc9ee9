//! Kafka's own tools, run beside the broker of a region.

use anyhow::{Result, ensure};

use crate::world::Site;

const TOOL: &str = "exec java -Xmx64m -XX:TieredStopAtLevel=1 -XX:-UsePerfData -cp '/opt/kafka/libs/*' \"$0\" --bootstrap-server localhost:9092 \"$@\"";

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
