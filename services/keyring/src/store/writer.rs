//! One thread writes, and commits what is waiting together: a hundred registrations at once cost one disk flush.

use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::index::{Destruction, Found, Index, Tables};
use crate::domain::address::KeyAddress;

/// How many requests share one commit at most; bounds how long the first one waits.
const GROUP: usize = 128;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request to the writer.
pub(super) enum Job {
    Create {
        addresses: Vec<KeyAddress>,
        answer: Answer<Vec<Found>>,
    },
    Destroy {
        what: Destruction,
        answer: Answer<u64>,
    },
    AdmitLease {
        address: Vec<u8>,
        digest: [u8; 32],
        answer: Answer<bool>,
    },
}

/// An outcome that is true only once its group is committed.
enum Outcome {
    Created(Vec<Found>, Answer<Vec<Found>>),
    Destroyed(u64, Answer<u64>),
    Admitted(bool, Answer<bool>),
}

/// Serves jobs until every sender is gone, or the volume fails: then it ends, and with it the process, since a store
/// whose last write is in doubt must be opened anew before it answers again.
pub(super) fn run(index: &Index, mut queue: mpsc::Receiver<Job>) {
    let mut group = Vec::with_capacity(GROUP);
    while let Some(first) = queue.blocking_recv() {
        group.push(first);
        while group.len() < GROUP {
            let Ok(job) = queue.try_recv() else { break };
            group.push(job);
        }
        if let Err(error) = commit(index, &mut group) {
            tracing::error!(error = %error, "the keyring's writer stops");
            return;
        }
    }
}

fn commit(index: &Index, group: &mut Vec<Job>) -> Result<(), StoreError> {
    let mut outcomes = Vec::with_capacity(group.len());
    let mut destroyed = false;
    let transaction = index.database.begin_write()?;
    {
        let mut tables = Tables::open(&transaction)?;
        for job in group.drain(..) {
            outcomes.push(match job {
                Job::Create { addresses, answer } => {
                    let found = addresses
                        .iter()
                        .map(|address| index.create(&mut tables, address))
                        .collect::<Result<_, _>>()?;
                    Outcome::Created(found, answer)
                }
                Job::Destroy { what, answer } => {
                    let live = index.destroy(&mut tables, &what)?;
                    destroyed |= live > 0;
                    Outcome::Destroyed(live, answer)
                }
                Job::AdmitLease {
                    address,
                    digest,
                    answer,
                } => Outcome::Admitted(index.admit_lease(&mut tables, &address, &digest)?, answer),
            });
        }
    }
    // The index must never name a slot whose bytes are not on the disk.
    index.slots.sync()?;
    transaction.commit()?;
    if destroyed {
        index.erase_due()?;
    }
    // A caller that has gone away simply asks again.
    for outcome in outcomes {
        match outcome {
            Outcome::Created(found, answer) => drop(answer.send(Ok(found))),
            Outcome::Destroyed(live, answer) => drop(answer.send(Ok(live))),
            Outcome::Admitted(admitted, answer) => drop(answer.send(Ok(admitted))),
        }
    }
    Ok(())
}
