//! The physics of a ride and the faults of its recording.

use super::random::Random;
use crate::domain::sample::{Measured, Sample};

/// Metres of a degree of latitude on the sphere that `domain::summary` uses.
const DEGREE: f64 = 111_195.08;
/// Kilograms of rider and bicycle.
const MASS: f64 = 82.0;
/// Standard gravity, m/s².
const GRAVITY: f64 = 9.806_65;
/// Rolling resistance of tyres on asphalt.
const ROLLING: f64 = 0.004;
/// Half of air density times drag area: ½ · 1.2 kg/m³ · 0.36 m².
const DRAG: f64 = 0.216;

/// What to simulate.
#[derive(Clone, Debug, PartialEq)]
pub struct Ride {
    /// Everything random follows from it.
    pub seed: u64,
    /// First second, ms since 1970-01-01 UTC; whole seconds.
    pub start_ms: i64,
    /// Length in seconds.
    pub seconds: u32,
    /// Degrees; none rides indoors on a trainer, without positions.
    pub origin: Option<(f64, f64)>,
    /// Seconds into the ride and length of a stop at which the device pauses itself.
    pub pause: Option<(u32, u32)>,
    /// Records only every few seconds, when something changes.
    pub smart_recording: bool,
}

impl Ride {
    /// An hour outdoors, every second recorded.
    #[must_use]
    pub fn outdoors(seed: u64, start_ms: i64) -> Self {
        let origin = Some((48.137_2, 11.575_5));
        Self {
            seed,
            start_ms: start_ms / 1000 * 1000,
            seconds: 3600,
            origin,
            pause: None,
            smart_recording: false,
        }
    }

    /// An hour on a trainer.
    #[must_use]
    pub fn indoors(seed: u64, start_ms: i64) -> Self {
        Self {
            origin: None,
            ..Self::outdoors(seed, start_ms)
        }
    }

    /// Of another length.
    #[must_use]
    pub fn lasting(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }
}

/// What really happened.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Truth {
    /// Records that the device wrote.
    pub records: u64,
    /// Metres along the road.
    pub distance_meters: f64,
    /// Metres climbed, every rise counted.
    pub ascent_meters: f64,
    /// Mean of the recorded beats per minute.
    pub avg_heart_rate: f64,
    /// Highest recorded beats per minute.
    pub max_heart_rate: u8,
    /// Seconds from the first to the last record.
    pub elapsed_sec: f64,
}

/// A ride and what a device kept of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// As the device wrote them; positions, altitudes and speeds in steps that FIT can hold.
    pub samples: Vec<Sample>,
    /// What really happened.
    pub truth: Truth,
}

/// First-order autoregressive noise with the standard deviation `sigma` and the memory `rho` per second.
struct Drift {
    value: f64,
    sigma: f64,
    rho: f64,
}

impl Drift {
    fn new(sigma: f64, rho: f64) -> Self {
        Self { value: 0.0, sigma, rho }
    }

    fn step(&mut self, random: &mut Random) -> f64 {
        self.value = self.rho * self.value + self.sigma * (1.0 - self.rho * self.rho).sqrt() * random.normal();
        self.value
    }
}

/// Height of the road over its distance: three waves of kilometres.
struct Hills {
    waves: [(f64, f64, f64); 3],
}

impl Hills {
    fn new(random: &mut Random) -> Self {
        let wave = |random: &mut Random, metres: f64, height: f64| {
            (
                random.between(0.8, 1.2) * metres,
                random.between(0.8, 1.2) * height,
                random.between(0.0, std::f64::consts::TAU),
            )
        };
        Self {
            waves: [
                wave(random, 9000.0, 60.0),
                wave(random, 3500.0, 18.0),
                wave(random, 1400.0, 6.0),
            ],
        }
    }

    fn height(&self, metres: f64) -> f64 {
        let wave = |(length, height, phase): &(f64, f64, f64)| {
            height * (std::f64::consts::TAU * metres / length + phase).sin()
        };
        540.0 + self.waves.iter().map(wave).sum::<f64>()
    }
}

