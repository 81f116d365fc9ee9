//! `kubectl meridian incidents`: what was found, and whom the laws concerned want to be told by when. [`report`] is pure.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use meridian_crds::{ClockState, LegalClock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::status::Condition;
use super::status::read::{each, ready};
use super::table::Table;
use crate::manifest::PRIVACY_INCIDENT;
use crate::watch::Cache;

/// The incidents and their clocks.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentsReport {
    /// By name.
    pub incidents: Vec<IncidentRow>,
    /// At which time is left what the clocks have left.
    pub at: Timestamp,
}

/// A PrivacyIncident.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentRow {
    /// Its name.
    pub incident: String,
    /// Where it was found.
    pub region: String,
    /// What kind of thing.
    pub kind: String,
    /// Whose data; empty where that is not known.
    pub tenants: Vec<String>,
    /// Where it stands.
    pub phase: String,
    /// How many rows or things were found when it was opened.
    pub found: u64,
    /// How many the verifier still finds; none where it has not said.
    pub still_found: Option<u64>,
    /// Notices that are owed.
    pub owed: Option<u64>,
    /// The first deadline of those.
    pub next_due: Option<Timestamp>,
    /// Whether it is closed and nothing owed, and what is waited for.
    pub ready: Condition,
    /// One for each notice that a law demands.
    pub clocks: Vec<LegalClock>,
}

/// The incidents that the hub holds; `all`: also those that are closed.
#[must_use]
pub fn report(hub: &Cache, all: bool, now: Timestamp) -> IncidentsReport {
    let mut incidents = rows(hub);
    incidents.retain(|row| all || row.is_open());
    IncidentsReport { incidents, at: now }
}

pub(super) fn rows(hub: &Cache) -> Vec<IncidentRow> {
    each(hub, PRIVACY_INCIDENT)
        .map(|(name, object)| row(name, &object))
        .collect()
}

