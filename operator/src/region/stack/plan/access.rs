//! Who may do what with which topic and consumer group: one table beside the one of components, and Kafka's access
//! control lists derived from it. What is not in it, nobody may: not another's topic, not another's group, nothing of the
//! cluster's, and no transaction, since no service uses any. One component looks at everything and changes nothing: the
//! verifier, which holds the broker against the same table.

use super::components::VERIFIER;
use meridian_kit::kafka::{Acl, Operation, Resource};
use std::collections::BTreeSet;

/// What one component does with events.
#[derive(Clone, Copy, Debug)]
pub struct Uses {
    /// Its name, in its certificate and in the table of components.
    pub component: &'static str,
    /// Topics that it makes, widens and writes, its dead letters among them.
    pub owns: &'static [&'static str],
    /// Topics that it reads, in the group named after it.
    pub reads: &'static [&'static str],
    /// Topics of its own whose records it deletes, to purge a cut edge's.
    pub purges: &'static [&'static str],
    /// Groups of others whose progress it asks for.
    pub watches: &'static [&'static str],
    /// Whether it sees which topics, groups and rights there are, and how they are set, and reads every topic of the table.
    pub looks: bool,
}

const NONE: Uses = Uses {
    component: "",
    owns: &[],
    reads: &[],
    purges: &[],
    watches: &[],
    looks: false,
};

/// Every component that speaks to Kafka.
pub const USES: &[Uses] = &[
    Uses {
        component: "identity",
        owns: &["identity.events"],
        ..NONE
    },
    Uses {
        component: "consent",
        owns: &["consent.state", "consent.dead-letter"],
        ..NONE
    },
    Uses {
        component: "training",
        owns: &["training.events"],
        ..NONE
    },
    Uses {
        component: "telemetry",
        owns: &["telemetry.samples"],
        watches: &["telemetry-writer"],
        ..NONE
    },
    Uses {
        component: "telemetry-writer",
        owns: &["telemetry-writer.dead-letter"],
        reads: &["telemetry.samples"],
        ..NONE
    },
    Uses {
        component: "social",
        owns: &["social.events", "social.dead-letter"],
        reads: &["training.events", "identity.events", "imports.events"],
        ..NONE
    },
    Uses {
        component: "promotions",
        owns: &["promotions.events", "promotions.dead-letter"],
        reads: &["consent.state", "training.events"],
        ..NONE
    },
    Uses {
        component: "replicator",
        owns: &["imports.events", "replicator.dead-letter"],
        reads: &["social.events"],
        purges: &["imports.events"],
        watches: &["social"],
        looks: false,
    },
    Uses {
        component: VERIFIER,
        looks: true,
        ..NONE
    },
];

/// The lists, whole: what else there is was not planned.
#[must_use]
pub fn acls() -> BTreeSet<Acl> {
    USES.iter().flat_map(of).collect()
}

/// The topics that somebody owns: no other is planned.
#[must_use]
pub fn topics() -> BTreeSet<String> {
    let owned = USES.iter().flat_map(|uses| uses.owns);
    owned.map(|topic| (*topic).to_owned()).collect()
}

/// The groups that somebody reads in: no other is planned.
#[must_use]
pub fn groups() -> BTreeSet<String> {
    let readers = USES.iter().filter(|uses| !uses.reads.is_empty());
    readers.map(|uses| uses.component.to_owned()).collect()
}

fn of(uses: &Uses) -> Vec<Acl> {
    let topics = |names: &[&str], operations: &[Operation]| -> Vec<Acl> {
        let each = |name: &&str| {
            let topic = Resource::Topic((*name).to_owned());
            operations
                .iter()
                .map(|operation| Acl::allow(uses.component, *operation, topic.clone()))
                .collect::<Vec<_>>()
        };
        names.iter().flat_map(each).collect()
    };
    let group = |name: &str, operation| Acl::allow(uses.component, operation, Resource::Group(name.to_owned()));
    // Who may write or read a topic may describe it, and who reads as a group may describe that.
    let mut acls = topics(uses.owns, &[Operation::Create, Operation::Alter, Operation::Write]);
    acls.extend(topics(uses.reads, &[Operation::Read]));
    acls.extend(topics(uses.purges, &[Operation::Delete]));
    if !uses.reads.is_empty() {
        acls.push(group(uses.component, Operation::Read));
    }
    acls.extend(uses.watches.iter().map(|name| group(name, Operation::Describe)));
    if uses.looks {
        acls.extend(looking(uses.component));
    }
    acls
}

