//! The policy in force in this region: which one it is, whether it is fresh, and telling the services.

pub mod acks;
pub mod backlog;
pub mod feed;
pub mod hold;
pub mod lease;
