//! Whom a newly compiled policy concerns. Pure.
//!
//! A change of one tenant concerns its organization's partitions and the regions that they live in or send to: a hub of a
//! hundred regions that made a pass over all of them for it would be a hundred times as late as it has to be. Whatever is
//! not surely confined to some tenants concerns everybody.

use std::collections::BTreeSet;

use jiff::Timestamp;
use meridian_policy::{CompiledPolicy, OrganizationName, PolicySource, RegionName, TenantFacts, TenantId};

/// Whom a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concerned {
    /// Every region and every tenant.
    Everybody,
    /// Only these.
    Only {
        /// Regions whose policy or placements may differ.
        regions: BTreeSet<RegionName>,
        /// Tenants whose status may differ.
        tenants: BTreeSet<TenantId>,
    },
}

/// Whom the step from `before`, compiled at `compiled`, to a policy of `after` at `now` concerns.
#[must_use]
pub fn concerned(before: &CompiledPolicy, compiled: Timestamp, after: &PolicySource, now: Timestamp) -> Concerned {
    let old = before.source();
    let time_has_passed = before.next_look(compiled).is_some_and(|moment| moment <= now);
    let world_differs =
        (&old.jurisdictions, &old.parties, &old.regions) != (&after.jurisdictions, &after.parties, &after.regions);
    if time_has_passed || world_differs {
        return Concerned::Everybody;
    }
    let ids: BTreeSet<&TenantId> = old.tenants.keys().chain(after.tenants.keys()).collect();
    let mut organizations = BTreeSet::new();
    for id in ids {
        match (old.tenants.get(id), after.tenants.get(id)) {
            (Some(was), Some(is)) if was == is => {}
            (Some(was), Some(is)) if home(was) == home(is) => {
                organizations.insert(&is.spec.organization);
            }
            // Every region tells athletes where each tenant lives.
            _ => return Concerned::Everybody,
        }
    }
    of_organizations(&organizations, [old, after])
}

/// What other regions are told of a tenant.
fn home(facts: &TenantFacts) -> (&TenantId, &OrganizationName, &RegionName) {
    (&facts.spec.tenant, &facts.spec.organization, &facts.spec.home.region)
}

/// An edge leads from a tenant to its organization's partition elsewhere, so it concerns no other organization.
fn of_organizations(organizations: &BTreeSet<&OrganizationName>, sources: [&PolicySource; 2]) -> Concerned {
    let (mut regions, mut tenants) = (BTreeSet::new(), BTreeSet::new());
    for (id, facts) in sources.iter().flat_map(|source| &source.tenants) {
        if !organizations.contains(&facts.spec.organization) {
            continue;
        }
        tenants.insert(id.clone());
        regions.insert(facts.spec.home.region.clone());
        let asked = facts.spec.classes.iter().flat_map(|class| &class.replicate_to);
        regions.extend(asked.map(|ask| ask.region.clone()));
    }
    Concerned::Only { regions, tenants }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_policy::{Epoch, RegionFacts, TenantResidencySpec, compile};
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn residency(name: &str, organization: &str, home: &str, to: &[&str], expires: &str) -> TenantFacts {
        let edges: Vec<Value> = to
            .iter()
            .map(|region| {
                json!({"region": region, "purposes": ["cross-border-sharing"], "fields": ["sport_type"],
                    "mechanism": "NotRestricted", "instrument": "x", "expires": expires})
            })
            .collect();
        let spec: TenantResidencySpec = serde_json::from_value(json!({
            "organization": organization, "tenant": name, "home": {"region": home},
            "classes": [{"class": "workout-summary", "replicateTo": edges}],
        }))
        .unwrap();
        let epoch = Epoch::from(1);
        TenantFacts { spec, epoch }
    }

    fn source() -> PolicySource {
        let mut source = PolicySource::default();
        for facts in [
            residency("a-1", "a", "r1", &["r2"], "2036-01-01T00:00:00Z"),
            residency("a-2", "a", "r2", &[], "2036-01-01T00:00:00Z"),
            residency("b-3", "b", "r3", &[], "2036-01-01T00:00:00Z"),
        ] {
            source.tenants.insert(facts.spec.tenant.clone(), facts);
        }
        source
    }

    fn step(change: impl FnOnce(&mut PolicySource), now: Timestamp) -> Concerned {
        let before = compile(&source(), NOW);
        let mut after = source();
        change(&mut after);
        concerned(&before, NOW, &after, now)
    }

    fn only(regions: &[&str], tenants: &[&str]) -> Concerned {
        Concerned::Only {
            regions: regions.iter().map(|region| region.parse().unwrap()).collect(),
            tenants: tenants.iter().map(|tenant| tenant.parse().unwrap()).collect(),
        }
    }

    fn replace(source: &mut PolicySource, facts: TenantFacts) {
        source.tenants.insert(facts.spec.tenant.clone(), facts);
    }

    #[test]
    fn an_edge_that_changes_concerns_both_of_its_ends_and_no_other_organization() {
        let prolonged = residency("a-1", "a", "r1", &["r2"], "2037-01-01T00:00:00Z");
        assert_eq!(
            step(|source| replace(source, prolonged), NOW),
            only(&["r1", "r2"], &["a-1", "a-2"])
        );
    }

    #[test]
    fn an_edge_that_went_or_came_concerns_where_it_led_and_where_it_leads() {
        let moved = residency("a-1", "a", "r1", &["r4"], "2036-01-01T00:00:00Z");
        assert_eq!(
            step(|source| replace(source, moved), NOW),
            only(&["r1", "r2", "r4"], &["a-1", "a-2"])
        );
    }

    #[test]
    fn a_new_epoch_concerns_the_home() {
        let fenced = |source: &mut PolicySource| {
            let facts = source.tenants.get_mut("b-3").unwrap();
            facts.epoch = facts.epoch.next();
        };
        assert_eq!(step(fenced, NOW), only(&["r3"], &["b-3"]));
    }

    #[test]
    fn a_tenant_that_comes_or_goes_concerns_everybody_who_lists_it() {
        let came = residency("c-1", "c", "r1", &[], "2036-01-01T00:00:00Z");
        assert_eq!(step(|source| replace(source, came), NOW), Concerned::Everybody);
        let gone = |source: &mut PolicySource| {
            source.tenants.remove("b-3");
        };
        assert_eq!(step(gone, NOW), Concerned::Everybody);
    }

    #[test]
    fn a_change_of_the_world_or_of_time_concerns_everybody() {
        let region = RegionFacts {
            name: "r9".parse().unwrap(),
            jurisdiction: "eu".parse().unwrap(),
            operated_by: "p".parse().unwrap(),
            countries_served: vec![],
            public_url: "https://r9".to_owned(),
            replicator_url: "https://r9".to_owned(),
            trust: None,
        };
        let world = |source: &mut PolicySource| {
            source.regions.insert(region.name.clone(), region);
        };
        assert_eq!(step(world, NOW), Concerned::Everybody);
        let after_the_edge_has_ended = "2036-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(step(|_| {}, after_the_edge_has_ended), Concerned::Everybody);
    }

    #[test]
    fn nothing_that_differs_concerns_nobody() {
        assert_eq!(step(|_| {}, NOW), only(&[], &[]));
    }
}
