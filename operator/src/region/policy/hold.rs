//! Which policy is in force in this region. Pure.
//!
//! The hub says what it wants in RegionStack and TenantPlacements. What was in force before is kept in the ConfigMap
//! `meridian-policy`, which outlives hub and operator; revision and epochs never go below it, whoever asks for it: an
//! older commit rolled back by GitOps, a hub rebuilt from nothing, a second hub started by mistake.

use meridian_policy::{Epoch, HeldEdge, PolicyRevision, RegionName, RegionPolicy, TenantId};
use std::collections::BTreeMap;

/// What a TenantPlacement says, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Which tenant.
    pub tenant: TenantId,
    /// Where its home is.
    pub home: RegionName,
    /// Since which epoch.
    pub epoch: Epoch,
}

/// Something that was asked for and is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The policy is another region's.
    #[error("the policy is that of region {asked}, and this is {region}")]
    OtherRegion {
        /// Ours.
        region: RegionName,
        /// Theirs.
        asked: RegionName,
    },
    /// It is of a newer hub, or damaged.
    #[error("the policy is not understood, and what is in force stays so until this operator is upgraded: {cause}")]
    NotUnderstood {
        /// Why.
        cause: String,
    },
    /// What it says of an edge is of a newer hub.
    #[error("edge {} is held, nothing passes along it until this operator is upgraded: {}", .0.id, .0.because)]
    Edge(HeldEdge),
    /// The revision would go down.
    #[error(
        "policy revision {asked} is older than {held}, which is in force; a hub that lost its state adopts {held} first"
    )]
    OlderRevision {
        /// What was asked for.
        asked: PolicyRevision,
        /// What is in force.
        held: PolicyRevision,
    },
    /// An epoch would go down.
    #[error("epoch {asked} of tenant {tenant} is older than {held}, which is in force; {held} stays")]
    OlderEpoch {
        /// Whose.
        tenant: TenantId,
        /// What was asked for.
        asked: Epoch,
        /// What is in force.
        held: Epoch,
    },
}

impl Refusal {
    /// For conditions.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotUnderstood { .. } | Self::Edge(_) => "PolicyNotUnderstood",
            Self::OtherRegion { .. } | Self::OlderRevision { .. } | Self::OlderEpoch { .. } => "DecreaseRefused",
        }
    }
}

