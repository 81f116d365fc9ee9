//! The rows of a region: how they are spread over the tables, made by PostgreSQL itself, and counted.
//!
//! Half of them are samples and their totals, a quarter is training's, a sixth social's; one in seventeen is a copy from
//! another region. Some tenants have far more than others. Each tenant's rows are of the epoch in force and, one in ten, of
//! the one before. A chunk of samples is as wide as it is where PostgreSQL keeps sealed bytes apart: what lies there nobody
//! reads who counts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::region::{EPOCHS, Region, SERVICES, TENANTS};

/// Databases that are filled at the same time.
const AT_ONCE: usize = 2;

/// What the columns' expressions use. Ids grow with their number, as those that the services make do.
const FUNCTIONS: &str = "
create function pg_temp.id(number bigint) returns uuid language sql immutable
    as $$ select lpad(to_hex(number), 32, '0')::uuid $$;
create function pg_temp.sealed(bytes integer) returns bytea language sql immutable
    as $$ select decode(repeat('5e', bytes), 'hex') $$;
create function pg_temp.tenant(athlete bigint) returns integer language sql immutable
    as $$ select floor({tenants} * power((athlete * 2654435761 % 4294967296) / 4294967296.0::float8, 2))::integer $$;
";

/// A table that is filled.
pub struct Table {
    /// The service.
    pub service: &'static str,
    /// The table.
    pub name: &'static str,
    /// So many of a thousand rows of the region.
    share: u64,
    /// Its columns beside `tenant` and `epoch`, and what is in them: `n` is the row's number from 1 on, `edge`, `origin` and
    /// `expires_at` those of a copy.
    columns: &'static [(&'static str, &'static str)],
}

impl Table {
    /// How many rows it has of so many of the region.
    fn rows(&self, of: u64) -> u64 {
        of * self.share / 1000
    }

    /// Makes `count` rows after the first `there`.
    pub fn insert(&self, whose: &Whose, there: u64, count: u64) -> String {
        let (columns, values): (Vec<&str>, Vec<&str>) = self.columns.iter().copied().unzip();
        let Whose {
            tenant,
            epoch,
            edge,
            expires_at,
        } = whose;
        format!(
            "insert into {} (tenant, epoch, {}) select tenant, epoch, {} from ( \
                 select n, {tenant} as tenant, {epoch} as epoch, {edge} as edge, 'eu' as origin, {expires_at} as expires_at \
                 from (select n, pg_temp.tenant(n / 100) as home from generate_series({}::bigint, {}::bigint) n) of_number \
             ) of_whom",
            self.name,
            columns.join(", "),
            values.join(", "),
            there + 1,
            there + count,
        )
    }
}

/// Whose rows are made: expressions of the row's number `n` and of its tenant's number `home`.
pub struct Whose {
    /// The tenant.
    pub tenant: String,
    /// The epoch.
    pub epoch: String,
    /// Of copies: the edge that they came by.
    pub edge: String,
    /// Of copies: when they are to be gone.
    pub expires_at: String,
}

impl Whose {
    /// The region's own tenants', as the policy has them.
    pub fn planned() -> Self {
        Self {
            tenant: "'tenant-' || home".to_owned(),
            epoch: format!("1 + home % {EPOCHS} - case when n % 10 = 0 and home % {EPOCHS} > 0 then 1 else 0 end"),
            edge: "'abroad-' || home || '.workout-summary.us'".to_owned(),
            expires_at: "now() + interval '30 days'".to_owned(),
        }
    }
}

