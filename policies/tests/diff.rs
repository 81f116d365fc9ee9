//! In what two policies differ, and which way it goes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod world;

use std::collections::BTreeSet;

use jiff::SignedDuration;
use meridian_policy::*;
use world::*;

/// The difference that `change` makes to the world.
fn made_by(change: impl FnOnce(&mut PolicySource)) -> PolicyDiff {
    let mut after = world();
    change(&mut after);
    compiled(&world()).diff(&compiled(&after))
}

/// The aspects in which the one edge of the world changes.
fn aspects(change: impl FnOnce(&mut PolicySource)) -> Vec<(Aspect, Effect)> {
    let diff = made_by(change);
    let [edge] = &diff.edges[..] else { panic!("{diff}") };
    let EdgeDifference::Changed { aspects } = &edge.difference else {
        panic!("{diff}")
    };
    assert_eq!(edge.effect, Effect::of(aspects.iter().map(|aspect| aspect.effect)));
    aspects.iter().map(|aspect| (aspect.aspect, aspect.effect)).collect()
}

#[test]
fn the_same_policy_differs_in_nothing() {
    let diff = made_by(|_| ());
    assert_eq!(diff, PolicyDiff::default());
    assert!(diff.is_empty());
    assert_eq!(diff.effect(), Effect::Neither);
    assert_eq!(diff.to_string(), "nothing changes\n");
}

#[test]
fn a_closed_edge_says_by_which_rule_and_article() {
    let diff = made_by(|w| w.eu().mechanisms.clear());
    let [edge] = &diff.edges[..] else { panic!("{diff}") };
    let EdgeDifference::Closed { refused } = &edge.difference else {
        panic!("{diff}")
    };
    assert_eq!(
        (refused[0].rule, refused[0].article),
        (Rule::MechanismNotOffered, Some("GDPR Art 44"))
    );
    assert_eq!((edge.effect, diff.effect()), (Effect::Narrows, Effect::Narrows));
    assert_eq!(
        (edge.importer.as_str(), edge.from.as_str(), edge.to.as_str()),
        ("stride-inc", "eu", "us")
    );
}

#[test]
fn an_edge_that_nobody_asks_for_any_more_is_closed_by_no_edge() {
    let diff = made_by(|w| w.stride_eu().classes.clear());
    let EdgeDifference::Closed { refused } = &diff.edges[0].difference else {
        panic!("{diff}")
    };
    assert_eq!(
        refused.iter().map(|denial| denial.rule).collect::<Vec<_>>(),
        [Rule::NoEdge]
    );
}

#[test]
fn an_opened_edge_says_what_refused_it_and_what_it_rests_on_now() {
    let mut before = world();
    before.asked().tia = None;
    let diff = compiled(&before).diff(&compiled(&world()));
    let EdgeDifference::Opened {
        refused_before,
        grounds,
    } = &diff.edges[0].difference
    else {
        panic!("{diff}")
    };
    assert_eq!(refused_before[0].rule, Rule::AssessmentMissing);
    let kinds: Vec<&str> = grounds.iter().map(|ground| ground.kind).collect();
    assert_eq!(kinds, ["mechanism", "validity", "assessment", "consent"]);
    assert_eq!(diff.effect(), Effect::Widens);
}

#[test]
fn refused_before_and_after_is_no_difference() {
    let mut one = world();
    one.asked().tia = None;
    let mut other = world();
    other.eu().mechanisms.clear();
    assert!(compiled(&one).diff(&compiled(&other)).is_empty());
}

#[test]
fn more_fields_purposes_or_time_widen_and_fewer_narrow() {
    use Aspect::{Expires, Fields, Purposes};
    use Effect::{Narrows, Widens};
    let day = SignedDuration::from_hours(24);
    assert_eq!(
        aspects(|w| w.asked().fields.push("duration_sec".into())),
        [(Fields, Widens)]
    );
    assert_eq!(aspects(|w| drop(w.asked().fields.pop())), [(Fields, Narrows)]);
    assert_eq!(
        aspects(|w| w.asked().fields[0] = "duration_sec".into()),
        [(Fields, Widens), (Fields, Narrows)],
        "another field instead is more, whatever it replaces"
    );
    assert_eq!(
        aspects(|w| w.asked().purposes.push(Purpose::Marketing)),
        [(Purposes, Widens)]
    );
    assert_eq!(aspects(|w| w.asked().expires -= day * 300), [(Expires, Narrows)]);
    assert_eq!(
        aspects(|w| w.asked().tia.as_mut().unwrap().review_by += day),
        [(Expires, Widens)],
        "the assessment ends first, so prolonging it prolongs the edge"
    );
}

