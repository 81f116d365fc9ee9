//! Reports: what was observed, held against what the chain and the policy declare.
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

use jiff::{SignedDuration, Timestamp};
use meridian_evidence::report::{Direction, Observed, Report};
use meridian_evidence::{Entry, Kind};
use meridian_policy::RegionPolicy;
use serde_json::{Value, json};
use uuid::Uuid;

const EDGE: &str = "stride-eu.workout-summary.us";

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn entry(second: i64, kind: Kind) -> Entry {
    Entry {
        tenant: text("stride-eu"),
        edge: text(EDGE),
        revision: Some(4),
        ..Entry::new(
            Uuid::nil(),
            Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second),
            kind,
        )
    }
}

fn along(entry: Entry) -> Entry {
    Entry {
        from: text("eu"),
        to: text("us"),
        exporter: text("stride-europe"),
        importer: text("stride-america"),
        class: text("workout-summary"),
        purpose: text("cross-border-sharing"),
        mechanism: text("Certification"),
        instrument: text("eu-us-dpf"),
        ..entry
    }
}

fn opened() -> Entry {
    Entry {
        rule: text("opened"),
        ..along(entry(0, Kind::PolicyChange))
    }
}

fn cut(second: i64) -> Entry {
    Entry {
        rule: text("cut:no-edge"),
        ..entry(second, Kind::PolicyChange)
    }
}

fn sent(second: i64) -> Entry {
    Entry {
        count: Some(2),
        bytes: Some(1000),
        ..along(entry(second, Kind::Transfer))
    }
}

fn policy(edges: Value) -> RegionPolicy {
    serde_json::from_value(json!({
        "region": "eu", "jurisdiction": "eu", "revision": 4, "public_url": "https://eu", "issuer": "https://eu",
        "countries_served": [], "homes": [], "directory": [], "peers": [], "exports": edges, "imports": [], "retention": {},
    }))
    .unwrap()
}

fn declared() -> Value {
    json!([{
        "id": EDGE, "tenant": "stride-eu", "organization": "stride", "from": "eu", "to": "us", "exporter": "stride-europe",
        "importer": "stride-america", "importer_tenant": "stride-us", "class": "workout-summary",
        "purposes": ["cross-border-sharing"], "fields": ["sport_type"], "mechanism": "Certification",
        "instrument": "eu-us-dpf", "effective_from": "1970-01-01T00:00:00Z", "expires": "2099-01-01T00:00:00Z",
        "ends_with": "mechanism-expired", "pseudonymise": true, "onward": false, "needs_consent": true, "framework": "GDPR",
        "rule": "a certification is in force", "epoch": 1,
    }])
}

fn report(entries: &[Entry], policy: Option<&RegionPolicy>) -> Report {
    let mut observed = Observed::default();
    for (seq, entry) in (1..).zip(entries) {
        observed.see(&"eu/replicator".parse().unwrap(), seq, entry);
    }
    observed.report("eu", policy)
}

fn violations(entries: &[Entry], policy: Option<&RegionPolicy>) -> Vec<(u64, String)> {
    let found = report(entries, policy).violations;
    found
        .into_iter()
        .map(|violation| (violation.entry, violation.what))
        .collect()
}

#[test]
fn what_went_along_one_edge_on_the_same_grounds_is_one_line() {
    let refusal = Entry {
        rule: text("consent:withdrawn"),
        count: Some(3),
        ..entry(9, Kind::Refusal)
    };
    let report = report(&[opened(), sent(1), sent(5), refusal], Some(&policy(declared())));
    let [flow] = &report.flows[..] else {
        panic!("{:?}", report.flows)
    };
    assert_eq!(
        (flow.direction, flow.transfers, flow.copies, flow.bytes),
        (Direction::Export, 2, 4, 2000)
    );
    assert_eq!((flow.first.as_second(), flow.last.as_second()), (1, 5));
    assert_eq!(
        (report.refusals[0].rule.as_str(), report.refusals[0].count),
        ("consent:withdrawn", 3)
    );
    assert!(
        report.violations.is_empty() && report.declared_and_not_observed.is_empty(),
        "{report:?}"
    );
}

