//! FIT messages become samples: raw integers are scaled here, exactly, with the profile's scales (FIT SDK,
//! *Profile.xlsx*, message `record`).

use std::borrow::Cow;

use rustyfit::profile::mesgdef::{FieldDescription, FileId, Record, Session, Sport as SportMessage};
use rustyfit::profile::typedef::{FitBaseType, GarminProduct, Manufacturer, MesgNum, Sport};
use rustyfit::proto::{Message, Value};

use super::FitError;
use crate::domain::recording::Recording;
use crate::domain::sample::{Position, Sample};

/// Seconds from 1970-01-01 to 1989-12-31, where FIT's time begins.
const EPOCH: i64 = 631_065_600;
/// `timestamp` has this number in every message.
const TIMESTAMP: u8 = 253;

/// What has been read so far.
#[derive(Default)]
pub(super) struct Reading {
    recording: Recording,
    /// Of the last message that had one, in this file.
    last_time: Option<i64>,
    /// Records at the beginning that wait for a time.
    waiting: usize,
    /// Distance of compressed records, in 1/16 m; its 12 bits on the wire roll over every 256 m.
    rolling_distance: Option<u64>,
    /// Developer fields that stand for a field of the profile.
    overrides: Vec<Override>,
}

struct Override {
    index: u8,
    number: u8,
    native: u8,
    scale: f64,
    offset: f64,
}

impl Reading {
    pub(super) fn records(&self) -> usize {
        self.recording.samples.len()
    }

    /// Counters and developer fields are per file.
    pub(super) fn begin_file(&mut self) {
        self.last_time = None;
        self.rolling_distance = None;
        self.overrides.clear();
    }

    pub(super) fn take(&mut self, message: &Message) {
        if let Some(seconds) = integer(message, TIMESTAMP) {
            self.last_time = Some((seconds + EPOCH) * 1000);
        }
        match message.num {
            MesgNum::RECORD => self.take_record(message),
            MesgNum::SESSION => self.take_session(message),
            MesgNum::FILE_ID => self.take_file_id(message),
            MesgNum::SPORT => self.name_sport(integer(message, SportMessage::SPORT)),
            MesgNum::FIELD_DESCRIPTION => self.take_field_description(message),
            _ => {}
        }
    }

    pub(super) fn finish(self) -> Result<Recording, FitError> {
        let mut recording = self.recording;
        if recording.samples.is_empty() {
            return Err(FitError::NoRecords);
        }
        if self.waiting == recording.samples.len() {
            return Err(FitError::NoTime);
        }
        recording.put_in_order();
        Ok(recording)
    }

    fn take_record(&mut self, message: &Message) {
        let mut sample = self.sample(message);
        for field in &message.developer_fields {
            self.override_field(&mut sample, field.developer_data_index, field.num, &field.value);
        }
        self.recording.mended.implausible += sample.clear_implausible();
        if integer(message, TIMESTAMP).is_none() {
            self.recording.mended.untimed += 1;
        }
        match self.last_time {
            Some(time_ms) => {
                sample.time_ms = time_ms;
                // Only at the very beginning of the first file can records wait.
                let first = self.recording.samples.len() - self.waiting;
                for early in &mut self.recording.samples[first..] {
                    early.time_ms = time_ms;
                }
                self.waiting = 0;
            }
            None => self.waiting += 1,
        }
        self.recording.samples.push(sample);
    }

    fn sample(&mut self, message: &Message) -> Sample {
        let number = |field| integer(message, field);
        let (compressed_speed, compressed_distance) = self.compressed_speed_distance(message);
        let position = match (number(Record::POSITION_LAT), number(Record::POSITION_LONG)) {
            (Some(lat), Some(lon)) => {
                let place = i32::try_from(lat).ok().zip(i32::try_from(lon).ok());
                let position = place.and_then(|(lat, lon)| Position::from_semicircles(lat, lon));
                self.recording.mended.implausible += u64::from(position.is_none());
                position
            }
            _ => None,
        };
        // (raw / 5 − 500) m, in mm.
        let altitude = number(Record::ENHANCED_ALTITUDE)
            .or_else(|| number(Record::ALTITUDE))
            .map(|raw| raw * 200 - 500_000);
        let speed = number(Record::ENHANCED_SPEED)
            .or_else(|| number(Record::SPEED))
            .or(compressed_speed);
        let distance = number(Record::DISTANCE)
            .map(|centimetres| centimetres.unsigned_abs() * 100)
            .or(compressed_distance);
        Sample {
            time_ms: 0,
            position,
            altitude_mm: altitude.and_then(|mm| i32::try_from(mm).ok()),
            heart_rate: number(Record::HEART_RATE).and_then(|rate| u8::try_from(rate).ok()),
            cadence: number(Record::CADENCE).and_then(|cadence| u8::try_from(cadence).ok()),
            power: number(Record::POWER).and_then(|power| u16::try_from(power).ok()),
            speed_mm_s: speed.and_then(|speed| u32::try_from(speed).ok()),
            distance_tenth_mm: distance,
            temperature_centi: number(Record::TEMPERATURE).and_then(|degrees| i16::try_from(degrees * 100).ok()),
        }
    }

