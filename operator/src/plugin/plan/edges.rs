//! Which edges would open, change, close or be refused, and what makes each lawful or refuses it. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use meridian_policy::{CompiledEdge, CompiledPolicy, Denial, EdgeId};
use serde::Serialize;
use serde_json::json;

use super::admit::Refusal;
use super::fields::{FieldChange, changes};
use crate::plugin::explain::advice;

/// What would become of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeChange {
    /// It would carry data, and does not now.
    Opened,
    /// It would carry other fields, for other purposes, on other grounds or for another time.
    Changed,
    /// It would carry nothing any more: the importer's copies are purged.
    Cut,
    /// It is asked for and would carry nothing.
    Refused,
}

/// An edge of the policy as it would be.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeRow {
    /// Its name.
    pub edge: EdgeId,
    /// What would become of it.
    pub change: EdgeChange,
    /// What makes it lawful.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lawful_by: Option<String>,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// What refuses it; none when nobody asks for it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_by: Option<Refusal>,
    /// Which of its terms would change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
}

/// Every edge that differs, in the order of their names.
pub(super) fn edges(before: &CompiledPolicy, after: &CompiledPolicy) -> Vec<EdgeRow> {
    let named: BTreeSet<&EdgeId> = [before, after]
        .into_iter()
        .flat_map(|policy| {
            let open = policy.edges().map(|edge| &edge.id);
            open.chain(policy.refusals().map(|(id, _)| id))
        })
        .collect();
    named.into_iter().filter_map(|id| row(id, before, after)).collect()
}

fn row(id: &EdgeId, before: &CompiledPolicy, after: &CompiledPolicy) -> Option<EdgeRow> {
    let refusal = after.refusals_of(id).first();
    match (before.edge(id), after.edge(id)) {
        (None, Some(new)) => Some(open(EdgeChange::Opened, new, Vec::new())),
        (Some(old), Some(new)) if old != new => {
            let fields = changes("edge", &json!(old), &json!(new));
            Some(open(EdgeChange::Changed, new, fields))
        }
        (Some(_), Some(_)) => None,
        (Some(_), None) => Some(shut(id, EdgeChange::Cut, refusal)),
        // Refused before by the same rule, in the same words: nothing changes.
        (None, None) if before.refusals_of(id).first() == refusal => None,
        (None, None) => refusal.map(|_| shut(id, EdgeChange::Refused, refusal)),
    }
}

fn open(change: EdgeChange, edge: &CompiledEdge, fields: Vec<FieldChange>) -> EdgeRow {
    EdgeRow {
        edge: edge.id.clone(),
        change,
        lawful_by: Some(edge.rule.clone()),
        expires: Some(edge.expires),
        refused_by: None,
        fields,
    }
}

fn shut(id: &EdgeId, change: EdgeChange, refusal: Option<&Denial>) -> EdgeRow {
    EdgeRow {
        edge: id.clone(),
        change,
        lawful_by: None,
        expires: None,
        refused_by: refusal.map(|denial| Refusal {
            rule: denial.rule.to_string(),
            path: None,
            message: match denial.article {
                Some(article) => format!("{} ({article})", denial.reason),
                None => denial.reason.clone(),
            },
            what_to_do: Some(advice(denial.rule)),
        }),
        fields: Vec::new(),
    }
}
