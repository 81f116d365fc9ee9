//! What a track amounts to: distance, climb, times, heart rate, splits. Aggregates outlive the coordinates.

use super::sample::{Position, Sample};

/// Mean radius of the earth in metres (IUGG R₁; Moritz, *Geodetic Reference System 1980*).
const EARTH_RADIUS: f64 = 6_371_008.8;
/// A pause: devices that save space write a point at least this often while moving.
const LONGEST_GAP_MS: i64 = 30_000;
/// Slower than this is standing still (0.5 m/s, a third of a walk).
const STANDING: f64 = 0.5;
/// Metres of climb below which a change counts as the altimeter's noise.
const CLIMB_THRESHOLD: f64 = 3.0;
/// Metres of a split.
const SPLIT: f64 = 1000.0;

/// Totals of a track.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Samples.
    pub samples: u64,
    /// First sample, ms since 1970-01-01 UTC.
    pub start_ms: i64,
    /// Last sample.
    pub end_ms: i64,
    /// Seconds from the first to the last sample.
    pub elapsed_sec: f64,
    /// Seconds in motion; see [`summarize`].
    pub moving_sec: f64,
    /// Metres; none when neither a distance nor two positions are known.
    pub distance_meters: Option<f64>,
    /// Whose distance it is.
    pub distance_source: DistanceSource,
    /// Metres climbed; none without altitudes.
    pub ascent_meters: Option<f64>,
    /// Beats per minute, weighted by time.
    pub avg_heart_rate: Option<f64>,
    /// Beats per minute.
    pub max_heart_rate: Option<u8>,
    /// Watts, weighted by time.
    pub avg_power: Option<f64>,
    /// Every full kilometre.
    pub splits: Vec<Split>,
}

/// How the distance was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DistanceSource {
    /// The device's own odometer.
    Device,
    /// Great circles between positions.
    Positions,
    /// Not known.
    #[default]
    None,
}

/// One kilometre.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Split {
    /// 1 for the first.
    pub kilometer: u32,
    /// Seconds from the end of the previous one, pauses included.
    pub duration_sec: f64,
}

/// Great-circle distance in metres by the haversine formula (R. W. Sinnott, *Virtues of the Haversine*, Sky and
/// Telescope 68, 1984, p. 159); the sphere is within 0.5 % of the ellipsoid.
#[must_use]
pub fn haversine(from: Position, to: Position) -> f64 {
    let ((lat1, lon1), (lat2, lon2)) = (from.degrees(), to.degrees());
    let (lat1, lat2) = (lat1.to_radians(), lat2.to_radians());
    let half_lat = ((lat2 - lat1) / 2.0).sin();
    let half_lon = ((lon2 - lon1).to_radians() / 2.0).sin();
    let h = half_lat * half_lat + lat1.cos() * lat2.cos() * half_lon * half_lon;
    2.0 * EARTH_RADIUS * h.clamp(0.0, 1.0).sqrt().asin()
}

/// Sums up samples that are in order of time.
///
/// - **Distance** is the device's where any sample carries one: wheel and foot sensors know better than positions, and
///   indoors there are none. Devices count from zero, so each count adds its highest value; a fall below half of it
///   begins a new count (several activities in one file), a smaller fall is a late point and adds nothing. Otherwise
///   it is the sum of great circles between successive positions.
/// - **Ascent** adds a rise once it exceeds 3 m over the lowest point since the last one (hysteresis, as GoldenCheetah
///   counts `Elevation_Gain`).
/// - **Moving time** adds every interval of at most 30 s whose speed (measured, else distance over time) is at least
///   0.5 m/s; an interval of which neither is known counts as moving.
/// - **Averages** weigh each value with the time until the next sample, at most 30 s; without any such time they are
///   plain means. A heart rate or cadence of 0 is a lost signal.
#[must_use]
pub fn summarize(samples: &[Sample]) -> Summary {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return Summary::default();
    };
    let (covered, distance_source) = covered(samples);
    let distance_meters =
        (distance_source != DistanceSource::None).then(|| covered.last().copied().unwrap_or_default());
    Summary {
        samples: samples.len() as u64,
        start_ms: first.time_ms,
        end_ms: last.time_ms,
        elapsed_sec: seconds(last.time_ms.saturating_sub(first.time_ms)),
        moving_sec: moving(samples, &covered, distance_source),
        distance_meters,
        distance_source,
        ascent_meters: ascent(
            samples
                .iter()
                .filter_map(|sample| sample.altitude_mm)
                .map(|mm| f64::from(mm) / 1000.0),
        ),
        avg_heart_rate: average(samples, |sample| {
            sample.heart_rate.filter(|rate| *rate > 0).map(f64::from)
        }),
        max_heart_rate: samples
            .iter()
            .filter_map(|sample| sample.heart_rate)
            .filter(|rate| *rate > 0)
            .max(),
        avg_power: average(samples, |sample| sample.power.map(f64::from)),
        splits: if distance_source == DistanceSource::None {
            Vec::new()
        } else {
            splits(samples, &covered)
        },
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of a recording are far below 2⁵³"
)]
fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