#[test]
fn an_earlier_end_names_the_rule_that_ends_it() {
    let diff = made_by(|w| w.eu().mechanisms[0].expires = Some(at("2026-12-01T00:00:00Z")));
    let EdgeDifference::Changed { aspects } = &diff.edges[0].difference else {
        panic!("{diff}")
    };
    let Check::Refuses(denial) = &aspects[0].because else {
        panic!("{diff}")
    };
    assert_eq!(denial.rule, Rule::MechanismExpired);
    assert_eq!(aspects[0].after, "2026-12-01T00:00:00Z");
}

#[test]
fn a_protection_given_up_widens_and_one_taken_up_narrows() {
    use Aspect::{NeedsConsent, Onward, Pseudonymise, Purposes};
    use Effect::{Narrows, Widens};
    assert_eq!(aspects(|w| w.asked().pseudonymise = false), [(Pseudonymise, Widens)]);
    assert_eq!(aspects(|w| w.asked().onward = true), [(Onward, Widens)]);
    assert_eq!(
        aspects(|w| w.asked().purposes = vec![Purpose::ServiceProvision]),
        [(Purposes, Widens), (Purposes, Narrows), (NeedsConsent, Widens)]
    );
    assert_eq!(
        aspects(|w| w.asked().art9_condition = Some(Art9Condition::ExplicitConsent)),
        [(Aspect::Art9Condition, Effect::Neither)],
        "consent was needed already"
    );
}

#[test]
fn other_grounds_for_the_same_neither_widen_nor_narrow() {
    let until = |w: &mut PolicySource| w.asked().expires = at("2026-12-24T00:00:00Z");
    let mut before = world();
    until(&mut before);
    let mut after = before.clone();
    cite(&mut after, Mechanism::Certification, DPF);
    after.importer().certifications.push(certification(DPF));
    let diff = compiled(&before).diff(&compiled(&after));
    assert_eq!(diff.effect(), Effect::Neither, "{diff}");
    assert!(
        diff.to_string()
            .contains("mechanism from SCC 'SCC 2021/914 module 1' to Certification 'EU-US DPF'")
    );
}

#[test]
fn another_importer_is_more() {
    assert_eq!(
        aspects(|w| {
            w.parties.insert("other-inc".parse().unwrap(), party("US"));
            w.regions.get_mut("us").unwrap().operated_by = "other-inc".parse().unwrap();
        }),
        [(Aspect::Importer, Effect::Widens)]
    );
    assert_eq!(
        aspects(|w| {
            w.tenants.remove("stride-us");
            w.tenants
                .insert(tenant("stride-usa"), residency("stride-usa", "us", vec![]));
        }),
        [(Aspect::ImporterTenant, Effect::Widens)]
    );
}

fn tenants(diff: &PolicyDiff) -> Vec<(&str, Effect, &TenantDifference)> {
    let changes = diff.tenants.iter();
    changes
        .map(|change| (change.tenant.as_str(), change.effect, &change.difference))
        .collect()
}

#[test]
fn tenants_appear_go_move_and_change_hands() {
    let appeared = made_by(|w| {
        w.tenants.insert(tenant("new"), residency("new", "eu", vec![]));
    });
    let home = || region("eu");
    let difference = TenantDifference::Appeared { home: home() };
    assert_eq!(tenants(&appeared), [("new", Effect::Neither, &difference)]);
    let gone = made_by(|w| drop(w.tenants.remove("stride-eu")));
    let difference = TenantDifference::Gone { home: home() };
    assert_eq!(tenants(&gone)[0], ("stride-eu", Effect::Narrows, &difference));
    assert!(matches!(gone.tenants[1].difference, TenantDifference::Closed { .. }));
    let moved = made_by(|w| w.tenants.get_mut("stride-north").unwrap().spec.home.region = region("eu"));
    assert_eq!((moved.tenants.len(), moved.effect()), (1, Effect::Widens));
    let sold = made_by(|w| w.tenants.get_mut("stride-north").unwrap().spec.organization = "other".parse().unwrap());
    assert_eq!((sold.tenants.len(), sold.effect()), (1, Effect::Widens));
}

