//! Consents, their history, limits and permits in PostgreSQL. Everything here runs in the caller's tenant transaction.

mod consents;
mod limits;
mod permits;

pub use consents::{Current, Entry, current, currents, history, lock_gate, lock_gates, receipt, record, standings};
pub use limits::{LimitEntry, limit, limits_in_force, objections, record_limit};
pub use permits::{NewPermits, close, close_all, forget, has_open, open, owner_of};
