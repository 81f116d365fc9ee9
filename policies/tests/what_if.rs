//! What would change if something were so.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod world;

use meridian_policy::*;
use proptest::prelude::*;
use world::generated::lawful_world;
use world::*;

fn asked(text: &str) -> WhatIf {
    WhatIf::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn answered(source: &PolicySource, text: &str) -> WhatIfAnswer {
    what_if_with(source, &fields(), &asked(text), now()).unwrap_or_else(|error| panic!("{error}"))
}

/// The edges that close, each with the rules that refuse it.
fn closed(answer: &WhatIfAnswer) -> Vec<(String, Vec<Rule>)> {
    let closed = answer.diff.edges.iter().map(|change| match &change.difference {
        EdgeDifference::Closed { refused } => (
            change.edge.to_string(),
            refused.iter().map(|denial| denial.rule).collect(),
        ),
        other => panic!("{other:?}"),
    });
    closed.collect()
}

fn edge(name: &str, rule: Rule) -> (String, Vec<Rule>) {
    (name.to_owned(), vec![rule])
}

#[test]
fn an_annulled_adequacy_decision_closes_what_rests_on_it_with_the_article() {
    let answer = answered(
        &lawful_world(),
        "hypotheses: [{mechanismAnnulled: {from: eu, to: us, mechanism: Adequacy}}]",
    );
    assert_eq!(
        closed(&answer),
        [edge("stride-eu.health.us", Rule::MechanismNotOffered)]
    );
    assert_eq!(answer.effect, Effect::Narrows);
    let [impact] = &answer.importers[..] else {
        panic!("{answer}")
    };
    assert_eq!(impact.importer.as_str(), "stride-inc");
    assert!(impact.tenants.contains("stride-eu") && impact.classes.contains(&DataClass::Health));
    assert!(answer.to_string().contains("(GDPR Art 44)"), "{answer}");
}

#[test]
fn a_mechanism_is_annulled_by_name_or_from_everywhere() {
    let one = "hypotheses: [{mechanismAnnulled: {to: us, instrument: EU-US DPF}}]";
    assert_eq!(
        closed(&answered(&lawful_world(), one)),
        [edge("stride-eu.training-content.us", Rule::MechanismNotOffered)]
    );
    let all = "hypotheses: [{mechanismAnnulled: {to: us}}]";
    assert_eq!(
        answered(&lawful_world(), all).diff.edges.len(),
        5,
        "what stays inside eu stays"
    );
}

#[test]
fn a_party_that_loses_its_certificate_loses_the_edges_that_need_it() {
    let one = "hypotheses: [{certificationLost: {party: stride-inc, instrument: EU-US DPF}}]";
    assert_eq!(
        closed(&answered(&lawful_world(), one)),
        [edge("stride-eu.training-content.us", Rule::PartyNotCertified)]
    );
    let all = "hypotheses: [{certificationLost: {party: stride-inc}}]";
    assert_eq!(
        answered(&lawful_world(), all).diff.edges.len(),
        2,
        "corporate rules too"
    );
}

#[test]
fn an_instrument_that_expires_takes_every_edge_that_cites_it() {
    let text = "hypotheses: [{instrumentExpires: {instrument: SCC 2021/914 module 1, on: '2026-12-01T00:00:00Z'}}]";
    let answer = answered(&lawful_world(), text);
    let names: Vec<String> = closed(&answer).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["stride-eu.social-graph.us", "stride-eu.workout-summary.us"]);
    assert_eq!(
        (answer.before, answer.after),
        (at("2026-12-01T00:00:00Z"), at("2026-12-01T00:00:00Z"))
    );
    assert!(closed(&answer)[0].1.contains(&Rule::MechanismExpired));
}

#[test]
fn only_the_hypothesis_makes_the_difference() {
    let mut source = lawful_world();
    source.stride_eu().classes[1].replicate_to[0].expires = at("2026-11-15T00:00:00Z");
    let text = "hypotheses: [{instrumentExpires: {instrument: EU-US DPF, on: '2026-12-01T00:00:00Z'}}]";
    let names: Vec<String> = closed(&answered(&source, text))
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        names,
        ["stride-eu.training-content.us"],
        "the edge that ends by itself before then is not blamed on it"
    );
}

#[test]
fn time_that_passes_ends_what_nobody_prolongs() {
    let text = "hypotheses: [{asOf: {moment: '2027-01-01T00:00:00Z'}}]";
    let answer = answered(&lawful_world(), text);
    assert_eq!(
        closed(&answer),
        [
            edge("stride-eu.operational.us", Rule::PartyNotCertified),
            edge("stride-eu.training-content.us", Rule::PartyNotCertified),
        ]
    );
    assert_eq!((answer.before, answer.after), (now(), at("2027-01-01T00:00:00Z")));
}

