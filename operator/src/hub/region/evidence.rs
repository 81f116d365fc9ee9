//! Whether a region's evidence still agrees with what the hub was told of it before. Pure.
//!
//! The hub keeps, of each chain, the furthest checkpoint that contradicts none before it. One that is shorter, has another
//! digest at the same length or another key, or signature, contradicts it: then the older one stays, for who verifies an
//! export against it, until a person accepts the newer one ([`ACCEPTED`]). That a longer chain continues a shorter one only
//! the entries between them can show.

use jiff::{SignedDuration, Timestamp};
use meridian_evidence::Checkpoint;
use serde_json::{Value, json};

use crate::conditions::{Observation, Status};

/// The condition.
pub(super) const CONSISTENT: &str = "EvidenceConsistent";
/// Annotation of a FitnessRegion: heads of contradicting checkpoints that a person has accepted (after a restore from a
/// backup, for one), separated by commas.
pub(super) const ACCEPTED: &str = "meridian.sh/evidence-accepted";
/// A chain that nobody signed for longer than this is missing; a region signs one that does not grow every ten minutes.
pub(super) const OVERDUE: SignedDuration = SignedDuration::from_mins(30);

/// What the hub says of a region's evidence.
#[derive(Debug)]
pub(super) struct Finding {
    /// `status.evidence`.
    pub(super) kept: Vec<Value>,
    /// `status.evidenceContradicted`.
    pub(super) contradicted: Vec<Value>,
    /// The condition.
    pub(super) observation: Observation,
    /// When the next chain will be overdue.
    pub(super) due: Option<Timestamp>,
}

/// Holds what a region tells (`status.evidence` of its RegionStack) against `object`, its FitnessRegion.
pub(super) fn compare(object: &Value, told: &Value, now: Timestamp) -> Finding {
    let accepted = object["metadata"]["annotations"][ACCEPTED].as_str().unwrap_or_default();
    let is_accepted = |head: &str| accepted.split(',').any(|known| known.trim() == head);
    let mut kept = read(&object["status"]["evidence"]);
    let mut contradicted: Vec<Checkpoint> = object["status"]["evidenceContradicted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| serde_json::from_value(one["checkpoint"].clone()).ok())
        .collect();
    let mut invalid = Vec::new();
    for newer in read(told) {
        let head = hex::encode(newer.head.0);
        if newer.verify().is_err() {
            invalid.push(newer.chain.to_string());
            continue;
        }
        let known = kept.iter().position(|known| known.chain == newer.chain);
        match known {
            None => kept.push(newer),
            Some(at) if is_stale(&kept[at], &newer) => {}
            Some(at) if is_accepted(&head) || follows(&kept[at], &newer) => {
                let is_settled = |one: &Checkpoint| {
                    one.chain != newer.chain || !is_accepted(&hex::encode(one.head.0)) && !is_accepted(&head)
                };
                contradicted.retain(is_settled);
                // While a contradiction stands, a longer chain proves nothing: it may continue the other one.
                if contradicted.iter().all(|one| one.chain != newer.chain) {
                    kept[at] = newer;
                }
            }
            Some(_) if contradicted.iter().any(|one| one.chain == newer.chain) => {}
            Some(_) => contradicted.push(newer),
        }
    }
    let is_contradicted = |chain: &Checkpoint| contradicted.iter().any(|one| one.chain == chain.chain);
    let deadlines = kept.iter().filter(|known| !is_contradicted(known));
    let due_at = |known: &Checkpoint| known.at.checked_add(OVERDUE).unwrap_or(Timestamp::MAX);
    let overdue: Vec<String> = deadlines
        .clone()
        .filter(|known| due_at(known) <= now)
        .map(|known| known.chain.to_string())
        .collect();
    let due = deadlines.map(due_at).filter(|at| *at > now).min();
    let observation = observe(&kept, &contradicted, &invalid, &overdue);
    Finding {
        kept: kept.iter().map(|checkpoint| json!(checkpoint)).collect(),
        contradicted: contradicted
            .iter()
            .map(|checkpoint| json!({"chain": checkpoint.chain, "checkpoint": checkpoint}))
            .collect(),
        observation,
        due,
    }
}

fn read(list: &Value) -> Vec<Checkpoint> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|one| serde_json::from_value(one.clone()).ok()).collect()
}

/// Whether `newer` can be of the chain that `known` is of.
fn follows(known: &Checkpoint, newer: &Checkpoint) -> bool {
    known.key == newer.key && (newer.size > known.size || newer.size == known.size && newer.head == known.head)
}

/// Whether `told` was signed before `known` and says nothing else: the member's cache is behind what was seen before.
fn is_stale(known: &Checkpoint, told: &Checkpoint) -> bool {
    known.key == told.key && told.at < known.at && told.size < known.size
}

