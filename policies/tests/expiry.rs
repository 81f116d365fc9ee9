//! What is about to end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod world;

use jiff::{SignedDuration, Timestamp};
use meridian_policy::*;
use world::*;

const EDGE: &str = "stride-eu.workout-summary.us";

fn in_days(days: i64) -> Timestamp {
    now() + SignedDuration::from_hours(24 * days)
}

/// The warnings of a world after a change, in which nothing ends by itself.
fn warned(change: impl FnOnce(&mut PolicySource)) -> Vec<ExpiryWarning> {
    let mut source = world();
    assert_eq!(expiry_warnings(&source, now()), vec![]);
    change(&mut source);
    expiry_warnings(&source, now())
}

#[test]
fn the_closest_of_sixty_thirty_and_seven_days_counts() {
    let soon = |end: Timestamp| warned(|w| w.asked().expires = end).first().map(|warning| warning.soon);
    let second = SignedDuration::from_secs(1);
    for (days, closest, before) in [
        (60, Some(Soon::Days60), None),
        (30, Some(Soon::Days30), Some(Soon::Days60)),
        (7, Some(Soon::Days7), Some(Soon::Days30)),
    ] {
        assert_eq!(soon(in_days(days)), closest, "{days}");
        assert_eq!(soon(in_days(days) + second), before, "{days} and a second");
    }
    assert_eq!(soon(now() + second), Some(Soon::Days7));
    assert_eq!(soon(now()), None, "what has ended is no warning but a refusal");
}

#[test]
fn a_mechanism_that_ends_names_its_classes_and_edges() {
    let [warning] = &warned(|w| w.eu().mechanisms[0].expires = Some(in_days(20)))[..] else {
        panic!()
    };
    let Ending::Mechanism {
        from,
        to,
        mechanism,
        classes,
        ..
    } = &warning.ending
    else {
        panic!("{warning:?}")
    };
    assert_eq!((from.as_str(), to.as_str(), *mechanism), ("eu", "us", Mechanism::Scc));
    assert_eq!(classes.len(), 2);
    assert_eq!((warning.soon, warning.ends), (Soon::Days30, in_days(20)));
    assert_eq!(warning.edges.iter().map(EdgeId::as_str).collect::<Vec<_>>(), [EDGE]);
}

#[test]
fn a_mechanism_that_nobody_relies_on_warns_without_edges() {
    let warnings = warned(|w| w.eu().mechanisms[1].expires = Some(in_days(20)));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].edges.is_empty());
}

#[test]
fn what_is_renewed_in_time_does_not_end() {
    let renewed = |from: Timestamp, classes: Vec<DataClass>| {
        warned(|w| {
            w.eu().mechanisms[0].expires = Some(in_days(20));
            let again = OfferedMechanism {
                effective_from: from,
                expires: None,
                classes,
                ..w.eu().mechanisms[0].clone()
            };
            w.eu().mechanisms.push(again);
        })
    };
    let both = vec![DataClass::WorkoutSummary, DataClass::SocialGraph];
    assert_eq!(renewed(in_days(20), both.clone()), vec![]);
    assert_eq!(renewed(in_days(21), both).len(), 1, "a day without it is an end");
    let [part] = &renewed(in_days(20), vec![DataClass::WorkoutSummary])[..] else {
        panic!()
    };
    assert!(part.edges.is_empty(), "the class that is not renewed has no edge");
}

#[test]
fn a_renewal_that_ends_itself_renews_until_then() {
    let renewed = |until: Timestamp| {
        warned(|w| {
            w.eu().mechanisms[0].expires = Some(in_days(20));
            let again = OfferedMechanism {
                expires: Some(until),
                ..w.eu().mechanisms[0].clone()
            };
            w.eu().mechanisms.push(again);
        })
    };
    assert_eq!(
        renewed(in_days(100)),
        vec![],
        "the end that counts is more than sixty days away"
    );
    assert_eq!(renewed(in_days(20)).len(), 1, "two that end together are one end");
}

