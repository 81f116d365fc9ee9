//! Writes samples as a GPX 1.1 file with Garmin's TrackPointExtension.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::domain::sample::Sample;

/// Which of the ways to carry heart rate and the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// `gpxtpx:TrackPointExtension` version 1.
    GarminV1,
    /// Version 2, which also has `speed`.
    GarminV2,
    /// ClueTrust's `gpxdata`, which also has `distance`.
    ClueTrust,
}

/// The file. Samples without a position have no place in a GPX and are left out.
#[must_use]
pub fn write(samples: &[Sample], extension: Extension) -> Vec<u8> {
    let mut text = String::with_capacity(samples.len() * 360);
    text.push_str(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<gpx creator="Meridian synthetic" version="1.1" xmlns="http://www.topografix.com/GPX/1/1" xmlns:x="urn:extension">
  <trk><name>Synthetic &amp; seeded</name><type>cycling</type><trkseg>
"#,
    );
    for sample in samples.iter().filter(|sample| sample.position.is_some()) {
        point(&mut text, sample, extension);
    }
    text.push_str("  </trkseg></trk>\n</gpx>\n");
    text.into_bytes()
}

fn point(text: &mut String, sample: &Sample, extension: Extension) {
    let measured = sample.measured();
    let (lat, lon) = (measured.lat.unwrap_or_default(), measured.lon.unwrap_or_default());
    let time = Timestamp::from_millisecond(sample.time_ms).unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = write!(text, r#"    <trkpt lat="{lat:.10}" lon="{lon:.10}">"#);
    if let Some(altitude) = measured.altitude {
        let _ = write!(text, "<ele>{altitude}</ele>");
    }
    let _ = write!(text, "<time>{time}</time><extensions>");
    match extension {
        Extension::GarminV1 | Extension::GarminV2 => {
            field(text, "PowerInWatts", measured.power);
            text.push_str("<x:TrackPointExtension>");
            field(text, "atemp", measured.temperature);
            field(text, "hr", measured.heart_rate);
            field(text, "cad", measured.cadence);
            if extension == Extension::GarminV2 {
                field(text, "speed", measured.speed);
            }
            text.push_str("</x:TrackPointExtension>");
        }
        Extension::ClueTrust => {
            field(text, "hr", measured.heart_rate);
            field(text, "cadence", measured.cadence);
            field(text, "temp", measured.temperature);
            field(text, "distance", measured.distance);
        }
    }
    text.push_str("</extensions></trkpt>\n");
}

fn field(text: &mut String, name: &str, value: Option<f64>) {
    if let Some(value) = value {
        let _ = write!(text, "<x:{name}>{value}</x:{name}>");
    }
}
