//! What is in force of what is written. Pure.
//!
//! The policy in force grows by one change at a time, each judged against what is in force by then: two that widen nothing
//! by themselves may do so together, and then the second one waits.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use meridian_crds::WaitingChange;
use meridian_policy::{HeldPolicy, OrganizationName, PolicySource, TenantId, TransferableFields, openings};
use serde_json::json;

use super::held::Held;
use super::part::{self, Part};
use super::people::{self, Approval};
use crate::manifest::{ObjectKey, TENANT_DATA_RESIDENCY};

/// Openings that a status tells.
const TOLD: usize = 50;
/// The longest sentence that it tells.
const SENTENCE: usize = 1024;
/// People that it names.
const NAMED: usize = 16;

/// What is recorded as approved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) part: Part,
    /// The generation that it was written in.
    pub(crate) generation: i64,
    pub(crate) approved_by: Vec<String>,
}

/// A resource that is not known to be in force as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    pub(crate) generation: i64,
    /// What goes is not approved any more; what is in force of it, stays so until then.
    pub(crate) deleting: bool,
    /// Who wrote which generation.
    pub(crate) stamps: String,
    /// Nothing: it is new, or the hub is.
    pub(crate) record: Option<Record>,
}

/// What becomes of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    pub(crate) record: Option<Record>,
    pub(crate) waiting: Option<WaitingChange>,
}

/// What a decision is made by.
pub(crate) struct Question<'a> {
    pub(crate) written: &'a PolicySource,
    /// Each before those that rest on it: in the order of [`part::KINDS`].
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) held: &'a Held,
    pub(crate) approvals: &'a [Approval],
    pub(crate) fields: &'a TransferableFields,
    pub(crate) now: Timestamp,
}

