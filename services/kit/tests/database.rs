//! What a service's database holds to, whatever the service does: tenants apart, epochs fenced, roles without power.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use meridian_kit::config::Secret;
use meridian_kit::db::{self, Error, Migration, Scope, TenantTx, raise_fence};
use meridian_kit::testing::Database;
use meridian_policy::Epoch;

const NOTES: &[Migration] = &[Migration::new(
    100,
    "notes",
    "create table note (tenant text not null, epoch bigint not null, id bigint not null, body text, primary key (tenant, id));
     select meridian_guard('note');",
)];

fn scope(tenant: &str, epoch: u64) -> Scope {
    Scope::new(tenant.parse().unwrap(), Epoch(epoch))
}

async fn with_fences(tenants: &[(&str, u64)]) -> (Database, db::Pool) {
    let database = Database::create("notes", NOTES).await;
    let pool = database.pool();
    for (tenant, epoch) in tenants {
        raise_fence(&pool, &tenant.parse().unwrap(), Epoch(*epoch))
            .await
            .unwrap();
    }
    (database, pool)
}

async fn write(pool: &db::Pool, scope: &Scope, id: i64) -> Result<(), Error> {
    let mut tx = TenantTx::begin(pool, scope).await?;
    sqlx::query("insert into note (id, body) values ($1, 'x')")
        .bind(id)
        .execute(tx.conn())
        .await?;
    tx.commit().await
}

