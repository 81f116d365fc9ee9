//! The hub's connections to a real member (`cargo xtask parts apiserver member -- cargo test -p meridian-operator`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod bed;

use bed::{install_custom_resources, until};
use meridian_operator::election::Leadership;
use meridian_operator::hub::members::{Health, Members, connector, run_tasks};
use meridian_operator::metrics::Metrics;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_member_that_nobody_names_is_forgotten_and_connected_anew_when_somebody_does() {
    let path = std::env::var("MERIDIAN_TEST_KUBECONFIG")
        .unwrap_or_else(|_| panic!("MERIDIAN_TEST_KUBECONFIG is not set: run `cargo xtask test`"));
    let kubeconfig = std::fs::read_to_string(path).unwrap();
    install_custom_resources(&bed::client().await).await;
    let (metrics, shutdown) = (Metrics::default(), CancellationToken::new());
    let (members, tasks) = Members::new(Leadership::alone(), metrics.clone(), Arc::new(|_, _| {}), connector());
    let running = tokio::spawn(run_tasks(tasks, shutdown.clone()));
    let regions = BTreeSet::from(["eu".to_owned()]);
    let listed = || async {
        let member = members.get("eu");
        member.is_some_and(|member| member.is_known() && member.health() == Health::Reachable)
    };
    members.ensure("eu", &kubeconfig, &regions).await.unwrap();
    until("it is listed", listed).await;
    let seen = Arc::downgrade(&members.get("eu").unwrap());
    members.refuse("us");

    members.retain(&BTreeSet::from(["eu".to_owned()]));
    assert!(members.get("eu").is_some(), "it is named");
    assert!(members.is_awaited("us"), "nobody knows any more that it was refused");
    members.retain(&BTreeSet::new());
    assert!(members.get("eu").is_none());
    assert!(seen.upgrade().is_none(), "what was seen of it is dropped");
    assert!(!metrics.render().contains("member=\"eu\""), "{}", metrics.render());

    members.ensure("eu", &kubeconfig, &regions).await.unwrap();
    until("it is listed again", listed).await;
    assert!(!running.is_finished(), "watches that were told to end are no failure");
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
