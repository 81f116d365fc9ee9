//! What the hub makes of a region's violation, on two real API servers: a PrivacyIncident, its clocks, what people may do with
//! it, and what they may not (`cargo xtask parts apiserver member -- cargo test -p meridian-operator`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;
mod world;

use bed::until;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use meridian_kit::testing::pause;
use meridian_operator::manifest::{PRIVACY_INCIDENT, REGION_STACK};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use world::World;

fn incidents(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &PRIVACY_INCIDENT.resource())
}

/// Nothing is left of the tests before.
async fn none_is_left(client: &Client) {
    let api = incidents(client);
    for left in api.list(&ListParams::default()).await.unwrap() {
        api.delete(&left.name_any(), &DeleteParams::default()).await.unwrap();
    }
}

/// A second ago, and so many hours, without fractions, as the API server keeps it.
fn hours_ago(hours: i64) -> Timestamp {
    let at = Timestamp::now() - SignedDuration::from_hours(hours) - SignedDuration::from_secs(1);
    Timestamp::from_second(at.as_second()).unwrap()
}

fn named(since: Timestamp) -> String {
    format!("us.stride-eu.{}", since.strftime("%Y%m%dt%H%M%Sz"))
}

/// As the region's operator writes what its verifier has found: rows of stride-eu, by table, or nothing.
async fn verified(world: &World, since: Timestamp, tables: &[&str]) {
    let found: Vec<Value> = tables
        .iter()
        .map(|table| {
            json!({"check": "foreign-rows", "place": table, "of": "stride-eu", "classes": ["workout-summary"], "count": 2,
                "since": since.to_string()})
        })
        .collect();
    let told = json!({"revision": 3, "at": Timestamp::now().to_string(), "tables": 9, "rows": 90,
        "violations": tables.len(), "found": found});
    let stacks: Api<DynamicObject> = Api::all_with(world.member.clone(), &REGION_STACK.resource());
    let patch = Patch::Merge(json!({"status": {"verified": told}}));
    stacks
        .patch_status("us", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn names(world: &World) -> Vec<String> {
    let listed = incidents(&world.hub).list(&ListParams::default()).await.unwrap();
    listed.into_iter().map(|one| one.name_any()).collect()
}

async fn until_it_says(world: &World, name: &str, what: &str, says: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let found = world.get(PRIVACY_INCIDENT, name).await.unwrap_or_default();
        if says(&found["status"]) {
            return found;
        }
        let (status, all) = (&found["status"], names(world).await);
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{name} does not say {what}: {status}, of {all:?}"
        );
        pause(began).await;
    }
}

fn clock<'a>(incident: &'a Value, law: &str, notice: &str) -> &'a Value {
    let mut clocks = incident["status"]["clocks"].as_array().unwrap().iter();
    let found = clocks.find(|clock| clock["jurisdiction"] == law && clock["notice"] == notice);
    found.unwrap_or_else(|| panic!("no {law}/{notice} in {incident}"))
}

