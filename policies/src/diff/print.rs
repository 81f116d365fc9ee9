//! A difference in words, one line each.

use std::fmt;

use super::change::{EdgeChange, EdgeDifference, Effect, FlowChange, PolicyDiff, TenantChange, TenantDifference};
use crate::decision::Check;
use crate::rule::Denial;

/// A refusal with its article.
pub(crate) fn cited(denial: &Denial) -> String {
    match denial.article {
        Some(article) => format!("{denial} ({article})"),
        None => denial.to_string(),
    }
}

/// A check in words.
pub(crate) fn because(check: &Check) -> String {
    match check {
        Check::Holds(ground) => ground.sentence.clone(),
        Check::Refuses(denial) => cited(denial),
    }
}

impl fmt::Display for PolicyDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changes");
        }
        self.tenants.iter().try_for_each(|change| writeln!(f, "{change}"))?;
        self.edges.iter().try_for_each(|change| write!(f, "{change}"))?;
        let flows = self.classes.iter().chain(&self.streams);
        flows.clone().try_for_each(|change| writeln!(f, "{change}"))
    }
}

impl fmt::Display for EdgeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = match &self.difference {
            EdgeDifference::Opened { grounds, .. } => {
                writeln!(f, "edge {} opens ({})", self.edge, self.effect)?;
                grounds.iter().map(|ground| ground.sentence.clone()).collect()
            }
            EdgeDifference::Closed { refused } => {
                writeln!(f, "edge {} closes ({})", self.edge, self.effect)?;
                refused.iter().map(cited).collect()
            }
            EdgeDifference::Changed { aspects } => {
                writeln!(f, "edge {} changes ({})", self.edge, self.effect)?;
                let line = |aspect: &super::AspectChange| {
                    format!(
                        "{} from {} to {} ({}): {}",
                        aspect.aspect,
                        aspect.before,
                        aspect.after,
                        aspect.effect,
                        because(&aspect.because)
                    )
                };
                aspects.iter().map(line).collect()
            }
        };
        lines.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl fmt::Display for TenantChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = |days: &Option<u32>| days.map_or_else(|| "no limit".to_owned(), |days| format!("{days} days"));
        write!(f, "tenant {} ", self.tenant)?;
        match &self.difference {
            TenantDifference::Appeared { home } => write!(f, "appears in {home}"),
            TenantDifference::Gone { home } => write!(f, "is gone from {home}"),
            TenantDifference::Moved { from, to } => write!(f, "moves from {from} to {to}"),
            TenantDifference::ControllerChanged { before, after } => {
                write!(f, "passes from controller {before} to {after}")
            }
            TenantDifference::Opened => write!(f, "opens its first edge"),
            TenantDifference::Closed { .. } => write!(f, "closes its last edge"),
            TenantDifference::Retention { class, before, after } => {
                write!(f, "keeps {class} for {} instead of {}", days(after), days(before))
            }
        }?;
        write!(f, " ({})", self.effect)
    }
}

impl fmt::Display for FlowChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.effect == Effect::Widens {
            "begins"
        } else {
            "ceases"
        };
        match &self.field {
            Some(field) => write!(f, "field {field} of {}", self.class)?,
            None => write!(f, "class {}", self.class)?,
        }
        write!(f, " {verb} to go from {} to {}", self.from, self.to)
    }
}
