#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use serde_json::json;

use super::edges::EdgeChange;
use super::{Action, FileError, PlanReport, Verdict, admit, parse};
use crate::hub::departure::FINALIZER;
use crate::manifest::{FITNESS_REGION, INGEST_POOL, Kind, REGION_STACK, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT};
use crate::plugin::world::{World, demo, edit, now};

/// stride-eu as the demo has it, with another list of what it shares.
fn stride_eu(classes: &str) -> String {
    format!(
        "apiVersion: meridian.sh/v1alpha1\nkind: TenantDataResidency\nmetadata: {{name: stride-eu}}\nspec:\n  organization: stride\n  tenant: stride-eu\n  home: {{region: eu}}\n  classes: {classes}\n"
    )
}

fn share(class: &str, fields: &str) -> String {
    format!(
        r#"{{class: {class}, replicateTo: [{{region: us, purposes: [cross-border-sharing], fields: [{fields}], mechanism: SCC, instrument: SCC 2021/914 module 1, pseudonymise: true, tia: {{digest: "sha256:e0216784f8b9f9bab72a3006ea60a5c873b51e2e3b8d86631d9dbecdc8e481f2", reviewBy: "2035-12-31T00:00:00Z"}}, expires: "2036-01-01T00:00:00Z"}}]}}"#
    )
}

const WORKOUT: &str = "sport_type, distance_meters, duration_sec, start_day";

fn copies(report: &PlanReport) -> Vec<String> {
    let rows = report
        .clusters
        .iter()
        .flat_map(|row| row.copies.iter().map(move |copy| (row, copy)));
    rows.map(|(row, copy)| format!("{} {:?} {} {}", row.cluster, copy.action, copy.kind, copy.name))
        .collect()
}

#[test]
fn what_is_there_already_changes_nothing() {
    let world = World::settled();
    let text = ["10-parties", "30-regions", "40-tenants", "50-pools"].map(|file| demo(&format!("local/{file}.yaml")));
    let report = world.plan(&text.join("---\n"));
    assert_eq!(report.verdict, Verdict::NoChange, "{report}");
    assert_eq!(report.verdict.code(), 0);
    assert!(report.resources.iter().all(|row| row.action == Action::Unchanged));
}

#[test]
fn another_field_that_is_shared_shows_in_every_copy_that_carries_the_edge() {
    let world = World::settled();
    let report = world.plan(&stride_eu(&format!(
        "[{}]",
        share("workout-summary", "sport_type, distance_meters")
    )));
    assert_eq!(report.verdict.code(), 2);
    insta::assert_snapshot!("narrowed", report.to_string());
    insta::assert_json_snapshot!("narrowed_json", report);
}

#[test]
fn an_edge_that_is_no_longer_asked_for_is_cut_and_its_importers_placement_removed() {
    let world = World::settled();
    let report = world.plan(&stride_eu("[]"));
    assert_eq!(report.edges[0].change, EdgeChange::Cut);
    assert_eq!(report.edges[0].refused_by, None);
    assert_eq!(
        copies(&report),
        [
            "eu Changed RegionStack eu",
            "eu Changed TenantPlacement stride-eu",
            "us Changed RegionStack us",
            "us Removed TenantPlacement stride-eu",
        ]
    );
    insta::assert_snapshot!("cut", report.to_string());
}

#[test]
fn what_the_law_does_not_let_out_is_refused_by_its_rule_and_changes_nothing() {
    let report = World::settled().plan(&demo("local/refused/health-to-us.yaml"));
    assert_eq!(report.verdict.code(), 1);
    assert_eq!(report.resources[0].refusals[0].rule, "class-not-listed");
    assert_eq!(copies(&report), Vec::<String>::new());
    insta::assert_snapshot!("refused", report.to_string());
}

#[test]
fn a_law_that_stops_offering_a_mechanism_cuts_every_edge_that_leans_on_it() {
    let world = World::settled();
    let law = demo("jurisdictions/eu.yaml");
    let report = world.plan(&law.replacen("instrument: SCC 2021/914 module 1", "instrument: SCC 2030/1", 1));
    assert_eq!(report.verdict.code(), 2, "{report}");
    let edge = &report.edges[0];
    let refused_by = edge.refused_by.as_ref().map(|refusal| refusal.rule.as_str());
    assert_eq!(
        (edge.change, refused_by),
        (EdgeChange::Cut, Some("mechanism-not-offered"))
    );
    assert!(report.to_string().contains("GDPR Art 44"), "{report}");
}

#[test]
fn a_law_that_no_longer_holds_where_a_cluster_stands_lays_nothing_down_there() {
    let law = demo("jurisdictions/eu.yaml");
    let report = World::settled().plan(&law.replacen(" DE,", "", 1));
    let eu = report.clusters.iter().find(|row| row.region == "eu").unwrap();
    assert_eq!(eu.refusal.as_ref().unwrap().rule, "CountryOutsideLaw", "{report}");
}