/// Metres covered up to each sample; never falls.
fn covered(samples: &[Sample]) -> (Vec<f64>, DistanceSource) {
    if samples
        .iter()
        .any(|sample| sample.distance_tenth_mm.is_some_and(|distance| distance > 0))
    {
        (by_odometer(samples), DistanceSource::Device)
    } else if samples.iter().filter(|sample| sample.position.is_some()).count() > 1 {
        (by_positions(samples), DistanceSource::Positions)
    } else {
        (vec![0.0; samples.len()], DistanceSource::None)
    }
}

#[expect(clippy::cast_precision_loss, reason = "tenths of a millimetre are below 2⁵³")]
fn by_odometer(samples: &[Sample]) -> Vec<f64> {
    let (mut finished, mut count) = (0_u64, 0_u64);
    let mut covered = Vec::with_capacity(samples.len());
    for sample in samples {
        if let Some(distance) = sample.distance_tenth_mm {
            if distance < count / 2 {
                finished = finished.saturating_add(count);
                count = distance;
            }
            count = count.max(distance);
        }
        covered.push(finished.saturating_add(count) as f64 / 1e4);
    }
    covered
}

fn by_positions(samples: &[Sample]) -> Vec<f64> {
    let (mut total, mut last) = (0.0, None);
    let mut covered = Vec::with_capacity(samples.len());
    for sample in samples {
        if let Some(position) = sample.position {
            total += last.map_or(0.0, |last| haversine(last, position));
            last = Some(position);
        }
        covered.push(total);
    }
    covered
}

fn ascent(altitudes: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut climbed, mut reference) = (0.0, None);
    for altitude in altitudes {
        let low = *reference.get_or_insert(altitude);
        if altitude >= low + CLIMB_THRESHOLD {
            climbed += altitude - low;
            reference = Some(altitude);
        } else if altitude < low {
            reference = Some(altitude);
        }
    }
    reference.map(|_| climbed)
}

fn moving(samples: &[Sample], covered: &[f64], source: DistanceSource) -> f64 {
    let mut moving = 0.0;
    for (pair, metres) in samples.windows(2).zip(covered.windows(2)) {
        let gap = pair[1].time_ms.saturating_sub(pair[0].time_ms);
        if gap <= 0 || gap > LONGEST_GAP_MS {
            continue;
        }
        let speed = match (pair[1].speed_mm_s, source) {
            (Some(speed), _) => Some(f64::from(speed) / 1000.0),
            (None, DistanceSource::None) => None,
            (None, _) => Some((metres[1] - metres[0]) / seconds(gap)),
        };
        if speed.is_none_or(|speed| speed >= STANDING) {
            moving += seconds(gap);
        }
    }
    moving
}

fn average(samples: &[Sample], value: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
    let (mut weighted, mut weight, mut sum, mut count) = (0.0, 0.0, 0.0, 0.0);
    for (index, sample) in samples.iter().enumerate() {
        let Some(value) = value(sample) else { continue };
        let gap = samples
            .get(index + 1)
            .map_or(0, |next| next.time_ms.saturating_sub(sample.time_ms));
        let gap = seconds(gap.clamp(0, LONGEST_GAP_MS));
        weighted += value * gap;
        weight += gap;
        sum += value;
        count += 1.0;
    }
    if weight > 0.0 {
        Some(weighted / weight)
    } else {
        (count > 0.0).then(|| sum / count)
    }
}

