//! One change of a TenantDataResidency to its members: from the moment it is due to be sent until the exporter's stack and
//! placement and both importers' stacks hold it, 20 changes a second for a minute, on 100 regions and a thousand tenants.
//!
//! The changes are sent on a fixed beat whether earlier ones have arrived or not, and each is timed from its beat, so a
//! hub that falls behind is seen to.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use meridian_operator::manifest::TENANT_DATA_RESIDENCY;

use super::fleet::{self, Fleet, HOMES, expiry, region_name, region_of, tenant_name};
use super::hub::Hub;
use super::regions::{Regions, Seen};
use super::servers::{Server, Servers};
use super::{bare, beat};
use crate::Programs;
use crate::report::{Bound, Metric, Report};

/// Regions, each a member of its own.
pub const REGIONS: usize = 100;
/// Organizations, each with three tenants.
const ORGANIZATIONS: usize = 334;
const PER_SECOND: u32 = 20;
const LASTS: Duration = Duration::from_secs(60);
/// How long the hub may take to lay the fleet out.
const LIMIT: Duration = Duration::from_secs(300);

/// Measures the latency, and what a change costs the hub.
///
/// # Errors
/// When the fleet cannot be laid out, or a change is refused or lost.
pub async fn measure(servers: &Servers, programs: &Programs, report: &mut Report) -> Result<()> {
    let fleet = Fleet::lay_out(servers, REGIONS).await?;
    let regions = Regions::start(&fleet, servers)?;
    fleet.empty().await?;
    fleet.add(0..ORGANIZATIONS).await?;
    let mut hub = Hub::start(&programs.meridian, &servers.hub, &report.beside("hub-change.log"))?;
    let seen = regions.seen.clone();
    hub.idle(LIMIT, || seen.missing(REGIONS, ORGANIZATIONS * HOMES)).await?;

    let (before, cpu, servers_cpu) = (hub.counts().await?, hub.cpu_time()?, servers.cpu_time()?);
    let began = Instant::now();
    let latencies = load(&servers.hub, &regions.seen).await?;
    let (after, took) = (hub.counts().await?, began.elapsed());
    let cpu = hub.cpu_time()?.saturating_sub(cpu);
    let servers_cpu = servers.cpu_time()?.saturating_sub(servers_cpu);
    hub.stop().await?;

    let changes = f64::from(u32::try_from(latencies.len()).context("too many changes")?);
    let what = format!("a residency change to its members, 20/s, {REGIONS} members");
    beat::report(report, &what, &latencies, Bound::AtMost(1.0))?;
    #[expect(clippy::cast_precision_loss, reason = "a count of requests in a few minutes")]
    let writes = (after.writes - before.writes) as f64;
    report.add(Metric::own(
        "hub: writes per change",
        writes / changes,
        "requests",
        Bound::Reported,
    ))?;
    report.add(Metric::own(
        "hub: processor time under 20 changes/s",
        cpu.as_secs_f64() / took.as_secs_f64(),
        "cores",
        Bound::Reported,
    ))?;
    // What the figures above hang on where everything shares a machine. Changes that come together are written together, so
    // that the API servers may have less to do than for each by itself.
    let each = |cpu: Duration| cpu.as_secs_f64() * 1000.0 / changes;
    report.add(Metric::own(
        "hub: processor time per change",
        each(cpu),
        "ms",
        Bound::Reported,
    ))?;
    drop(regions);
    let bare = bare::cpu_time(servers, &fleet).await?.as_secs_f64() * 1000.0;
    report.add(Metric {
        name: "API servers and etcd: processor time per change, against its bare writes".to_owned(),
        ours: each(servers_cpu),
        peer: Some(bare),
        ratio: Some(each(servers_cpu) / bare),
        unit: "ms",
        bound: Bound::Reported,
    })?;
    Ok(())
}

/// Sends the changes; gives the seconds that each took.
async fn load(hub: &Server, seen: &Seen) -> Result<Vec<f64>> {
    let total = u32::try_from(LASTS.as_secs())? * PER_SECOND;
    beat::send(PER_SECOND, total, |number| {
        let (hub, seen) = (hub.clone(), seen.clone());
        async move { change(&hub, &seen, number).await }
    })
    .await
}

async fn change(hub: &Server, seen: &Seen, number: u32) -> Result<()> {
    // A stride that shares no factor with the number of tenants: every tenant's turn comes, neighbours far apart.
    let tenant = (number as usize * 389) % (ORGANIZATIONS * HOMES);
    let (organization, home) = (tenant / HOMES, tenant % HOMES);
    let expires = expiry(number + 1);
    hub.put(
        TENANT_DATA_RESIDENCY,
        &fleet::residency(organization, home, REGIONS, number + 1),
    )
    .await?;
    let name = tenant_name(organization, home);
    let region = |home| region_name(region_of(organization, home, REGIONS));
    for other in (0..HOMES).filter(|other| *other != home) {
        let edge = format!("{name}.workout-summary.{}", region(other));
        seen.arrived(&name, &edge, &region(home), &region(other), expires).await;
    }
    Ok(())
}
