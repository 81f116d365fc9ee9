//! Rule by rule: the world allows one edge; each change takes one ground away, and names the rule.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod world;

use std::collections::BTreeSet;

use meridian_policy::*;
use world::*;

#[test]
fn the_lawful_edge_is_allowed_with_its_grounds() {
    let Decision::Allow(permission) = compiled(&world()).decide(&question()) else {
        panic!("refused")
    };
    let (edge, grounds) = (permission.edge(), permission.grounds());
    assert_eq!(edge.id.as_str(), "stride-eu.workout-summary.us");
    assert_eq!(edge.importer_tenant.as_str(), "stride-us");
    assert_eq!(
        (edge.exporter.as_str(), edge.importer.as_str()),
        ("stride-europe", "stride-inc")
    );
    assert!(edge.needs_consent && edge.pseudonymise && !edge.onward);
    for kind in ["mechanism", "purpose", "validity", "assessment", "consent"] {
        assert!(grounds.iter().any(|ground| ground.kind == kind), "no {kind}");
    }
}

#[test]
fn an_edge_to_its_own_home_is_refused() {
    let mut source = world();
    source.asked().region = region("eu");
    let id = edge_id("stride-eu.workout-summary.eu");
    assert_eq!(compiled(&source).refusals_of(&id)[0].rule, Rule::HomeNamedAsTarget);
    let asked = compiled(&world()).decide(&Question {
        to: region("eu"),
        ..question()
    });
    assert_eq!(asked.refused_by(), Some(Rule::HomeNamedAsTarget));
    let Decision::Deny { reason, .. } = asked else {
        panic!("{asked:?}")
    };
    assert_eq!(
        reason.to_string(),
        "eu is the home of stride-eu: nothing is transferred there"
    );
}

#[test]
fn a_region_that_does_not_exist_is_refused() {
    assert_eq!(refused(|w| drop(w.regions.remove("us"))), Rule::UnknownRegion);
    assert_eq!(refused(|w| drop(w.regions.remove("eu"))), Rule::UnknownRegion);
}

#[test]
fn a_jurisdiction_that_does_not_exist_is_refused() {
    assert_eq!(
        refused(|w| drop(w.jurisdictions.remove("us"))),
        Rule::UnknownJurisdiction
    );
    assert_eq!(
        refused(|w| drop(w.jurisdictions.remove("eu"))),
        Rule::UnknownJurisdiction
    );
}

#[test]
fn a_party_that_does_not_exist_is_refused() {
    assert_eq!(refused(|w| drop(w.parties.remove("stride-inc"))), Rule::UnknownParty);
    assert_eq!(refused(|w| drop(w.parties.remove("stride-europe"))), Rule::UnknownParty);
}

#[test]
fn without_a_tenant_to_receive_it_nothing_goes() {
    assert_eq!(refused(|w| drop(w.tenants.remove("stride-us"))), Rule::TenantUnknown);
    assert_eq!(
        refused(|w| {
            let stranger = w.tenants.get_mut("stride-us").unwrap();
            stranger.spec.organization = "other".parse().unwrap();
        }),
        Rule::TenantUnknown,
        "a tenant of another organization never receives it"
    );
}

#[test]
fn two_possible_receivers_are_one_too_many() {
    assert_eq!(
        refused(|w| drop(
            w.tenants
                .insert(tenant("stride-us-2"), residency("stride-us-2", "us", vec![]))
        )),
        Rule::TenantUnknown
    );
}

#[test]
fn a_tenant_that_does_not_exist_is_refused() {
    let question = Question {
        tenant: tenant("nobody"),
        ..question()
    };
    assert_eq!(
        compiled(&world()).decide(&question).refused_by(),
        Some(Rule::TenantUnknown)
    );
}

#[test]
fn a_residency_filed_under_another_tenants_name_carries_nothing() {
    let mut source = world();
    source.stride_eu().tenant = tenant("stride-us");
    assert_eq!(compiled(&source).edges().count(), 0);
    assert_eq!(
        compiled(&source)
            .for_region(&region("eu"), PolicyRevision(1))
            .unwrap()
            .homes,
        vec![]
    );
}