#[test]
fn the_first_edge_opens_a_tenant_and_the_last_closes_it_with_the_rule() {
    let diff = made_by(|w| w.eu().mechanisms.clear());
    let [(name, effect, TenantDifference::Closed { refused })] = tenants(&diff)[..] else {
        panic!("{diff}")
    };
    assert_eq!(
        (name, effect, refused[0].rule),
        ("stride-eu", Effect::Narrows, Rule::MechanismNotOffered)
    );
    let mut before = world();
    before.eu().mechanisms.clear();
    let diff = compiled(&before).diff(&compiled(&world()));
    assert_eq!(
        tenants(&diff),
        [("stride-eu", Effect::Widens, &TenantDifference::Opened)]
    );
}

#[test]
fn keeping_longer_widens_and_no_limit_is_longest() {
    let kept = |days: Option<u32>| {
        made_by(|w| {
            w.stride_eu()
                .retention
                .extend(days.map(|days| (DataClass::Location, days)));
        })
    };
    let limit = kept(Some(10));
    assert_eq!(limit.effect(), Effect::Narrows);
    assert!(
        limit
            .to_string()
            .contains("tenant stride-eu keeps location for 10 days instead of no limit (narrows)")
    );
    assert!(kept(None).is_empty());
    let mut before = world();
    before.stride_eu().retention.insert(DataClass::Location, 10);
    let mut after = before.clone();
    after.stride_eu().retention.insert(DataClass::Location, 11);
    let diff = |before, after| compiled(before).diff(&compiled(after)).effect();
    assert_eq!(diff(&before, &after), Effect::Widens);
    assert_eq!(diff(&before, &world()), Effect::Widens);
}

#[test]
fn classes_and_streams_begin_and_cease_to_cross_whoever_the_tenant() {
    let flows = |flows: &[FlowChange]| -> Vec<String> { flows.iter().map(ToString::to_string).collect() };
    let diff = made_by(|w| drop(w.asked().fields.pop()));
    assert_eq!(flows(&diff.classes), Vec::<String>::new());
    assert_eq!(
        flows(&diff.streams),
        ["field distance_meters of workout-summary ceases to go from eu to us"]
    );
    assert!(
        diff.streams[0]
            .because
            .iter()
            .any(|why| why.contains("field-not-allowed"))
    );
    let diff = made_by(|w| w.eu().mechanisms.clear());
    assert_eq!(
        flows(&diff.classes),
        ["class workout-summary ceases to go from eu to us"]
    );
    assert_eq!(diff.streams.len(), 2);
    assert_eq!(
        diff.classes[0].edges,
        BTreeSet::from([edge_id("stride-eu.workout-summary.us")])
    );
    assert!(diff.classes[0].because.iter().all(|why| why.contains("GDPR Art 44")));
}

#[test]
fn a_class_that_another_tenant_still_sends_does_not_cease() {
    let mut before = world();
    let mut other = before.tenants["stride-eu"].clone();
    other.spec.tenant = tenant("stride-two");
    before.tenants.insert(tenant("stride-two"), other);
    let mut after = before.clone();
    after.stride_eu().classes.clear();
    let diff = compiled(&before).diff(&compiled(&after));
    assert_eq!((diff.edges.len(), diff.classes.len(), diff.streams.len()), (1, 0, 0));
}

#[test]
fn what_widens_only_later_is_found_before_it_is_approved() {
    let mut before = world();
    before.asked().tia = None;
    let mut after = world();
    after.eu().mechanisms[0].effective_from = at("2026-12-01T00:00:00Z");
    assert!(
        compiled(&before).diff(&compiled(&after)).is_empty(),
        "today both refuse"
    );
    let found = widenings_with(&before, &after, &fields(), now());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].from, at("2026-12-01T00:00:00Z"));
    assert!(matches!(found[0].change.difference, EdgeDifference::Opened { .. }));
}

#[test]
fn whatever_an_edge_cites_can_begin_later() {
    type Later = fn(&mut PolicySource);
    let begins = "2026-12-01T00:00:00Z";
    let cases: [(&str, Later); 3] = [
        ("the importer's certificate", |w| {
            cite(w, Mechanism::Certification, DPF);
            w.importer().certifications.push(from_december(DPF));
        }),
        ("the exporter's corporate rules", |w| {
            cite(w, Mechanism::Bcr, BCR);
            w.importer().certifications.push(certification(BCR));
            w.exporter().certifications.push(from_december(BCR));
        }),
        ("the mechanism", |w| {
            w.eu().mechanisms[0].effective_from = at("2026-12-01T00:00:00Z")
        }),
    ];
    let mut before = world();
    before.stride_eu().classes.clear();
    for (what, change) in cases {
        let mut after = world();
        change(&mut after);
        let found = widenings_with(&before, &after, &fields(), now());
        assert_eq!(
            found.iter().map(|one| one.from).collect::<Vec<_>>(),
            [at(begins)],
            "{what}"
        );
    }
}

