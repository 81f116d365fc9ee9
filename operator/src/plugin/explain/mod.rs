//! `kubectl meridian explain`: why data of a class may or may not go from one region to another. [`report`] is pure.

mod advice;

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use meridian_policy::{
    Check, DataClass, EdgeId, InvalidName, Purpose, RegionName, TenantId, TenantResidencySpec, compile,
};
use serde::{Deserialize, Serialize};

use super::PluginError;
use crate::apply::observed;
use crate::finalizer;
use crate::hub::source::{self, Departing};
use crate::manifest::{FITNESS_REGION, Kind, ObjectKey, TENANT_DATA_RESIDENCY};
use crate::watch::Cache;

pub use advice::advice;

/// What is asked, as it was typed.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Whose data.
    pub tenant: String,
    /// What.
    pub class: String,
    /// From where.
    pub from: String,
    /// Where to.
    pub to: String,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whose data.
    pub tenant: TenantId,
    /// What.
    pub class: DataClass,
    /// From where.
    pub from: RegionName,
    /// Where to.
    pub to: RegionName,
}

impl Asked {
    /// The question, before anybody is asked.
    ///
    /// # Errors
    /// [`PluginError::Word`] says which word is none, and what is allowed.
    pub fn parse(&self) -> Result<Question, PluginError> {
        Ok(Question {
            tenant: word("TENANT", &self.tenant)?,
            class: word("CLASS", &self.class)?,
            from: word("FROM", &self.from)?,
            to: word("TO", &self.to)?,
        })
    }
}

