//! Files that devices write, read into a [`Recording`](crate::domain::recording::Recording). Pure: bytes in, samples out.

pub mod fit;
pub mod gpx;

use crate::domain::recording::Recording;

/// A kind of file that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Garmin's Flexible and Interoperable Data Transfer.
    Fit,
    /// GPS Exchange Format, 1.0 and 1.1.
    Gpx,
}

/// A file cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FormatError {
    /// As FIT.
    #[error("the FIT file cannot be read: {0}")]
    Fit(#[from] fit::FitError),
    /// As GPX.
    #[error("the GPX file cannot be read: {0}")]
    Gpx(#[from] gpx::GpxError),
}

impl FormatError {
    /// The code that programs read.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fit(_) => "fit-unreadable",
            Self::Gpx(_) => "gpx-unreadable",
        }
    }

    /// Where in the file, in bytes, as far as that can be said.
    #[must_use]
    pub fn offset(&self) -> Option<usize> {
        match self {
            Self::Fit(error) => error.offset(),
            Self::Gpx(error) => error.offset(),
        }
    }
}

impl Format {
    /// By media type.
    #[must_use]
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
            .as_str()
        {
            "application/vnd.ant.fit" => Some(Self::Fit),
            "application/gpx+xml" => Some(Self::Gpx),
            _ => None,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The file is broken, or holds nothing recorded; the error says where.
    pub fn read(self, bytes: &[u8]) -> Result<Recording, FormatError> {
        match self {
            Self::Fit => Ok(fit::read(bytes)?),
            Self::Gpx => Ok(gpx::read(bytes)?),
        }
    }
}
