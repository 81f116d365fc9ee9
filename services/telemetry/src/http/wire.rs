//! Samples as JSON.

use std::fmt;

use jiff::Timestamp;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::domain::sample::{Measured, Sample};

/// A sample as it is sent.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SampleIn {
    t: Moment,
    lat: Option<f64>,
    lon: Option<f64>,
    alt: Option<f64>,
    hr: Option<f64>,
    cadence: Option<f64>,
    power: Option<f64>,
    speed: Option<f64>,
    distance: Option<f64>,
    temperature: Option<f64>,
}

impl SampleIn {
    pub(super) fn measured(&self) -> Measured {
        Measured {
            time_ms: self.t.0,
            lat: self.lat,
            lon: self.lon,
            altitude: self.alt,
            heart_rate: self.hr,
            cadence: self.cadence,
            power: self.power,
            speed: self.speed,
            distance: self.distance,
            temperature: self.temperature,
        }
    }
}

/// A sample as it is shown: `t` in ms since 1970-01-01 UTC, what was not measured left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct SampleOut {
    t: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lat: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lon: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alt: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hr: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cadence: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    power: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    distance: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
}

impl From<&Sample> for SampleOut {
    fn from(sample: &Sample) -> Self {
        let measured = sample.measured();
        Self {
            t: measured.time_ms,
            lat: measured.lat,
            lon: measured.lon,
            alt: measured.altitude,
            hr: sample.heart_rate,
            cadence: sample.cadence,
            power: sample.power,
            speed: measured.speed,
            distance: measured.distance,
            temperature: measured.temperature,
        }
    }
}

/// Milliseconds since 1970-01-01 UTC, or RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment(i64);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Moment;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("milliseconds since 1970 or a time like 2026-11-21T08:30:00Z")
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Moment, E> {
                Ok(Moment(value))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Moment, E> {
                i64::try_from(value)
                    .map(Moment)
                    .map_err(|_| E::custom("a time between 1970 and 2200"))
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Moment, E> {
                let time = value
                    .parse::<Timestamp>()
                    .map_err(|_| E::custom("a time like 2026-11-21T08:30:00Z"))?;
                Ok(Moment(time.as_millisecond()))
            }
        }
        deserializer
            .deserialize_any(Either)
            .map_err(|error| D::Error::custom(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_milliseconds_or_rfc_3339() {
        let parse = |text: &str| serde_json::from_str::<Moment>(text).map(|moment| moment.0).ok();
        assert_eq!(parse("1764057600250"), Some(1_764_057_600_250));
        assert_eq!(parse("\"2025-11-25T08:00:00.250Z\""), Some(1_764_057_600_250));
        assert_eq!(parse("\"2025-11-25T09:00:00.250+01:00\""), Some(1_764_057_600_250));
        for wrong in ["\"yesterday\"", "1.5", "true", "18446744073709551615", "null"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_was_sent_reads_back_field_by_field() {
        let sent = r#"{"t":1764057600000,"lat":45.0,"lon":-11.25,"alt":520.2,"hr":142,"cadence":88,"power":250,"speed":8.333,"distance":1234.5,"temperature":-3.5}"#;
        let sample: SampleIn = serde_json::from_str(sent).expect("a sample");
        let shown =
            serde_json::to_string(&SampleOut::from(&sample.measured().check().expect("plausible"))).expect("JSON");
        assert_eq!(shown, sent);
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(serde_json::from_str::<SampleIn>(r#"{"t":1,"heartrate":3}"#).is_err());
    }
}
