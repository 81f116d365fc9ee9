//! What consent is: pure, without a clock, a database or a caller.

pub mod limit;
pub mod matter;
pub mod permit;
pub mod receipt;
pub mod standing;
