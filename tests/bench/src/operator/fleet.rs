//! A fleet for the hub: regions of one jurisdiction, each its own member with a kubeconfig of its own to one of the few API
//! servers, and organizations with a tenant in three regions each, whose workouts may be shared between the three.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use meridian_operator::manifest::{
    FITNESS_REGION, JURISDICTION, PARTY, REGION_STACK, SECRET, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT,
};
use serde_json::{Value, json};

use super::hub::SYSTEM;
use super::servers::{Server, Servers, until};
use super::stack;

/// Regions that an organization has a tenant in.
pub const HOMES: usize = 3;

/// Regions of a fleet and where each lies.
pub struct Fleet<'a> {
    servers: &'a Servers,
    regions: usize,
}

impl<'a> Fleet<'a> {
    /// Writes everything but tenants: laws and parties of the demo, `regions` regions with their kubeconfigs.
    ///
    /// # Errors
    /// When an API server refuses something.
    pub async fn lay_out(servers: &'a Servers, regions: usize) -> Result<Self> {
        for server in std::iter::once(&servers.hub).chain(&servers.members) {
            make_namespace(server, SYSTEM).await?;
        }
        let manifests = stack::manifests()?;
        for (name, kind) in [("Jurisdiction", JURISDICTION), ("Party", PARTY)] {
            let of_kind = manifests.iter().filter(|manifest| manifest["kind"] == name);
            servers.hub.put_all(kind, of_kind.cloned().collect()).await?;
        }
        let fleet = Self { servers, regions };
        let mut secrets = Vec::new();
        for number in 0..regions {
            let kubeconfig = std::fs::read(&fleet.server_of(number).kubeconfig)?;
            secrets.push(json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": format!("member-{}", region_name(number)), "namespace": SYSTEM},
                "data": {"kubeconfig": BASE64.encode(kubeconfig)},
            }));
            make_namespace(fleet.server_of(number), &namespace(&region_name(number))).await?;
        }
        servers.hub.put_all(SECRET, secrets).await?;
        let regions = (0..regions).map(region).collect();
        servers.hub.put_all(FITNESS_REGION, regions).await?;
        Ok(fleet)
    }

    /// How many regions it has.
    pub const fn regions(&self) -> usize {
        self.regions
    }

    /// The API server that holds a region.
    pub fn server_of(&self, region: usize) -> &'a Server {
        &self.servers.members[region % self.servers.members.len()]
    }

    /// Writes the tenants of these organizations.
    ///
    /// # Errors
    /// When the hub's API server refuses one.
    pub async fn add(&self, organizations: std::ops::Range<usize>) -> Result<()> {
        let tenants = organizations.flat_map(|organization| (0..HOMES).map(move |home| (organization, home)));
        let residencies = tenants.map(|(organization, home)| residency(organization, home, self.regions, 0));
        self.servers
            .hub
            .put_all(TENANT_DATA_RESIDENCY, residencies.collect())
            .await
    }

    /// Removes every tenant, and everything that a hub has written into the members.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn empty(&self) -> Result<()> {
        let hub = &self.servers.hub;
        release_all(hub, TENANT_DATA_RESIDENCY).await?;
        remove_all(hub, TENANT_DATA_RESIDENCY, "").await?;
        for server in &self.servers.members {
            release_all(server, REGION_STACK).await?;
            remove_all(server, REGION_STACK, "").await?;
        }
        let spaces = (0..self.regions).map(|number| async move {
            remove_all(
                self.server_of(number),
                TENANT_PLACEMENT,
                &namespace(&region_name(number)),
            )
            .await
        });
        futures::stream::iter(spaces)
            .buffer_unordered(4)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }
}

/// Takes all finalizers off: no role runs that would, and no member may be asked for it.
async fn release_all(server: &Server, kind: meridian_operator::manifest::Kind) -> Result<()> {
    let api = server.api(kind, "");
    let listed = api.list_metadata(&ListParams::default()).await;
    let listed = listed.with_context(|| format!("{}s cannot be listed", kind.kind))?;
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let (api, free) = (&api, &free);
    let released = listed.items.into_iter().map(|held| async move {
        let name = held.metadata.name.unwrap_or_default();
        let patched = api.patch(&name, &PatchParams::default(), free).await;
        patched.with_context(|| format!("the finalizers of {} {name} cannot be removed", kind.kind))
    });
    futures::stream::iter(released)
        .buffer_unordered(16)
        .try_for_each(|_| async { Ok(()) })
        .await
}

