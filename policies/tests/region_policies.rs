//! What a region receives, what explain says, and what admission says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod world;

use meridian_policy::*;
use world::*;

#[test]
fn a_region_gets_its_own_edges_homes_and_peers_and_no_others() {
    let policy = compiled(&world());
    let eu = policy.for_region(&region("eu"), PolicyRevision(7)).unwrap();
    assert_eq!(eu.revision, PolicyRevision(7));
    assert_eq!(eu.issuer, "https://eu.example");
    assert_eq!(
        eu.homes.iter().map(|home| home.tenant.as_str()).collect::<Vec<_>>(),
        ["stride-eu"]
    );
    assert_eq!(eu.exports.len(), 1);
    assert_eq!(eu.imports.len(), 0);
    assert_eq!(
        eu.peers.iter().map(|peer| peer.region.as_str()).collect::<Vec<_>>(),
        ["eu-north", "us"]
    );
    assert_eq!(eu.directory.len(), 3);

    let us = policy.for_region(&region("us"), PolicyRevision(7)).unwrap();
    assert_eq!((us.exports.len(), us.imports.len()), (0, 1));

    let north = policy.for_region(&region("eu-north"), PolicyRevision(7)).unwrap();
    assert_eq!((north.exports.len(), north.imports.len()), (0, 0));
}

#[test]
fn a_region_that_cannot_be_verified_yet_is_no_peer() {
    let mut source = world();
    source.regions.get_mut("us").unwrap().trust = None;
    let eu = compiled(&source).for_region(&region("eu"), PolicyRevision(1)).unwrap();
    assert!(eu.peer(&region("us")).is_none());
    assert_eq!(eu.directory.len(), 3, "athletes may still look it up");
}

#[test]
fn the_region_answers_as_the_hub_does() {
    let policy = compiled(&world());
    let eu = policy.for_region(&region("eu"), PolicyRevision(1)).unwrap();
    assert_eq!(eu.decide(&question()), policy.decide(&question()));
    let expired = Question {
        now: at("2030-01-01T00:00:00Z"),
        ..question()
    };
    assert_eq!(eu.decide(&expired), policy.decide(&expired));
    let foreign = Question {
        tenant: tenant("stride-us"),
        to: region("eu"),
        ..question()
    };
    assert_eq!(
        eu.decide(&foreign).refused_by(),
        Some(Rule::TenantUnknown),
        "its home is not here"
    );
}

#[test]
fn a_region_policy_survives_json() {
    let eu = compiled(&world()).for_region(&region("eu"), PolicyRevision(3)).unwrap();
    let back: RegionPolicy = serde_json::from_str(&serde_json::to_string(&eu).unwrap()).unwrap();
    assert_eq!(back, eu);
}

#[test]
fn the_digest_ignores_the_revision_and_nothing_else() {
    let policy = compiled(&world());
    let first = policy.for_region(&region("eu"), PolicyRevision(1)).unwrap();
    let later = policy.for_region(&region("eu"), PolicyRevision(2)).unwrap();
    assert_eq!(first.content_digest(), later.content_digest());
    let mut source = world();
    source.asked().fields.pop();
    let narrower = compiled(&source).for_region(&region("eu"), PolicyRevision(1)).unwrap();
    assert_ne!(first.content_digest(), narrower.content_digest());
}

#[test]
fn a_region_or_law_that_does_not_exist_gets_no_policy() {
    let policy = compiled(&world());
    assert_eq!(
        policy.for_region(&region("mars"), PolicyRevision(1)).unwrap_err().rule,
        Rule::UnknownRegion
    );
    let mut source = world();
    source.jurisdictions.remove("us");
    let denial = compiled(&source)
        .for_region(&region("us"), PolicyRevision(1))
        .unwrap_err();
    assert_eq!(denial.rule, Rule::UnknownJurisdiction);
}

#[test]
fn retention_is_the_tenants_inside_the_laws() {
    let mut source = world();
    let limits = |min_days, max_days| RetentionLimits { min_days, max_days };
    source
        .eu()
        .retention
        .insert(DataClass::Location, limits(None, Some(183)));
    source
        .eu()
        .retention
        .insert(DataClass::SecurityLog, limits(Some(30), Some(90)));
    source.stride_eu().retention.insert(DataClass::Location, 30);
    source.stride_eu().retention.insert(DataClass::SecurityLog, 7);
    let eu = compiled(&source).for_region(&region("eu"), PolicyRevision(1)).unwrap();
    assert_eq!(eu.homes[0].retention[&DataClass::Location], 30);
    assert_eq!(eu.retention[&DataClass::Location], 30);
    assert_eq!(
        eu.homes[0].retention[&DataClass::SecurityLog],
        30,
        "a law that wants it kept is obeyed"
    );
    let violations = review(&source.tenants["stride-eu"].spec, &source, now());
    assert!(
        violations
            .iter()
            .any(|v| v.rule == Rule::RetentionOutsideLaw && v.path == "spec.retention.security-log")
    );
}

