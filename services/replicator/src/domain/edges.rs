//! What the policy has done to the edges that this region knows: which to open, which to cut.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meridian_policy::{CompiledEdge, EdgeId, HeldEdge, PolicyRevision, Rule};

/// Where in its life an edge is, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeState {
    /// Data may pass.
    Open,
    /// Data stopped passing; the importer's copies are being purged.
    Cutting,
    /// Nothing of it is left at the importer.
    Cut,
}

impl EdgeState {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cutting => "cutting",
            Self::Cut => "cut",
        }
    }

    /// The state of that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Open, Self::Cutting, Self::Cut]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// A change that the policy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The edge is lawful and was not open.
    Open(EdgeId),
    /// The edge is gone, or not lawful any more.
    Cut(EdgeId, Rule),
}

/// An edge as this region has it on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where in its life it is.
    pub state: EdgeState,
    /// The policy that brought it there.
    pub revision: PolicyRevision,
}

/// The policy at hand.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// Its revision.
    pub revision: PolicyRevision,
    /// It is known to be current: its lease is valid.
    pub current: bool,
    /// Its edges.
    pub edges: &'a [CompiledEdge],
    /// Edges that it has, and that are not understood here.
    pub held: &'a [HeldEdge],
}

/// What the policy asks of the `known` edges at `now`.
///
/// Opening needs a policy that is known to be current; cutting does not: an expiry is an expiry, and a removal that was
/// seen is not unseen. Only a policy older than the one on record (a start from an old file) says nothing at all.
///
/// An edge that the policy has and that is not understood here stays as it is: it carries nothing, and is not cut either.
///
/// An edge being cut stays so until its purge is acknowledged, whatever the policy says by then: otherwise old copies
/// would come back to life with it.
pub fn changes(known: &BTreeMap<EdgeId, Known>, policy: Policy<'_>, now: Timestamp) -> Vec<Change> {
    let mut changes = Vec::new();
    for edge in policy
        .edges
        .iter()
        .filter(|edge| policy.current && edge.lawful_at(now).is_ok())
    {
        // Cut under a newer policy than this: another process is ahead of us.
        let may_open = |known: &Known| known.state == EdgeState::Cut && known.revision <= policy.revision;
        if known.get(&edge.id).is_none_or(may_open) {
            changes.push(Change::Open(edge.id.clone()));
        }
    }
    for (id, known) in known {
        if known.state != EdgeState::Open || policy.revision < known.revision {
            continue;
        }
        match policy
            .edges
            .iter()
            .find(|edge| edge.id == *id)
            .map(|edge| edge.lawful_at(now))
        {
            Some(Ok(())) => {}
            Some(Err(denial)) => changes.push(Change::Cut(id.clone(), denial.rule)),
            None if policy.held.iter().any(|held| held.id == *id) => {}
            None => changes.push(Change::Cut(id.clone(), Rule::NoEdge)),
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::{at, edge};

    #[test]
    fn the_table_of_changes() {
        use EdgeState::{Cut, Cutting, Open};
        let lawful = edge(&["sport_type"]);
        let mut ended = lawful.clone();
        ended.expires = at(0);
        let id = lawful.id.clone();
        let cut = |rule| vec![Change::Cut(id.clone(), rule)];
        let opened = vec![Change::Open(id.clone())];
        let (now, stale, older) = ((5, true), (5, false), (3, false));
        let table = [
            ("new and lawful", None, now, vec![lawful.clone()], opened.clone()),
            (
                "new, but the policy may be stale",
                None,
                stale,
                vec![lawful.clone()],
                vec![],
            ),
            ("new and expired", None, now, vec![ended.clone()], vec![]),
            ("open and lawful", Some(Open), now, vec![lawful.clone()], vec![]),
            (
                "open and expired",
                Some(Open),
                now,
                vec![ended.clone()],
                cut(Rule::MechanismExpired),
            ),
            (
                "open and expired, stale",
                Some(Open),
                stale,
                vec![ended],
                cut(Rule::MechanismExpired),
            ),
            ("open and gone", Some(Open), now, vec![], cut(Rule::NoEdge)),
            ("open and gone, stale", Some(Open), stale, vec![], cut(Rule::NoEdge)),
            (
                "open, not in a policy older than its opening",
                Some(Open),
                older,
                vec![],
                vec![],
            ),
            (
                "being cut, lawful again",
                Some(Cutting),
                now,
                vec![lawful.clone()],
                vec![],
            ),
            ("being cut and gone", Some(Cutting), now, vec![], vec![]),
            ("cut, lawful again", Some(Cut), now, vec![lawful.clone()], opened),
            (
                "cut, lawful in an old file",
                Some(Cut),
                older,
                vec![lawful.clone()],
                vec![],
            ),
            (
                "cut under a newer policy",
                Some(Cut),
                (3, true),
                vec![lawful.clone()],
                vec![],
            ),
            ("cut and gone", Some(Cut), now, vec![], vec![]),
        ];
        for (case, state, (revision, current), edges, expected) in table {
            let known = state.map(|state| {
                (
                    id.clone(),
                    Known {
                        state,
                        revision: PolicyRevision(4),
                    },
                )
            });
            let policy = Policy {
                revision: PolicyRevision(revision),
                current,
                edges: &edges,
                held: &[],
            };
            assert_eq!(changes(&known.into_iter().collect(), policy, at(0)), expected, "{case}");
        }
    }

    #[test]
    fn what_is_not_understood_is_neither_opened_nor_cut() {
        let edge = edge(&["sport_type"]);
        let held = [HeldEdge {
            id: edge.id.clone(),
            because: "it says something new".to_owned(),
        }];
        let policy = Policy {
            revision: PolicyRevision(5),
            current: true,
            edges: &[],
            held: &held,
        };
        for state in [EdgeState::Open, EdgeState::Cutting, EdgeState::Cut] {
            let revision = PolicyRevision(4);
            let known = [(edge.id.clone(), Known { state, revision })].into();
            assert!(changes(&known, policy, at(0)).is_empty(), "{state:?}");
        }
        assert!(changes(&BTreeMap::new(), policy, at(0)).is_empty());
    }

    #[test]
    fn words_parse_back() {
        for state in [EdgeState::Open, EdgeState::Cutting, EdgeState::Cut] {
            assert_eq!(EdgeState::parse(state.as_str()), Some(state));
        }
        assert_eq!(EdgeState::parse("closed"), None);
    }
}
