//! A batch of samples packed column by column: what is sealed, queued and stored.
//!
//! ```text
//! chunk  = version (1 byte) | zstd frame of body
//! body   = varint samples | 10 columns, in the order of COLUMNS
//! column = mode (1 byte): 0 absent; bit 0 present, bit 1 some samples lack it, bit 2 differences of differences
//!          [bitmap, one bit per sample, least significant first]   when bit 1
//!          zigzag varint first value | varint divisor | zigzag varint per further value
//! ```
//! Differences are divided by their greatest common divisor (whole seconds are 1000 ms, a FIT altitude is 200 mm), so
//! finer units than a source has cost nothing. Arithmetic wraps in 64 bits both ways and is therefore exact for every
//! value.
//!
//! Decoding allocates from its own limits, never from a length in the input.

use super::sample::{Position, Sample};

/// The version that [`encode`] writes.
pub const VERSION: u8 = 1;
/// Most samples of one chunk.
pub const MAX_SAMPLES: usize = 4096;
/// Largest body: every column with a bitmap and ten bytes for every value.
const MAX_BODY: usize = 10 + COLUMNS.len() * (1 + MAX_SAMPLES / 8 + 20 + 10 * MAX_SAMPLES);
/// Speed over size: level 3 is within 3 % of level 9 on rides, at a tenth of its time.
const LEVEL: i32 = 3;

const PRESENT: u8 = 1;
const SPARSE: u8 = 2;
const SECOND_ORDER: u8 = 4;

/// A batch cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Nothing to pack.
    #[error("a chunk needs at least one sample")]
    Empty,
    /// Too much.
    #[error("a chunk holds at most {MAX_SAMPLES} samples, not {0}; split the batch")]
    TooMany(usize),
    /// The compressor gave up.
    #[error("the chunk cannot be compressed: {0}")]
    Compression(String),
}

/// Bytes are no chunk of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing there.
    #[error("the chunk is empty")]
    Empty,
    /// Written by a later program.
    #[error("the chunk has version {0}; this program reads version {VERSION}")]
    Version(u8),
    /// Not a zstd frame, or one that unpacks to more than any chunk can.
    #[error("the chunk cannot be decompressed within {MAX_BODY} bytes")]
    Compression,
    /// Packed wrongly.
    #[error("the chunk is malformed: {0}")]
    Malformed(&'static str),
}

struct Column {
    get: fn(&Sample) -> Option<i64>,
    /// False when the value does not fit the field.
    put: fn(&mut Sample, i64) -> bool,
}

fn set<T: TryFrom<i64>>(field: &mut Option<T>, value: i64) -> bool {
    *field = T::try_from(value).ok();
    field.is_some()
}

/// The latitude is put first and the longitude completes it, so the two are absent together.
const COLUMNS: [Column; 10] = [
    Column {
        get: |sample| Some(sample.time_ms),
        put: |sample, value| {
            sample.time_ms = value;
            true
        },
    },
    Column {
        get: |sample| sample.position.map(|position| position.semicircles().0.into()),
        put: |sample, value| {
            sample.position = i32::try_from(value)
                .ok()
                .and_then(|lat| Position::from_semicircles(lat, 0));
            sample.position.is_some()
        },
    },
    Column {
        get: |sample| sample.position.map(|position| position.semicircles().1.into()),
        put: |sample, value| {
            let lat = sample.position.map(|position| position.semicircles().0);
            sample.position = lat
                .zip(i32::try_from(value).ok())
                .and_then(|(lat, lon)| Position::from_semicircles(lat, lon));
            sample.position.is_some()
        },
    },
    Column {
        get: |sample| sample.altitude_mm.map(i64::from),
        put: |sample, value| set(&mut sample.altitude_mm, value),
    },
    Column {
        get: |sample| sample.heart_rate.map(i64::from),
        put: |sample, value| set(&mut sample.heart_rate, value),
    },
    Column {
        get: |sample| sample.cadence.map(i64::from),
        put: |sample, value| set(&mut sample.cadence, value),
    },
    Column {
        get: |sample| sample.power.map(i64::from),
        put: |sample, value| set(&mut sample.power, value),
    },
    Column {
        get: |sample| sample.speed_mm_s.map(i64::from),
        put: |sample, value| set(&mut sample.speed_mm_s, value),
    },
    Column {
        // A bit pattern: exact also above 2⁶³.
        get: |sample| sample.distance_tenth_mm.map(u64::cast_signed),
        put: |sample, value| {
            sample.distance_tenth_mm = Some(value.cast_unsigned());
            true
        },
    },
    Column {
        get: |sample| sample.temperature_centi.map(i64::from),
        put: |sample, value| set(&mut sample.temperature_centi, value),
    },
];
const LAT: usize = 1;
const LON: usize = 2;

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Packs a batch in the order that it has.
///
/// # Errors
/// The batch is empty or larger than [`MAX_SAMPLES`].
pub fn encode(samples: &[Sample]) -> Result<Vec<u8>, EncodeError> {
    match samples.len() {
        0 => return Err(EncodeError::Empty),
        1..=MAX_SAMPLES => {}
        more => return Err(EncodeError::TooMany(more)),
    }
    let mut body = Vec::with_capacity(samples.len() * 16);
    put_varint(&mut body, samples.len() as u64);
    for column in &COLUMNS {
        encode_column(&mut body, samples, column.get);
    }
    let mut chunk = vec![VERSION];
    let packed = zstd::bulk::compress(&body, LEVEL).map_err(|error| EncodeError::Compression(error.to_string()))?;
    chunk.extend_from_slice(&packed);
    Ok(chunk)
}

