//! identity's tables. Everything personal is sealed before it comes here.

pub mod accounts;
pub mod signing_keys;