#[test]
fn a_mechanism_that_the_home_does_not_offer_is_refused() {
    assert_eq!(refused(|w| w.eu().mechanisms.clear()), Rule::MechanismNotOffered);
    assert_eq!(
        refused(|w| w.asked().mechanism = Mechanism::Adequacy),
        Rule::MechanismNotOffered
    );
    assert_eq!(
        refused(|w| w.asked().instrument = "SCC 2010/87".into()),
        Rule::MechanismNotOffered
    );
    assert_eq!(
        refused(|w| w.eu().mechanisms[0].to = "uk".parse().unwrap()),
        Rule::MechanismNotOffered
    );
}

#[test]
fn the_targets_offers_do_not_help_the_exporter() {
    assert_eq!(
        refused(|w| {
            let offers = std::mem::take(&mut w.eu().mechanisms);
            w.jurisdictions.get_mut("us").unwrap().mechanisms = offers;
        }),
        Rule::MechanismNotOffered
    );
}

#[test]
fn a_class_that_the_mechanism_does_not_list_is_refused() {
    assert_eq!(
        refused(|w| w.eu().mechanisms[0].classes = vec![DataClass::SocialGraph]),
        Rule::ClassNotListed
    );
}

#[test]
fn health_data_to_us_names_the_class_and_the_article() {
    let mut source = world();
    source.asked_class(DataClass::Health);
    source.asked().fields = vec!["hr".into()];
    source.asked().art9_condition = Some(Art9Condition::ExplicitConsent);
    let decision = compiled(&source).decide(&Question {
        class: DataClass::Health,
        fields: BTreeSet::from(["hr".to_owned()]),
        ..question()
    });
    let Decision::Deny { rule, reason, article } = decision else {
        panic!("allowed")
    };
    assert_eq!((rule, article), (Rule::ClassNotListed, Some("GDPR Art 44")));
    assert!(
        reason
            .to_string()
            .starts_with("health of stride-eu may not go from eu to us"),
        "{reason}"
    );
}

#[test]
fn a_mechanism_holds_from_its_first_to_before_its_last_moment() {
    assert_eq!(
        refused(|w| w.eu().mechanisms[0].effective_from = at("2026-11-01T00:00:01Z")),
        Rule::MechanismNotInForce
    );
    assert_eq!(
        refused(|w| w.eu().mechanisms[0].expires = Some(now())),
        Rule::MechanismExpired
    );
    let mut source = world();
    source.eu().mechanisms[0].effective_from = now();
    source.eu().mechanisms[0].expires = Some(at("2026-11-01T00:00:01Z"));
    assert!(compiled(&source).decide(&question()).is_allowed());
}

#[test]
fn a_review_date_of_a_mechanism_is_for_people_and_stops_nothing() {
    let mut source = world();
    source.eu().mechanisms[0].review_by = Some(at("2020-01-01T00:00:00Z"));
    assert!(compiled(&source).decide(&question()).is_allowed());
}

#[test]
fn a_tenants_own_expiry_counts() {
    assert_eq!(refused(|w| w.asked().expires = now()), Rule::MechanismExpired);
}

#[test]
fn clauses_and_corporate_rules_need_an_assessment() {
    assert_eq!(refused(|w| w.asked().tia = None), Rule::AssessmentMissing);
    assert_eq!(
        refused(|w| w.asked().tia.as_mut().unwrap().review_by = now()),
        Rule::AssessmentStale,
        "an assessment that is due today is due"
    );
    assert_eq!(
        refused(|w| {
            certify_both(w);
            cite(w, Mechanism::Bcr, BCR);
            w.asked().tia = None;
        }),
        Rule::AssessmentMissing
    );
}

fn certify_both(source: &mut PolicySource) {
    source.importer().certifications.push(certification(BCR));
    source.exporter().certifications.push(certification(BCR));
}