impl Question<'_> {
    /// The policy in force, and what becomes of each candidate.
    pub(crate) fn decide(self) -> (PolicySource, Vec<Decision>) {
        let mut in_force = self.written.clone();
        for candidate in &self.candidates {
            part::remove(&mut in_force, &candidate.key);
            if let Some(part) = self.known(candidate) {
                part.put(&mut in_force, &candidate.key, self.written);
            }
        }
        let mut decisions = Vec::new();
        let adopted = self.adopt(&mut in_force, &mut decisions);
        let undecided = |candidate: &&Candidate| !candidate.deleting && !adopted.contains(&candidate.key);
        let rest = self.candidates.iter().filter(undecided);
        let (tenants, world): (Vec<_>, Vec<_>) =
            rest.partition(|candidate| candidate.key.kind == TENANT_DATA_RESIDENCY);
        for candidate in world {
            let Some(part) = Part::of(self.written, &candidate.key) else {
                continue;
            };
            let mut after = in_force.clone();
            part.put(&mut after, &candidate.key, self.written);
            let opens = self.opens(candidate, &in_force, &after);
            let (decision, advances) = self.judge(candidate, part, opens);
            if advances {
                in_force = after;
            }
            decisions.push(decision);
        }
        decisions.extend(self.decide_tenants(&mut in_force, &tenants));
        (in_force, decisions)
    }

    /// What is known to be in force of a candidate.
    fn known(&self, candidate: &Candidate) -> Option<Part> {
        match &candidate.record {
            Some(record) => Some(record.part.clone()),
            None if candidate.key.kind == TENANT_DATA_RESIDENCY => {
                let (tenant, _) = self.written.tenants.get_key_value(candidate.key.name.as_str())?;
                self.held.residency(tenant, self.written).map(Part::Tenant)
            }
            None => None,
        }
    }

    /// Laws, parties and regions of which nothing is recorded are taken together as they are written, when all of them open
    /// nothing that members do not hold: a hub that is rebuilt meets all of them at once, and no edge stands on one alone.
    fn adopt(&self, in_force: &mut PolicySource, decisions: &mut Vec<Decision>) -> BTreeSet<ObjectKey> {
        let mut after = in_force.clone();
        let mut adopted = Vec::new();
        for candidate in &self.candidates {
            if candidate.record.is_some() || candidate.key.kind == TENANT_DATA_RESIDENCY {
                continue;
            }
            if let Some(part) = Part::of(self.written, &candidate.key) {
                part.put(&mut after, &candidate.key, self.written);
                adopted.push((candidate, part));
            }
        }
        if adopted.is_empty() || !openings(in_force, &after, &self.held.policy, self.fields, self.now).is_empty() {
            return BTreeSet::new();
        }
        *in_force = after;
        let keys = adopted.iter().map(|(candidate, _)| candidate.key.clone()).collect();
        decisions.extend(
            adopted
                .into_iter()
                .map(|(candidate, part)| advance(candidate, part, Vec::new())),
        );
        keys
    }

    /// An edge looks at no other organization's tenants, so that neither does this.
    fn decide_tenants(&self, in_force: &mut PolicySource, candidates: &[&Candidate]) -> Vec<Decision> {
        let mut by_organization: BTreeMap<OrganizationName, BTreeSet<TenantId>> = BTreeMap::new();
        if !candidates.is_empty() {
            for (id, facts) in self.written.tenants.iter().chain(&in_force.tenants) {
                let tenants = by_organization.entry(facts.spec.organization.clone()).or_default();
                tenants.insert(id.clone());
            }
        }
        let mut before = PolicySource {
            jurisdictions: in_force.jurisdictions.clone(),
            parties: in_force.parties.clone(),
            regions: in_force.regions.clone(),
            tenants: BTreeMap::new(),
        };
        before.regions.values_mut().for_each(|region| region.trust = None);
        let mut after = before.clone();
        let mut decisions = Vec::new();
        for candidate in candidates {
            let Some((id, facts)) = self.written.tenants.get_key_value(candidate.key.name.as_str()) else {
                continue;
            };
            // Whether it is new, only its home can say.
            if candidate.record.is_none() && !self.held.knows(&facts.spec.home.region) {
                continue;
            }
            let was = in_force.tenants.get(id).map(|facts| &facts.spec.organization);
            let peers = [Some(&facts.spec.organization), was].into_iter().flatten();
            let peers = peers
                .filter_map(|organization| by_organization.get(organization))
                .flatten();
            before.tenants = peers
                .filter_map(|peer| Some((peer.clone(), in_force.tenants.get(peer)?.clone())))
                .collect();
            after.tenants = before.tenants.clone();
            let part = Part::Tenant(meridian_policy::TenantResidencySpec::clone(&facts.spec));
            part.put(&mut after, &candidate.key, self.written);
            let opens = self.opens(candidate, &before, &after);
            let (decision, advances) = self.judge(candidate, part, opens);
            if advances {
                in_force.tenants.insert(id.clone(), facts.clone());
            }
            decisions.push(decision);
        }
        decisions
    }

    fn opens(&self, candidate: &Candidate, before: &PolicySource, after: &PolicySource) -> Vec<String> {
        let nothing = HeldPolicy::default();
        // Of what is recorded, the record alone counts: what members still have of it may be about to go.
        let held = if candidate.record.is_none() {
            &self.held.policy
        } else {
            &nothing
        };
        openings(before, after, held, self.fields, self.now)
    }

    /// Whether a change that opens this is put into force.
    fn judge(&self, candidate: &Candidate, part: Part, opens: Vec<String>) -> (Decision, bool) {
        if opens.is_empty() {
            return (advance(candidate, part, Vec::new()), true);
        }
        let digest = digest(candidate, &part, &opens);
        let since = candidate.record.as_ref().map_or(0, |record| record.generation);
        let authors = people::authors(&candidate.stamps, since, candidate.generation);
        let approvers = people::approvers(self.approvals, &candidate.key, &digest);
        let named = |people: BTreeSet<String>| people.into_iter().take(NAMED).collect::<Vec<_>>();
        if people::are_enough(&approvers, authors.as_ref()) {
            return (advance(candidate, part, named(approvers)), true);
        }
        let waiting = WaitingChange {
            generation: candidate.generation,
            digest,
            opens_count: u32::try_from(opens.len()).unwrap_or(u32::MAX),
            opens: opens
                .into_iter()
                .take(TOLD)
                .map(|sentence| sentence.chars().take(SENTENCE).collect())
                .collect(),
            written_by: named(authors.unwrap_or_default()),
            approved_by: named(approvers),
        };
        let decision = Decision {
            key: candidate.key.clone(),
            uid: candidate.uid.clone(),
            record: candidate.record.clone(),
            waiting: Some(waiting),
        };
        (decision, false)
    }
}

fn advance(candidate: &Candidate, part: Part, approved_by: Vec<String>) -> Decision {
    // What is in force already stays approved by whom it was.
    let same = candidate.record.as_ref().filter(|record| record.part == part);
    Decision {
        key: candidate.key.clone(),
        uid: candidate.uid.clone(),
        record: Some(Record {
            approved_by: same.map_or(approved_by, |record| record.approved_by.clone()),
            part,
            generation: candidate.generation,
        }),
        waiting: None,
    }
}

/// Of the resource, what is written in it, what that is to take the place of, and all that it opens: an approval is of nothing
/// else, and of nothing that was taken back after it was given.
fn digest(candidate: &Candidate, part: &Part, opens: &[String]) -> String {
    let change = json!({
        "kind": candidate.key.kind.kind, "name": candidate.key.name, "uid": candidate.uid,
        "since": candidate.record.as_ref().map(|record| record.generation),
        "written": part.to_value(), "opens": opens,
    });
    format!("sha256:{}", crate::apply::digest(&change))
}

#[cfg(test)]
mod tests;