    /// `compressed_speed_distance`: 12 bits of speed in 1/100 m/s, then 12 bits of distance in 1/16 m that roll over.
    fn compressed_speed_distance(&mut self, message: &Message) -> (Option<i64>, Option<u64>) {
        let bytes = message.fields.iter().find_map(|field| match &field.value {
            Value::ArrayUint8(bytes) if field.num == Record::COMPRESSED_SPEED_DISTANCE => Some(bytes),
            _ => None,
        });
        let Some(&[low, middle, high]) = bytes.map(AsRef::as_ref) else {
            return (None, None);
        };
        if [low, middle, high] == [0xff; 3] {
            return (None, None);
        }
        let speed = i64::from(low) | i64::from(middle & 0x0f) << 8;
        let sixteenths = u64::from(middle >> 4) | u64::from(high) << 4;
        let total = match self.rolling_distance {
            None => sixteenths,
            Some(last) => last + (sixteenths.wrapping_sub(last) & 0xfff),
        };
        self.rolling_distance = Some(total);
        (Some(speed * 10), Some(total * 625))
    }

    fn take_session(&mut self, message: &Message) {
        self.name_sport(integer(message, Session::SPORT));
        let totals = &mut self.recording.totals;
        if let Some(milliseconds) = integer(message, Session::TOTAL_TIMER_TIME) {
            *totals.timer_sec.get_or_insert(0.0) += float(milliseconds) / 1000.0;
        }
        if let Some(kilocalories) = integer(message, Session::TOTAL_CALORIES) {
            *totals.calories.get_or_insert(0.0) += float(kilocalories);
        }
    }

    fn name_sport(&mut self, number: Option<i64>) {
        let Some(sport) = number.and_then(|number| u8::try_from(number).ok()).map(Sport) else {
            return;
        };
        let name = sport.to_string().replace('_', "-");
        // Numbers that the profile does not know print as `Sport(n)`.
        if self.recording.sport.is_none() && sport != Sport::GENERIC && !name.contains('(') {
            self.recording.sport = Some(name);
        }
    }

    fn take_file_id(&mut self, message: &Message) {
        if self.recording.device.is_some() {
            return;
        }
        let named = message.fields.iter().find_map(|field| match &field.value {
            Value::String(name) if field.num == FileId::PRODUCT_NAME => {
                let name = name.trim_matches(|letter: char| letter == '\0' || letter.is_whitespace());
                (!name.is_empty()).then(|| name.chars().filter(|letter| !letter.is_control()).take(80).collect())
            }
            _ => None,
        });
        self.recording.device = named.or_else(|| device_by_number(message));
    }

    fn take_field_description(&mut self, message: &Message) {
        let number = |field| integer(message, field).and_then(|number| u8::try_from(number).ok());
        let native_message = integer(message, FieldDescription::NATIVE_MESG_NUM);
        if native_message.is_some_and(|native| native != i64::from(MesgNum::RECORD.0)) {
            return;
        }
        let (Some(index), Some(field), Some(native)) = (
            number(FieldDescription::DEVELOPER_DATA_INDEX),
            number(FieldDescription::FIELD_DEFINITION_NUMBER),
            number(FieldDescription::NATIVE_FIELD_NUM),
        ) else {
            return;
        };
        let scale = number(FieldDescription::SCALE)
            .filter(|scale| *scale > 0)
            .map_or(1.0, f64::from);
        let offset = integer(message, FieldDescription::OFFSET).map_or(0.0, float);
        self.overrides
            .retain(|known| (known.index, known.number) != (index, field));
        self.overrides.push(Override {
            index,
            number: field,
            native,
            scale,
            offset,
        });
    }

