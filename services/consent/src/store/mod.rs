//! Consents, their history and permits in PostgreSQL. Everything here runs in the caller's tenant transaction.

mod consents;
mod permits;

pub use consents::{Current, Entry, current, history, lock_gate, receipt, record, standings};
pub use permits::{NewPermit, close, forget, has_open, open, owner_of};
