//! What is supposed, from a command line and a file.

use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use meridian_policy::{Hypothesis, InvalidName, Mechanism, WhatIf};

use crate::plugin::PluginError;

/// What is supposed, as it was typed.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `FROM:TO`, `FROM:TO:MECHANISM` or `FROM:TO:MECHANISM:INSTRUMENT`; FROM may be `*`.
    pub annul: Vec<String>,
    /// `PARTY` or `PARTY:INSTRUMENT`.
    pub loses: Vec<String>,
    /// `INSTRUMENT=DATE`.
    pub expires: Vec<String>,
    /// A date or a moment.
    pub as_of: Option<String>,
    /// The text of a file of hypotheses.
    pub file: Option<String>,
}

impl Asked {
    /// The hypotheses: those of the file first, then those of the command line.
    ///
    /// # Errors
    /// Which argument is not of its form, and what is.
    pub fn parse(&self) -> Result<WhatIf, PluginError> {
        let mut hypotheses = match &self.file {
            Some(text) => WhatIf::parse(text)?.hypotheses,
            None => Vec::new(),
        };
        for text in &self.annul {
            hypotheses.push(annulled(text)?);
        }
        for text in &self.loses {
            let (party, instrument) = split(text, ':');
            hypotheses.push(Hypothesis::CertificationLost {
                party: word("--loses", party)?,
                instrument: instrument.map(ToOwned::to_owned),
            });
        }
        for text in &self.expires {
            let Some((instrument, on)) = text.rsplit_once('=') else {
                let form = format!("--expires: '{text}' has no date; write INSTRUMENT=DATE");
                return Err(PluginError::Word(form));
            };
            hypotheses.push(Hypothesis::InstrumentExpires {
                instrument: instrument.to_owned(),
                on: moment("--expires", on)?,
            });
        }
        if let Some(text) = &self.as_of {
            let moment = moment("--as-of", text)?;
            hypotheses.push(Hypothesis::AsOf { moment });
        }
        if hypotheses.is_empty() {
            let nothing = "nothing is supposed; name something with --annul, --loses, --expires, --as-of or -f";
            return Err(PluginError::Word(nothing.to_owned()));
        }
        Ok(WhatIf { hypotheses })
    }
}

/// The text of a file of hypotheses; `-` is standard input.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<String, PluginError> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(PluginError::Word(format!(
            "-f: {} cannot be read: {error}",
            path.display()
        ))),
    }
}

fn annulled(text: &str) -> Result<Hypothesis, PluginError> {
    // An instrument's own name may hold colons.
    let mut parts = text.splitn(4, ':');
    let (Some(from), Some(to)) = (parts.next(), parts.next()) else {
        let form = format!("--annul: '{text}' names no way; write FROM:TO[:MECHANISM[:INSTRUMENT]], for example eu:us");
        return Err(PluginError::Word(form));
    };
    let mechanism = parts.next().map(mechanism).transpose()?;
    Ok(Hypothesis::MechanismAnnulled {
        from: (from != "*").then(|| word("--annul", from)).transpose()?,
        to: word("--annul", to)?,
        mechanism,
        instrument: parts.next().map(ToOwned::to_owned),
    })
}

fn mechanism(text: &str) -> Result<Mechanism, PluginError> {
    let written = |one: &&Mechanism| one.as_str().eq_ignore_ascii_case(text);
    Mechanism::ALL.iter().find(written).copied().ok_or_else(|| {
        let known: Vec<&str> = Mechanism::ALL.iter().map(|one| one.as_str()).collect();
        PluginError::Word(format!(
            "--annul: '{text}' is not a mechanism: one of {}",
            known.join(", ")
        ))
    })
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

fn word<T: FromStr<Err = InvalidName>>(argument: &str, text: &str) -> Result<T, PluginError> {
    text.parse()
        .map_err(|error: InvalidName| PluginError::Word(format!("{argument}: {error}")))
}

/// A date is the moment at which it begins in UTC.
fn moment(argument: &str, text: &str) -> Result<Timestamp, PluginError> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let date: Option<Date> = text.parse().ok();
    date.and_then(|date| date.to_zoned(TimeZone::UTC).ok())
        .map(|begin| begin.timestamp())
        .ok_or_else(|| {
            PluginError::Word(format!(
                "{argument}: '{text}' is no date; write 2027-01-31 or 2027-01-31T12:00:00Z"
            ))
        })
}

/// A hypothesis in a sentence.
pub(super) fn sentence(hypothesis: &Hypothesis) -> String {
    match hypothesis {
        Hypothesis::MechanismAnnulled {
            from,
            to,
            mechanism,
            instrument,
        } => {
            let what = match (mechanism, instrument) {
                (Some(mechanism), Some(instrument)) => format!("{mechanism} '{instrument}'"),
                (Some(mechanism), None) => format!("every {mechanism}"),
                (None, Some(instrument)) => format!("'{instrument}'"),
                (None, None) => "every mechanism".to_owned(),
            };
            let from = from
                .as_ref()
                .map_or_else(|| "everywhere".to_owned(), ToString::to_string);
            format!("{what} from {from} to {to} is annulled")
        }
        Hypothesis::CertificationLost { party, instrument } => match instrument {
            Some(instrument) => format!("{party} loses its certification under '{instrument}'"),
            None => format!("{party} loses every certification"),
        },
        Hypothesis::InstrumentExpires { instrument, on } => format!("'{instrument}' expires on {on}"),
        Hypothesis::MechanismOffered {
            from,
            to,
            mechanism,
            instrument,
            ..
        } => format!("{from} offers {mechanism} '{instrument}' to {to}"),
        Hypothesis::AsOf { moment } => format!("it is {moment}, and nobody has prolonged anything"),
    }
}