/// Every name is seen, also one that nobody planned; only what was planned is read.
fn looking(component: &str) -> Vec<Acl> {
    let every = || "*".to_owned();
    let seen = [
        (Resource::Topic(every()), Operation::Describe),
        (Resource::Group(every()), Operation::Describe),
        (Resource::Cluster, Operation::Describe),
        (Resource::Cluster, Operation::DescribeConfigs),
    ];
    let read = topics().into_iter().flat_map(|topic| {
        [Operation::Read, Operation::DescribeConfigs].map(|operation| (Resource::Topic(topic.clone()), operation))
    });
    let acl = |(resource, operation)| Acl::allow(component, operation, resource);
    seen.into_iter().chain(read).map(acl).collect()
}

#[cfg(test)]
mod tests {
    use super::super::components::COMPONENTS;
    use super::*;

    fn owner(topic: &str) -> Vec<&'static str> {
        let owners = USES.iter().filter(|uses| uses.owns.contains(&topic));
        owners.map(|uses| uses.component).collect()
    }

    #[test]
    fn exactly_the_components_that_reach_kafka_have_rights_there() {
        let reach: BTreeSet<_> = COMPONENTS
            .iter()
            .filter(|c| c.calls.contains(&"kafka"))
            .map(|c| c.name)
            .collect();
        assert_eq!(USES.iter().map(|uses| uses.component).collect::<BTreeSet<_>>(), reach);
    }

    #[test]
    fn a_topic_is_written_by_its_owner_alone_and_read_only_if_somebody_owns_it() {
        for uses in USES {
            for topic in uses.owns.iter().chain(uses.reads) {
                assert_eq!(owner(topic).len(), 1, "{topic}");
            }
            assert!(
                uses.purges.iter().all(|topic| uses.owns.contains(topic)),
                "{}",
                uses.component
            );
        }
    }

    #[test]
    fn who_reads_has_a_place_for_what_it_cannot_handle_that_no_other_reads() {
        for uses in USES.iter().filter(|uses| !uses.reads.is_empty()) {
            let dead = meridian_kit::kafka::dead_letter(uses.component);
            assert_eq!(owner(&dead), [uses.component]);
            assert!(!USES.iter().any(|other| other.reads.contains(&dead.as_str())), "{dead}");
        }
    }

    #[test]
    fn the_verifier_alone_sees_what_it_has_no_part_in_and_nobody_changes_the_cluster() {
        let planned = acls();
        assert!(
            planned
                .iter()
                .all(|acl| acl.allowed && !matches!(acl.resource, Resource::Other { .. }))
        );
        assert!(planned.iter().all(|acl| !matches!(acl.operation, Operation::Other(_))));
        let wide = planned.iter().filter(|acl| match &acl.resource {
            Resource::Topic(name) | Resource::Group(name) => name == "*",
            _ => true,
        });
        for acl in wide {
            assert_eq!(acl.principal, "User:verifier", "{acl}");
            assert!(
                matches!(acl.operation, Operation::Describe | Operation::DescribeConfigs),
                "{acl}"
            );
        }
        let lines: Vec<String> = planned.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!("acls", lines.join("\n"));
    }

    #[test]
    fn the_verifier_writes_nothing_and_commits_for_nobody() {
        let planned = acls();
        let its = planned.iter().filter(|acl| acl.principal == "User:verifier");
        for acl in its {
            let looks = match &acl.resource {
                Resource::Topic(_) => matches!(
                    acl.operation,
                    Operation::Read | Operation::Describe | Operation::DescribeConfigs
                ),
                _ => acl.operation != Operation::Read,
            };
            assert!(looks, "{acl}");
        }
    }
}
