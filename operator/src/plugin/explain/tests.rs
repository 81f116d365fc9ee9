#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use meridian_policy::Rule;
use serde_json::json;

use super::{Asked, ExplainReport, advice, report};
use crate::manifest::TENANT_DATA_RESIDENCY;
use crate::plugin::PluginError;
use crate::plugin::world::{World, edit, now};

fn asked(tenant: &str, class: &str, from: &str, to: &str) -> Asked {
    let owned = ToOwned::to_owned;
    Asked {
        tenant: owned(tenant),
        class: owned(class),
        from: owned(from),
        to: owned(to),
    }
}

fn explain(world: &World, asked: &Asked) -> Result<ExplainReport, PluginError> {
    report(&world.hub, &asked.parse()?, now())
}

#[test]
fn a_lawful_edge_passes_every_check_and_says_what_each_delivery_needs_besides() {
    let report = explain(&World::settled(), &asked("stride-eu", "workout-summary", "eu", "us")).unwrap();
    assert!(report.lawful);
    insta::assert_snapshot!("allowed", report.to_string());
    insta::assert_json_snapshot!("allowed_json", report);
}

#[test]
fn a_refused_edge_is_told_up_to_the_first_check_that_fails() {
    let world = World::settled();
    edit(&world.hub, TENANT_DATA_RESIDENCY, "stride-eu", |tenant| {
        let edge = &mut tenant["spec"]["classes"][0];
        edge["class"] = json!("health");
        edge["replicateTo"][0]["tia"]["reviewBy"] = json!("2026-01-01T00:00:00Z");
    });
    let report = explain(&world, &asked("stride-eu", "health", "eu", "us")).unwrap();
    assert!(!report.lawful);
    insta::assert_snapshot!("refused", report.to_string());
    insta::assert_json_snapshot!("refused_json", report);
}

#[test]
fn an_edge_that_nobody_asked_for_is_refused_and_says_how_to_ask() {
    let report = explain(&World::settled(), &asked("stride-eu", "health", "eu", "us")).unwrap();
    let [check] = report.checks.as_slice() else {
        panic!("{report}")
    };
    assert_eq!(check.check, "no-edge");
    assert!(check.what_to_do.unwrap().contains("replicateTo"));
}

#[test]
fn a_tenant_that_is_being_deleted_sends_nothing_whatever_the_law_allows() {
    let world = World::settled();
    edit(&world.hub, TENANT_DATA_RESIDENCY, "stride-eu", |tenant| {
        tenant["metadata"]["deletionTimestamp"] = json!("2026-11-26T11:59:00Z");
        tenant["status"]["closing"] = json!([]);
    });
    let report = explain(&world, &asked("stride-eu", "workout-summary", "eu", "us")).unwrap();
    let first = &report.checks[0];
    assert!(!report.lawful && report.expires.is_none() && report.at_each_delivery.is_empty());
    assert_eq!((first.holds, first.check.as_str()), (false, "being-deleted"));
    assert_eq!(
        first.why,
        "tenant stride-eu is being deleted, so that its edges are closed"
    );
}

#[test]
fn nothing_is_sent_to_a_tenant_that_is_being_deleted() {
    let world = World::settled();
    edit(&world.hub, TENANT_DATA_RESIDENCY, "stride-us", |tenant| {
        tenant["metadata"]["deletionTimestamp"] = json!("2026-11-26T11:59:00Z");
        tenant["status"]["closing"] = json!([]);
    });
    let report = explain(&world, &asked("stride-eu", "workout-summary", "eu", "us")).unwrap();
    assert!(!report.lawful, "{report}");
    assert!(
        report.checks[0]
            .why
            .starts_with("the tenant of stride in us is being deleted"),
        "{report}"
    );
}

#[test]
fn an_unknown_tenant_or_region_is_named_with_those_that_there_are() {
    let world = World::settled();
    let unknown = explain(&world, &asked("stride", "health", "eu", "us"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        unknown,
        "there is no tenant 'stride' on the hub; there are: stride-eu, stride-us"
    );
    let unknown = explain(&world, &asked("stride-eu", "health", "eu", "apac"))
        .unwrap_err()
        .to_string();
    assert_eq!(unknown, "there is no region 'apac' on the hub; there are: eu, us");
}

#[test]
fn a_word_that_is_no_class_is_refused_before_anybody_is_asked() {
    let text = asked("stride-eu", "moods", "eu", "us").parse().unwrap_err().to_string();
    assert!(
        text.starts_with("CLASS: 'moods' is not a valid data class: one of identity"),
        "{text}"
    );
}

#[test]
fn a_tenant_that_cannot_be_read_says_which_field() {
    let world = World::settled();
    edit(&world.hub, TENANT_DATA_RESIDENCY, "stride-eu", |tenant| {
        tenant["spec"]["classes"][0]["class"] = json!("moods");
    });
    let text = explain(&world, &asked("stride-eu", "health", "eu", "us"))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("TenantDataResidency stride-eu on the hub cannot be read: spec.classes[0].class"),
        "{text}"
    );
}

#[test]
fn there_is_advice_for_every_rule() {
    for rule in Rule::ALL {
        assert!(!advice(*rule).is_empty(), "{rule}");
    }
}
