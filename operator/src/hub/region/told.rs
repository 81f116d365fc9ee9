//! What the policy tells each region of the others: directory and peers. With many regions it is nearly all of their
//! policies and the same for all but the region itself, and it stays as it is while tenants change. So it is looked at once
//! for all regions, and the text that a member holds of it is used again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use meridian_policy::{CompiledPolicy, RegionName};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::policy_form::{Others, Unreadable, packed_others};

type Sum = [u8; 32];

/// Digests of what a policy tells of its regions.
#[derive(Debug)]
pub(crate) struct Told {
    directory: Sum,
    peers: BTreeMap<RegionName, Sum>,
    /// By the region that is told: of the text that says it.
    texts: Mutex<BTreeMap<RegionName, Sum>>,
}

impl Told {
    pub(crate) fn of(policy: &CompiledPolicy) -> Self {
        Self {
            directory: sum_of(&policy.directory()),
            peers: policy
                .peers()
                .map(|peer| (peer.region.clone(), sum_of(&peer)))
                .collect(),
            texts: Mutex::default(),
        }
    }

    /// Of what the region is told: two that are equal stand for the same.
    pub(super) fn digest(&self, region: &RegionName) -> String {
        let others = self.peers.iter().filter(|(name, _)| *name != region);
        together(&self.directory, others.map(|(_, sum)| sum))
    }

    /// What the region is told, packed; `there` is what its member holds.
    pub(super) fn text(
        &self,
        region: &RegionName,
        policy: &CompiledPolicy,
        there: Option<&str>,
    ) -> Result<String, Unreadable> {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(known), Some(there)) = (texts.get(region), there)
            && *known == sum(there.as_bytes())
        {
            return Ok(there.to_owned());
        }
        let text = packed_others(&others(region, policy))?;
        texts.insert(region.clone(), sum(text.as_bytes()));
        Ok(text)
    }
}

/// What the policy tells a region of the others.
pub(super) fn others(region: &RegionName, policy: &CompiledPolicy) -> Others {
    Others {
        directory: policy.directory(),
        peers: policy.peers().filter(|peer| peer.region != *region).collect(),
    }
}

/// As [`Told::digest`], where a region is told something that the policy does not say.
pub(super) fn digest(others: &Others) -> String {
    let peers: Vec<Sum> = others.peers.iter().map(sum_of).collect();
    together(&sum_of(&others.directory), peers.iter())
}

fn together<'a>(directory: &Sum, peers: impl Iterator<Item = &'a Sum>) -> String {
    let all = peers.fold(Sha256::new().chain_update(directory), |all, sum| all.chain_update(sum));
    hex::encode(all.finalize().get(..16).unwrap_or_default())
}

fn sum_of(part: &impl Serialize) -> Sum {
    // Names and texts always serialise.
    sum(&serde_json::to_vec(part).unwrap_or_default())
}

fn sum(bytes: &[u8]) -> Sum {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::source::{Seen, gather};
    use crate::plugin::world::{World, now};
    use meridian_policy::compile;

    fn policy() -> CompiledPolicy {
        let world = World::settled();
        let seen = |cluster: &str| Seen {
            held: Some(world.held(cluster).clone()),
            awaited: false,
        };
        compile(&gather(&world.hub, seen).unwrap(), now())
    }

    #[test]
    fn the_digest_is_of_what_the_region_is_told_whoever_adds_it_up() {
        let (policy, eu) = (policy(), "eu".parse().unwrap());
        let told = Told::of(&policy);
        assert_eq!(told.digest(&eu), digest(&others(&eu, &policy)));
        assert_ne!(told.digest(&eu), told.digest(&"us".parse().unwrap()));
        let mut other = others(&eu, &policy);
        other.peers[0].tenants.clear();
        assert_ne!(told.digest(&eu), digest(&other));
    }

    #[test]
    fn a_text_that_a_member_holds_is_used_again_only_when_it_says_the_same() {
        let (policy, eu) = (policy(), "eu".parse().unwrap());
        let told = Told::of(&policy);
        let text = told.text(&eu, &policy, None).unwrap();
        for there in [None, Some(text.as_str()), Some("somebody else's")] {
            assert_eq!(told.text(&eu, &policy, there).unwrap(), text);
        }
    }
}
