#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Condition, Facts, LONGEST};
use crate::edge::CompiledEdge;
use crate::names::CountryCode;
use crate::vocabulary::Purpose;

fn edge() -> CompiledEdge {
    serde_json::from_value(serde_json::json!({
        "id": "stride-eu.workout-summary.us", "tenant": "stride-eu", "organization": "stride", "from": "eu", "to": "us",
        "exporter": "stride-europe", "importer": "stride-inc", "importer_tenant": "stride-us", "class": "workout-summary",
        "purposes": ["analytics"], "fields": ["sport_type"], "mechanism": "SCC", "instrument": "x",
        "effective_from": "2026-01-01T00:00:00Z", "expires": "2027-01-01T00:00:00Z", "ends_with": "mechanism-expired",
        "pseudonymise": true, "onward": false, "needs_consent": true, "framework": "GDPR", "rule": "r", "epoch": 1,
    }))
    .unwrap()
}

/// On a Thursday at 14:30 UTC, of two fields, for analytics.
fn holds_for(text: &str, age: Option<u8>, country: Option<&str>) -> Result<bool, String> {
    let edge = edge();
    let fields = BTreeSet::from(["duration_sec".to_owned(), "sport_type".to_owned()]);
    let country: Option<CountryCode> = country.map(|code| code.parse().unwrap());
    let facts = Facts {
        edge: &edge,
        purpose: Purpose::Analytics,
        fields: &fields,
        now: "2026-11-26T14:30:00Z".parse::<Timestamp>().unwrap(),
        age,
        country: country.as_ref(),
    };
    Condition::new(text).holds(&facts).map_err(|error| error.to_string())
}

