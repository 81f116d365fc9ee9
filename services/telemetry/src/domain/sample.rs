//! One moment of a recording, in whole numbers of the finest unit that any source uses, so that what a device wrote
//! reads back exactly.
//!
//! | Field | Kept as | From FIT | From JSON and GPX |
//! |---|---|---|---|
//! | time | ms since 1970-01-01 UTC | whole seconds | ms; finer is cut off |
//! | position | semicircles (2³¹ = 180°) | as recorded | nearest semicircle: at most 4.2·10⁻⁸° (5 mm) off |
//! | altitude | mm | 0.2 m steps, exact | nearest mm |
//! | heart rate, cadence, power | bpm, rpm, W | as recorded | nearest whole |
//! | speed | mm/s | as recorded | nearest mm/s |
//! | distance | 0.1 mm | cm or 1/16 m, exact | nearest 0.1 mm |
//! | temperature | 0.01 °C | whole degrees | nearest 0.01 °C |
//!
//! Degrees that were printed from semicircles give the same semicircles again: a step is 8.4·10⁻⁸°, an `f64` near 180
//! is good to 3·10⁻¹⁴.

/// Semicircles in a half turn.
const HALF_TURN: f64 = 2_147_483_648.0;
/// Semicircles from the equator to a pole.
const QUARTER_TURN: i32 = 1 << 30;

/// A place on earth (WGS 84).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    lat: i32,
    lon: i32,
}

impl Position {
    /// From semicircles; none when the latitude lies beyond a pole.
    #[must_use]
    pub fn from_semicircles(lat: i32, lon: i32) -> Option<Self> {
        (-QUARTER_TURN..=QUARTER_TURN)
            .contains(&lat)
            .then_some(Self { lat, lon })
    }

    /// From degrees; 180° E and 180° W are one meridian and become −2³¹.
    #[must_use]
    pub fn from_degrees(lat: f64, lon: f64) -> Option<Self> {
        if !(-90.0..=90.0).contains(&lat) || !(-180.0..=180.0).contains(&lon) {
            return None;
        }
        let lon = semicircles(lon);
        let lon = if lon > i64::from(i32::MAX) {
            i32::MIN
        } else {
            i32::try_from(lon).ok()?
        };
        Self::from_semicircles(i32::try_from(semicircles(lat)).ok()?, lon)
    }

    /// Latitude and longitude in semicircles.
    #[must_use]
    pub fn semicircles(self) -> (i32, i32) {
        (self.lat, self.lon)
    }

    /// Latitude and longitude in degrees.
    #[must_use]
    pub fn degrees(self) -> (f64, f64) {
        (
            f64::from(self.lat) * 180.0 / HALF_TURN,
            f64::from(self.lon) * 180.0 / HALF_TURN,
        )
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "|degrees| ≤ 180, so the result is within ±2³¹"
)]
fn semicircles(degrees: f64) -> i64 {
    (degrees * HALF_TURN / 180.0).round() as i64
}

/// A sample; what the device did not measure is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Milliseconds since 1970-01-01 UTC.
    pub time_ms: i64,
    /// Where.
    pub position: Option<Position>,
    /// Height over the sea in millimetres.
    pub altitude_mm: Option<i32>,
    /// Beats per minute.
    pub heart_rate: Option<u8>,
    /// Revolutions (or strides) per minute.
    pub cadence: Option<u8>,
    /// Watts.
    pub power: Option<u16>,
    /// Millimetres per second.
    pub speed_mm_s: Option<u32>,
    /// Tenths of a millimetre since the device began to count.
    pub distance_tenth_mm: Option<u64>,
    /// Hundredths of a degree Celsius.
    pub temperature_centi: Option<i16>,
}

/// A field that holds what no sensor can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {allowed}")]
pub struct OutOfRange {
    /// The field's name in the API.
    pub field: &'static str,
    /// What it may be.
    pub allowed: &'static str,
}

/// A sample in the units of the API: degrees, metres, metres per second, whole beats, revolutions and watts, degrees
/// Celsius.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Milliseconds since 1970-01-01 UTC.
    pub time_ms: i64,
    /// Degrees north.
    pub lat: Option<f64>,
    /// Degrees east.
    pub lon: Option<f64>,
    /// Metres over the sea.
    pub altitude: Option<f64>,
    /// Beats per minute.
    pub heart_rate: Option<f64>,
    /// Revolutions per minute.
    pub cadence: Option<f64>,
    /// Watts.
    pub power: Option<f64>,
    /// Metres per second.
    pub speed: Option<f64>,
    /// Metres since the device began to count.
    pub distance: Option<f64>,
    /// Degrees Celsius.
    pub temperature: Option<f64>,
}

/// Name in the API, smallest and largest value in the API's unit, units kept per API unit, and that range in words.
struct Range {
    field: &'static str,
    min: f64,
    max: f64,
    scale: f64,
    allowed: &'static str,
}

impl Range {
    const fn new(field: &'static str, min: f64, max: f64, scale: f64, allowed: &'static str) -> Self {
        Self {
            field,
            min,
            max,
            scale,
            allowed,
        }
    }