async fn count(pool: &db::Pool, scope: &Scope) -> i64 {
    let mut tx = TenantTx::begin(pool, scope).await.unwrap();
    sqlx::query_scalar("select count(*) from note")
        .fetch_one(tx.conn())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_tenant_sees_and_changes_its_own_rows_only() {
    let (_database, pool) = with_fences(&[("stride-eu", 1), ("trail-eu", 1)]).await;
    let (ours, theirs) = (scope("stride-eu", 1), scope("trail-eu", 1));
    write(&pool, &ours, 1).await.unwrap();
    write(&pool, &theirs, 1).await.unwrap();
    assert_eq!((count(&pool, &ours).await, count(&pool, &theirs).await), (1, 1));

    let mut tx = TenantTx::begin(&pool, &ours).await.unwrap();
    let changed = sqlx::query("update note set body = 'y' where tenant = 'trail-eu'")
        .execute(tx.conn())
        .await
        .unwrap();
    let removed = sqlx::query("delete from note where tenant = 'trail-eu'")
        .execute(tx.conn())
        .await
        .unwrap();
    assert_eq!((changed.rows_affected(), removed.rows_affected()), (0, 0));
    let insert = sqlx::query("insert into note (tenant, id) values ('trail-eu', 2)")
        .execute(tx.conn())
        .await;
    assert!(matches!(Error::from(insert.unwrap_err()), Error::Fenced));
}

#[tokio::test]
async fn without_a_scope_nothing_is_seen_and_nothing_is_written() {
    let (database, pool) = with_fences(&[("stride-eu", 1)]).await;
    write(&pool, &scope("stride-eu", 1), 1).await.unwrap();
    let seen: i64 = sqlx::query_scalar("select count(*) from note")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(seen, 0);
    assert!(
        sqlx::query("insert into note (tenant, epoch, id) values ('stride-eu', 1, 2)")
            .execute(&pool)
            .await
            .is_err()
    );
    // The owner of the table is under the same guard.
    let owner = db::connect(database.owner_url(), "test").unwrap();
    let seen: i64 = sqlx::query_scalar("select count(*) from note")
        .fetch_one(&owner)
        .await
        .unwrap();
    assert_eq!(seen, 0);
}

#[tokio::test]
async fn a_stale_epoch_is_fenced() {
    let (_database, pool) = with_fences(&[("stride-eu", 1)]).await;
    write(&pool, &scope("stride-eu", 1), 1).await.unwrap();
    raise_fence(&pool, &"stride-eu".parse().unwrap(), Epoch(2))
        .await
        .unwrap();
    let refused = write(&pool, &scope("stride-eu", 1), 2).await;
    assert!(
        matches!(refused, Err(Error::StaleEpoch { fence: Epoch(2), .. })),
        "{refused:?}"
    );
    write(&pool, &scope("stride-eu", 2), 2).await.unwrap();
}

#[tokio::test]
async fn a_stale_epoch_is_fenced_by_the_rows_themselves_too() {
    let (_database, pool) = with_fences(&[("stride-eu", 2)]).await;
    // As a transaction that never asked the fence would do.
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select set_config('meridian.tenant', 'stride-eu', true), set_config('meridian.epoch', '1', true)")
        .execute(&mut *tx)
        .await
        .unwrap();
    let insert = sqlx::query("insert into note (id) values (1)").execute(&mut *tx).await;
    assert!(matches!(Error::from(insert.unwrap_err()), Error::Fenced));
}

#[tokio::test]
async fn a_transaction_that_was_admitted_commits_before_the_fence_is_raised() {
    let (_database, pool) = with_fences(&[("stride-eu", 1)]).await;
    let mut open = TenantTx::begin(&pool, &scope("stride-eu", 1)).await.unwrap();
    sqlx::query("insert into note (id) values (1)")
        .execute(open.conn())
        .await
        .unwrap();
    let raising = {
        let pool = pool.clone();
        tokio::spawn(async move { raise_fence(&pool, &"stride-eu".parse().unwrap(), Epoch(2)).await })
    };
    // The raise waits for the lock that the open transaction holds.
    let waiting = meridian_kit::testing::until(|| async {
        let query = "select count(*) from pg_locks where locktype = 'advisory' and not granted \
                     and database = (select oid from pg_database where datname = current_database())";
        let waiting: i64 = sqlx::query_scalar(query).fetch_one(&pool).await.unwrap();
        (waiting > 0).then_some(())
    });
    waiting.await.expect("the raise waits");
    assert!(!raising.is_finished());
    open.commit().await.unwrap();
    assert_eq!(raising.await.unwrap().unwrap(), Epoch(2));
}

#[tokio::test]
async fn a_fence_never_goes_back() {
    let (database, pool) = with_fences(&[("stride-eu", 3)]).await;
    let tenant = "stride-eu".parse().unwrap();
    assert_eq!(raise_fence(&pool, &tenant, Epoch(2)).await.unwrap(), Epoch(3));
    let owner = db::connect(database.owner_url(), "test").unwrap();
    for statement in ["update tenant_fence set epoch = 1", "delete from tenant_fence"] {
        assert!(sqlx::query(statement).execute(&pool).await.is_err(), "{statement}");
        assert!(sqlx::query(statement).execute(&owner).await.is_err(), "{statement}");
    }
}

#[tokio::test]
async fn an_unknown_tenant_and_one_that_is_just_arriving_are_told_apart() {
    let (_database, pool) = with_fences(&[("stride-eu", 1)]).await;
    let unknown = TenantTx::begin(&pool, &scope("trail-eu", 1)).await;
    assert!(matches!(unknown, Err(Error::UnknownTenant { .. })), "{unknown:?}");
    let ahead = TenantTx::begin(&pool, &scope("stride-eu", 2)).await;
    assert!(matches!(ahead, Err(Error::FenceBehind { .. })), "{ahead:?}");
}

#[tokio::test]
async fn a_change_brings_a_row_to_the_present_epoch() {
    let (_database, pool) = with_fences(&[("stride-eu", 1)]).await;
    write(&pool, &scope("stride-eu", 1), 1).await.unwrap();
    raise_fence(&pool, &"stride-eu".parse().unwrap(), Epoch(2))
        .await
        .unwrap();
    let mut tx = TenantTx::begin(&pool, &scope("stride-eu", 2)).await.unwrap();
    let epoch: i64 = sqlx::query_scalar("update note set body = 'y' where id = 1 returning epoch")
        .fetch_one(tx.conn())
        .await
        .unwrap();
    assert_eq!(epoch, 2);
}

#[tokio::test]
async fn the_role_that_a_service_runs_as_has_no_power_but_over_rows() {
    let (database, pool) = with_fences(&[("stride-eu", 1)]).await;
    for statement in [
        "create table mine (id int)",
        "drop table note",
        "truncate note",
        "alter table note disable row level security",
        "alter table note no force row level security",
        "create policy all_of_it on note using (true)",
        "create role other",
        "create database other",
        "set role postgres",
        "select * from _sqlx_migrations",
    ] {
        assert!(sqlx::raw_sql(statement).execute(&pool).await.is_err(), "{statement}");
    }
    let other = Database::create("other", &[]).await;
    let elsewhere = database
        .url()
        .replace(&format!("/{}", database.name()), &format!("/{}", other.name()));
    assert!(
        sqlx::query("select 1")
            .execute(&db::connect(&elsewhere, "test").unwrap())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn migrations_can_be_repeated_and_never_changed() {
    let database = Database::create("notes", NOTES).await;
    db::migrate(database.owner_url(), NOTES).await.unwrap();
    let changed = [Migration::new(100, "notes", "select 1")];
    assert!(matches!(
        db::migrate(database.owner_url(), &changed).await,
        Err(Error::Migration(_))
    ));
    let reserved = [Migration::new(2, "mine", "select 1")];
    assert!(matches!(
        db::migrate(database.owner_url(), &reserved).await,
        Err(Error::Migration(_))
    ));
}

#[tokio::test]
async fn a_release_that_is_rolled_back_leaves_its_steps_and_the_one_before_migrates_and_serves_beside_them() {
    let database = Database::beside_the_next_release("notes", NOTES).await;
    let applied = || async {
        let query = "select version from _sqlx_migrations order by version";
        let versions: Vec<i64> = sqlx::query_scalar(query)
            .fetch_all(&database.superuser_pool())
            .await
            .unwrap();
        versions
    };
    let newer = applied().await;
    assert!(
        newer.last().is_some_and(|version| *version > 999),
        "a newer release was here: {newer:?}"
    );
    db::migrate(database.owner_url(), NOTES).await.unwrap();
    assert_eq!(applied().await, newer, "nothing is taken back");
    let columns = "select count(*) from pg_attribute where attrelid = 'note'::regclass and attname ~ '^next_release_'";
    let widened: i64 = sqlx::query_scalar(columns)
        .fetch_one(&database.superuser_pool())
        .await
        .unwrap();
    assert_eq!(
        widened, 2,
        "every test of a service runs on what its next release may add"
    );
}

#[tokio::test]
async fn the_roles_of_a_region_can_be_made_again_and_a_new_password_replaces_the_old() {
    let superuser_url = meridian_kit::testing::required("MERIDIAN_TEST_POSTGRES");
    let name = format!("again_{}", uuid::Uuid::new_v4().simple());
    let dir = tempfile::tempdir().unwrap();
    let mount = |password: &str| {
        for (folder, user) in [
            (format!("{name}-owner"), format!("{name}_owner")),
            (name.clone(), name.clone()),
        ] {
            let folder = dir.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("username"), user).unwrap();
            std::fs::write(folder.join("password"), format!("{password}\n")).unwrap();
        }
    };
    let url = |user: &str, password: &str| {
        let mut url = reqwest::Url::parse(&superuser_url).unwrap();
        url.set_username(user).unwrap();
        url.set_password(Some(password)).unwrap();
        url.set_path(&name);
        String::from(url)
    };
    let connects = |url: String| async move {
        sqlx::query("select 1")
            .execute(&db::connect(&url, "test").unwrap())
            .await
            .is_ok()
    };

    mount("first'\"%I");
    db::migrate_cluster(&superuser_url, &db::credentials_in(dir.path()).unwrap())
        .await
        .unwrap();
    db::migrate(&url(&format!("{name}_owner"), "first'\"%I"), NOTES)
        .await
        .unwrap();
    assert!(connects(url(&name, "first'\"%I")).await);

    mount("second");
    db::migrate_cluster(&superuser_url, &db::credentials_in(dir.path()).unwrap())
        .await
        .unwrap();
    assert!(connects(url(&name, "second")).await);
    assert!(!connects(url(&name, "first'\"%I")).await, "the old password is gone");
    let app = db::connect(&url(&name, "second"), "test").unwrap();
    assert!(
        sqlx::query("select * from _sqlx_migrations")
            .execute(&app)
            .await
            .is_err()
    );
    let root = db::connect(&superuser_url, "test").unwrap();
    for statement in [
        format!("drop database {name} with (force)"),
        format!("drop role {name}"),
        format!("drop role {name}_owner"),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&root)
            .await
            .unwrap();
    }
}

#[test]
fn credentials_that_are_not_whole_are_refused_with_the_file_that_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        db::credentials_in(dir.path())
            .unwrap_err()
            .to_string()
            .contains("holds no")
    );
    std::fs::create_dir(dir.path().join("training-owner")).unwrap();
    let refused = db::credentials_in(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("training-owner/password"), "{refused}");
}