fn fr_region() -> String {
    let region = demo("local/30-regions.yaml");
    let eu = region.split("---").next().unwrap().to_owned();
    eu.replace("name: eu\n", "name: fr\n")
        .replace("member-eu", "member-fr")
        .replace("eu.meridian.localhost", "fr.meridian.localhost")
        .replace("country: DE", "country: FR")
}

#[test]
fn a_new_region_is_laid_down_in_its_own_member_and_announced_to_the_others() {
    let mut world = World::settled();
    world.empty_member("fr");
    let report = world.plan(&fr_region());
    assert_eq!(report.verdict.code(), 2, "{report}");
    assert_eq!(
        copies(&report),
        [
            "eu Changed RegionStack eu",
            "fr Created RegionStack fr",
            "us Changed RegionStack us"
        ]
    );
    let notes = report
        .clusters
        .iter()
        .find(|row| row.region == "fr")
        .map(|row| row.notes.clone());
    assert!(
        notes.is_some_and(|notes| notes[0].contains("once it has made its keys")),
        "{report}"
    );
    insta::assert_snapshot!("new_region", report.to_string());
}

#[test]
fn a_region_whose_member_cannot_be_looked_at_is_refused_only_where_the_files_change_it() {
    let mut world = World::settled();
    world.silence("us");
    let edge = world.plan(&stride_eu("[]"));
    assert_eq!(edge.verdict, Verdict::Refused, "us imports the edge: {edge}");
    let pool = demo("local/50-pools.yaml")
        .split("---")
        .next()
        .unwrap()
        .replace("max: 4", "max: 5");
    let report = world.plan(&pool);
    assert_eq!(report.verdict, Verdict::Changes, "{report}");
    assert_eq!(copies(&report), ["eu Changed IngestPool eu-telemetry"]);
    let us = report.clusters.iter().find(|row| row.region == "us").unwrap();
    assert!(us.refused_already && us.refusal.is_some());
}

#[test]
fn a_pool_in_a_region_that_there_is_not_has_nowhere_to_go() {
    let pool = demo("local/50-pools.yaml")
        .split("---")
        .next()
        .unwrap()
        .replace("eu-telemetry", "apac-telemetry");
    let report = World::settled().plan(&pool.replace("region: eu", "region: apac"));
    assert_eq!(report.verdict, Verdict::Refused);
    let refusal = report.clusters[0].refusal.as_ref().unwrap();
    assert_eq!(refusal.rule, "unknown-region");
    assert!(refusal.message.contains("'apac'"), "{}", refusal.message);
}

#[test]
fn what_the_hub_is_about_to_do_anyway_is_told_apart_from_what_the_files_do() {
    let world = World::settled();
    edit(world.held("eu"), INGEST_POOL, "eu-telemetry", |pool| {
        pool["spec"]["scaling"]["max"] = json!(9)
    });
    let report = world.plan(&demo("local/40-tenants.yaml"));
    assert_eq!(report.verdict, Verdict::NoChange, "{report}");
    assert!(report.clusters[0].copies[0].under_way);
    assert_eq!(
        report.clusters[0].copies[0].fields[0].to_string(),
        "~ spec.scaling.max: 9 -> 4"
    );
}

/// As somebody's `kubectl delete` leaves what the hub holds.
fn delete(world: &World, kind: Kind, name: &str) {
    edit(&world.hub, kind, name, |object| {
        object["metadata"]["deletionTimestamp"] = json!("2026-11-26T11:59:00Z");
        object["metadata"]["finalizers"] = json!([FINALIZER]);
        object["status"]["closing"] = json!([]);
    });
}

#[test]
fn a_tenant_that_is_being_deleted_opens_no_edge_whatever_the_files_say() {
    let world = World::settled();
    delete(&world, TENANT_DATA_RESIDENCY, "stride-eu");
    let report = world.plan(&demo("local/40-tenants.yaml"));
    assert_eq!(report.verdict, Verdict::NoChange, "{report}");
    let rows: Vec<_> = report.clusters.iter().flat_map(|row| &row.copies).collect();
    assert_eq!(rows.len(), 4, "{report}");
    assert!(rows.iter().all(|copy| copy.under_way), "{report}");
}

#[test]
fn a_region_that_is_being_deleted_is_laid_down_while_tenants_are_at_home_there() {
    let world = World::settled();
    delete(&world, FITNESS_REGION, "us");
    let report = world.plan(&stride_eu("[]"));
    assert_eq!(report.edges[0].change, EdgeChange::Cut);
    assert!(
        copies(&report).contains(&"us Changed RegionStack us".to_owned()),
        "{report}"
    );
}