impl Ride {
    /// Rides it.
    #[must_use]
    pub fn ride(&self) -> Recorded {
        let mut random = Random::seeded(self.seed);
        let hills = Hills::new(&mut random);
        let (mut effort, mut turn) = (Drift::new(35.0, 0.98), Drift::new(0.02, 0.9));
        let (mut north_noise, mut east_noise) = (Drift::new(4.0, 0.97), Drift::new(4.0, 0.97));
        let mut barometer = Drift::new(0.4, 0.995);
        let base_power = random.between(170.0, 230.0);
        let (mut speed, mut distance, mut heading) = (0.5_f64, 0.0_f64, random.between(0.0, std::f64::consts::TAU));
        let (mut north, mut east, mut heart) = (0.0_f64, 0.0_f64, 78.0_f64);
        let mut height = hills.height(0.0);
        let mut truth = Truth::default();
        let mut samples = Vec::with_capacity(self.seconds as usize);
        let mut beats = 0.0;
        let mut since_written = 0;
        for second in 0..self.seconds {
            let stopped = self
                .pause
                .is_some_and(|(from, length)| (from..from + length).contains(&second));
            let power = if stopped {
                0.0
            } else {
                (base_power + effort.step(&mut random)).max(0.0)
            };
            let slope = if self.origin.is_some() {
                (hills.height(distance + 5.0) - hills.height(distance)) / 5.0
            } else {
                0.0
            };
            speed = if stopped { 0.0 } else { accelerated(speed, power, slope) };
            distance += speed;
            heading += turn.step(&mut random);
            north += speed * heading.cos();
            east += speed * heading.sin();
            if self.origin.is_some() {
                let next = hills.height(distance);
                truth.ascent_meters += (next - height).max(0.0);
                height = next;
            }
            // The heart follows the effort with a lag of 45 s and drifts up 5 % an hour.
            let goal = (75.0 + 0.42 * power) * (1.0 + 0.05 * f64::from(second) / 3600.0);
            heart += (goal - heart) / 45.0;
            let (north_off, east_off) = (north_noise.step(&mut random), east_noise.step(&mut random));
            let altitude = height + barometer.step(&mut random);
            since_written += 1;
            let due = !self.smart_recording || second == 0 || since_written > random.bits() % 7;
            if stopped || !due {
                continue;
            }
            since_written = 0;
            let mut measured = Measured {
                time_ms: self.start_ms + i64::from(second) * 1000,
                heart_rate: Some(heart.round()),
                cadence: Some((60.0 + power / 8.0).round().min(120.0)),
                power: Some(power.round()),
                speed: Some((speed * 1e3).round() / 1e3),
                distance: Some((distance * 1e2).round() / 1e2),
                temperature: Some(18.0),
                ..Measured::default()
            };
            if let Some((lat, lon)) = self.origin {
                measured.lat = Some(lat + (north + north_off) / DEGREE);
                measured.lon = Some(lon + (east + east_off) / (DEGREE * lat.to_radians().cos()));
                measured.altitude = Some((altitude * 5.0).round() / 5.0);
            }
            // Within every range by construction; `lenient` would only leave a field out.
            let (sample, _) = measured.lenient();
            beats += f64::from(sample.heart_rate.unwrap_or_default());
            truth.max_heart_rate = truth.max_heart_rate.max(sample.heart_rate.unwrap_or_default());
            truth.records += 1;
            // The last recorded metre is what the device shows.
            truth.distance_meters = distance;
            samples.push(sample);
        }
        if let (Some(first), Some(last)) = (samples.first(), samples.last()) {
            #[expect(
                clippy::cast_precision_loss,
                reason = "milliseconds of a ride and its records are far below 2⁵³"
            )]
            {
                truth.elapsed_sec = (last.time_ms - first.time_ms) as f64 / 1000.0;
                truth.avg_heart_rate = beats / truth.records as f64;
            }
        }
        Recorded { samples, truth }
    }
}

/// One second of the power balance P = (m·g·(slope + Crr) + ½ρCdA·v²)·v + m·a·v (Martin et al., *Validation of a
/// Mathematical Model for Road Cycling Power*, Journal of Applied Biomechanics 14, 1998).
fn accelerated(speed: f64, power: f64, slope: f64) -> f64 {
    let resisting = MASS * GRAVITY * (slope + ROLLING) + DRAG * speed * speed;
    let driving = power / speed.max(1.0);
    (speed + (driving - resisting) / MASS).clamp(0.5, 22.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_ride() {
        let ride = Ride::outdoors(7, 1_760_000_000_000);
        assert_eq!(ride.ride(), ride.ride());
        assert_ne!(ride.ride(), Ride::outdoors(8, 1_760_000_000_000).ride());
    }

    #[test]
    fn a_ride_is_plausible() {
        for seed in 0..8 {
            let Recorded { samples, truth } = Ride::outdoors(seed, 1_760_000_000_000).ride();
            assert_eq!((samples.len(), truth.records), (3600, 3600));
            assert!((15_000.0..50_000.0).contains(&truth.distance_meters), "{truth:?}");
            assert!((100.0..1_500.0).contains(&truth.ascent_meters), "{truth:?}");
            assert!((110.0..190.0).contains(&truth.avg_heart_rate), "{truth:?}");
            assert!(
                samples
                    .iter()
                    .all(|sample| sample.position.is_some() && sample.heart_rate.is_some())
            );
        }
    }

    #[test]
    fn indoors_has_no_places() {
        let Recorded { samples, .. } = Ride::indoors(1, 1_760_000_000_000).lasting(60).ride();
        assert!(
            samples
                .iter()
                .all(|sample| sample.position.is_none() && sample.altitude_mm.is_none())
        );
    }

    #[test]
    fn a_device_may_pause_and_save_space() {
        let ride = Ride {
            pause: Some((100, 300)),
            ..Ride::outdoors(1, 1_760_000_000_000).lasting(600)
        };
        assert_eq!(ride.ride().truth.records, 300);
        let ride = Ride {
            smart_recording: true,
            ..Ride::outdoors(1, 1_760_000_000_000)
        };
        assert!(ride.ride().truth.records < 2000);
    }
}