/// The tables, the largest first.
pub const TABLES: [Table; 18] = [
    Table {
        service: "telemetry",
        name: "chunk",
        share: 400,
        columns: &[
            ("subject", "pg_temp.id(n / 100)"),
            ("track_id", "pg_temp.id(n / 20)"),
            ("batch_id", "pg_temp.id(n)"),
            (
                "month",
                "(date_trunc('month', now()) - make_interval(months => (n % 4)::integer))::date",
            ),
            ("first_t", "now()"),
            ("last_t", "now()"),
            ("count", "512"),
            ("sealed", "pg_temp.sealed(18)"),
        ],
    },
    Table {
        service: "training",
        name: "workout_event",
        share: 170,
        columns: &[
            ("stream", "pg_temp.id(n / 4)"),
            ("version", "n % 4 + 1"),
            ("event_id", "pg_temp.id(n)"),
            ("subject", "pg_temp.id(n / 100)"),
            ("sealed", "pg_temp.sealed(350)"),
        ],
    },
    Table {
        service: "social",
        name: "workout",
        share: 60,
        columns: &[
            ("workout_id", "pg_temp.id(n)"),
            ("author", "pg_temp.id(n / 100)"),
            ("version", "4"),
            ("status", "'completed'"),
            ("feed_at", "now()"),
            ("summary", "pg_temp.sealed(200)"),
        ],
    },
    Table {
        service: "training",
        name: "workout_summary",
        share: 50,
        columns: &[
            ("workout_id", "pg_temp.id(n)"),
            ("subject", "pg_temp.id(n / 100)"),
            ("version", "4"),
            ("started_at", "now()"),
            ("sealed", "pg_temp.sealed(250)"),
        ],
    },
    Table {
        service: "training",
        name: "workout_details",
        share: 50,
        columns: &[
            ("workout_id", "pg_temp.id(n)"),
            ("subject", "pg_temp.id(n / 100)"),
            ("sealed", "pg_temp.sealed(250)"),
        ],
    },
    Table {
        service: "social",
        name: "follow",
        share: 50,
        columns: &[("follower", "pg_temp.id(n)"), ("followed", "pg_temp.id(n / 100)")],
    },
    Table {
        service: "telemetry",
        name: "track_summary",
        share: 40,
        columns: &[
            ("subject", "pg_temp.id(n / 100)"),
            ("track_id", "pg_temp.id(n)"),
            ("samples", "5120"),
            ("sealed", "pg_temp.sealed(150)"),
        ],
    },
    Table {
        service: "social",
        name: "imported_workout",
        share: 30,
        columns: &[
            ("id", "pg_temp.id(n)"),
            ("origin", "origin"),
            ("edge", "edge"),
            ("expires_at", "expires_at"),
            ("author", "pg_temp.id(n / 100)"),
            ("day", "now()"),
            ("payload", "pg_temp.sealed(300)"),
        ],
    },
    Table {
        service: "replicator",
        name: "imported_event",
        share: 30,
        columns: &[
            ("origin_event", "pg_temp.id(n)"),
            ("edge", "edge"),
            ("origin", "origin"),
            ("origin_epoch", "1"),
            ("author", "pg_temp.id(n / 100)"),
            ("expires_at", "expires_at"),
            ("sealed", "pg_temp.sealed(300)"),
        ],
    },
    Table {
        service: "consent",
        name: "consent_history",
        share: 20,
        columns: &[
            ("subject", "pg_temp.id(n)"),
            ("purpose", "'cross-border-sharing'"),
            ("class", "'workout-summary'"),
            ("state", "'granted'"),
            ("version", "1"),
            ("changed_at", "now()"),
            ("receipt_id", "pg_temp.id(n)"),
            ("receipt", "pg_temp.sealed(400)"),
        ],
    },
    Table {
        service: "consent",
        name: "permit",
        share: 20,
        columns: &[
            ("id", "pg_temp.id(n)"),
            ("subject", "pg_temp.id(n / 100)"),
            ("purpose", "'cross-border-sharing'"),
            ("class", "'workout-summary'"),
            ("service", "'replicator'"),
            ("deliverer", "'replicator'"),
            ("delivery_id", "pg_temp.id(n)"),
            ("closed_at", "now()"),
        ],
    },
    Table {
        service: "identity",
        name: "user_event",
        share: 20,
        columns: &[
            ("stream", "pg_temp.id(n)"),
            ("version", "1"),
            ("name", "'registered'"),
            ("sealed", "pg_temp.sealed(300)"),
        ],
    },
    Table {
        service: "identity",
        name: "account",
        share: 10,
        columns: &[
            ("subject", "pg_temp.id(n)"),
            ("email_index", "decode(lpad(to_hex(n), 64, '0'), 'hex')"),
            ("sealed_email", "pg_temp.sealed(80)"),
            ("password_hash", "repeat('x', 96)"),
            ("sealed_user", "pg_temp.sealed(200)"),
            ("version", "1"),
        ],
    },
    Table {
        service: "consent",
        name: "consent",
        share: 10,
        columns: &[
            ("subject", "pg_temp.id(n)"),
            ("purpose", "'cross-border-sharing'"),
            ("class", "'workout-summary'"),
            ("state", "'granted'"),
            ("version", "1"),
            ("changed_at", "now()"),
            ("receipt_id", "pg_temp.id(n)"),
        ],
    },
    Table {
        service: "social",
        name: "person",
        share: 10,
        columns: &[
            ("subject", "pg_temp.id(n)"),
            ("version", "1"),
            ("profile", "'everyone'"),
            ("workouts", "'followers'"),
            ("name", "pg_temp.sealed(60)"),
        ],
    },
    Table {
        service: "promotions",
        name: "athlete",
        share: 10,
        columns: &[("subject", "pg_temp.id(n)")],
    },
    Table {
        service: "promotions",
        name: "delivery",
        share: 10,
        columns: &[
            ("id", "pg_temp.id(n)"),
            ("campaign", "pg_temp.id(1)"),
            ("subject", "pg_temp.id(n)"),
        ],
    },
    Table {
        service: "replicator",
        name: "delivery",
        share: 10,
        columns: &[
            ("copy_id", "pg_temp.id(n)"),
            ("edge", "edge"),
            ("source_event", "pg_temp.id(n)"),
            ("event", "pg_temp.sealed(500)"),
        ],
    },
];