fn from_december(instrument: &str) -> Certification {
    Certification {
        effective_from: at("2026-12-01T00:00:00Z"),
        ..certification(instrument)
    }
}

#[test]
fn an_edge_that_outlives_its_predecessor_widens_when_that_ends() {
    let mut before = world();
    before.asked().fields = vec!["sport_type".into()];
    before.asked().expires = at("2026-12-01T00:00:00Z");
    let mut after = before.clone();
    after.asked().expires = at("2026-12-02T00:00:00Z");
    let found = widenings_with(&before, &after, &fields(), now());
    assert_eq!(found[0].from, now(), "a longer life is granted today");
    assert_eq!(found.len(), 1, "and told once");
}

#[test]
fn narrowing_widens_at_no_moment() {
    let mut after = world();
    after.asked().fields.pop();
    after.asked().expires = at("2026-12-01T00:00:00Z");
    assert_eq!(widenings_with(&world(), &after, &fields(), now()), vec![]);
    assert_eq!(
        widenings_with(&after, &world(), &fields(), now()).len(),
        1,
        "the way back does"
    );
}

/// What a change opens beyond what is held already.
fn opened(held: &CompiledPolicy, change: impl FnOnce(&mut PolicySource)) -> Vec<String> {
    let mut after = world();
    change(&mut after);
    openings(&world(), &after, &edges_of(held), &fields(), now())
}

fn edges_of(policy: &CompiledPolicy) -> HeldPolicy {
    HeldPolicy {
        edges: policy.edges().map(|edge| (edge.id.clone(), edge.clone())).collect(),
        ..HeldPolicy::default()
    }
}

fn nothing_held() -> CompiledPolicy {
    compiled(&PolicySource::default())
}

#[test]
fn what_opens_reads_the_same_at_any_moment_before_it_does() {
    let mut before = world();
    before.stride_eu().classes.clear();
    let mut after = world();
    after.eu().mechanisms[0].effective_from = at("2026-12-01T00:00:00Z");
    let words = |moment| openings(&before, &after, &HeldPolicy::default(), &fields(), moment);
    let today = words(now());
    assert_eq!(today, words(at("2026-12-02T00:00:00Z")));
    assert!(
        today[0].starts_with("edge stride-eu.workout-summary.us opens: "),
        "{today:?}"
    );
}

#[test]
fn what_becomes_wider_is_named_and_what_becomes_narrower_is_not() {
    let words = opened(&nothing_held(), |w| {
        w.asked().fields = vec!["sport_type".into(), "duration_sec".into()];
        w.asked().expires = at("2026-12-01T00:00:00Z");
    });
    assert_eq!(words.len(), 1, "{words:?}");
    assert!(
        words[0].contains("fields from") && !words[0].contains("expires"),
        "{words:?}"
    );
    assert_eq!(
        opened(&nothing_held(), |w| w.asked().expires = at("2026-12-01T00:00:00Z")),
        Vec::<String>::new()
    );
}

#[test]
fn a_tenant_that_moves_in_and_data_that_is_kept_longer_open_something() {
    let words = opened(&nothing_held(), |w| {
        w.tenants
            .insert(tenant("stride-new"), residency("stride-new", "eu-north", vec![]));
        w.stride_eu().retention.insert(DataClass::Health, 90);
    });
    assert_eq!(
        words,
        ["tenant stride-new of stride moves in at eu-north"],
        "90 days are less than no limit"
    );
    let mut before = world();
    before.stride_eu().retention.insert(DataClass::Health, 30);
    let mut after = before.clone();
    after.stride_eu().retention.insert(DataClass::Health, 90);
    let words = openings(&before, &after, &HeldPolicy::default(), &fields(), now());
    assert_eq!(
        words,
        ["tenant stride-eu keeps health for 90 days instead of for 30 days"]
    );
}

#[test]
fn an_edge_that_is_held_already_opens_nothing_as_far_as_it_is_held() {
    let law = |w: &PolicySource| w.jurisdictions["eu"].clone();
    let without = || {
        let mut without = world();
        without.jurisdictions.remove("eu");
        without
    };
    let held = edges_of(&compiled(&world()));
    let mut after = without();
    after.jurisdictions.insert("eu".parse().unwrap(), law(&world()));
    assert_eq!(
        openings(&without(), &after, &held, &fields(), now()),
        Vec::<String>::new()
    );
    assert_eq!(
        openings(&without(), &after, &HeldPolicy::default(), &fields(), now()).len(),
        1
    );
    after.asked().tia.as_mut().unwrap().review_by += SignedDuration::from_hours(24);
    assert_eq!(
        openings(&without(), &after, &held, &fields(), now()).len(),
        1,
        "it would live longer"
    );
}

