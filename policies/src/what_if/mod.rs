//! What would change if something were so: "the adequacy decision for us is annulled", "this party loses its certificate".

mod error;
mod hypothesis;
mod suppose;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

pub use error::WhatIfError;
pub use hypothesis::{Hypothesis, WhatIf};

use crate::catalogue::{Catalogue, TransferableFields};
use crate::compile::compile_with;
use crate::diff::{EdgeChange, Effect, PolicyDiff};
use crate::names::{PartyName, RegionName, TenantId};
use crate::source::PolicySource;
use crate::vocabulary::DataClass;

/// What would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WhatIfAnswer {
    /// What is supposed.
    pub hypotheses: Vec<Hypothesis>,
    /// The moment at which the policy is looked at as it is.
    pub before: Timestamp,
    /// The moment at which it is looked at as it would be.
    pub after: Timestamp,
    /// Which way the whole goes.
    pub effect: Effect,
    /// Whom it concerns, by the legal entity that imports.
    pub importers: Vec<ImporterImpact>,
    /// Everything that would differ.
    pub diff: PolicyDiff,
}

/// What would change for one importer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImporterImpact {
    /// The legal entity.
    pub importer: PartyName,
    /// Its regions that are concerned.
    pub regions: BTreeSet<RegionName>,
    /// The tenants whose data is concerned.
    pub tenants: BTreeSet<TenantId>,
    /// The classes that are concerned.
    pub classes: BTreeSet<DataClass>,
    /// The edges, each with what refuses or allows it, and on what article.
    pub edges: Vec<EdgeChange>,
}

/// What would change in `source` if `asked` were so.
///
/// Both are looked at as they stand at `now`, or, where a hypothesis comes true only later (an instrument that expires then,
/// a mechanism in force from then on), at the last such moment, so that only the hypotheses make a difference. With `asOf` the policy of `now` is compared with what remains of it at that moment.
///
/// # Errors
/// [`WhatIfError`], when a hypothesis is out of bounds or strikes nothing in this policy.
pub fn what_if(source: &PolicySource, asked: &WhatIf, now: Timestamp) -> Result<WhatIfAnswer, WhatIfError> {
    what_if_with(source, &Catalogue::embedded().transferable(), asked, now)
}

/// Like [`what_if`], with another catalogue's fields.
///
/// # Errors
/// As there.
pub fn what_if_with(
    source: &PolicySource,
    fields: &TransferableFields,
    asked: &WhatIf,
    now: Timestamp,
) -> Result<WhatIfAnswer, WhatIfError> {
    asked.bounded()?;
    let mut supposed = source.clone();
    for (number, hypothesis) in asked.hypotheses.iter().enumerate() {
        suppose::suppose(&mut supposed, number, hypothesis, now)?;
    }
    let (before, after) = moments(&asked.hypotheses, now);
    let diff = compile_with(source, fields.clone(), before).diff(&compile_with(&supposed, fields.clone(), after));
    Ok(WhatIfAnswer {
        hypotheses: asked.hypotheses.clone(),
        before,
        after,
        effect: diff.effect(),
        importers: by_importer(&diff.edges),
        diff,
    })
}

fn moments(hypotheses: &[Hypothesis], now: Timestamp) -> (Timestamp, Timestamp) {
    let as_of = hypotheses.iter().find_map(|hypothesis| match hypothesis {
        Hypothesis::AsOf { moment } => Some(*moment),
        _ => None,
    });
    let later = hypotheses.iter().filter_map(|hypothesis| match hypothesis {
        Hypothesis::InstrumentExpires { on, .. } => Some(*on),
        Hypothesis::MechanismOffered { effective_from, .. } => *effective_from,
        _ => None,
    });
    match as_of {
        Some(moment) => (now, moment),
        None => {
            let then = later.fold(now, Timestamp::max);
            (then, then)
        }
    }
}

fn by_importer(edges: &[EdgeChange]) -> Vec<ImporterImpact> {
    let mut importers: BTreeMap<&PartyName, ImporterImpact> = BTreeMap::new();
    for change in edges {
        let impact = importers.entry(&change.importer).or_insert_with(|| ImporterImpact {
            importer: change.importer.clone(),
            regions: BTreeSet::new(),
            tenants: BTreeSet::new(),
            classes: BTreeSet::new(),
            edges: Vec::new(),
        });
        impact.regions.insert(change.to.clone());
        impact.tenants.insert(change.tenant.clone());
        impact.classes.insert(change.class);
        impact.edges.push(change.clone());
    }
    importers.into_values().collect()
}

impl fmt::Display for WhatIfAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.importers.is_empty() {
            writeln!(f, "no edge changes")?;
        }
        for impact in &self.importers {
            writeln!(
                f,
                "{}: {} edge(s), {} tenant(s), {} class(es)",
                impact.importer,
                impact.edges.len(),
                impact.tenants.len(),
                impact.classes.len()
            )?;
            for line in impact.edges.iter().flat_map(|change| {
                let lines: Vec<String> = change.to_string().lines().map(str::to_owned).collect();
                lines
            }) {
                writeln!(f, "  {line}")?;
            }
        }
        self.diff
            .tenants
            .iter()
            .try_for_each(|change| writeln!(f, "{change}"))?;
        self.diff.classes.iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}
