//! `meridian evidence report`, as text: one line for each thing, in columns that a spreadsheet reads too.

use std::io::{self, Write};

use jiff::Timestamp;
use meridian_evidence::report::{Flow, Report};

/// Which report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// The transfer register, GDPR chapter V.
    Transfers,
    /// Records of processing, Art 30.
    Art30,
}

const TRANSFERS: [&str; 15] = [
    "direction",
    "edge",
    "tenant",
    "exporter",
    "importer",
    "region",
    "class",
    "purpose",
    "mechanism",
    "instrument",
    "first",
    "last",
    "transfers",
    "copies",
    "bytes",
];
const ACTIVITIES: [&str; 8] = [
    "tenant",
    "purpose",
    "class",
    "recipient",
    "region",
    "safeguard",
    "first",
    "last",
];

pub(super) fn write(out: &mut impl Write, report: &Report, form: Form) -> io::Result<()> {
    let held = report.compared_with.map_or_else(
        || "no policy".to_owned(),
        |revision| format!("the policy of revision {revision}"),
    );
    match form {
        Form::Transfers => {
            writeln!(
                out,
                "# Transfers of {} (GDPR chapter V), as observed, against {held}",
                report.region
            )?;
            row(out, TRANSFERS)?;
            for flow in &report.flows {
                transfer(out, flow)?;
            }
            writeln!(out, "\n# Refused")?;
            row(out, ["edge", "rule", "copies"])?;
            for refused in &report.refusals {
                row(out, [&refused.edge, &refused.rule, &refused.count.to_string()])?;
            }
            writeln!(out, "\n# Deleted because their ground ended")?;
            row(out, ["edge", "copies"])?;
            for (edge, copies) in &report.purged {
                row(out, [edge, &copies.to_string()])?;
            }
        }
        Form::Art30 => {
            writeln!(
                out,
                "# Records of processing of {} (GDPR Art 30), as observed, against {held}",
                report.region
            )?;
            row(out, ACTIVITIES)?;
            for flow in &report.flows {
                activity(out, flow)?;
            }
            writeln!(
                out,
                "\n# Consents, objections (to a purpose) and restrictions (of every one)"
            )?;
            row(out, ["purpose", "class", "granted", "withdrawn", "limited", "lifted"])?;
            for matter in &report.consents {
                let counts = matter.consents;
                let counts = [counts.granted, counts.withdrawn, counts.limited, counts.lifted];
                let [granted, withdrawn, limited, lifted] = counts.map(|count| count.to_string());
                let words = [&matter.purpose, &matter.class].map(|word| if word.is_empty() { "every" } else { word });
                row(out, [words[0], words[1], &granted, &withdrawn, &limited, &lifted])?;
            }
        }
    }
    writeln!(out, "\n# Declared and not observed")?;
    for edge in &report.declared_and_not_observed {
        row(out, [edge])?;
    }
    writeln!(out, "\n# Violations: {}", report.violations.len())?;
    for violation in &report.violations {
        let entry = violation.entry.to_string();
        row(out, [&violation.chain, &entry, &violation.edge, &violation.what])?;
    }
    Ok(())
}

fn transfer(out: &mut impl Write, flow: &Flow) -> io::Result<()> {
    let direction = format!("{:?}", flow.direction).to_lowercase();
    let counts = [flow.transfers, flow.copies, flow.bytes].map(|count| count.to_string());
    let grounds = &flow.grounds;
    let (first, last) = (second(flow.first), second(flow.last));
    row(
        out,
        [
            &direction,
            &flow.edge,
            &flow.tenant,
            &grounds.exporter,
            &grounds.importer,
            &grounds.to,
            &grounds.class,
            &grounds.purpose,
            &grounds.mechanism,
            &grounds.instrument,
            &first,
            &last,
            &counts[0],
            &counts[1],
            &counts[2],
        ],
    )
}

fn activity(out: &mut impl Write, flow: &Flow) -> io::Result<()> {
    let grounds = &flow.grounds;
    let safeguard = format!("{} {}", grounds.mechanism, grounds.instrument);
    let (first, last) = (second(flow.first), second(flow.last));
    let recipient = [
        &flow.tenant,
        &grounds.purpose,
        &grounds.class,
        &grounds.importer,
        &grounds.to,
        &safeguard,
        &first,
        &last,
    ];
    row(out, recipient)
}

fn second(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn row<const N: usize>(out: &mut impl Write, cells: [impl AsRef<str>; N]) -> io::Result<()> {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    writeln!(out, "{}", cells.join("\t"))
}
