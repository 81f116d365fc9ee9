//! What PostgreSQL itself would let out: catalogs, pages, the log of writes, its own log, publications, constraints.

use meridian_identity::domain::email::EmailAddress;
use meridian_kit::SubjectId;
use meridian_kit::db::{Error, Migration, Pool};
use meridian_kit::testing::{Database, required, until};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use crate::database::{Notes, OURS, THEIRS, canary, contains, key_of, pool_of};
use crate::table::{Leak, leak};

const SEALED: &str = "encryption at rest";
const ROW_SECURITY: &str = "row-level security";
const ROLES: &str = "roles without power";

/// The word as it would be stored: sealed where that layer stands.
fn stored(sealed: bool, word: &str) -> Vec<u8> {
    let key = key_of(OURS, SubjectId(Uuid::nil()));
    if sealed {
        key.seal("leaks", word.as_bytes()).expect("sealed").into_bytes()
    } else {
        word.as_bytes().to_vec()
    }
}

/// Whether a word is in bytes that PostgreSQL gave out, which writes `bytea` in hexadecimal.
fn shows(text: &str, word: &str) -> bool {
    text.contains(word) || text.contains(&hex::encode(word))
}

#[tokio::test]
async fn leak_keys_in_system_metadata() {
    leak("keys in system metadata", &[SEALED, ROW_SECURITY], async |on| {
        let (notes, word) = (Notes::new().await, canary());
        if !on.has(ROW_SECURITY) {
            notes.unguard("note").await;
        }
        for _ in 0..30 {
            notes.write(OURS, &stored(on.has(SEALED), &word)).await;
        }
        notes.by_hand("analyze note").await;
        // As somebody of another tenant, by the same role: statistics quote the commonest values.
        let mut tx = notes.begin(THEIRS).await;
        let query = "select coalesce(string_agg(s::text, ' '), '') from pg_stats s where tablename = 'note'";
        let statistics: String = sqlx::query_scalar(query)
            .fetch_one(tx.conn())
            .await
            .expect("statistics");
        Leak::by(shows(&statistics, &word))
    })
    .await;
}

#[tokio::test]
async fn leak_filter_value_change() {
    leak("filter-value change", &[ROW_SECURITY, SEALED], async |on| {
        let (notes, word) = (Notes::new().await, canary());
        if !on.has(ROW_SECURITY) {
            notes.unguard("note").await;
        }
        let id = notes.write(OURS, &stored(on.has(SEALED), &word)).await;
        // The very column that the filter goes by is changed: the row would turn up with the other tenant.
        let mut tx = notes.begin(OURS).await;
        let moved = sqlx::query("update note set tenant = $1 where id = $2");
        let moved = moved.bind(THEIRS).bind(id).execute(tx.conn()).await;
        if moved.is_ok() {
            tx.commit().await.expect("a commit");
        }
        let theirs = key_of(THEIRS, SubjectId(Uuid::nil()));
        let readable = |body: Vec<u8>| {
            let opened = theirs.open("leaks", &body).map(|plain| plain.to_vec());
            contains(&opened.unwrap_or(body), &word)
        };
        let seen = notes.seen_by(THEIRS).await.into_iter().any(readable);
        Leak::by(seen)
    })
    .await;
}

/// All bytes of a table's file, as a role sees them that may read the server's files.
async fn pages(pool: &Pool) -> Result<Vec<u8>, sqlx::Error> {
    sqlx::query_scalar("select pg_read_binary_file(pg_relation_filepath('note'))")
        .fetch_one(pool)
        .await
}

#[tokio::test]
async fn leak_residue_in_engines_dead_rows() {
    leak("residue in engines: dead rows", &[SEALED, ROLES], async |on| {
        let (notes, word) = (Notes::new().await, canary());
        let id = notes.write(OURS, &stored(on.has(SEALED), &word)).await;
        let mut tx = notes.begin(OURS).await;
        let delete = sqlx::query("delete from note where id = $1").bind(id);
        delete.execute(tx.conn()).await.expect("deleted");
        tx.commit().await.expect("a commit");
        assert!(notes.seen_by(OURS).await.is_empty(), "by SQL it is gone");
        notes.by_hand("checkpoint").await;
        let superuser = notes.database.superuser_pool();
        let looker = if on.has(ROLES) { &notes.pool } else { &superuser };
        Leak::by(pages(looker).await.is_ok_and(|bytes| contains(&bytes, &word)))
    })
    .await;
}

/// The name of the segment of the write-ahead log that is written now.
async fn segment(superuser: &Pool) -> String {
    let query = "select pg_walfile_name(pg_current_wal_insert_lsn())";
    sqlx::query_scalar(query)
        .fetch_one(superuser)
        .await
        .expect("a segment's name")
}

