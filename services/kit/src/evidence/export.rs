//! Writes a service's chain into an export, page by page.

use std::io::{self, Write};

use meridian_evidence::export::Writer;
use meridian_evidence::{ChainId, Checkpoint, Digest};
use sqlx::types::Json;

use super::sealer::see_all;
use crate::db::{self, Pool};

/// Why an export was not written to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// Where it is written to.
    #[error("the export cannot be written: {0}")]
    Write(#[from] io::Error),
    /// A row.
    #[error("a digest of the chain has another length than SHA-256's")]
    Digest,
}

impl From<sqlx::Error> for ExportError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Entries read at once.
const PAGE: i64 = 1000;

/// Writes the chain of a database with its checkpoints, as of one moment. Entries that still wait to be linked are not in it.
///
/// # Errors
/// The database cannot be read, or the export not written.
pub async fn export<W: Write>(pool: &Pool, chain: &ChainId, writer: &mut Writer<W>) -> Result<(), ExportError> {
    let mut tx = pool.begin().await?;
    // All pages as of the same moment, however long reading takes.
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *tx)
        .await?;
    see_all(&mut tx).await?;
    let checkpoints: Vec<(i64, Json<Checkpoint>)> =
        sqlx::query_as("select size, checkpoint from evidence_checkpoint order by size, id")
            .fetch_all(&mut *tx)
            .await?;
    let mut checkpoints = checkpoints.into_iter().peekable();
    writer.open(chain)?;
    let mut last = 0;
    loop {
        while let Some((_, Json(checkpoint))) = checkpoints.next_if(|(size, _)| *size <= last) {
            writer.checkpoint(&checkpoint)?;
        }
        let rows: Vec<(i64, Vec<u8>, Vec<u8>)> =
            sqlx::query_as("select seq, entry, hash from evidence_chain where seq > $1 order by seq limit $2")
                .bind(last)
                .bind(PAGE)
                .fetch_all(&mut *tx)
                .await?;
        if rows.is_empty() {
            break;
        }
        for (seq, entry, hash) in rows {
            let hash = Digest::try_from(hash.as_slice()).map_err(|_| ExportError::Digest)?;
            writer.entry(u64::try_from(seq).unwrap_or_default(), &entry, hash)?;
            last = seq;
            while let Some((_, Json(checkpoint))) = checkpoints.next_if(|(size, _)| *size <= last) {
                writer.checkpoint(&checkpoint)?;
            }
        }
    }
    // What is signed and not there: whoever verifies the export is told.
    for (_, Json(checkpoint)) in checkpoints {
        writer.checkpoint(&checkpoint)?;
    }
    tx.commit().await?;
    Ok(())
}