async fn remove_all(server: &Server, kind: meridian_operator::manifest::Kind, namespace: &str) -> Result<()> {
    let api = server.api(kind, namespace);
    let nothing_of = |verb: &str| format!("{}s cannot be {verb}", kind.kind);
    api.delete_collection(&DeleteParams::background(), &ListParams::default())
        .await
        .with_context(|| nothing_of("removed"))?;
    until("what is removed is gone", Duration::from_secs(120), || async {
        let left = api.list_metadata(&ListParams::default().limit(1)).await;
        Ok(left.with_context(|| nothing_of("listed"))?.items.is_empty())
    })
    .await
}

async fn make_namespace(server: &Server, name: &str) -> Result<()> {
    let api: Api<Namespace> = Api::all(server.client.clone());
    if api.get_opt(name).await?.is_some() {
        return Ok(());
    }
    // Where a region role runs, it takes its own over.
    let metadata = json!({"name": name, "annotations": {"meridian.sh/adopt": "true"}});
    let namespace: Namespace = serde_json::from_value(json!({"metadata": metadata}))?;
    api.create(&PostParams::default(), &namespace)
        .await
        .with_context(|| format!("namespace {name} cannot be made"))?;
    Ok(())
}

/// Name of a region.
pub fn region_name(number: usize) -> String {
    format!("r{number:03}")
}

/// The namespace of a region in its member.
pub fn namespace(region: &str) -> String {
    format!("meridian-{region}")
}

/// Name of the tenant of an organization in the `home`-th of its regions.
pub fn tenant_name(organization: usize, home: usize) -> String {
    format!("org-{organization:05}-{home}")
}

/// The number of the `home`-th region of an organization. The three differ as long as there are three regions.
pub fn region_of(organization: usize, home: usize, regions: usize) -> usize {
    (organization + home * (regions / HOMES).max(1)) % regions
}

fn region(number: usize) -> Value {
    let name = region_name(number);
    json!({
        "apiVersion": "meridian.sh/v1alpha1", "kind": "FitnessRegion", "metadata": {"name": name},
        "spec": {
            "jurisdiction": "eu", "operatedBy": "stride-europe", "countriesServed": ["DE"],
            "clusters": [{
                "name": name, "role": "Primary", "country": "DE",
                "kubeconfigSecret": {"name": format!("member-{name}"), "key": "kubeconfig"},
            }],
            "gateway": {
                "host": format!("{name}.meridian.example"),
                "publicUrl": format!("https://{name}.meridian.example"),
                "peerUrl": format!("https://{name}.peers.meridian.example:30444"),
            },
        },
    })
}

/// When the edges of a tenant end after its `change`-th change: each change prolongs them by a second, so what a member
/// holds says which change it has.
pub fn expiry(change: u32) -> jiff::Timestamp {
    // 2036-01-01T00:00:00Z
    jiff::Timestamp::from_second(2_082_758_400 + i64::from(change)).unwrap_or(jiff::Timestamp::MAX)
}

/// The residency of one tenant: its workouts may go to the two other regions of its organization.
pub fn residency(organization: usize, home: usize, regions: usize, change: u32) -> Value {
    let name = tenant_name(organization, home);
    let others = (0..HOMES).filter(|other| *other != home);
    let edges: Vec<Value> = others
        .map(|other| {
            json!({
                "region": region_name(region_of(organization, other, regions)),
                "purposes": ["cross-border-sharing"],
                "fields": ["sport_type", "distance_meters", "duration_sec", "start_day"],
                "mechanism": "NotRestricted", "instrument": "one jurisdiction",
                "pseudonymise": true, "onward": false, "expires": expiry(change),
            })
        })
        .collect();
    json!({
        "apiVersion": "meridian.sh/v1alpha1", "kind": "TenantDataResidency", "metadata": {"name": name},
        "spec": {
            "organization": format!("org-{organization:05}"), "tenant": name,
            "home": {"region": region_name(region_of(organization, home, regions))},
            "classes": [{"class": "workout-summary", "replicateTo": edges}],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn an_organization_has_three_different_regions() {
        for regions in [3, 4, 100] {
            for organization in 0..500 {
                let homes: BTreeSet<usize> = (0..HOMES).map(|home| region_of(organization, home, regions)).collect();
                assert_eq!(homes.len(), HOMES, "{organization} of {regions}");
            }
        }
    }

    #[test]
    fn each_change_is_told_from_every_other() {
        assert_eq!(expiry(0).to_string(), "2036-01-01T00:00:00Z");
        assert_ne!(residency(7, 1, 100, 1), residency(7, 1, 100, 2));
    }
}
