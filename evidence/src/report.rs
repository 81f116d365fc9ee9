//! What an export's entries come to: the register of transfers (GDPR chapter V) and the records of processing (Art 30),
//! from what was observed, held against what was declared.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use meridian_policy::{CompiledEdge, RegionPolicy};
use serde::Serialize;

use crate::chain::ChainId;
use crate::entry::{Entry, Kind};

/// Which way copies went, seen from the region of the export.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// They left.
    Export,
    /// They arrived.
    Import,
}

/// On what grounds copies crossed, as it was recorded at the time.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Grounds {
    /// The legal entity that exports.
    pub exporter: String,
    /// The legal entity that imports.
    pub importer: String,
    /// The importing region.
    pub to: String,
    /// Class of the data.
    pub class: String,
    /// Purposes.
    pub purpose: String,
    /// The transfer mechanism.
    pub mechanism: String,
    /// Its instrument.
    pub instrument: String,
}

impl Grounds {
    fn of_entry(entry: &Entry) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            exporter: text(&entry.exporter),
            importer: text(&entry.importer),
            to: text(&entry.to),
            class: text(&entry.class),
            purpose: text(&entry.purpose),
            mechanism: text(&entry.mechanism),
            instrument: text(&entry.instrument),
        }
    }

    fn of_edge(edge: &CompiledEdge) -> Self {
        let purposes: Vec<&str> = edge.purposes.iter().map(|purpose| purpose.as_str()).collect();
        Self {
            exporter: edge.exporter.to_string(),
            importer: edge.importer.to_string(),
            to: edge.to.to_string(),
            class: edge.class.to_string(),
            purpose: purposes.join(","),
            mechanism: edge.mechanism.to_string(),
            instrument: edge.instrument.clone(),
        }
    }
}

/// What went along one edge on the same grounds.
#[derive(Clone, Debug, Serialize)]
pub struct Flow {
    /// Which way.
    pub direction: Direction,
    /// Along which edge.
    pub edge: String,
    /// Whose data: the tenant that recorded it.
    pub tenant: String,
    /// On what grounds.
    pub grounds: Grounds,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
    /// Entries.
    pub transfers: u64,
    /// Copies that were taken.
    pub copies: u64,
    /// Bytes that crossed, also of what was not taken.
    pub bytes: u64,
    /// Policies under which, the first and the last.
    pub revisions: (u64, u64),
}

/// How many consents were given and taken back, for one purpose and class; and how many objections (to a purpose, whatever the
/// class) and restrictions (of every purpose) were set and lifted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Consents {
    /// Given.
    pub granted: u64,
    /// Taken back.
    pub withdrawn: u64,
    /// Objections and restrictions that were set.
    pub limited: u64,
    /// Objections and restrictions that were lifted.
    pub lifted: u64,
}

/// A difference between what was declared and what was observed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Violation {
    /// Of which chain.
    pub chain: String,
    /// The entry that shows it.
    pub entry: u64,
    /// Along which edge.
    pub edge: String,
    /// What is wrong, in a sentence.
    pub what: String,
}

/// What a chain says of an edge.
#[derive(Debug)]
enum Declared {
    Open(Grounds),
    Cut(Timestamp),
}

/// What was observed.
#[derive(Debug, Default)]
pub struct Observed {
    flows: BTreeMap<(Direction, String, Grounds), Flow>,
    refusals: BTreeMap<(String, String), u64>,
    purged: BTreeMap<String, u64>,
    consents: BTreeMap<(String, String), Consents>,
    /// What the chain itself declares of each edge that leaves.
    edges: BTreeMap<(ChainId, String), Declared>,
    violations: Vec<Violation>,
    /// The last entry of each flow.
    shown_by: BTreeMap<(Direction, String, Grounds), (ChainId, u64)>,
}