/// What a role reads of a segment.
async fn log_of_writes(pool: &Pool, segment: &str) -> Result<Vec<u8>, sqlx::Error> {
    let query = sqlx::query_scalar("select pg_read_binary_file('pg_wal/' || $1)");
    query.bind(segment).fetch_one(pool).await
}

#[tokio::test]
async fn leak_backups_and_write_ahead_log() {
    leak("backups and WAL", &[SEALED, ROLES], async |on| {
        let (notes, word) = (Notes::new().await, canary());
        let superuser = notes.database.superuser_pool();
        let before = segment(&superuser).await;
        // More than one: a record that goes over the end of a page has the page's head in its middle.
        for _ in 0..8 {
            notes.write(OURS, &stored(on.has(SEALED), &word)).await;
        }
        let after = segment(&superuser).await;
        let looker = if on.has(ROLES) { &notes.pool } else { &superuser };
        let mut seen = false;
        for segment in [before, after] {
            seen |= log_of_writes(looker, &segment)
                .await
                .is_ok_and(|bytes| contains(&bytes, &word));
        }
        Leak::by(seen)
    })
    .await;
}

/// What the server has logged, once everything up to now is there.
async fn servers_log(notes: &Notes) -> String {
    let mark = canary();
    notes.by_hand(&format!("do $$ begin raise log '{mark}'; end $$")).await;
    let path = required("MERIDIAN_TEST_POSTGRES_LOG");
    let read = || async {
        let bytes = std::fs::read(&path).expect("the server's log");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.contains(&mark).then_some(text)
    };
    until(read).await.expect("the mark in the server's log")
}

/// What the verifier demands of the engine, and the contrary.
fn settings(strict: bool, role: &str) -> String {
    let (statements, verbosity, parameters, errors) = if strict {
        ("none", "terse", "0", "panic")
    } else {
        ("all", "verbose", "-1", "error")
    };
    [
        ("log_statement", statements),
        ("log_error_verbosity", verbosity),
        ("log_parameter_max_length", parameters),
        ("log_parameter_max_length_on_error", parameters),
        ("log_min_error_statement", errors),
    ]
    .map(|(name, value)| format!("alter role \"{role}\" set {name} = '{value}';"))
    .concat()
}

#[tokio::test]
async fn leak_residue_in_engines_servers_log() {
    const SETTINGS: &str = "engine settings";
    leak(
        "residue in engines: DETAIL and parameters in the log",
        &[SETTINGS, SEALED],
        async |on| {
            let (notes, word) = (Notes::new().await, canary());
            notes
                .by_hand("create unique index note_body on note (tenant, body)")
                .await;
            notes.by_hand(&settings(on.has(SETTINGS), notes.database.name())).await;
            notes.pool.close().await;
            let notes = Notes {
                pool: notes.database.pool(),
                ..notes
            };
            let body = stored(on.has(SEALED), &word);
            notes.write(OURS, &body).await;
            let refused = notes.put(OURS, &body).await;
            let refused = Error::from(refused.expect_err("it is there already"));
            assert!(
                !shows(&refused.to_string(), &word),
                "our own words quote nothing: {refused}"
            );
            Leak::by(shows(&servers_log(&notes).await, &word))
        },
    )
    .await;
}

#[tokio::test]
async fn leak_residue_in_engines_errors() {
    const BY_CLASS: &str = "errors by class";
    leak(
        "residue in engines: DETAIL in errors",
        &[BY_CLASS, SEALED, ROW_SECURITY],
        async |on| {
            let (notes, word) = (Notes::new().await, canary());
            // Who may not see every row is not told what the one in the way holds.
            if !on.has(ROW_SECURITY) {
                notes.unguard("note").await;
            }
            notes
                .by_hand("create unique index note_body on note (tenant, body)")
                .await;
            let body = stored(on.has(SEALED), &word);
            notes.write(OURS, &body).await;
            let refused = notes.put(OURS, &body).await;
            let refused = refused.expect_err("it is there already");
            let told = if on.has(BY_CLASS) {
                let error = Error::from(refused);
                format!("{error} {error:?}")
            } else {
                format!("{refused} {refused:?}")
            };
            Leak::by(shows(&told, &word))
        },
    )
    .await;
}

#[tokio::test]
async fn leak_residue_in_engines_statements() {
    const BOUND: &str = "values are bound";
    leak("residue in engines: statements on view", &[BOUND, ROLES], async |on| {
        let (notes, word) = (Notes::new().await, canary());
        let mut service = PgConnection::connect(notes.database.url()).await.expect("a connection");
        if on.has(BOUND) {
            let query = sqlx::query("select 1 where $1 = 'x'").bind(&word);
            query.execute(&mut service).await.expect("a statement");
        } else {
            let query = AssertSqlSafe(format!("select 1 where '{word}' = 'x'"));
            sqlx::raw_sql(query).execute(&mut service).await.expect("a statement");
        }
        let other = Database::create("leaks", &[]).await;
        let looker = if on.has(ROLES) {
            other.pool()
        } else {
            notes.database.superuser_pool()
        };
        // Not this statement itself, which has the word as well.
        let query = "select coalesce(string_agg(query, ' '), '') from pg_stat_activity where pid <> pg_backend_pid()";
        let statements: String = sqlx::query_scalar(query).fetch_one(&looker).await.expect("statements");
        Leak::by(statements.contains(&word))
    })
    .await;
}