    fn refusal(&self) -> OutOfRange {
        OutOfRange {
            field: self.field,
            allowed: self.allowed,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "every range fits an i64 many times over")]
    fn keep(&self, value: f64) -> Result<i64, OutOfRange> {
        if !(self.min..=self.max).contains(&value) {
            return Err(self.refusal());
        }
        Ok((value * self.scale).round() as i64)
    }

    /// The same check for a value that is already in kept units.
    fn holds(&self, kept: i64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "compared with bounds far below 2⁵³")]
        (self.min * self.scale..=self.max * self.scale).contains(&(kept as f64))
    }
}

const LAT: Range = Range::new("lat", -90.0, 90.0, 1.0, "-90..=90 degrees, together with lon");
const LON: Range = Range::new("lon", -180.0, 180.0, 1.0, "-180..=180 degrees, together with lat");
const ALTITUDE: Range = Range::new("alt", -500.0, 20_000.0, 1e3, "-500..=20000 metres");
const HEART_RATE: Range = Range::new("hr", 0.0, 254.0, 1.0, "0..=254 beats per minute");
const CADENCE: Range = Range::new("cadence", 0.0, 254.0, 1.0, "0..=254 revolutions per minute");
const POWER: Range = Range::new("power", 0.0, 65_534.0, 1.0, "0..=65534 watts");
const SPEED: Range = Range::new("speed", 0.0, 1_000.0, 1e3, "0..=1000 metres per second");
const DISTANCE: Range = Range::new("distance", 0.0, 42_949_673.0, 1e4, "0..=42949673 metres");
const TEMPERATURE: Range = Range::new("temperature", -127.0, 127.0, 1e2, "-127..=127 degrees Celsius");
/// 1970 to 2200: FIT counts seconds from 1989-12-31 in 32 bits and ends in 2126.
const TIME: Range = Range::new("t", 0.0, 7_258_118_400_000.0, 1.0, "a time between 1970 and 2200");

/// A value of the range in the type that keeps it. The ranges above are inside the types' own.
fn kept<T: TryFrom<i64>>(range: &Range, value: Option<f64>, refused: &mut Vec<OutOfRange>) -> Option<T> {
    let kept = range
        .keep(value?)
        .and_then(|kept| T::try_from(kept).map_err(|_| range.refusal()));
    kept.map_err(|refusal| refused.push(refusal)).ok()
}

impl Measured {
    /// Checks every field.
    ///
    /// # Errors
    /// Each field that is out of its range, and a position of which one half is missing.
    pub fn check(&self) -> Result<Sample, Vec<OutOfRange>> {
        let (sample, refused) = self.lenient();
        if refused.is_empty() { Ok(sample) } else { Err(refused) }
    }

    /// The sample without the fields that are out of range, and those fields: a file is not refused for one jump of
    /// its altimeter.
    #[must_use]
    pub fn lenient(&self) -> (Sample, Vec<OutOfRange>) {
        let mut refused = Vec::new();
        if !TIME.holds(self.time_ms) {
            refused.push(TIME.refusal());
        }
        let position = match (self.lat, self.lon) {
            (Some(lat), Some(lon)) => {
                let position = Position::from_degrees(lat, lon);
                if position.is_none() {
                    refused.push(if (LAT.min..=LAT.max).contains(&lat) {
                        LON.refusal()
                    } else {
                        LAT.refusal()
                    });
                }
                position
            }
            (Some(_), None) => {
                refused.push(LON.refusal());
                None
            }
            (None, Some(_)) => {
                refused.push(LAT.refusal());
                None
            }
            (None, None) => None,
        };
        let sample = Sample {
            time_ms: self.time_ms,
            position,
            altitude_mm: kept(&ALTITUDE, self.altitude, &mut refused),
            heart_rate: kept(&HEART_RATE, self.heart_rate, &mut refused),
            cadence: kept(&CADENCE, self.cadence, &mut refused),
            power: kept(&POWER, self.power, &mut refused),
            speed_mm_s: kept(&SPEED, self.speed, &mut refused),
            distance_tenth_mm: kept(&DISTANCE, self.distance, &mut refused),
            temperature_centi: kept(&TEMPERATURE, self.temperature, &mut refused),
        };
        (sample, refused)
    }
}

fn clear<T: Copy + Into<i64>>(range: &Range, value: &mut Option<T>, cleared: &mut u64) {
    if value.is_some_and(|value| !range.holds(value.into())) {
        *value = None;
        *cleared += 1;
    }
}

impl Sample {
    /// Clears what is out of range in a sample that was built from kept units, and says how many fields that were.
    /// The time is the caller's to check ([`Sample::has_plausible_time`]): a sample without one is no sample.
    pub fn clear_implausible(&mut self) -> u64 {
        let mut cleared = 0;
        clear(&ALTITUDE, &mut self.altitude_mm, &mut cleared);
        clear(&HEART_RATE, &mut self.heart_rate, &mut cleared);
        clear(&CADENCE, &mut self.cadence, &mut cleared);
        clear(&POWER, &mut self.power, &mut cleared);
        clear(&SPEED, &mut self.speed_mm_s, &mut cleared);
        clear(&TEMPERATURE, &mut self.temperature_centi, &mut cleared);
        // Kept in 64 bits without a sign, so it has no `Into<i64>`.
        if self
            .distance_tenth_mm
            .is_some_and(|distance| i64::try_from(distance).map_or(true, |kept| !DISTANCE.holds(kept)))
        {
            self.distance_tenth_mm = None;
            cleared += 1;
        }
        cleared
    }

