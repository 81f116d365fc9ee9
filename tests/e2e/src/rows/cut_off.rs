//! Processes that reach no store: they live, and whoever asks them is answered, but what they ask of PostgreSQL and Kafka is
//! refused in their pod's own network. Also a container that starts anew in that pod is held.

use anyhow::{Context as _, Result, ensure};

use crate::node::{self, docker};
use crate::rows::frozen;
use crate::world::Site;

/// PostgreSQL's port, and that of Kafka under TLS.
const STORES: [&str; 2] = ["5432", "9094"];

/// The pods of one component of a region. Even when the proof panics they reach their stores again.
pub(super) struct CutOff {
    node: String,
    /// The network namespace of each, which is there as long as the pod is.
    networks: Vec<String>,
}

impl CutOff {
    /// Cuts off all that there are of it now.
    pub(super) async fn component(site: &Site, name: &str) -> Result<Self> {
        let mut cut = Self {
            node: node::name(site.region),
            networks: Vec::new(),
        };
        for pod in frozen::pods(site, name).await? {
            let id = node::container(&pod).with_context(|| format!("a container of {name} has no id"))?;
            let process = node::process(&cut.node, id).await?;
            let process = process.with_context(|| format!("a container of {name} has no process"))?;
            let network = docker(&["exec", &cut.node, "ip", "netns", "identify", &process.to_string()]).await?;
            let network = network.trim();
            ensure!(!network.is_empty(), "a pod of {name} has no network of its own");
            cut.networks.push(network.to_owned());
        }
        ensure!(!cut.networks.is_empty(), "there is no {name}");
        for network in &cut.networks {
            for port in STORES {
                docker(&rule(&cut.node, network, "--insert", port)).await?;
            }
        }
        Ok(cut)
    }

    /// Lets them reach their stores again.
    pub(super) async fn reach(mut self) -> Result<()> {
        while let Some(network) = self.networks.last() {
            for port in STORES {
                docker(&rule(&self.node, network, "--delete", port)).await?;
            }
            self.networks.pop();
        }
        Ok(())
    }
}

impl Drop for CutOff {
    fn drop(&mut self) {
        for network in &self.networks {
            for port in STORES {
                node::docker_at_last(&rule(&self.node, network, "--delete", port));
            }
        }
    }
}

/// docker's arguments for a rule of a network: what goes to the port is refused.
#[rustfmt::skip]
fn rule<'a>(node: &'a str, network: &'a str, verb: &'a str, port: &'a str) -> Vec<&'a str> {
    vec!["exec", node, "ip", "netns", "exec", network, "iptables", "--wait", verb, "OUTPUT",
        "--protocol", "tcp", "--dport", port, "--jump", "REJECT", "--reject-with", "tcp-reset"]
}
