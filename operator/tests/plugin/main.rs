//! `kubectl meridian` on real API servers, with the hub role running and no more rights than the hub role has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

#[path = "../bed/mod.rs"]
mod bed;
mod hub_and_member;

use std::path::Path;

use bed::{kubeconfig, until};
use hub_and_member::{Bed, MEMBER, api};
use meridian_operator::manifest::{FITNESS_REGION, TENANT_DATA_RESIDENCY, TENANT_PLACEMENT};
use meridian_operator::plugin::explain::Asked;
use meridian_operator::plugin::reach::Reach;
use meridian_operator::plugin::status::Wanted;
use meridian_operator::plugin::{self, Output};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_what_the_hub_then_does_and_writes_nothing_itself() {
    let bed = Bed::new().await;
    let reach = bed.reach().await;
    let (all, cut) = (bed.file("all.yaml", &bed.shared()), bed.file("cut.yaml", &json!([])));

    let (code, report) = bed.plan(&reach, &all).await;
    assert_eq!(code, 2, "{report:#}");
    assert_eq!(
        bed.copies(&report),
        [
            "created RegionStack ra",
            "created IngestPool r-pool",
            "created RegionStack rb"
        ]
    );
    assert_eq!(bed.versions().await, Vec::<String>::new());

    let hub = bed.start_the_hub();
    bed.apply(&bed.shared()).await;
    bed.settle(&reach, &all).await;

    let before = bed.versions().await;
    let (code, report) = bed.plan(&reach, &cut).await;
    assert_eq!(code, 2, "{report:#}");
    assert_eq!(
        bed.copies(&report),
        [
            "changed RegionStack ra",
            "changed TenantPlacement r-ta",
            "changed RegionStack rb",
            "removed TenantPlacement r-ta",
        ]
    );
    assert_eq!(report["edges"][0]["change"], "cut");
    assert_eq!(bed.versions().await, before);
    let planned = planned_revision(&report, &format!("{}a", bed.name));

    let question = asked(&bed, "workout-summary");
    assert_eq!(plugin::explain(&reach, &question, Output::Table).await.unwrap().code, 0);
    bed.apply(&json!([])).await;
    bed.settle(&reach, &cut).await;
    let written = bed.stack("a").await.unwrap().data["spec"]["revision"].as_u64();
    assert_eq!(written, planned);
    let importer = api(&bed.member, TENANT_PLACEMENT, Some(&format!("meridian-{}b", bed.name)));
    assert!(importer.get_opt(&format!("{}-ta", bed.name)).await.unwrap().is_none());
    let refused = plugin::explain(&reach, &question, Output::Table).await.unwrap();
    assert!(
        refused.code == 1 && refused.text.contains("no-edge"),
        "{}",
        refused.text
    );

    the_lease_and_what_is_not_ready_are_told(&bed, &reach).await;
    bed.clear().await;
    bed.stop.cancel();
    hub.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_if_tells_what_would_stop_and_the_hub_says_what_ends() {
    let bed = Bed::new().await;
    let reach = bed.reach().await;
    let mut edges = bed.shared();
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * 20);
    edges[0]["replicateTo"][0]["expires"] = json!(soon.to_string());
    let hub = bed.start_the_hub();
    bed.apply(&edges).await;
    bed.settle(&reach, &bed.file("all.yaml", &edges)).await;

    let supposed = |text: String| plugin::what_if::Asked {
        annul: vec![text],
        ..plugin::what_if::Asked::default()
    };
    let asked = supposed(format!("{n}a:{n}b:SCC", n = bed.name));
    let told = async |hub_only| {
        let answer = plugin::what_if(&reach, &asked, hub_only, Output::Json).await.unwrap();
        let report: Value = serde_json::from_str(&answer.text).unwrap();
        (answer.code, report)
    };
    let edge = format!("{n}-ta.workout-summary.{n}b", n = bed.name);
    let (code, report) = told(false).await;
    assert_eq!((code, &report["edges"][0]["edge"]), (2, &json!(edge)), "{report:#}");
    assert_eq!(report["edges"][0]["because"][0]["article"], "GDPR Art 44");
    assert_eq!(
        report["sum"]["stoppedUnknown"], 1,
        "no region's operator has said anything yet"
    );
    bed.say_of_region_a(json!({"backlog": {"waiting": 3, "edges": [{"edge": edge, "waiting": 3}]}}))
        .await;
    assert_eq!(told(false).await.1["sum"]["stopped"], 3);
    assert_eq!(told(true).await.1["sum"]["stoppedUnknown"], 1);
    let nothing = supposed(format!("{n}b:{n}a", n = bed.name));
    let refused = plugin::what_if(&reach, &nothing, true, Output::Table)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("there is no mechanism"), "{refused}");

    let tenant = bed.on_the_hub(TENANT_DATA_RESIDENCY, "-ta");
    let region = bed.on_the_hub(FITNESS_REGION, "b");
    for resource in [&tenant, &region] {
        until("the hub says what ends", || async {
            let object = resource.get().await;
            let reason = |kind: &str| {
                let conditions = object.data["status"]["conditions"].as_array()?;
                Some(conditions.iter().find(|one| one["type"] == kind)?["reason"].clone())
            };
            reason("InstrumentsCurrent") == Some(json!("Expiring30"))
        })
        .await;
    }

    // A pass for another reason finds the same and writes nothing.
    let version = tenant.get().await.metadata.resource_version;
    bed.keep_for(&edges, 30).await;
    until("the change has reached the member", || async {
        let stack = bed.stack("b").await.unwrap();
        bed.the_regions_answer().await;
        stack.data["spec"]["policy"]["homes"][0]["retention"]["workout-summary"] == 30
    })
    .await;
    assert_eq!(tenant.get().await.metadata.resource_version, version);

    // Nobody here acknowledges a purge, which a deletion of a tenant with an edge would wait for.
    bed.apply(&json!([])).await;
    bed.settle(&reach, &bed.file("cut.yaml", &json!([]))).await;
    bed.clear().await;
    bed.stop.cancel();
    hub.await.unwrap();
}

