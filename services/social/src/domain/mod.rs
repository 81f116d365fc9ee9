//! Who may see what: pure.

pub mod cursor;
pub mod visibility;
pub mod workout;
