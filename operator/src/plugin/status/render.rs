//! The status for people.

use std::fmt;

use super::{Condition, MemberRow, StatusReport};
use crate::plugin::incidents;
use crate::plugin::table::{Table, short};

/// Messages in a sentence of their own may be long; in a line of the list below the tables they are cut here.
const SENTENCE: usize = 400;

fn number(value: Option<impl fmt::Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn seconds(value: Option<i64>) -> String {
    value.map(|value| format!("{value}s")).unwrap_or_default()
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", regions(self))?;
        if let Some(rows) = &self.members {
            writeln!(f, "{}", members(rows))?;
        }
        writeln!(f, "{}", tenants(self))?;
        writeln!(f, "{}", pools(self))?;
        writeln!(f, "{}", violations(self))?;
        writeln!(f, "{}", incidents::table("OPEN INCIDENTS", &self.incidents))?;
        writeln!(f, "{}", closing(self))?;
        if self.well {
            let of_members = if self.members.is_some() {
                ""
            } else {
                "; the members were not asked"
            };
            return writeln!(f, "Everything is Ready{of_members}.");
        }
        writeln!(f, "NOT AS IT SHOULD BE")?;
        for sentence in &self.wrong {
            writeln!(f, "  {}", short(sentence, SENTENCE))?;
        }
        Ok(())
    }
}

fn regions(report: &StatusReport) -> Table {
    let mut table = Table::new(
        "REGIONS",
        &[
            "REGION",
            "JURISDICTION",
            "READY",
            "REASON",
            "CLUSTERS",
            "REVISION",
            "APPLIED",
        ],
    );
    for row in &report.regions {
        table.row([
            row.region.clone(),
            row.jurisdiction.clone(),
            row.ready.status.clone(),
            row.ready.reason.clone(),
            row.clusters.clone(),
            number(row.revision),
            number(row.applied_revision),
        ]);
    }
    table
}

fn members(rows: &[MemberRow]) -> Table {
    let mut table = Table::new(
        "POLICY IN THE MEMBERS",
        &[
            "REGION",
            "CLUSTER",
            "LEASE",
            "VOUCHES FOR",
            "RENEWED",
            "VALID FOR",
            "FRESH",
        ],
    );
    for row in rows {
        let fresh = |fresh: &Condition| fresh.status.clone();
        table.row([
            row.region.clone(),
            row.cluster.clone(),
            format!("{:?}", row.lease),
            number(row.vouched_revision),
            row.renewed_seconds_ago
                .map(|age| format!("{age}s ago"))
                .unwrap_or_default(),
            seconds(row.valid_for_seconds),
            row.policy_fresh.as_ref().map(fresh).unwrap_or_default(),
        ]);
    }
    table
}

fn tenants(report: &StatusReport) -> Table {
    let mut table = Table::new(
        "TENANTS",
        &["TENANT", "HOME", "READY", "PHASE", "EPOCH", "EDGES", "REFUSED"],
    );
    for row in &report.tenants {
        table.row([
            row.tenant.clone(),
            row.home.clone(),
            row.ready.status.clone(),
            row.phase.clone(),
            number(row.epoch),
            number(row.edges_allowed),
            number(row.edges_refused),
        ]);
    }
    table
}

fn pools(report: &StatusReport) -> Table {
    let mut table = Table::new(
        "INGEST POOLS",
        &["POOL", "REGION", "READY", "REPLICAS", "DESIRED", "LAG", "CAPPED BY"],
    );
    for row in &report.pools {
        table.row([
            row.pool.clone(),
            row.region.clone(),
            row.ready.status.clone(),
            number(row.replicas),
            number(row.desired),
            number(row.lag),
            row.capped_by.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn violations(report: &StatusReport) -> Table {
    let mut table = Table::new("VIOLATIONS", &["TENANT", "RULE", "FIELD"]);
    for row in &report.violations {
        table.row([row.tenant.clone(), row.rule.clone(), row.path.clone()]);
    }
    table
}

fn closing(report: &StatusReport) -> Table {
    let mut table = Table::new(
        format!("EDGES CLOSING WITHIN {} DAYS", report.closing_within_days),
        &["EDGE", "FROM", "CLOSES", "DAYS LEFT", "THEN REFUSED BY", "LAWFUL BY"],
    );
    for row in &report.closing {
        table.row([
            row.edge.clone(),
            row.from.clone(),
            row.expires.to_string(),
            row.days_left.to_string(),
            row.ends_with.clone(),
            row.instrument.clone(),
        ]);
    }
    table
}
