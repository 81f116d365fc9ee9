//! The table that `up` ends with: what was proved, when, and what was seen.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::rows::{Outcome, Row};

/// The rows proved so far, over runs: a row that this run leaves out is shown with the time it was last proved.
#[derive(Default, Serialize, Deserialize)]
pub struct Table {
    entries: BTreeMap<u8, Entry>,
    #[serde(skip)]
    this_run: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    promise: String,
    verdict: Verdict,
    seen: String,
    at: Timestamp,
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
    pub fn load(folder: &Path) -> Self {
        fs::read_to_string(folder.join("rows.json"))
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default()
    }

    /// Writes it down for later runs.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(folder.join("rows.json"), serde_json::to_vec_pretty(self)?).context("cannot write rows.json")
    }

    /// Adds what became of a row.
    pub fn record(&mut self, row: &Row, outcome: Result<Outcome>) {
        let (verdict, seen) = match outcome {
            Ok(Outcome::Proved(seen)) => (Verdict::Proved, seen),
            Ok(Outcome::Skipped(reason)) => (Verdict::Skipped, reason),
            Err(error) => (Verdict::Failed, format!("{error:#}")),
        };
        let entry = Entry {
            promise: row.promise.to_owned(),
            verdict,
            seen,
            at: Timestamp::now(),
        };
        eprintln!("row {}: {}: {}", row.number, entry.verdict, entry.seen);
        self.entries.insert(row.number, entry);
        self.this_run.push(row.number);
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
        self.this_run
            .iter()
            .filter(|row| self.entries.get(row).is_some_and(|entry| entry.verdict == verdict))
            .count()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, entry) in &self.entries {
            let when = if self.this_run.contains(number) {
                String::new()
            } else {
                let age = (Timestamp::now() - entry.at)
                    .round(jiff::Unit::Second)
                    .unwrap_or_else(|_| 0.seconds());
                format!(" ({age:#} ago)")
            };
            writeln!(
                f,
                "{number:>3}  {:<8}{when} {}\n              {}",
                entry.verdict.to_string(),
                entry.promise,
                entry.seen
            )?;
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