fn asked(bed: &Bed, class: &str) -> Asked {
    Asked {
        tenant: format!("{}-ta", bed.name),
        class: class.to_owned(),
        from: format!("{}a", bed.name),
        to: format!("{}b", bed.name),
    }
}

fn planned_revision(report: &Value, region: &str) -> Option<u64> {
    let cluster = report["clusters"]
        .as_array()?
        .iter()
        .find(|cluster| cluster["region"] == region)?;
    let stack = cluster["copies"]
        .as_array()?
        .iter()
        .find(|copy| copy["kind"] == "RegionStack")?;
    let field = stack["fields"]
        .as_array()?
        .iter()
        .find(|field| field["path"] == "spec.revision")?;
    field["after"].as_u64()
}

/// No region's operator runs here, so no region is Ready; but both apply what is written, so their lease is renewed.
async fn the_lease_and_what_is_not_ready_are_told(bed: &Bed, reach: &Reach) {
    let wanted = Wanted {
        within_days: 30,
        hub_only: false,
    };
    until("the hub renews the lease", || async {
        bed.the_regions_answer().await;
        let answer = plugin::status(reach, wanted, Output::Json).await.unwrap();
        let report: Value = serde_json::from_str(&answer.text).unwrap();
        let members = report["members"].as_array().unwrap();
        let ours: Vec<&Value> = members
            .iter()
            .filter(|member| {
                member["region"]
                    .as_str()
                    .is_some_and(|region| region.starts_with(&bed.name))
            })
            .collect();
        assert_eq!(answer.code, 1);
        ours.len() == 2 && ours.iter().all(|member| member["lease"] == "Valid")
    })
    .await;
    let answer = plugin::status(reach, wanted, Output::Table).await.unwrap();
    assert!(
        answer
            .text
            .contains(&format!("FitnessRegion {}a is not Ready", bed.name)),
        "{}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_says_what_to_do() {
    let bed = Bed::new().await;
    let reach = bed.reach().await;
    let file = bed.file("all.yaml", &bed.shared());
    let failed = async |reach: &Reach| {
        let answer = plugin::plan(reach, std::slice::from_ref(&file), Output::Table).await;
        answer.unwrap_err().to_string()
    };

    let elsewhere = Reach {
        context: Some("elsewhere".to_owned()),
        ..reach.clone()
    };
    assert_eq!(
        failed(&elsewhere).await,
        "there is no context 'elsewhere' in the kubeconfig; there are: hub"
    );
    let no_hub = Reach {
        kubeconfig: Some(kubeconfig(MEMBER).into()),
        ..reach.clone()
    };
    let text = failed(&no_hub).await;
    assert!(
        text.contains("Jurisdiction, Party, FitnessRegion, TenantDataResidency are not installed"),
        "{text}"
    );

    // Somebody who may read the hub's resources, but not the members' kubeconfigs.
    let stranger = Reach {
        namespace: "default".to_owned(),
        ..reach.clone()
    };
    let answer = plugin::plan(&stranger, std::slice::from_ref(&file), Output::Table)
        .await
        .unwrap();
    assert_eq!(answer.code, 1);
    assert!(answer.text.contains("KubeconfigUnreadable"), "{}", answer.text);
    assert!(
        answer.text.contains(&format!("--member {}a=CONTEXT", bed.name)),
        "{}",
        answer.text
    );

    // The same with a context of their own for each member.
    let merged = bed.dir.join("merged");
    let (hub, member) = (
        read(reach.kubeconfig.as_deref().unwrap()),
        read(Path::new(&kubeconfig(MEMBER))),
    );
    std::fs::write(&merged, both(hub, &member).to_string()).unwrap();
    let own = Reach {
        kubeconfig: Some(merged),
        members: ["a", "b"]
            .map(|side| (format!("{}{side}", bed.name), "member".to_owned()))
            .into(),
        ..stranger
    };
    let (code, report) = bed.plan(&own, &file).await;
    assert_eq!(code, 2, "{report:#}");
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// One kubeconfig with the contexts of both.
fn both(mut hub: Value, member: &Value) -> Value {
    let mut user = member["users"][0].clone();
    user["name"] = json!("of-member");
    hub["users"].as_array_mut().unwrap().push(user);
    hub["clusters"]
        .as_array_mut()
        .unwrap()
        .push(member["clusters"][0].clone());
    let context = json!({"name": "member", "context": {"cluster": "member", "user": "of-member"}});
    hub["contexts"].as_array_mut().unwrap().push(context);
    hub
}