#[tokio::test]
async fn leak_residue_in_engines_unique_constraint() {
    const TENANT_FIRST: &str = "keys begin with the tenant";
    const KEYED_INDEX: &str = "an index keyed by tenant";
    const PEOPLE: &[Migration] = &[Migration::new(
        100,
        "people",
        "create table person (tenant text not null, epoch bigint not null, email bytea not null); \
         select meridian_guard('person');",
    )];
    leak(
        "residue in engines: unique-constraint oracle",
        &[TENANT_FIRST, KEYED_INDEX],
        async |on| {
            let (notes, word) = (Notes::with(PEOPLE).await, canary());
            let columns = if on.has(TENANT_FIRST) { "tenant, email" } else { "email" };
            notes
                .by_hand(&format!("create unique index person_email on person ({columns})"))
                .await;
            let secrets = meridian_identity::secrets::Secrets::derive(&[7; 32]).expect("secrets");
            let mut refused = false;
            for tenant in [OURS, THEIRS] {
                let email = if on.has(KEYED_INDEX) {
                    let address = EmailAddress::parse(&format!("{word}@example.org")).expect("an address");
                    secrets
                        .email_index(&tenant.parse().expect("a tenant"), &address)
                        .to_vec()
                } else {
                    word.as_bytes().to_vec()
                };
                let mut tx = notes.begin(tenant).await;
                let insert = sqlx::query("insert into person (tenant, email) values ($1, $2)")
                    .bind(tenant)
                    .bind(email);
                refused = insert.execute(tx.conn()).await.is_err();
                if !refused {
                    tx.commit().await.expect("a commit");
                }
            }
            // The second tenant learns that the first has this person.
            Leak::by(refused)
        },
    )
    .await;
}

/// The unique constraints of a service's database that compare rows of two tenants.
async fn across_tenants(service: &str, migrations: &[Migration]) -> Vec<String> {
    let database = Database::create(service, migrations).await;
    let query = "select c.relname || '.' || i.relname from pg_index x join pg_class c on c.oid = x.indrelid \
                 join pg_class i on i.oid = x.indexrelid join pg_attribute t on t.attrelid = c.oid and t.attname = 'tenant' \
                 where x.indisunique and c.relnamespace = 'public'::regnamespace and not c.relispartition \
                 and x.indkey[0] <> t.attnum order by 1";
    sqlx::query_scalar(query)
        .fetch_all(&database.superuser_pool())
        .await
        .expect("the constraints")
}

#[tokio::test]
async fn no_constraint_of_a_service_compares_rows_of_two_tenants() {
    // Numbers that the database gives out itself, so nobody chooses one to ask whether it is taken.
    let given_out = [
        "evidence_chain.evidence_chain_pkey",
        "evidence_pending.evidence_pending_pkey",
        "outbox.outbox_pkey",
    ];
    // The consent service makes up a permit's number itself.
    let consent = [&given_out[..], &["permit.permit_pkey"]].concat();
    for (service, migrations) in [
        ("consent", meridian_consent::MIGRATIONS),
        ("identity", meridian_identity::MIGRATIONS),
        ("replicator", meridian_replicator::MIGRATIONS),
        ("social", meridian_social::MIGRATIONS),
        ("telemetry", meridian_telemetry::MIGRATIONS),
        ("training", meridian_training::MIGRATIONS),
    ] {
        let expected = if service == "consent" {
            &consent[..]
        } else {
            &given_out[..]
        };
        assert_eq!(across_tenants(service, migrations).await, expected, "{service}");
    }
}

#[tokio::test]
async fn leak_pg_filter_bypass() {
    const OWNER: &str = "the owner is no superuser";
    leak("PG filter bypass", &[ROLES, OWNER], async |on| {
        let notes = Notes::new().await;
        notes.write(OURS, b"x").await;
        let publisher = if on.has(ROLES) {
            notes.pool.clone()
        } else if on.has(OWNER) {
            pool_of(notes.database.owner_url())
        } else {
            notes.database.superuser_pool()
        };
        // One that leaves out every filter: rows of all tenants, also those of tables that are still to come.
        let _ = sqlx::raw_sql("create publication everything for all tables")
            .execute(&publisher)
            .await;
        let query = "select count(*) from pg_publication_tables where tablename = 'note'";
        let published: i64 = sqlx::query_scalar(query)
            .fetch_one(&notes.database.superuser_pool())
            .await
            .expect("a count");
        Leak::by(published > 0)
    })
    .await;
}