    /// Whether the time can be one.
    #[must_use]
    pub fn has_plausible_time(&self) -> bool {
        TIME.holds(self.time_ms)
    }

    /// The sample in the API's units.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "distances are below 2⁵³ tenths of a millimetre"
    )]
    pub fn measured(&self) -> Measured {
        let degrees = self.position.map(Position::degrees);
        Measured {
            time_ms: self.time_ms,
            lat: degrees.map(|(lat, _)| lat),
            lon: degrees.map(|(_, lon)| lon),
            altitude: self.altitude_mm.map(|mm| f64::from(mm) / ALTITUDE.scale),
            heart_rate: self.heart_rate.map(f64::from),
            cadence: self.cadence.map(f64::from),
            power: self.power.map(f64::from),
            speed: self.speed_mm_s.map(|speed| f64::from(speed) / SPEED.scale),
            distance: self.distance_tenth_mm.map(|distance| distance as f64 / DISTANCE.scale),
            temperature: self.temperature_centi.map(|centi| f64::from(centi) / TEMPERATURE.scale),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any sample that the ranges admit.
    pub(crate) fn any_sample() -> impl Strategy<Value = Sample> {
        let position = proptest::option::of((-QUARTER_TURN..=QUARTER_TURN, any::<i32>()));
        let rest = (
            proptest::option::of(-500_000..=20_000_000_i32),
            proptest::option::of(0..=254_u8),
            proptest::option::of(0..=254_u8),
            proptest::option::of(0..=65_534_u16),
            proptest::option::of(0..=1_000_000_u32),
            proptest::option::of(0..=429_496_730_000_u64),
            proptest::option::of(-12_700..=12_700_i16),
        );
        (0..7_258_118_400_000_i64, position, rest).prop_map(|(time_ms, position, rest)| Sample {
            time_ms,
            position: position.map(|(lat, lon)| Position { lat, lon }),
            altitude_mm: rest.0,
            heart_rate: rest.1,
            cadence: rest.2,
            power: rest.3,
            speed_mm_s: rest.4,
            distance_tenth_mm: rest.5,
            temperature_centi: rest.6,
        })
    }

    proptest! {
        #[test]
        fn a_sample_survives_the_units_of_the_api(sample in any_sample()) {
            prop_assert_eq!(sample.measured().check(), Ok(sample));
        }

        #[test]
        fn degrees_move_by_at_most_half_a_semicircle(lat in -90.0..=90.0_f64, lon in -180.0..180.0_f64) {
            let (lat_back, lon_back) = Position::from_degrees(lat, lon).expect("within range").degrees();
            prop_assert!((lat - lat_back).abs() < 4.3e-8);
            let apart = (lon - lon_back).abs();
            prop_assert!(apart < 4.3e-8 || (360.0 - apart) < 4.3e-8, "{} {}", lon, lon_back);
        }
    }

    #[test]
    fn the_antimeridian_is_one_meridian() {
        assert_eq!(Position::from_degrees(0.0, 180.0), Position::from_degrees(0.0, -180.0));
    }

    #[test]
    fn every_field_out_of_range_is_named() {
        let wrong = Measured {
            time_ms: -1,
            lat: Some(91.0),
            lon: Some(0.0),
            altitude: Some(f64::NAN),
            heart_rate: Some(255.0),
            cadence: Some(-1.0),
            power: Some(65_535.0),
            speed: Some(1_000.1),
            distance: Some(f64::INFINITY),
            temperature: Some(128.0),
        };
        let named: Vec<_> = wrong
            .check()
            .expect_err("must be refused")
            .iter()
            .map(|refusal| refusal.field)
            .collect();
        assert_eq!(
            named,
            [
                "t",
                "lat",
                "alt",
                "hr",
                "cadence",
                "power",
                "speed",
                "distance",
                "temperature"
            ]
        );
    }

    #[test]
    fn half_a_position_is_refused_by_the_missing_half() {
        let half = Measured {
            lat: Some(1.0),
            ..Measured::default()
        };
        assert_eq!(half.check().expect_err("must be refused")[0].field, "lon");
        let half = Measured {
            lon: Some(1.0),
            ..Measured::default()
        };
        assert_eq!(half.check().expect_err("must be refused")[0].field, "lat");
    }

    #[test]
    fn an_implausible_field_is_cleared_and_the_rest_stays() {
        let mut sample = Sample {
            heart_rate: Some(255),
            power: Some(250),
            distance_tenth_mm: Some(u64::MAX),
            ..Sample::default()
        };
        assert_eq!(sample.clear_implausible(), 2);
        assert_eq!(
            sample,
            Sample {
                power: Some(250),
                ..Sample::default()
            }
        );
    }
}