fn holds(text: &str) -> bool {
    holds_for(text, None, None).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn every_attribute_says_what_is_asked() {
    for text in [
        "context.class == \"workout-summary\"",
        "context.purpose == \"analytics\"",
        "context.fields == [\"sport_type\", \"duration_sec\"]",
        "context.tenant == \"stride-eu\" && context.organization == \"stride\"",
        "context.from == \"eu\" && context.to == \"us\" && context.importer == \"stride-inc\"",
        "context.mechanism == \"SCC\" && context.pseudonymised",
        "context.hour == 14 && context.weekday == 4",
        "!(context has age) && !(context has country)",
        "context[\"hour\"] == 14",
    ] {
        assert!(holds(text), "{text}");
    }
    let adult =
        "context has age && context.age >= 18 && context has country && [\"DE\", \"FR\"].contains(context.country)";
    assert_eq!(holds_for(adult, Some(18), Some("FR")), Ok(true));
    assert_eq!(holds_for(adult, Some(17), Some("FR")), Ok(false));
    assert_eq!(holds_for(adult, Some(18), Some("US")), Ok(false));
    assert_eq!(holds_for(adult, None, Some("FR")), Ok(false));
}

#[test]
fn operators_bind_and_mean_what_they_do_in_cedar() {
    for (text, value) in [
        ("true || false && false", true),
        ("(true || false) && false", false),
        ("1 + 2 * 3 == 7", true),
        ("7 - 2 - 3 == 2", true),
        ("-context.hour == 0 - 14", true),
        ("!!true && !false", true),
        ("1 < 2 && 2 <= 2 && 3 > 2 && 3 >= 3 && 1 != 2", true),
        ("if context.hour > 12 then context.to == \"us\" else false", true),
        ("context.tenant like \"stride-*\"", true),
        ("context.tenant like \"*-us\"", false),
        ("context.tenant like \"*e*e*\"", true),
        ("context.tenant like \"stride-eu\"", true),
        ("\"a*b\" like \"a\\*b\"", true),
        ("\"axb\" like \"a\\*b\"", false),
        ("context.fields.contains(\"sport_type\")", true),
        ("context.fields.containsAll([\"sport_type\", \"title\"])", false),
        ("context.fields.containsAny([\"sport_type\", \"title\"])", true),
        ("[1, 2, 2] == [2, 1]", true),
        ("context.fields.isEmpty()", false),
        ("// why\n context.to == \"us\" // so", true),
        ("false && 9223372036854775807 + 1 == 0", false),
    ] {
        assert_eq!(holds(text), value, "{text}");
    }
}

#[test]
fn what_has_no_value_does_not_hold() {
    let error = holds_for("9223372036854775807 + context.hour > 0", None, None).unwrap_err();
    assert!(error.contains("too large"), "{error}");
}

#[test]
fn what_is_no_condition_is_refused_and_says_where_and_why() {
    for (text, at, because) in [
        ("", 1, "the end where a value was expected"),
        (
            "context.colour == \"red\"",
            1,
            "no attribute 'colour'; there are class, purpose, fields",
        ),
        ("context.hour == \"14\"", 17, "this is a String; a Long is needed"),
        ("context.hour", 1, "this is a Long; a Bool is needed"),
        ("context.age >= 18", 1, "write `context has age && …`"),
        ("context has age || context.age >= 18", 20, "not always known"),
        ("!(context has age) && context.age >= 18", 23, "not always known"),
        ("context.fields.contains(1)", 25, "this is a Long; a String is needed"),
        ("context.to.contains(\"u\")", 12, "a String has no method contains"),
        ("context.fields.size() == 1", 16, "'size' is no method"),
        ("[] == context.fields", 1, "an empty set has no type"),
        ("[1, \"a\"].contains(1)", 5, "this is a String; a Long is needed"),
        ("principal == 1", 1, "principal is not part of a condition"),
        (
            "context.to in context.fields",
            12,
            "entities are not part of a condition",
        ),
        ("1 == 1 == true", 8, "'==' where the end, && or || was expected"),
        (
            "true }; permit(principal, action, resource",
            7,
            "';' has no meaning here",
        ),
        ("\"open", 1, "no closing quote"),
        ("context.to == \"\\x41\"", 15, "\\x is no escape"),
        ("99999999999999999999 == 1", 1, "too large for a Long"),
        ("!!!!!true", 1, "more than 4 of '!'"),
        ("context.to == 'us'", 15, "''' has no meaning here"),
        ("if true then true", 18, "the end where else was expected"),
    ] {
        let error = Condition::new(text).check().unwrap_err().clone();
        assert_eq!(error.at, at, "{text}: {error}");
        assert!(error.problem.contains(because), "{text}: {error}");
    }
}

#[test]
fn a_condition_is_bounded_in_length_and_depth() {
    let long = format!("true{}", " ".repeat(LONGEST));
    assert!(
        Condition::new(long)
            .check()
            .unwrap_err()
            .problem
            .contains("at most 1024")
    );
    let deep = |levels: usize| Condition::new(format!("{}true{}", "(".repeat(levels), ")".repeat(levels)));
    assert!(deep(20).check().is_ok());
    assert!(deep(400).check().unwrap_err().problem.contains("deep in each other"));
    let wide = vec!["true"; 120].join("&&");
    assert!(Condition::new(wide).check().is_ok());
}

#[test]
fn what_a_newer_hub_says_is_carried_as_it_is_and_does_not_hold() {
    let newer: Condition = serde_json::from_str("\"context.moon == 1\"").unwrap();
    assert_eq!(serde_json::to_string(&newer).unwrap(), "\"context.moon == 1\"");
    let error = holds_for("context.moon == 1", None, None).unwrap_err();
    assert!(error.contains("no attribute 'moon'"), "{error}");
    let mut edge = edge();
    edge.condition = Some(newer);
    let again: CompiledEdge = serde_json::from_value(serde_json::to_value(&edge).unwrap()).unwrap();
    assert_eq!(again, edge);
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[ -~]{0,60}", parts in proptest::collection::vec(
        proptest::sample::select(vec!["context", ".", "has", "age", "(", ")", "[", "]", "&&", "||", "!", "-", "==", "<", "1",
            "\"a\"", "if", "then", "else", "like", "\"*\"", "fields", "contains", "true", ",", "hour", " "]), 0..40))
    {
        let _ = holds_for(&text, None, None);
        let _ = holds_for(&parts.join(" "), Some(3), None);
        let _ = holds_for(&parts.concat(), None, Some("DE"));
    }
}

#[test]
fn only_what_reads_the_clock_can_hold_later() {
    for (text, later) in [
        ("context.hour < 6", true),
        (
            "if context.to == \"us\" then [6, 7].contains(context.weekday) else true",
            true,
        ),
        ("context.to == \"us\" && !(context.hour + 1 > 3)", true),
        ("context.to == \"us\"", false),
        ("context has age && context.age >= 18", false),
        ("context.", false),
    ] {
        assert_eq!(Condition::new(text).reads_clock(), later, "{text}");
    }
}
