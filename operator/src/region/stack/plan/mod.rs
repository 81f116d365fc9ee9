//! The plan of a region stack: a pure function from a validated [`Stack`] and its secrets' digests to phases of manifests.
//!
//! A phase is written when what it needs is observed to be there; see [`Gate`]. Everything in the plan is kept from
//! pruning whether its phase has been reached or not, so that a gate that closes takes nothing away.

pub mod access;
mod cloud_native_pg;
pub mod components;
pub mod external;
pub mod foundation;
pub mod kafka;
mod migrations;
mod network;
pub mod pods;
mod postgres;
pub mod services;
mod strimzi;

use super::data_plane::{Kafka, Postgres};
use super::validate::Stack;
use crate::manifest::{Manifest, NotAManifest, ObjectKey};
use components::{COMPONENTS, GATEWAY, VERIFIER, Workload, run_as};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Where services follow the policy.
pub const POLICY_URL: &str = "https://region-operator.meridian-system.svc:8444";

/// What a plan needs to know of secrets: that they are there, and digests of their content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Material {
    /// What the region's services are verified by, PEM: its CA; two while it is rotated.
    pub ca_certificate: String,
    /// Digest of each Secret by name.
    pub digests: BTreeMap<String, String>,
}

impl Material {
    /// Digest of a Secret; empty when it is not there (the plan is then not applied).
    #[must_use]
    pub fn digest_of(&self, secret: &str) -> &str {
        self.digests.get(secret).map(String::as_str).unwrap_or_default()
    }
}

/// What must be observed before a phase is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Nothing.
    Open,
    /// All StatefulSets and Deployments of earlier phases are ready.
    WorkloadsReady,
    /// All Jobs of earlier phases are complete.
    JobsComplete,
}

/// Manifests that are written together.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name, as status says it.
    pub name: &'static str,
    /// What it waits for.
    pub gate: Gate,
    /// What it writes.
    pub manifests: Vec<Manifest>,
}

/// The whole plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In order.
    pub phases: Vec<Phase>,
    keys: BTreeSet<ObjectKey>,
}

impl Plan {
    /// Keys of everything planned.
    #[must_use]
    pub const fn keys(&self) -> &BTreeSet<ObjectKey> {
        &self.keys
    }

    /// Whether an object is planned.
    #[must_use]
    pub fn has(&self, key: &ObjectKey) -> bool {
        self.keys.contains(key)
    }

    /// Everything planned.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.phases.iter().flat_map(|phase| &phase.manifests)
    }
}

/// Renders the plan.
///
/// # Errors
/// Never for a validated stack; a defect in a builder would show here.
pub fn plan(stack: &Stack, material: &Material) -> Result<Plan, NotAManifest> {
    let mut foundation = vec![foundation::namespace(stack)];
    foundation.extend(network::policies(stack));
    foundation.extend(foundation::objects(stack, &material.ca_certificate));
    let postgres = match &stack.data_plane.postgres {
        Postgres::Embedded => {
            foundation.push(postgres::config(stack));
            vec![postgres::workload(stack, material.digest_of("tls-postgres"))]
        }
        Postgres::CloudNativePg(wanted) => {
            foundation.push(cloud_native_pg::network(stack));
            vec![cloud_native_pg::cluster(stack, wanted)]
        }
        Postgres::External(_) => vec![],
    };
    let kafka = match &stack.data_plane.kafka {
        Kafka::Embedded => {
            foundation.push(kafka::config(stack));
            vec![kafka::workload(stack, material)]
        }
        Kafka::Strimzi(wanted) => {
            foundation.extend([strimzi::network(stack), strimzi::address(stack)]);
            vec![
                strimzi::nodes(stack, wanted),
                strimzi::cluster(stack, wanted, &material.ca_certificate),
            ]
        }
    };
    // Others make Service and budget of what they run, but for Kafka's Service.
    let ours = |name: &str| match name {
        "postgres" => stack.data_plane.postgres == Postgres::Embedded,
        "kafka" => stack.data_plane.kafka == Kafka::Embedded,
        _ => true,
    };
    for component in COMPONENTS.iter().filter(|c| ours(c.name)) {
        foundation.extend(services::addresses(stack, component));
    }
    let budgeted = COMPONENTS
        .iter()
        .filter(|c| ours(c.name) && !matches!(c.name, "migrate" | "telemetry-writer"));
    foundation.extend(budgeted.map(|c| services::disruption_budget(stack, c.name)));

    let mut data_plane = postgres;
    data_plane.extend(kafka);
    data_plane.extend(run_as(Workload::StatefulSet).filter_map(|c| services::workload(stack, c, material)));

    let deployed = |chosen: fn(&str) -> bool| -> Vec<_> {
        run_as(Workload::Deployment)
            .filter(|c| chosen(c.name))
            .filter_map(|c| services::workload(stack, c, material))
            .collect()
    };

    let phases = [
        ("foundation", Gate::Open, foundation),
        ("data plane", Gate::Open, data_plane),
        (
            "databases",
            Gate::WorkloadsReady,
            vec![migrations::cluster(stack, material)],
        ),
        ("migrations", Gate::JobsComplete, migrations::services(stack, material)),
        (
            "services",
            Gate::JobsComplete,
            deployed(|name| !matches!(name, GATEWAY | VERIFIER)),
        ),
        ("gateway", Gate::WorkloadsReady, deployed(|name| name == GATEWAY)),
        // Nothing waits for who only looks, and an older image does not have it.
        ("verifier", Gate::WorkloadsReady, deployed(|name| name == VERIFIER)),
    ];
    let phases = phases.into_iter().map(|(name, gate, bodies)| {
        let manifests = bodies.into_iter().map(Manifest::new).collect::<Result<_, _>>()?;
        Ok(Phase { name, gate, manifests })
    });
    let phases = phases.collect::<Result<Vec<Phase>, _>>()?;
    let manifests = phases.iter().flat_map(|phase| &phase.manifests);
    Ok(Plan {
        keys: manifests.map(|manifest| manifest.key().clone()).collect(),
        phases,
    })
}

/// The namespace alone: it must be there before secrets can be made, which the rest of the plan needs.
///
/// # Errors
/// See [`plan`].
pub fn namespace(stack: &Stack) -> Result<Manifest, NotAManifest> {
    Manifest::new(foundation::namespace(stack))
}

/// The plan as YAML documents, for people and snapshots.
#[must_use]
pub fn render(plan: &Plan) -> String {
    let document = |body: &Value| serde_yaml::to_string(body).unwrap_or_default();
    let phase = |phase: &Phase| {
        let bodies: String = phase
            .manifests
            .iter()
            .map(|m| format!("---\n{}", document(m.body())))
            .collect();
        format!("# phase: {} ({:?})\n{bodies}", phase.name, phase.gate)
    };
    plan.phases.iter().map(phase).collect()
}

#[cfg(test)]
mod tests;