#[test]
fn one_tenants_error_touches_no_other() {
    let mut source = world();
    source.tenants.insert(
        tenant("broken"),
        residency(
            "broken",
            "mars",
            vec![ClassResidency {
                class: DataClass::Health,
                replicate_to: vec![ask("us")],
            }],
        ),
    );
    let policy = compiled(&source);
    assert!(policy.decide(&question()).is_allowed());
    assert_eq!(
        policy.refusals_of(&edge_id("broken.health.us"))[0].rule,
        Rule::UnknownRegion
    );
}

#[test]
fn explain_shows_every_check() {
    let mut source = world();
    source.asked().tia = None;
    source.asked().fields.push("hr".into());
    let explained = compiled(&source).explain(
        &tenant("stride-eu"),
        DataClass::WorkoutSummary,
        &region("eu"),
        &region("us"),
        now(),
    );
    assert!(!explained.lawful);
    let text = explained.to_string();
    assert!(
        text.starts_with("workout-summary of stride-eu from eu to us: refused"),
        "{text}"
    );
    assert!(
        text.contains(
            "holds    mechanism: SCC 'SCC 2021/914 module 1' lists workout-summary to us (GDPR Art 46(2)(c))"
        )
    );
    assert!(text.contains("refuses  assessment-missing"), "{text}");
    assert!(text.contains("refuses  field-not-allowed"), "{text}");
}

#[test]
fn explain_agrees_with_decide() {
    let policy = compiled(&world());
    let explained = policy.explain(
        &tenant("stride-eu"),
        DataClass::WorkoutSummary,
        &region("eu"),
        &region("us"),
        now(),
    );
    assert!(explained.lawful);
    assert_eq!(explained.expires, Some(at("2027-06-01T00:00:00Z")));
    let from_elsewhere = policy.explain(
        &tenant("stride-eu"),
        DataClass::WorkoutSummary,
        &region("us"),
        &region("eu-north"),
        now(),
    );
    assert!(!from_elsewhere.lawful, "data leaves from its home only");
}

#[test]
fn admission_names_rule_field_and_article() {
    let source = world();
    let mut spec = source.tenants["stride-eu"].spec.clone();
    spec.classes[0].class = DataClass::Health;
    let violations = review(&spec, &source, now());
    let found = violations
        .iter()
        .find(|violation| violation.rule == Rule::ClassNotListed)
        .unwrap();
    assert_eq!(found.path, "spec.classes[health].replicateTo[us].mechanism");
    assert!(found.message.contains("(GDPR Art 44)"), "{}", found.message);
    assert!(found.to_string().starts_with("class-not-listed: spec.classes"));
}

#[test]
fn admission_finds_nothing_wrong_with_a_tenant_that_stays_at_home() {
    let source = world();
    assert_eq!(review(&source.tenants["stride-us"].spec, &source, now()), vec![]);
    let mut homeless = source.tenants["stride-us"].spec.clone();
    homeless.home.region = region("mars");
    assert_eq!(review(&homeless, &source, now())[0].rule, Rule::UnknownRegion);
}

#[test]
fn narrowing_is_never_refused_even_when_what_remains_has_become_unlawful() {
    let mut source = world();
    source.eu().mechanisms.clear();
    let old = source.tenants["stride-eu"].spec.clone();
    let mut new = old.clone();
    new.classes[0].replicate_to[0].fields.pop();
    assert!(new.narrows(&old));
    assert_eq!(review_change(&old, &new, &source, now()), vec![]);
    assert!(
        !review(&new, &source, now()).is_empty(),
        "the status still says what is wrong"
    );
    new.classes.clear();
    assert_eq!(review_change(&old, &new, &source, now()), vec![]);
}