impl Observed {
    /// Takes an entry, in the order of its chain: what [`crate::verify()`] shows.
    pub fn see(&mut self, chain: &ChainId, seq: u64, entry: &Entry) {
        match entry.kind {
            Kind::Transfer => self.transfer(chain, seq, entry),
            Kind::Refusal => {
                let edge = entry.edge.clone().unwrap_or_default();
                let rule = entry.rule.clone().unwrap_or_default();
                *self.refusals.entry((edge, rule)).or_default() += entry.count.unwrap_or_default();
            }
            Kind::Purge => {
                let edge = entry.edge.clone().unwrap_or_default();
                *self.purged.entry(edge).or_default() += entry.count.unwrap_or_default();
            }
            Kind::PolicyChange => self.policy_change(chain, entry),
            Kind::ConsentChange => {
                let matter = (
                    entry.purpose.clone().unwrap_or_default(),
                    entry.class.clone().unwrap_or_default(),
                );
                let consents = self.consents.entry(matter).or_default();
                match entry.rule.as_deref() {
                    Some("granted") => consents.granted += 1,
                    Some("subject-objects" | "processing-restricted") => consents.limited += 1,
                    Some("objection-lifted" | "restriction-lifted") => consents.lifted += 1,
                    _ => consents.withdrawn += 1,
                }
            }
            Kind::Erasure | Kind::Access | Kind::Checkpoint => {}
        }
    }

    fn policy_change(&mut self, chain: &ChainId, entry: &Entry) {
        let Some(edge) = &entry.edge else { return };
        let key = (chain.clone(), edge.clone());
        match entry.rule.as_deref() {
            Some("opened") => self.edges.insert(key, Declared::Open(Grounds::of_entry(entry))),
            _ => self.edges.insert(key, Declared::Cut(entry.at)),
        };
    }

    fn transfer(&mut self, chain: &ChainId, seq: u64, entry: &Entry) {
        let direction = if entry.from.as_deref() == Some(chain.region()) {
            Direction::Export
        } else {
            Direction::Import
        };
        let edge = entry.edge.clone().unwrap_or_default();
        let grounds = Grounds::of_entry(entry);
        if direction == Direction::Export && entry.bytes.unwrap_or_default() > 0 {
            self.hold_against_chain(chain, seq, entry, &grounds);
        }
        let revision = entry.revision.unwrap_or_default();
        let key = (direction, edge.clone(), grounds.clone());
        self.shown_by.insert(key.clone(), (chain.clone(), seq));
        let flow = self.flows.entry(key).or_insert_with(|| Flow {
            direction,
            edge,
            tenant: entry.tenant.clone().unwrap_or_default(),
            grounds,
            first: entry.at,
            last: entry.at,
            transfers: 0,
            copies: 0,
            bytes: 0,
            revisions: (revision, revision),
        });
        flow.first = flow.first.min(entry.at);
        flow.last = flow.last.max(entry.at);
        flow.transfers += 1;
        flow.copies += entry.count.unwrap_or_default();
        flow.bytes += entry.bytes.unwrap_or_default();
        flow.revisions = (flow.revisions.0.min(revision), flow.revisions.1.max(revision));
    }

    /// What left must have left along an edge that the chain itself says was open, to the parties and on the mechanism that it
    /// says.
    fn hold_against_chain(&mut self, chain: &ChainId, seq: u64, entry: &Entry, grounds: &Grounds) {
        let edge = entry.edge.clone().unwrap_or_default();
        let what = match self.edges.get(&(chain.clone(), edge.clone())) {
            None => "copies left along an edge that was never opened".to_owned(),
            // What was on its way already may be recorded after the cut; its time is when it began to leave.
            Some(Declared::Cut(at)) if entry.at <= *at => return,
            Some(Declared::Cut(_)) => "copies left along an edge after it was cut".to_owned(),
            Some(Declared::Open(opened)) => {
                let goes = |grounds: &Grounds| format!("{} to {} in {}", grounds.class, grounds.importer, grounds.to);
                if goes(opened) == goes(grounds) {
                    return;
                }
                format!("{} left, and the edge was opened for {}", goes(grounds), goes(opened))
            }
        };
        self.violations.push(Violation {
            chain: chain.to_string(),
            entry: seq,
            edge,
            what,
        });
    }

