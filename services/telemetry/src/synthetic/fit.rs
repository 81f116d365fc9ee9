//! Writes samples as FIT activity files, in the plain way and in the rarer ones that devices use. Written from the FIT
//! protocol's description, apart from the reader, so that each checks the other.

use std::ops::Range;

use crate::domain::sample::Sample;
use crate::formats::fit::checksum;

/// Seconds from 1970-01-01 to 1989-12-31, where FIT's time begins.
const EPOCH: i64 = 631_065_600;
const FILE_ID: u16 = 0;
const SESSION: u16 = 18;
const RECORD: u16 = 20;
const FIELD_DESCRIPTION: u16 = 206;
const DEVELOPER_DATA_ID: u16 = 207;

const ENUM: u8 = 0x00;
const SINT8: u8 = 0x01;
const UINT8: u8 = 0x02;
const STRING: u8 = 0x07;
const BYTE: u8 = 0x0d;
const UINT16: u8 = 0x84;
const SINT32: u8 = 0x85;
const UINT32: u8 = 0x86;

/// A way of writing records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Every field by itself, little end first.
    #[default]
    Plain,
    /// Big end first.
    BigEndian,
    /// The time in the record's header, in 5 bits; gaps of 32 s and more get a full time.
    CompressedTimestamps,
    /// `compressed_speed_distance` instead of speed and distance (1/100 m/s, 1/16 m).
    CompressedSpeedDistance,
    /// The power in a developer field that stands for the profile's.
    DeveloperPower,
    /// Altitude and speed in their 32-bit fields.
    Enhanced,
}

/// A FIT file in the making.
#[derive(Debug)]
pub struct Writer {
    data: Vec<u8>,
    big_endian: bool,
}

impl Writer {
    /// An empty one.
    #[must_use]
    pub fn new(big_endian: bool) -> Self {
        Self {
            data: Vec::new(),
            big_endian,
        }
    }

    /// A definition message: fields are (number, size, base type).
    pub fn define(&mut self, local: u8, message: u16, fields: &[(u8, u8, u8)], developer: &[(u8, u8, u8)]) {
        let developer_bit = if developer.is_empty() { 0 } else { 0x20 };
        self.data
            .extend([0x40 | developer_bit | local, 0, u8::from(self.big_endian)]);
        self.uint16(message);
        for (index, fields) in [fields, developer].into_iter().enumerate() {
            if index == 1 && fields.is_empty() {
                break;
            }
            // At most 255 fields fit a definition; ours have a dozen.
            self.data.push(fields.len() as u8);
            for (number, size, kind) in fields {
                self.data.extend([*number, *size, *kind]);
            }
        }
    }

    /// Begins a data message; its fields' bytes follow.
    pub fn data(&mut self, local: u8) {
        self.data.push(local);
    }

    /// Begins a data message whose header carries the last five bits of the time.
    pub fn compressed(&mut self, local: u8, time: u32) {
        self.data.push(0x80 | local << 5 | (time & 0x1f) as u8);
    }

    /// Raw bytes of a field.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
    }

    /// A 16-bit field.
    pub fn uint16(&mut self, value: u16) {
        self.data.extend(if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        });
    }

    /// A 32-bit field.
    pub fn uint32(&mut self, value: u32) {
        self.data.extend(if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        });
    }

    /// Header, data and checksum.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        // A file of ours stays below 4 GiB.
        let size = self.data.len() as u32;
        let mut file = vec![14, 0x20, 0x54, 0x08];
        file.extend(size.to_le_bytes());
        file.extend(b".FIT");
        file.extend(checksum(&file).to_le_bytes());
        file.extend(self.data);
        file.extend(checksum(&file).to_le_bytes());
        file
    }
}

/// A whole activity: file_id, records, session.
#[must_use]
pub fn write(samples: &[Sample], encoding: Encoding) -> Vec<u8> {
    let mut writer = Writer::new(encoding == Encoding::BigEndian);
    let seconds: Vec<u32> = samples.iter().map(|sample| fit_time(sample.time_ms)).collect();
    let created = seconds.first().copied().unwrap_or_default();
    // type = activity, manufacturer = development, product, time_created, product_name
    writer.define(
        0,
        FILE_ID,
        &[
            (0, 1, ENUM),
            (1, 2, UINT16),
            (2, 2, UINT16),
            (4, 4, UINT32),
            (8, 16, STRING),
        ],
        &[],
    );
    writer.data(0);
    writer.bytes(&[4]);
    writer.uint16(255);
    writer.uint16(1);
    writer.uint32(created);
    writer.bytes(b"Synthetic One\0\0\0");
    if encoding == Encoding::DeveloperPower {
        describe_power(&mut writer);
    }
    records(&mut writer, samples, &seconds, encoding);
    // timestamp, start_time, sport = cycling, total_timer_time in ms, total_calories
    let fields = [
        (253, 4, UINT32),
        (2, 4, UINT32),
        (5, 1, ENUM),
        (8, 4, UINT32),
        (11, 2, UINT16),
    ];
    let last = seconds.last().copied().unwrap_or_default();
    writer.define(2, SESSION, &fields, &[]);
    writer.data(2);
    writer.uint32(last);
    writer.uint32(created);
    writer.bytes(&[2]);
    writer.uint32((last - created) * 1000);
    writer.uint16(600);
    writer.finish()
}

