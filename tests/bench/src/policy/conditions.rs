//! Conditions at random: each that Meridian accepts, Cedar's strict validator accepts too, and both come to the same.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use meridian_policy::condition::{Facts, cedar_schema};
use meridian_policy::{CompiledEdge, CompiledPolicy, Condition, CountryCode, Purpose};
use serde_json::{Value, json};

use super::peers::output;
use super::random::Random;
use super::world;
use crate::Peers;
use crate::report::{Bound, Metric, Report};

/// How many are made up.
const CONDITIONS: usize = 6_000;

/// Asks both, and reports how many conditions were compared.
///
/// # Errors
/// The first condition on which they differ.
pub fn agree(policy: &CompiledPolicy, peers: &Peers, report: &mut Report) -> Result<()> {
    let edge = policy.edges().next().context("no edge to put a condition on")?;
    let mut random = Random::new(7);
    let texts: Vec<String> = (0..CONDITIONS)
        .map(|_| expression(&mut random, Kind::Bool, 3))
        .collect();
    let asked = situations()?;
    let folder = report.beside("policy");
    fs::create_dir_all(&folder)?;
    let contexts: Vec<Value> = asked.iter().map(|one| one.context(edge)).collect();
    let file = json!({"schema": cedar_schema(), "texts": texts, "contexts": contexts});
    fs::write(folder.join("conditions.json"), serde_json::to_vec(&file)?)?;
    let told = output(Command::new(&peers.cedar).arg("conditions").arg(&folder))?;
    ensure!(
        told.lines().count() == texts.len(),
        "Cedar did not answer for every condition"
    );

    let (mut both, mut neither, mut stricter) = (0_u32, 0_u32, 0_u32);
    for (text, told) in texts.iter().zip(told.lines()) {
        let condition = Condition::new(text.clone());
        match (condition.check(), told) {
            (Ok(()), "!") => bail!("Cedar accepts no `{text}`"),
            (Ok(()), told) => {
                let holds = |one: &Situation| condition.holds(&one.facts(edge)) == Ok(true);
                let ours: String = asked.iter().map(|one| if holds(one) { '1' } else { '0' }).collect();
                ensure!(ours == told, "`{text}` comes to {ours}, in Cedar to {told}");
                both += 1;
            }
            (Err(_), "!") => neither += 1,
            (Err(_), _) => stricter += 1,
        }
    }
    for (name, count) in [
        ("conditions on which Cedar and Meridian agree", both),
        ("of those made up, refused by both", neither),
        ("refused by Meridian alone", stricter),
    ] {
        report.add(Metric::own(name, count.into(), "", Bound::Reported))?;
    }
    ensure!(both > 1_000, "only {both} conditions were compared");
    Ok(())
}

/// In which a condition is asked.
struct Situation {
    purpose: Purpose,
    fields: BTreeSet<String>,
    now: Timestamp,
    age: Option<u8>,
    country: Option<CountryCode>,
}

fn situations() -> Result<Vec<Situation>> {
    let all = ["sport_type", "distance_meters", "duration_sec"];
    let mut situations = Vec::new();
    for (number, purpose) in Purpose::ALL.iter().enumerate() {
        for (age, country) in [
            (None, None),
            (Some(17), Some("DE")),
            (Some(18), None),
            (None, Some("FR")),
        ] {
            situations.push(Situation {
                purpose: *purpose,
                fields: all.into_iter().skip(number % 4).map(str::to_owned).collect(),
                now: world::now() + SignedDuration::from_hours(i64::try_from(7 * situations.len())?),
                age,
                country: country.map(str::parse).transpose()?,
            });
        }
    }
    Ok(situations)
}

impl Situation {
    fn facts<'a>(&'a self, edge: &'a CompiledEdge) -> Facts<'a> {
        Facts {
            edge,
            purpose: self.purpose,
            fields: &self.fields,
            now: self.now,
            age: self.age,
            country: self.country.as_ref(),
        }
    }