    /// A developer field that says which field of the profile it stands for fills in where the device's own is absent.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` from floats saturates; ranges are checked after"
    )]
    fn override_field(&self, sample: &mut Sample, index: u8, number: u8, value: &Value) {
        let Some(known) = self
            .overrides
            .iter()
            .find(|known| (known.index, known.number) == (index, number))
        else {
            return;
        };
        let Some(raw) = number_of(value).filter(|raw| raw.is_finite()) else {
            return;
        };
        let value = raw / known.scale - known.offset;
        let whole = value.round();
        match known.native {
            Record::HEART_RATE if (1.0..=254.0).contains(&whole) => {
                sample.heart_rate.get_or_insert(whole as u8);
            }
            Record::CADENCE if (0.0..=254.0).contains(&whole) => {
                sample.cadence.get_or_insert(whole as u8);
            }
            Record::POWER if (0.0..=65_534.0).contains(&whole) => {
                sample.power.get_or_insert(whole as u16);
            }
            Record::TEMPERATURE if (-127.0..=127.0).contains(&value) => {
                sample.temperature_centi.get_or_insert((value * 100.0).round() as i16);
            }
            Record::DISTANCE if value >= 0.0 => {
                sample.distance_tenth_mm.get_or_insert((value * 1e4).round() as u64);
            }
            Record::SPEED | Record::ENHANCED_SPEED if value >= 0.0 => {
                sample.speed_mm_s.get_or_insert((value * 1e3).round() as u32);
            }
            Record::ALTITUDE | Record::ENHANCED_ALTITUDE => {
                sample.altitude_mm.get_or_insert((value * 1e3).round() as i32);
            }
            _ => {}
        }
    }
}

/// Counters of seconds, metres and kilocalories are far below 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn float(number: i64) -> f64 {
    number as f64
}

fn device_by_number(message: &Message) -> Option<String> {
    let manufacturer = integer(message, FileId::MANUFACTURER)
        .and_then(|number| u16::try_from(number).ok())
        .map(Manufacturer)?;
    let product = integer(message, FileId::PRODUCT).and_then(|number| u16::try_from(number).ok());
    let known = |name: String| (!name.contains('(')).then(|| name.replace('_', " "));
    let maker = known(manufacturer.to_string())?;
    let model = match manufacturer {
        Manufacturer::GARMIN => product.and_then(|product| known(GarminProduct(product).to_string())),
        _ => None,
    };
    Some(model.map_or(maker.clone(), |model| format!("{maker} {model}")))
}

/// A field's whole number; none when it is absent or holds its type's mark for "not measured".
fn integer(message: &Message, field: u8) -> Option<i64> {
    let field = message.fields.iter().find(|candidate| candidate.num == field)?;
    let unset_when_zero = matches!(
        field.base_type,
        FitBaseType::UINT8Z | FitBaseType::UINT16Z | FitBaseType::UINT32Z
    );
    let value: Cow<'_, Value> = match &field.value {
        // A writer that declares one value as an array of one.
        Value::ArrayUint8(values) if values.len() == 1 => Cow::Owned(Value::Uint8(values[0])),
        value => Cow::Borrowed(value),
    };
    let number = match *value {
        Value::Int8(i8::MAX) | Value::Uint8(u8::MAX) | Value::Int16(i16::MAX) | Value::Uint16(u16::MAX) => return None,
        Value::Int32(i32::MAX) | Value::Uint32(u32::MAX) => return None,
        Value::Int8(value) => value.into(),
        Value::Uint8(value) => value.into(),
        Value::Int16(value) => value.into(),
        Value::Uint16(value) => value.into(),
        Value::Int32(value) => value.into(),
        Value::Uint32(value) => value.into(),
        _ => return None,
    };
    (number != 0 || !unset_when_zero).then_some(number)
}

/// A developer field's number, whole or not.
#[expect(clippy::cast_precision_loss, reason = "a reading beyond 2⁵³ is out of every range")]
fn number_of(value: &Value) -> Option<f64> {
    match *value {
        Value::Int8(i8::MAX) | Value::Uint8(u8::MAX) | Value::Int16(i16::MAX) | Value::Uint16(u16::MAX) => None,
        Value::Int32(i32::MAX) | Value::Uint32(u32::MAX) => None,
        Value::Int8(value) => Some(value.into()),
        Value::Uint8(value) => Some(value.into()),
        Value::Int16(value) => Some(value.into()),
        Value::Uint16(value) => Some(value.into()),
        Value::Int32(value) => Some(value.into()),
        Value::Uint32(value) => Some(value.into()),
        Value::Int64(value) => Some(value as f64),
        Value::Uint64(value) => Some(value as f64),
        Value::Float32(value) => Some(value.into()),
        Value::Float64(value) => Some(value),
        _ => None,
    }
}
