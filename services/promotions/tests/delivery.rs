//! Deliveries: never without a permit, never after an acknowledged withdrawal, never twice, whatever dies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use common::{PROMOTION, Setting, all};
use meridian_kit::testing::{Athlete, until};
use serde_json::json;

async fn reachable(setting: &Setting, count: usize) -> Vec<Athlete> {
    futures::future::join_all((0..count).map(|_| setting.reachable())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_delivery_starts_after_a_withdrawal_was_acknowledged() {
    let setting = Setting::new().await;
    let athletes = reachable(&setting, 24).await;
    setting.launched("first", all()).await;
    // Everybody withdraws while the campaign is under way.
    let at_acknowledgement = futures::future::join_all(athletes.iter().map(async |athlete| {
        setting.consent(athlete, "withdraw", PROMOTION).await;
        setting.delivered().await.contains(&athlete.subject)
    }))
    .await;
    setting.settled().await;
    setting.launched("second", all()).await;
    setting.settled().await;
    let in_the_end = setting.delivered().await;
    for (athlete, before) in athletes.iter().zip(at_acknowledgement) {
        assert_eq!(
            in_the_end.contains(&athlete.subject),
            before,
            "a delivery came after the acknowledgement"
        );
    }
    let pending: i64 = sqlx::query_scalar("select count(*) from pending")
        .fetch_one(&setting.database.superuser_pool())
        .await
        .unwrap();
    assert_eq!(pending, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_launch_survives_kills_and_reaches_everybody_once() {
    let setting = Setting::new().await;
    let athletes = reachable(&setting, 30).await;
    setting.launched("first", all()).await;
    for wanted in [1, 8, 16] {
        let got_on = until(async || (setting.delivered().await.len() >= wanted).then_some(()));
        got_on.await.expect("deliveries go on");
        setting.region.kill("promotions").await;
        setting.restart().await;
    }
    // What was taken by a process that died is free again when its hold ends.
    setting.settled().await;
    let everybody: BTreeSet<_> = athletes.iter().map(|athlete| athlete.subject).collect();
    assert_eq!(setting.delivered().await, everybody);
    // A relay that dies between the broker's answer and its own note tells again: at least once, with the same id.
    let (mut told, mut records) = (BTreeSet::new(), 30);
    while told.len() < 30 {
        records += 30_usize.saturating_sub(told.len()) % 30;
        let events = setting.region.events("promotions.events", records).await;
        told = events.iter().map(|event| event.data_subject).collect();
    }
    assert_eq!(told, everybody);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_consent_service_nothing_is_delivered_and_nothing_is_lost() {
    let setting = Setting::new().await;
    let athlete = setting.reachable().await;
    setting.region.stop("consent").await;
    setting.launched("first", all()).await;
    let postponed = async || -> bool {
        let query = "select exists (select 1 from pending where attempts >= 2)";
        sqlx::query_scalar(query)
            .fetch_one(&setting.database.superuser_pool())
            .await
            .unwrap()
    };
    until(async || postponed().await.then_some(()))
        .await
        .expect("it is tried again");
    assert_eq!(setting.inbox(&athlete).await.len(), 0);
    setting.region.run("consent", meridian_consent::run).await;
    setting.received(&athlete, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permit_that_arrives_too_late_permits_nothing() {
    let setting = Setting::new().await;
    let athlete = setting.reachable().await;
    let (delay_ms, asked) = (Arc::new(AtomicU64::new(900)), Arc::new(AtomicU64::new(0)));
    let (delay, count) = (Arc::clone(&delay_ms), Arc::clone(&asked));
    let open = move || {
        let (delay, count) = (Arc::clone(&delay), Arc::clone(&count));
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(delay.load(Ordering::SeqCst))).await;
            // Valid for longer than the answer took is not the point: the time counts from before the question.
            axum::Json(json!({"permit_id": uuid::Uuid::new_v4(), "valid_for_ms": 1000}))
        }
    };
    let slow = Router::new().route("/internal/permits", post(open)).route(
        "/internal/permits/{id}/close",
        post(async || http::StatusCode::NO_CONTENT),
    );
    setting.region.serve("consent", slow).await;
    setting.launched("first", all()).await;
    until(async || (asked.load(Ordering::SeqCst) >= 3).then_some(()))
        .await
        .expect("it asks again");
    assert_eq!(setting.inbox(&athlete).await.len(), 0);
    delay_ms.store(0, Ordering::SeqCst);
    setting.received(&athlete, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_is_not_about_consent_drops_nothing() {
    let setting = Setting::new().await;
    let athlete = setting.reachable().await;
    let refused = || async {
        let problem = json!({"code": "no-consent", "rule": "tenant-unknown"});
        (http::StatusCode::FORBIDDEN, axum::Json(problem))
    };
    setting
        .region
        .serve("consent", Router::new().route("/internal/permits", post(refused)))
        .await;
    setting.launched("first", all()).await;
    let query = "select exists (select 1 from pending where attempts >= 3)";
    let pool = setting.database.superuser_pool();
    let tried = until(async || {
        sqlx::query_scalar(query)
            .fetch_one(&pool)
            .await
            .unwrap_or(false)
            .then_some(())
    });
    tried.await.expect("it is tried again");
    setting.region.run("consent", meridian_consent::run).await;
    setting.received(&athlete, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawal_takes_back_what_is_pending_even_while_consent_cannot_be_asked() {
    let setting = Setting::new().await;
    let athlete = setting.reachable().await;
    setting.region.serve("consent", Router::new()).await;
    setting.launched("first", all()).await;
    let pool = setting.database.superuser_pool();
    let pending = async || -> i64 {
        sqlx::query_scalar("select count(*) from pending")
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    until(async || (pending().await == 1).then_some(()))
        .await
        .expect("it waits for the consent service");
    setting.tell_withdrawal(&athlete, 2).await;
    setting.heard(&athlete, PROMOTION, false).await;
    assert_eq!(pending().await, 0);
    // An older change that arrives late changes nothing.
    setting.tell_withdrawal(&athlete, 1).await;
    setting.region.run("consent", meridian_consent::run).await;
    setting.launched("second", all()).await;
    setting.settled().await;
    assert_eq!(setting.inbox(&athlete).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_athlete_receives_nothing_and_is_forgotten() {
    let setting = Setting::new().await;
    let (erased, other) = (setting.reachable().await, setting.reachable().await);
    setting
        .region
        .keyring("identity")
        .destroy(&erased.tenant, &erased.subject, None)
        .await
        .unwrap();
    // promotions remembers a key for at most 30 s; another process has none.
    setting.restart().await;
    setting.launched("first", all()).await;
    setting.received(&other, 1).await;
    setting.settled().await;
    assert!(!setting.delivered().await.contains(&erased.subject));
    setting.heard(&erased, PROMOTION, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_of_an_older_epoch_goes_on_at_the_new_one() {
    let setting = Setting::new().await;
    let athlete = setting.reachable().await;
    setting.region.stop("consent").await;
    setting.launched("first", all()).await;
    setting.region.raise_epoch("stride-eu");
    setting.region.run("consent", meridian_consent::run).await;
    until(async || setting.delivered().await.contains(&athlete.subject).then_some(()))
        .await
        .expect("it is delivered");
    let epoch: i64 = sqlx::query_scalar("select epoch from delivery")
        .fetch_one(&setting.database.superuser_pool())
        .await
        .unwrap();
    assert_eq!(epoch, 2);
}
