//! Questions to the policy and its answers.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::edge::CompiledEdge;
use crate::names::{RegionName, TenantId};
use crate::rule::{Denial, Rule};
use crate::vocabulary::{DataClass, Purpose};

/// May this go there, now?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Whose data.
    pub tenant: TenantId,
    /// What.
    pub class: DataClass,
    /// What for.
    pub purpose: Purpose,
    /// Where to.
    pub to: RegionName,
    /// The fields that would go. None: asks about the edge as such.
    pub fields: BTreeSet<String>,
    /// At what moment.
    pub now: Timestamp,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Decision {
    /// It may.
    Allow {
        /// Along this edge.
        edge: Box<CompiledEdge>,
        /// On these grounds, all of which hold.
        grounds: Vec<Ground>,
    },
    /// It may not.
    Deny {
        /// The rule that refuses.
        rule: Rule,
        /// In words.
        reason: String,
        /// The article that the rule rests on.
        #[serde(skip_serializing_if = "Option::is_none")]
        article: Option<&'static str>,
    },
}

impl Decision {
    /// True when it may.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// The rule that refuses, if it may not.
    #[must_use]
    pub const fn refused_by(&self) -> Option<Rule> {
        match self {
            Self::Allow { .. } => None,
            Self::Deny { rule, .. } => Some(*rule),
        }
    }
}

impl From<Denial> for Decision {
    fn from(Denial { rule, reason, article }: Denial) -> Self {
        Self::Deny { rule, reason, article }
    }
}

/// Something that holds and that a permission rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ground {
    /// What kind of ground: `parties`, `importer`, `mechanism`, `assessment`, `certification`, `art9-condition`, `consent`,
    /// `purpose` (of a question), `purposes` (of an edge), `lawful-basis`, `fields`, `validity`, `onward`.
    pub kind: &'static str,
    /// In words.
    pub sentence: String,
}

/// Why an edge is allowed or refused, check by check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whose data.
    pub tenant: TenantId,
    /// What.
    pub class: DataClass,
    /// From where.
    pub from: RegionName,
    /// Where to.
    pub to: RegionName,
    /// True when every check passed.
    pub lawful: bool,
    /// Until when, if lawful.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// In the order they were made.
    pub checks: Vec<Check>,
}

/// One check of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Check {
    /// It holds.
    Holds(Ground),
    /// It refuses.
    Refuses(Denial),
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.lawful { "allowed" } else { "refused" };
        writeln!(
            f,
            "{} of {} from {} to {}: {verdict}",
            self.class, self.tenant, self.from, self.to
        )?;
        for check in &self.checks {
            match check {
                Check::Holds(ground) => writeln!(f, "  holds    {}: {}", ground.kind, ground.sentence)?,
                Check::Refuses(denial) => {
                    write!(f, "  refuses  {}: {}", denial.rule, denial.reason)?;
                    match denial.article {
                        Some(article) => writeln!(f, " ({article})")?,
                        None => writeln!(f)?,
                    }
                }
            }
        }
        Ok(())
    }
}
