//! Whose rows there are.
//!
//! Every table of a service has `tenant` and `epoch`. A table that also has `origin`, `edge` and `expires_at` holds copies
//! from other regions, and its `tenant` is the importing one.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use meridian_policy::catalogue::{FieldKind, class_of};
use meridian_policy::vocabulary::DataClass;
use meridian_policy::{EdgeId, RegionPolicy, TenantId};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{Check, Database, Report};

/// How long after its expiry a copy may still wait for its deletion.
const SWEPT_WITHIN: SignedDuration = SignedDuration::from_hours(1);

/// A table, its partitions taken together.
#[derive(Debug)]
pub struct Table {
    /// Its name, with the schema unless that is `public`.
    pub name: String,
    /// The same, quoted by PostgreSQL.
    pub quoted: String,
    /// Its columns.
    pub columns: BTreeSet<String>,
}

impl Table {
    fn has(&self, columns: &[&str]) -> bool {
        columns.iter().all(|column| self.columns.contains(*column))
    }

    /// Of another region, by the kit's convention.
    fn holds_copies(&self) -> bool {
        self.has(&["tenant", "origin", "edge", "expires_at"])
    }

    /// The class of a column; none when the catalogue does not list it. The kit's tables are every service's.
    fn class(&self, service: &str, column: &str) -> Option<DataClass> {
        [service, "kit"]
            .into_iter()
            .find_map(|owner| class_of(FieldKind::Column, &format!("{owner}.{}", self.name), column))
    }

    /// The classes of personal data in it. What has no class may be personal: it counts as identity.
    pub fn personal(&self, service: &str) -> BTreeSet<DataClass> {
        let classes = self
            .columns
            .iter()
            .map(|column| self.class(service, column).unwrap_or(DataClass::Identity));
        classes.filter(|class| *class != DataClass::Operational).collect()
    }
}

/// Every table, view and foreign table that is not the server's own.
pub async fn tables(connection: &mut PgConnection) -> sqlx::Result<Vec<Table>> {
    let query = "select case n.nspname when 'public' then c.relname::text else n.nspname || '.' || c.relname end, \
                 format('%I.%I', n.nspname, c.relname), array_agg(a.attname::text) \
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid \
                 where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition \
                 and a.attnum > 0 and not a.attisdropped \
                 and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' group by 1, 2 order by 1";
    let found: Vec<(String, String, Vec<String>)> = sqlx::query_as(query).fetch_all(connection).await?;
    let table = |(name, quoted, columns): (String, String, Vec<String>)| Table {
        name,
        quoted,
        columns: columns.into_iter().collect(),
    };
    Ok(found.into_iter().map(table).collect())
}

pub async fn look(
    connection: &mut PgConnection,
    database: &Database,
    tables: &[Table],
    policy: &RegionPolicy,
    now: Timestamp,
    report: &mut Report,
) -> sqlx::Result<()> {
    for table in tables {
        report.looked.tables += 1;
        let place = format!("{}.{}", database.service, table.name);
        for column in &table.columns {
            if table.class(&database.service, column).is_none() {
                report.find(
                    Check::Uncatalogued,
                    format!("{place}.{column}"),
                    None,
                    BTreeSet::new(),
                    1,
                );
            }
        }
        let personal = table.personal(&database.service);
        if personal.is_empty() || !table.has(&["tenant"]) {
            continue;
        }
        if table.holds_copies() {
            copies(connection, table, &place, &personal, policy, now, report).await?;
        } else {
            homes(connection, table, &place, &personal, policy, report).await?;
        }
    }
    Ok(())
}

/// What is in a column, if it is the name that belongs there: what somebody else may have put into it stays in the region.
fn named<T: FromStr>(text: &str) -> &str {
    text.parse::<T>().map_or("what is no name", |_| text)
}

/// Rows that were made here.
async fn homes(
    connection: &mut PgConnection,
    table: &Table,
    place: &str,
    personal: &BTreeSet<DataClass>,
    policy: &RegionPolicy,
    report: &mut Report,
) -> sqlx::Result<()> {
    let epoch = if table.has(&["epoch"]) { "epoch" } else { "0::bigint" };
    let query = format!(
        "select tenant::text, {epoch}, count(*) from {} group by 1, 2",
        table.quoted
    );
    let found: Vec<(String, i64, i64)> = sqlx::query_as(AssertSqlSafe(query)).fetch_all(connection).await?;
    let epochs: BTreeMap<&str, u64> = policy
        .homes
        .iter()
        .map(|home| (home.tenant.as_str(), home.epoch.get()))
        .collect();
    for (tenant, epoch, count) in found {
        let count = count.unsigned_abs();
        report.looked.rows += count;
        let check = match epochs.get(tenant.as_str()) {
            None => Check::ForeignRows,
            Some(in_force) if epoch.unsigned_abs() > *in_force => Check::FutureEpoch,
            Some(_) => continue,
        };
        let of = Some(named::<TenantId>(&tenant).to_owned());
        report.find(check, place.to_owned(), of, personal.clone(), count);
    }
    Ok(())
}

/// Rows that came by an edge.
async fn copies(
    connection: &mut PgConnection,
    table: &Table,
    place: &str,
    personal: &BTreeSet<DataClass>,
    policy: &RegionPolicy,
    now: Timestamp,
    report: &mut Report,
) -> sqlx::Result<()> {
    let query = format!(
        "select tenant::text, edge::text, origin::text, count(*), count(*) filter (where expires_at < $1) from {} group by 1, 2, 3",
        table.quoted
    );
    let due = (now - SWEPT_WITHIN).to_sqlx();
    let found: Vec<(String, String, String, i64, i64)> = sqlx::query_as(AssertSqlSafe(query))
        .bind(due)
        .fetch_all(connection)
        .await?;
    for (tenant, edge, origin, count, expired) in found {
        report.looked.rows += count.unsigned_abs();
        let in_force = policy.imports.iter().any(|import| {
            let same = import.id.as_str() == edge && import.importer_tenant.as_str() == tenant;
            same && import.from.as_str() == origin && now < import.expires + SWEPT_WITHIN
        });
        if !in_force {
            let (edge, tenant) = (named::<EdgeId>(&edge), named::<TenantId>(&tenant));
            let of = Some(format!("{edge} for {tenant}"));
            report.find(
                Check::CopiesWithoutEdge,
                place.to_owned(),
                of,
                personal.clone(),
                count.unsigned_abs(),
            );
        } else if expired > 0 {
            report.find(
                Check::ExpiredCopies,
                place.to_owned(),
                Some(edge),
                personal.clone(),
                expired.unsigned_abs(),
            );
        }
    }
    Ok(())
}
