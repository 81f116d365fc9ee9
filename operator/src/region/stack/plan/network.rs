//! NetworkPolicies: deny everything both ways, then exactly the edges of [`COMPONENTS`].
//!
//! What they cannot say: the addresses of peers are host names, which a NetworkPolicy does not know. The replicator may
//! reach any address on the peers' ports; that it talks only to the pinned CA of a peer is its own TLS's business.

use super::super::validate::Stack;
use super::components::{COMPONENT_LABEL, COMPONENTS, Component, REPLICATOR};
use super::external;
use super::kafka::PORT_IN_CLEAR;
use crate::manifest::NETWORK_POLICY;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Where the operator runs.
const OPERATOR_NAMESPACE: &str = "meridian-system";
const ADMIN_PORT: u16 = 9000;
const FEED_PORT: u16 = 8444;

/// All NetworkPolicies of a stack.
#[must_use]
pub fn policies(stack: &Stack) -> Vec<Value> {
    let mut policies = vec![policy(stack, "default-deny", json!({}), vec![], vec![])];
    for component in COMPONENTS.iter().filter(|c| external::of(stack, c.name).is_none()) {
        policies.push(of_component(stack, component));
    }
    policies
}

fn of_component(stack: &Stack, component: &Component) -> Value {
    let pods = json!({"matchLabels": {COMPONENT_LABEL: component.name}});
    policy(
        stack,
        component.name,
        pods,
        ingress(stack, component),
        egress(stack, component),
    )
}

fn policy(stack: &Stack, name: &str, pods: Value, ingress: Vec<Value>, egress: Vec<Value>) -> Value {
    let mut metadata = stack.metadata(name, "network");
    metadata["namespace"] = json!(stack.namespace());
    json!({
        "apiVersion": NETWORK_POLICY.api_version(), "kind": NETWORK_POLICY.kind, "metadata": metadata,
        "spec": {"podSelector": pods, "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": egress},
    })
}

fn tcp(port: u16) -> Value {
    json!([{"protocol": "TCP", "port": port}])
}

pub(super) fn pods_of<'a>(components: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    components
        .into_iter()
        .map(|name| json!({"podSelector": {"matchLabels": {COMPONENT_LABEL: name}}}))
        .collect()
}

pub(super) fn operator() -> Value {
    json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OPERATOR_NAMESPACE}}})
}

fn ingress(stack: &Stack, component: &Component) -> Vec<Value> {
    let callers = COMPONENTS
        .iter()
        .filter(|c| c.calls.contains(&component.name))
        .map(|c| c.name);
    let mut from = pods_of(callers);
    // The operator reads lag from Kafka and the public keys from identity; nothing else of the region is its business.
    if matches!(component.name, "kafka" | "identity") {
        from.push(operator());
    }
    let mut rules = Vec::new();
    if component.node_port.is_some() {
        // No `from`: anybody, since a NodePort may hide the source's address. TLS says who it is.
        rules.push(json!({"ports": tcp(component.port)}));
    } else if !from.is_empty() {
        rules.push(json!({"from": from, "ports": open_ports(stack, component.name, component.port)}));
    }
    if component.follows_policy {
        rules.push(json!({"from": [operator()], "ports": tcp(ADMIN_PORT)}));
    }
    rules
}

fn egress(stack: &Stack, component: &Component) -> Vec<Value> {
    let (outside, inside): (Vec<&str>, Vec<&str>) = component
        .calls
        .iter()
        .copied()
        .partition(|callee| external::of(stack, callee).is_some());
    let outside = outside.into_iter().filter_map(|callee| external::of(stack, callee));
    let mut rules: Vec<Value> = outside.map(external::way_out).collect();
    let ports: BTreeSet<u16> = inside.iter().filter_map(|callee| port_of(callee)).collect();
    for port in ports {
        let to = pods_of(inside.iter().copied().filter(|callee| port_of(callee) == Some(port)));
        let kafka = if port_of("kafka") == Some(port) { "kafka" } else { "" };
        rules.push(json!({"to": to, "ports": open_ports(stack, kafka, port)}));
    }
    if component.follows_policy {
        rules.push(json!({"to": [operator()], "ports": tcp(FEED_PORT)}));
    }
    if component.name == REPLICATOR {
        rules.extend(peers(stack));
    }
    if !rules.is_empty() {
        rules.push(dns());
    }
    rules
}

/// The ports of a component: one, and for Kafka the one in clear as long as somebody of a release before needs it.
fn open_ports(stack: &Stack, component: &str, port: u16) -> Value {
    let mut ports = tcp(port);
    if let (true, "kafka", Some(all)) = (stack.kafka_in_clear, component, ports.as_array_mut()) {
        all.push(json!({"protocol": "TCP", "port": PORT_IN_CLEAR}));
    }
    ports
}

fn port_of(component: &str) -> Option<u16> {
    COMPONENTS.iter().find(|c| c.name == component).map(|c| c.port)
}

