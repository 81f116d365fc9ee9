//! Follows, people, workouts and imports in PostgreSQL. Everything here runs in the caller's tenant transaction.

pub mod feed;
pub mod follows;
pub mod imports;
pub mod people;
pub mod workouts;
