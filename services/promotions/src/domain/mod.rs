//! Pure rules of campaigns and deliveries. No I/O; the clock is a parameter.

pub mod audience;
pub mod campaign;
pub mod pace;
pub mod window;
