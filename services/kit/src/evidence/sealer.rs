//! Links waiting entries into the chain, and signs how far it has come. The database's own clock and order do not matter:
//! the order in which entries are linked is the chain's.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff_sqlx::{Timestamp as SqlTimestamp, ToSqlx as _};
use meridian_evidence::chain::{Digest, genesis, next};
use meridian_evidence::{ChainId, Checkpoint, Entry, Kind, Signer};
use meridian_policy::RegionPolicy;
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::db::{self, Pool};
use crate::policy_feed::PolicyFeed;
use crate::start::{Start, StartError};

/// Entries linked in one transaction.
const BATCH: i64 = 500;
/// The advisory lock of the database's one sealer.
const LOCK: i64 = 0x6d65_7269_7365_616c;
/// A checkpoint that the region's operator did not take is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(5);
const SIGNING_KEY: &str = "MERIDIAN_EVIDENCE_KEY_FILE";

/// How often the sealer does what.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Looks for waiting entries.
    pub look: Duration,
    /// Signs a chain that grew, at most.
    pub sign: Duration,
    /// Signs a chain that did not, so that it is known to be there.
    pub repeat: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_millis(500),
            sign: Duration::from_secs(30),
            repeat: Duration::from_secs(600),
        }
    }
}

/// The sealer of a service's database. Any number may run; the database lets one at a time link.
#[derive(Debug)]
pub struct Sealer {
    start: Start,
    pool: Pool,
    feed: PolicyFeed,
    chain: ChainId,
    signer: Option<Signer>,
    pace: Pace,
    records_policy: bool,
    /// The policy that the chain has an entry about.
    recorded: Option<Arc<RegionPolicy>>,
    /// Until when there is nothing to do, unless something is appended.
    quiet_until: Option<Instant>,
}

/// A waiting entry.
type Waiting = (i64, String, String, Option<String>, Option<String>, Vec<u8>);

/// An entry on its way into the chain.
struct Link {
    tenant: Option<String>,
    kind: String,
    edge: Option<String>,
    rule: Option<String>,
    entry: Vec<u8>,
}

impl Sealer {
    /// The sealer of a service. Without a signing key it links, and signs nothing: the hub then says that checkpoints are
    /// missing.
    ///
    /// # Errors
    /// When the service has no database, or the key is none.
    pub fn new(start: &Start) -> Result<Self, StartError> {
        Self::paced(start, Pace::default())
    }

    /// As [`Sealer::new`] at another pace.
    ///
    /// # Errors
    /// As there.
    pub fn paced(start: &Start, pace: Pace) -> Result<Self, StartError> {
        let chain = format!("{}/{}", start.region(), start.service());
        let chain = chain
            .parse::<ChainId>()
            .map_err(|error| StartError::other("naming the chain of evidence", error))?;
        let signer = match start.config().evidence_key_file {
            None => {
                tracing::warn!("{SIGNING_KEY} is not set: evidence is recorded, and no checkpoint of it is signed");
                None
            }
            Some(_) => {
                let seed = start.secret_file(SIGNING_KEY)?;
                let signer = Signer::from_seed(&seed);
                Some(signer.map_err(|error| StartError::other("reading the signing key of evidence", error))?)
            }
        };
        Ok(Self {
            start: start.clone(),
            pool: start.database()?,
            feed: start.feed().clone(),
            chain,
            signer,
            pace,
            records_policy: false,
            recorded: None,
            quiet_until: None,
        })
    }

    /// Also records each revision of the policy that this service obeys. One service of a region does.
    #[must_use]
    pub fn recording_policy(mut self) -> Self {
        self.records_policy = true;
        self
    }

