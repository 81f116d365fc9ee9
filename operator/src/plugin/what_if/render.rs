//! The answer for people.

use std::fmt;

use meridian_policy::{Effect, Ending, ExpiryWarning, FlowChange};

use super::{EdgeRow, WhatIfReport};
use crate::plugin::table::Table;

impl fmt::Display for WhatIfReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "SUPPOSED")?;
        self.supposed.iter().try_for_each(|what| writeln!(f, "  {what}"))?;
        if self.before == self.after {
            writeln!(f, "  as of {}", self.after)?;
        } else {
            writeln!(f, "  as of {}, against {}", self.after, self.before)?;
        }
        writeln!(f, "\n{}", edges(&self.edges))?;
        if !self.edges.is_empty() {
            writeln!(f, "WHY")?;
            self.edges.iter().try_for_each(|edge| why(f, edge))?;
            writeln!(f)?;
        }
        if !self.tenants.is_empty() {
            writeln!(f, "TENANTS")?;
            self.tenants.iter().try_for_each(|change| writeln!(f, "  {change}"))?;
            writeln!(f)?;
        }
        writeln!(f, "{}", flows("CLASSES", &self.classes))?;
        writeln!(f, "{}", flows("STREAMS", &self.streams))?;
        writeln!(f, "{}", ending(&self.ending))?;
        self.summary(f)
    }
}

impl WhatIfReport {
    fn summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = &self.sum;
        if self.edges.is_empty() {
            return writeln!(f, "No edge would change. Nothing was written.");
        }
        write!(
            f,
            "{} would close, {} open, {} go on otherwise; {} and {} concerned",
            count(sum.close, "edge"),
            sum.open,
            sum.change,
            count(sum.tenants, "tenant"),
            count(sum.classes, "class"),
        )?;
        if sum.close > 0 {
            write!(f, "; of what waits, {} copies would stop", sum.stopped)?;
        }
        if sum.stopped_unknown > 0 {
            write!(f, ", and of {} it is not known", count(sum.stopped_unknown, "edge"))?;
        }
        writeln!(f, ". Nothing was written.")
    }
}

fn count(number: usize, what: &str) -> String {
    match (number, what.ends_with('s')) {
        (1, _) => format!("1 {what}"),
        (_, true) => format!("{number} {what}es"),
        (_, false) => format!("{number} {what}s"),
    }
}

fn edges(rows: &[EdgeRow]) -> Table {
    let header = [
        "EDGE", "WOULD", "TENANT", "CLASS", "FROM", "TO", "IMPORTER", "WAITING", "LAW",
    ];
    let mut table = Table::new("EDGES", &header);
    for row in rows {
        let mut law: Vec<&str> = row.because.iter().filter_map(|check| check.article).collect();
        law.dedup();
        let waiting = match (row.waiting, &row.waiting_unknown) {
            (Some(copies), _) => copies.to_string(),
            (None, Some(_)) => "not reported".to_owned(),
            (None, None) => String::new(),
        };
        table.row([
            row.edge.to_string(),
            row.change.trim_end_matches('s').to_owned(),
            row.tenant.to_string(),
            row.class.to_string(),
            row.from.to_string(),
            row.to.to_string(),
            row.importer.to_string(),
            waiting,
            law.join(", "),
        ]);
    }
    table
}

fn why(f: &mut fmt::Formatter<'_>, edge: &EdgeRow) -> fmt::Result {
    writeln!(f, "  {}", edge.edge)?;
    for check in &edge.because {
        let article = check.article.map(|article| format!(" ({article})")).unwrap_or_default();
        writeln!(f, "    {}: {}{article}", check.check, check.why)?;
        if let Some(what_to_do) = check.what_to_do {
            writeln!(f, "      what to do: {what_to_do}")?;
        }
    }
    match &edge.waiting_unknown {
        Some(why) => writeln!(f, "    what waits there is not known: {why}"),
        None => Ok(()),
    }
}

fn flows(title: &str, changes: &[FlowChange]) -> Table {
    let mut table = Table::new(title, &["CLASS", "FIELD", "FROM", "TO", "WOULD"]);
    for change in changes {
        let would = if change.effect == Effect::Widens {
            "begin to cross"
        } else {
            "cease to cross"
        };
        table.row([
            change.class.to_string(),
            change.field.clone().unwrap_or_else(|| "all".to_owned()),
            change.from.to_string(),
            change.to.to_string(),
            would.to_owned(),
        ]);
    }
    table
}

fn ending(warnings: &[ExpiryWarning]) -> Table {
    let mut table = Table::new("ENDS BY ITSELF WITHIN 60 DAYS", &["WITHIN", "ENDS", "WHAT", "EDGES"]);
    for warning in warnings {
        let what = match &warning.ending {
            Ending::Mechanism {
                from,
                to,
                mechanism,
                instrument,
                ..
            } => format!("{mechanism} '{instrument}' from {from} to {to}"),
            Ending::Certification { party, instrument } => format!("certification of {party} under '{instrument}'"),
            Ending::Assessment { edge } => format!("assessment of {edge}"),
            Ending::Edge { edge } => format!("edge {edge}"),
        };
        table.row([
            format!("{} days", warning.soon.days()),
            warning.ends.to_string(),
            what,
            warning.edges.len().to_string(),
        ]);
    }
    table
}
