//! When signing keys are made, used and forgotten.
//!
//! A key is published before it signs, so that every verifier (also in other regions, which learn keys through the hub)
//! knows it by then; and published after it signed last, until every token it signed has ended.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::claims::LIFETIME;

/// How long a key signs.
pub const TERM: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long before it signs a key is published.
pub const LEAD: Duration = Duration::from_secs(24 * 3600);
/// How long a key stays published after its last token ended: clocks differ, and caches hold on.
pub const GRACE: Duration = Duration::from_secs(3600);

/// When a key signs. It signs from `signs_from` until the next key's, whatever happens: better an old key than none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTerm {
    /// Key id.
    pub kid: String,
    /// First moment at which it signs.
    pub signs_from: Timestamp,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Make keys that sign from these moments.
    pub create: Vec<Timestamp>,
    /// Delete these keys.
    pub delete: Vec<String>,
}

/// The key that signs at `now`: the youngest whose term has begun.
pub fn signing(keys: &[KeyTerm], now: Timestamp) -> Option<&KeyTerm> {
    keys.iter()
        .filter(|key| key.signs_from <= now)
        .max_by_key(|key| (key.signs_from, &key.kid))
}

/// Plans the rotation at `now`. Doing what it says and planning again gives an empty plan.
pub fn plan(keys: &[KeyTerm], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let current = match signing(keys, now) {
        Some(key) => key.signs_from,
        None => {
            plan.create.push(now);
            now
        }
    };
    let has_next = keys.iter().any(|key| key.signs_from > now);
    let due = after(current, TERM);
    if !has_next && after(now, LEAD) >= due {
        // A region that slept through the change still publishes the next key for the whole lead.
        plan.create.push(due.max(after(now, LEAD)));
    }
    let mut terms: Vec<_> = keys.iter().collect();
    terms.sort_by_key(|key| (key.signs_from, &key.kid));
    for pair in terms.windows(2) {
        let [old, next] = pair else { continue };
        let last_token_ends = after(after(next.signs_from, LIFETIME), GRACE);
        if next.signs_from <= now && last_token_ends <= now {
            plan.delete.push(old.kid.clone());
        }
    }
    plan
}

fn after(start: Timestamp, duration: Duration) -> Timestamp {
    let signed = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    start.saturating_add(signed).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> Timestamp {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }

    fn carry_out(keys: &mut Vec<KeyTerm>, plan: Plan, made: &mut usize) {
        keys.retain(|key| !plan.delete.contains(&key.kid));
        for signs_from in plan.create {
            *made += 1;
            keys.push(KeyTerm {
                kid: format!("k{made:04}"),
                signs_from,
            });
        }
    }

    #[test]
    fn a_new_region_gets_a_key_that_signs_at_once_and_no_other_yet() {
        assert_eq!(
            plan(&[], start()),
            Plan {
                create: vec![start()],
                delete: vec![]
            }
        );
    }

    #[test]
    fn the_next_key_is_published_a_day_before_it_signs() {
        let keys = [KeyTerm {
            kid: "a".into(),
            signs_from: start(),
        }];
        let change = after(start(), TERM);
        let day_before = change.saturating_sub(SignedDuration::from_hours(24)).unwrap();
        let too_early = day_before.saturating_sub(SignedDuration::from_secs(1)).unwrap();
        assert_eq!(plan(&keys, too_early), Plan::default());
        assert_eq!(
            plan(&keys, day_before),
            Plan {
                create: vec![change],
                delete: vec![]
            }
        );
    }

    #[test]
    fn a_key_is_forgotten_only_when_its_last_token_has_ended() {
        let change = after(start(), TERM);
        let keys = [
            KeyTerm {
                kid: "a".into(),
                signs_from: start(),
            },
            KeyTerm {
                kid: "b".into(),
                signs_from: change,
            },
        ];
        let gone = after(after(change, LIFETIME), GRACE);
        let before = gone.saturating_sub(SignedDuration::from_secs(1)).unwrap();
        assert_eq!(plan(&keys, before).delete, Vec::<String>::new());
        assert_eq!(plan(&keys, gone).delete, ["a"]);
    }

    proptest! {
        #[test]
        fn there_is_always_a_key_that_signs_and_it_was_published_for_its_lead(steps in proptest::collection::vec(60_u64..400_000, 1..200)) {
            let (mut keys, mut made, mut now) = (Vec::new(), 0, start());
            let mut published = std::collections::BTreeMap::new();
            for step in steps {
                let planned = plan(&keys, now);
                carry_out(&mut keys, planned, &mut made);
                prop_assert_eq!(plan(&keys, now), Plan::default(), "a plan carried out leaves nothing to do");
                for key in &keys {
                    published.entry(key.kid.clone()).or_insert(now);
                }
                let signer = signing(&keys, now).expect("a key signs").clone();
                if signer.kid != "k0001" {
                    prop_assert!(after(published[&signer.kid], LEAD) <= now, "{signer:?} signs unknown to verifiers");
                }
                prop_assert!(keys.len() <= 3);
                now = after(now, Duration::from_secs(step));
            }
        }
    }
}