    /// Runs until the process stops.
    ///
    /// # Errors
    /// Never; what fails is tried again.
    pub async fn run(mut self) -> Result<(), Infallible> {
        let stop = self.start.stop();
        loop {
            let pause = match self.round().await {
                Ok(true) => Duration::ZERO,
                Ok(false) => self.pace.look,
                Err(error) => {
                    tracing::warn!(%error, "evidence could not be linked or signed; it waits");
                    self.pace.look * 4
                }
            };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Links what waits, and signs when that is due. True: more waits.
    async fn round(&mut self) -> Result<bool, db::Error> {
        let policy = self.feed.current();
        let is_other = self.records_policy && self.recorded.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &policy));
        if !is_other && self.quiet_until.is_some_and(|until| Instant::now() < until) {
            let waiting: bool = sqlx::query_scalar("select meridian_evidence_waits()")
                .fetch_one(&self.pool)
                .await?;
            if !waiting {
                return Ok(false);
            }
        }
        let mut tx = self.pool.begin().await?;
        see_all(&mut tx).await?;
        let locked: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *tx)
            .await?;
        if !locked {
            return Ok(false);
        }
        let mut head = head(&mut tx, &self.chain).await?;
        let mut links = Vec::new();
        if is_other && let Some(entry) = new_policy(&mut tx, &policy).await? {
            links.push(Link::of(&entry)?);
        }
        let waiting: Vec<Waiting> =
            sqlx::query_as("select id, tenant, kind, edge, rule, entry from evidence_pending order by id limit $1")
                .bind(BATCH)
                .fetch_all(&mut *tx)
                .await?;
        let ids: Vec<i64> = waiting.iter().map(|row| row.0).collect();
        links.extend(waiting.into_iter().map(|(_, tenant, kind, edge, rule, entry)| Link {
            tenant: Some(tenant),
            kind,
            edge,
            rule,
            entry,
        }));
        link(&mut tx, &mut head, links).await?;
        sqlx::query("delete from evidence_pending where id = any($1)")
            .bind(&ids)
            .execute(&mut *tx)
            .await?;
        let due = self.sign(&mut tx, &mut head).await?;
        tx.commit().await?;
        self.recorded = Some(policy);
        let quiet = if self.tell().await? { due } else { TELL_AGAIN };
        self.quiet_until = Some(Instant::now() + quiet);
        Ok(i64::try_from(ids.len()).unwrap_or(BATCH) == BATCH)
    }

    /// Signs the chain if that is due, and says in how long it will be again.
    async fn sign(&self, tx: &mut Transaction<'static, Postgres>, head: &mut Head) -> Result<Duration, db::Error> {
        let Some(signer) = &self.signer else {
            return Ok(self.pace.repeat);
        };
        let now = Timestamp::now();
        let last: Option<(i64, SqlTimestamp)> =
            sqlx::query_as("select size, signed_at from evidence_checkpoint order by id desc limit 1")
                .fetch_optional(&mut **tx)
                .await?;
        if let Some((size, signed_at)) = last {
            let age = Duration::try_from(now.duration_since(signed_at.to_jiff())).unwrap_or_default();
            // The entry about the last checkpoint is no news.
            let grown = head.size > size + 1;
            let due = if grown { self.pace.sign } else { self.pace.repeat };
            if age < due {
                return Ok(due - age);
            }
        }
        let size = u64::try_from(head.size).unwrap_or_default();
        let checkpoint = signer.sign(&self.chain, size, head.digest, now);
        sqlx::query("insert into evidence_checkpoint (size, signed_at, checkpoint) values ($1, $2, $3)")
            .bind(head.size)
            .bind(checkpoint.at.to_sqlx())
            .bind(Json(&checkpoint))
            .execute(&mut **tx)
            .await?;
        let entry = Entry {
            count: Some(size),
            digest: Some(checkpoint.digest()),
            ..Entry::new(Uuid::now_v7(), now, Kind::Checkpoint)
        };
        link(tx, head, vec![Link::of(&entry)?]).await?;
        Ok(self.pace.repeat)
    }

    /// Tells the region's operator of the newest checkpoint, and whether it has it.
    async fn tell(&self) -> Result<bool, db::Error> {
        let mut tx = self.pool.begin().await?;
        see_all(&mut tx).await?;
        let newest: Option<(i64, bool, Json<Checkpoint>)> =
            sqlx::query_as("select id, told, checkpoint from evidence_checkpoint order by id desc limit 1")
                .fetch_optional(&mut *tx)
                .await?;
        tx.commit().await?;
        let Some((id, false, Json(checkpoint))) = newest else {
            return Ok(true);
        };
        if let Err(error) = self.feed.tell_checkpoint(&checkpoint).await {
            tracing::warn!(%error, "a checkpoint of evidence is not with the region's operator yet; it is told again");
            return Ok(false);
        }
        let mut tx = self.pool.begin().await?;
        see_all(&mut tx).await?;
        sqlx::query("update evidence_checkpoint set told = true where id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// An entry about a policy, when the chain's last one is about another.
async fn new_policy(
    tx: &mut Transaction<'static, Postgres>,
    policy: &RegionPolicy,
) -> Result<Option<Entry>, db::Error> {
    let entry = policy_entry(policy);
    let last: Option<Vec<u8>> = sqlx::query_scalar(
        "select entry from evidence_chain where tenant is null and kind = 'policy-change' order by seq desc limit 1",
    )
    .fetch_optional(&mut **tx)
    .await?;
    let last = last.and_then(|bytes| Entry::decode(&bytes).ok());
    let known = last.is_some_and(|last| (last.revision, last.digest) == (entry.revision, entry.digest));
    Ok((!known).then_some(entry))
}

/// What the record of a policy says: which one, and by its digest exactly which.
fn policy_entry(policy: &RegionPolicy) -> Entry {
    // The policy is of types that serialise by derive, in one order.
    let text = serde_json::to_vec(policy).unwrap_or_default();
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text).as_ref());
    Entry {
        rule: Some("policy-obeyed".to_owned()),
        revision: Some(policy.revision.0),
        count: Some((policy.exports.len() + policy.imports.len()) as u64),
        digest: Some(digest),
        ..Entry::new(Uuid::now_v7(), Timestamp::now(), Kind::PolicyChange)
    }
}

