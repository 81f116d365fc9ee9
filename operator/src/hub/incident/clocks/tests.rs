#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use super::*;
use meridian_crds::Jurisdiction;
use serde_json::{Value, json};

/// A Friday.
const DETECTED: &str = "2026-11-27T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The laws in `regions/jurisdictions`.
fn laws() -> Laws {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../regions/jurisdictions");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let law: Jurisdiction = serde_yaml::from_str(&text).unwrap();
            (law.metadata.name.unwrap().parse().unwrap(), law.spec.law)
        })
        .collect()
}

fn incident(laws: &[&str], more: Value) -> PrivacyIncidentSpec {
    let mut spec = json!({
        "region": "us", "kind": "DataOutOfPlace", "detectedAt": DETECTED, "tenants": ["stride-eu"], "jurisdictions": laws,
    });
    for (field, value) in more.as_object().unwrap() {
        spec[field.as_str()] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn looked_at(law: &str, more: Value, now: &str) -> Vec<LegalClock> {
    let spec = incident(&[law], more);
    let names = spec.jurisdictions.iter().cloned().collect();
    clocks(&spec, &names, &laws(), at(now))
}

/// Name, end and state of each clock.
fn table(law: &str, more: Value, now: &str) -> Vec<(String, Option<String>, ClockState)> {
    let end = |due: Timestamp| due.to_string();
    looked_at(law, more, now)
        .into_iter()
        .map(|clock| (clock.notice, clock.due.map(end), clock.state))
        .collect()
}

fn risk(risk: &str) -> Value {
    json!({"assessment": {"risk": risk, "because": "as counsel has written down"}})
}

/// A clock: its name, its deadline, and how it stands.
type Expected = (&'static str, Option<&'static str>, ClockState);

#[test]
fn each_law_has_the_clocks_that_its_articles_say() {
    use ClockState::{AtOnce, Near, Running};
    let expected: [(&str, &[Expected]); 6] = [
        (
            "eu",
            &[
                ("authority", Some("2026-11-30T12:00:00Z"), Running),
                ("subjects", None, AtOnce),
            ],
        ),
        (
            "uk",
            &[
                ("authority", Some("2026-11-30T12:00:00Z"), Running),
                ("subjects", None, AtOnce),
            ],
        ),
        ("ch", &[("authority", None, AtOnce), ("subjects", None, AtOnce)]),
        (
            "br",
            &[
                ("authority", Some("2026-12-02T12:00:00Z"), Running),
                ("subjects", Some("2026-12-02T12:00:00Z"), Running),
            ],
        ),
        ("in", &[("cert-in", Some("2026-11-27T18:00:00Z"), Near)]),
        (
            "us",
            &[
                ("ftc", Some("2027-01-26T12:00:00Z"), Running),
                ("subjects", Some("2027-01-26T12:00:00Z"), Running),
                ("state-authority", Some("2026-12-27T12:00:00Z"), Running),
                ("state-subjects", Some("2026-12-27T12:00:00Z"), Running),
            ],
        ),
    ];
    for (law, clocks) in expected {
        let clocks: Vec<_> = clocks
            .iter()
            .map(|(name, due, state)| ((*name).to_owned(), due.map(str::to_owned), *state))
            .collect();
        assert_eq!(table(law, json!({}), DETECTED), clocks, "{law}");
    }
}

#[test]
fn the_indian_act_has_clocks_from_its_day_on() {
    let later = json!({"detectedAt": "2027-05-13T00:00:00Z"});
    let names: Vec<_> = table("in", later, "2027-05-13T00:00:00Z")
        .into_iter()
        .map(|(name, due, _)| (name, due))
        .collect();
    let expected = [
        ("cert-in", Some("2027-05-13T06:00:00Z")),
        ("board", None),
        ("board-details", Some("2027-05-16T00:00:00Z")),
        ("subjects", None),
    ];
    assert_eq!(
        names,
        expected.map(|(name, due)| (name.to_owned(), due.map(str::to_owned)))
    );
}

#[test]
fn a_clock_comes_near_and_is_over() {
    let authority = |now: &str| table("eu", json!({}), now)[0].2;
    assert_eq!(authority("2026-11-29T11:59:59Z"), ClockState::Running);
    assert_eq!(authority("2026-11-29T12:00:00Z"), ClockState::Near);
    assert_eq!(authority("2026-11-30T11:59:59Z"), ClockState::Near);
    assert_eq!(authority("2026-11-30T12:00:00Z"), ClockState::Overdue);
}

#[test]
fn awareness_moves_the_clocks_that_run_from_it_and_no_other() {
    let aware =
        json!({"acknowledged": {"awareSince": "2026-11-28T12:00:00Z", "because": "it was looked into for a day"}});
    assert_eq!(
        table("eu", aware.clone(), DETECTED)[0].1.as_deref(),
        Some("2026-12-01T12:00:00Z")
    );
    // CERT-In's hours run from noticing.
    assert_eq!(
        table("in", aware, DETECTED)[0].1.as_deref(),
        Some("2026-11-27T18:00:00Z")
    );
    let before = json!({"acknowledged": {"awareSince": "2026-11-27T08:00:00Z"}});
    assert_eq!(
        table("in", before, DETECTED)[0].1.as_deref(),
        Some("2026-11-27T14:00:00Z")
    );
}

#[test]
fn a_notice_that_was_given_stops_its_own_clock_and_no_other() {
    let given = |law: &str, notice: &str, at: &str| json!({"notices": [{"jurisdiction": law, "notice": notice, "at": at, "reference": "A-1"}]});
    let now = "2026-12-05T00:00:00Z";
    let states = |more: Value| -> Vec<ClockState> { table("eu", more, now).into_iter().map(|clock| clock.2).collect() };
    assert_eq!(
        states(given("eu", "authority", "2026-11-30T12:00:00Z")),
        [ClockState::Notified, ClockState::AtOnce]
    );
    assert_eq!(
        states(given("eu", "authority", "2026-11-30T12:00:01Z")),
        [ClockState::NotifiedLate, ClockState::AtOnce]
    );
    // Another law's notice, and one that is dated ahead, stop nothing.
    assert_eq!(
        states(given("uk", "authority", "2026-11-30T12:00:00Z"))[0],
        ClockState::Overdue
    );
    assert_eq!(
        states(given("eu", "authority", "2026-12-06T00:00:00Z"))[0],
        ClockState::Overdue
    );
}

#[test]
fn what_is_owed_depends_on_the_risk_and_all_is_owed_until_it_is_assessed() {
    let owed = |law: &str, more: Value| -> Vec<String> {
        let clocks = looked_at(law, more, DETECTED);
        super::owed(&clocks).map(|clock| clock.notice.clone()).collect()
    };
    for (law, unlikely, some, high) in [
        ("eu", vec![], vec!["authority"], vec!["authority", "subjects"]),
        ("uk", vec![], vec!["authority"], vec!["authority", "subjects"]),
        ("ch", vec![], vec!["subjects"], vec!["authority", "subjects"]),
        (
            "br",
            vec![],
            vec!["authority", "subjects"],
            vec!["authority", "subjects"],
        ),
        ("in", vec!["cert-in"], vec!["cert-in"], vec!["cert-in"]),
    ] {
        assert_eq!(owed(law, risk("Unlikely")), unlikely, "{law}");
        assert_eq!(owed(law, risk("Risk")), some, "{law}");
        assert_eq!(owed(law, risk("High")), high, "{law}");
        assert_eq!(owed(law, json!({})), high, "{law}");
    }
    assert_eq!(owed("us", risk("Unlikely")), ["ftc", "subjects"]);
}

#[test]
fn a_law_without_clocks_says_so_and_has_the_shortest_that_is_known() {
    let clocks = looked_at("nz", json!({}), DETECTED);
    assert_eq!(clocks.len(), 1);
    assert_eq!(
        (clocks[0].notice.as_str(), clocks[0].due),
        (NOT_COVERED, Some(at("2026-11-27T18:00:00Z")))
    );
    assert!(
        clocks[0]
            .article
            .contains("not covered; as Directions 20(3)/2022-CERT-In"),
        "{}",
        clocks[0].article
    );
    // Whatever the risk, until a person has recorded what counsel said.
    assert!(looked_at("nz", risk("Unlikely"), DETECTED)[0].state.is_owed());
    let asked = json!({"notices": [{"jurisdiction": "nz", "notice": "not-covered", "at": "2026-11-27T13:00:00Z", "reference": "counsel 7"}]});
    assert_eq!(
        looked_at("nz", asked, "2026-11-27T14:00:00Z")[0].state,
        ClockState::Notified
    );

    let spec = incident(&["nz"], json!({}));
    let nowhere = super::clocks(
        &spec,
        &spec.jurisdictions.iter().cloned().collect(),
        &Laws::new(),
        at(DETECTED),
    );
    assert_eq!(
        nowhere[0].state,
        ClockState::Overdue,
        "where nothing is known the time is over"
    );
}

#[test]
fn the_laws_of_the_region_and_of_the_tenants_homes_are_concerned_though_nobody_lists_them() {
    let spec = incident(&["br"], json!({}));
    let law_of = |region: &RegionName| region.as_str().parse().ok();
    let home_of = |tenant: &TenantId| tenant.as_str().strip_prefix("stride-")?.parse().ok();
    let names: Vec<String> = concerned(&spec, law_of, home_of)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["br", "eu", "us"]);
}

#[test]
fn it_is_looked_at_again_when_a_clock_comes_near_or_ends() {
    let spec = incident(&["eu"], json!({}));
    let names = spec.jurisdictions.iter().cloned().collect();
    let next = |now: &str| turns_at(&spec, &clocks(&spec, &names, &laws(), at(now)), at(now)).map(|at| at.to_string());
    assert_eq!(next(DETECTED).as_deref(), Some("2026-11-29T12:00:00Z"));
    assert_eq!(next("2026-11-29T12:00:00Z").as_deref(), Some("2026-11-30T12:00:00Z"));
    assert_eq!(next("2026-11-30T12:00:00Z"), None);
}
