//! The webhook as the API server meets it: two hub processes behind its Service, and certificates that are rotated while
//! people apply. The configuration is the chart's. Each apply begins with a handshake, so that none profits from a
//! connection that an older certificate has opened.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on says so by panicking; how many applies there were is to be read"
)]

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/service.rs"]
mod service;
mod support;
#[path = "support/world.rs"]
mod world;

use proxy::{Held, Proxy};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::{LIMIT, Replica, holder, lease, until};
use world::{World, certificates};

const WRITES_OF_A_ROTATION: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_applies_during_a_rotation_are_answered_by_the_policy_and_nothing_else() {
    let world = World::new().await;
    let mut replicas = [world.start("hub-0").await, world.start("hub-1").await];
    world.service.lead_to(&[replicas[0].listen, replicas[1].listen]);
    world.is_asked().await;
    world.annotate("meridian.sh/rotation-pause", "3").await;
    let old = world.kept().await;
    assert!(world.shows(replicas[0].listen, &old.trusted).await);

    world.annotate("meridian.sh/rotate", "now").await;
    let (mut applies, mut seen) = (0, vec![(1, false)]);
    while applies < 300 || !world.is_rotated(&old.trusted).await {
        world.applies().await;
        applies += 2;
        let kept = world.kept().await;
        let step = (certificates(&kept.trusted), kept.next.is_some());
        if seen.last() != Some(&step) {
            seen.push(step);
        }
    }
    eprintln!("{applies} applies during a rotation, all answered by the policy");
    assert_eq!(seen, [(1, false), (1, true), (2, false), (1, false)]);
    let new = world.kept().await;
    for replica in &mut replicas {
        assert!(replica.is_running(), "it was not started anew");
        assert!(world.shows(replica.listen, &new.trusted).await);
        assert!(!world.shows(replica.listen, &old.trusted).await);
    }
    assert!(!new.annotations.contains_key("meridian.sh/rotate"), "once is enough");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_before_or_after_any_write_of_a_rotation_is_gone_on_from() {
    let mut world = World::new().await;
    let (proxy, through) = Proxy::start(&world.kubeconfig, &world.dir).await;
    world.kubeconfig = through;
    let world = Arc::new(world);
    let mut replicas = vec![world.start("hub-0").await, world.start("hub-1").await];
    world.service.lead_to(&[replicas[0].listen]);
    world.is_asked().await;
    world.annotate("meridian.sh/rotation-pause", "3").await;
    let applying = tokio::spawn(world.clone().applies_for_ever());

    for before in 0..WRITES_OF_A_ROTATION {
        for held in [Held::BeforeItArrives, Held::BeforeItsAnswer] {
            let leader = leader(&world, &mut replicas).await;
            // Reviews go to the other one, which must notice nothing. Those that the leader has begun end first.
            world.service.lead_to(&[replicas[0].listen]);
            let count = world.applied.load(Ordering::SeqCst);
            until("reviews go elsewhere", || async {
                world.applied.load(Ordering::SeqCst) > count + 2
            })
            .await;
            let old = world.kept().await;
            proxy.hold(before, held);
            world.annotate("meridian.sh/rotate", "now").await;
            proxy.is_reached().await;
            let identity = leader.identity.clone();
            leader.kill();
            let staged = world.kept().await.next;
            replicas.push(world.start(&identity).await);
            until("the rotation goes on", || world.is_rotated(&old.trusted)).await;
            let new = world.kept().await;
            if let Some(staged) = staged {
                assert_eq!(
                    new.trusted, staged,
                    "killed at write {before} ({held:?}): another rotation was begun"
                );
            }
            for replica in &replicas {
                until("the new certificate is shown", || {
                    world.shows(replica.listen, &new.trusted)
                })
                .await;
            }
            assert!(!applying.is_finished(), "an apply failed: see below");
        }
    }
    applying.abort();
    let ended = applying.await;
    assert!(ended.is_err_and(|error| error.is_cancelled()), "an apply failed");
    eprintln!(
        "{} applies during {} rotations whose leader was killed",
        world.applied.load(Ordering::SeqCst),
        2 * WRITES_OF_A_ROTATION
    );
    Arc::into_inner(world).expect("nobody applies any more").end().await;
}

/// The replica that leads, taken out of the others.
async fn leader(world: &World, replicas: &mut Vec<Replica>) -> Replica {
    let began = Instant::now();
    loop {
        let lease = lease(&world.client, &world.namespace, "meridian-hub").await;
        let holder = holder(lease.as_ref());
        let leads = |replica: &Replica| Some(&replica.identity) == holder.as_ref();
        if let Some(place) = replicas.iter().position(leads) {
            return replicas.remove(place);
        }
        assert!(began.elapsed() < LIMIT, "none of the two leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_secret_is_named_with_what_to_do_and_what_is_served_goes_on() {
    let world = World::new().await;
    let leader = world.start("hub-0").await;
    world.service.lead_to(&[leader.listen]);
    world.is_asked().await;
    let old = world.kept().await;
    world.damage().await;
    let advice = format!("kubectl -n {} delete secret meridian-webhook-tls", world.namespace);
    until("it is said", || async {
        let log = leader.log();
        log.contains("cannot be used: tls.crt, tls.key and ca.crt: there is no certificate") && log.contains(&advice)
    })
    .await;
    world.applies().await;
    let counted = "policy_refusals_total{rule=\"unknown-jurisdiction\"}";
    assert!(
        leader.metrics().await.contains(counted),
        "a refusal is counted by its rule"
    );

    let another = world.start_unready("hub-1");
    until(
        "a replica that has no certificate is not ready and says why",
        || async {
            let said = another.readiness().await;
            said.is_some_and(|(ready, why)| !ready && why.contains(&advice))
        },
    )
    .await;
    world.applies().await;

    world.delete_the_secret().await;
    another.is_ready().await;
    world.service.lead_to(&[leader.listen, another.listen]);
    // What the leader still shows is not thrown away: a rotation leads from it to a new one.
    world.annotate("meridian.sh/rotation-pause", "3").await;
    while !world.is_rotated(&old.trusted).await {
        world.applies().await;
    }
    world.applies().await;
    world.end().await;
}
