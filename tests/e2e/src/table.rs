//! The table that `up` ends with: what was proved, when, and what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::rows::{self, Outcome};

/// The rows proved so far, over runs: a row that this run leaves out is shown with the time it was last proved.
#[derive(Default, Serialize, Deserialize)]
pub struct Table {
    /// Of which demo; what was proved on another says nothing.
    demo: String,
    entries: BTreeMap<u8, Entry>,
    #[serde(skip)]
    this_run: BTreeSet<u8>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    verdict: Verdict,
    seen: String,
    at: Timestamp,
    seconds: f32,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Proved,
    Failed,
    Skipped,
}

impl Table {
    /// What earlier runs on this demo recorded; empty when there is nothing.
    pub fn load(folder: &Path, demo: String) -> Self {
        let recorded = fs::read_to_string(folder.join("rows.json"))
            .ok()
            .and_then(|text| serde_json::from_str::<Self>(&text).ok())
            .filter(|table| table.demo == demo);
        recorded.unwrap_or(Self {
            demo,
            ..Self::default()
        })
    }

    /// Writes it down for later runs.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(folder.join("rows.json"), serde_json::to_vec_pretty(self)?).context("cannot write rows.json")
    }

    /// Whether the row was proved on this demo, and not tried in vain since.
    pub fn has_proved(&self, row: u8) -> bool {
        self.entries
            .get(&row)
            .is_some_and(|entry| entry.verdict == Verdict::Proved)
    }

    /// Adds what became of a row.
    pub fn record(&mut self, row: u8, outcome: Result<Outcome>, took: Duration) {
        let (verdict, seen) = match outcome {
            Ok(Outcome::Proved(seen)) => (Verdict::Proved, seen),
            Ok(Outcome::Skipped(reason)) => (Verdict::Skipped, reason),
            Err(error) => (Verdict::Failed, format!("{error:#}")),
        };
        let entry = Entry {
            verdict,
            seen,
            at: Timestamp::now(),
            seconds: took.as_secs_f32(),
        };
        eprintln!("row {row}: {} in {:.1} s: {}", entry.verdict, entry.seconds, entry.seen);
        self.entries.insert(row, entry);
        self.this_run.insert(row);
    }

    /// Rows that were to be proved and never came to an end count as failed.
    pub fn fail_unfinished(&mut self, wanted: &[u8]) {
        for row in wanted {
            if !self.this_run.contains(row) {
                let error = anyhow::anyhow!("its proof broke off; see above");
                self.record(*row, Err(error), Duration::ZERO);
            }
        }
    }

    /// Rows of this run that did not hold.
    pub fn failed(&self) -> usize {
        self.count(Verdict::Failed)
    }

    /// Counts of this run.
    pub fn closing_line(&self) -> String {
        let (passed, skipped) = (self.count(Verdict::Proved), self.count(Verdict::Skipped));
        format!("{passed} passed, {} failed, {skipped} skipped", self.failed())
    }

    fn count(&self, verdict: Verdict) -> usize {
        let entries = self.this_run.iter().filter_map(|row| self.entries.get(row));
        entries.filter(|entry| entry.verdict == verdict).count()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &rows::ALL {
            let Some(entry) = self.entries.get(&row.number) else {
                continue;
            };
            let when = if self.this_run.contains(&row.number) {
                format!("in {:.0} s", entry.seconds)
            } else {
                let age = (Timestamp::now() - entry.at)
                    .round(jiff::Unit::Second)
                    .unwrap_or_else(|_| 0.seconds());
                format!("{age:#} ago")
            };
            let verdict = entry.verdict.to_string();
            writeln!(f, "{:>3}  {verdict:<8}{} ({when})", row.number, row.promise)?;
            writeln!(f, "             {}", entry.seen)?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proved => "proved",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        })
    }
}
