//! The PrivacyIncidents that a report asks for: one for each edge along which something went that was not declared.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meridian_evidence::report::{Report, Violation};
use meridian_policy::{DataClass, EdgeId, TenantId};
use serde_json::{Value, json};

/// The manifests, as one List. Their names come from the first entry that shows each, so that a later report of the same
/// chain names what was opened before alike. No edge that is none is named: what is written there stays in the export.
pub(super) fn manifests(report: &Report, now: Timestamp) -> Value {
    let mut edges: BTreeMap<(&str, &str), Vec<&Violation>> = BTreeMap::new();
    for violation in &report.violations {
        edges
            .entry((&violation.edge, &violation.chain))
            .or_default()
            .push(violation);
    }
    let items: Vec<Value> = edges
        .into_iter()
        .map(|((edge, chain), violations)| incident(report, edge, chain, &violations, now))
        .collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn incident(report: &Report, edge: &str, chain: &str, violations: &[&Violation], now: Timestamp) -> Value {
    let edge = edge.parse::<EdgeId>().ok();
    let tenant = edge.as_ref().and_then(|edge| edge.tenant().parse::<TenantId>().ok());
    let class = edge
        .as_ref()
        .and_then(|edge| edge.as_str().split('.').nth(1)?.parse::<DataClass>().ok());
    let first = violations
        .iter()
        .map(|violation| violation.entry)
        .min()
        .unwrap_or_default();
    let service = chain.rsplit('/').next().unwrap_or_default();
    let of = tenant.iter().map(|tenant| format!(".{tenant}")).collect::<String>();
    json!({
        "apiVersion": "meridian.sh/v1alpha1", "kind": "PrivacyIncident",
        "metadata": {"name": format!("{}{of}.{service}-{first}", report.region)},
        "spec": {
            "region": report.region, "kind": "UndeclaredFlow",
            "detectedAt": Timestamp::from_second(now.as_second()).unwrap_or(now),
            "tenants": tenant.into_iter().collect::<Vec<_>>(),
            "found": [{
                "check": "undeclared-flow", "place": edge.map_or_else(|| chain.to_owned(), String::from),
                "classes": class.into_iter().collect::<Vec<_>>(), "count": violations.len(),
            }],
            "evidence": {"revision": report.compared_with.unwrap_or_default(), "checkpoints": [format!("{chain}@{first}")]},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_crds::PrivacyIncident;
    use meridian_evidence::report::Observed;
    use serde::Deserialize as _;

    fn violation(edge: &str, entry: u64) -> Violation {
        Violation {
            chain: "eu/replicator".to_owned(),
            entry,
            edge: edge.to_owned(),
            what: "copies left along an edge that was never opened".to_owned(),
        }
    }

    #[test]
    fn each_edge_is_one_incident_that_is_named_by_the_first_entry_that_shows_it() {
        let mut report = Observed::default().report("eu", None);
        let edge = "stride-eu.workout-summary.us";
        report.violations = vec![violation(edge, 9), violation(edge, 4), violation("somebody's name", 5)];
        let list = manifests(&report, Timestamp::UNIX_EPOCH);
        let incidents: Vec<PrivacyIncident> = Vec::deserialize(&list["items"]).unwrap();
        let names: Vec<_> = incidents.iter().map(|one| one.metadata.name.clone().unwrap()).collect();
        assert_eq!(names, ["eu.replicator-5", "eu.stride-eu.replicator-4"]);
        assert_eq!(incidents[1].spec.found[0].count, 2);
        assert!(!list.to_string().contains("somebody"));
    }
}
