//! What a bench found: a table for people, `NAME.json` for machines.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// The ratio to the peer is at most this.
    RatioAtMost(f64),
    /// The ratio to the peer is at least this.
    RatioAtLeast(f64),
    /// Our own figure is at most this.
    AtMost(f64),
    /// Our own figure is at least this.
    AtLeast(f64),
    /// It is only told.
    Reported,
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// What was measured.
    pub name: String,
    /// Ours.
    pub ours: f64,
    /// The peer's, where there is one.
    pub peer: Option<f64>,
    /// Ours by the peer's, pair by pair.
    pub ratio: Option<f64>,
    /// Of `ours` and `peer`.
    pub unit: &'static str,
    /// What it must reach.
    pub bound: Bound,
}

impl Metric {
    /// A figure of ours alone.
    pub fn own(name: impl Into<String>, ours: f64, unit: &'static str, bound: Bound) -> Self {
        Self {
            name: name.into(),
            ours,
            peer: None,
            ratio: None,
            unit,
            bound,
        }
    }

    /// Whether the bound is met. A figure that is no number meets none.
    pub fn met(&self) -> bool {
        match self.bound {
            Bound::RatioAtMost(most) => self.ratio.is_some_and(|ratio| ratio <= most),
            Bound::RatioAtLeast(least) => self.ratio.is_some_and(|ratio| ratio >= least),
            Bound::AtMost(most) => self.ours <= most,
            Bound::AtLeast(least) => self.ours >= least,
            Bound::Reported => true,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::RatioAtMost(most) => format!("≤ {most}×"),
            Self::RatioAtLeast(least) => format!("≥ {least}×"),
            Self::AtMost(most) => format!("≤ {most}"),
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::Reported => "-".to_owned(),
        };
        f.pad(&text)
    }
}

/// A metric as NAME.json has it.
#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    ours: f64,
    peer: Option<f64>,
    ratio: Option<f64>,
    unit: &'a str,
    bound: String,
    met: bool,
}

/// The figures of one bench, written down as they come: a run that is interrupted has told what it had.
pub struct Report {
    file: PathBuf,
    metrics: Vec<Metric>,
}

impl Report {
    /// An empty one, which goes to `folder/NAME.json`.
    pub fn new(name: &str, folder: &Path) -> Self {
        Self {
            file: folder.join(format!("{name}.json")),
            metrics: Vec::new(),
        }
    }

    /// A file in the same folder.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.file.with_file_name(name)
    }

    /// A folder beside it, for logs of what is measured.
    ///
    /// # Errors
    /// When it cannot be made.
    #[cfg(feature = "replicator")]
    pub fn logs(&self, name: &str) -> Result<PathBuf> {
        let folder = self.beside(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// Adds a figure.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn add(&mut self, metric: Metric) -> Result<()> {
        self.metrics.push(metric);
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(&self.file, self.json()?).with_context(|| format!("cannot write {}", self.file.display()))
    }

    fn json(&self) -> Result<Vec<u8>> {
        let metrics: Vec<Written<'_>> = self
            .metrics
            .iter()
            .map(|metric| Written {
                name: &metric.name,
                ours: metric.ours,
                peer: metric.peer,
                ratio: metric.ratio,
                unit: metric.unit,
                bound: metric.bound.to_string(),
                met: metric.met(),
            })
            .collect();
        Ok(serde_json::to_vec_pretty(&serde_json::json!({ "metrics": metrics }))?)
    }

    /// Whether there is a figure, and every one meets its bound.
    pub fn met(&self) -> bool {
        !self.metrics.is_empty() && self.metrics.iter().all(Metric::met)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.metrics.iter().map(|m| m.name.chars().count()).max().unwrap_or(0);
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        writeln!(
            f,
            "{:<width$}  {:>12}  {:>12}  {:>8}  {:<8} {:>8}",
            "figure", "ours", "peer", "ratio", "unit", "bound"
        )?;
        for metric in &self.metrics {
            let verdict = match (metric.bound, metric.met()) {
                (Bound::Reported, _) => "",
                (_, true) => "met",
                (_, false) => "NOT MET",
            };
            let row = format!(
                "{:<width$}  {:>12}  {:>12}  {:>8}  {:<8} {:>8}  {verdict}",
                metric.name,
                number(Some(metric.ours)),
                number(metric.peer),
                number(metric.ratio),
                metric.unit,
                metric.bound,
            );
            writeln!(f, "{}", row.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn against(ratio: f64, most: f64) -> Metric {
        Metric {
            name: "lay down".to_owned(),
            ours: 1.0,
            peer: Some(2.0),
            ratio: Some(ratio),
            unit: "s",
            bound: Bound::RatioAtMost(most),
        }
    }

    #[test]
    fn a_bound_is_met_at_its_edge_and_not_beyond() {
        assert!(against(0.7, 0.7).met() && !against(0.71, 0.7).met());
        let rate = |ratio| Metric {
            bound: Bound::RatioAtLeast(1.0),
            ..against(ratio, 0.0)
        };
        assert!(rate(1.0).met() && !rate(0.99).met());
        assert!(Metric::own("rss", 250.0, "MiB", Bound::AtMost(250.0)).met());
        assert!(!Metric::own("rate", 999.0, "1/s", Bound::AtLeast(1000.0)).met());
        assert!(!Metric::own("nothing", f64::NAN, "s", Bound::AtMost(1.0)).met());
        assert!(Metric::own("told", 9.0, "s", Bound::Reported).met());
    }

    #[test]
    fn a_report_without_figures_proves_nothing() {
        assert!(!Report::new("x", Path::new("/nowhere")).met());
    }

    #[test]
    fn the_file_has_every_field_and_grows_with_each_figure() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new("operator", folder.path());
        report.add(against(0.5, 0.7)).unwrap();
        report
            .add(Metric::own("rss", 300.0, "MiB", Bound::AtMost(250.0)))
            .unwrap();
        let written: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.path().join("operator.json")).unwrap()).unwrap();
        assert_eq!(
            written["metrics"][0],
            serde_json::json!({"name": "lay down", "ours": 1.0, "peer": 2.0, "ratio": 0.5, "unit": "s", "bound": "≤ 0.7×", "met": true})
        );
        assert_eq!(written["metrics"][1]["met"], false);
        assert!(!report.met());
        let table = report.to_string();
        assert!(table.contains("NOT MET") && table.lines().count() == 3, "{table}");
    }
}