#[test]
fn a_certification_warns_for_the_edges_that_need_it() {
    let held = |until| Certification {
        expires: until,
        ..certification(DPF)
    };
    let warnings = warned(|w| {
        cite(w, Mechanism::Certification, DPF);
        w.importer().certifications.push(held(in_days(5)));
    });
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}")
    };
    assert!(matches!(&warning.ending, Ending::Certification { party, .. } if party.as_str() == "stride-inc"));
    assert_eq!((warning.soon, warning.edges.len()), (Soon::Days7, 1));
    let renewed = warned(|w| {
        cite(w, Mechanism::Certification, DPF);
        w.importer().certifications = vec![held(in_days(5)), held(in_days(500))];
    });
    assert_eq!(renewed, vec![]);
}

#[test]
fn corporate_rules_warn_on_both_sides() {
    let warnings = warned(|w| {
        cite(w, Mechanism::Bcr, BCR);
        let held = Certification {
            expires: in_days(5),
            ..certification(BCR)
        };
        w.exporter().certifications.push(held.clone());
        w.importer().certifications.push(held);
    });
    assert_eq!(
        warnings.iter().map(|warning| warning.edges.len()).collect::<Vec<_>>(),
        [1, 1]
    );
}

#[test]
fn an_assessment_and_an_edge_warn_each_by_itself_soonest_first() {
    let warnings = warned(|w| {
        w.asked().expires = in_days(50);
        w.asked().tia.as_mut().unwrap().review_by = in_days(25);
    });
    let edge = edge_id(EDGE);
    assert_eq!(
        warnings
            .iter()
            .map(|warning| (&warning.ending, warning.soon))
            .collect::<Vec<_>>(),
        [
            (&Ending::Assessment { edge: edge.clone() }, Soon::Days30),
            (&Ending::Edge { edge }, Soon::Days60),
        ]
    );
}

#[test]
fn a_warning_is_json() {
    let warnings = warned(|w| w.asked().expires = in_days(50));
    let json = serde_json::to_value(&warnings[0]).unwrap();
    assert_eq!(json["what"], "edge");
    assert_eq!(json["soon"], "60-days");
    assert_eq!(json["edges"][0], EDGE);
}

#[test]
fn a_tenant_and_both_of_an_edges_regions_are_warned_and_nobody_else() {
    let mut source = world();
    source.asked().expires = in_days(50);
    // Nobody relies on it: no edge, no warning.
    source.eu().mechanisms[1].expires = Some(in_days(20));
    let policy = compiled(&source);
    let edges = |instruments: Instruments| -> Vec<String> {
        assert!(instruments.lapsed.is_empty());
        let ending = instruments.ending.iter();
        ending
            .flat_map(|warning| &warning.edges)
            .map(ToString::to_string)
            .collect()
    };
    let of = |name: &str| edges(policy.instruments_of(&name.parse().unwrap(), now()));
    let within = |name: &str| edges(policy.instruments_in(&name.parse().unwrap(), now()));
    assert_eq!(
        (of("stride-eu"), within("eu"), within("us")),
        (vec![EDGE.to_owned()], vec![EDGE.to_owned()], vec![EDGE.to_owned()])
    );
    assert_eq!(
        (of("stride-us"), of("nobody"), within("nowhere")),
        (vec![], vec![], vec![])
    );
}

#[test]
fn what_has_ended_has_lapsed() {
    let mut source = world();
    source.asked().tia.as_mut().unwrap().review_by = now();
    let instruments = compiled(&source).instruments_of(&"stride-eu".parse().unwrap(), now());
    assert_eq!(instruments.lapsed[&edge_id(EDGE)].rule, Rule::AssessmentStale);
    source.asked().tia = None;
    let instruments = compiled(&source).instruments_of(&"stride-eu".parse().unwrap(), now());
    assert!(instruments.lapsed.is_empty(), "what was never there has not ended");
}

#[test]
fn the_policy_is_looked_at_anew_when_a_warning_begins() {
    let mut source = world();
    source.asked().expires = in_days(100);
    let policy = compiled(&source);
    for (at, next) in [(0, 40), (40, 70), (70, 93), (93, 100)] {
        assert_eq!(policy.next_look(in_days(at)), Some(in_days(next)), "at {at}");
    }
}