#[test]
fn what_left_along_an_edge_that_was_not_open_is_a_violation_whatever_the_policy_says() {
    let cases = [
        (vec![sent(1)], 1, "never opened"),
        (vec![opened(), sent(1), cut(2), sent(3)], 4, "after it was cut"),
    ];
    for (entries, number, what) in cases {
        let found = violations(&entries, None);
        assert!(
            found.len() == 1 && found[0].0 == number && found[0].1.contains(what),
            "{found:?}"
        );
    }
    assert_eq!(violations(&[opened(), sent(1), cut(2), opened(), sent(3)], None), []);
    let on_its_way = [opened(), cut(2), sent(1)];
    assert_eq!(
        violations(&on_its_way, None),
        [],
        "it had begun to leave before the cut"
    );
}

#[test]
fn another_recipient_mechanism_or_edge_than_declared_is_a_violation() {
    let elsewhere = Entry {
        importer: text("another"),
        ..sent(1)
    };
    let found = violations(&[opened(), elsewhere], Some(&policy(declared())));
    assert_eq!(found.len(), 2, "against the chain and against the policy: {found:?}");
    let by_other_means = Entry {
        mechanism: text("SCC"),
        ..sent(1)
    };
    let found = violations(&[opened(), by_other_means], Some(&policy(declared())));
    assert!(found[0].1.contains("mechanism SCC, not Certification"), "{found:?}");
    let found = violations(&[opened(), sent(1)], Some(&policy(json!([]))));
    assert!(found[0].1.contains("declares no such edge"), "{found:?}");
}

#[test]
fn what_is_declared_and_not_understood_is_not_said_to_be_undeclared() {
    let mut told = serde_json::to_value(policy(declared())).unwrap();
    told["exports"][0]["adults_only"] = json!(true);
    let found = violations(&[opened(), sent(1)], Some(&RegionPolicy::read(told).unwrap()));
    assert!(found.len() == 1 && found[0].1.contains("adults_only"), "{found:?}");
}

#[test]
fn what_an_older_policy_declared_is_not_held_against_a_newer_one() {
    let older = Entry {
        revision: Some(3),
        ..sent(1)
    };
    assert_eq!(violations(&[opened(), older], Some(&policy(json!([])))), []);
}

#[test]
fn what_is_declared_and_was_not_observed_is_listed_and_no_violation() {
    let report = report(&[], Some(&policy(declared())));
    assert_eq!(report.declared_and_not_observed, [EDGE]);
    assert!(report.violations.is_empty());
}

#[test]
fn consents_are_counted_by_purpose_and_class() {
    let change = |rule: &str| Entry {
        purpose: text("marketing"),
        class: text("promotion"),
        rule: text(rule),
        ..Entry::new(Uuid::nil(), Timestamp::UNIX_EPOCH, Kind::ConsentChange)
    };
    let report = report(&[change("granted"), change("granted"), change("withdrawn")], None);
    let matter = &report.consents[0];
    assert_eq!((matter.consents.granted, matter.consents.withdrawn), (2, 1));
}

#[test]
fn objections_and_restrictions_are_no_withdrawals() {
    let change = |purpose: &str, rule: &str| Entry {
        purpose: text(purpose),
        rule: text(rule),
        ..Entry::new(Uuid::nil(), Timestamp::UNIX_EPOCH, Kind::ConsentChange)
    };
    let entries = [
        change("marketing", "subject-objects"),
        change("marketing", "objection-lifted"),
        Entry {
            purpose: None,
            ..change("", "processing-restricted")
        },
    ];
    let counted: Vec<_> = report(&entries, None)
        .consents
        .into_iter()
        .map(|matter| {
            (
                matter.purpose,
                matter.consents.limited,
                matter.consents.lifted,
                matter.consents.withdrawn,
            )
        })
        .collect();
    assert_eq!(counted, [(String::new(), 1, 0, 0), ("marketing".to_owned(), 1, 1, 0)]);
}
