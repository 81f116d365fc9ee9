//! What an edge needs beside a mechanism: a condition for special categories, fields, purposes, an age, and leave to go on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod world;

use std::collections::BTreeSet;

use meridian_policy::*;
use serde_json::json;
use world::*;

fn share_health(source: &mut PolicySource) {
    cite(source, Mechanism::Adequacy, "a decision");
    source.asked_class(DataClass::Health);
    source.asked().fields = vec!["hr".into()];
    source.asked().art9_condition = Some(Art9Condition::ExplicitConsent);
}

fn health() -> Question {
    Question {
        class: DataClass::Health,
        fields: BTreeSet::from(["hr".to_owned()]),
        ..question()
    }
}

#[test]
fn a_special_category_needs_its_own_condition_beside_the_mechanism() {
    let mut source = world();
    share_health(&mut source);
    assert!(compiled(&source).decide(&health()).is_allowed());
    source.asked().art9_condition = None;
    let decision = compiled(&source).decide(&health());
    assert!(
        matches!(
            decision,
            Decision::Deny {
                rule: Rule::Art9ConditionMissing,
                article: Some("GDPR Art 9(2)"),
                ..
            }
        ),
        "{decision:?}"
    );
}

#[test]
fn the_stricter_sensitivity_of_both_sides_counts() {
    for side in ["eu", "us"] {
        assert_eq!(
            refused(|w| {
                let law = w.jurisdictions.get_mut(side).unwrap();
                law.sensitivity.insert(DataClass::WorkoutSummary, Sensitivity::Special);
            }),
            Rule::Art9ConditionMissing,
            "{side}"
        );
    }
    let mut source = world();
    share_health(&mut source);
    source.asked().art9_condition = None;
    source.eu().sensitivity.insert(DataClass::Health, Sensitivity::Ordinary);
    assert_eq!(
        compiled(&source).decide(&health()).refused_by(),
        Some(Rule::Art9ConditionMissing)
    );
}

#[test]
fn explicit_consent_as_condition_needs_the_subjects_consent_whatever_the_purpose() {
    let mut source = world();
    share_health(&mut source);
    source.asked().purposes = vec![Purpose::ServiceProvision];
    let policy = compiled(&source);
    assert!(policy.edge(&edge_id("stride-eu.health.us")).unwrap().needs_consent);
}

#[test]
fn only_fields_of_the_class_can_go() {
    assert_eq!(
        refused(|w| w.asked().fields.push("title".into())),
        Rule::FieldNotAllowed,
        "free text is not a summary"
    );
    assert_eq!(refused(|w| w.asked().fields.push("hr".into())), Rule::FieldNotAllowed);
    assert_eq!(
        refused(|w| w.asked().fields.push("no_such_field".into())),
        Rule::FieldNotAllowed
    );
    assert_eq!(refused(|w| w.asked().fields.clear()), Rule::FieldNotAllowed);
}

#[test]
fn only_fields_of_the_edge_go() {
    let fields = BTreeSet::from(["sport_type".to_owned(), "duration_sec".to_owned()]);
    let decision = compiled(&world()).decide(&Question { fields, ..question() });
    let Decision::Deny {
        rule: Rule::FieldNotAllowed,
        reason,
        ..
    } = decision
    else {
        panic!("{decision:?}")
    };
    let reason = reason.to_string();
    assert!(
        reason.contains("duration_sec") && !reason.contains("sport_type"),
        "{reason}"
    );
}

#[test]
fn a_refusal_says_the_same_wherever_it_is_read_and_is_told_from_another() {
    let policy = compiled(&world());
    let refusal = |change: fn(&mut Question)| {
        let mut asked = question();
        change(&mut asked);
        policy.decide(&asked)
    };
    let refusals = [
        refusal(|asked| asked.purpose = Purpose::Marketing),
        refusal(|asked| asked.purpose = Purpose::Profiling),
        refusal(|asked| asked.fields = BTreeSet::from(["title".to_owned()])),
        refusal(|asked| asked.now = "2020-01-01T00:00:00Z".parse().unwrap()),
        refusal(|asked| asked.now = "2099-01-01T00:00:00Z".parse().unwrap()),
        refusal(|asked| asked.class = DataClass::Health),
        refusal(|asked| asked.tenant = "nobody".parse().unwrap()),
    ];
    for (at, one) in refusals.iter().enumerate() {
        let Decision::Deny { rule, reason, .. } = one else {
            panic!("{one:?}")
        };
        assert!(reason.to_string().len() > 20, "{one:?}");
        let told = serde_json::to_value(one).unwrap();
        assert_eq!(
            (&told["rule"], &told["reason"]),
            (&json!(rule), &json!(reason.to_string()))
        );
        assert!(format!("{one:?}").contains(&reason.to_string()), "{one:?}");
        for (other_at, other) in refusals.iter().enumerate() {
            assert_eq!(one == other, at == other_at, "{one:?} {other:?}");
        }
    }
}

