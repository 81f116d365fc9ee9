//! The operator's table of rights in Kafka says what the services do: no right that none of them uses, and none missing.

use meridian_kit::kafka::dead_letter;
use meridian_operator::region::stack::plan::access::USES;
use std::collections::BTreeSet;

fn uses(component: &str) -> [BTreeSet<String>; 3] {
    let found = USES.iter().find(|uses| uses.component == component);
    let set = |names: Option<&[&str]>| names.into_iter().flatten().map(|name| (*name).to_owned()).collect();
    [
        set(found.map(|uses| uses.owns)),
        set(found.map(|uses| uses.reads)),
        set(found.map(|uses| uses.watches)),
    ]
}

/// What a service says of itself: its topics beside its dead letters, what it reads, whose progress it asks for.
fn says(component: &str, owns: &[&str], reads: &[&str], watches: &[&str]) {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let [mut owned, read, watched] = uses(component);
    let dead = owned.remove(&dead_letter(component));
    assert_eq!(
        [owned, read, watched],
        [set(owns), set(reads), set(watches)],
        "{component}"
    );
    assert!(dead || reads.is_empty(), "{component} reads and has no dead letters");
}

#[test]
fn the_table_of_rights_is_what_the_services_do() {
    use meridian_promotions::{delivery, intake as promoted};
    use meridian_replicator::{exporter, importer};
    use meridian_social::{intake, share};
    use meridian_telemetry::{TOPIC, WRITERS};

    says("identity", &[meridian_identity::accounts::TOPIC], &[], &[]);
    says("consent", &[meridian_consent::change::TOPIC], &[], &[]);
    says("training", &[meridian_training::store::TOPIC], &[], &[]);
    says("telemetry", &[TOPIC], &[], &[WRITERS]);
    says(WRITERS, &[], &[TOPIC], &[]);
    says("social", &[share::TOPIC], intake::TOPICS, &[]);
    says("promotions", &[delivery::TOPIC], promoted::TOPICS, &[]);
    says("replicator", &[importer::TOPIC], exporter::SOURCES, importer::SINKS);
    // It reads every topic, and none in a group.
    says("verifier", &[], &[], &[]);
    assert_eq!(USES.len(), 9);
}