pub(super) fn dns() -> Value {
    json!({
        "to": [{
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }],
        "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    })
}

/// Ways out to peers; none when the policy names no peer.
fn peers(stack: &Stack) -> Vec<Value> {
    let (mut addresses, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for peer in &stack.policy.peers {
        let Some((host, port)) = authority(&peer.replicator_url) else {
            continue;
        };
        match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => _ = addresses.insert((format!("{address}/32"), port)),
            Ok(IpAddr::V6(address)) => _ = addresses.insert((format!("{address}/128"), port)),
            Err(_) => _ = ports.insert(port),
        }
    }
    let pinned = addresses
        .into_iter()
        .map(|(cidr, port)| json!({"to": [{"ipBlock": {"cidr": cidr}}], "ports": tcp(port)}));
    let named = ports.into_iter().map(|port| json!({"ports": tcp(port)}));
    pinned.chain(named).collect()
}

/// Host and port of an https URL.
fn authority(url: &str) -> Option<(String, u16)> {
    let rest = url.strip_prefix("https://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    if let Some(v6) = authority.strip_prefix('[') {
        let (host, port) = v6.split_once(']')?;
        return Some((
            host.to_owned(),
            port.strip_prefix(':').map_or(Ok(443), str::parse).ok()?,
        ));
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((authority.to_owned(), 443)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::validate::example;
    use super::*;

    fn named(stack: &Stack, name: &str) -> Value {
        policies(stack)
            .into_iter()
            .find(|p| p["metadata"]["name"] == name)
            .unwrap()
    }

    fn may_call(from: &str, to: &str) -> bool {
        let stack = example();
        let selects = |rule: &Value, key: &str, name: &str| {
            rule[key]
                .as_array()
                .into_iter()
                .flatten()
                .any(|peer| peer["podSelector"]["matchLabels"][COMPONENT_LABEL] == name)
        };
        let leaves = named(&stack, from)["spec"]["egress"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| selects(r, "to", to));
        let arrives = named(&stack, to)["spec"]["ingress"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| selects(r, "from", from));
        leaves && arrives
    }

    #[test]
    fn everything_is_denied_both_ways_before_anything_is_allowed() {
        let deny = named(&example(), "default-deny");
        assert_eq!(
            deny["spec"],
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": []})
        );
    }

    #[test]
    fn an_edge_is_open_at_both_ends_exactly_when_the_table_has_it() {
        for from in COMPONENTS {
            for to in COMPONENTS.iter().filter(|c| c.node_port.is_none()) {
                assert_eq!(
                    may_call(from.name, to.name),
                    from.calls.contains(&to.name),
                    "{} -> {}",
                    from.name,
                    to.name
                );
            }
        }
    }

    #[test]
    fn only_the_replicator_leaves_the_cluster_and_only_on_the_peers_ports() {
        let stack = example();
        let open = |p: &Value| {
            p["spec"]["egress"]
                .as_array()
                .unwrap()
                .iter()
                .any(|r| r.get("to").is_none())
        };
        let leaving: Vec<_> = policies(&stack)
            .into_iter()
            .filter(open)
            .map(|p| p["metadata"]["name"].clone())
            .collect();
        assert_eq!(leaving, ["replicator"]);
        let mut alone = example();
        alone.policy.peers.clear();
        assert!(!policies(&alone).iter().any(open));
    }

    #[test]
    fn a_peer_with_an_address_is_the_only_address_reachable() {
        let mut stack = example();
        stack.policy.peers[0].replicator_url = "https://10.1.2.3:30444".to_owned();
        let rule = json!({"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": tcp(30444)});
        assert!(
            named(&stack, "replicator")["spec"]["egress"]
                .as_array()
                .unwrap()
                .contains(&rule)
        );
    }

    #[test]
    fn kafka_in_clear_is_reachable_only_while_a_release_before_needs_it() {
        let clear = Stack {
            kafka_in_clear: true,
            ..example()
        };
        let port = json!({"protocol": "TCP", "port": PORT_IN_CLEAR});
        let opens = |stack: &Stack, name: &str, way: &str| {
            let rules = named(stack, name)["spec"][way].as_array().cloned().unwrap_or_default();
            rules
                .iter()
                .any(|rule| rule["ports"].as_array().is_some_and(|ports| ports.contains(&port)))
        };
        for (name, way) in [("kafka", "ingress"), ("training", "egress")] {
            assert!(opens(&clear, name, way) && !opens(&example(), name, way), "{name}");
        }
        assert!(!opens(&clear, "gateway", "egress") && !opens(&clear, "identity", "ingress"));
    }

    #[test]
    fn the_authority_of_a_url_is_read() {
        assert_eq!(
            authority("https://us-control-plane:30444"),
            Some(("us-control-plane".to_owned(), 30444))
        );
        assert_eq!(authority("https://[fd00::1]:1/x"), Some(("fd00::1".to_owned(), 1)));
        assert_eq!(authority("https://h/x"), Some(("h".to_owned(), 443)));
        assert_eq!(authority("http://h"), None);
    }
}
