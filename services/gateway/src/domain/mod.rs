//! What the gateway decides: pure, from a request's head, what its token proved, and the region's policy.

pub mod directory;
pub mod headers;
pub mod route;
pub mod table;