fn row(name: String, object: &Value) -> IncidentRow {
    let (spec, status) = (&object["spec"], &object["status"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    IncidentRow {
        incident: name,
        region: text(&spec["region"]),
        kind: text(&spec["kind"]),
        tenants: list(&spec["tenants"]).iter().map(text).collect(),
        phase: text(&status["phase"]),
        found: list(&spec["found"])
            .iter()
            .filter_map(|one| one["count"].as_u64())
            .sum(),
        still_found: status["stillFound"].as_u64(),
        owed: status["owed"].as_u64(),
        next_due: status["nextDue"].as_str().and_then(|due| due.parse().ok()),
        ready: ready(object),
        clocks: list(&status["clocks"])
            .iter()
            .filter_map(|clock| LegalClock::deserialize(clock).ok())
            .collect(),
    }
}

impl IncidentRow {
    /// Whether somebody has something to do about it. One that the hub has not looked at counts as open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.ready.status != "True"
    }
}

impl IncidentsReport {
    /// Whether none is open.
    #[must_use]
    pub fn is_well(&self) -> bool {
        !self.incidents.iter().any(IncidentRow::is_open)
    }
}

/// One line for each incident.
pub(super) fn table(title: &'static str, rows: &[IncidentRow]) -> Table {
    let columns = [
        "INCIDENT", "REGION", "KIND", "TENANTS", "FOUND", "STILL", "PHASE", "OWED", "NEXT DUE",
    ];
    let mut table = Table::new(title, &columns);
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    for row in rows {
        table.row([
            row.incident.clone(),
            row.region.clone(),
            row.kind.clone(),
            row.tenants.join(","),
            row.found.to_string(),
            number(row.still_found),
            row.phase.clone(),
            number(row.owed),
            row.next_due.map(|due| due.to_string()).unwrap_or_default(),
        ]);
    }
    table
}

/// What is left, in the largest unit that tells something.
fn left(clock: &LegalClock, now: Timestamp) -> String {
    let span = |left: SignedDuration| match left.as_hours() {
        0 => format!("{} min", left.as_mins()),
        hours if hours < 72 => format!("{hours} h"),
        hours => format!("{} days", hours / 24),
    };
    match clock
        .due
        .filter(|_| clock.state.is_owed())
        .map(|due| due.duration_since(now))
    {
        None => String::new(),
        Some(left) if left.is_positive() => span(left),
        Some(left) => format!("{} over", span(left.abs())),
    }
}

impl fmt::Display for IncidentsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", table("INCIDENTS", &self.incidents))?;
        let columns = [
            "INCIDENT",
            "LAW",
            "NOTICE",
            "RECIPIENT",
            "DUE",
            "LEFT",
            "STATE",
            "ARTICLE",
        ];
        let mut clocks = Table::new("LEGAL CLOCKS", &columns);
        for (row, clock) in self
            .incidents
            .iter()
            .flat_map(|row| row.clocks.iter().map(move |clock| (row, clock)))
        {
            let due = match (clock.due, clock.state) {
                (Some(due), _) => due.to_string(),
                (None, ClockState::AtOnce) => clock.term.clone(),
                (None, _) => String::new(),
            };
            clocks.row([
                row.incident.clone(),
                clock.jurisdiction.to_string(),
                clock.notice.clone(),
                clock.recipient.clone(),
                due,
                left(clock, self.at),
                format!("{:?}", clock.state),
                clock.article.clone(),
            ]);
        }
        writeln!(f, "{clocks}")?;
        match self.incidents.iter().filter(|row| row.is_open()).count() {
            0 => writeln!(f, "No incident is open."),
            1 => writeln!(f, "1 incident is open: docs/compliance.md says what to do."),
            open => writeln!(f, "{open} incidents are open: docs/compliance.md says what to do."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::ObjectKey;
    use crate::plugin::world::{condition, now};
    use serde_json::json;

    fn clock(law: &str, notice: &str, due: Option<&str>, state: &str) -> Value {
        json!({"jurisdiction": law, "notice": notice, "to": "Authority", "recipient": "the authority", "term": "without undue delay",
            "article": "GDPR Art 33(1)", "started": "2026-11-26T11:00:00Z", "due": due, "state": state})
    }

    fn hub() -> Cache {
        let hub = Cache::default();
        let incidents = [
            (
                "us.stride-eu.20261126t110000z",
                "Open",
                "False",
                "NoticesOwed",
                json!([
                    clock("eu", "authority", Some("2026-11-29T11:00:00Z"), "Running"),
                    clock("eu", "subjects", None, "AtOnce"),
                    clock("in", "cert-in", Some("2026-11-26T11:30:00Z"), "Overdue"),
                ]),
            ),
            (
                "us.20261001t110000z",
                "Closed",
                "True",
                "Closed",
                json!([clock("us", "ftc", None, "NotOwed")]),
            ),
        ];
        for (name, phase, ready, reason, clocks) in incidents {
            let object = json!({"metadata": {"name": name, "generation": 1},
                "spec": {"region": "us", "kind": "DataOutOfPlace", "tenants": ["stride-eu"], "found": [{"count": 2}, {"count": 3}]},
                "status": {"phase": phase, "owed": 3, "nextDue": "2026-11-26T11:30:00Z", "stillFound": 5, "clocks": clocks,
                    "conditions": [condition("Ready", ready, reason, "a person has to give notice")]}});
            hub.put(
                ObjectKey::cluster(PRIVACY_INCIDENT, name),
                serde_json::from_value(object).unwrap(),
            );
        }
        hub
    }

    #[test]
    fn open_incidents_are_told_with_their_clocks_and_closed_ones_when_asked() {
        let open = report(&hub(), false, now());
        assert!(!open.is_well());
        insta::assert_snapshot!("open", open.to_string());
        assert_eq!(report(&hub(), true, now()).incidents.len(), 2);
    }

    #[test]
    fn a_hub_without_incidents_says_so() {
        let none = report(&Cache::default(), true, now());
        assert!(none.is_well());
        assert_eq!(
            none.to_string(),
            "INCIDENTS\n  none\n\nLEGAL CLOCKS\n  none\n\nNo incident is open.\n"
        );
    }
}
