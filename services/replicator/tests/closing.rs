//! Edges that the policy asks to acknowledge as closed: each is, whatever this region knows of it. And edges of which it says
//! what this version does not know: they are neither open nor closed.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod shared;

use meridian_kit::policy_feed::{Ack, AckRole};
use meridian_policy::{CutEdge, PolicyRevision};
use serde_json::json;
use shared::{EDGE, Side, World, edge, ride, several_rounds};

/// Takes the edge out of a region's policy as the hub does: with the question whether it is closed. Says under which
/// revision the region had it.
fn cut(side: &Side) -> PolicyRevision {
    let before = side.region.policy().revision;
    side.region.change_policy(|policy| {
        policy.exports.clear();
        policy.imports.clear();
        let cut: CutEdge = serde_json::from_value(json!({"id": EDGE, "tenant": "stride-eu",
            "importer_tenant": "stride-us", "from": "eu", "to": "us", "revision": before}))
        .expect("a cut edge");
        policy.closing = vec![cut];
    });
    before
}

/// The acknowledgement that everything is closed, newer than a revision.
async fn acknowledged(side: &Side, role: AckRole, after: PolicyRevision) -> Ack {
    let closed = |ack: &Ack| ack.role == role && !ack.sinks.is_empty() && ack.revision > after;
    let found = meridian_kit::testing::until(|| async { side.region.acks().into_iter().find(closed) });
    let ack = found.await.expect("an acknowledgement");
    assert_eq!(ack.edge.as_str(), EDGE);
    ack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_came_and_went_unseen_is_acknowledged_by_both_ends() {
    let world = World::without_edges().await;
    let (eu, us) = (cut(&world.eu), cut(&world.us));
    assert_eq!(acknowledged(&world.eu, AckRole::Exporter, eu).await.purged, 0);
    assert_eq!(acknowledged(&world.us, AckRole::Importer, us).await.purged, 0);
    for side in [&world.eu, &world.us] {
        let evidence = side.evidence().await;
        assert!(evidence.iter().all(|entry| entry["edge"] != EDGE), "nothing was open");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_importer_that_is_not_asked_still_answers_the_exporter_that_is() {
    let world = World::without_edges().await;
    let us = world.us.region.policy().revision;
    let eu = cut(&world.eu);
    acknowledged(&world.eu, AckRole::Exporter, eu).await;
    let ack = world
        .us
        .region
        .acks()
        .into_iter()
        .find(|ack| ack.role == AckRole::Importer);
    assert!(ack.is_some_and(|ack| ack.revision >= us));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_is_acknowledged_for_each_time_that_it_was_there() {
    let world = World::new().await;
    world.eu.consent.grant();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    world.us.sink.arrived(1).await;
    let (eu, us) = (cut(&world.eu), cut(&world.us));
    assert_eq!(acknowledged(&world.us, AckRole::Importer, us).await.purged, 2);
    acknowledged(&world.eu, AckRole::Exporter, eu).await;
    assert!(world.us.sink.copies().is_empty());

    // It comes and goes again, and nobody opens it this time.
    let (eu, us) = (cut(&world.eu), cut(&world.us));
    acknowledged(&world.eu, AckRole::Exporter, eu).await;
    acknowledged(&world.us, AckRole::Importer, us).await;

    // And it can be opened once more.
    for side in [&world.eu, &world.us] {
        side.region.change_policy(|policy| policy.closing.clear());
    }
    world.open(&edge(3600));
    world.eu.share(&world.eu.athlete(), &ride()).await;
    world.us.sink.arrived(1).await;
}

/// Until a metric says that the edge is held.
async fn is_held(side: &Side) {
    let replicator = side.region.running("replicator");
    let held = || async {
        let told = replicator.measured();
        told.lines()
            .any(|line| line == "meridian_policy_held_edges 1")
            .then_some(())
    };
    meridian_kit::testing::until(held).await.expect("a metric says so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_says_more_than_this_version_knows_carries_nothing_and_keeps_its_copies() {
    let world = World::new().await;
    world.eu.consent.grant();
    let athlete = world.eu.athlete();
    world.eu.share(&athlete, &ride()).await;
    world.us.sink.arrived(1).await;
    let told = |held: bool| {
        world.eu.region.say_more(move |policy| {
            if held {
                policy["exports"][0]["adults_only"] = json!(true);
            }
        });
    };
    told(true);
    is_held(&world.eu).await;
    world.eu.share(&athlete, &ride()).await;
    let waits = || async { (world.eu.count("delivery where waits_for = 'not-understood'").await == 1).then_some(()) };
    meridian_kit::testing::until(waits).await.expect("it waits");
    several_rounds(&world.eu).await;
    assert_eq!(world.us.sink.copies().len(), 1, "nothing is purged, and nothing comes");
    assert!(world.eu.region.acks().is_empty());

    told(false);
    world.us.sink.arrived(2).await;

    // An importer that does not understand it lets nothing in and purges nothing, and its exporter waits.
    world
        .us
        .region
        .say_more(|policy| policy["imports"][0]["adults_only"] = json!(true));
    is_held(&world.us).await;
    world.eu.share(&athlete, &ride()).await;
    let waits = || async {
        let waiting = world
            .eu
            .count("delivery where waits_for = 'importer-unreachable'")
            .await;
        (waiting == 1).then_some(())
    };
    meridian_kit::testing::until(waits).await.expect("it waits");
    assert_eq!(world.us.sink.copies().len(), 2);
    world.us.region.say_more(|_| ());
    world.us.sink.arrived(3).await;
}