#[test]
fn a_certification_is_the_importers_own_and_current() {
    let cite_dpf = |w: &mut PolicySource| cite(w, Mechanism::Certification, DPF);
    assert_eq!(refused(cite_dpf), Rule::PartyNotCertified);
    assert_eq!(
        refused(|w| {
            cite_dpf(w);
            w.exporter().certifications.push(certification(DPF));
        }),
        Rule::PartyNotCertified,
        "the exporter's does not help"
    );
    assert_eq!(
        refused(|w| {
            cite_dpf(w);
            w.importer().certifications.push(certification("UK Extension"));
        }),
        Rule::PartyNotCertified
    );
    for (from, until) in [
        ("2020-01-01T00:00:00Z", "2026-11-01T00:00:00Z"),
        ("2026-11-02T00:00:00Z", "2028-01-01T00:00:00Z"),
    ] {
        assert_eq!(
            refused(|w| {
                cite_dpf(w);
                let held = Certification {
                    effective_from: at(from),
                    expires: at(until),
                    ..certification(DPF)
                };
                w.importer().certifications.push(held);
            }),
            Rule::PartyNotCertified
        );
    }
    let mut source = world();
    cite_dpf(&mut source);
    source.asked().tia = None;
    source.importer().certifications.push(certification(DPF));
    assert!(compiled(&source).decide(&question()).is_allowed());
}

#[test]
fn corporate_rules_bind_both_sides() {
    let mut source = world();
    cite(&mut source, Mechanism::Bcr, BCR);
    certify_both(&mut source);
    assert!(compiled(&source).decide(&question()).is_allowed());
    source.exporter().certifications[0].expires = at("2026-12-01T00:00:00Z");
    let expires = compiled(&source).edges().next().map(|edge| edge.expires);
    assert_eq!(expires, Some(at("2026-12-01T00:00:00Z")), "with the first of the two");
    source.exporter().certifications.clear();
    assert_eq!(
        compiled(&source).decide(&question()).refused_by(),
        Some(Rule::PartyNotCertified)
    );
}

#[test]
fn a_derogation_is_never_systematic_even_when_offered() {
    assert_eq!(
        refused(|w| cite(w, Mechanism::Art49Derogation, "Art 49(1)(a)")),
        Rule::DerogationNeverSystematic
    );
}

#[test]
fn consent_to_share_is_not_consent_to_an_unsafe_transfer() {
    let mut source = world();
    cite(&mut source, Mechanism::Art49Derogation, "Art 49(1)(a)");
    let rules: Vec<Rule> = compiled(&source)
        .refusals_of(&edge_id("stride-eu.workout-summary.us"))
        .iter()
        .map(|denial| denial.rule)
        .collect();
    assert!(rules.contains(&Rule::ConsentIsNotArt49), "{rules:?}");
}

#[test]
fn what_no_edge_carries_stays() {
    let decision = compiled(&world()).decide(&Question {
        class: DataClass::SocialGraph,
        ..question()
    });
    assert_eq!(
        decision.refused_by(),
        Some(Rule::NoEdge),
        "the mechanism lists it, but the tenant did not ask for it"
    );
    let back = Question {
        tenant: tenant("stride-us"),
        to: region("eu"),
        ..question()
    };
    assert_eq!(
        compiled(&world()).decide(&back).refused_by(),
        Some(Rule::NoEdge),
        "an edge has one direction"
    );
}

#[test]
fn an_edge_written_twice_carries_nothing() {
    assert_eq!(
        refused(|w| {
            let again = w.asked().clone();
            w.stride_eu().classes[0].replicate_to.push(again);
        }),
        Rule::Duplicate
    );
    assert_eq!(
        refused(|w| {
            let again = w.stride_eu().classes[0].clone();
            w.stride_eu().classes.push(again);
        }),
        Rule::Duplicate
    );
}

#[test]
fn inside_one_jurisdiction_no_mechanism_is_needed_and_everything_else_is() {
    let mut source = world();
    source.asked().region = region("eu-north");
    cite(&mut source, Mechanism::NotRestricted, "inside eu");
    source.asked().tia = None;
    let question = Question {
        to: region("eu-north"),
        ..question()
    };
    assert!(compiled(&source).decide(&question).is_allowed());
    source.asked().fields.push("hr".into());
    assert_eq!(
        compiled(&source).decide(&question).refused_by(),
        Some(Rule::FieldNotAllowed)
    );
    source.asked().fields.pop();
    source.asked().mechanism = Mechanism::Scc;
    assert_eq!(
        compiled(&source).decide(&question).refused_by(),
        Some(Rule::MechanismNotOffered)
    );
}

#[test]
fn not_restricted_across_a_border_must_be_offered() {
    assert_eq!(
        refused(|w| cite(w, Mechanism::NotRestricted, "none")),
        Rule::MechanismNotOffered
    );
    let mut source = world();
    cite(&mut source, Mechanism::NotRestricted, "none");
    source.eu().mechanisms.push(offer(
        "us",
        Mechanism::NotRestricted,
        "none",
        &[DataClass::WorkoutSummary],
    ));
    assert!(compiled(&source).decide(&question()).is_allowed());
}

