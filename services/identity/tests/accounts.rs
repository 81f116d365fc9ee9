//! Accounts: registering, profiles, and what of them is stored and told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod common;

use common::{Answer, PASSWORD, Setting, answer, registration};
use meridian_identity::accounts::{USER_PROFILE_UPDATED, USER_REGISTERED, UserFacts};
use meridian_identity::domain::profile::Privacy;
use meridian_kit::SubjectId;
use meridian_kit::db::Scope;
use meridian_kit::testing::{Database, catalogue};
use meridian_policy::Epoch;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

async fn change(setting: &Setting, token: &str, body: Value) -> Answer {
    answer(setting.api.patch("/api/v1/me").bearer_auth(token).json(&body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_athlete_registers_signs_in_and_reads_their_own_account() {
    let setting = Setting::new().await;
    let mut request = registration("Ada@Example.org");
    request["birth_year"] = json!(1990);
    let (status, registered) = setting.register_with("stride-eu", request, None).await;
    assert_eq!(status, 201, "{registered}");
    assert_eq!(registered["tenant"], "stride-eu");

    let token = setting.token(" ada@example.ORG ").await;
    let (status, me) = setting.me(&token).await;
    assert_eq!(status, 200);
    assert_eq!(
        me,
        json!({
            "subject": registered["subject"], "tenant": "stride-eu", "email": "ada@example.org", "country": "DE",
            "birth_year": 1990, "first_name": "Ada", "last_name": "Lovelace", "bio": "", "preferences": {},
            "privacy": {"profile": "only-me", "workouts": "only-me"}, "version": 1,
        })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_personal_is_stored_or_sent_in_clear() {
    let setting = Setting::new().await;
    let canaries = [
        "canary-mail@example.org",
        "Canaryfirst",
        "Canarylast",
        "canary bio text",
        PASSWORD,
        "canary-unit",
    ];
    let mut request = registration(canaries[0]);
    request["first_name"] = json!(canaries[1]);
    request["last_name"] = json!(canaries[2]);
    assert_eq!(setting.register_with("stride-eu", request, Some("once")).await.0, 201);
    let token = setting.token(canaries[0]).await;
    let request = json!({"expected_version": 1, "bio": canaries[3], "preferences": {"unit": canaries[5]}});
    assert_eq!(change(&setting, &token, request).await.0, 200);

    let mut stored = everything(&setting).await;
    for record in setting.region.records("identity.events", 2).await {
        stored.push_str(&String::from_utf8_lossy(&record));
    }
    assert!(stored.len() > 2_000, "the dump holds the rows: {}", stored.len());
    for canary in canaries {
        let bytes = canary.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        for form in [canary.to_owned(), canary.to_lowercase(), bytes] {
            assert!(!stored.contains(&form), "{canary} is stored in clear");
        }
    }
    // The same scan finds what is stored in clear, so it would have found the canaries.
    assert!(stored.contains("UserRegistered") && stored.contains("$argon2id$"));
}

/// Every row of every table, as text (bytea as hex).
async fn everything(setting: &Setting) -> String {
    let pool = setting.database.superuser_pool();
    let tables: Vec<String> = sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'public'")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert!(tables.contains(&"account".to_owned()));
    let mut dump = String::new();
    for table in tables {
        let query = AssertSqlSafe(format!("select t::text from \"{table}\" t"));
        let rows: Vec<String> = sqlx::query_scalar(query).fetch_all(&pool).await.unwrap();
        dump.extend(rows);
    }
    dump
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_of_athletes_is_under_forced_row_level_security() {
    let setting = Setting::new().await;
    let open: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class join pg_namespace n on n.oid = relnamespace \
         where n.nspname = 'public' and relkind in ('r', 'p') and not (relrowsecurity and relforcerowsecurity) \
         order by 1",
    )
    .fetch_all(&setting.database.superuser_pool())
    .await
    .unwrap();
    // The fence is what row-level security asks; signing keys are the region's and no tenant's.
    assert_eq!(open, ["_sqlx_migrations", "signing_key", "tenant_fence"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_e_mail_address_has_one_account_per_tenant() {
    let setting = Setting::new().await;
    assert_eq!(setting.register("stride-eu", "ada@example.org").await.0, 201);
    let (status, problem) = setting.register("stride-eu", "ADA@example.org").await;
    assert_eq!((status, problem["code"].as_str().unwrap()), (409, "account-exists"));
    assert_eq!(
        setting.register("pace-eu", "ada@example.org").await.0,
        201,
        "another tenant is another world"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_registrations_at_once_one_succeeds() {
    let setting = Setting::new().await;
    let attempts = (0..6).map(|_| setting.register("stride-eu", "race@example.org"));
    let mut statuses: Vec<u16> = futures::future::join_all(attempts)
        .await
        .into_iter()
        .map(|(status, _)| status)
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409]);
    setting.token("race@example.org").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_registration_with_its_key_gets_the_same_answer() {
    let setting = Setting::new().await;
    let (status, first) = setting
        .register_with("stride-eu", registration("ada@example.org"), Some("k1"))
        .await;
    assert_eq!(status, 201);
    let (status, again) = setting
        .register_with("stride-eu", registration("ada@example.org"), Some("k1"))
        .await;
    assert_eq!((status, &again), (201, &first));
    let mut other = registration("ada@example.org");
    other["first_name"] = json!("Augusta");
    let (status, problem) = setting.register_with("stride-eu", other, Some("k1")).await;
    assert_eq!(
        (status, problem["code"].as_str().unwrap()),
        (409, "idempotency-key-reused")
    );
    let (status, _) = setting
        .register_with("stride-eu", registration("bob@example.org"), Some("k1"))
        .await;
    assert_eq!(
        status, 201,
        "another address may use the same key: keys are each client's own"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_declared_country_decides_the_region() {
    let setting = Setting::new().await;
    setting.region.change_policy(|policy| {
        let us = json!({"region": "us", "public_url": "https://us.meridian.test", "countries": ["US"]});
        policy.directory.push(serde_json::from_value(us).unwrap());
    });
    let register = async |tenant: &str, country: &str| {
        let mut request = registration("ada@example.org");
        request["country"] = json!(country);
        setting.register_with(tenant, request, None).await
    };
    meridian_kit::testing::until(async || (register("stride-eu", "US").await.0 == 421).then_some(()))
        .await
        .unwrap();
    let (_, problem) = register("stride-eu", "US").await;
    assert_eq!(problem["home"], "https://us.meridian.test");
    assert_eq!(problem["details"][0]["field"], "country");

    for (tenant, country, status, code) in [
        ("stride-eu", "JP", 422, "country-not-served"),
        ("stride-eu", "XX", 400, "invalid-field"),
        ("stride-us", "DE", 422, "unknown-tenant"),
        ("not a tenant", "DE", 422, "unknown-tenant"),
    ] {
        let (answered, problem) = register(tenant, country).await;
        assert_eq!(
            (answered, problem["code"].as_str().unwrap()),
            (status, code),
            "{tenant} {country}"
        );
    }
    assert_eq!(
        setting.register("stride-eu", "ada@example.org").await.0,
        201,
        "nothing was left half-written"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_does_not_fit_is_named_and_not_repeated() {
    let setting = Setting::new().await;
    for (field, value) in [
        ("email", json!("canary-nowhere")),
        ("password", json!("canary")),
        ("first_name", json!("")),
        ("last_name", json!("canary ".repeat(20))),
        ("birth_year", json!(1700)),
        ("birth_year", json!("canary")),
        ("nickname", json!("canary")),
    ] {
        let mut request = registration("ada@example.org");
        request[field] = value;
        let (status, problem) = setting.register_with("stride-eu", request, None).await;
        assert_eq!(status, 400, "{field}: {problem}");
        assert_eq!(problem["details"][0]["field"], field, "{problem}");
    }
    let huge = json!({"email": "a".repeat(70_000)});
    assert_eq!(setting.register_with("stride-eu", huge, None).await.0, 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_is_changed_by_whoever_read_it_last() {
    let setting = Setting::new().await;
    let token = setting.athlete("ada@example.org").await;
    let privacy = json!({"profile": "everyone", "workouts": "followers"});
    let (status, me) = change(
        &setting,
        &token,
        json!({"expected_version": 1, "bio": "rides", "privacy": privacy}),
    )
    .await;
    assert_eq!(
        (status, &me["version"], &me["bio"], &me["privacy"]),
        (200, &json!(2), &json!("rides"), &privacy)
    );

    let (status, problem) = change(&setting, &token, json!({"expected_version": 1, "bio": "runs"})).await;
    assert_eq!((status, problem["code"].as_str().unwrap()), (409, "version-conflict"));
    let (status, problem) = change(&setting, &token, json!({"bio": "runs"})).await;
    assert_eq!((status, problem["code"].as_str().unwrap()), (428, "version-missing"));
    let (status, problem) = change(
        &setting,
        &token,
        json!({"expected_version": 2, "email": "x@example.org"}),
    )
    .await;
    assert_eq!((status, &problem["details"][0]["field"]), (400, &json!("email")));

    let by_header = setting
        .api
        .patch("/api/v1/me")
        .bearer_auth(&token)
        .header("if-match", "\"2\"");
    let (status, me) = answer(by_header.json(&json!({"first_name": "Augusta"}))).await;
    assert_eq!(
        (status, &me["version"], &me["first_name"]),
        (200, &json!(3), &json!("Augusta"))
    );
    assert_eq!(setting.me(&token).await.1, me);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_repeated_with_its_key_is_made_once_and_gets_its_first_answer() {
    let setting = Setting::new().await;
    let token = setting.athlete("ada@example.org").await;
    let send = |body: Value| {
        let request = setting.api.patch("/api/v1/me").bearer_auth(&token);
        request.header("idempotency-key", "change-1").json(&body).send()
    };
    let body = json!({"expected_version": 1, "bio": "rides at dawn"});
    let first = send(body.clone()).await.unwrap();
    let tag = first.headers()["etag"].clone();
    assert_eq!((first.status().as_u16(), &tag), (200, &"\"2\"".parse().unwrap()));
    let first: Value = first.json().await.unwrap();
    let (status, _) = change(&setting, &token, json!({"expected_version": 2, "bio": "and at dusk"})).await;
    assert_eq!(status, 200);

    let again = send(body).await.unwrap();
    assert_eq!((again.status().as_u16(), &again.headers()["etag"]), (200, &tag));
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(again.json::<Value>().await.unwrap(), first);
    assert_eq!(setting.me(&token).await.1["bio"], "and at dusk");

    let other = send(json!({"expected_version": 3, "bio": "another"})).await.unwrap();
    assert_eq!(other.status().as_u16(), 409);
    assert_eq!(other.json::<Value>().await.unwrap()["code"], "idempotency-key-reused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_changes_of_one_version_one_wins() {
    let setting = Setting::new().await;
    let token = setting.athlete("ada@example.org").await;
    let changes = (0..5).map(|n| {
        change(
            &setting,
            &token,
            json!({"expected_version": 1, "bio": format!("text {n}")}),
        )
    });
    let mut statuses: Vec<u16> = futures::future::join_all(changes)
        .await
        .into_iter()
        .map(|(status, _)| status)
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409]);
    assert_eq!(setting.me(&token).await.1["version"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_alone_give_the_same_user_as_the_read_table() {
    let setting = Setting::new().await;
    let token = setting.athlete("ada@example.org").await;
    for (version, bio) in [(1, "one"), (2, "two"), (3, "three")] {
        assert_eq!(
            change(&setting, &token, json!({"expected_version": version, "bio": bio}))
                .await
                .0,
            200
        );
    }
    let me = setting.me(&token).await.1;
    let accounts = meridian_identity::assemble(&setting.region.running("identity"), None)
        .await
        .unwrap();
    let scope = Scope::new("stride-eu".parse().unwrap(), Epoch(1));
    let subject = me["subject"].as_str().unwrap().parse().unwrap();
    let replayed = accounts.replayed(&scope, subject).await.unwrap().unwrap();
    assert_eq!(replayed.version, 4);
    let profile = serde_json::to_value(&replayed.profile).unwrap();
    for field in ["first_name", "last_name", "bio", "preferences", "privacy"] {
        assert_eq!(profile[field], me[field], "{field}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_learn_of_a_user_through_events_in_order() {
    let setting = Setting::new().await;
    let token = setting.athlete("ada@example.org").await;
    assert_eq!(
        change(
            &setting,
            &token,
            json!({"expected_version": 1, "first_name": "Augusta"})
        )
        .await
        .0,
        200
    );

    let events = setting.region.events("identity.events", 2).await;
    let seen: Vec<(&str, u64)> = events
        .iter()
        .map(|event| (event.kind.as_str(), event.sequence))
        .collect();
    assert_eq!(
        seen,
        [
            ("sh.meridian.user.registered.v1", 1),
            ("sh.meridian.user.profile-updated.v1", 2)
        ]
    );
    let facts: Value = setting.region.open(&events[1]).await;
    let subject = setting.me(&token).await.1["subject"].clone();
    assert_eq!(
        facts,
        json!({
            "subject": subject, "country": "DE", "first_name": "Augusta", "last_name": "Lovelace",
            "privacy": {"profile": "only-me", "workouts": "only-me"},
        })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_subject_reads_as_gone() {
    let setting = Setting::new().await;
    let token = setting.athlete("ada@example.org").await;
    let subject = setting.me(&token).await.1["subject"].as_str().unwrap().parse().unwrap();
    setting
        .region
        .keyring("identity")
        .destroy(&"stride-eu".parse().unwrap(), &subject, None)
        .await
        .unwrap();
    // identity remembers a key for at most 30 s; another process has none.
    setting
        .region
        .run("identity", |start| meridian_identity::run_with(start, None))
        .await;
    let (status, problem) = setting.me(&token).await;
    assert_eq!((status, problem["code"].as_str().unwrap()), (404, "erased"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_account_survives_a_kill_in_the_middle_of_others() {
    let setting = Setting::new().await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let emails: Vec<String> = (0..8).map(|n| format!("athlete-{round}-{n}@example.org")).collect();
        let mut attempts: futures::stream::FuturesUnordered<_> = emails
            .iter()
            .map(async |email| {
                let request = setting
                    .api
                    .post("/api/v1/accounts")
                    .header("meridian-tenant", "stride-eu");
                let answer = request.json(&registration(email)).send().await;
                (email.clone(), answer.is_ok_and(|answer| answer.status() == 201))
            })
            .collect();
        use futures::StreamExt as _;
        let mut seen = 0;
        while let Some((email, created)) = attempts.next().await {
            if created {
                acknowledged.push(email);
            }
            seen += 1;
            if seen == 3 {
                setting.region.kill("identity").await;
            }
        }
        setting
            .region
            .run("identity", |start| meridian_identity::run_with(start, None))
            .await;
    }
    assert!(acknowledged.len() >= 3, "{acknowledged:?}");
    for email in &acknowledged {
        setting.token(email).await;
    }
    let told = setting.region.events("identity.events", acknowledged.len()).await;
    assert!(told.iter().all(|event| event.kind == "sh.meridian.user.registered.v1"));
}

#[tokio::test]
async fn catalogue_columns() {
    let database = Database::create("identity", meridian_identity::MIGRATIONS).await;
    catalogue::assert_columns("identity", &database).await;
}

#[test]
fn catalogue_event_fields() {
    let facts = json!(UserFacts {
        subject: SubjectId(uuid::Uuid::nil()),
        country: "DE".to_owned(),
        first_name: "Ada".to_owned(),
        last_name: "L".to_owned(),
        privacy: Privacy::default(),
    });
    catalogue::assert_event_fields(
        "identity",
        &[(USER_REGISTERED, facts.clone()), (USER_PROFILE_UPDATED, facts)],
    );
}
