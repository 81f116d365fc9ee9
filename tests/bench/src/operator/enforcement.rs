//! One change of a TenantDataResidency on the hub, until the last enforcement point of three regions obeys it: from the
//! moment it is sent until no service of the exporting or the importing regions holds the edges that it took away.
//!
//! The hub and the three region roles are the platform's own, each region in a cluster of its own. The services are stood in
//! for by what each of them hears the policy with: kit's feed, over mTLS, under the certificate that the region issued to
//! it. The changes are sent on a fixed beat and timed from it: first at a pace that three API servers bear on the machine that
//! the platform is built for, which is what the bound is of, then at more than that. The stand-in of each replicator
//! acknowledges what was cut, as a replicator does that has no copies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use meridian_kit::policy_feed::{Ack, AckRole, PolicyFeed};
use meridian_kit::testing::free_address;
use meridian_kit::tls::Tls;
use meridian_operator::manifest::TENANT_DATA_RESIDENCY;
use meridian_operator::region::stack::plan::components::{COMPONENTS, REPLICATOR};
use meridian_policy::{RegionName, RegionPolicy};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::beat;
use super::fleet::{self, Fleet, HOMES, region_name, region_of, tenant_name};
use super::hub::{self, Hub};
use super::servers::{Server, Servers, until};
use crate::Programs;
use crate::report::{Bound, Report};

const REGIONS: usize = HOMES;
/// Organizations, each with three tenants: one change of each tenant.
const ORGANIZATIONS: usize = 100;
/// Changes of the first part, and how many a second. Policies are changed by people.
const FIRST: (u32, u32) = (200, 1);
/// And of the second.
const SECOND: (u32, u32) = (100, 5);
// Each is of another tenant.
const _: () = assert!((FIRST.0 + SECOND.0) as usize <= ORGANIZATIONS * HOMES);
/// How long the regions may take to start and to hear of all tenants.
const LIMIT: Duration = Duration::from_secs(180);
/// Measures how long a change takes to be obeyed.
///
/// # Errors
/// When a role does not start, or a change is refused or lost.
pub async fn measure(servers: &Servers, programs: &Programs, report: &mut Report) -> Result<()> {
    let fleet = Fleet::lay_out(servers, REGIONS).await?;
    fleet.empty().await?;
    fleet.add(0..ORGANIZATIONS).await?;
    let mut hub = Hub::start(&programs.meridian, &servers.hub, &report.beside("hub-enforcement.log"))?;
    let stop = CancellationToken::new();
    let mut regions = BTreeMap::new();
    for number in 0..REGIONS {
        let name = region_name(number);
        let log = report.beside(&format!("region-{name}.log"));
        let region = Region::start(&programs.meridian, fleet.server_of(number), &name, &log, &stop).await?;
        regions.insert(name, region);
    }
    // Laying the regions down is no change of the policy: that has ended before the first one is sent.
    hub.idle(LIMIT, || {
        // Each tenant has two edges, and each region a third of the tenants.
        let edges = ORGANIZATIONS * (HOMES - 1);
        let mut policies = regions
            .values()
            .flat_map(|region| &region.services)
            .map(|service| service.current());
        let all = policies.all(|policy| policy.exports.len() == edges && policy.imports.len() == edges);
        all.then_some(())
            .ok_or_else(|| "not every service hears of every edge".to_owned())
    })
    .await?;
    let (borne, too_many) = {
        let heard = regions
            .iter()
            .map(|(name, region)| (name.clone(), region.services.clone()));
        let heard = Arc::new(heard.collect());
        let borne = load(&servers.hub, &heard, 0, FIRST).await?;
        (borne, load(&servers.hub, &heard, FIRST.0, SECOND).await?)
    };
    stop.cancel();
    drop(regions);
    hub.stop().await?;
    fleet.empty().await?;
    for (latencies, (_, per_second), bound) in [(borne, FIRST, Bound::AtMost(2.0)), (too_many, SECOND, Bound::Reported)]
    {
        let what = format!("a policy change on the hub until the last service of three regions obeys, {per_second}/s");
        beat::report(report, &what, &latencies, bound)?;
    }
    Ok(())
}

/// Sends one change of each of so many tenants, so many a second; gives the seconds that each took.
async fn load(
    hub: &Server,
    heard: &Arc<BTreeMap<String, Vec<PolicyFeed>>>,
    first: u32,
    (changes, per_second): (u32, u32),
) -> Result<Vec<f64>> {
    beat::send(per_second, changes, |number| {
        let (hub, heard, tenant) = (hub.clone(), heard.clone(), (first + number) as usize);
        async move { cut(&hub, &heard, tenant % ORGANIZATIONS, tenant / ORGANIZATIONS).await }
    })
    .await
}

