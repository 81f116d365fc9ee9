//! What the server itself would let out: settings, roles, and everything that carries rows elsewhere.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use crate::{Check, Database, Report, Server};

/// Settings, and the value under which no statement, parameter or row reaches a log or another machine.
const SETTINGS: &[(&str, &str)] = &[
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("log_min_duration_sample", "-1"),
    ("log_parameter_max_length", "0"),
    ("log_parameter_max_length_on_error", "0"),
    ("log_min_error_statement", "panic"),
    ("log_error_verbosity", "terse"),
    ("log_transaction_sample_rate", "0"),
    ("debug_print_plan", "off"),
    ("debug_print_parse", "off"),
    ("debug_print_rewritten", "off"),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
    ("archive_mode", "off"),
    ("primary_conninfo", ""),
    ("synchronous_standby_names", ""),
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("row_security", "on"),
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("password_encryption", "scram-sha-256"),
    ("ssl", "on"),
];

/// The verifier's own role, and what it may: what another one may not.
const VERIFIER: &str = "verifier";
const OF_THE_VERIFIER: &[&str] = &[
    "bypassrls",
    "member of pg_read_all_data",
    "member of pg_read_all_settings",
    "member of pg_read_all_stats",
];

/// Whether row-level security holds nothing back from this role.
pub async fn sees_every_row(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let query = "select rolsuper or rolbypassrls from pg_roles where rolname = current_user";
    sqlx::query_scalar(query).fetch_one(connection).await
}

/// What is one for the whole server.
pub async fn look(
    connection: &mut PgConnection,
    server: &Server,
    databases: &[Database],
    report: &mut Report,
) -> sqlx::Result<()> {
    settings(connection, server, report).await?;
    roles(connection, server, databases, report).await?;
    unknown_databases(connection, server, databases, report).await?;
    followers(connection, server, report).await?;
    let slots = if server.keeps_to_itself() {
        "select slot_name::text from pg_replication_slots"
    } else {
        "select slot_name::text from pg_replication_slots where slot_type = 'logical'"
    };
    each(connection, slots, "replication slot", report).await?;
    if server.keeps_to_itself() {
        // Rows on another volume than the region's own.
        let elsewhere = "select spcname::text from pg_tablespace where spcname not in ('pg_default', 'pg_global')";
        each(connection, elsewhere, "tablespace", report).await?;
    }
    let prepared = "select gid from pg_prepared_xacts";
    each(connection, prepared, "prepared transaction", report).await
}

/// What each database has for itself.
pub async fn look_inside(connection: &mut PgConnection, database: &Database, report: &mut Report) -> sqlx::Result<()> {
    let of = |what: &str| format!("{}: {what}", database.service);
    each(
        connection,
        "select pubname::text from pg_publication",
        &of("publication"),
        report,
    )
    .await?;
    let subscriptions = "select subname::text from pg_subscription \
                         where subdbid = (select oid from pg_database where datname = current_database())";
    each(connection, subscriptions, &of("subscription"), report).await?;
    each(
        connection,
        "select srvname::text from pg_foreign_server",
        &of("foreign server"),
        report,
    )
    .await?;
    let large = "select 'large objects' from pg_largeobject_metadata limit 1";
    each(connection, large, &of("outside of every table"), report).await?;
    // Of the extensions, the language alone can do nothing beyond the database.
    let extensions = "select extname::text from pg_extension where extname <> 'plpgsql'";
    each(connection, extensions, &of("extension"), report).await
}

