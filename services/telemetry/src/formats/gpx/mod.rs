//! GPX 1.0 and 1.1 tracks (topografix.com/GPX/1/1), with the extensions that devices add to their points: heart rate,
//! cadence, power, temperature, speed and distance, by local name in any namespace (Garmin TrackPointExtension v1 and v2,
//! ClueTrust gpxdata, Garmin PowerExtension, Strava's bare `power`, …).
//!
//! Only `trkpt` counts: waypoints and routes are plans. A document type is refused outright, so no entity can be declared,
//! let alone expanded; depth and text length are bounded, and memory follows the number of points.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

use crate::domain::recording::{MAX_SAMPLES, Recording};
use crate::domain::sample::{Measured, Sample};

/// Deepest nesting; GPX with extensions needs 7.
const MAX_DEPTH: usize = 32;
/// Longest text of a number, a time or a name.
const MAX_TEXT: usize = 256;
/// Most attributes that are looked at.
const MAX_ATTRIBUTES: usize = 64;

/// A GPX file cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GpxError {
    /// Another encoding, or no text at all.
    #[error("at byte {offset} it is not UTF-8 text")]
    NotUtf8 {
        /// Where.
        offset: usize,
    },
    /// Not XML.
    #[error("at byte {offset} it is not well-formed XML: {problem}")]
    NotXml {
        /// Where.
        offset: usize,
        /// What is wrong.
        problem: String,
    },
    /// The transfer was cut off.
    #[error("it is cut off at byte {offset}: open elements are never closed")]
    CutOff {
        /// The end.
        offset: usize,
    },
    /// Another kind of XML.
    #[error("its root element is not `gpx`")]
    NotGpx,
    /// A document type or an entity of its own.
    #[error("at byte {offset} it declares or uses an entity of its own, which GPX never needs")]
    Entity {
        /// Where.
        offset: usize,
    },
    /// Nested too deeply.
    #[error("at byte {offset} its elements are nested more than {MAX_DEPTH} deep")]
    TooDeep {
        /// Where.
        offset: usize,
    },
    /// A value cannot be one.
    #[error("at byte {offset} `{element}` is not {expected}")]
    Value {
        /// Where the element ends.
        offset: usize,
        /// The element or attribute.
        element: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A plan, or empty.
    #[error("it holds no track points: it is not a recorded activity")]
    NoPoints,
    /// A plan.
    #[error("none of its track points has a time: it is a planned route, not a recorded activity")]
    NoTime,
    /// Absurdly long.
    #[error("it holds more than {MAX_SAMPLES} track points")]
    TooManyPoints,
}

impl GpxError {
    pub(super) fn offset(&self) -> Option<usize> {
        match self {
            Self::NotUtf8 { offset } | Self::NotXml { offset, .. } | Self::CutOff { offset } => Some(*offset),
            Self::Entity { offset } | Self::TooDeep { offset } | Self::Value { offset, .. } => Some(*offset),
            Self::NotGpx | Self::NoPoints | Self::NoTime | Self::TooManyPoints => None,
        }
    }
}

/// Where in the document we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Gpx,
    Track,
    TrackType,
    Segment,
    Point,
    /// `extensions` of a point, and any element in it that is none of the fields.
    PointExtension,
    Field(Field),
    /// Everything that does not matter, and all inside it.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Time,
    Elevation,
    HeartRate,
    Cadence,
    Power,
    Speed,
    Distance,
    Temperature,
}

impl Field {
    fn of_point(name: &str) -> Option<Self> {
        match name {
            "time" => Some(Self::Time),
            "ele" => Some(Self::Elevation),
            // GPX 1.0.
            "speed" => Some(Self::Speed),
            _ => None,
        }
    }

    fn of_extension(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "hr" | "heartrate" | "heartratebpm" => Some(Self::HeartRate),
            "cad" | "cadence" | "runcadence" => Some(Self::Cadence),
            "power" | "powerinwatts" | "watts" => Some(Self::Power),
            "speed" => Some(Self::Speed),
            "distance" => Some(Self::Distance),
            "atemp" | "temp" | "temperature" => Some(Self::Temperature),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Elevation => "ele",
            Self::HeartRate => "hr",
            Self::Cadence => "cad",
            Self::Power => "power",
            Self::Speed => "speed",
            Self::Distance => "distance",
            Self::Temperature => "temp",
        }
    }
}

