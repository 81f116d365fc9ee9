//! Whose rows there are.
//!
//! Every table of a service has `tenant` and `epoch`. A table that also has `origin`, `edge` and `expires_at` holds copies
//! from other regions, and its `tenant` is the importing one.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use futures::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use meridian_policy::catalogue::{FieldKind, class_of};
use meridian_policy::vocabulary::DataClass;
use meridian_policy::{CompiledEdge, EdgeId, RegionPolicy, TenantHome, TenantId};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::tally::Tally;
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

/// What the policy says of whose rows may be here, as it is asked for each of them.
pub struct Lawful<'a> {
    /// The epoch in force of each tenant with its home here.
    epochs: BTreeMap<&'a str, u64>,
    /// By edge, importing tenant and origin: when what came by it must be gone.
    imports: BTreeMap<(&'a str, &'a str, &'a str), Timestamp>,
    held: BTreeSet<&'a str>,
    now: Timestamp,
}

impl<'a> Lawful<'a> {
    /// By a policy, at a moment.
    pub fn new(policy: &'a RegionPolicy, now: Timestamp) -> Self {
        let home = |home: &'a TenantHome| (home.tenant.as_str(), home.epoch.get());
        let import = |edge: &'a CompiledEdge| {
            let key = (edge.id.as_str(), edge.importer_tenant.as_str(), edge.from.as_str());
            (key, edge.expires)
        };
        Self {
            epochs: policy.homes.iter().map(home).collect(),
            imports: policy.imports.iter().map(import).collect(),
            held: policy.held.iter().map(|held| held.id.as_str()).collect(),
            now,
        }
    }

    /// What is wrong with something of this tenant and epoch that was made here.
    pub fn made_here(&self, tenant: &str, epoch: u64) -> Option<Check> {
        match self.epochs.get(tenant) {
            None => Some(Check::ForeignRows),
            Some(in_force) if epoch > *in_force => Some(Check::FutureEpoch),
            Some(_) => None,
        }
    }

    /// Whether an edge lets this tenant have copies from there.
    pub fn lets_come(&self, edge: &str, tenant: &str, origin: &str) -> bool {
        // Nobody here knows what a held edge lets come, and nothing comes by it: what is there stays.
        let ends = |expires: &Timestamp| *expires + SWEPT_WITHIN;
        let import = self.imports.get(&(edge, tenant, origin));
        self.held.contains(edge) || import.is_some_and(|expires| self.now < ends(expires))
    }

    /// Copies that were to be gone before this are late.
    pub fn due(&self) -> Timestamp {
        self.now - SWEPT_WITHIN
    }
}

pub async fn look(
    connection: &mut PgConnection,
    database: &Database,
    tables: &[Table],
    lawful: &Lawful<'_>,
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
        let tally = if table.holds_copies() {
            copies(connection, table, lawful).await?
        } else {
            homes(connection, table, lawful).await?
        };
        report.looked.rows += tally.seen();
        tally.tell(&place, &personal, report);
    }
    Ok(())
}

/// What is in a column, if it is the name that belongs there: what somebody else may have put into it stays in the region.
pub fn named<T: FromStr>(text: &str) -> &str {
    text.parse::<T>().map_or("what is no name", |_| text)
}

/// Rows that were made here.
async fn homes(connection: &mut PgConnection, table: &Table, lawful: &Lawful<'_>) -> sqlx::Result<Tally> {
    let epoch = if table.has(&["epoch"]) { "epoch" } else { "0::bigint" };
    let query = format!(
        "select tenant::text, {epoch}, count(*) from {} group by 1, 2",
        table.quoted
    );
    let mut tally = Tally::default();
    let mut groups = sqlx::query_as::<_, (String, i64, i64)>(AssertSqlSafe(query)).fetch(connection);
    while let Some((tenant, epoch, count)) = groups.try_next().await? {
        let count = count.unsigned_abs();
        tally.saw(count);
        if let Some(check) = lawful.made_here(&tenant, epoch.unsigned_abs()) {
            tally.find(check, named::<TenantId>(&tenant), count);
        }
    }
    Ok(tally)
}

/// Rows that came by an edge.
async fn copies(connection: &mut PgConnection, table: &Table, lawful: &Lawful<'_>) -> sqlx::Result<Tally> {
    let query = format!(
        "select tenant::text, edge::text, origin::text, count(*), count(*) filter (where expires_at < $1) from {} group by 1, 2, 3",
        table.quoted
    );
    let mut tally = Tally::default();
    let mut groups = sqlx::query_as::<_, (String, String, String, i64, i64)>(AssertSqlSafe(query))
        .bind(lawful.due().to_sqlx())
        .fetch(connection);
    while let Some((tenant, edge, origin, count, expired)) = groups.try_next().await? {
        tally.saw(count.unsigned_abs());
        if !lawful.lets_come(&edge, &tenant, &origin) {
            let of = format!("{} for {}", named::<EdgeId>(&edge), named::<TenantId>(&tenant));
            tally.find(Check::CopiesWithoutEdge, &of, count.unsigned_abs());
        } else if expired > 0 {
            tally.find(Check::ExpiredCopies, &edge, expired.unsigned_abs());
        }
    }
    Ok(tally)
}