/// The moment of each full kilometre lies between two samples in proportion to the metres.
fn splits(samples: &[Sample], covered: &[f64]) -> Vec<Split> {
    let Some(start) = samples.first().map(|sample| sample.time_ms) else {
        return Vec::new();
    };
    let (mut splits, mut goal, mut previous_end) = (Vec::new(), SPLIT, 0.0);
    for (pair, metres) in samples.windows(2).zip(covered.windows(2)) {
        // A jump of thousands of kilometres is a broken position, not a thousand splits.
        while metres[1] >= goal && splits.len() < 10_000 {
            let share = ((goal - metres[0]) / (metres[1] - metres[0])).clamp(0.0, 1.0);
            let end = seconds(pair[0].time_ms - start) + share * seconds(pair[1].time_ms - pair[0].time_ms);
            splits.push(Split {
                kilometer: splits.len() as u32 + 1,
                duration_sec: end - previous_end,
            });
            previous_end = end;
            goal += SPLIT;
        }
    }
    splits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::sample::tests::any_sample;

    fn at(second: i64) -> Sample {
        Sample {
            time_ms: second * 1000,
            ..Sample::default()
        }
    }

    fn metres(metres: u64) -> Option<u64> {
        Some(metres * 10_000)
    }

    #[test]
    fn one_degree_of_latitude_is_111_195_metres() {
        let equator = Position::from_degrees(0.0, 0.0).expect("a place");
        let north = Position::from_degrees(1.0, 0.0).expect("a place");
        assert!((haversine(equator, north) - 111_195.08).abs() < 0.1);
        assert_eq!(haversine(north, north), 0.0);
    }

    #[test]
    fn the_devices_distance_outranks_positions() {
        let far = Position::from_degrees(50.0, 8.0);
        let near = Position::from_degrees(50.1, 8.0);
        let samples = [
            Sample {
                position: far,
                distance_tenth_mm: metres(0),
                ..at(0)
            },
            Sample {
                position: near,
                distance_tenth_mm: metres(900),
                ..at(60)
            },
        ];
        let summary = summarize(&samples);
        assert_eq!(
            (summary.distance_meters, summary.distance_source),
            (Some(900.0), DistanceSource::Device)
        );
        let without = samples.map(|sample| Sample {
            distance_tenth_mm: None,
            ..sample
        });
        assert_eq!(summarize(&without).distance_source, DistanceSource::Positions);
    }

    #[test]
    fn an_odometer_that_begins_again_adds_up() {
        let samples = [(0, 5), (10, 1000), (20, 0), (30, 300), (40, 299)].map(|(second, distance)| Sample {
            distance_tenth_mm: metres(distance),
            ..at(second)
        });
        assert_eq!(summarize(&samples).distance_meters, Some(1300.0));
    }

    #[test]
    fn noise_of_the_altimeter_is_no_climb() {
        let altitudes = [100.0, 101.5, 99.5, 102.0, 99.0, 110.0, 109.5, 112.0, 90.0, 94.0];
        // 99 → 110, then 110 → … → 112 stays below 3 m, then 90 → 94.
        assert_eq!(ascent(altitudes.into_iter()), Some(15.0));
        assert_eq!(ascent(std::iter::empty()), None);
    }

    #[test]
    fn standing_and_pauses_are_not_moving() {
        let samples =
            [(0, 0), (1, 5000), (2, 5000), (3, 100), (4, 0), (64, 5000), (65, 5000)].map(|(second, speed)| Sample {
                speed_mm_s: Some(speed),
                ..at(second)
            });
        let summary = summarize(&samples);
        assert_eq!((summary.elapsed_sec, summary.moving_sec), (65.0, 3.0));
    }

    #[test]
    fn indoors_without_speed_the_clock_counts() {
        let samples = [0, 1, 2, 3].map(|second| Sample {
            heart_rate: Some(120),
            ..at(second)
        });
        let summary = summarize(&samples);
        assert_eq!((summary.moving_sec, summary.distance_meters), (3.0, None));
    }

    #[test]
    fn averages_weigh_by_time_and_skip_a_lost_signal() {
        let rate = |second, rate| Sample {
            heart_rate: Some(rate),
            ..at(second)
        };
        let summary = summarize(&[rate(0, 100), rate(10, 150), rate(15, 0), rate(20, 200)]);
        assert_eq!(summary.avg_heart_rate, Some((100.0 * 10.0 + 150.0 * 5.0) / 15.0));
        assert_eq!(summary.max_heart_rate, Some(200));
        let moment = [rate(0, 100), rate(0, 110)];
        assert_eq!(summarize(&moment).avg_heart_rate, Some(105.0));
    }

    #[test]
    fn a_split_ends_between_two_samples() {
        let samples = [(0, 0), (100, 500), (200, 1500), (300, 2500)].map(|(second, distance)| Sample {
            distance_tenth_mm: metres(distance),
            ..at(second)
        });
        let splits = summarize(&samples).splits;
        assert_eq!(
            splits.iter().map(|split| split.duration_sec).collect::<Vec<_>>(),
            [150.0, 100.0]
        );
    }

    proptest! {
        #[test]
        fn totals_are_finite_whatever_was_recorded(mut samples in prop::collection::vec(any_sample(), 0..60)) {
            samples.sort_by_key(|sample| sample.time_ms);
            let summary = summarize(&samples);
            prop_assert!(summary.moving_sec <= summary.elapsed_sec + 1e-6);
            prop_assert!(summary.distance_meters.is_none_or(|distance| distance.is_finite() && distance >= 0.0));
            prop_assert!(summary.ascent_meters.is_none_or(|ascent| ascent.is_finite() && ascent >= 0.0));
            prop_assert!(summary.splits.iter().all(|split| split.duration_sec >= -1e-6));
        }
    }
}
