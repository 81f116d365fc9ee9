//! The durable part of the keyring: an index of names and states, and a file of wrapped keys.

mod index;
pub mod slots;
pub mod wrapping;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, ReadableDatabase as _};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::index::lease_digest;
pub use self::index::{Destruction, Found, Rewrapped};
use self::index::{Index, KEYS};
use self::slots::SlotFile;
use self::wrapping::{Wrapping, WrappingError};
use self::writer::Job;
use crate::domain::address::KeyAddress;

/// Why the keyring's store could not do what was asked. None of these is the caller's fault.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or the slot file.
    #[error("the keyring's file {path} could not be used: {source}; check MERIDIAN_DATA_DIR and its volume")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Reading or writing a slot.
    #[error("a key slot could not be read or written: {0}; the volume is full or failing")]
    Slot(#[from] std::io::Error),
    /// Another process has the files open.
    #[error("the keyring's files are in use by another keyring; one volume serves one keyring")]
    InUse,
    /// The index.
    #[error("the keyring's index failed: {0}; the volume is full or failing")]
    Index(#[from] Box<redb::Error>),
    /// A key does not open.
    #[error(transparent)]
    Wrapping(#[from] WrappingError),
    /// An index entry that this version does not write.
    #[error("the keyring's index holds an entry that this version cannot read; it was written by a newer one")]
    Entry,
    /// The writer ended after an earlier failure.
    #[error("the keyring's writer has stopped after an earlier failure; the process restarts")]
    Stopped,
}

/// redb has one error type per step; all of them mean the same to us.
macro_rules! index_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Index(Box::new(error.into()))
            }
        }
    )*};
}
impl From<redb::DatabaseError> for StoreError {
    fn from(error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::InUse,
            error => Self::Index(Box::new(error.into())),
        }
    }
}

index_errors!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);

/// An open store. Cloning is cheap; the files close with the last clone.
#[derive(Clone)]
pub struct Store {
    index: Arc<Index>,
    jobs: mpsc::Sender<Job>,
    /// Closed once the writer has let go of the files.
    writing: watch::Receiver<()>,
}

impl Store {
    /// Opens or creates the store in `directory`, finishes erasures that a crash interrupted, and wraps again every
    /// key that an older version of the KEK wrapped. Blocks; call it before serving.
    pub fn open(directory: &Path, wrapping: Wrapping) -> Result<(Self, Rewrapped), StoreError> {
        let file_error = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StoreError::File { path, source }
        };
        std::fs::create_dir_all(directory).map_err(file_error(directory))?;
        let slots_path = directory.join("keyring.slots");
        let slots = SlotFile::open(&slots_path).map_err(file_error(&slots_path))?;
        let database = open_index(&directory.join("keyring.redb"))?;
        // The two files' names must survive power loss as well as their content.
        std::fs::File::open(directory)
            .and_then(|dir| dir.sync_all())
            .map_err(file_error(directory))?;

        let index = Arc::new(Index {
            database,
            slots,
            wrapping,
        });
        let rewrapped = index.recover()?;
        let (jobs, queue) = mpsc::channel(1024);
        let (finished, writing) = watch::channel(());
        let files = Arc::clone(&index);
        std::thread::Builder::new()
            .name("keyring-writer".into())
            .spawn(move || {
                writer::run(&files, queue);
                drop(files);
                drop(finished);
            })
            .map_err(StoreError::Slot)?;
        Ok((Self { index, jobs, writing }, rewrapped))
    }

    /// Looks keys up, in the order asked.
    pub async fn find(&self, addresses: Vec<KeyAddress>) -> Result<Vec<Found>, StoreError> {
        let index = Arc::clone(&self.index);
        tokio::task::spawn_blocking(move || index.find(&addresses))
            .await
            .map_err(|_| StoreError::Stopped)?
    }

    /// Makes the keys that are not there yet; they are on the disk when this returns.
    pub async fn create(&self, addresses: Vec<KeyAddress>) -> Result<Vec<Found>, StoreError> {
        self.ask(|answer| Job::Create { addresses, answer }).await
    }

    /// Destroys keys; their bytes are overwritten on the disk when this returns. The count is of keys that were live.
    pub async fn destroy(&self, what: Destruction) -> Result<u64, StoreError> {
        self.ask(|answer| Job::Destroy { what, answer }).await
    }

    /// Records that an exporter leased the key with this digest. `false`: that key was destroyed here and must not
    /// come back.
    pub async fn admit_lease(&self, address: Vec<u8>, digest: [u8; 32]) -> Result<bool, StoreError> {
        self.ask(|answer| Job::AdmitLease {
            address,
            digest,
            answer,
        })
        .await
    }

    /// Completes when the writer has stopped, which only a failing volume brings about.
    pub async fn stopped(&self) {
        self.jobs.closed().await;
    }

    /// Closes the store, if this is its last clone: the writer finishes what is waiting and lets go of the files.
    pub async fn close(self) {
        let Self {
            index,
            jobs,
            mut writing,
        } = self;
        drop((index, jobs));
        // Never changes: an error means that the writer has dropped its end.
        let _ = writing.changed().await;
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(job(answer)).await.map_err(|_| StoreError::Stopped)?;
        answered.await.map_err(|_| StoreError::Stopped)?
    }
}

fn open_index(path: &Path) -> Result<Database, StoreError> {
    // The default cache of 1 GiB is meant for a database server; the index of a million keys fits in far less.
    let database = Builder::new().set_cache_size(4 * 1024 * 1024).create(path)?;
    // Tables exist from the first transaction on, so that a reader never meets a missing one.
    let first = database.begin_write()?;
    index::create_tables(&first)?;
    first.commit()?;
    database.begin_read()?.open_table(KEYS)?;
    Ok(database)
}
