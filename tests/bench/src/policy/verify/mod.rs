//! What it costs to verify a region of ten million rows, against counting the same rows: `meridian verify` looks at real
//! databases, with the schemas of the region's services and the role that the verifier has, as a process of its own.
//!
//! It has to find nothing in the region as it should be, then exactly what was smuggled into it; a look that sees one row
//! more or less than are there is no figure. The time is of one whole run of the program, its start and its report
//! included. Nothing that looks at every row can be faster than the peer: one connection that asks each table for its
//! `count(*)` and nothing else. Both in turns, once the clean look has read every table.
//!
//! The server is made for speed and thrown away, so that the verifier finds fault with its settings; it is to find the same
//! ones whatever the rows are.

mod look;
mod region;
mod rows;
mod smuggled;

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::Programs;
use crate::measure::compare;
use crate::process::Memory;
use crate::report::{Bound, Metric, Report};
use look::{Found, Look};
use region::Region;

/// So many rows are promised.
pub const ROWS: u64 = 10_000_000;
/// Turns with the peer.
const TURNS: usize = 3;
/// Seconds that a look may take.
const SECONDS: f64 = 60.0;
/// MiB that it may have in memory.
const MEBIBYTES: f64 = 200.0;

/// Fills a region with so many rows, and looks at it.
///
/// # Errors
/// When the region cannot be laid out, or the verifier finds anything but what was smuggled in.
pub async fn measure(programs: &Programs, wanted: u64, report: &mut Report) -> Result<()> {
    let region = Region::lay_down(&programs.meridian).await?;
    let empty = region.look().await.context("the empty region")?;
    let settings = empty.settings();
    empty.sees(0, &settings).context("the empty region")?;

    let began = Instant::now();
    let rows = rows::fill(&region, wanted).await?;
    eprintln!("policy: {rows} rows were made in {:?}", began.elapsed());
    let clean = region.look().await.context("the clean region")?;
    clean.sees(rows, &settings).context("the clean region")?;

    let smuggled = smuggled::smuggle(&region, rows).await?;
    let rows = rows + smuggled.iter().map(|found| found.count).sum::<u64>();
    let expected: BTreeSet<Found> = settings.union(&smuggled).cloned().collect();
    let (mut looks, mut pairs) = (vec![empty, clean], Vec::new());
    for _ in 0..TURNS {
        let counting = rows::count(&region).await?;
        ensure!(
            counting.rows == rows,
            "the peer counts {} rows and {rows} were made",
            counting.rows
        );
        let look = region.look().await?;
        look.sees(rows, &expected)?;
        pairs.push((look.took.as_secs_f64(), counting.took.as_secs_f64()));
        looks.push(look);
    }
    tell(rows, &pairs, &looks, &smuggled, report)
}

/// Adds the figures of turns of (ours, counting), of all looks and of what they found.
fn tell(
    rows: u64,
    pairs: &[(f64, f64)],
    looks: &[Look],
    smuggled: &BTreeSet<Found>,
    report: &mut Report,
) -> Result<()> {
    let compared = compare(pairs).context("no turn was measured")?;
    report.add(Metric {
        name: format!("verify a region of {rows} rows, against count(*) by one connection"),
        ours: compared.ours,
        peer: Some(compared.peer),
        ratio: Some(compared.ratio),
        unit: "s",
        bound: Bound::AtMost(SECONDS),
    })?;
    let highest = looks.iter().map(|look| look.highest).max().context("nobody looked")?;
    let name = format!("verify a region of {rows} rows: memory at its highest");
    report.add(Metric::own(
        name,
        Memory::mebibytes(highest),
        "MiB",
        Bound::AtMost(MEBIBYTES),
    ))?;
    #[expect(clippy::cast_precision_loss, reason = "some dozens of rows")]
    let found = smuggled.iter().map(|found| found.count).sum::<u64>() as f64;
    let name = "verify: rows found of those smuggled in, and no others";
    report.add(Metric::own(name, found, "rows", Bound::AtLeast(found)))
}