fn encode_column(body: &mut Vec<u8>, samples: &[Sample], get: fn(&Sample) -> Option<i64>) {
    let values: Vec<i64> = samples.iter().filter_map(get).collect();
    let Some(first) = values.first() else {
        body.push(0);
        return;
    };
    let differences: Vec<i64> = values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    let divisor = differences
        .iter()
        .fold(0, |divisor, step| greatest_common_divisor(divisor, step.unsigned_abs()))
        .max(1);
    let steps = differences.iter().map(|step| divided(*step, divisor));
    let (mut by_step, mut by_change, mut last) = (Vec::new(), Vec::new(), 0_i64);
    for step in steps {
        put_zigzag(&mut by_step, step);
        put_zigzag(&mut by_change, step.wrapping_sub(last));
        last = step;
    }
    let second_order = by_change.len() < by_step.len();
    let sparse = values.len() < samples.len();
    body.push(PRESENT | if sparse { SPARSE } else { 0 } | if second_order { SECOND_ORDER } else { 0 });
    if sparse {
        for eight in samples.chunks(8) {
            body.push(eight.iter().enumerate().fold(0, |bits, (index, sample)| {
                bits | u8::from(get(sample).is_some()) << index
            }));
        }
    }
    put_zigzag(body, *first);
    put_varint(body, divisor);
    body.extend_from_slice(if second_order { &by_change } else { &by_step });
}

/// `step / divisor`, exact by construction; the divisor may be 2⁶³, which no `i64` holds.
fn divided(step: i64, divisor: u64) -> i64 {
    let magnitude = (step.unsigned_abs() / divisor).cast_signed();
    if step < 0 { magnitude.wrapping_neg() } else { magnitude }
}

struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (byte, rest) = self.rest.split_first().ok_or(DecodeError::Malformed("it ends early"))?;
        self.rest = rest;
        Ok(*byte)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::Malformed("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("a number is longer than 64 bits"))
    }

    fn zigzag(&mut self) -> Result<i64, DecodeError> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg())
    }
}

/// Unpacks a chunk.
///
/// # Errors
/// The bytes are not what [`encode`] writes.
pub fn decode(chunk: &[u8]) -> Result<Vec<Sample>, DecodeError> {
    let (version, packed) = chunk.split_first().ok_or(DecodeError::Empty)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    let body = zstd::bulk::decompress(packed, MAX_BODY).map_err(|_| DecodeError::Compression)?;
    let mut body = Body { rest: &body };
    let count = match usize::try_from(body.varint()?) {
        Ok(count @ 1..=MAX_SAMPLES) => count,
        _ => return Err(DecodeError::Malformed("its number of samples is impossible")),
    };
    let mut samples = vec![Sample::default(); count];
    let mut presence: [Vec<u8>; COLUMNS.len()] = Default::default();
    for (column, present) in COLUMNS.iter().zip(&mut presence) {
        *present = decode_column(&mut body, &mut samples, column.put)?;
    }
    if !body.rest.is_empty() {
        return Err(DecodeError::Malformed("bytes follow its last column"));
    }
    if presence[LAT] != presence[LON] {
        return Err(DecodeError::Malformed("a position lacks a half"));
    }
    Ok(samples)
}

