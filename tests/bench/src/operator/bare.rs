//! What the writes of one residency change cost by themselves, whoever makes them: the residency and its status, three
//! stacks, what their regions say of them, and the placement at home. They are written once more as they lie there with
//! other numbers, one after the other, which is the least that any hub could ask of the API servers for one change alone.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::api::{Patch, PatchParams};
use meridian_operator::apply::Purpose;
use meridian_operator::manifest::{ObjectKey, REGION_STACK, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT};
use serde_json::{Value, json};

use super::fleet::{Fleet, HOMES, namespace, region_name, region_of, tenant_name};
use super::servers::{MANAGER, Server, Servers};

/// So many changes.
const CHANGES: u32 = 40;

/// One request.
struct Write {
    server: Server,
    key: ObjectKey,
    manager: &'static str,
    body: Value,
}

impl Write {
    async fn send(&self) -> Result<()> {
        let api = self
            .server
            .api(self.key.kind, self.key.namespace.as_deref().unwrap_or_default());
        let (name, params) = (&self.key.name, PatchParams::apply(self.manager).force());
        let written = if self.body.get("status").is_some() {
            api.patch_status(name, &params, &Patch::Apply(&self.body)).await
        } else {
            api.patch(name, &params, &Patch::Apply(&self.body)).await
        };
        written
            .map(drop)
            .with_context(|| format!("{} cannot be written", self.key))
    }
}

/// Processor time of the API servers and their etcd for the writes of one change. Nobody else may write meanwhile.
///
/// # Errors
/// When an object is not there or not taken.
pub async fn cpu_time(servers: &Servers, fleet: &Fleet<'_>) -> Result<Duration> {
    let mut writes = Vec::new();
    for number in 0..CHANGES {
        writes.extend(of_change(servers, fleet, number).await?);
    }
    let before = servers.cpu_time()?;
    for write in &writes {
        write.send().await?;
    }
    Ok(servers.cpu_time()?.saturating_sub(before) / CHANGES)
}

async fn of_change(servers: &Servers, fleet: &Fleet<'_>, number: u32) -> Result<Vec<Write>> {
    let organization = usize::try_from(number)?;
    let of_home = |home| region_of(organization, home, fleet.regions());
    let (tenant, home) = (tenant_name(organization, 0), of_home(0));
    let residency = ObjectKey::cluster(TENANT_DATA_RESIDENCY, &tenant);
    let placement = ObjectKey::namespaced(TENANT_PLACEMENT, &namespace(&region_name(home)), &tenant);
    let mut writes = vec![
        spec(&servers.hub, residency.clone(), MANAGER, number).await?,
        status(&servers.hub, residency, number).await?,
        spec(
            fleet.server_of(home),
            placement,
            Purpose::HubPlacement.manager(),
            number,
        )
        .await?,
    ];
    for region in (0..HOMES).map(of_home) {
        let (server, stack) = (
            fleet.server_of(region),
            ObjectKey::cluster(REGION_STACK, &region_name(region)),
        );
        writes.push(spec(server, stack.clone(), Purpose::HubStack.manager(), number).await?);
        writes.push(status(server, stack, number).await?);
    }
    Ok(writes)
}

/// The object as it asks for what it asks, with another number.
async fn spec(server: &Server, key: ObjectKey, manager: &'static str, number: u32) -> Result<Write> {
    let mut live = read(server, &key).await?;
    let metadata = &live["metadata"];
    let mut body = begun(&key);
    body["metadata"]["labels"] = metadata["labels"].clone();
    body["metadata"]["annotations"] = metadata["annotations"].clone();
    body["metadata"]["annotations"]["meridian.sh/bench"] = json!(number.to_string());
    body["spec"] = live["spec"].take();
    raise(&mut body["spec"], "revision", number);
    Ok(Write {
        server: server.clone(),
        key,
        manager,
        body,
    })
}

/// What is said of the object, with another number.
async fn status(server: &Server, key: ObjectKey, number: u32) -> Result<Write> {
    let mut live = read(server, &key).await?;
    let mut body = begun(&key);
    body["status"] = live["status"].take();
    for field in ["observedGeneration", "appliedRevision"] {
        raise(&mut body["status"], field, number);
    }
    Ok(Write {
        server: server.clone(),
        key,
        manager: Purpose::Status.manager(),
        body,
    })
}

fn begun(key: &ObjectKey) -> Value {
    json!({
        "apiVersion": key.kind.api_version(), "kind": key.kind.kind,
        "metadata": {"name": key.name, "namespace": key.namespace},
    })
}

/// A number that is not there stays away.
fn raise(fields: &mut Value, field: &str, by: u32) {
    if let Some(number) = fields.get(field).and_then(Value::as_u64) {
        fields[field] = json!(number + 1 + u64::from(by));
    }
}

async fn read(server: &Server, key: &ObjectKey) -> Result<Value> {
    let live = server.get(key).await?.with_context(|| format!("{key} is not there"))?;
    Ok(serde_json::to_value(live)?)
}