/// The tables of a service.
fn tables(service: &str) -> impl Iterator<Item = &'static Table> {
    TABLES.iter().filter(move |table| table.service == service)
}

/// A session that makes rows as an administrator could by hand: no trigger writes its own epoch over theirs.
///
/// # Errors
/// When the server refuses.
pub async fn by_hand(region: &Region, service: &str) -> Result<PgConnection> {
    let mut session = region.connect(service).await?;
    let functions = FUNCTIONS.replace("{tenants}", &TENANTS.to_string());
    run(
        &mut session,
        format!("set session_replication_role = replica; {functions}"),
    )
    .await?;
    Ok(session)
}

/// Runs statements of this bench's own.
///
/// # Errors
/// When one fails.
pub async fn run(session: &mut PgConnection, statements: String) -> Result<()> {
    let ran = sqlx::raw_sql(AssertSqlSafe(statements.as_str())).execute(session).await;
    ran.map(drop)
        .with_context(|| format!("PostgreSQL refuses: {statements}"))
}

/// Makes about so many rows, and says how many they are.
///
/// # Errors
/// When a database refuses.
pub async fn fill(region: &Region, wanted: u64) -> Result<u64> {
    let filling = SERVICES.map(|service| fill_service(region, service, wanted));
    let rows: Vec<u64> = futures::stream::iter(filling)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(rows.iter().sum())
}

async fn fill_service(region: &Region, service: &str, wanted: u64) -> Result<u64> {
    let mut session = by_hand(region, service).await?;
    if service == "telemetry" {
        let months =
            "select telemetry_make_month((now() - make_interval(months => ago))::date) from generate_series(1, 3) ago";
        run(&mut session, months.to_owned()).await?;
    }
    let mut rows = 0;
    for table in tables(service) {
        let count = table.rows(wanted);
        run(&mut session, table.insert(&Whose::planned(), 0, count)).await?;
        // As PostgreSQL does by itself before long.
        run(&mut session, format!("vacuum (analyze) {}", table.name)).await?;
        rows += count;
    }
    session.close().await.context("a session cannot be closed")?;
    Ok(rows)
}

/// What counting came to.
pub struct Counting {
    /// How long it took, connections included.
    pub took: Duration,
    /// Rows of all tables.
    pub rows: u64,
}

/// Counts the rows of every table that was filled, one after the other.
///
/// # Errors
/// When a database refuses.
pub async fn count(region: &Region) -> Result<Counting> {
    let (began, mut rows) = (Instant::now(), 0);
    for service in SERVICES {
        let mut session = region.connect(service).await?;
        for table in tables(service) {
            let query = format!("select count(*) from {}", table.name);
            let counted: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut session).await?;
            rows += counted.unsigned_abs();
        }
        session.close().await.context("a session cannot be closed")?;
    }
    let took = began.elapsed();
    Ok(Counting { took, rows })
}