#[test]
fn a_new_offer_opens_what_was_asked_for_and_waits() {
    let mut source = world();
    source.eu().mechanisms.clear();
    let text = "hypotheses: [{mechanismOffered: {from: eu, to: us, mechanism: SCC, \
                instrument: SCC 2021/914 module 1, classes: [workout-summary]}}]";
    let answer = answered(&source, text);
    let [change] = &answer.diff.edges[..] else {
        panic!("{answer}")
    };
    let EdgeDifference::Opened { refused_before, .. } = &change.difference else {
        panic!("{answer}")
    };
    assert_eq!(refused_before[0].rule, Rule::MechanismNotOffered);
    assert_eq!(answer.effect, Effect::Widens);
}

#[test]
fn an_offer_from_a_later_date_is_looked_at_when_it_is_in_force() {
    let mut source = world();
    source.eu().mechanisms.clear();
    let from = at("2027-01-01T00:00:00Z");
    let offered = "mechanismOffered: {from: eu, to: us, mechanism: SCC, instrument: SCC 2021/914 module 1, \
                   classes: [workout-summary], effectiveFrom: '2027-01-01T00:00:00Z'}";
    let answer = answered(&source, &format!("hypotheses: [{{{offered}}}]"));
    assert_eq!((answer.before, answer.after), (from, from));
    assert_eq!(answer.effect, Effect::Widens);
    let [change] = &answer.diff.edges[..] else {
        panic!("{answer}")
    };
    assert!(matches!(change.difference, EdgeDifference::Opened { .. }), "{answer}");

    let too_soon = answered(
        &source,
        &format!("hypotheses: [{{{offered}}}, {{asOf: {{moment: '2026-12-31T00:00:00Z'}}}}]"),
    );
    assert!(too_soon.diff.edges.is_empty(), "{too_soon}");
}

#[test]
fn hypotheses_hold_together() {
    let text = "
hypotheses:
  - mechanismAnnulled: {from: eu, to: us, mechanism: SCC}
  - mechanismOffered:
      from: eu
      to: us
      mechanism: SCC
      instrument: SCC 2021/914 module 1
      classes: [social-graph]
";
    assert_eq!(
        closed(&answered(&lawful_world(), text)),
        [edge("stride-eu.workout-summary.us", Rule::ClassNotListed)]
    );
}

#[test]
fn nothing_supposed_leaves_the_source_alone() {
    let source = lawful_world();
    let before = source.clone();
    answered(&source, "hypotheses: [{mechanismAnnulled: {to: us}}]");
    assert_eq!(source, before);
}

