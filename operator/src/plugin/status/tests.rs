#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use super::{LeaseState, StatusReport, Wanted, report};
use crate::manifest::{FITNESS_REGION, INGEST_POOL, REGION_STACK, TENANT_DATA_RESIDENCY};
use crate::plugin::observe::{Silence, State, States};
use crate::plugin::world::{World, condition, edit, now};

const WANTED: Wanted = Wanted {
    within_days: 30,
    hub_only: false,
};

fn ready() -> Value {
    json!([condition(
        "Ready",
        "True",
        "AsPlanned",
        "everything planned is there and ready"
    )])
}

/// A hub that says that all is well.
fn well() -> World {
    let world = World::settled();
    for region in ["eu", "us"] {
        edit(&world.hub, FITNESS_REGION, region, |object| {
            object["status"] =
                json!({"conditions": ready(), "clustersReachable": "1/1", "revision": 3, "appliedRevision": 3});
        });
        edit(
            &world.hub,
            TENANT_DATA_RESIDENCY,
            &format!("stride-{region}"),
            |object| {
                object["status"] =
                    json!({"conditions": ready(), "phase": "Active", "epoch": 1, "edgesAllowed": 1, "edgesRefused": 0});
            },
        );
        edit(&world.hub, INGEST_POOL, &format!("{region}-telemetry"), |object| {
            object["status"] = json!({"conditions": ready(), "replicas": 1, "desired": 1, "lag": 0});
        });
    }
    world
}

fn state(world: &World, cluster: &str, renewed: Timestamp) -> State {
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "meridian-policy", "annotations": {"meridian.sh/revision": "3"}},
        "spec": {"leaseDurationSeconds": 20, "renewTime": format!("{renewed:.6}")}});
    State {
        stacks: world.held(cluster).clone(),
        lease: Some(serde_json::from_value(lease).unwrap()),
    }
}

fn fresh(world: &World) -> States {
    let renewed = now() - 3.seconds();
    [("eu", renewed), ("us", renewed)]
        .map(|(cluster, renewed)| (cluster.to_owned(), Ok(state(world, cluster, renewed))))
        .into()
}

fn looked_at(world: &World, states: &States) -> StatusReport {
    report(&world.hub, Some(states), WANTED, now())
}

#[test]
fn all_is_well_when_everything_is_ready_and_every_lease_holds() {
    let world = well();
    let report = looked_at(&world, &fresh(&world));
    assert!(report.well, "{report}");
    insta::assert_snapshot!("well", report.to_string());
    insta::assert_json_snapshot!("well_json", report);
}

#[test]
fn everything_that_is_not_as_it_should_be_is_told() {
    let world = well();
    edit(&world.hub, FITNESS_REGION, "us", |region| {
        region["status"]["clustersReachable"] = json!("0/1");
        region["status"]["conditions"] = json!([condition(
            "Ready",
            "False",
            "Progressing",
            "cluster us of region us does not answer: timed out"
        )]);
    });
    edit(&world.hub, TENANT_DATA_RESIDENCY, "stride-eu", |tenant| {
        tenant["spec"]["classes"][0]["replicateTo"][0]["expires"] = json!("2026-12-03T12:00:00Z");
        tenant["status"]["phase"] = json!("Violating");
        tenant["status"]["violations"] = json!([{"rule": "retention-outside-law", "path": "spec.retention.location", "message": "location may be kept at most 183 days, not 400 (GDPR Art 5(1)(e))"}]);
        tenant["status"]["conditions"] = json!([condition(
            "Ready",
            "False",
            "PolicyRefused",
            "retention-outside-law: location may be kept at most 183 days, not 400 (GDPR Art 5(1)(e))"
        )]);
    });
    let mut states = fresh(&world);
    states.insert("eu".to_owned(), Ok(state(&world, "eu", now() - 95.seconds())));
    states.insert(
        "us".to_owned(),
        Err(Silence {
            reason: "MemberUnreachable",
            message: "cluster us does not answer: timed out".to_owned(),
        }),
    );
    let report = looked_at(&world, &states);
    assert!(!report.well);
    insta::assert_snapshot!("trouble", report.to_string());
    insta::assert_json_snapshot!("trouble_json", report);
}

#[test]
fn a_condition_of_an_older_generation_says_nothing_of_this_one() {
    let world = well();
    edit(&world.hub, FITNESS_REGION, "eu", |region| {
        region["metadata"]["generation"] = json!(2)
    });
    let report = looked_at(&world, &fresh(&world));
    assert_eq!(report.regions[0].ready.status, "Unknown");
    assert!(
        report.wrong[0].contains("generation 2 has not been looked at yet"),
        "{report}"
    );
}

#[test]
fn a_lease_ends_with_its_duration_and_one_that_was_never_renewed_is_missing() {
    let world = well();
    let mut states = fresh(&world);
    states.insert("eu".to_owned(), Ok(state(&world, "eu", now() - 20.seconds())));
    if let Some(Ok(state)) = states.get_mut("us") {
        state.lease = None;
    }
    let leases: Vec<LeaseState> = looked_at(&world, &states)
        .members
        .unwrap()
        .iter()
        .map(|row| row.lease)
        .collect();
    assert_eq!(leases, [LeaseState::Expired, LeaseState::Missing]);
}

#[test]
fn a_region_that_says_that_its_policy_is_stale_is_not_well_though_the_lease_is_fresh() {
    let world = well();
    edit(world.held("eu"), REGION_STACK, "eu", |stack| {
        stack["status"]["conditions"] = json!([condition(
            "PolicyFresh",
            "False",
            "NoLease",
            "no fresh lease from the hub: nothing is transferred"
        )]);
    });
    let report = looked_at(&world, &fresh(&world));
    assert_eq!(
        report.wrong,
        ["cluster eu: no fresh lease from the hub: nothing is transferred"]
    );
}

#[test]
fn only_edges_that_close_within_the_days_asked_for_are_listed_the_first_first() {
    let world = well();
    let listed = |within_days| {
        report(
            &world.hub,
            None,
            Wanted {
                within_days,
                hub_only: true,
            },
            now(),
        )
        .closing
        .len()
    };
    assert_eq!((listed(30), listed(3600)), (0, 1));
}

#[test]
fn a_hub_without_regions_is_well() {
    let report = report(&crate::watch::Cache::default(), None, WANTED, now());
    assert!(
        report.well && report.to_string().contains("REGIONS\n  none"),
        "{report}"
    );
}
