//! The verifier on real databases with the roles that production has. What each test smuggles in, it must find; and with
//! nothing smuggled, it must find nothing there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use meridian_kit::db::Migration;
use meridian_kit::testing::Database as TestDatabase;
use meridian_policy::RegionPolicy;
use meridian_verifier::{Check, Database, Finding, Server, VerifyError, verify};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

const EDGE: &str = "stride-eu.workout-summary.us";

/// One service's database of us, and how it is called here.
struct Us {
    real: TestDatabase,
    database: Database,
}

impl Us {
    async fn of(service: &str, migrations: &[Migration]) -> Self {
        let real = TestDatabase::create(service, migrations).await;
        let database = Database {
            service: service.to_owned(),
            name: real.name().to_owned(),
            role: real.name().to_owned(),
            owner: format!("{}_owner", real.name()),
        };
        Self { real, database }
    }

    /// What an administrator could do by hand, whatever triggers and policies say.
    async fn by_hand(&self, sql: &str) {
        let pool = self.real.superuser_pool();
        let sql = format!("set session_replication_role = replica; {sql}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        pool.close().await;
    }

    /// What is found in this database. The server is shared with other tests, and made for speed: what is said of the whole
    /// of it is theirs.
    async fn found(&self, policy: &RegionPolicy) -> Vec<Finding> {
        let here = |finding: &Finding| finding.place.starts_with(&format!("{}.", self.database.service));
        self.all_found(policy).await.into_iter().filter(here).collect()
    }

    /// What is found, also of the server.
    async fn all_found(&self, policy: &RegionPolicy) -> Vec<Finding> {
        let now = jiff::Timestamp::now();
        let report = verify(
            &self.real.superuser_url(),
            &Server::default(),
            std::slice::from_ref(&self.database),
            policy,
            now,
        )
        .await;
        let report = report.unwrap();
        assert_eq!(report.looked.databases, 1);
        assert!(report.looked.tables > 0, "{report:?}");
        report.findings
    }

    async fn finds(&self, policy: &RegionPolicy, check: Check, place: &str) -> Finding {
        let found = self.found(policy).await;
        let [finding] = found.as_slice() else {
            panic!("one finding was expected: {found:?}")
        };
        assert_eq!((finding.check, finding.place.as_str()), (check, place), "{finding}");
        finding.clone()
    }
}

fn has(found: &[Finding], check: Check, place: &str, of: &str) -> bool {
    found
        .iter()
        .any(|finding| finding.check == check && finding.place == place && finding.of.as_deref() == Some(of))
}

fn policy(imports: Value) -> RegionPolicy {
    serde_json::from_value(json!({
        "region": "us", "jurisdiction": "us", "revision": 7, "public_url": "https://us.example", "issuer": "https://us.example",
        "countries_served": ["US"], "homes": [{"tenant": "stride-us", "organization": "stride", "epoch": 3}],
        "directory": [], "peers": [], "exports": [], "imports": imports, "retention": {}
    }))
    .unwrap()
}

fn edge() -> Value {
    json!({
        "id": EDGE, "tenant": "stride-eu", "organization": "stride", "from": "eu", "to": "us",
        "exporter": "stride-europe", "importer": "stride-inc", "importer_tenant": "stride-us",
        "class": "workout-summary", "purposes": ["cross-border-sharing"], "fields": ["sport_type"],
        "mechanism": "SCC", "instrument": "SCC 2021/914 module 1",
        "effective_from": "2020-01-01T00:00:00Z", "expires": "2100-01-01T00:00:00Z", "ends_with": "mechanism-expired",
        "pseudonymise": true, "onward": false, "needs_consent": true, "framework": "GDPR", "rule": "SCC", "epoch": 1
    })
}

fn workout(tenant: &str, epoch: u64) -> String {
    format!(
        "insert into workout (tenant, epoch, workout_id, author, version, status, feed_at, summary) \
         values ('{tenant}', {epoch}, gen_random_uuid(), gen_random_uuid(), 1, 'completed', now(), 'x');"
    )
}

fn copy(edge: &str, tenant: &str, expires: &str) -> String {
    format!(
        "insert into imported_workout (tenant, epoch, id, origin, edge, expires_at, author, day, payload) \
         values ('{tenant}', 3, gen_random_uuid(), 'eu', '{edge}', {expires}, gen_random_uuid(), now(), 'x');"
    )
}

async fn social() -> Us {
    Us::of("social", meridian_social::MIGRATIONS).await
}

/// Telemetry's chunks lie in partitions, one for each month.
async fn with_a_month() -> Us {
    let telemetry = Us::of("telemetry", meridian_telemetry::MIGRATIONS).await;
    telemetry.by_hand("select telemetry_make_month(now()::date)").await;
    telemetry
}

#[tokio::test]
async fn nothing_is_found_in_the_schemas_that_the_services_make_with_rows_that_belong_there() {
    let us = social().await;
    us.by_hand(&workout("stride-us", 3)).await;
    us.by_hand(&workout("stride-us", 2)).await;
    us.by_hand(&copy(EDGE, "stride-us", "now() + interval '1 day'")).await;
    assert_eq!(us.found(&policy(json!([edge()]))).await, []);
    let of_the_database = |finding: &Finding| finding.place.starts_with("social: ");
    let all = us.all_found(&policy(json!([edge()]))).await;
    assert!(!all.iter().any(of_the_database), "{all:?}");
    let others = [
        Us::of("identity", meridian_identity::MIGRATIONS).await,
        Us::of("replicator", meridian_replicator::MIGRATIONS).await,
        with_a_month().await,
        Us::of("training", meridian_training::MIGRATIONS).await,
    ];
    for other in others {
        assert_eq!(other.found(&policy(json!([]))).await, []);
    }
}

#[tokio::test]
async fn copies_by_a_held_edge_stay_until_their_own_time_is_over() {
    let us = social().await;
    us.by_hand(&copy(EDGE, "stride-us", "now() + interval '1 day'")).await;
    let mut held = policy(json!([]));
    held.held = serde_json::from_value(json!([{"id": EDGE, "because": "it says adults_only"}])).unwrap();
    assert_eq!(us.found(&held).await, []);
    us.by_hand(&copy(EDGE, "stride-us", "now() - interval '2 hours'")).await;
    let found = us.finds(&held, Check::ExpiredCopies, "social.imported_workout").await;
    assert_eq!(found.count, 1);
}

#[tokio::test]
async fn a_row_of_a_tenant_from_elsewhere_is_found_and_counted_with_its_classes() {
    let us = social().await;
    us.by_hand(&workout("stride-us", 3)).await;
    us.by_hand(&[workout("stride-eu", 1), workout("stride-eu", 1)].concat())
        .await;
    let finding = us.finds(&policy(json!([])), Check::ForeignRows, "social.workout").await;
    assert_eq!((finding.count, finding.of.as_deref()), (2, Some("stride-eu")));
    let classes: Vec<&str> = finding.classes.iter().map(|class| class.as_str()).collect();
    assert!(classes.contains(&"workout-summary"), "{classes:?}");
}

#[tokio::test]
async fn what_is_no_tenant_is_counted_and_not_repeated() {
    let us = social().await;
    us.by_hand(&workout("Ada Lovelace, 12 St James Square", 1)).await;
    let finding = us.finds(&policy(json!([])), Check::ForeignRows, "social.workout").await;
    assert_eq!((finding.count, finding.of.as_deref()), (1, Some("what is no name")));
}

#[tokio::test]
async fn a_row_of_an_epoch_that_nobody_was_given_is_found() {
    let us = social().await;
    us.by_hand(&workout("stride-us", 4)).await;
    us.finds(&policy(json!([])), Check::FutureEpoch, "social.workout").await;
}

#[tokio::test]
async fn a_copy_is_found_once_its_edge_is_cut_and_when_it_came_by_no_edge_or_stays_too_long() {
    let us = social().await;
    us.by_hand(&copy(EDGE, "stride-us", "now() + interval '1 day'")).await;
    let cut = us
        .finds(&policy(json!([])), Check::CopiesWithoutEdge, "social.imported_workout")
        .await;
    assert_eq!(cut.of.as_deref(), Some("stride-eu.workout-summary.us for stride-us"));

    let open = policy(json!([edge()]));
    us.by_hand(&copy("stride-eu.health.us", "stride-us", "now() + interval '1 day'"))
        .await;
    us.finds(&open, Check::CopiesWithoutEdge, "social.imported_workout")
        .await;
    us.by_hand("delete from imported_workout where edge = 'stride-eu.health.us'")
        .await;

    // Another tenant of us has nothing from this edge.
    us.by_hand(&copy(EDGE, "run-us", "now() + interval '1 day'")).await;
    us.finds(&open, Check::CopiesWithoutEdge, "social.imported_workout")
        .await;
    us.by_hand("delete from imported_workout where tenant = 'run-us'").await;

    us.by_hand(&copy(EDGE, "stride-us", "now() - interval '2 hours'")).await;
    us.finds(&open, Check::ExpiredCopies, "social.imported_workout").await;
}

#[tokio::test]
async fn a_copy_of_an_edge_that_has_ended_is_found() {
    let us = social().await;
    us.by_hand(&copy(EDGE, "stride-us", "now() + interval '1 day'")).await;
    let mut ended = edge();
    ended["expires"] = json!("2021-01-01T00:00:00Z");
    us.finds(
        &policy(json!([ended])),
        Check::CopiesWithoutEdge,
        "social.imported_workout",
    )
    .await;
}

#[tokio::test]
async fn a_table_or_column_that_nobody_catalogued_is_found_and_needs_a_guard() {
    let us = social().await;
    us.by_hand("alter table workout add column heart_rate integer").await;
    us.finds(&policy(json!([])), Check::Uncatalogued, "social.workout.heart_rate")
        .await;
    us.by_hand("alter table workout drop column heart_rate; create table notes (text text)")
        .await;
    let found = us.found(&policy(json!([]))).await;
    let seen: Vec<(Check, &str)> = found
        .iter()
        .map(|finding| (finding.check, finding.place.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            (Check::Uncatalogued, "social.notes.text"),
            (Check::Unguarded, "social.notes")
        ]
    );
}

#[tokio::test]
async fn a_guard_that_was_lowered_is_found() {
    let us = social().await;
    for lowered in [
        "alter table workout no force row level security",
        "alter table workout disable row level security",
        "alter table workout force row level security; alter table workout enable row level security; \
         create policy everybody on workout using (true)",
    ] {
        us.by_hand(lowered).await;
        us.finds(&policy(json!([])), Check::Unguarded, "social.workout").await;
    }
}

#[tokio::test]
async fn a_privilege_that_others_were_given_is_found() {
    let us = social().await;
    us.by_hand("grant select on workout to public").await;
    let finding = us
        .finds(&policy(json!([])), Check::OpenToOthers, "social.workout")
        .await;
    assert_eq!(finding.of.as_deref(), Some("public"));
    us.by_hand("revoke select on workout from public; create view everybody with (security_invoker = false) as select tenant from workout")
        .await;
    let found = us.found(&policy(json!([]))).await;
    assert!(
        found
            .iter()
            .any(|finding| finding.check == Check::OpenToOthers && finding.place == "social.everybody"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_privilege_on_one_column_is_found() {
    let us = social().await;
    us.by_hand("grant select (summary) on workout to public").await;
    let finding = us
        .finds(&policy(json!([])), Check::OpenToOthers, "social.workout.summary")
        .await;
    assert_eq!(finding.of.as_deref(), Some("public"));
}

#[tokio::test]
async fn what_others_will_be_given_of_later_tables_is_found() {
    let us = social().await;
    let owner = &us.database.owner;
    us.by_hand(&format!(
        "alter default privileges for role \"{owner}\" grant select on tables to public; grant create on schema public to public"
    ))
    .await;
    let found = us.all_found(&policy(json!([]))).await;
    for place in ["social: default privileges", "social: schema public"] {
        assert!(has(&found, Check::OpenToOthers, place, "public"), "{place}: {found:?}");
    }
}

#[tokio::test]
async fn a_function_with_the_rights_of_who_sees_everything_is_found() {
    let us = social().await;
    us.by_hand(
        "create function every_tenant() returns bigint language sql security definer as 'select count(*) from public.workout'",
    )
    .await;
    let found = us.all_found(&policy(json!([]))).await;
    assert!(
        has(&found, Check::OpenToOthers, "social: function every_tenant", "postgres"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_slot_that_keeps_changes_for_somebody_is_found_on_a_server_of_ours() {
    let us = social().await;
    let slot = format!("for_somebody_{}", us.real.name());
    us.by_hand(&format!("select pg_create_physical_replication_slot('{slot}')"))
        .await;
    let found = us.all_found(&policy(json!([]))).await;
    us.by_hand(&format!("select pg_drop_replication_slot('{slot}')")).await;
    assert!(has(&found, Check::WayOut, "replication slot", &slot), "{found:?}");
}

#[tokio::test]
async fn made_up_names_without_end_are_few_findings() {
    let us = social().await;
    us.by_hand(
        "insert into follow (tenant, epoch, follower, followed) \
         select 'made-up-' || i, 1, gen_random_uuid(), gen_random_uuid() from generate_series(1, 5000) i",
    )
    .await;
    let found = us.found(&policy(json!([]))).await;
    assert!(found.len() < 200, "{} findings", found.len());
    assert!(found.iter().all(|finding| finding.check == Check::ForeignRows));
    assert_eq!(found.iter().map(|finding| finding.count).sum::<u64>(), 5_000);
}

#[tokio::test]
async fn a_way_out_of_the_database_and_a_mighty_role_are_found() {
    let us = social().await;
    us.by_hand("create publication everything for all tables").await;
    let (role, owner) = (&us.database.role, &us.database.owner);
    us.by_hand(&format!(
        "alter role \"{role}\" bypassrls; grant \"{owner}\" to \"{role}\""
    ))
    .await;
    us.by_hand(&format!("alter role \"{role}\" set log_statement = 'all'"))
        .await;
    let now = jiff::Timestamp::now();
    let databases = [us.database.clone()];
    let report = verify(
        &us.real.superuser_url(),
        &Server::default(),
        &databases,
        &policy(json!([])),
        now,
    )
    .await
    .unwrap();
    let says = |check: Check, place: &str, of: &str| {
        let found = report.findings.iter().any(|finding| {
            finding.check == check
                && finding.place == place
                && finding.of.as_deref().is_some_and(|said| said.contains(of))
        });
        assert!(found, "{check:?} {place} {of}: {:?}", report.findings);
    };
    says(Check::WayOut, "social: publication", "everything");
    says(Check::MightyRole, role, "bypassrls");
    says(Check::MightyRole, role, owner);
    says(Check::Setting, "log_statement", role);
    us.by_hand(&format!("alter role \"{role}\" reset log_statement")).await;
}

#[tokio::test]
async fn who_does_not_see_every_row_says_so_instead_of_finding_nothing() {
    let us = social().await;
    us.by_hand(&workout("stride-eu", 1)).await;
    let now = jiff::Timestamp::now();
    let databases = [us.database.clone()];
    let refused = verify(us.real.url(), &Server::default(), &databases, &policy(json!([])), now).await;
    assert!(matches!(refused, Err(VerifyError::Blind)), "{refused:?}");
    let gone = [Database::of("no-such-service")];
    let refused = verify(
        &us.real.superuser_url(),
        &Server::default(),
        &gone,
        &policy(json!([])),
        now,
    )
    .await;
    assert!(matches!(refused, Err(VerifyError::Unseen { .. })), "{refused:?}");
}
