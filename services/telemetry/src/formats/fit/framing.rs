//! The outside of FIT files: headers, lengths, checksums. Several files may follow each other in one.

use super::FitError;

/// One FIT file inside the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Where it begins.
    pub(super) offset: usize,
    /// Header, data and checksum.
    pub(super) bytes: &'a [u8],
    /// 12 or 14.
    pub(super) header_size: usize,
    /// Bytes of messages.
    pub(super) data_size: usize,
}

/// CRC-16 with polynomial 0x8005 reflected, as the FIT protocol computes it (FIT SDK, *CRC*).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 16] = [
        0x0000, 0xcc01, 0xd801, 0x1400, 0xf001, 0x3c00, 0x2800, 0xe401, 0xa001, 0x6c00, 0x7800, 0xb401, 0x5000, 0x9c01,
        0x8801, 0x4400,
    ];
    bytes.iter().fold(0, |crc: u16, byte| {
        let crc = crc >> 4 ^ TABLE[usize::from(crc & 0x0f)] ^ TABLE[usize::from(byte & 0x0f)];
        crc >> 4 ^ TABLE[usize::from(crc & 0x0f)] ^ TABLE[usize::from(byte >> 4)]
    })
}

/// Finds and checks every file.
pub(super) fn frames(bytes: &[u8]) -> Result<Vec<Frame<'_>>, FitError> {
    if bytes.is_empty() {
        return Err(FitError::Empty);
    }
    let mut frames = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let frame = frame(bytes, offset)?;
        offset += frame.bytes.len();
        frames.push(frame);
    }
    Ok(frames)
}

fn frame(bytes: &[u8], offset: usize) -> Result<Frame<'_>, FitError> {
    let rest = &bytes[offset..];
    let header_size = match rest.first() {
        Some(size @ (12 | 14)) => usize::from(*size),
        _ => return Err(FitError::NoHeader { offset }),
    };
    let cut_off = |needed: u64| FitError::CutOff {
        offset: bytes.len(),
        missing: needed - rest.len() as u64,
    };
    let Some(header) = rest.get(..header_size) else {
        return Err(cut_off(header_size as u64));
    };
    if &header[8..12] != b".FIT" {
        return Err(FitError::NoHeader { offset });
    }
    let data_size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if header_size == 14 {
        let stored = u16::from_le_bytes([header[12], header[13]]);
        // Zero means that the writer did not compute it.
        if stored != 0 && stored != checksum(&header[..12]) {
            return Err(FitError::Checksum {
                part: "header",
                offset: offset + 12,
            });
        }
    }
    let total = header_size as u64 + u64::from(data_size) + 2;
    let Some(whole) = usize::try_from(total).ok().and_then(|total| rest.get(..total)) else {
        return Err(cut_off(total));
    };
    let (summed, stored) = whole.split_at(whole.len() - 2);
    if checksum(summed) != u16::from_le_bytes([stored[0], stored[1]]) {
        return Err(FitError::Checksum {
            part: "data",
            offset: offset + summed.len(),
        });
    }
    Ok(Frame {
        offset,
        bytes: whole,
        header_size,
        data_size: data_size as usize,
    })
}