/// Reads a GPX file.
///
/// A time without a zone is UTC, as GPX defines it. A point without a time takes its predecessor's.
///
/// # Errors
/// The bytes are broken, or hold no recorded track. Nothing of a broken file is returned.
pub fn read(bytes: &[u8]) -> Result<Recording, GpxError> {
    let text = std::str::from_utf8(bytes).map_err(|error| GpxError::NotUtf8 {
        offset: error.valid_up_to(),
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let skipped = bytes.len() - text.len();
    let mut reader = Reader::from_str(text);
    let mut document = Document::default();
    loop {
        // Bounded by the file's length.
        let offset = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX) + skipped;
        match reader.read_event() {
            Ok(Event::Eof) if document.depth() > 0 => return Err(GpxError::CutOff { offset: bytes.len() }),
            Ok(Event::Eof) => return document.finish(),
            Ok(event) => document.take(&event, offset)?,
            Err(quick_xml::Error::Syntax(_)) => return Err(GpxError::CutOff { offset: bytes.len() }),
            Err(error) => {
                let offset = usize::try_from(reader.error_position()).unwrap_or(usize::MAX) + skipped;
                return Err(GpxError::NotXml {
                    offset,
                    problem: error.to_string(),
                });
            }
        }
    }
}

#[derive(Default)]
struct Document {
    open: Vec<Element>,
    text: String,
    point: Measured,
    time_ms: Option<i64>,
    last_time_ms: Option<i64>,
    /// Points at the beginning that wait for a time.
    waiting: usize,
    recording: Recording,
    seen_root: bool,
}

impl Document {
    fn depth(&self) -> usize {
        self.open.len()
    }

    fn take(&mut self, event: &Event<'_>, offset: usize) -> Result<(), GpxError> {
        match event {
            Event::Start(start) => self.open(start, offset),
            Event::Empty(start) => {
                self.open(start, offset)?;
                self.close(offset)
            }
            Event::End(_) => self.close(offset),
            Event::Text(text) => self.text(&text.xml10_content(), offset),
            Event::CData(text) => self.text(&text.xml10_content(), offset),
            Event::DocType(_) => Err(GpxError::Entity { offset }),
            Event::GeneralRef(reference) => {
                let name = reference.xml10_content();
                let letter = match name.as_ref() {
                    "lt" => '<',
                    "gt" => '>',
                    "amp" => '&',
                    "apos" => '\'',
                    "quot" => '"',
                    _ => reference
                        .resolve_char_ref()
                        .ok()
                        .flatten()
                        .ok_or(GpxError::Entity { offset })?,
                };
                self.text(letter.encode_utf8(&mut [0; 4]), offset)
            }
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Eof => Ok(()),
        }
    }

    fn open(&mut self, start: &BytesStart<'_>, offset: usize) -> Result<(), GpxError> {
        if self.depth() >= MAX_DEPTH {
            return Err(GpxError::TooDeep { offset });
        }
        let local = start.local_name();
        let name: &str = local.as_ref();
        let element = match self.open.last() {
            None if name == "gpx" && !self.seen_root => Element::Gpx,
            None => return Err(GpxError::NotGpx),
            Some(Element::Gpx) if name == "trk" => Element::Track,
            Some(Element::Track) if name == "trkseg" => Element::Segment,
            Some(Element::Track) if name == "type" => Element::TrackType,
            Some(Element::Segment) if name == "trkpt" => Element::Point,
            Some(Element::Point) if name == "extensions" => Element::PointExtension,
            Some(Element::Point) => Field::of_point(name).map_or(Element::Other, Element::Field),
            Some(Element::PointExtension) => Field::of_extension(name).map_or(Element::PointExtension, Element::Field),
            Some(_) => Element::Other,
        };
        match element {
            Element::Gpx => {
                self.seen_root = true;
                self.recording.device = attribute(start, "creator").filter(|creator| !creator.is_empty());
            }
            Element::Point => {
                let degrees = |name: &'static str| {
                    let value = attribute(start, name).and_then(|text| number(&text));
                    value.ok_or(GpxError::Value {
                        offset,
                        element: name,
                        expected: "a number of degrees",
                    })
                };
                self.point = Measured {
                    lat: Some(degrees("lat")?),
                    lon: Some(degrees("lon")?),
                    ..Measured::default()
                };
                self.time_ms = None;
            }
            _ => {}
        }
        self.text.clear();
        self.open.push(element);
        Ok(())
    }

    fn text(&mut self, text: &str, offset: usize) -> Result<(), GpxError> {
        match self.open.last() {
            Some(Element::Field(field)) if self.text.len() + text.len() > MAX_TEXT => Err(GpxError::Value {
                offset,
                element: field.name(),
                expected: "a short value",
            }),
            Some(Element::Field(_) | Element::TrackType) if self.text.len() + text.len() <= MAX_TEXT => {
                self.text.push_str(text);
                Ok(())
            }
            None if !text.trim().is_empty() => Err(GpxError::NotXml {
                offset,
                problem: "text stands outside the root element".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn close(&mut self, offset: usize) -> Result<(), GpxError> {
        match self.open.pop() {
            Some(Element::Field(field)) => self.set(field, offset),
            Some(Element::Point) => self.end_point(),
            Some(Element::TrackType) => {
                let name = sport(self.text.trim());
                if self.recording.sport.is_none() {
                    self.recording.sport = name;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn set(&mut self, field: Field, offset: usize) -> Result<(), GpxError> {
        let text = self.text.trim();
        if text.is_empty() {
            // `<ele/>`: not measured.
            return Ok(());
        }
        let wrong = |expected| GpxError::Value {
            offset,
            element: field.name(),
            expected,
        };
        if field == Field::Time {
            self.time_ms = Some(time(text).ok_or_else(|| wrong("a time like 2026-11-21T08:30:00Z"))?);
            return Ok(());
        }
        let value = Some(number(text).ok_or_else(|| wrong("a number"))?);
        match field {
            Field::Time => {}
            Field::Elevation => self.point.altitude = value,
            Field::HeartRate => self.point.heart_rate = value,
            Field::Cadence => self.point.cadence = value,
            Field::Power => self.point.power = value,
            Field::Speed => self.point.speed = value,
            Field::Distance => self.point.distance = value,
            Field::Temperature => self.point.temperature = value,
        }
        Ok(())
    }

    fn end_point(&mut self) -> Result<(), GpxError> {
        let samples = &mut self.recording.samples;
        if samples.len() == MAX_SAMPLES {
            return Err(GpxError::TooManyPoints);
        }
        self.recording.mended.untimed += u64::from(self.time_ms.is_none());
        let time_ms = self.time_ms.or(self.last_time_ms);
        let (sample, refused) = Measured {
            time_ms: time_ms.unwrap_or_default(),
            ..self.point
        }
        .lenient();
        self.recording.mended.implausible += refused.len() as u64;
        match time_ms {
            Some(time_ms) => {
                let first = samples.len() - self.waiting;
                samples[first..]
                    .iter_mut()
                    .for_each(|early: &mut Sample| early.time_ms = time_ms);
                self.waiting = 0;
                self.last_time_ms = Some(time_ms);
            }
            None => self.waiting += 1,
        }
        samples.push(sample);
        Ok(())
    }

    fn finish(self) -> Result<Recording, GpxError> {
        let mut recording = self.recording;
        if !self.seen_root {
            return Err(GpxError::NotGpx);
        }
        if recording.samples.is_empty() {
            return Err(GpxError::NoPoints);
        }
        if self.waiting == recording.samples.len() {
            return Err(GpxError::NoTime);
        }
        recording.put_in_order();
        Ok(recording)
    }
}

/// Entities of its own in an attribute make it unreadable, never expanded.
fn attribute(start: &BytesStart<'_>, name: &str) -> Option<String> {
    // Without the check for duplicates, whose cost grows with their square.
    let mut attributes = start.attributes();
    let found = attributes
        .with_checks(false)
        .take(MAX_ATTRIBUTES)
        .flatten()
        .find(|attribute| attribute.key.as_ref() == name)?;
    let value = unescape(&found.value).ok()?;
    Some(
        value
            .trim()
            .chars()
            .filter(|letter| !letter.is_control())
            .take(80)
            .collect(),
    )
}

fn number(text: &str) -> Option<f64> {
    // Rust also reads "inf" and "nan", which are no measurements.
    text.trim().parse().ok().filter(|value: &f64| value.is_finite())
}

fn time(text: &str) -> Option<i64> {
    let zoned = text.parse::<Timestamp>().ok();
    let time = zoned.or_else(|| Offset::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok())?;
    Some(time.as_millisecond()).filter(|time_ms| {
        Sample {
            time_ms: *time_ms,
            ..Sample::default()
        }
        .has_plausible_time()
    })
}

/// Strava numbers its types: 1 is a ride, 9 a run.
fn sport(text: &str) -> Option<String> {
    let name = match text.to_lowercase().as_str() {
        "" => return None,
        "1" | "biking" | "bike" | "ride" | "road_biking" => "cycling".to_owned(),
        "9" | "run" => "running".to_owned(),
        "walk" => "walking".to_owned(),
        "hike" => "hiking".to_owned(),
        "swim" => "swimming".to_owned(),
        other => other.replace([' ', '_'], "-"),
    };
    let fits = name.len() <= 40
        && name
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-');
    // A bare number means something only to the program that wrote it.
    (fits && name.parse::<u32>().is_err()).then_some(name)
}

#[cfg(test)]
mod tests;