fn observe(kept: &[Checkpoint], contradicted: &[Checkpoint], invalid: &[String], overdue: &[String]) -> Observation {
    let no = |reason, message| Observation::new(CONSISTENT, false, reason, message);
    if let Some(newer) = contradicted.first() {
        let known = kept.iter().find(|known| known.chain == newer.chain);
        let known = known.map_or(0, |known| known.size);
        return no(
            "Contradicted",
            format!(
                "{}: a signed checkpoint of {} entries contradicts the one of {known} that was seen before; verify an export \
                 of the region against status.evidence",
                newer.chain, newer.size
            ),
        );
    }
    if let Some(chain) = invalid.first() {
        return no(
            "NotSigned",
            format!("{chain}: its checkpoint is not signed by the key that it names"),
        );
    }
    if let Some(chain) = overdue.first() {
        let minutes = OVERDUE.as_secs() / 60;
        return no(
            "Overdue",
            format!("{chain}: no checkpoint was signed within {minutes} minutes"),
        );
    }
    if kept.is_empty() {
        return Observation::new(
            CONSISTENT,
            Status::Unknown,
            "NotTold",
            "the region has told no checkpoint yet",
        );
    }
    let chains: Vec<&str> = kept.iter().map(|known| known.chain.as_str()).collect();
    Observation::new(
        CONSISTENT,
        true,
        "Agrees",
        format!("every checkpoint agrees with those before: {}", chains.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_evidence::Signer;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn signed_by(seed: u8, size: u64, head: u8, minutes_ago: i64) -> Checkpoint {
        let at = NOW - SignedDuration::from_mins(minutes_ago);
        let signer = Signer::from_seed(&[seed; 32]).unwrap();
        signer.sign(&"eu/replicator".parse().unwrap(), size, [head; 32], at)
    }

    fn checkpoint(size: u64, head: u8) -> Checkpoint {
        signed_by(7, size, head, 1)
    }

    /// A FitnessRegion that has seen these, in this order, and what the last one came to.
    fn seen(told: &[Checkpoint], accepted: &str) -> (Finding, Value) {
        let mut object = json!({"metadata": {"annotations": {ACCEPTED: accepted}}, "status": {}});
        let mut finding = compare(&object, &json!([]), NOW);
        for one in told {
            finding = compare(&object, &json!([one]), NOW);
            object["status"]["evidence"] = json!(finding.kept);
            object["status"]["evidenceContradicted"] = json!(finding.contradicted);
        }
        (finding, object)
    }

    fn outcome(told: &[Checkpoint]) -> (Status, &'static str, u64) {
        let (finding, _) = seen(told, "");
        let size = finding.kept.first().map_or(0, |kept| kept["size"].as_u64().unwrap());
        (finding.observation.status, finding.observation.reason, size)
    }

    #[test]
    fn a_chain_that_grows_or_stays_is_consistent() {
        assert_eq!(outcome(&[]), (Status::Unknown, "NotTold", 0));
        assert_eq!(outcome(&[checkpoint(3, 1)]), (Status::True, "Agrees", 3));
        assert_eq!(
            outcome(&[checkpoint(3, 1), checkpoint(5, 2)]),
            (Status::True, "Agrees", 5)
        );
        assert_eq!(
            outcome(&[checkpoint(3, 1), signed_by(7, 3, 1, 0)]),
            (Status::True, "Agrees", 3)
        );
    }

    #[test]
    fn one_that_shrank_or_has_another_head_or_key_is_not_and_the_older_checkpoint_stays() {
        for newer in [checkpoint(2, 9), checkpoint(3, 9), signed_by(8, 4, 1, 0)] {
            let told = [checkpoint(3, 1), newer.clone()];
            assert_eq!(outcome(&told), (Status::False, "Contradicted", 3), "{newer:?}");
            // That it grows afterwards does not heal it.
            let grown = [checkpoint(3, 1), newer, checkpoint(9, 9)];
            assert_eq!(outcome(&grown), (Status::False, "Contradicted", 3));
        }
    }

    #[test]
    fn one_that_was_signed_before_is_old_news() {
        assert_eq!(
            outcome(&[checkpoint(3, 1), signed_by(7, 2, 5, 2)]),
            (Status::True, "Agrees", 3)
        );
        assert_eq!(outcome(&[checkpoint(3, 1), signed_by(7, 3, 5, 2)]).1, "Contradicted");
    }

    #[test]
    fn a_person_can_accept_what_contradicted() {
        let accepted = hex::encode([9; 32]);
        let (finding, _) = seen(&[checkpoint(3, 1), checkpoint(2, 9)], &accepted);
        assert_eq!(
            (finding.observation.reason, finding.kept[0]["size"].as_u64()),
            ("Agrees", Some(2))
        );
        let (_, mut object) = seen(&[checkpoint(3, 1), checkpoint(2, 9)], "");
        object["metadata"]["annotations"][ACCEPTED] = json!(accepted);
        let finding = compare(&object, &json!([checkpoint(2, 9)]), NOW);
        assert_eq!((finding.observation.reason, finding.contradicted.len()), ("Agrees", 0));
    }

    #[test]
    fn a_checkpoint_that_its_key_did_not_sign_counts_for_nothing() {
        let mut forged = checkpoint(5, 2);
        forged.size = 6;
        assert_eq!(outcome(&[checkpoint(3, 1), forged]), (Status::False, "NotSigned", 3));
    }

    #[test]
    fn one_that_was_signed_too_long_ago_is_missed_and_until_then_it_is_known_when() {
        assert_eq!(outcome(&[signed_by(7, 3, 1, 30)]), (Status::False, "Overdue", 3));
        let (finding, object) = seen(&[signed_by(7, 3, 1, 29)], "");
        assert_eq!(finding.observation.status, Status::True);
        let due = finding.due.unwrap();
        assert_eq!(due, NOW + SignedDuration::from_mins(1));
        assert_eq!(compare(&object, &Value::Null, due).observation.reason, "Overdue");
    }

    #[test]
    fn the_second_chain_of_a_region_is_judged_by_itself() {
        let signer = Signer::from_seed(&[9; 32]).unwrap();
        let consent = signer.sign(&"eu/consent".parse().unwrap(), 1, [4; 32], NOW);
        let (finding, _) = seen(&[checkpoint(3, 1), consent, checkpoint(4, 2)], "");
        assert_eq!((finding.observation.status, finding.kept.len()), (Status::True, 2));
    }
}