#[test]
fn a_region_that_passes_to_another_entity_opens_something_while_no_edge_leads_there() {
    let mut before = world();
    before.eu().mechanisms.clear();
    let mut after = before.clone();
    after.regions.get_mut("us").unwrap().operated_by = "stride-europe".parse().unwrap();
    assert_eq!(
        openings(&before, &after, &HeldPolicy::default(), &fields(), now()),
        ["region us passes from stride-inc to stride-europe"]
    );
}

#[test]
fn a_law_that_is_written_anew_is_held_against_what_its_regions_have() {
    let mut before = world();
    before
        .eu()
        .retention
        .insert(DataClass::Health, RetentionLimits::default());
    let policy = compiled(&before).for_region(&region("eu"), PolicyRevision(1)).unwrap();
    let mut home = policy.homes[0].clone();
    home.retention.insert(DataClass::Health, 30);
    let held = HeldPolicy {
        homes: [((region("eu"), home.tenant.clone()), home)].into(),
        ages: [(region("eu"), policy.age_of_digital_consent.unwrap())].into(),
        ..edges_of(&compiled(&before))
    };
    let words = |age, max_days| {
        let (mut without, mut after) = (before.clone(), before.clone());
        without.jurisdictions.remove("eu");
        after.eu().age_of_digital_consent.default = age;
        after.eu().retention.get_mut(&DataClass::Health).unwrap().max_days = Some(max_days);
        openings(&without, &after, &held, &fields(), now())
    };
    assert_eq!(words(16, 30), Vec::<String>::new());
    assert_eq!(
        words(13, 31),
        [
            "jurisdiction eu lets people consent alone at a lower age than until now in region eu",
            "tenant stride-eu keeps health for 31 days instead of for 30 days",
        ]
    );
}

#[test]
fn what_is_asked_for_while_two_tenants_could_receive_opens_at_once() {
    let mut before = world();
    before.stride_eu().classes.clear();
    before
        .tenants
        .insert(tenant("stride-us-2"), residency("stride-us-2", "us", vec![]));
    let mut after = before.clone();
    after.stride_eu().classes = world().stride_eu().classes.clone();
    let words = openings(&before, &after, &HeldPolicy::default(), &fields(), now());
    assert!(
        words[0].starts_with("edge stride-eu.workout-summary.us opens"),
        "{words:?}"
    );
    assert_eq!(
        widenings_with(&before, &after, &fields(), now()),
        vec![],
        "none receives it"
    );
    assert!(openings(&after, &after, &HeldPolicy::default(), &fields(), now()).is_empty());
}

#[test]
fn data_goes_by_the_shorter_of_two_retentions_also_where_one_law_wants_it_longer() {
    let mut approved = world();
    let limits = RetentionLimits {
        min_days: Some(30),
        max_days: Some(90),
    };
    approved.eu().retention.insert(DataClass::Health, limits);
    let mut written = approved.clone();
    written
        .eu()
        .retention
        .insert(DataClass::Health, RetentionLimits::default());
    written.stride_eu().retention.insert(DataClass::Health, 5);
    let days = |policy: CompiledPolicy| {
        let policy = policy.for_region(&region("eu"), PolicyRevision(1)).unwrap();
        policy.homes[0].retention[&DataClass::Health]
    };
    assert_eq!(days(compiled(&approved).within(&compiled(&written))), 5);
    assert_eq!(days(compiled(&written).within(&compiled(&approved))), 5);
}

#[test]
fn a_difference_reads_as_json() {
    let json = serde_json::to_value(made_by(|w| w.eu().mechanisms.clear())).unwrap();
    assert_eq!(json["edges"][0]["edge"], "stride-eu.workout-summary.us");
    assert_eq!(json["edges"][0]["difference"], "closed");
    assert_eq!(json["edges"][0]["refused"][0]["rule"], "mechanism-not-offered");
    assert_eq!(json["edges"][0]["refused"][0]["article"], "GDPR Art 44");
    assert_eq!(json["tenants"][0]["difference"], "closed");
    assert_eq!(json["classes"][0]["effect"], "narrows");
}