#[test]
fn a_foreign_field_is_named_unless_its_name_is_too_long_to_be_one() {
    let reason = |length: usize| {
        let fields = BTreeSet::from(["x".repeat(length)]);
        match compiled(&world()).decide(&Question { fields, ..question() }) {
            Decision::Deny { reason, .. } => reason.to_string(),
            Decision::Allow(_) => panic!("allowed"),
        }
    };
    assert!(reason(64).contains(&"x".repeat(64)), "{}", reason(64));
    assert!(!reason(65).contains("xx"), "{}", reason(65));
}

#[test]
fn an_explanation_is_of_the_edge_that_is_asked_about() {
    let mut source = world();
    let mut other = ask("us");
    other.fields = vec!["followed".into()];
    source.stride_eu().classes.push(ClassResidency {
        class: DataClass::SocialGraph,
        replicate_to: vec![other],
    });
    let explain = |class| compiled(&source).explain(&tenant("stride-eu"), class, &region("eu"), &region("us"), now());
    assert!(explain(DataClass::WorkoutSummary).lawful);
    assert!(
        !explain(DataClass::SocialGraph).lawful,
        "a special class without a condition"
    );
}

#[test]
fn only_purposes_of_the_edge_count() {
    assert_eq!(refused(|w| w.asked().purposes.clear()), Rule::PurposeNotAllowed);
    let decision = compiled(&world()).decide(&Question {
        purpose: Purpose::Marketing,
        ..question()
    });
    assert_eq!(decision.refused_by(), Some(Rule::PurposeNotAllowed));
}

#[test]
fn a_condition_must_carry_every_purpose_of_the_edge() {
    let with = |condition, purposes: &[Purpose]| {
        let mut source = world();
        share_health(&mut source);
        source.asked().art9_condition = Some(condition);
        source.asked().purposes = purposes.to_vec();
        let purpose = purposes[0];
        compiled(&source).decide(&Question { purpose, ..health() }).refused_by()
    };
    let missing = Some(Rule::Art9ConditionMissing);
    assert_eq!(with(Art9Condition::HealthCare, &[Purpose::ServiceProvision]), None);
    assert_eq!(
        with(
            Art9Condition::HealthCare,
            &[Purpose::ServiceProvision, Purpose::Marketing]
        ),
        missing
    );
    assert_eq!(with(Art9Condition::ManifestlyPublic, &[Purpose::Profiling]), missing);
    assert_eq!(with(Art9Condition::ArchivingAndResearch, &[Purpose::Analytics]), None);
}

#[test]
fn groups_tags_and_free_text_count_as_special_unless_a_law_says_otherwise() {
    for (class, field) in [
        (DataClass::SocialGraph, "followed"),
        (DataClass::TrainingContent, "title"),
    ] {
        let mut source = world();
        source.asked_class(class);
        source.asked().fields = vec![field.into()];
        source.eu().mechanisms[0].classes = vec![class];
        let id = EdgeId::new(&tenant("stride-eu"), class, &region("us"));
        let rules: Vec<Rule> = compiled(&source)
            .refusals_of(&id)
            .iter()
            .map(|denial| denial.rule)
            .collect();
        assert_eq!(rules, [Rule::Art9ConditionMissing], "{class}");
        for law in source.jurisdictions.values_mut() {
            law.sensitivity.insert(class, Sensitivity::Ordinary);
        }
        assert!(compiled(&source).edge(&id).is_some(), "{class}");
    }
}

#[test]
fn every_permission_names_its_lawful_basis() {
    let Decision::Allow(permission) = compiled(&world()).decide(&question()) else {
        panic!("refused")
    };
    let grounds = permission.grounds();
    let basis = grounds.iter().find(|ground| ground.kind == "lawful-basis").unwrap();
    assert_eq!(
        basis.sentence,
        "cross-border-sharing rests on Consent (GDPR Art 6(1)(a))"
    );
    let explained = compiled(&world()).explain(
        &tenant("stride-eu"),
        DataClass::WorkoutSummary,
        &region("eu"),
        &region("us"),
        now(),
    );
    assert!(
        explained
            .to_string()
            .contains("holds    lawful-basis: cross-border-sharing rests on")
    );
}

#[test]
fn a_mechanism_reaches_a_country_and_not_whoever_runs_machines_there() {
    let elsewhere = |w: &mut PolicySource| w.importer().country = "CN".parse().unwrap();
    assert_eq!(refused(elsewhere), Rule::MechanismNotOffered);
    let mut source = world();
    elsewhere(&mut source);
    source.jurisdictions.get_mut("us").unwrap().subdivisions = vec!["CN-HK".parse().unwrap()];
    assert!(
        compiled(&source).decide(&question()).is_allowed(),
        "the law holds in a part of the country"
    );
}

