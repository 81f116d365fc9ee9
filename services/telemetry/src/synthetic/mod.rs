//! Rides that never happened, for tests, load and the demo: one truth from a seed, and files and batches made of it.
//!
//! The route's elevation, the rider's power and the body's answer are simulated second by second; what a device would have
//! recorded of it becomes samples; [`fit`] and [`gpx`] write those as a device would. The same seed is the same ride.

pub mod fit;
pub mod gpx;
mod random;
mod ride;

pub use random::Random;
pub use ride::{Recorded, Ride, Truth};
