//! Pure decisions: names of keys, who may use them, leases and quotas. No I/O, no clock of its own.

pub mod address;
pub mod grants;
pub mod leases;
pub mod quota;
