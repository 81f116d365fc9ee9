//! What holds rows back, and who may reach around it.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use crate::rows::Table;
use crate::{Check, Database, Report};

/// Tables of what belongs to the region and to no tenant.
const OF_THE_REGION: &[(&str, &str)] = &[
    // What the region signs its tokens with, sealed by the keyring.
    ("identity", "signing_key"),
];

pub async fn look(
    connection: &mut PgConnection,
    database: &Database,
    tables: &[Table],
    report: &mut Report,
) -> sqlx::Result<()> {
    unguarded(connection, database, tables, report).await?;
    admitting(connection, database, report).await?;
    open_to_others(connection, database, report).await?;
    open_columns(connection, database, report).await?;
    open_to_come(connection, database, report).await?;
    by_somebody_elses_rights(connection, database, report).await
}

/// Tables of personal data, and their partitions, without forced row-level security. (With it and without
/// a policy, a table admits nobody.)
async fn unguarded(
    connection: &mut PgConnection,
    database: &Database,
    tables: &[Table],
    report: &mut Report,
) -> sqlx::Result<()> {
    // A partition that can be used by itself needs a guard of its own; one that nobody was given is held by its parent's.
    let query = "select coalesce((pg_partition_root(c.oid))::regclass, c.oid::regclass)::text, c.oid::regclass::text \
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                 where c.relkind in ('r', 'p', 'm', 'f') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' \
                 and not (c.relrowsecurity and c.relforcerowsecurity) \
                 and not (c.relispartition and c.relacl is null and not exists ( \
                     select 1 from pg_roles r where r.rolname = $1 and has_table_privilege(r.oid, c.oid, 'select, insert, update, delete')))";
    let open: Vec<(String, String)> = sqlx::query_as(query).bind(&database.role).fetch_all(connection).await?;
    for (root, table) in open {
        if OF_THE_REGION.contains(&(&*database.service, &*root)) {
            continue;
        }
        let known = tables.iter().find(|known| known.name == root || known.quoted == root);
        let personal = known.map_or_else(BTreeSet::new, |known| known.personal(&database.service));
        if !personal.is_empty() {
            report.find(
                Check::Unguarded,
                format!("{}.{table}", database.service),
                None,
                personal,
                1,
            );
        }
    }
    Ok(())
}

/// Policies that admit by something else than what the kit sets for a transaction. The owner's own are for functions that
/// run with its rights: nobody logs in as the owner but a migration.
async fn admitting(connection: &mut PgConnection, database: &Database, report: &mut Report) -> sqlx::Result<()> {
    let query = "select polrelid::regclass::text, polname::text from pg_policy where polpermissive \
                 and (coalesce(pg_get_expr(polqual, polrelid), 'meridian') !~ 'meridian' \
                      or coalesce(pg_get_expr(polwithcheck, polrelid), 'meridian') !~ 'meridian' \
                      or polqual is null and polwithcheck is null) \
                 and polroles <> array(select oid from pg_roles where rolname = $1)";
    let policies: Vec<(String, String)> = sqlx::query_as(query)
        .bind(&database.owner)
        .fetch_all(connection)
        .await?;
    for (table, policy) in policies {
        let place = format!("{}.{table}", database.service);
        report.find(Check::Unguarded, place, Some(policy), BTreeSet::new(), 1);
    }
    Ok(())
}

/// Privileges of anybody but the owner and the service, and views that read as their owner.
async fn open_to_others(connection: &mut PgConnection, database: &Database, report: &mut Report) -> sqlx::Result<()> {
    let query = "select c.oid::regclass::text, \
                 case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee)::text end, count(*) \
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) g \
                 where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' \
                 and (g.grantee = 0 or pg_get_userbyid(g.grantee) not in ($1, $2)) group by 1, 2";
    granted(
        &mut *connection,
        query,
        database,
        &format!("{}.", database.service),
        report,
    )
    .await?;
    let query = "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                 where c.relkind = 'v' and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' \
                 and not coalesce(c.reloptions @> array['security_invoker=true'], false) \
                 and not exists (select 1 from pg_roles r where r.oid = c.relowner and r.rolname = $1)";
    let views: Vec<String> = sqlx::query_scalar(query)
        .bind(&database.owner)
        .fetch_all(connection)
        .await?;
    for view in views {
        let place = format!("{}.{view}", database.service);
        report.find(
            Check::OpenToOthers,
            place,
            Some("its owner's rights".to_owned()),
            BTreeSet::new(),
            1,
        );
    }
    Ok(())
}

/// Privileges on single columns, which do not show on their table.
async fn open_columns(connection: &mut PgConnection, database: &Database, report: &mut Report) -> sqlx::Result<()> {
    let query = "select c.oid::regclass::text || '.' || a.attname, \
                 case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee)::text end, count(*) \
                 from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace, \
                 aclexplode(a.attacl) g \
                 where not a.attisdropped and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' \
                 and (g.grantee = 0 or pg_get_userbyid(g.grantee) not in ($1, $2)) group by 1, 2";
    granted(connection, query, database, &format!("{}.", database.service), report).await
}

/// What others will be given of what is made later, and who may make it.
async fn open_to_come(connection: &mut PgConnection, database: &Database, report: &mut Report) -> sqlx::Result<()> {
    let query = "select 'default privileges', \
                 case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee)::text end, count(*) \
                 from pg_default_acl d, aclexplode(d.defaclacl) g \
                 where d.defaclobjtype in ('r', 'S', 'n') and g.grantee <> d.defaclrole \
                 and (g.grantee = 0 or pg_get_userbyid(g.grantee) not in ($1, $2)) group by 1, 2";
    let of = format!("{}: ", database.service);
    granted(connection, query, database, &of, report).await?;
    let query = "select 'schema ' || n.nspname, \
                 case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee)::text end, count(*) \
                 from pg_namespace n, aclexplode(n.nspacl) g \
                 where n.nspname <> 'information_schema' and n.nspname !~ '^pg_' and g.privilege_type = 'CREATE' \
                 and g.grantee <> n.nspowner and (g.grantee = 0 or pg_get_userbyid(g.grantee) not in ($2, 'pg_database_owner')) \
                 and $1 is not null group by 1, 2";
    granted(connection, query, database, &of, report).await
}

/// Functions that run with the rights of somebody else than the owner, whom row-level security may not hold back.
async fn by_somebody_elses_rights(
    connection: &mut PgConnection,
    database: &Database,
    report: &mut Report,
) -> sqlx::Result<()> {
    let query = "select p.proname::text, pg_get_userbyid(p.proowner)::text, 1::bigint \
                 from pg_proc p join pg_namespace n on n.oid = p.pronamespace \
                 where p.prosecdef and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' \
                 and pg_get_userbyid(p.proowner) <> $2 and $1 is not null";
    granted(
        connection,
        query,
        database,
        &format!("{}: function ", database.service),
        report,
    )
    .await
}

/// A finding for each place, grantee and count that the query gives, of the service's role ($1) and its owner ($2).
async fn granted(
    connection: &mut PgConnection,
    query: &'static str,
    database: &Database,
    of: &str,
    report: &mut Report,
) -> sqlx::Result<()> {
    let found: Vec<(String, String, i64)> = sqlx::query_as(query)
        .bind(&database.role)
        .bind(&database.owner)
        .fetch_all(connection)
        .await?;
    for (place, grantee, count) in found {
        let place = format!("{of}{place}");
        report.find(
            Check::OpenToOthers,
            place,
            Some(grantee),
            BTreeSet::new(),
            count.unsigned_abs(),
        );
    }
    Ok(())
}
