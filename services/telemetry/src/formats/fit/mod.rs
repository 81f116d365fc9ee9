//! FIT activity files (Garmin FIT SDK, *Flexible and Interoperable Data Transfer Protocol*).
//!
//! `framing` checks lengths and checksums of every file in the bytes before anything is decoded, so that an error names
//! the byte; rustyfit decodes the messages; `record` makes samples of them.

mod framing;
mod record;

use rustyfit::profile::typedef::MesgNum;
use rustyfit::proto::MessageDefinition;
use rustyfit::{Decoder, DecoderError, DecoderEvent, StreamingIterator};

use self::framing::Frame;
use self::record::Reading;
use crate::domain::recording::{MAX_SAMPLES, Recording};

#[cfg(feature = "synthetic")]
pub(crate) use self::framing::checksum;

/// A FIT file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// No bytes.
    #[error("it is empty")]
    Empty,
    /// No header where one must be.
    #[error("at byte {offset} there is no FIT header")]
    NoHeader {
        /// Where.
        offset: usize,
    },
    /// The transfer was cut off.
    #[error("it is cut off at byte {offset}: {missing} more bytes belong to it")]
    CutOff {
        /// The first missing byte.
        offset: usize,
        /// How many are missing.
        missing: u64,
    },
    /// Changed on the way.
    #[error("the checksum of its {part} at byte {offset} does not match: the file was damaged")]
    Checksum {
        /// `header` or `data`.
        part: &'static str,
        /// Where the checksum is.
        offset: usize,
    },
    /// Not decodable although its checksum is right.
    #[error("the message at byte {offset} is malformed: {problem}")]
    Malformed {
        /// Where the message begins.
        offset: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A settings, course or other file.
    #[error("it holds no records: it is not a recorded activity")]
    NoRecords,
    /// Nothing to date it by.
    #[error("none of its records has a time")]
    NoTime,
    /// Absurdly long.
    #[error("it holds more than {MAX_SAMPLES} records")]
    TooManyRecords,
}

impl FitError {
    pub(super) fn offset(&self) -> Option<usize> {
        match self {
            Self::NoHeader { offset } | Self::CutOff { offset, .. } => Some(*offset),
            Self::Checksum { offset, .. } | Self::Malformed { offset, .. } => Some(*offset),
            Self::Empty | Self::NoRecords | Self::NoTime | Self::TooManyRecords => None,
        }
    }
}

/// Reads one or several FIT files in a row as one recording.
///
/// # Errors
/// The bytes are broken, or hold no activity. Nothing of a broken file is returned.
pub fn read(bytes: &[u8]) -> Result<Recording, FitError> {
    let frames = framing::frames(bytes)?;
    let mut reading = Reading::default();
    for frame in &frames {
        decode(frame, &mut reading)?;
    }
    reading.finish()
}

/// Decodes the messages of one file.
fn decode(frame: &Frame<'_>, reading: &mut Reading) -> Result<(), FitError> {
    reading.begin_file();
    if frame.data_size == 0 {
        return Ok(());
    }
    // Checksums are checked by `framing`. Components stay packed: expanding them goes through floating point and cuts
    // 5.888 m/s to 5.887; `record` takes the raw integers.
    let mut decoder = Decoder::builder().checksum(false).expand_components(false).build();
    let mut bytes = frame.bytes;
    let mut stream = decoder.stream(&mut bytes);
    let mut place = Place::of(frame);
    while let Some(event) = stream.next() {
        match event.map_err(|error| place.malformed(&error))? {
            DecoderEvent::FileHeader(_) | DecoderEvent::Crc(_) => {}
            DecoderEvent::MessageDefinition(definition) => {
                place.define(definition)?;
                if place.at_end() {
                    // The decoder only looks for the end after data.
                    break;
                }
            }
            DecoderEvent::Message(message) => {
                if message.num == MesgNum::RECORD && reading.records() == MAX_SAMPLES {
                    return Err(FitError::TooManyRecords);
                }
                reading.take(message);
                place.advance(message.header)?;
            }
        }
    }
    Ok(())
}

/// Where the decoder is: it does not say, so the definitions' sizes are added up.
struct Place {
    next: usize,
    end: usize,
    sizes: [usize; 16],
}

impl Place {
    fn of(frame: &Frame<'_>) -> Self {
        let next = frame.offset + frame.header_size;
        Self {
            next,
            end: next + frame.data_size,
            sizes: [0; 16],
        }
    }

    fn define(&mut self, definition: &MessageDefinition) -> Result<(), FitError> {
        let fields = definition.field_definitions.iter().map(|field| field.size);
        let developer_fields = definition.developer_field_definitions.iter().map(|field| field.size);
        let sizes = || fields.clone().chain(developer_fields.clone());
        if sizes().any(|size| size == 0) {
            // Also a defence: fields without bytes would let a small file hold billions of them.
            return Err(FitError::Malformed {
                offset: self.next,
                problem: "it defines a field of no bytes",
            });
        }
        self.sizes[usize::from(definition.header & 0x0f)] = sizes().map(usize::from).sum();
        let has_developer_fields = definition.header & 0x20 != 0;
        let developer_part = if has_developer_fields {
            1 + 3 * definition.developer_field_definitions.len()
        } else {
            0
        };
        self.step(6 + 3 * definition.field_definitions.len() + developer_part)
    }

    fn advance(&mut self, header: u8) -> Result<(), FitError> {
        let local = if header & 0x80 == 0 {
            header & 0x0f
        } else {
            header >> 5 & 0x03
        };
        self.step(1 + self.sizes[usize::from(local)])
    }

    fn step(&mut self, length: usize) -> Result<(), FitError> {
        let offset = self.next;
        self.next += length;
        if self.next > self.end {
            return Err(FitError::Malformed {
                offset,
                problem: "it runs over the end of the data",
            });
        }
        Ok(())
    }

    fn at_end(&self) -> bool {
        self.next >= self.end
    }

    fn malformed<E>(&self, error: &DecoderError<E>) -> FitError {
        let problem = match error {
            DecoderError::MissingMessageDefinition { .. } => "nothing defines its layout",
            DecoderError::UnexpectedEof => "it runs over the end of the data",
            _ => "it cannot be decoded",
        };
        FitError::Malformed {
            offset: self.next,
            problem,
        }
    }
}

#[cfg(all(test, feature = "synthetic"))]
mod tests;