fn closing(notices: Value) -> Value {
    json!({"spec": {
        "notices": notices, "assessment": {"risk": "Unlikely", "because": "the rows were sealed under keys of the EU"},
        "closed": {"at": Timestamp::now(), "because": "the rows are deleted, and the edge is closed"},
    }})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_violation_opens_one_incident_that_a_person_closes_and_nobody_opens_again() {
    let mut world = World::with_tenants().await;
    none_is_left(&world.hub).await;
    let since = hours_ago(2);
    let name = named(since);
    verified(&world, since, &["social.share", "training.workout"]).await;
    let opened = until_it_says(&world, &name, "that it is open", |status| status["phase"] == "Open").await;

    let spec = &opened["spec"];
    assert_eq!(
        (&spec["region"], &spec["kind"]),
        (&json!("us"), &json!("DataOutOfPlace"))
    );
    assert_eq!(
        spec["jurisdictions"],
        json!(["eu", "us"]),
        "of where it was found, and of the tenant's home"
    );
    assert_eq!(spec["tenants"], json!(["stride-eu"]));
    assert_eq!(spec["found"].as_array().unwrap().len(), 2);
    assert_eq!(
        clock(&opened, "eu", "authority")["due"],
        json!(since + SignedDuration::from_hours(72))
    );
    assert_eq!(clock(&opened, "eu", "subjects")["state"], "AtOnce");
    assert_eq!(
        clock(&opened, "us", "state-authority")["due"],
        json!(since + SignedDuration::from_hours(24 * 30))
    );
    assert_eq!(opened["status"]["stillFound"], 4);
    let metrics = world.metrics().await;
    assert!(
        metrics.contains("meridian_operator_incidents_open{region=\"us\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("meridian_operator_incident_deadline_seconds{region=\"us\"}"),
        "{metrics}"
    );

    // The same again, in more rows, and by another process of the hub: it is the same incident, as it was.
    verified(&world, since, &["social.share", "training.workout", "social.follow"]).await;
    let grown = until_it_says(&world, &name, "that there is more", |status| status["stillFound"] == 6).await;
    assert_eq!(grown["spec"], *spec);
    world.restart().await;
    verified(&world, since, &["social.share"]).await;
    until_it_says(&world, &name, "that there is less", |status| status["stillFound"] == 2).await;
    assert_eq!(names(&world).await, std::slice::from_ref(&name));

    let merge = |patch: Value| world.merge_of(&name, patch);
    merge(json!({"spec": {"acknowledged": {"awareSince": since}}}))
        .await
        .unwrap();
    until_it_says(&world, &name, "who knows of it", |status| {
        status["phase"] == "Acknowledged"
    })
    .await;
    let given = |law: &str, notice: &str| json!({"jurisdiction": law, "notice": notice, "at": Timestamp::from_second(Timestamp::now().as_second()).unwrap(), "reference": "A-1"});
    let mut notices = vec![given("eu", "authority")];
    merge(json!({"spec": {"notices": notices}})).await.unwrap();
    let noticed = until_it_says(&world, &name, "that the authority was told", |status| {
        status["clocks"].to_string().contains("\"Notified\"")
    })
    .await;
    assert_eq!(clock(&noticed, "eu", "authority")["state"], "Notified");

    // Closed although the FTC and the persons were not told: it says so, until that is recorded too.
    merge(closing(json!(notices))).await.unwrap();
    let said = until_it_says(&world, &name, "what is still owed", |status| {
        status["conditions"]
            .to_string()
            .contains("closed although notices are owed")
    })
    .await;
    assert_eq!(said["status"]["phase"], "Acknowledged");
    notices.extend([given("us", "ftc"), given("us", "subjects")]);
    merge(json!({"spec": {"notices": notices}})).await.unwrap();
    let closed = until_it_says(&world, &name, "that it is closed", |status| status["phase"] == "Closed").await;
    let ready = closed["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["type"] == "Ready");
    assert_eq!(ready.unwrap()["status"], "True");
    until("it is counted no more", || async {
        !world.metrics().await.contains("incidents_open{")
    })
    .await;

    // It is still found, and told by another process: what a person has closed stays as it is.
    world.restart().await;
    verified(&world, since, &["social.share", "social.follow"]).await;
    until_it_says(&world, &name, "that it is still there", |status| {
        status["stillFound"] == 4
    })
    .await;
    let after = world.get(PRIVACY_INCIDENT, &name).await.unwrap();
    assert_eq!(
        (&after["spec"], &after["status"]["phase"]),
        (&closed["spec"], &json!("Closed"))
    );
    // Gone, and back: that is another one.
    verified(&world, since, &[]).await;
    until_it_says(&world, &name, "that it is gone", |status| status["stillFound"] == 0).await;
    let again = hours_ago(0);
    verified(&world, again, &["social.share"]).await;
    until_it_says(&world, &named(again), "that it is open", |status| {
        status["phase"] == "Open"
    })
    .await;
    assert_eq!(names(&world).await.len(), 2);
    none_is_left_for_good(&world).await;
    world.end().await;
}

/// What is still found would be opened again.
async fn none_is_left_for_good(world: &World) {
    verified(world, hours_ago(0), &[]).await;
    until("nothing is left", || async {
        none_is_left(&world.hub).await;
        names(world).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_rebuilt_takes_the_incidents_of_its_manifests_and_opens_what_is_missing() {
    let mut world = World::with_tenants().await;
    none_is_left(&world.hub).await;
    let (kept, lost) = (hours_ago(30), hours_ago(3));
    // Written down by hand, as from a repository, before the region has said anything.
    let manifest = json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "PrivacyIncident", "metadata": {"name": named(kept)},
        "spec": {"region": "us", "kind": "DataOutOfPlace", "detectedAt": kept, "tenants": ["stride-eu"],
            "acknowledged": {"awareSince": kept},
            "assessment": {"risk": "Unlikely", "because": "the rows were sealed under keys of the EU"},
            "notices": [
                {"jurisdiction": "us", "notice": "ftc", "at": kept, "reference": "A-1"},
                {"jurisdiction": "us", "notice": "subjects", "at": kept, "reference": "A-2"},
            ],
            "closed": {"at": kept, "because": "the rows are deleted, and the edge is closed"}}});
    let object: DynamicObject = serde_json::from_value(manifest).unwrap();
    incidents(&world.hub)
        .create(&PostParams::default(), &object)
        .await
        .unwrap();
    let before = until_it_says(&world, &named(kept), "that it is closed", |status| {
        status["phase"] == "Closed"
    })
    .await;

    world.restart().await;
    verified(&world, kept, &["social.share"]).await;
    until_it_says(&world, &named(kept), "what is still found", |status| {
        status["stillFound"] == 2
    })
    .await;
    verified(&world, lost, &["social.share"]).await;
    until_it_says(&world, &named(lost), "that it is open", |status| {
        status["phase"] == "Open"
    })
    .await;
    let after = world.get(PRIVACY_INCIDENT, &named(kept)).await.unwrap();
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    none_is_left_for_good(&world).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_is_missed_is_a_stalled_incident_and_an_event() {
    let world = World::with_tenants().await;
    none_is_left(&world.hub).await;
    let since = hours_ago(73);
    verified(&world, since, &["social.share"]).await;
    let missed = until_it_says(&world, &named(since), "that a deadline was missed", |status| {
        status["conditions"].to_string().contains("DeadlineMissed")
    })
    .await;
    assert_eq!(clock(&missed, "eu", "authority")["state"], "Overdue");
    let told: Api<k8s_openapi::api::events::v1::Event> = Api::all(world.hub.clone());
    until("it is told", || async {
        let events = told.list(&ListParams::default()).await.unwrap();
        let uid = missed["metadata"]["uid"].as_str();
        events.into_iter().any(|event| {
            let about = event.regarding.and_then(|about| about.uid);
            about.as_deref() == uid && event.reason.as_deref() == Some("IncidentDeadlineMissed")
        })
    })
    .await;
    none_is_left_for_good(&world).await;
    world.end().await;
}

/// The rules of the definition, as the API server itself judges them; `crds/tests/crd_rules.rs` has all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_refuses_what_the_definition_does_and_names_the_field() {
    let world = World::new().await;
    let (api, name) = (incidents(&world.hub), "rules.20261127t120000z");
    let _ = api.delete(name, &DeleteParams::default()).await;
    let object = json!({"apiVersion": "meridian.sh/v1alpha1", "kind": "PrivacyIncident", "metadata": {"name": name},
        "spec": {"region": "eu", "kind": "Other", "detectedAt": "2026-11-27T12:00:00Z", "jurisdictions": ["eu"],
            "found": [{"check": "lost-laptop", "place": "an office", "count": 1}]}});
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
    let merge = async |patch: Value| {
        let done = api
            .patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": patch})))
            .await;
        done.err().map(|error| error.to_string()).unwrap_or_default()
    };
    for (patch, because) in [
        (json!({"region": "us"}), "region, kind and detectedAt are immutable"),
        (json!({"jurisdictions": []}), "jurisdictions never shrink"),
        (json!({"found": []}), "found never shrinks"),
        (
            json!({"acknowledged": {"awareSince": "2026-11-28T12:00:00Z"}}),
            "acknowledged.because",
        ),
        (
            json!({"closed": {"at": "2026-11-28T12:00:00Z", "because": "nothing to be done"}}),
            "closed needs acknowledged",
        ),
        (
            json!({"assessment": {"risk": "None", "because": "nothing to be done"}}),
            "Unlikely",
        ),
    ] {
        let said = merge(patch).await;
        assert!(said.contains(because), "{because}: {said}");
    }
    let known = json!({"awareSince": "2026-11-27T12:00:00Z"});
    assert_eq!(merge(json!({"acknowledged": known})).await, "");
    assert!(
        merge(json!({"acknowledged": null}))
            .await
            .contains("acknowledged stays")
    );
    let assessment = json!({"risk": "Unlikely", "because": "it was encrypted at rest"});
    let closed = json!({"at": "2026-11-28T12:00:00Z", "because": "the key was destroyed"});
    assert_eq!(merge(json!({"assessment": assessment, "closed": closed})).await, "");
    assert!(
        merge(json!({"closed": null}))
            .await
            .contains("what was closed stays closed")
    );
    api.delete(name, &DeleteParams::default()).await.unwrap();
    world.end().await;
}

impl World {
    async fn merge_of(&self, name: &str, patch: Value) -> kube::Result<DynamicObject> {
        self.merge(PRIVACY_INCIDENT, name, &patch).await
    }
}