async fn settings(connection: &mut PgConnection, server: &Server, report: &mut Report) -> sqlx::Result<()> {
    let names: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
    let query =
        "select current_setting(name, true) from unnest($1::text[]) with ordinality of(name, place) order by place";
    let values: Vec<Option<String>> = sqlx::query_scalar(query)
        .bind(&names)
        .fetch_all(&mut *connection)
        .await?;
    for ((name, allowed), value) in SETTINGS.iter().zip(values) {
        // One that this version of the server does not have lets nothing out.
        if value.is_some_and(|value| value != *allowed) && !server.sets(name) {
            report.find(Check::Setting, (*name).to_owned(), None, BTreeSet::new(), 1);
        }
    }
    // For a role or a database alone, they would not show above.
    let query = "select coalesce(r.rolname::text, 'every role') || ' in ' || coalesce(d.datname::text, 'every database'), \
                 split_part(setting, '=', 1) \
                 from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase, \
                 unnest(s.setconfig) setting";
    let own: Vec<(String, String)> = sqlx::query_as(query).fetch_all(connection).await?;
    for (of, name) in own {
        if SETTINGS.iter().any(|(known, _)| *known == name) && !server.sets(&name) {
            report.find(Check::Setting, name, Some(of), BTreeSet::new(), 1);
        }
    }
    Ok(())
}

/// Roles that may log in, beside the superuser that the server was made with and the one that looks.
async fn roles(
    connection: &mut PgConnection,
    server: &Server,
    databases: &[Database],
    report: &mut Report,
) -> sqlx::Result<()> {
    let known: Vec<&str> = databases
        .iter()
        .flat_map(|database| [&*database.role, &*database.owner])
        .chain([VERIFIER])
        .collect();
    let query = "select rolname::text, \
                 array_remove(array[ \
                     case when rolsuper then 'superuser' end, case when rolbypassrls then 'bypassrls' end, \
                     case when rolreplication then 'replication' end, case when rolcreaterole then 'createrole' end, \
                     case when rolcreatedb then 'createdb' end, \
                     case when rolname <> all ($1) then 'unknown' end], null) || array( \
                     select 'member of ' || g.rolname from pg_auth_members m join pg_roles g on g.oid = m.roleid where m.member = r.oid) \
                 from pg_roles r where rolcanlogin and oid <> 10";
    let found: Vec<(String, Vec<String>)> = sqlx::query_as(query).bind(&known).fetch_all(connection).await?;
    for (role, mut rights) in found {
        if role == VERIFIER {
            rights.retain(|right| !OF_THE_VERIFIER.contains(&right.as_str()));
        }
        rights.retain(|right| !server.lets(&role, right, &known));
        if rights.is_empty() {
            continue;
        }
        let count = u64::try_from(rights.len()).unwrap_or(u64::MAX);
        report.find(Check::MightyRole, role, Some(rights.join(", ")), BTreeSet::new(), count);
    }
    Ok(())
}

async fn unknown_databases(
    connection: &mut PgConnection,
    server: &Server,
    databases: &[Database],
    report: &mut Report,
) -> sqlx::Result<()> {
    let known: Vec<&str> = databases.iter().map(|database| &*database.name).collect();
    let query = "select datname::text from pg_database where not datistemplate and datname <> 'postgres' and datname <> all ($1)";
    let unknown: Vec<String> = sqlx::query_scalar(query).bind(&known).fetch_all(connection).await?;
    for name in unknown.into_iter().filter(|name| !server.made(name)) {
        report.find(Check::UnknownDatabase, name, None, BTreeSet::new(), 1);
    }
    Ok(())
}

/// Who follows the server by streaming.
async fn followers(connection: &mut PgConnection, server: &Server, report: &mut Report) -> sqlx::Result<()> {
    let query = "select coalesce(usename::text, ''), coalesce(nullif(application_name, ''), 'unnamed') from pg_stat_replication";
    let following: Vec<(String, String)> = sqlx::query_as(query).fetch_all(connection).await?;
    for (role, application) in following {
        if !server.is_followed_by(&role, &application) {
            let place = "replication connection".to_owned();
            report.find(Check::WayOut, place, Some(application), BTreeSet::new(), 1);
        }
    }
    Ok(())
}

/// A finding for each name that the query gives.
async fn each(
    connection: &mut PgConnection,
    query: &'static str,
    place: &str,
    report: &mut Report,
) -> sqlx::Result<()> {
    let names: Vec<String> = sqlx::query_scalar(query).fetch_all(connection).await?;
    for name in names {
        report.find(Check::WayOut, place.to_owned(), Some(name), BTreeSet::new(), 1);
    }
    Ok(())
}