impl Link {
    fn of(entry: &Entry) -> Result<Self, db::Error> {
        Ok(Self {
            tenant: entry.tenant.clone(),
            kind: entry.kind.to_string(),
            edge: entry.edge.clone(),
            rule: entry.rule.clone(),
            entry: entry.encode().map_err(super::unfit)?,
        })
    }
}

struct Head {
    size: i64,
    digest: Digest,
}

/// Lets a transaction see the evidence of every tenant. Other rows stay unseen.
pub(super) async fn see_all(tx: &mut Transaction<'static, Postgres>) -> Result<(), db::Error> {
    sqlx::query("select set_config('meridian.sealer', 'on', true)")
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn head(tx: &mut Transaction<'static, Postgres>, chain: &ChainId) -> Result<Head, db::Error> {
    let last: Option<(i64, Vec<u8>)> = sqlx::query_as("select seq, hash from evidence_chain order by seq desc limit 1")
        .fetch_optional(&mut **tx)
        .await?;
    let Some((size, hash)) = last else {
        return Ok(Head {
            size: 0,
            digest: genesis(chain),
        });
    };
    let digest = Digest::try_from(hash.as_slice());
    let digest = digest.map_err(|_| db::Error::Statement("a digest of the chain of evidence is none".to_owned()))?;
    Ok(Head { size, digest })
}

async fn link(tx: &mut Transaction<'static, Postgres>, head: &mut Head, links: Vec<Link>) -> Result<(), db::Error> {
    if links.is_empty() {
        return Ok(());
    }
    let mut columns = Columns::default();
    for one in links {
        head.size += 1;
        head.digest = next(&head.digest, u64::try_from(head.size).unwrap_or_default(), &one.entry);
        columns.seq.push(head.size);
        columns.tenant.push(one.tenant);
        columns.kind.push(one.kind);
        columns.edge.push(one.edge);
        columns.rule.push(one.rule);
        columns.entry.push(one.entry);
        columns.hash.push(head.digest.to_vec());
    }
    sqlx::query(
        "insert into evidence_chain (seq, tenant, kind, edge, rule, entry, hash) select * from \
         unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])",
    )
    .bind(columns.seq)
    .bind(columns.tenant)
    .bind(columns.kind)
    .bind(columns.edge)
    .bind(columns.rule)
    .bind(columns.entry)
    .bind(columns.hash)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[derive(Default)]
struct Columns {
    seq: Vec<i64>,
    tenant: Vec<Option<String>>,
    kind: Vec<String>,
    edge: Vec<Option<String>>,
    rule: Vec<Option<String>>,
    entry: Vec<Vec<u8>>,
    hash: Vec<Vec<u8>>,
}