#[test]
fn inside_one_jurisdiction_the_importer_must_be_there_too() {
    let inside = |operator: &str| {
        let mut source = world();
        cite(&mut source, Mechanism::NotRestricted, "inside eu");
        source.asked().region = region("eu-north");
        source.regions.get_mut("eu-north").unwrap().operated_by = operator.parse().unwrap();
        let to = region("eu-north");
        compiled(&source).decide(&Question { to, ..question() }).refused_by()
    };
    assert_eq!(inside("stride-europe"), None);
    assert_eq!(inside("stride-inc"), Some(Rule::MechanismNotOffered));
}

#[test]
fn inside_one_legal_entity_its_country_does_not_count() {
    let mut source = world();
    source.regions.get_mut("us").unwrap().operated_by = "stride-europe".parse().unwrap();
    assert!(compiled(&source).decide(&question()).is_allowed());
}

#[test]
fn a_tenant_filed_under_another_name_receives_nothing() {
    assert_eq!(
        refused(|w| w.tenants.get_mut("stride-us").unwrap().spec.tenant = tenant("stride-other")),
        Rule::TenantUnknown
    );
}

/// us shares on to eu-north, where the origin has an edge of its own.
fn shared_twice() -> PolicySource {
    let mut source = world();
    source.asked().onward = true;
    let mut north = ask("eu-north");
    north.mechanism = Mechanism::NotRestricted;
    source.stride_eu().classes[0].replicate_to.push(north);
    source
}

fn to_north() -> Question {
    Question {
        to: region("eu-north"),
        ..question()
    }
}

#[test]
fn a_copy_goes_on_where_the_edge_says_so_and_the_origin_could_send_it() {
    let decision = compiled(&shared_twice()).decide_onward(&region("us"), &to_north());
    let Decision::Allow(permission) = decision else {
        panic!("{decision:?}")
    };
    let (edge, grounds) = (permission.edge(), permission.grounds());
    assert_eq!(edge.id.as_str(), "stride-eu.workout-summary.eu-north");
    assert!(grounds.iter().any(|ground| ground.kind == "onward"));
}

#[test]
fn a_copy_stays_unless_the_edge_says_otherwise() {
    let mut source = shared_twice();
    source.asked().onward = false;
    let decision = compiled(&source).decide_onward(&region("us"), &to_north());
    let Decision::Deny { rule, reason, article } = decision else {
        panic!("allowed")
    };
    assert_eq!((rule, article), (Rule::NoEdge, Some("GDPR Art 44")));
    assert!(reason.to_string().contains("onward: true"), "{reason}");
}

#[test]
fn nobody_receives_through_an_importer_what_the_origin_would_not_send() {
    let onward = |change: fn(&mut PolicySource)| {
        let mut source = shared_twice();
        change(&mut source);
        compiled(&source).decide_onward(&region("us"), &to_north()).refused_by()
    };
    let no_edge = onward(|w| drop(w.stride_eu().classes[0].replicate_to.pop()));
    assert_eq!(no_edge, Some(Rule::NoEdge));
    let not_even_here = onward(|w| w.eu().mechanisms.clear());
    assert_eq!(not_even_here, Some(Rule::MechanismNotOffered));
    let fewer_fields = onward(|w| w.stride_eu().classes[0].replicate_to[1].fields = vec!["distance_meters".into()]);
    assert_eq!(fewer_fields, Some(Rule::FieldNotAllowed));
    let in_a_circle = compiled(&shared_twice()).decide_onward(&region("us"), &question());
    assert_eq!(in_a_circle.refused_by(), Some(Rule::NoEdge));
}

#[test]
fn consent_of_a_child_is_not_enough_and_unknown_age_counts_as_one_for_promotion_and_profiling() {
    let mut source = world();
    let law = source.eu();
    law.age_of_digital_consent.by_country.insert("FR".parse().unwrap(), 15);
    let refused = |purpose, country: &str, years| {
        let permitted = law.permits_at_age(purpose, &country.parse().unwrap(), years);
        permitted.err().map(|denial| (denial.rule, denial.article))
    };
    let too_young = Some((Rule::PurposeNotAllowed, Some("GDPR Art 8(1)")));
    assert_eq!(refused(Purpose::Marketing, "DE", Some(15)), too_young);
    assert_eq!(refused(Purpose::Marketing, "DE", Some(16)), None);
    assert_eq!(refused(Purpose::Analytics, "FR", Some(15)), None, "France says 15");
    assert_eq!(refused(Purpose::CrossBorderSharing, "FR", Some(14)), too_young);
    for purpose in [Purpose::Marketing, Purpose::Profiling] {
        assert_eq!(refused(purpose, "DE", None), too_young, "{purpose}");
    }
    assert_eq!(refused(Purpose::CrossBorderSharing, "DE", None), None);
    assert_eq!(
        refused(Purpose::ServiceProvision, "DE", Some(5)),
        None,
        "a contract is no consent"
    );
}
