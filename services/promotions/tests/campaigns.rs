//! Campaigns: who makes them, whom they reach, and what is kept of athletes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod common;

use common::{PROMOTION, Setting, WORKOUTS, all, answer, campaign};
use meridian_kit::testing::{Database, catalogue};
use meridian_promotions::delivery::{PROMOTION_DELIVERED, PromotionDelivered};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_delivered_before_consent_one_after_it_and_none_after_its_withdrawal() {
    let setting = Setting::new().await;
    let (athlete, other) = (setting.athlete().await, setting.reachable().await);
    let first = setting.launched("first", all()).await;
    setting.received(&other, 1).await;
    setting.settled().await;
    assert_eq!(setting.inbox(&athlete).await, Vec::<Value>::new());

    // The campaign is open: who consents later receives it then.
    setting.consent(&athlete, "grant", PROMOTION).await;
    setting.received(&athlete, 1).await;
    let promotion = setting.inbox(&athlete).await.remove(0);
    assert_eq!(
        (&promotion["title"], &promotion["body"]),
        (&json!("Spring shoes"), &json!("Twenty per cent off"))
    );

    setting.consent(&athlete, "withdraw", PROMOTION).await;
    let second = setting.launched("second", all()).await;
    setting.received(&other, 2).await;
    setting.settled().await;
    assert_eq!(setting.inbox(&athlete).await.len(), 1);

    let token = setting.region.marketing_token("stride-eu");
    let api = setting.region.client("gateway", "promotions");
    for (id, delivered) in [(&first, 2), (&second, 1)] {
        let (_, shown) = answer(api.get(&format!("/api/v1/campaigns/{id}")).bearer_auth(&token)).await;
        assert_eq!(
            (&shown["delivered"], &shown["phase"]),
            (&json!(delivered), &json!("launched"))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_is_told_sealed_and_once() {
    let setting = Setting::new().await;
    let athlete = setting.reachable().await;
    let id = setting.launched("first", all()).await;
    setting.received(&athlete, 1).await;
    assert_eq!(setting.launch(&id).await.0, 202, "launching again changes nothing");
    let second = setting.launched("second", all()).await;
    setting.received(&athlete, 2).await;
    let events = setting.region.events("promotions.events", 2).await;
    let mut campaigns = Vec::new();
    for event in &events {
        assert_eq!(
            (event.kind.as_str(), event.data_subject),
            ("sh.meridian.promotion.delivered.v1", athlete.subject)
        );
        let payload: Value = setting.region.open(event).await;
        campaigns.push(payload["campaign_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(campaigns, [id, second]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_by_sport_reaches_those_who_consented_to_that_and_do_the_sport() {
    let setting = Setting::new().await;
    let (cyclist, runner, private) = (
        setting.reachable().await,
        setting.reachable().await,
        setting.reachable().await,
    );
    for athlete in [&cyclist, &runner] {
        setting.granted(athlete, WORKOUTS).await;
    }
    setting.rides(&cyclist, "cycling").await;
    setting.rides(&runner, "running").await;
    setting.rides(&private, "cycling").await;
    setting.heard_workouts(3).await;

    setting.launched("bikes", json!({"sport_type": "cycling"})).await;
    setting.received(&cyclist, 1).await;
    setting.settled().await;
    assert_eq!(setting.inbox(&runner).await.len(), 0);
    assert_eq!(
        setting.inbox(&private).await.len(),
        0,
        "no consent to the use of workouts"
    );

    // A first ride later on is enough; a second changes nothing.
    setting.rides(&runner, "cycling").await;
    setting.received(&runner, 1).await;
    setting.rides(&runner, "cycling").await;
    setting.heard_workouts(5).await;
    setting.settled().await;
    assert_eq!(setting.inbox(&runner).await.len(), 1);

    // Without the consent to promotions that to workouts opens nothing.
    setting.consent(&cyclist, "withdraw", PROMOTION).await;
    setting.heard(&cyclist, PROMOTION, false).await;
    setting.launched("more-bikes", json!({"sport_type": "cycling"})).await;
    setting.received(&runner, 2).await;
    setting.settled().await;
    assert_eq!(setting.inbox(&cyclist).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_workouts_nothing_is_kept_without_consent_nothing_in_clear_and_nothing_after_a_withdrawal() {
    let setting = Setting::new().await;
    let (agreed, silent) = (setting.reachable().await, setting.reachable().await);
    setting.granted(&agreed, WORKOUTS).await;
    setting.rides(&agreed, "canary-sport").await;
    setting.rides(&silent, "canary-sport").await;
    setting.heard_workouts(2).await;
    let pool = setting.database.superuser_pool();
    let kept = async || -> Vec<(uuid::Uuid, String)> {
        sqlx::query_as("select subject, athlete::text from athlete where sealed_sports is not null")
            .fetch_all(&pool)
            .await
            .unwrap()
    };
    let rows = kept().await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].0, agreed.subject.as_uuid());
    assert!(
        !rows[0].1.contains("canary") && !rows[0].1.contains(&hex("canary")),
        "{}",
        rows[0].1
    );

    setting.consent(&agreed, "withdraw", WORKOUTS).await;
    setting.heard(&agreed, WORKOUTS, false).await;
    assert_eq!(kept().await, Vec::new());
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_campaigns_and_athletes_are_its_own() {
    let setting = Setting::new().await;
    let own = setting.reachable().await;
    let foreign = setting.region.athlete("pace-eu");
    setting.consent(&foreign, "grant", PROMOTION).await;
    setting.heard(&foreign, PROMOTION, true).await;
    let id = setting.launched("first", all()).await;
    setting.received(&own, 1).await;
    setting.settled().await;
    assert_eq!(setting.inbox(&foreign).await.len(), 0);

    let api = setting.region.client("gateway", "promotions");
    let other = setting.region.marketing_token("pace-eu");
    assert_eq!(
        answer(api.get(&format!("/api/v1/campaigns/{id}")).bearer_auth(&other))
            .await
            .0,
        404
    );
    assert_eq!(
        answer(api.post(&format!("/api/v1/campaigns/{id}/launch")).bearer_auth(&other))
            .await
            .0,
        404
    );
    let (_, list) = answer(api.get("/api/v1/campaigns").bearer_auth(&other)).await;
    assert_eq!(list["campaigns"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaigns_are_made_by_marketing_tokens_only_and_recognised_by_name() {
    let setting = Setting::new().await;
    let (status, made) = setting.make(campaign("spring", all())).await;
    assert_eq!(
        (status, &made["phase"], &made["segment"]),
        (201, &json!("draft"), &all())
    );
    let (status, again) = setting.make(campaign("spring", all())).await;
    assert_eq!((status, &again["id"]), (200, &made["id"]));
    let (status, problem) = setting.make(campaign("spring", json!({"sport_type": "cycling"}))).await;
    assert_eq!((status, problem["code"].as_str().unwrap()), (409, "campaign-exists"));
    for (field, value) in [
        ("name", json!("No Spaces")),
        ("title", json!("")),
        ("segment", json!({})),
        ("audience", json!(1)),
    ] {
        let mut bad = campaign("other", all());
        bad[field] = value;
        let (status, problem) = setting.make(bad).await;
        assert_eq!(
            (status, problem["details"][0]["field"].as_str().unwrap()),
            (400, field),
            "{problem}"
        );
    }

    let athlete = setting.athlete().await;
    let api = setting.region.client("gateway", "promotions");
    let token = setting.region.marketing_token("stride-eu");
    let by_athlete = api
        .post("/api/v1/campaigns")
        .bearer_auth(&athlete.token)
        .json(&campaign("x", all()));
    assert_eq!(answer(by_athlete).await.0, 403);
    assert_eq!(answer(api.get("/api/v1/promotions").bearer_auth(&token)).await.0, 403);
    assert_eq!(answer(api.get("/api/v1/promotions")).await.0, 401);
    let around = setting.region.client("social", "promotions");
    assert_eq!(answer(around.get("/api/v1/campaigns").bearer_auth(&token)).await.0, 403);
    assert_eq!(setting.launch("00000000-0000-7000-8000-000000000000").await.0, 404);
    assert_eq!(setting.launch("not-an-id").await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_is_read_page_by_page() {
    let setting = Setting::new().await;
    let athlete = setting.reachable().await;
    let pool = setting.database.superuser_pool();
    for n in 0..60 {
        let mut new = campaign(&format!("c{n:02}"), all());
        new["title"] = json!(format!("title {n}"));
        let (status, made) = setting.make(new).await;
        assert_eq!(status, 201, "{made}");
    }
    let (_, list) = {
        let api = setting.region.client("gateway", "promotions");
        answer(
            api.get("/api/v1/campaigns")
                .bearer_auth(setting.region.marketing_token("stride-eu")),
        )
        .await
    };
    assert_eq!(list["campaigns"].as_array().unwrap().len(), 50);
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar("select id from campaign")
        .fetch_all(&pool)
        .await
        .unwrap();
    for id in ids {
        assert_eq!(setting.launch(&id.to_string()).await.0, 202);
    }
    setting.settled().await;
    let api = setting.region.client("gateway", "promotions");
    let read = async |path: String| answer(api.get(&path).bearer_auth(&athlete.token)).await.1;
    let first = read("/api/v1/promotions".to_owned()).await;
    let next = first["next"].as_str().unwrap();
    let second = read(format!("/api/v1/promotions?cursor={next}")).await;
    assert_eq!(
        (
            first["promotions"].as_array().unwrap().len(),
            second["promotions"].as_array().unwrap().len()
        ),
        (50, 10)
    );
    let titles: std::collections::BTreeSet<&str> = [&first, &second]
        .into_iter()
        .flat_map(|page| page["promotions"].as_array().unwrap())
        .map(|promotion| promotion["title"].as_str().unwrap())
        .collect();
    assert_eq!(titles.len(), 60);
    assert!(second.get("next").is_none());
}

#[tokio::test]
async fn catalogue_columns() {
    let database = Database::create("promotions", meridian_promotions::MIGRATIONS).await;
    catalogue::assert_columns("promotions", &database).await;
}

#[test]
fn catalogue_event_fields() {
    let delivered = PromotionDelivered {
        campaign_id: uuid::Uuid::nil(),
        delivery_id: uuid::Uuid::nil(),
    };
    catalogue::assert_event_fields("promotions", &[(PROMOTION_DELIVERED, json!(delivered))]);
}

#[tokio::test]
async fn every_table_is_guarded() {
    let database = Database::create("promotions", meridian_promotions::MIGRATIONS).await;
    // The fence itself, which every tenant's transaction reads, and the list of applied migrations.
    assert_eq!(database.unguarded_tables().await, ["_sqlx_migrations", "tenant_fence"]);
}
