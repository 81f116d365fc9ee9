//! One run of `meridian verify`, from outside: how long it took, what it had in memory, what it said.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::process::memory;

/// How often the program is asked for its memory. The kernel keeps the highest, so that only the last of these spans is not
/// seen, in which the program says what it found and ends.
const OFTEN: Duration = Duration::from_millis(5);
/// The setting's check, by its name in the report.
const SETTING: &str = "setting";
/// Exit codes of a look that saw everything: nothing was found, something was.
const LOOKED: [Option<i32>; 2] = [Some(0), Some(1)];

/// What a run came to.
pub struct Look {
    /// From its start to its end.
    pub took: Duration,
    /// Bytes in memory at their highest.
    pub highest: u64,
    report: Told,
}

/// A report, as far as it says how much there is of what.
#[derive(Deserialize)]
struct Told {
    looked: Looked,
    findings: BTreeSet<Found>,
}

#[derive(Deserialize)]
struct Looked {
    rows: u64,
}

/// A finding without its classes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Found {
    /// What is wrong.
    pub check: String,
    /// `<service>.<table>`, or a setting.
    pub place: String,
    /// Whose it is.
    pub of: Option<String>,
    /// How many.
    pub count: u64,
}

impl Look {
    /// Runs it on the server at `url`, against the policy in a file.
    ///
    /// # Errors
    /// When it could not look everywhere.
    pub async fn run(meridian: &Path, url: &str, policy: &Path) -> Result<Self> {
        let began = Instant::now();
        let child = Command::new(meridian)
            .arg("verify")
            .arg("--policy")
            .arg(policy)
            .env("MERIDIAN_SUPERUSER_URL", url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("meridian verify cannot be started")?;
        let (output, highest) = watch(child).await?;
        let took = began.elapsed();
        if !LOOKED.contains(&output.status.code()) {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("meridian verify ended with {}: {said}", output.status);
        }
        ensure!(highest > 0, "meridian verify ended before it was asked for its memory");
        let report = serde_json::from_slice(&output.stdout).context("meridian verify's report")?;
        Ok(Self { took, highest, report })
    }

    /// The findings about the server's settings.
    pub fn settings(&self) -> BTreeSet<Found> {
        let settings = self.report.findings.iter().filter(|found| found.check == SETTING);
        settings.cloned().collect()
    }

    /// Fails unless it saw so many rows, and found exactly this.
    ///
    /// # Errors
    /// What it saw instead.
    pub fn sees(&self, rows: u64, expected: &BTreeSet<Found>) -> Result<()> {
        let Told { looked, findings } = &self.report;
        let missing: Vec<&Found> = expected.difference(findings).collect();
        ensure!(missing.is_empty(), "the verifier did not find {missing:?}");
        let too_many: Vec<&Found> = findings.difference(expected).collect();
        ensure!(
            too_many.is_empty(),
            "the verifier found what nobody put there: {too_many:?}"
        );
        ensure!(
            looked.rows == rows,
            "the verifier saw {} rows and {rows} are there",
            looked.rows
        );
        Ok(())
    }
}

/// Waits for its end; with the highest that it had in memory.
async fn watch(child: Child) -> Result<(Output, u64)> {
    let number = child.id().context("meridian verify has ended already")?;
    let mut highest = 0;
    let mut often = tokio::time::interval(OFTEN);
    let ending = child.wait_with_output();
    tokio::pin!(ending);
    loop {
        tokio::select! {
            output = &mut ending => return Ok((output.context("meridian verify cannot be waited for")?, highest)),
            _ = often.tick() => {
                // One that has just ended has no memory any more.
                highest = highest.max(memory(number).map_or(0, |memory| memory.highest));
            }
        }
    }
}