/// Answers which samples have the column.
fn decode_column(
    body: &mut Body<'_>,
    samples: &mut [Sample],
    put: fn(&mut Sample, i64) -> bool,
) -> Result<Vec<u8>, DecodeError> {
    let mode = body.byte()?;
    let bitmap = match mode {
        0 => return Ok(Vec::new()),
        mode if mode & PRESENT == 0 || mode > PRESENT | SPARSE | SECOND_ORDER => {
            return Err(DecodeError::Malformed("a column has an unknown mode"));
        }
        mode if mode & SPARSE == 0 => vec![0xff; samples.len().div_ceil(8)],
        _ => body.take(samples.len().div_ceil(8))?.to_vec(),
    };
    let (mut value, divisor) = (body.zigzag()?, body.varint()?.cast_signed());
    let (mut step, mut begun) = (0_i64, false);
    for (index, sample) in samples.iter_mut().enumerate() {
        if bitmap[index / 8] & 1 << (index % 8) == 0 {
            continue;
        }
        if begun {
            let number = body.zigzag()?;
            step = if mode & SECOND_ORDER == 0 {
                number
            } else {
                step.wrapping_add(number)
            };
            value = value.wrapping_add(step.wrapping_mul(divisor));
        }
        begun = true;
        if !put(sample, value) {
            return Err(DecodeError::Malformed("a value does not fit its column"));
        }
    }
    if !begun {
        return Err(DecodeError::Malformed("a column is present and empty"));
    }
    Ok(bitmap)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::sample::tests::any_sample;

    fn extreme() -> impl Strategy<Value = Sample> {
        let corner = prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0), any::<i64>()];
        (
            corner,
            proptest::option::of(prop_oneof![Just(0), Just(u64::MAX), Just(1 << 63), any::<u64>()]),
            any_sample(),
        )
            .prop_map(|(time_ms, distance_tenth_mm, sample)| Sample {
                time_ms,
                distance_tenth_mm,
                ..sample
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_packed_unpacks(samples in prop::collection::vec(any_sample(), 1..300)) {
            prop_assert_eq!(decode(&encode(&samples).expect("a batch")), Ok(samples));
        }

        #[test]
        fn extremes_survive(samples in prop::collection::vec(extreme(), 1..40)) {
            prop_assert_eq!(decode(&encode(&samples).expect("a batch")), Ok(samples));
        }

        #[test]
        fn no_bytes_make_it_panic_or_allocate_without_bound(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut chunk = vec![VERSION];
            chunk.extend(zstd::bulk::compress(&body, 1).expect("compresses"));
            if let Ok(samples) = decode(&chunk) {
                prop_assert!(samples.len() <= MAX_SAMPLES);
            }
            let _ = decode(&body);
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut chunk = vec![VERSION];
        chunk.extend(zstd::bulk::compress(&vec![0; 64 << 20], 3).expect("compresses"));
        assert!(chunk.len() < 16 << 10);
        assert_eq!(decode(&chunk), Err(DecodeError::Compression));
    }

    #[test]
    fn a_lying_count_is_refused() {
        for count in [0, MAX_SAMPLES as u64 + 1, u64::MAX] {
            let mut body = Vec::new();
            put_varint(&mut body, count);
            let mut chunk = vec![VERSION];
            chunk.extend(zstd::bulk::compress(&body, 1).expect("compresses"));
            assert_eq!(
                decode(&chunk),
                Err(DecodeError::Malformed("its number of samples is impossible")),
                "{count}"
            );
        }
    }

    #[test]
    fn batches_have_bounds() {
        assert_eq!(encode(&[]), Err(EncodeError::Empty));
        let many = vec![Sample::default(); MAX_SAMPLES + 1];
        assert_eq!(encode(&many), Err(EncodeError::TooMany(MAX_SAMPLES + 1)));
        assert_eq!(decode(&[]), Err(DecodeError::Empty));
        assert_eq!(decode(&[2, 0]), Err(DecodeError::Version(2)));
    }

    #[test]
    fn several_samples_of_one_moment_keep_their_order() {
        let samples = [1, 2, 3].map(|heart_rate| Sample {
            heart_rate: Some(heart_rate),
            ..Sample::default()
        });
        assert_eq!(decode(&encode(&samples).expect("a batch")).as_deref(), Ok(&samples[..]));
    }
}