fn word<T: FromStr<Err = InvalidName>>(argument: &str, text: &str) -> Result<T, PluginError> {
    text.parse()
        .map_err(|error: InvalidName| PluginError::Word(format!("{argument}: {error}")))
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainReport {
    /// Whose data.
    pub tenant: TenantId,
    /// What.
    pub class: DataClass,
    /// From where.
    pub from: RegionName,
    /// Where to.
    pub to: RegionName,
    /// Every check passed.
    pub lawful: bool,
    /// Until when, if lawful.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// In the order they were made.
    pub checks: Vec<CheckRow>,
    /// What is asked besides, at each delivery, where the data is.
    pub at_each_delivery: Vec<String>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckRow {
    /// Whether it holds.
    pub holds: bool,
    /// What holds, or the rule that refuses.
    pub check: String,
    /// In a sentence.
    pub why: String,
    /// The article that the rule rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub article: Option<&'static str>,
    /// What would change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_to_do: Option<&'static str>,
}

impl From<Check> for CheckRow {
    fn from(check: Check) -> Self {
        match check {
            Check::Holds(ground) => Self {
                holds: true,
                check: ground.kind.to_owned(),
                why: ground.sentence,
                article: None,
                what_to_do: None,
            },
            Check::Refuses(denial) => Self {
                holds: false,
                check: denial.rule.to_string(),
                why: denial.reason,
                article: denial.article,
                what_to_do: Some(advice(denial.rule)),
            },
        }
    }
}

/// Asks the policy as the hub compiles it from its resources at `now`. What only members know (epochs, keys) has no part in
/// whether an edge is lawful. Pure.
///
/// # Errors
/// When the hub has no such tenant or region.
pub fn report(hub: &Cache, question: &Question, now: Timestamp) -> Result<ExplainReport, PluginError> {
    let source = source::as_written(hub);
    let Question {
        tenant,
        class,
        from,
        to,
    } = question;
    if !source.tenants.contains_key(tenant) {
        return Err(unknown(hub, "tenant", TENANT_DATA_RESIDENCY, tenant.as_str()));
    }
    for region in [from, to] {
        if !source.regions.contains_key(region) {
            return Err(unknown(hub, "region", FITNESS_REGION, region.as_str()));
        }
    }
    let policy = compile(&source, now);
    let mut explained = policy.explain(tenant, *class, from, to, now);
    let closed = departing(hub, question);
    explained.lawful &= closed.is_none();
    let edge = policy
        .edge(&EdgeId::new(tenant, *class, to))
        .filter(|_| explained.lawful);
    let mut at_each_delivery = Vec::new();
    if let Some(edge) = edge {
        at_each_delivery.push(format!("the policy's lease holds in {from}"));
        if edge.needs_consent {
            let purposes: Vec<&str> = edge
                .purposes
                .iter()
                .filter(|purpose| purpose.needs_consent())
                .map(|purpose: &Purpose| purpose.as_str())
                .collect();
            at_each_delivery.push(format!(
                "the data subject's consent stands, as the consent service of {from} confirms ({})",
                purposes.join(", ")
            ));
        }
    }
    Ok(ExplainReport {
        tenant: tenant.clone(),
        class: *class,
        from: from.clone(),
        to: to.clone(),
        lawful: explained.lawful,
        expires: explained.expires.filter(|_| explained.lawful),
        checks: closed
            .into_iter()
            .chain(explained.checks.into_iter().map(CheckRow::from))
            .collect(),
        at_each_delivery,
    })
}

/// Whoever is being deleted sends and receives nothing, whatever the law allows.
fn departing(hub: &Cache, question: &Question) -> Option<CheckRow> {
    let key = ObjectKey::cluster(TENANT_DATA_RESIDENCY, question.tenant.as_str());
    let object = observed(hub.get(&key)?.as_ref());
    let spec = TenantResidencySpec::deserialize(&object["spec"]).ok()?;
    let departing = Departing::of(hub);
    let who = if finalizer::is_deleting(&object) {
        format!("tenant {}", question.tenant)
    } else if departing.regions.contains(&question.to) {
        format!("region {}", question.to)
    } else if departing.receives_nothing(&spec.organization, &question.to) {
        format!("the tenant of {} in {}", spec.organization, question.to)
    } else {
        return None;
    };
    Some(CheckRow {
        holds: false,
        check: "being-deleted".to_owned(),
        why: format!("{who} is being deleted, so that its edges are closed"),
        article: None,
        what_to_do: Some("wait until it is gone; a deletion cannot be called back, only made anew"),
    })
}

/// It is not there, or it cannot be read: then the field is named.
fn unknown(hub: &Cache, what: &'static str, kind: Kind, name: &str) -> PluginError {
    if let Some(object) = hub.get(&ObjectKey::cluster(kind, name)) {
        let cause = super::plan::unreadable(kind, &observed(&object))
            .unwrap_or_else(|| format!("its spec is not that of {what} {name}"));
        return PluginError::Unreadable {
            kind: kind.kind,
            name: name.to_owned(),
            cause,
        };
    }
    PluginError::Unknown {
        what,
        name: name.to_owned(),
        known: hub.of_kind(kind).into_iter().map(|(key, _)| key.name).collect(),
    }
}

impl fmt::Display for ExplainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.lawful, self.expires) {
            (true, Some(expires)) => format!("allowed until {expires}"),
            (true, None) => "allowed".to_owned(),
            (false, _) => "refused".to_owned(),
        };
        writeln!(
            f,
            "{} of {} from {} to {}: {verdict}\n",
            self.class, self.tenant, self.from, self.to
        )?;
        let told = self
            .checks
            .iter()
            .position(|check| !check.holds)
            .map_or(self.checks.len(), |first| first + 1);
        let width = self.checks[..told]
            .iter()
            .map(|check| check.check.len())
            .max()
            .unwrap_or_default();
        for check in &self.checks[..told] {
            let outcome = if check.holds { "holds  " } else { "refuses" };
            writeln!(f, "  {outcome}  {:<width$}  {}", check.check, check.why)?;
            if let Some(article) = check.article {
                writeln!(f, "           {:<width$}  {article}", "law")?;
            }
            if let Some(what_to_do) = check.what_to_do {
                writeln!(f, "           {:<width$}  {what_to_do}", "what to do")?;
            }
        }
        let others: Vec<&str> = self.checks[told..]
            .iter()
            .filter(|check| !check.holds)
            .map(|check| check.check.as_str())
            .collect();
        if !others.is_empty() {
            writeln!(
                f,
                "\nAfter that, {} would refuse too (-o json tells why).",
                others.join(", ")
            )?;
        }
        if !self.at_each_delivery.is_empty() {
            writeln!(f, "\nAt each delivery besides:")?;
            for condition in &self.at_each_delivery {
                writeln!(f, "  {condition}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
