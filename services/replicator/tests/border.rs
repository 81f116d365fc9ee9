//! Two replicators, each on its own PostgreSQL database and Kafka topics: what crosses, what does not, and what is taken
//! back.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use meridian_kit::policy_feed::AckRole;
use meridian_kit::service::{self, Parts};
use meridian_kit::testing::until;
use meridian_replicator::wire::{Form, Leased};
use serde_json::json;
use shared::{EDGE, World, edge, edge_back, ride, several_rounds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_arrives_with_exactly_the_edges_fields_and_nothing_that_names_its_author() {
    let world = World::new().await;
    world.eu.consent.grant();
    let athlete = world.eu.athlete();
    let original = world.eu.share(&athlete, &ride()).await;

    let (copy, payload) = world.us.sink.arrived(1).await.remove(0);
    assert_eq!(
        payload,
        json!({"sport_type": "cycling", "distance_meters": 40123.5, "start_day": "2026-03-04"})
    );
    assert_eq!(
        (copy.tenant.as_str(), copy.origin.as_ref().map(|o| o.as_str())),
        ("stride-us", Some("eu"))
    );
    assert_eq!(copy.edge.as_ref().map(|edge| edge.as_str()), Some(EDGE));
    assert!(copy.expires.is_some());
    let text = String::from_utf8(copy.to_bytes()).expect("UTF-8");
    for of_the_original in [
        athlete.subject.to_string(),
        original.id.to_string(),
        original.subject.clone(),
    ] {
        assert!(!text.contains(&of_the_original), "{of_the_original} in {text}");
    }
    assert_eq!(copy.traceparent, None);
    assert_eq!(copy.time.as_second() % 86_400, 0, "no finer than the day");

    let transfer = world.eu.recorded("transfer", "").await;
    assert_eq!(
        (&transfer["count"], &transfer["mechanism"]),
        (&json!(1), &json!("Certification"))
    );
    assert!(transfer["bytes"].as_i64().expect("bytes") > 0);
    until(|| async { (world.eu.consent.open_permits() == 0).then_some(()) })
        .await
        .expect("every permit is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_are_alike() {
    let world = World::new().await;
    world.open(&edge_back(3600));
    world.eu.consent.grant();
    world.us.consent.grant();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    world.us.share(&world.us.athlete(), &ride()).await;
    assert_eq!(world.us.sink.arrived(1).await[0].0.tenant.as_str(), "stride-us");
    assert_eq!(world.eu.sink.arrived(1).await[0].0.tenant.as_str(), "stride-eu");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_author_is_one_pseudonym_and_two_are_two() {
    let world = World::new().await;
    world.eu.consent.grant();
    let (one, other) = (world.eu.athlete(), world.eu.athlete());
    for athlete in [&one, &one, &other] {
        world.eu.share(athlete, &ride()).await;
    }
    let mut authors: Vec<_> = world
        .us
        .sink
        .arrived(3)
        .await
        .iter()
        .map(|(copy, _)| copy.data_subject)
        .collect();
    authors.sort();
    authors.dedup();
    assert_eq!(authors.len(), 2);
    assert!(!authors.contains(&one.subject) && !authors.contains(&other.subject));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_of_more_than_consent_is_asked_about_at_once_arrives_whole() {
    let world = World::new().await;
    world.eu.consent.be_away(true);
    world.eu.shares(&world.eu.athlete(), &ride(), 1100).await;
    let queued = || async { (world.eu.count("delivery").await == 1100).then_some(()) };
    until(queued).await.expect("all are queued");
    let full = || async { (world.eu.consent.most_asked() == 500).then_some(()) };
    until(full)
        .await
        .expect("more are claimed than are asked about at once");
    world.eu.consent.grant();
    world.eu.consent.be_away(false);
    world.us.sink.arrived(1100).await;
    assert_eq!(world.eu.consent.most_asked(), 500);
    let closed = || async { (world.eu.consent.open_permits() == 0).then_some(()) };
    until(closed).await.expect("every permit is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_consent_nothing_leaves_and_the_refusal_is_recorded() {
    let world = World::new().await;
    world.eu.share(&world.eu.athlete(), &ride()).await;
    let refusal = world.eu.recorded("refusal", "consent:not-granted").await;
    assert_eq!((&refusal["count"], &refusal["bytes"]), (&json!(1), &json!(0)));
    assert_eq!(world.us.count("imported_event").await, 0);
    assert_eq!(
        world.eu.count("delivery").await,
        0,
        "a refusal is final: a later consent is for later shares"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_consent_service_means_no_until_it_answers() {
    let world = World::new().await;
    world.eu.region.stop("consent").await;
    world.eu.share(&world.eu.athlete(), &ride()).await;
    until(|| async { (world.eu.count("delivery where attempts > 0").await == 1).then_some(()) })
        .await
        .expect("it waits");
    assert_eq!(world.us.count("imported_event").await, 0);

    world.eu.consent.grant();
    world.eu.region.serve("consent", world.eu.consent.router()).await;
    world.us.sink.arrived(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaves_while_the_policy_may_be_stale() {
    let world = World::new().await;
    world.eu.consent.grant();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    world.us.sink.arrived(1).await;

    world.eu.region.lose_lease();
    let asked = world.eu.consent.asked();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    until(|| async { (world.eu.count("delivery where attempts > 0").await == 1).then_some(()) })
        .await
        .expect("it waits");
    assert_eq!((world.us.sink.copies().len(), world.eu.consent.asked()), (1, asked));

    world.eu.region.renew_lease();
    world.us.sink.arrived(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_for_a_current_policy_is_tried_when_it_is_current_and_not_when_its_pause_ends() {
    let world = World::new().await;
    world.eu.consent.grant();
    world.eu.region.lose_lease();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    // By then the next pause is eight seconds.
    until(|| async { (world.eu.count("delivery where attempts >= 5").await == 1).then_some(()) })
        .await
        .expect("its pauses grow");

    let renewed = Instant::now();
    world.eu.region.renew_lease();
    world.us.sink.arrived(1).await;
    assert!(renewed.elapsed() < Duration::from_secs(5), "{:?}", renewed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_policy_may_be_stale_a_delivery_is_looked_at_less_and_less_often() {
    const PAUSES: &str =
        "delivery where waits_for = 'policy-stale' and attempts >= 3 and next_attempt > now() + interval '1 second'";
    let world = World::new().await;
    world.eu.region.lose_lease();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    until(|| async { (world.eu.count(PAUSES).await == 1).then_some(()) })
        .await
        .expect("its pauses grow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_policy_lets_everything_that_waits_be_tried() {
    let world = World::new().await;
    world.eu.region.stop("consent").await;
    world.eu.share(&world.eu.athlete(), &ride()).await;
    until(|| async { (world.eu.count("delivery where attempts >= 5").await == 1).then_some(()) })
        .await
        .expect("its pauses grow");
    world.eu.consent.grant();
    world.eu.region.serve("consent", world.eu.consent.router()).await;

    let changed = Instant::now();
    world.eu.region.change_policy(|_| {});
    world.us.sink.arrived(1).await;
    assert!(changed.elapsed() < Duration::from_secs(5), "{:?}", changed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_edge_nothing_is_even_queued() {
    let world = World::without_edges().await;
    world.eu.consent.grant();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    until(|| async { (world.eu.count("inbox").await == 1).then_some(()) })
        .await
        .expect("it was consumed");
    assert_eq!(world.eu.count("delivery").await, 0);
    assert_eq!(world.eu.consent.asked(), 0);
}

/// Everything that a purge promises, seen from every side.
async fn assert_purged(world: &World, rule: &str) {
    world.us.recorded("purge", "").await;
    assert_eq!(world.us.count("imported_event").await, 0);
    assert_eq!(
        world.us.sink.copies().len(),
        0,
        "the sink deleted its copies before it acknowledged"
    );
    let acknowledged = |world: &World| {
        let importer = world
            .us
            .region
            .acks()
            .into_iter()
            .find(|ack| ack.role == AckRole::Importer)?;
        let exporter = world
            .eu
            .region
            .acks()
            .into_iter()
            .rfind(|ack| ack.role == AckRole::Exporter)?;
        (!exporter.sinks.is_empty()).then_some((importer, exporter))
    };
    let (importer, exporter) = until(|| async { acknowledged(world) })
        .await
        .expect("both operators are told");
    assert_eq!(importer.edge.as_str(), EDGE);
    assert_eq!(importer.sinks, ["replicator", "social"]);
    assert_eq!((exporter.purged, &exporter.sinks), (importer.purged, &importer.sinks));
    // Two copies here, two in the sink.
    assert_eq!(importer.purged, 4);
    world.eu.recorded("policy-change", &format!("cut:{rule}")).await;
}

async fn two_shares(world: &World) {
    world.eu.consent.grant();
    for _ in 0..2 {
        world.eu.share(&world.eu.athlete(), &ride()).await;
    }
    world.us.sink.arrived(2).await;
    until(|| async { (world.us.count("imported_event").await == 2).then_some(()) })
        .await
        .expect("both are kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_is_removed_is_purged_everywhere_and_acknowledged() {
    let world = World::new().await;
    two_shares(&world).await;
    world.close(&edge(3600));
    assert_purged(&world, "no-edge").await;

    let athlete = world.eu.athlete();
    world.eu.share(&athlete, &ride()).await;
    several_rounds(&world.eu).await;
    assert_eq!(world.us.sink.copies().len(), 0, "no delivery starts after the cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_expires_is_purged_by_its_time_alone() {
    let world = World::without_edges().await;
    world.open(&edge(8));
    two_shares(&world).await;
    assert_purged(&world, "mechanism-expired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_importer_purges_by_its_own_knowledge_when_the_exporter_is_gone() {
    let world = World::new().await;
    two_shares(&world).await;
    world.eu.region.stop("replicator").await;
    world.us.region.change_policy(|policy| policy.imports.clear());
    world.us.recorded("purge", "").await;
    assert_eq!(
        (world.us.count("imported_event").await, world.us.sink.copies().len()),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_region_operator_is_told_how_many_copies_wait_on_each_edge() {
    let world = World::new().await;
    world.us.region.stop("replicator").await;
    world.eu.consent.grant();
    for _ in 0..2 {
        world.eu.share(&world.eu.athlete(), &ride()).await;
    }
    until(|| async { (world.eu.count("delivery").await == 2).then_some(()) })
        .await
        .expect("two wait");

    // The first count comes at once.
    world.eu.region.stop("replicator").await;
    world.eu.region.run("replicator", meridian_replicator::run).await;
    let told = || async { (world.eu.region.backlog()?.waiting.get(&EDGE.parse().ok()?) == Some(&2)).then_some(()) };
    until(told).await.expect("the region operator is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_waits_for_every_sink() {
    let world = World::new().await;
    two_shares(&world).await;
    world.us.region.stop("social").await;
    world.close(&edge(3600));
    world.us.recorded("policy-change", "cut:no-edge").await;
    several_rounds(&world.us).await;
    assert_eq!(world.us.count("import_edge where state = 'cutting'").await, 1);
    assert!(
        world.us.region.acks().iter().all(|ack| ack.role != AckRole::Importer),
        "nothing is acknowledged yet"
    );

    let sink = world.us.sink.clone();
    world.us.region.run("social", move |start| sink.run(start)).await;
    assert_purged(&world, "no-edge").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_records_of_a_purged_edge_are_gone_from_the_topic_and_its_key_is_destroyed() {
    let world = World::new().await;
    two_shares(&world).await;
    let before = world.us.region.records("imports.events", 2).await;
    let copy = meridian_kit::event::Event::from_bytes(&before[0]).expect("an event");
    world.close(&edge(3600));
    assert_purged(&world, "no-edge").await;

    let opened = copy.open::<serde_json::Value>(&world.us.region.keyring("social")).await;
    assert!(opened.is_err(), "a record that somebody kept opens nowhere any more");
    // Reopened, the topic begins with what came after the purge.
    world.open(&edge(3600));
    world.eu.share(&world.eu.athlete(), &ride()).await;
    world.us.sink.arrived(1).await;
    let after = world.us.region.events("imports.events", 1).await;
    assert_eq!(after[0].id, world.us.sink.copies()[0].0.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cut_the_same_author_comes_back_as_somebody_else() {
    let world = World::new().await;
    world.eu.consent.grant();
    let athlete = world.eu.athlete();
    world.eu.share(&athlete, &ride()).await;
    let before = world.us.sink.arrived(1).await[0].0.data_subject;
    world.close(&edge(3600));
    until(|| async { (world.eu.count("export_edge where state = 'cut'").await == 1).then_some(()) })
        .await
        .expect("a cut");

    world.open(&edge(3600));
    world.eu.share(&athlete, &ride()).await;
    let after = world.us.sink.arrived(1).await[0].0.data_subject;
    assert_ne!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_exporter_delivers_what_was_shared_once_in_effect() {
    let world = World::new().await;
    world.eu.consent.grant();
    let athlete = world.eu.athlete();
    for _ in 0..12 {
        world.eu.share(&athlete, &ride()).await;
    }
    world.us.sink.arrived(1).await;
    world.eu.region.kill("replicator").await;
    world.eu.region.run("replicator", meridian_replicator::run).await;
    world.us.sink.arrived(12).await;
    several_rounds(&world.eu).await;
    assert_eq!(
        (world.us.count("imported_event").await, world.us.sink.copies().len()),
        (12, 12)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_ends_at_its_own_expiry_also_when_its_edge_was_renewed() {
    let world = World::without_edges().await;
    world.open(&edge(8));
    two_shares(&world).await;
    let renewed = edge(3600);
    for side in [&world.eu, &world.us] {
        side.region.change_policy(|policy| {
            for known in policy.exports.iter_mut().chain(&mut policy.imports) {
                known.expires = renewed.expires;
            }
        });
    }
    let purge = world.us.recorded("purge", "copy-expired").await;
    assert_eq!(purge["count"], json!(2));
    assert_eq!(world.us.count("imported_event").await, 0);
    assert_eq!(world.us.count("import_edge where state = 'open'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_withdrawal_nothing_more_leaves() {
    let world = World::new().await;
    world.eu.consent.grant();
    let athlete = world.eu.athlete();
    world.eu.share(&athlete, &ride()).await;
    world.us.sink.arrived(1).await;
    world.eu.consent.withdraw();
    world.eu.share(&athlete, &ride()).await;
    world.eu.recorded("refusal", "consent:not-granted").await;
    assert_eq!(world.us.count("imported_event").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_ends_when_the_exporter_leases_no_more() {
    let world = World::new().await;
    world.eu.consent.grant();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    let (copy, _) = world.us.sink.arrived(1).await.remove(0);
    let opens = || async {
        // A client that remembers no key from before.
        let keyring = world.us.region.keyring("social");
        copy.open::<serde_json::Value>(&keyring).await.is_ok()
    };
    assert!(opens().await);
    world.eu.region.stop("replicator").await;
    until(|| async { (!opens().await).then_some(()) })
        .await
        .expect("the lease ends");

    world.eu.region.run("replicator", meridian_replicator::run).await;
    until(|| async { opens().await.then_some(()) })
        .await
        .expect("it is leased again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_push_is_under_way_when_a_cut_is_acknowledged_and_none_starts_after_it() {
    let world = World::without_edges().await;
    let slow = SlowImporter::default();
    let router = slow.router();
    world.us.region.stop("replicator").await;
    let serve = |start| service::serve(start, Parts::new(router).accept_peer_regions());
    world.us.region.run("replicator", serve).await;
    world.eu.consent.grant();
    world.open(&edge(3600));
    for _ in 0..3 {
        world.eu.share(&world.eu.athlete(), &ride()).await;
    }
    until(|| async { (slow.under_way() == 1).then_some(()) })
        .await
        .expect("a push");

    world.eu.region.change_policy(|policy| policy.exports.clear());
    let acknowledged = || async { (!world.eu.region.acks().is_empty()).then_some(()) };
    until(acknowledged).await.expect("the cut is acknowledged");
    assert_eq!(slow.under_way(), 0, "the push that was under way has ended");
    let pushes = slow.pushes();
    world.eu.share(&world.eu.athlete(), &ride()).await;
    several_rounds(&world.eu).await;
    assert_eq!(slow.pushes(), pushes, "no push starts after the acknowledgement");
}

/// In the place of an importer: takes everything, slowly.
#[derive(Clone, Default)]
struct SlowImporter(Arc<(AtomicUsize, AtomicUsize)>);

impl SlowImporter {
    fn under_way(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    fn pushes(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }

    fn router(&self) -> Router {
        let slow = self.clone();
        let batch = move || async move {
            slow.0.0.fetch_add(1, Ordering::SeqCst);
            slow.0.1.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(900)).await;
            slow.0.0.fetch_sub(1, Ordering::SeqCst);
            axum::Json(json!({"stored": 1, "repeated": 0}))
        };
        let purge = || async { axum::Json(json!({"complete": false, "purged": 0, "sinks": []})) };
        Router::new()
            .route(Form::Carried.path(), post(batch))
            .route(
                "/peer/v1/leases",
                post(|| async {
                    axum::Json(Leased {
                        carried: true,
                        ..Leased::default()
                    })
                }),
            )
            .route("/peer/v1/cuts", post(purge))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_event_goes_to_the_dead_letters_and_holds_up_no_share_behind_it() {
    let world = World::new().await;
    world.eu.consent.grant();
    let athlete = world.eu.athlete();
    let producer = world.eu.region.kafka("social").producer().expect("a producer");
    // The same key: both are in one partition.
    producer
        .send("social.events", &athlete.subject.to_string(), b"{")
        .await
        .expect("a send");
    world.eu.share(&athlete, &ride()).await;
    world.us.sink.arrived(1).await;
}