#[tokio::test]
async fn every_table_is_guarded() {
    let database = Database::create("kit", &[]).await;
    // The fence itself says who may write, to everybody; the list of steps is the owner's.
    assert_eq!(database.unguarded_tables().await, ["_sqlx_migrations", "tenant_fence"]);
}

/// As a managed PostgreSQL gives it out: it may make roles and databases, and is no superuser.
async fn maker(superuser: &db::Pool, url: &str, of: &str) -> (String, String) {
    let name = format!("maker_{of}");
    let statement = format!("create role {name} login createdb createrole password 'made-for-a-test'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(superuser)
        .await
        .unwrap();
    let mut url = reqwest::Url::parse(url).unwrap();
    url.set_username(&name).unwrap();
    url.set_password(Some("made-for-a-test")).unwrap();
    url.set_path("/postgres");
    (name, url.to_string())
}

/// A service's roles and database as a maker made them, and away again.
struct Unmighty {
    superuser: db::Pool,
    maker: String,
    url: String,
    credentials: db::Credentials,
}

fn role(name: &str) -> db::RoleCredentials {
    db::RoleCredentials {
        username: name.to_owned(),
        password: Secret::new("made-for-a-test".to_owned()),
    }
}

impl Unmighty {
    async fn make(what: &str) -> (Database, Self) {
        let (database, _pool) = with_fences(&[]).await;
        let superuser = database.superuser_pool();
        let service = format!("{what}_{}", std::process::id());
        let (maker, url) = maker(&superuser, &database.superuser_url(), &service).await;
        let made = Self {
            superuser,
            maker,
            url,
            credentials: db::Credentials {
                owner: role(&format!("{service}_owner")),
                app: role(&service),
                service,
            },
        };
        made.migrate().await.unwrap();
        (database, made)
    }

    async fn migrate(&self) -> Result<(), Error> {
        db::migrate_cluster(&self.url, std::slice::from_ref(&self.credentials)).await
    }

    async fn by_hand(&self, statement: String) {
        let statement = sqlx::AssertSqlSafe(statement);
        sqlx::raw_sql(statement).execute(&self.superuser).await.unwrap();
    }

    fn pool(&self, role: &str) -> db::Pool {
        let mut url = reqwest::Url::parse(&self.url).unwrap();
        url.set_username(role).unwrap();
        url.set_path(&self.credentials.service);
        db::connect(url.as_str(), "test").unwrap()
    }

    async fn drop(self, others: &[&str]) {
        let service = &self.credentials.service;
        self.by_hand(format!("drop database {service} with (force)")).await;
        let owner = &self.credentials.owner.username;
        let roles = [service, owner, &self.maker].map(String::as_str);
        for role in roles.into_iter().chain(others.iter().copied()) {
            self.by_hand(format!("drop role {role}")).await;
        }
    }
}

#[tokio::test]
async fn roles_and_databases_are_made_by_a_role_that_is_no_superuser_and_again_without_harm() {
    let (_database, made) = Unmighty::make("unmighty").await;
    made.migrate().await.unwrap();
    let (owner, app) = (
        made.pool(&made.credentials.owner.username),
        made.pool(&made.credentials.service),
    );
    sqlx::raw_sql("create table made (id int)")
        .execute(&owner)
        .await
        .unwrap();
    sqlx::raw_sql("insert into made values (1)")
        .execute(&app)
        .await
        .unwrap();
    assert!(sqlx::raw_sql("create table mine (id int)").execute(&app).await.is_err());
    owner.close().await;
    app.close().await;
    made.drop(&[]).await;
}

#[tokio::test]
async fn a_role_that_is_mightier_than_it_may_be_is_an_error_where_nobody_can_take_that_away() {
    let (_database, made) = Unmighty::make("toomighty").await;
    made.by_hand(format!("alter role {} bypassrls", made.credentials.service))
        .await;
    let refused = made.migrate().await.unwrap_err();
    assert!(refused.to_string().contains("row-level security"), "{refused}");
    made.drop(&[]).await;
}

#[tokio::test]
async fn a_verifier_that_somebody_else_has_to_make_is_asked_for_and_then_left_as_it_is() {
    let (_database, made) = Unmighty::make("watched").await;
    let verifier = format!("verifier_{}", std::process::id());
    let all = [made.credentials.clone()];
    let refused = db::migrate_verifier(&made.url, &role(&verifier), &all)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("bypassrls"), "{refused}");

    made.by_hand(format!(
        "create role {verifier} login bypassrls password 'made-for-a-test' \
         in role pg_read_all_data, pg_read_all_settings, pg_read_all_stats"
    ))
    .await;
    db::migrate_verifier(&made.url, &role(&verifier), &all).await.unwrap();
    let pool = made.pool(&verifier);
    sqlx::raw_sql("select 1").execute(&pool).await.unwrap();
    pool.close().await;
    made.drop(&[&verifier]).await;
}