#[test]
fn an_edge_ends_with_whatever_ends_first_and_says_what_did() {
    type Case = (&'static str, fn(&mut PolicySource), Rule);
    let cases: [Case; 4] = [
        (
            "mechanism",
            |w| w.eu().mechanisms[0].expires = Some(at("2026-12-01T00:00:00Z")),
            Rule::MechanismExpired,
        ),
        (
            "tenant",
            |w| w.asked().expires = at("2026-12-01T00:00:00Z"),
            Rule::MechanismExpired,
        ),
        (
            "assessment",
            |w| w.asked().tia.as_mut().unwrap().review_by = at("2026-12-01T00:00:00Z"),
            Rule::AssessmentStale,
        ),
        (
            "certification",
            |w| {
                cite(w, Mechanism::Certification, DPF);
                let held = Certification {
                    expires: at("2026-12-01T00:00:00Z"),
                    ..certification(DPF)
                };
                w.importer().certifications.push(held);
            },
            Rule::PartyNotCertified,
        ),
    ];
    for (what, change, rule) in cases {
        let mut source = world();
        change(&mut source);
        let policy = compiled(&source);
        let edge = policy.edge(&edge_id("stride-eu.workout-summary.us")).unwrap();
        assert_eq!(edge.expires, at("2026-12-01T00:00:00Z"), "{what}");
        assert_eq!(edge.lawful_at(at("2026-11-30T23:59:59Z")), Ok(()), "{what}");
        assert_eq!(edge.lawful_at(edge.expires).unwrap_err().rule, rule, "{what}");
        assert_eq!(
            policy
                .decide(&Question {
                    now: edge.expires,
                    ..question()
                })
                .refused_by(),
            Some(rule),
            "{what}: without compiling again"
        );
    }
}

#[test]
fn an_edge_is_not_lawful_before_it_began() {
    let policy = compiled(&world());
    let early = at("2021-06-26T23:59:59Z");
    let edge = policy.edge(&edge_id("stride-eu.workout-summary.us")).unwrap();
    assert_eq!(edge.lawful_at(early).unwrap_err().rule, Rule::MechanismNotInForce);
}

#[test]
fn a_law_without_articles_cites_none() {
    let mut source = world();
    source.eu().framework = LegalFramework::Other;
    source.eu().mechanisms.clear();
    let decision = compiled(&source).decide(&question());
    assert!(matches!(decision, Decision::Deny { article: None, .. }), "{decision:?}");
}

#[test]
fn a_stale_policy_and_an_unknown_class_are_refusals_too() {
    assert_eq!(Denial::policy_stale().rule, Rule::PolicyStale);
    assert!(Denial::unknown_class("moods").reason.contains("'moods'"));
}

#[test]
fn of_two_offers_that_say_the_same_the_one_that_ends_last_counts() {
    let mut source = world();
    let again = OfferedMechanism {
        expires: Some(at("2027-01-01T00:00:00Z")),
        ..source.eu().mechanisms[0].clone()
    };
    source.eu().mechanisms[0].expires = Some(at("2027-02-01T00:00:00Z"));
    source.eu().mechanisms.push(again);
    let expires = |source: &PolicySource| compiled(source).edges().next().unwrap().expires;
    assert_eq!(expires(&source), at("2027-02-01T00:00:00Z"));
    source.eu().mechanisms.pop();
    assert_eq!(
        expires(&source),
        at("2027-02-01T00:00:00Z"),
        "taking one away never prolongs an edge"
    );
}

#[test]
fn a_mechanism_that_is_still_to_come_says_when_first() {
    let mut source = world();
    let offered = source.eu().mechanisms[0].clone();
    let later = |day: &str| OfferedMechanism {
        effective_from: at(day),
        ..offered.clone()
    };
    source.eu().mechanisms = vec![later("2026-12-24T00:00:00Z"), later("2026-12-01T00:00:00Z")];
    let policy = compiled(&source);
    let reason = &policy.refusals_of(&edge_id("stride-eu.workout-summary.us"))[0].reason;
    assert!(reason.ends_with("only from 2026-12-01T00:00:00Z"), "{reason}");
}
