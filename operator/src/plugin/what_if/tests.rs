#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use serde_json::{Value, json};

use super::{Asked, WhatIfReport, report};
use crate::manifest::{JURISDICTION, REGION_STACK, TENANT_DATA_RESIDENCY};
use crate::plugin::PluginError;
use crate::plugin::observe::{Silence, State, States};
use crate::plugin::world::{World, edit, now};

const EDGE: &str = "stride-eu.workout-summary.us";

fn annul(text: &str) -> Asked {
    Asked {
        annul: vec![text.to_owned()],
        ..Asked::default()
    }
}

/// The members, eu's with this backlog in its status.
fn states(world: &World, backlog: &Value) -> States {
    edit(world.held("eu"), REGION_STACK, "eu", |stack| {
        stack["status"]["backlog"] = backlog.clone();
    });
    let state = |cluster: &str| State {
        stacks: world.held(cluster).clone(),
        lease: None,
    };
    ["eu", "us"]
        .map(|cluster| (cluster.to_owned(), Ok(state(cluster))))
        .into()
}

fn suppose(world: &World, states: Option<&States>, asked: &Asked) -> Result<WhatIfReport, PluginError> {
    report(&world.hub, states, &asked.parse()?, now())
}

#[test]
fn an_annulled_mechanism_closes_edges_with_tenants_classes_streams_articles_and_what_waits() {
    let world = World::settled();
    let states = states(
        &world,
        &json!({"waiting": 12, "edges": [{"edge": EDGE, "waiting": 12}]}),
    );
    let report = suppose(&world, Some(&states), &annul("eu:us:scc")).unwrap();
    assert_eq!(
        (report.sum.close, report.sum.stopped, report.sum.stopped_unknown),
        (1, 12, 0)
    );
    insta::assert_snapshot!("annulled", report.to_string());
    insta::assert_json_snapshot!("annulled_json", report);
}

#[test]
fn a_backlog_that_is_not_known_is_said_to_be_and_never_taken_for_none() {
    let world = World::settled();
    let stopped = |states: Option<&States>| {
        let report = suppose(&world, states, &annul("eu:us")).unwrap();
        (report.edges[0].waiting, report.edges[0].waiting_unknown.clone())
    };
    let told = |backlog: Value| stopped(Some(&states(&world, &backlog)));
    assert_eq!(stopped(None).1.unwrap(), "the members were not asked");
    assert_eq!(told(Value::Null).1.unwrap(), "eu has not reported a backlog");
    assert_eq!(told(json!({"waiting": 0, "edges": []})), (Some(0), None));
    let others = json!({"waiting": 9, "edges": [{"edge": "a.health.us", "waiting": 5}]});
    assert_eq!(
        told(others).1.unwrap(),
        "eu lists other edges, where more waits; at most 5 here"
    );
    let mut silent = states(&world, &Value::Null);
    let silence = Silence {
        reason: "MemberUnreachable",
        message: "cluster eu does not answer".to_owned(),
    };
    silent.insert("eu".to_owned(), Err(silence));
    assert_eq!(stopped(Some(&silent)).1.unwrap(), "cluster eu does not answer");
}

#[test]
fn what_opens_is_told_with_its_grounds_and_what_ends_by_itself_is_told_besides() {
    let world = World::settled();
    edit(&world.hub, TENANT_DATA_RESIDENCY, "stride-eu", |tenant| {
        tenant["spec"]["classes"][0]["replicateTo"][0]["expires"] = json!("2026-12-20T00:00:00Z");
    });
    edit(&world.hub, JURISDICTION, "eu", |law| {
        law["spec"]["mechanisms"][0]["classes"] = json!(["social-graph"]);
    });
    let file = "hypotheses: [{mechanismOffered: {from: eu, to: us, mechanism: SCC, \
                instrument: SCC 2021/914 module 1, classes: [workout-summary]}}]";
    let asked = Asked {
        file: Some(file.to_owned()),
        ..Asked::default()
    };
    let report = suppose(&world, None, &asked).unwrap();
    assert_eq!((report.sum.open, report.sum.close), (1, 0), "{report}");
    assert!(report.edges[0].because.iter().all(|check| check.holds));
    insta::assert_snapshot!("opened", report.to_string());
}

#[test]
fn what_strikes_nothing_or_is_not_understood_is_refused_and_says_what_there_is() {
    let world = World::settled();
    let failed = |asked: &Asked| suppose(&world, None, asked).unwrap_err().to_string();
    let text = failed(&annul("eu:us:Adequacy"));
    assert!(
        text.contains("there is no mechanism 'Adequacy'") && text.contains("SCC"),
        "{text}"
    );
    let text = failed(&annul("eu:us:Pigeon"));
    assert!(
        text.starts_with("--annul: 'Pigeon' is not a mechanism: one of Adequacy"),
        "{text}"
    );
    assert!(failed(&annul("eu")).contains("write FROM:TO"));
    assert!(failed(&Asked::default()).starts_with("nothing is supposed"));
    let expires = |text: &str| Asked {
        expires: vec![text.to_owned()],
        ..Asked::default()
    };
    assert!(failed(&expires("SCC 2021/914 module 1")).contains("write INSTRUMENT=DATE"));
    assert!(failed(&expires("SCC 2021/914 module 1=soon")).contains("'soon' is no date"));
    let unknown = Asked {
        loses: vec!["nobody".to_owned()],
        ..Asked::default()
    };
    assert!(failed(&unknown).contains("there is no party 'nobody'"));
}

#[test]
fn a_date_a_party_and_a_moment_are_supposed_on_the_command_line() {
    let world = World::settled();
    let expires = Asked {
        expires: vec!["SCC 2021/914 module 1=2027-06-30".to_owned()],
        ..Asked::default()
    };
    let report = suppose(&world, None, &expires).unwrap();
    assert_eq!(report.after.to_string(), "2027-06-30T00:00:00Z");
    assert_eq!(report.edges[0].because[0].check, "mechanism-expired");
    let later = Asked {
        as_of: Some("2040-01-01".to_owned()),
        ..Asked::default()
    };
    assert_eq!(suppose(&world, None, &later).unwrap().sum.close, 1);
}