/// The policy in force after this look, and what was refused. `None` when there is none yet that could be in force. One that
/// is `asked` for and not understood, by whatever cause, leaves the one before it in force: the hub sees that it is not
/// applied, and renews no lease.
#[must_use]
pub fn decide(
    region: &RegionName,
    held: Option<&RegionPolicy>,
    asked: Result<&RegionPolicy, &str>,
    placements: &[Placement],
) -> (Option<RegionPolicy>, Vec<Refusal>) {
    let held = held.filter(|policy| policy.region == *region);
    let asked = match asked {
        Ok(asked) => asked,
        Err(cause) => {
            let cause = cause.to_owned();
            return (held.cloned(), vec![Refusal::NotUnderstood { cause }]);
        }
    };
    if asked.region != *region {
        let refusal = Refusal::OtherRegion {
            region: region.clone(),
            asked: asked.region.clone(),
        };
        return (held.cloned(), vec![refusal]);
    }
    if let Some(held) = held.filter(|held| asked.revision < held.revision) {
        let refusal = Refusal::OlderRevision {
            asked: asked.revision,
            held: held.revision,
        };
        return (Some(held.clone()), vec![refusal]);
    }
    let floor: BTreeMap<_, _> = held
        .iter()
        .flat_map(|p| &p.homes)
        .map(|home| (&home.tenant, home.epoch))
        .collect();
    let mut refusals: Vec<Refusal> = asked.held.iter().cloned().map(Refusal::Edge).collect();
    let mut policy = asked.clone();
    // A tenant is at home here only when RegionStack and its placement both say so: two writes, and the later one counts.
    policy
        .homes
        .retain(|home| placements.iter().any(|p| p.tenant == home.tenant && p.home == *region));
    for home in &mut policy.homes {
        let placed = placements
            .iter()
            .find(|p| p.tenant == home.tenant)
            .map_or(home.epoch, |p| p.epoch);
        let newest = home.epoch.max(placed);
        let held = floor.get(&home.tenant).copied().unwrap_or_default();
        if newest < held {
            refusals.push(Refusal::OlderEpoch {
                tenant: home.tenant.clone(),
                asked: newest,
                held,
            });
        }
        home.epoch = newest.max(held);
    }
    policy.homes.sort_by(|a, b| a.tenant.cmp(&b.tenant));
    (Some(policy), refusals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::stack::validate::example;

    fn eu() -> RegionName {
        "eu".parse().unwrap()
    }

    fn policy(revision: u64, epoch: u64) -> RegionPolicy {
        let mut policy = example().policy;
        policy.revision = PolicyRevision(revision);
        policy.homes[0].epoch = Epoch(epoch);
        policy
    }

    fn placed(home: &str, epoch: u64) -> Vec<Placement> {
        vec![Placement {
            tenant: "stride-eu".parse().unwrap(),
            home: home.parse().unwrap(),
            epoch: Epoch(epoch),
        }]
    }

    #[test]
    fn a_decrease_of_the_revision_leaves_the_held_policy_in_force() {
        let (held, asked) = (policy(7, 1), policy(6, 1));
        let (now, refusals) = decide(&eu(), Some(&held), Ok(&asked), &placed("eu", 1));
        assert_eq!(now, Some(held));
        assert_eq!(
            refusals,
            [Refusal::OlderRevision {
                asked: PolicyRevision(6),
                held: PolicyRevision(7)
            }]
        );
    }

    #[test]
    fn what_is_not_understood_leaves_the_held_policy_in_force() {
        let held = policy(7, 1);
        let (now, refusals) = decide(&eu(), Some(&held), Err("a class that nobody knows"), &placed("eu", 1));
        assert_eq!(now, Some(held));
        assert!(matches!(&refusals[..], [Refusal::NotUnderstood { cause }] if cause.contains("a class")));
        assert_eq!(decide(&eu(), None, Err("x"), &placed("eu", 1)).0, None);
    }

    #[test]
    fn a_decrease_of_an_epoch_is_refused_and_the_rest_is_taken() {
        let (now, refusals) = decide(&eu(), Some(&policy(7, 5)), Ok(&policy(8, 4)), &placed("eu", 3));
        let now = now.unwrap();
        assert_eq!((now.revision, now.homes[0].epoch), (PolicyRevision(8), Epoch(5)));
        assert!(matches!(
            &refusals[..],
            [Refusal::OlderEpoch {
                asked: Epoch(4),
                held: Epoch(5),
                ..
            }]
        ));
    }

    #[test]
    fn a_placement_raises_the_epoch() {
        let (now, refusals) = decide(&eu(), Some(&policy(7, 1)), Ok(&policy(7, 1)), &placed("eu", 2));
        assert_eq!(now.unwrap().homes[0].epoch, Epoch(2));
        assert!(refusals.is_empty());
    }

    #[test]
    fn a_tenant_is_home_only_where_stack_and_placement_agree() {
        let homes = |placements: &[Placement]| {
            decide(&eu(), None, Ok(&policy(7, 1)), placements)
                .0
                .unwrap()
                .homes
                .len()
        };
        assert_eq!(homes(&placed("eu", 1)), 1);
        assert_eq!(homes(&placed("us", 1)), 0);
        assert_eq!(homes(&[]), 0);
    }

    #[test]
    fn another_regions_policy_is_never_taken() {
        let us: RegionName = "us".parse().unwrap();
        let (now, refusals) = decide(&us, None, Ok(&policy(7, 1)), &placed("us", 1));
        assert_eq!(now, None);
        assert!(matches!(&refusals[..], [Refusal::OtherRegion { .. }]));
        // Not even a ConfigMap that came from elsewhere counts as held.
        assert_eq!(decide(&us, Some(&policy(7, 1)), Ok(&policy(7, 1)), &[]).0, None);
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let (first, _) = decide(&eu(), None, Ok(&policy(7, 1)), &placed("eu", 1));
        let (second, refusals) = decide(&eu(), first.as_ref(), Ok(&policy(7, 1)), &placed("eu", 1));
        assert_eq!(first, second);
        assert!(refusals.is_empty());
    }
}
