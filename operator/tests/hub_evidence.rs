//! What the hub says when a region's evidence contradicts what it was told before, on two real API servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod bed;
mod world;

use bed::until;
use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use meridian_evidence::{Checkpoint, Signer};
use meridian_operator::manifest::{FITNESS_REGION, REGION_STACK};
use serde_json::{Value, json};
use world::World;

fn checkpoint(size: u64, head: u8) -> Checkpoint {
    let signer = Signer::from_seed(&[7; 32]).unwrap();
    signer.sign(&"us/replicator".parse().unwrap(), size, [head; 32], Timestamp::now())
}

/// As the region's operator writes it.
async fn tell(world: &World, checkpoint: &Checkpoint) {
    let stacks: Api<DynamicObject> = Api::all_with(world.member.clone(), &REGION_STACK.resource());
    let patch = json!({"status": {"evidence": [checkpoint]}});
    let params = PatchParams::default();
    stacks.patch_status("us", &params, &Patch::Merge(&patch)).await.unwrap();
}

async fn says(world: &World, reason: &str) -> Value {
    let condition = |region: &Value| {
        let all = region["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter()
            .find(|condition| condition["type"] == "EvidenceConsistent")
    };
    until(&format!("the hub says {reason}"), || async {
        let region = world.get(FITNESS_REGION, "us").await.unwrap();
        condition(&region).is_some_and(|condition| condition["reason"] == reason)
    })
    .await;
    world.get(FITNESS_REGION, "us").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_shrank_is_said_until_a_person_accepts_it_and_the_older_checkpoint_stays() {
    let world = World::new().await;
    world.regions_are_laid_down().await;
    says(&world, "NotTold").await;
    tell(&world, &checkpoint(5, 1)).await;
    says(&world, "Agrees").await;
    tell(&world, &checkpoint(9, 2)).await;
    until("the further checkpoint is kept", || async {
        world.get(FITNESS_REGION, "us").await.unwrap()["status"]["evidence"][0]["size"] == 9
    })
    .await;

    tell(&world, &checkpoint(3, 7)).await;
    let region = says(&world, "Contradicted").await;
    assert_eq!(region["status"]["evidence"][0]["size"], 9, "for who verifies an export");
    assert_eq!(region["status"]["evidenceContradicted"][0]["checkpoint"]["size"], 3);
    // Growing again does not heal it.
    tell(&world, &checkpoint(20, 8)).await;
    tell(&world, &checkpoint(3, 7)).await;
    let region = says(&world, "Contradicted").await;
    assert_eq!(region["status"]["evidence"][0]["size"], 9);

    let accepted = json!({"metadata": {"annotations": {"meridian.sh/evidence-accepted": "07".repeat(32)}}});
    world.merge(FITNESS_REGION, "us", &accepted).await.unwrap();
    let region = says(&world, "Agrees").await;
    assert_eq!(region["status"]["evidence"][0]["size"], 3);
    assert!(region["status"]["evidenceContradicted"].is_null());
    world.end().await;
}
