//! Processes that hang: frozen by the container runtime, past the kubelet and the API server.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};

use crate::node::{self, docker};
use crate::world::Site;

/// The containers of one component of a region. Even when the proof panics they go on.
pub(super) struct Frozen {
    node: String,
    component: String,
    pods: Vec<String>,
    containers: Vec<String>,
}

impl Frozen {
    /// Freezes all that there are of it now.
    pub(super) async fn component(site: &Site, name: &str) -> Result<Self> {
        let mut frozen = Self {
            node: node::name(site.region),
            component: name.to_owned(),
            pods: Vec::new(),
            containers: Vec::new(),
        };
        for pod in pods(site, name).await? {
            frozen.pods.push(pod.name_any());
            let id = node::container(&pod).with_context(|| format!("a container of {name} has no id"))?;
            docker(&node::task(&frozen.node, &["pause", id])).await?;
            frozen.containers.push(id.to_owned());
        }
        ensure!(!frozen.containers.is_empty(), "there is no {name}");
        Ok(frozen)
    }

    /// How many others of the component are ready.
    pub(super) async fn others_ready(&self, site: &Site) -> Result<u32> {
        let is_ready = |pod: &Pod| {
            let conditions = pod
                .status
                .iter()
                .filter_map(|status| status.conditions.as_ref())
                .flatten();
            conditions
                .into_iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        let pods = pods(site, &self.component).await?;
        let others = pods
            .iter()
            .filter(|pod| !self.pods.contains(&pod.name_any()) && is_ready(pod));
        Ok(u32::try_from(others.count())?)
    }

    /// Ends the hanging. A container that hung until the kubelet put another one in its place goes on already.
    pub(super) async fn go_on(mut self) -> Result<()> {
        while let Some(id) = self.containers.last() {
            let resumed = docker(&node::task(&self.node, &["resume", id])).await;
            // Asked only now: the kubelet may end it at any moment, also between a look and the resuming.
            if resumed.is_err() && node::process(&self.node, id).await?.is_some() {
                resumed?;
            }
            self.containers.pop();
        }
        Ok(())
    }
}

/// A component's pods.
pub(super) async fn pods(site: &Site, component: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(site.cluster.client.clone(), &site.namespace());
    let of_it = ListParams::default().labels(&format!("meridian.sh/component={component}"));
    Ok(pods.list(&of_it).await?.items)
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for id in &self.containers {
            node::docker_at_last(&node::task(&self.node, &["resume", id]));
        }
    }
}
