//! The plan for people.

use std::fmt;

use super::admit::{Refusal, ResourceRow};
use super::clusters::{ClusterRow, CopyRow};
use super::edges::{EdgeChange, EdgeRow};
use super::fields::FieldChange;
use super::{Action, PlanReport, Verdict};

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ON THE HUB")?;
        let width = widest(self.resources.iter().map(|row| row.kind.len() + row.name.len() + 1));
        for row in &self.resources {
            resource(f, row, width)?;
        }
        for name in &self.passed_over {
            writeln!(f, "    {name}: not of this platform, passed over")?;
        }
        writeln!(f, "\nEDGES")?;
        if self.edges.is_empty() {
            writeln!(f, "  none would change")?;
        }
        let width = widest(self.edges.iter().map(|row| row.edge.as_str().len()));
        for row in &self.edges {
            edge(f, row, width)?;
        }
        if !self.needs_approval.is_empty() {
            writeln!(
                f,
                "\nNEEDS APPROVAL BY ANOTHER PERSON, where the hub requires it (kubectl meridian approve)"
            )?;
        }
        for opens in &self.needs_approval {
            writeln!(f, "  + {opens}")?;
        }
        for row in &self.clusters {
            cluster(f, row)?;
        }
        writeln!(f, "\n{}", summary(self))
    }
}

fn widest(lengths: impl Iterator<Item = usize>) -> usize {
    lengths.max().unwrap_or_default()
}

const fn sign(action: Action) -> char {
    match action {
        Action::Created => '+',
        Action::Changed => '~',
        Action::Unchanged => ' ',
        Action::Removed => '-',
        Action::Refused => '!',
    }
}

const fn word(action: Action) -> &'static str {
    match action {
        Action::Created => "created",
        Action::Changed => "changed",
        Action::Unchanged => "unchanged",
        Action::Removed => "removed",
        Action::Refused => "REFUSED",
    }
}

fn resource(f: &mut fmt::Formatter<'_>, row: &ResourceRow, width: usize) -> fmt::Result {
    let name = format!("{} {}", row.kind, row.name);
    writeln!(f, "  {} {name:<width$}   {}", sign(row.action), word(row.action))?;
    for found in &row.refusals {
        refusal(f, found)?;
    }
    // A new resource is in the file for all to see, and of a refused one nothing comes.
    if row.action == Action::Changed {
        fields(f, &row.fields)?;
    }
    Ok(())
}

fn refusal(f: &mut fmt::Formatter<'_>, refusal: &Refusal) -> fmt::Result {
    match &refusal.path {
        Some(path) => writeln!(f, "      {} at {path}", refusal.rule)?,
        None => writeln!(f, "      {}", refusal.rule)?,
    }
    writeln!(f, "        {}", refusal.message)?;
    match refusal.what_to_do {
        Some(what_to_do) => writeln!(f, "        what to do: {what_to_do}"),
        None => Ok(()),
    }
}

fn fields(f: &mut fmt::Formatter<'_>, fields: &[FieldChange]) -> fmt::Result {
    fields.iter().try_for_each(|field| writeln!(f, "      {field}"))
}

fn edge(f: &mut fmt::Formatter<'_>, row: &EdgeRow, width: usize) -> fmt::Result {
    let (sign, word) = match row.change {
        EdgeChange::Opened => ('+', "opened"),
        EdgeChange::Changed => ('~', "changed"),
        EdgeChange::Cut => ('-', "cut"),
        EdgeChange::Refused => ('!', "REFUSED"),
    };
    let why = match (&row.lawful_by, row.expires, &row.refused_by) {
        (Some(lawful_by), Some(expires), _) => format!("lawful by {lawful_by}, until {expires}"),
        (_, _, Some(refusal)) => format!("refused by {}", refusal.rule),
        _ => "nobody asks for it any more".to_owned(),
    };
    writeln!(f, "  {sign} {:<width$}   {word:<7}   {why}", row.edge.as_str())?;
    if let Some(found) = &row.refused_by {
        refusal(f, found)?;
    }
    fields(f, &row.fields)
}

fn cluster(f: &mut fmt::Formatter<'_>, row: &ClusterRow) -> fmt::Result {
    match row.cluster.as_str() {
        "" => writeln!(f, "\nNO CLUSTER (region {})", row.region)?,
        cluster => writeln!(f, "\nIN CLUSTER {cluster} (region {})", row.region)?,
    }
    if let Some(found) = &row.refusal {
        let already = if row.refused_already {
            "so it is already, and the files change nothing there"
        } else {
            "what the files would change there cannot be done or told"
        };
        writeln!(f, "  ! {already}")?;
        refusal(f, found)?;
    }
    let names: Vec<String> = row.copies.iter().map(name).collect();
    let width = widest(names.iter().map(String::len));
    for (copy, name) in row.copies.iter().zip(&names) {
        let under_way = if copy.under_way {
            "   (under way already, whatever the files say)"
        } else {
            ""
        };
        writeln!(
            f,
            "  {} {name:<width$}   {}{under_way}",
            sign(copy.action),
            word(copy.action)
        )?;
        // What goes is known by its name.
        if copy.action != Action::Removed {
            fields(f, &copy.fields)?;
        }
    }
    row.notes.iter().try_for_each(|note| writeln!(f, "    {note}"))
}

fn name(copy: &CopyRow) -> String {
    match &copy.namespace {
        Some(namespace) => format!("{} {namespace}/{}", copy.kind, copy.name),
        None => format!("{} {}", copy.kind, copy.name),
    }
}

fn summary(report: &PlanReport) -> String {
    let copies = || {
        let rows = report.clusters.iter().flat_map(|row| &row.copies);
        rows.filter(|copy| !copy.under_way)
    };
    let count = |action: Action| copies().filter(|copy| copy.action == action).count();
    let members = format!(
        "in the members {} created, {} changed, {} removed",
        count(Action::Created),
        count(Action::Changed),
        count(Action::Removed)
    );
    match report.verdict {
        Verdict::NoChange => "Nothing would change.".to_owned(),
        Verdict::Changes => format!("Would change: {members}. Nothing was written."),
        Verdict::Refused => format!("REFUSED, see above; of the rest: {members}. Nothing was written."),
    }
}
