//! Nothing personal is in clear, in any table or topic; and the scan that says so finds what is in clear.
#![expect(clippy::expect_used, reason = "tests fail by panicking")]

mod shared;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meridian_kit::testing::{Database, catalogue};
use serde_json::json;
use shared::Scene;

/// Where `needle` stands in any table of the database, as text, in binary columns, or inside base64.
async fn found_in(database: &Database, needle: &str) -> Vec<String> {
    let pool = database.superuser_pool();
    let tables: Vec<String> = sqlx::query_scalar(
        "select quote_ident(schemaname) || '.' || quote_ident(tablename) from pg_tables where schemaname = 'public'",
    )
    .fetch_all(&pool)
    .await
    .expect("the tables");
    let mut found = Vec::new();
    for table in tables {
        let query = sqlx::AssertSqlSafe(format!("select to_jsonb(t)::text from {table} t"));
        let rows: Vec<String> = sqlx::query_scalar(query).fetch_all(&pool).await.expect("the rows");
        if rows.iter().any(|row| shows(row.as_bytes(), needle)) {
            found.push(table);
        }
    }
    found
}

/// Whether bytes show a text: plainly, as hex (how PostgreSQL prints `bytea`), or inside base64 of either.
fn shows(bytes: &[u8], needle: &str) -> bool {
    let text = String::from_utf8_lossy(bytes);
    if text.contains(needle) || text.contains(&hex::encode(needle)) {
        return true;
    }
    // Events are JSON in `bytea`, their payload base64 in that.
    let unhexed = text.split("\\x").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        hex::decode(&rest[..end]).ok()
    });
    unhexed.chain([bytes.to_vec()]).any(|bytes| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let payload = text
            .split('"')
            .filter(|part| part.len() > 20)
            .filter_map(|part| STANDARD.decode(part).ok());
        payload
            .into_iter()
            .any(|inner| String::from_utf8_lossy(&inner).contains(needle))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn personal_fields_are_in_clear_in_no_table_and_in_no_topic() {
    let scene = Scene::new().await;
    let canary = |what: &str| format!("{what}-{}", uuid::Uuid::new_v4().simple());
    let (title, tag, device, sport) = (canary("title"), canary("tag"), canary("device"), canary("s"));
    let start = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let body = json!({"sport_type": sport, "start_time": start, "device_model": device, "title": title});
    let request = scene
        .api
        .post("/api/v1/workouts")
        .bearer_auth(&scene.athlete.token)
        .header("Idempotency-Key", "c-1");
    let (status, workout) = shared::answer(request.json(&body)).await;
    assert_eq!(status, 201, "{workout}");
    let id = workout["workout_id"].as_str().expect("an id");
    let commands = [
        json!({"command": "add-tag", "expected_version": 1, "tag": tag}),
        json!({"command": "complete", "expected_version": 2, "distance_meters": 34567.25, "calories_burned": 7654.5}),
    ];
    for command in &commands {
        assert_eq!(scene.command(id, command).await.0, 200);
    }

    let records = scene.region.records("training.events", 3).await;
    for needle in [title.as_str(), &tag, &device, &sport, "34567.25", "7654.5"] {
        assert_eq!(
            found_in(&scene.database, needle).await,
            Vec::<String>::new(),
            "{needle} is in clear"
        );
        assert!(
            !records.iter().any(|record| shows(record, needle)),
            "{needle} is in clear in the topic"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scan_finds_what_is_smuggled_in() {
    let scene = Scene::new().await;
    let pool = scene.database.superuser_pool();
    let statements = [
        "create table smuggled (plain text, bytes bytea, event bytea)",
        "insert into smuggled values ('has canary-a', 'has canary-b', convert_to('{\"data_base64\":\"' || \
         encode('a payload that has canary-c', 'base64') || '\"}', 'UTF8'))",
    ];
    for statement in statements {
        sqlx::query(statement).execute(&pool).await.expect("a smuggled canary");
    }
    for needle in ["canary-a", "canary-b", "canary-c"] {
        assert_eq!(found_in(&scene.database, needle).await, ["public.smuggled"], "{needle}");
    }
}

#[tokio::test]
async fn every_table_is_under_guard() {
    let database = Database::create("training", meridian_training::MIGRATIONS).await;
    // The fence itself, which every tenant's transaction reads, and the list of applied migrations.
    assert_eq!(database.unguarded_tables().await, ["_sqlx_migrations", "tenant_fence"]);
}

#[tokio::test]
async fn catalogue_columns() {
    let database = Database::create("training", meridian_training::MIGRATIONS).await;
    catalogue::assert_columns("training", &database).await;
}