#[test]
fn widening_is_reviewed() {
    let source = world();
    let old = source.tenants["stride-eu"].spec.clone();
    let changes: [fn(&mut ReplicateTo); 7] = [
        |ask| ask.fields.push("hr".into()),
        |ask| ask.expires = at("2030-01-01T00:00:00Z"),
        |ask| ask.pseudonymise = false,
        |ask| ask.onward = true,
        |ask| ask.purposes.push(Purpose::Marketing),
        |ask| ask.mechanism = Mechanism::Adequacy,
        |ask| ask.tia = None,
    ];
    for change in changes {
        let mut new = old.clone();
        change(&mut new.classes[0].replicate_to[0]);
        assert!(!new.narrows(&old), "{new:?}");
    }
    let mut new = old.clone();
    new.classes[0].replicate_to[0].fields.push("hr".into());
    assert_eq!(review_change(&old, &new, &source, now())[0].rule, Rule::FieldNotAllowed);
}

#[test]
fn a_region_needs_its_jurisdiction_and_party() {
    let mut source = world();
    let us = source.regions["us"].clone();
    assert_eq!(review_region(&us, &source), vec![]);
    source.jurisdictions.clear();
    source.parties.clear();
    let rules: Vec<Rule> = review_region(&us, &source)
        .iter()
        .map(|violation| violation.rule)
        .collect();
    assert_eq!(rules, [Rule::UnknownJurisdiction, Rule::UnknownParty]);
}

#[test]
fn the_next_change_is_the_first_end_or_beginning() {
    let mut source = world();
    assert_eq!(compiled(&source).next_change(now()), Some(at("2027-06-01T00:00:00Z")));
    source.eu().mechanisms[1].effective_from = at("2027-01-01T00:00:00Z");
    assert_eq!(compiled(&source).next_change(now()), Some(at("2027-01-01T00:00:00Z")));
    assert_eq!(compiled(&source).next_change(at("2099-01-01T00:00:00Z")), None);
}

#[test]
fn an_edge_of_which_anything_is_not_understood_is_held_and_nothing_else() {
    let eu = compiled(&world()).for_region(&region("eu"), PolicyRevision(7)).unwrap();
    let told = serde_json::to_value(&eu).unwrap();
    let read = |told: serde_json::Value| {
        let of_text = RegionPolicy::read_text(&serde_json::to_vec(&told).unwrap()).unwrap();
        let of_value = RegionPolicy::read(told).unwrap();
        assert_eq!(of_text, of_value);
        of_value
    };
    assert_eq!(read(told.clone()), eu);
    let understood = |told: &serde_json::Value| {
        RegionPolicy::understood_in(serde_json::json!({ "policy": told }).to_string().as_bytes())
    };
    assert_eq!(
        understood(&told).as_ref(),
        Some(&eu),
        "it is not looked at edge by edge"
    );
    let with = |field: &str, value: serde_json::Value| {
        let mut told = told.clone();
        told["exports"][0][field] = value;
        read(told)
    };
    for (field, value) in [("adults_only", "yes"), ("mechanism", "OfTomorrow")] {
        let read = with(field, value.into());
        assert!(read.exports.is_empty() && read.holds(&eu.exports[0].id), "{field}");
        let rest = RegionPolicy {
            exports: eu.exports.clone(),
            held: Vec::new(),
            ..read
        };
        assert_eq!(rest, eu);
    }
    // One that nobody here can name was never open here.
    assert!(with("id", "stride-eu.moods.us".into()).held.is_empty());
    assert!(with("adults_only", serde_json::Value::Null).held.is_empty());

    // What is said beside the edges narrows none of them.
    let mut more = told;
    more["weather"] = "fair".into();
    assert_eq!(understood(&more).as_ref(), Some(&eu));
    more["homes"][0]["exports"] = serde_json::json!([{"more": 1}]);
    assert_eq!(read(more), eu);
}

#[test]
fn what_follows_a_policy_in_its_text_makes_it_none() {
    let eu = compiled(&world()).for_region(&region("eu"), PolicyRevision(7)).unwrap();
    let mut text = serde_json::to_vec(&eu).unwrap();
    text.push(b'\n');
    assert_eq!(RegionPolicy::read_text(&text).unwrap(), eu);
    text.push(b'{');
    assert!(RegionPolicy::read_text(&text).is_err());
}

#[test]
fn what_is_closing_is_no_part_of_a_policy_that_has_none() {
    let eu = compiled(&world()).for_region(&region("eu"), PolicyRevision(7)).unwrap();
    let told = serde_json::to_value(&eu).unwrap();
    assert!(told.get("closing").is_none() && told.get("held").is_none());
    let mut closing = told;
    closing["closing"] = serde_json::json!([{"id": "stride-eu.moods.us"}]);
    assert_eq!(
        RegionPolicy::read(closing).unwrap(),
        eu,
        "what is not understood is not asked"
    );
}
