//! 100 regions × 10,000 tenants: how long a hub takes from nothing and after a restart, what it has in memory, and what ten
//! times the tenants cost. Times are from the start of the process to the moment at which every member holds what it
//! must and the hub has ended its last pass.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::change::REGIONS;
use super::fleet::{Fleet, HOMES};
use super::hub::Hub;
use super::regions::Regions;
use super::servers::Servers;
use crate::Programs;
use crate::process::Memory;
use crate::report::{Bound, Metric, Report};

/// Organizations of the small and of the large fleet; each has three tenants.
const FEW: usize = 334;
const MANY: usize = 3_334;
/// How long a hub may take before it counts as stuck.
const LIMIT: Duration = Duration::from_secs(900);

/// What a start of the hub came to.
struct Run {
    seconds: f64,
    cpu: f64,
    memory: Memory,
}

/// Measures times and memory.
///
/// # Errors
/// When a hub does not become idle.
pub async fn measure(servers: &Servers, programs: &Programs, report: &mut Report) -> Result<()> {
    let fleet = Fleet::lay_out(servers, REGIONS).await?;
    let regions = Regions::start(&fleet, servers)?;
    let log = report.beside("hub-fleet.log");
    let start = |organizations| run(servers, programs, &regions, organizations, &log);

    fleet.empty().await?;
    let base = start(0).await?;
    fleet.empty().await?;
    fleet.add(0..FEW).await?;
    let few = start(FEW).await?;
    tell(report, FEW * HOMES, &few)?;
    fleet.empty().await?;
    fleet.add(0..MANY).await?;
    let many = start(MANY).await?;
    tell(report, MANY * HOMES, &many)?;
    let again = start(MANY).await?;

    let own = |name: &str, ours, unit, bound| Metric::own(name, ours, unit, bound);
    let mebibytes = |memory: Memory| Memory::mebibytes(memory.highest);
    for metric in [
        own(
            "hub: highest RSS without tenants",
            mebibytes(base.memory),
            "MiB",
            Bound::Reported,
        ),
        own(
            "hub: highest RSS with 10,002 tenants, from nothing and after a restart",
            mebibytes(many.memory).max(mebibytes(again.memory)),
            "MiB",
            Bound::AtMost(250.0),
        ),
        own(
            "hub: from its restart until idle, 10,002 tenants",
            again.seconds,
            "s",
            Bound::AtMost(60.0),
        ),
        own(
            "hub: cost of 10× tenants in time",
            many.seconds / few.seconds,
            "×",
            Bound::AtMost(12.0),
        ),
        own(
            "hub: cost of 10× tenants in memory above the base",
            (mebibytes(many.memory) - mebibytes(base.memory)) / (mebibytes(few.memory) - mebibytes(base.memory)),
            "×",
            Bound::AtMost(12.0),
        ),
    ] {
        report.add(metric)?;
    }
    Ok(())
}

fn tell(report: &mut Report, tenants: usize, run: &Run) -> Result<()> {
    let name = |what: &str| format!("hub: {REGIONS} regions × {tenants} tenants from nothing: {what}");
    report.add(Metric::own(name("until idle"), run.seconds, "s", Bound::Reported))?;
    report.add(Metric::own(name("processor time"), run.cpu, "s", Bound::Reported))?;
    let memory = Memory::mebibytes(run.memory.highest);
    report.add(Metric::own(name("highest RSS"), memory, "MiB", Bound::Reported))
}

async fn run(
    servers: &Servers,
    programs: &Programs,
    regions: &Regions,
    organizations: usize,
    log: &Path,
) -> Result<Run> {
    let mut hub = Hub::start(&programs.meridian, &servers.hub, log)?;
    let started: Instant = hub.started();
    let idle = hub
        .idle(LIMIT, || regions.seen.missing(REGIONS, organizations * HOMES))
        .await?;
    let run = Run {
        seconds: idle.duration_since(started).as_secs_f64(),
        cpu: hub.cpu_time()?.as_secs_f64(),
        memory: hub.memory()?,
    };
    eprintln!(
        "operator: {} tenants: idle after {:.1} s, {:.1} s of processor time, highest RSS {:.0} MiB",
        organizations * HOMES,
        run.seconds,
        run.cpu,
        Memory::mebibytes(run.memory.highest)
    );
    hub.stop().await?;
    Ok(run)
}