#[test]
fn a_region_that_nothing_keeps_is_taken_out_of_its_member_and_gets_no_pool() {
    let mut world = World::settled();
    world.empty_member("fr");
    let files = parse("fr.yaml", &fr_region()).unwrap();
    world.hub = admit(&world.hub, files, now()).hub;
    world.reconcile();
    delete(&world, FITNESS_REGION, "fr");
    let pool = demo("local/50-pools.yaml").split("---").next().unwrap().to_owned();
    let report = world.plan(
        &pool
            .replace("eu-telemetry", "fr-telemetry")
            .replace("region: eu", "region: fr"),
    );
    let fr = report.clusters.iter().find(|row| row.region == "fr").unwrap();
    let [stack] = fr.copies.as_slice() else {
        panic!("{report}")
    };
    assert_eq!((stack.action, stack.kind), (Action::Removed, "RegionStack"));
    assert!(stack.under_way && fr.notes == ["fr is being deleted"], "{report}");
}

#[test]
fn an_object_that_is_not_ours_stands_in_the_way() {
    let world = World::settled();
    edit(world.held("us"), REGION_STACK, "us", |stack| {
        stack["metadata"]["labels"] = json!({})
    });
    let report = world.plan(&stride_eu("[]"));
    let us = report.clusters.iter().find(|row| row.region == "us").unwrap();
    let refusal = us.refusal.as_ref().unwrap();
    assert!(refusal.message.contains("is not Meridian's"), "{}", refusal.message);
    assert_eq!(report.verdict, Verdict::Refused);
}

#[test]
fn planning_changes_neither_the_hub_nor_a_member() {
    let world = World::settled();
    let seen = |world: &World| {
        let placements = world.held("us").of_kind(TENANT_PLACEMENT).len();
        (placements, world.hub.of_kind(INGEST_POOL)[0].1.data.clone())
    };
    let before = seen(&world);
    world.plan(&stride_eu("[]"));
    world.plan(&demo("local/50-pools.yaml").replace("max: 4", "max: 6"));
    assert_eq!(seen(&world), before);
}

#[test]
fn resources_are_judged_in_their_order_each_on_what_came_before() {
    let world = World::settled();
    let tenants = demo("local/40-tenants.yaml").replace("stride", "cadence");
    let (receiver, sender) = tenants.split_once("---").unwrap();
    let right = world.plan(&format!("{receiver}---\n{sender}"));
    assert_eq!(right.verdict, Verdict::Changes, "{right}");
    let wrong = world.plan(&format!("{sender}---\n{receiver}"));
    assert_eq!(wrong.resources[0].refusals[0].rule, "tenant-unknown");
    assert_eq!(wrong.resources[1].action, Action::Created);
}

fn refused(text: &str) -> String {
    parse("file.yaml", text).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_wrong_value_is_refused_by_its_field_and_what_is_allowed() {
    let text = refused(&stride_eu(&format!("[{}]", share("moods", WORKOUT))));
    assert!(
        text.starts_with("file.yaml, TenantDataResidency stride-eu: spec.classes[0].class: "),
        "{text}"
    );
    assert!(
        text.contains("'moods' is not a valid data class: one of identity"),
        "{text}"
    );
    let text = refused(&stride_eu(&format!(
        "[{}]",
        share("workout-summary", WORKOUT).replace("SCC,", "Goodwill,")
    )));
    assert!(text.contains("spec.classes[0].replicateTo[0].mechanism"), "{text}");
}

#[test]
fn a_field_that_there_is_not_is_refused() {
    let text = refused(&stride_eu("[]").replace("classes:", "klasses:"));
    assert!(
        text.contains("spec.klasses: there is no such field; there are: classes, home"),
        "{text}"
    );
}

#[test]
fn what_is_no_yaml_or_no_resource_says_where() {
    assert!(matches!(parse("file.yaml", "a: [b"), Err(FileError::Syntax { .. })));
    let nameless = "---\napiVersion: meridian.sh/v1alpha1\nkind: Party\nspec: {}\n";
    assert_eq!(refused(nameless), "file.yaml, document 1: metadata.name is missing");
    let unknown = "apiVersion: meridian.sh/v1alpha1\nkind: Partie\nmetadata: {name: a}\n";
    assert!(
        refused(unknown).contains("there is no Partie in meridian.sh/v1alpha1"),
        "{}",
        refused(unknown)
    );
}

#[test]
fn what_the_hub_writes_itself_is_refused_and_what_is_not_of_this_platform_passed_over() {
    let stack = "apiVersion: meridian.sh/v1alpha1\nkind: RegionStack\nmetadata: {name: eu}\nspec: {}\n";
    assert!(refused(stack).contains("the hub writes it, people do not"));
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: member-eu}\n";
    assert_eq!(parse("file.yaml", secret).unwrap().passed_over, ["Secret member-eu"]);
}