    /// The report, with what `policy` declares.
    #[must_use]
    pub fn report(self, region: &str, policy: Option<&RegionPolicy>) -> Report {
        let mut violations = self.violations;
        let mut unused = BTreeSet::new();
        if let Some(policy) = policy {
            let declared = |direction| match direction {
                Direction::Export => &policy.exports,
                Direction::Import => &policy.imports,
            };
            for (key, flow) in &self.flows {
                // An older policy may have declared what this one does not any more.
                if flow.revisions.1 < policy.revision.0 {
                    continue;
                }
                let edge = declared(flow.direction)
                    .iter()
                    .find(|edge| edge.id.as_str() == flow.edge);
                let held = policy.held.iter().find(|edge| edge.id.as_str() == flow.edge);
                let what = match (edge.map(Grounds::of_edge), held) {
                    (None, Some(held)) => format!(
                        "copies crossed, and what the policy declares of the edge is not understood here: {}",
                        held.because
                    ),
                    (None, None) => "copies crossed, and the policy declares no such edge".to_owned(),
                    (Some(declared), _) if declared != flow.grounds => {
                        format!(
                            "copies crossed on other grounds than declared: {}",
                            difference(&declared, &flow.grounds)
                        )
                    }
                    (Some(_), _) => continue,
                };
                let Some((chain, entry)) = self.shown_by.get(key) else {
                    continue;
                };
                violations.push(Violation {
                    chain: chain.to_string(),
                    entry: *entry,
                    edge: flow.edge.clone(),
                    what,
                });
            }
            let observed: BTreeSet<&String> = self.flows.values().map(|flow| &flow.edge).collect();
            let all = policy
                .exports
                .iter()
                .chain(&policy.imports)
                .map(|edge| edge.id.to_string());
            unused = all.filter(|edge| !observed.contains(edge)).collect();
        }
        let refusal = |((edge, rule), count)| Refusals { edge, rule, count };
        let consent = |((purpose, class), consents)| Matter {
            purpose,
            class,
            consents,
        };
        Report {
            region: region.to_owned(),
            compared_with: policy.map(|policy| policy.revision.0),
            flows: self.flows.into_values().collect(),
            refusals: self.refusals.into_iter().map(refusal).collect(),
            purged: self.purged,
            consents: self.consents.into_iter().map(consent).collect(),
            declared_and_not_observed: unused.into_iter().collect(),
            violations,
        }
    }
}

fn difference(declared: &Grounds, observed: &Grounds) -> String {
    let pairs = [
        ("exporter", &declared.exporter, &observed.exporter),
        ("importer", &declared.importer, &observed.importer),
        ("region", &declared.to, &observed.to),
        ("class", &declared.class, &observed.class),
        ("purpose", &declared.purpose, &observed.purpose),
        ("mechanism", &declared.mechanism, &observed.mechanism),
        ("instrument", &declared.instrument, &observed.instrument),
    ];
    let differ = pairs.iter().filter(|(_, declared, observed)| declared != observed);
    let told: Vec<String> = differ
        .map(|(name, declared, observed)| format!("{name} {observed}, not {declared}"))
        .collect();
    told.join("; ")
}

/// Copies that did not cross.
#[derive(Clone, Debug, Serialize)]
pub struct Refusals {
    /// Along which edge.
    pub edge: String,
    /// By which rule.
    pub rule: String,
    /// How many.
    pub count: u64,
}

/// Consents of one purpose and class.
#[derive(Clone, Debug, Serialize)]
pub struct Matter {
    /// What for.
    pub purpose: String,
    /// Of what.
    pub class: String,
    /// How many changes.
    #[serde(flatten)]
    pub consents: Consents,
}

/// What an export comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whose.
    pub region: String,
    /// The revision of the policy that it was held against.
    pub compared_with: Option<u64>,
    /// What crossed.
    pub flows: Vec<Flow>,
    /// What did not.
    pub refusals: Vec<Refusals>,
    /// Copies that were deleted because their ground ended, by edge.
    pub purged: BTreeMap<String, u64>,
    /// Changes of consents.
    pub consents: Vec<Matter>,
    /// Edges of the policy that nothing went along.
    pub declared_and_not_observed: Vec<String>,
    /// Where what was observed is not what was declared.
    pub violations: Vec<Violation>,
}
