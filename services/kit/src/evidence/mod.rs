//! Evidence of what a service did, for who will ask one day: entries of [`meridian_evidence`], committed with what they
//! record ([`append`]), linked into the service's one chain and signed ([`Sealer`]), read ([`of_tenant`]) and exported
//! ([`export`]).
//!
//! An entry waits in `evidence_pending` until the sealer, of which one at a time is active in a database, links it: no
//! transaction waits for another's, and nothing is asked of the database beyond the one insert.

mod export;
mod sealer;

pub use export::{ExportError, export};
pub use meridian_evidence::commitment::Salt;
pub use meridian_evidence::{ChainId, Checkpoint, Entry, Kind};
pub use sealer::{Pace, Sealer};

use aws_lc_rs::rand;
use meridian_evidence::commitment::commit;
use meridian_evidence::entry::EntryError;
use uuid::Uuid;

use crate::db::{self, TenantTx};
use crate::subject_keys::SubjectKey;

/// Appends an entry, in the transaction that makes it true.
///
/// # Errors
/// The database, or an entry that cannot be written down.
pub async fn append(tx: &mut TenantTx, entry: &Entry) -> Result<(), db::Error> {
    let bytes = entry.encode().map_err(unfit)?;
    sqlx::query("insert into evidence_pending (kind, edge, rule, entry) values ($1, $2, $3, $4)")
        .bind(entry.kind.as_str())
        .bind(&entry.edge)
        .bind(&entry.rule)
        .bind(bytes)
        .execute(tx.conn())
        .await?;
    Ok(())
}

fn unfit(error: EntryError) -> db::Error {
    db::Error::Statement(format!("an entry of evidence cannot be written down: {error}"))
}

/// No random numbers can be had.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no random numbers can be had")]
pub struct NoRandomness;

/// Commits an entry to the subjects of these keys, under a fresh nonce.
///
/// # Errors
/// No random numbers can be had.
pub fn commit_to<'a>(entry: &mut Entry, keys: impl IntoIterator<Item = &'a SubjectKey>) -> Result<(), NoRandomness> {
    let mut nonce = [0; 16];
    rand::fill(&mut nonce).map_err(|_| NoRandomness)?;
    entry.commitments = keys
        .into_iter()
        .map(|key| commit(&key.evidence_salt(), &nonce, key.subject().as_uuid()))
        .collect();
    entry.nonce = (!entry.commitments.is_empty()).then_some(nonce);
    Ok(())
}

/// A new entry about the tenant of a transaction, at this moment.
#[must_use]
pub fn entry_of(tx: &TenantTx, kind: Kind) -> Entry {
    Entry {
        tenant: Some(tx.scope().tenant().to_string()),
        ..Entry::new(Uuid::now_v7(), jiff::Timestamp::now(), kind)
    }
}

/// The tenant's entries in the chain after a number, in order, at most `limit`.
///
/// # Errors
/// The database, or an entry that no version of this program wrote.
pub async fn of_tenant(tx: &mut TenantTx, after: i64, limit: i64) -> Result<Vec<(i64, Entry)>, db::Error> {
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select seq, entry from evidence_chain where seq > $1 order by seq limit $2")
            .bind(after)
            .bind(limit)
            .fetch_all(tx.conn())
            .await?;
    rows.into_iter()
        .map(|(seq, bytes)| Ok((seq, Entry::decode(&bytes).map_err(unfit)?)))
        .collect()
}
