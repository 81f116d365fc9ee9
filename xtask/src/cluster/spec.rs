//! What each cluster is: its labels, its ports on this machine, and kind's configuration of it.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::cache::Inputs;

/// A cluster of one node.
#[derive(Debug)]
pub struct Spec {
    /// Its name for kind; the kubeconfig's context is `kind-<name>`.
    pub name: &'static str,
    /// The country that its node says it is in.
    pub country: Option<&'static str>,
    region: &'static str,
    zone: &'static str,
    /// Ports of this machine's loopback address and the node ports that they lead to.
    pub ports: &'static [(u16, u16)],
}

/// The clusters of the demo.
pub const CLUSTERS: &[Spec] = &[
    Spec {
        name: "hub",
        country: None,
        region: "hub",
        zone: "hub-a",
        ports: &[],
    },
    Spec {
        name: "eu",
        country: Some("DE"),
        region: "eu",
        zone: "eu-a",
        ports: &[(8443, 30443)],
    },
    Spec {
        name: "us",
        country: Some("US"),
        region: "us",
        zone: "us-a",
        ports: &[(9443, 30443)],
    },
];

/// Clusters that somebody asks for by name: what a region is added to.
pub const SPARE: &[Spec] = &[Spec {
    name: "north",
    country: Some("SE"),
    region: "north",
    zone: "north-a",
    ports: &[],
}];

/// Every cluster that may be ours.
pub fn all() -> impl Iterator<Item = &'static Spec> {
    CLUSTERS.iter().chain(SPARE)
}

impl Spec {
    /// The name of its node, which is that of the container and its name on the clusters' network.
    pub fn node(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    /// The kubeconfig's context.
    pub fn context(&self) -> String {
        format!("kind-{}", self.name)
    }

    /// The hash of what the cluster is made from.
    pub fn key(&self, image: Option<&str>) -> String {
        let config = self.config(image).to_string();
        Inputs::new()
            .text("config", &config)
            .text("image", image.unwrap_or("stock"))
            .key()
            .short()
            .to_owned()
    }

    /// kind's configuration; `image` is a node image of ours, or none for the stock one.
    pub fn config(&self, image: Option<&str>) -> Value {
        let mut labels = json!({
            "topology.kubernetes.io/region": self.region,
            "topology.kubernetes.io/zone": self.zone,
        });
        if let Some(country) = self.country {
            labels["meridian.sh/country"] = country.into();
        }
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(host, node)| json!({"listenAddress": "127.0.0.1", "hostPort": host, "containerPort": node}))
            .collect();
        let mut node = json!({"role": "control-plane", "labels": labels, "extraPortMappings": ports});
        let mut networking = json!({"podSubnet": "10.244.0.0/16"});
        // Parts that wait for each other by ending are tried again soon: a demo has no time for five minutes.
        let mut kubelet = json!({
            "kind": "KubeletConfiguration",
            "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
            "featureGates": {"KubeletCrashLoopBackOffMax": true},
        });
        let old_cgroups = !Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        if old_cgroups {
            // Kubernetes 1.36 refuses control groups of version 1 unless it is told not to.
            kubelet["failCgroupV1"] = false.into();
        }
        if image.is_some() {
            networking["disableDefaultCNI"] = true.into();
            kubelet["cgroupDriver"] = "cgroupfs".into();
            kubelet["resolvConf"] = "/etc/kubernetes/pod-resolv.conf".into();
            // Lets the kubelet go on where it may not lower its own out-of-memory score.
            kubelet["featureGates"]["KubeletInUserNamespace"] = true.into();
        }
        node["kubeadmConfigPatches"] = json!([kubelet.to_string()]);
        json!({
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "networking": networking,
            "nodes": [node],
        })
    }

    /// Fails when another program listens on a port that the cluster needs and does not hold itself.
    ///
    /// # Errors
    /// One sentence that names the port.
    pub fn check_ports(&self, needed: &[u16], held: &[u16]) -> Result<()> {
        for port in needed {
            if held.contains(port) || TcpListener::bind(("127.0.0.1", *port)).is_ok() {
                continue;
            }
            bail!(
                "port {port} on 127.0.0.1 is in use, and the cluster {} needs it: stop the program that listens there \
                 (`ss -ltnp 'sport = :{port}'` names it) and try again",
                self.name
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let said = CLUSTERS[0].check_ports(&[port], &[]).unwrap_err().to_string();
        assert!(said.contains(&format!("port {port}")) && said.contains("hub"), "{said}");
        CLUSTERS[0].check_ports(&[port], &[port]).unwrap();
    }

    #[test]
    fn the_hub_says_no_country_and_the_members_do() {
        let labels = |spec: &Spec| spec.config(Some("x"))["nodes"][0]["labels"]["meridian.sh/country"].clone();
        let said: Vec<Value> = CLUSTERS.iter().map(labels).collect();
        assert_eq!(said, [Value::Null, "DE".into(), "US".into()]);
    }

    #[test]
    fn another_node_image_makes_another_cluster() {
        let spec = &CLUSTERS[0];
        assert_ne!(spec.key(Some("a")), spec.key(Some("b")));
        assert_ne!(spec.key(Some("a")), spec.key(None));
    }
}