/// Several activities in one file, as some devices chain them.
#[must_use]
pub fn write_chained(samples: &[Sample], parts: &[Range<usize>]) -> Vec<u8> {
    parts
        .iter()
        .flat_map(|part| write(&samples[part.clone()], Encoding::Plain))
        .collect()
}

fn fit_time(time_ms: i64) -> u32 {
    u32::try_from(time_ms / 1000 - EPOCH).unwrap_or(0)
}

fn describe_power(writer: &mut Writer) {
    writer.define(3, DEVELOPER_DATA_ID, &[(1, 16, BYTE), (3, 1, UINT8)], &[]);
    writer.data(3);
    writer.bytes(&[0x5a; 16]);
    writer.bytes(&[0]);
    // developer_data_index, field_definition_number, fit_base_type_id, field_name, units, native_mesg_num, native_field_num
    let fields = [
        (0, 1, UINT8),
        (1, 1, UINT8),
        (2, 1, UINT8),
        (3, 8, STRING),
        (8, 8, STRING),
        (14, 2, UINT16),
        (15, 1, UINT8),
    ];
    writer.define(3, FIELD_DESCRIPTION, &fields, &[]);
    writer.data(3);
    writer.bytes(&[0, 5, UINT16]);
    writer.bytes(b"Power\0\0\0watts\0\0\0");
    writer.uint16(RECORD);
    writer.bytes(&[7]);
}

fn records(writer: &mut Writer, samples: &[Sample], seconds: &[u32], encoding: Encoding) {
    let altitude = if encoding == Encoding::Enhanced {
        (78, 4, UINT32)
    } else {
        (2, 2, UINT16)
    };
    let mut fields = vec![
        (0, 4, SINT32),
        (1, 4, SINT32),
        altitude,
        (3, 1, UINT8),
        (4, 1, UINT8),
        (13, 1, SINT8),
    ];
    match encoding {
        Encoding::CompressedSpeedDistance => fields.push((8, 3, BYTE)),
        Encoding::Enhanced => fields.extend([(73, 4, UINT32), (5, 4, UINT32)]),
        _ => fields.extend([(6, 2, UINT16), (5, 4, UINT32)]),
    }
    let developer: &[(u8, u8, u8)] = if encoding == Encoding::DeveloperPower {
        &[(5, 2, 0)]
    } else {
        &[]
    };
    if developer.is_empty() {
        fields.push((7, 2, UINT16));
    }
    let timed: Vec<_> = std::iter::once((253, 4, UINT32))
        .chain(fields.iter().copied())
        .collect();
    writer.define(0, RECORD, &timed, developer);
    if encoding == Encoding::CompressedTimestamps {
        writer.define(1, RECORD, &fields, developer);
    }
    let mut last = None;
    for (sample, time) in samples.iter().zip(seconds) {
        let near = last.is_some_and(|last| (last..last + 32).contains(time));
        if encoding == Encoding::CompressedTimestamps && near {
            writer.compressed(1, *time);
        } else {
            writer.data(0);
            writer.uint32(*time);
        }
        last = Some(*time);
        record(writer, sample, encoding);
    }
}

/// The fields in the order of their definition; what is absent is written as the type's mark for it.
fn record(writer: &mut Writer, sample: &Sample, encoding: Encoding) {
    let (lat, lon) = sample
        .position
        .map_or((i32::MAX, i32::MAX), |position| position.semicircles());
    writer.uint32(lat.cast_unsigned());
    writer.uint32(lon.cast_unsigned());
    let altitude = sample.altitude_mm.map(|mm| (mm + 500_000) / 200);
    match encoding {
        Encoding::Enhanced => writer.uint32(altitude.and_then(|raw| u32::try_from(raw).ok()).unwrap_or(u32::MAX)),
        _ => writer.uint16(altitude.and_then(|raw| u16::try_from(raw).ok()).unwrap_or(u16::MAX)),
    }
    writer.bytes(&[sample.heart_rate.unwrap_or(u8::MAX), sample.cadence.unwrap_or(u8::MAX)]);
    let degrees = sample
        .temperature_centi
        .and_then(|centi| i8::try_from(centi / 100).ok())
        .unwrap_or(i8::MAX);
    writer.bytes(&[degrees.cast_unsigned()]);
    match encoding {
        Encoding::CompressedSpeedDistance => writer.bytes(&compressed(sample)),
        Encoding::Enhanced => writer.uint32(sample.speed_mm_s.unwrap_or(u32::MAX)),
        _ => writer.uint16(
            sample
                .speed_mm_s
                .and_then(|speed| u16::try_from(speed).ok())
                .unwrap_or(u16::MAX),
        ),
    }
    if encoding != Encoding::CompressedSpeedDistance {
        let centimetres = sample
            .distance_tenth_mm
            .and_then(|tenth_mm| u32::try_from(tenth_mm / 100).ok());
        writer.uint32(centimetres.unwrap_or(u32::MAX));
    }
    writer.uint16(sample.power.unwrap_or(u16::MAX));
}

/// 12 bits of speed in 1/100 m/s, 12 bits of distance in 1/16 m, low bits first.
fn compressed(sample: &Sample) -> [u8; 3] {
    let (Some(speed), Some(distance)) = (sample.speed_mm_s, sample.distance_tenth_mm) else {
        return [0xff; 3];
    };
    let speed = u64::from(speed / 10).min(0xfff);
    let bits = speed | ((distance / 625) & 0xfff) << 12;
    [bits as u8, (bits >> 8) as u8, (bits >> 16) as u8]
}