fn refused(text: &str) -> String {
    match WhatIf::parse(text) {
        Ok(asked) => what_if_with(&world(), &fields(), &asked, now())
            .unwrap_err()
            .to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_does_not_parse_names_the_field_and_what_is_allowed() {
    let cases = [
        ("hypotheses: []", vec!["hypotheses: 0 are given; 1 to 16"]),
        ("{}", vec!["missing field `hypotheses`"]),
        (
            "hypotheses: [{asOff: {moment: x}}]",
            vec!["hypotheses[0]", "unknown variant `asOff`", "`asOf`"],
        ),
        (
            "hypotheses: [{mechanismAnnulled: {to: us, form: eu}}]",
            vec!["hypotheses[0].mechanismAnnulled", "unknown field `form`", "`from`"],
        ),
        (
            "hypotheses: [{mechanismAnnulled: {to: 'U S'}}]",
            vec![
                "hypotheses[0].mechanismAnnulled.to",
                "not a valid jurisdiction name",
                "1 to 40 characters",
            ],
        ),
        (
            "hypotheses: [{mechanismAnnulled: {to: us, mechanism: Handshake}}]",
            vec!["hypotheses[0].mechanismAnnulled.mechanism", "one of Adequacy SCC"],
        ),
        (
            "hypotheses: [{asOf: {moment: tomorrow}}]",
            vec!["hypotheses[0].asOf.moment"],
        ),
        (
            "hypotheses: [{mechanismOffered: {from: eu, to: us, mechanism: SCC, instrument: x, classes: []}}]",
            vec!["hypotheses[0].mechanismOffered.classes", "1 to 18 classes"],
        ),
        (
            "hypotheses: [{instrumentExpires: {instrument: '', on: '2027-01-01T00:00:00Z'}}]",
            vec!["hypotheses[0].instrumentExpires.instrument", "1 to 120 characters"],
        ),
        (
            "hypotheses: [{asOf: {moment: a, moment: b}}]",
            vec!["the text", "duplicate"],
        ),
        (": [", vec!["the text"]),
    ];
    for (text, expected) in cases {
        let refusal = refused(text);
        for part in expected {
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
    }
}

#[test]
fn what_strikes_nothing_is_an_error_that_says_what_there_is() {
    let cases = [
        (
            "hypotheses: [{mechanismAnnulled: {from: mars, to: us}}]",
            vec![
                "hypotheses[0].mechanismAnnulled.from",
                "no jurisdiction 'mars'",
                "eu, us",
            ],
        ),
        (
            "hypotheses: [{mechanismAnnulled: {from: eu, to: us, mechanism: IDTA}}]",
            vec![
                "mechanismAnnulled.mechanism",
                "no mechanism 'IDTA'",
                "Certification 'EU-US DPF'",
            ],
        ),
        (
            "hypotheses: [{certificationLost: {party: stride-inc}}]",
            vec!["certificationLost.party", "there is: none"],
        ),
        (
            "hypotheses: [{certificationLost: {party: nobody}}]",
            vec!["no party 'nobody'", "stride-europe, stride-inc"],
        ),
        (
            "hypotheses: [{instrumentExpires: {instrument: contract 42, on: '2027-01-01T00:00:00Z'}}]",
            vec!["instrumentExpires.instrument", "'contract 42'", SCC],
        ),
        (
            "hypotheses: [{asOf: {moment: '2026-10-01T00:00:00Z'}}]",
            vec!["asOf.moment", "is not after 2026-11-01T00:00:00Z"],
        ),
        (
            "hypotheses: [{asOf: {moment: '2027-10-01T00:00:00Z'}}, {asOf: {moment: '2028-10-01T00:00:00Z'}}]",
            vec!["asOf is given twice"],
        ),
    ];
    for (text, expected) in cases {
        let refusal = refused(text);
        for part in expected {
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
    }
}

#[test]
fn of_many_names_the_first_twenty_are_listed_and_the_rest_counted() {
    let refusal = |count: usize| {
        let mut source = world();
        source.parties.clear();
        for number in 0..count {
            source
                .parties
                .insert(format!("party-{number:02}").parse().unwrap(), party("US"));
        }
        let asked = asked("hypotheses: [{certificationLost: {party: nobody}}]");
        what_if_with(&source, &fields(), &asked, now()).unwrap_err().to_string()
    };
    assert!(refusal(20).ends_with("party-18, party-19"), "{}", refusal(20));
    assert!(refusal(21).ends_with("party-19 and 1 more"), "{}", refusal(21));
}

#[test]
fn what_is_too_much_is_refused_before_it_is_read() {
    let many = format!("hypotheses: [{}]", "{mechanismAnnulled: {to: us}}, ".repeat(17));
    assert!(refused(&many).contains("17 are given"), "{}", refused(&many));
    let long = "#".repeat(16 * 1024 + 1);
    assert!(refused(&long).contains("at most 16384"), "{}", refused(&long));
    let built = WhatIf { hypotheses: vec![] };
    assert!(
        what_if(&world(), &built, now()).is_err(),
        "also when it was not read from text"
    );
}

#[test]
fn json_is_read_like_yaml_and_an_answer_is_json() {
    let text = r#"{"hypotheses": [{"mechanismAnnulled": {"from": "eu", "to": "us"}}]}"#;
    let answer = answered(&world(), text);
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json["hypotheses"][0]["mechanismAnnulled"]["from"], "eu");
    assert_eq!(json["importers"][0]["importer"], "stride-inc");
    assert_eq!(json["importers"][0]["edges"][0]["refused"][0]["article"], "GDPR Art 44");
}

#[test]
fn what_is_nested_too_deep_or_repeats_itself_without_end_is_refused() {
    let deep = format!("hypotheses: {}", "[".repeat(10_000));
    assert!(refused(&deep).contains("the text"));
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let inner = level - 1;
        laughs.push_str(&format!(
            "a{level}: &a{level} [{}]\n",
            format!("*a{inner}, ").repeat(10)
        ));
    }
    assert!(refused(&laughs).contains("the text"), "{}", refused(&laughs));
}

/// A text that is of the form, before something happens to it.
const OF_THE_FORM: &str = "hypotheses:
  - mechanismAnnulled: {from: eu, to: us, mechanism: SCC, instrument: SCC 2021/914 module 1}
  - certificationLost: {party: stride-inc, instrument: EU-US DPF}
  - instrumentExpires: {instrument: EU-US DPF, on: '2026-12-01T00:00:00Z'}
  - mechanismOffered: {from: eu, to: us, mechanism: BCR, instrument: x, classes: [health], effectiveFrom: '2026-12-01T00:00:00Z'}
  - asOf: {moment: '2026-12-01T00:00:00Z'}
";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn no_text_breaks_the_parser(text in any::<String>()) {
        let _ = WhatIf::parse(&text);
    }

    #[test]
    fn what_parses_is_answered_or_refused_and_reads_back(
        at in 0..OF_THE_FORM.len(),
        cut in 0usize..12,
        put in "[a-z{}:,\\[\\]'0-9 -]{0,6}",
    ) {
        let mut text = OF_THE_FORM.to_owned();
        text.replace_range(at..(at + cut).min(OF_THE_FORM.len()), &put);
        if let Ok(asked) = WhatIf::parse(&text) {
            let _ = what_if_with(&world(), &fields(), &asked, now());
            let again = WhatIf::parse(&serde_json::to_string(&asked).unwrap()).unwrap();
            prop_assert_eq!(asked, again);
        }
    }
}