    fn context(&self, edge: &CompiledEdge) -> Value {
        let time = self.now.to_zoned(TimeZone::UTC);
        let mut context = json!({"class": edge.class, "purpose": self.purpose, "fields": self.fields, "tenant": edge.tenant,
            "organization": edge.organization, "from": edge.from, "to": edge.to, "importer": edge.importer,
            "mechanism": edge.mechanism, "pseudonymised": edge.pseudonymise, "hour": time.hour(),
            "weekday": time.weekday().to_monday_one_offset()});
        if let Some(age) = self.age {
            context["age"] = json!(age);
        }
        if let Some(country) = &self.country {
            context["country"] = json!(country);
        }
        context
    }
}

/// What an expression comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Long,
    Text,
    Texts,
}

/// An expression of that kind, or, now and then, of another or of none.
fn expression(random: &mut Random, kind: Kind, depth: usize) -> String {
    let kind = match random.below(60) {
        0 => random.of(&[Kind::Bool, Kind::Long, Kind::Text, Kind::Texts]),
        _ => kind,
    };
    if depth == 0 {
        return atom(random, kind);
    }
    let part = |random: &mut Random, kind| expression(random, kind, depth - 1);
    match (kind, random.below(12)) {
        (Kind::Bool, 0) => format!("{} && {}", part(random, Kind::Bool), part(random, Kind::Bool)),
        (Kind::Bool, 1) => format!("{} || {}", part(random, Kind::Bool), part(random, Kind::Bool)),
        (Kind::Bool, 2) => format!("!({})", part(random, Kind::Bool)),
        (Kind::Bool, 3) => {
            let relation = random.of(&["==", "!=", "<", "<=", ">", ">="]);
            format!("{} {relation} {}", part(random, Kind::Long), part(random, Kind::Long))
        }
        (Kind::Bool, 4) => {
            let relation = random.of(&["==", "!="]);
            format!("{} {relation} {}", part(random, Kind::Text), part(random, Kind::Text))
        }
        (Kind::Bool, 5) => {
            let pattern = random.of(&["*", "tenant-*", "*e*", "e*u", "\\\\*", "eu", "*-*-*", ""]);
            format!("{} like \"{pattern}\"", part(random, Kind::Text))
        }
        (Kind::Bool, 6) => format!("{}.contains({})", part(random, Kind::Texts), part(random, Kind::Text)),
        (Kind::Bool, 7) => {
            let method = random.of(&["containsAll", "containsAny"]);
            format!("{}.{method}({})", part(random, Kind::Texts), part(random, Kind::Texts))
        }
        (Kind::Bool, 8) => format!("context has age && ({} < context.age)", part(random, Kind::Long)),
        (Kind::Bool, 9) => format!(
            "(context has country && {} == context.country)",
            part(random, Kind::Text)
        ),
        (Kind::Bool, 10) => format!("({} == {})", part(random, Kind::Texts), part(random, Kind::Texts)),
        (Kind::Long, 0..=3) => {
            let sign = random.of(&["+", "-", "*"]);
            format!("{} {sign} {}", part(random, Kind::Long), part(random, Kind::Long))
        }
        (Kind::Long, 4) => format!("-{}", part(random, Kind::Long)),
        (_, 11) => format!(
            "(if {} then {} else {})",
            part(random, Kind::Bool),
            part(random, kind),
            part(random, kind)
        ),
        _ => atom(random, kind),
    }
}

fn atom(random: &mut Random, kind: Kind) -> String {
    let words = [
        "\"eu\"",
        "\"us\"",
        "\"analytics\"",
        "\"sport_type\"",
        "\"DE\"",
        "\"tenant-0\"",
    ];
    match kind {
        Kind::Bool => random
            .of(&[
                "true",
                "false",
                "context.pseudonymised",
                "context has age",
                "context has to",
            ])
            .to_owned(),
        Kind::Long => random
            .of(&[
                "0",
                "1",
                "18",
                "9223372036854775807",
                "context.hour",
                "context.weekday",
                "context.age",
            ])
            .to_owned(),
        Kind::Text => match random.below(3) {
            0 => format!(
                "context.{}",
                random.of(&["to", "from", "purpose", "class", "tenant", "mechanism", "country"])
            ),
            _ => random.of(&words).to_owned(),
        },
        Kind::Texts => match random.below(3) {
            0 => "context.fields".to_owned(),
            1 => format!("[{}]", random.of(&words)),
            _ => format!("[{}, {}, context.to]", random.of(&words), random.of(&words)),
        },
    }
}