/// Takes the edges of a tenant away, and waits until no service of its organization's regions holds one of them.
async fn cut(hub: &Server, heard: &BTreeMap<String, Vec<PolicyFeed>>, organization: usize, home: usize) -> Result<()> {
    let mut residency = fleet::residency(organization, home, REGIONS, 0);
    residency["spec"]["classes"] = json!([]);
    hub.put(TENANT_DATA_RESIDENCY, &residency).await?;
    let tenant = tenant_name(organization, home);
    let services = (0..HOMES).filter_map(|home| heard.get(&region_name(region_of(organization, home, REGIONS))));
    let obeyed = services.flatten().map(|service| {
        let (mut policy, tenant) = (service.subscribe(), &tenant);
        async move {
            let without = |policy: &RegionPolicy| {
                let mut edges = policy.exports.iter().chain(&policy.imports);
                !edges.any(|edge| edge.tenant.as_str() == tenant)
            };
            policy.wait_for(|policy| without(policy)).await.map(drop)
        }
    });
    try_join_all(obeyed).await.context("a service has stopped listening")?;
    Ok(())
}

/// A region's own role, and what its services hear the policy with. The role is killed when this is dropped.
struct Region {
    services: Vec<PolicyFeed>,
    _role: Child,
    _folder: TempDir,
    _tasks: JoinSet<()>,
}

impl Region {
    async fn start(meridian: &Path, server: &Server, name: &str, log: &Path, stop: &CancellationToken) -> Result<Self> {
        let folder = TempDir::new().context("a folder for a region's certificates")?;
        let listen = free_address();
        let role = hub::role(meridian, "region", &server.kubeconfig, log)?
            .env("POD_NAME", format!("bench-{name}"))
            .env("MERIDIAN_REGION", name)
            .env("MERIDIAN_FEED_LISTEN", listen.to_string())
            .env("MERIDIAN_ADMIN_LISTEN", free_address().to_string())
            .env("MERIDIAN_SCRATCH", folder.path())
            .env("MERIDIAN_IMAGE", "meridian:1")
            .env("MERIDIAN_POSTGRES_IMAGE", "postgres:17")
            .env("MERIDIAN_KAFKA_IMAGE", "kafka:4.1")
            .spawn()
            .context("the region role cannot be started")?;
        let region: RegionName = name.parse()?;
        let (mut services, mut tasks) = (Vec::new(), JoinSet::new());
        for service in COMPONENTS.iter().filter(|component| component.follows_policy) {
            let service = service.name;
            let (feed, tls) = hear(server, &region, service, listen, folder.path()).await?;
            tasks.spawn(feed.clone().run(tls, stop.clone()));
            if service == REPLICATOR {
                tasks.spawn(acknowledge(feed.clone(), region.clone()));
            }
            services.push(feed);
        }
        Ok(Self {
            services,
            _role: role,
            _folder: folder,
            _tasks: tasks,
        })
    }
}

/// A service's feed, which begins with an empty policy, under the certificate that the region has issued.
async fn hear(
    server: &Server,
    region: &RegionName,
    service: &str,
    listen: SocketAddr,
    folder: &Path,
) -> Result<(PolicyFeed, Tls)> {
    let secrets: Api<Secret> = Api::namespaced(server.client.clone(), &fleet::namespace(region.as_str()));
    let name = format!("tls-{service}");
    until("the certificates are issued", LIMIT, async || {
        Ok(secrets.get_opt(&name).await?.is_some())
    })
    .await?;
    let own = folder.join(service);
    fs::create_dir_all(&own)?;
    for (file, content) in secrets.get(&name).await?.data.unwrap_or_default() {
        fs::write(own.join(file), content.0)?;
    }
    let tls = Tls::load(&own, region.clone())?;
    let policy = own.join("policy.json");
    fs::write(&policy, serde_json::to_vec(&nothing(region))?)?;
    let feed = PolicyFeed::from_file(&policy, region, &format!("https://{listen}"), &tls)?;
    Ok((feed, tls))
}

/// The policy of a region that has no edges and no tenants.
fn nothing(region: &RegionName) -> Value {
    json!({
        "region": region, "jurisdiction": "eu", "revision": 0, "countries_served": [], "public_url": "", "issuer": "",
        "homes": [], "directory": [], "peers": [], "exports": [], "imports": [], "retention": {},
    })
}

/// Acknowledges each edge that was cut, once, for the side that the region is.
async fn acknowledge(feed: PolicyFeed, region: RegionName) {
    let (mut policies, mut done) = (feed.subscribe(), BTreeSet::new());
    while policies.changed().await.is_ok() {
        let policy = policies.borrow_and_update().clone();
        for cut in &policy.closing {
            let key = (cut.id.clone(), cut.revision);
            if done.contains(&key) {
                continue;
            }
            let role = if cut.from == region {
                AckRole::Exporter
            } else {
                AckRole::Importer
            };
            let ack = Ack {
                edge: cut.id.clone(),
                role,
                revision: policy.revision,
                purged: 0,
                sinks: Vec::new(),
            };
            // One that did not get through is told with the next change, as long as the edge is still to be closed.
            if feed.acknowledge(&ack).await.is_ok() {
                done.insert(key);
            }
        }
    }
}
