//! Members of JSON objects, written without what serializing them would cost.

use base64_simd::STANDARD;
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::Serialize;
use uuid::Uuid;

/// Writes a member of an object: what stands before its value, then the value, which is a string, a number or a UUID.
pub fn member<T: Serialize + ?Sized>(out: &mut Vec<u8>, name: &str, value: &T) {
    out.extend_from_slice(name.as_bytes());
    // Such values always serialize.
    let _ = serde_json::to_writer(out, value);
}

/// As [`member`] of a text that has nothing to escape, like a name.
pub(super) fn plain(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, "\"", value, "\""] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// As [`member`] of a text; most have nothing to escape.
pub(super) fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        plain(out, name, value);
    } else {
        member(out, name, value);
    }
}

/// As [`member`] of a time.
pub(super) fn put_time(out: &mut Vec<u8>, name: &str, time: Timestamp) {
    const PRINTER: DateTimePrinter = DateTimePrinter::new();
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
    // Writing into memory does not fail, and every time can be written.
    let _ = PRINTER.print_timestamp(&time, &mut *out);
    out.push(b'"');
}

pub(super) fn put_id(out: &mut Vec<u8>, name: &str, id: Uuid) {
    plain(out, name, id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
}

/// Appends bytes in base64.
pub(super) fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    STANDARD.encode_append(bytes, out);
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as OTHER;

    use super::*;

    /// Whoever reads events with another library accepts the same.
    #[test]
    fn base64_is_strict_and_as_others_write_it() {
        for length in 0..=100_u8 {
            let bytes: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(37)).collect();
            let mut written = b"before".to_vec();
            put_base64(&mut written, &bytes);
            let text = written.split_off("before".len());
            assert_eq!(written, b"before");
            assert_eq!(text, OTHER.encode(&bytes).into_bytes());
            for place in 0..text.len() {
                let some = b"AB/+=-_ \n\xff".to_vec();
                let put = if length < 96 { some } else { (0..=u8::MAX).collect() };
                let ways = put.into_iter().map(|byte| vec![byte]);
                for way in ways.chain([vec![], vec![text[place]; 2], text[..place].to_vec()]) {
                    let changed = [&text[..place], &way, &text[place + 1..]].concat();
                    let (ours, others) = (STANDARD.decode_to_vec(&changed).ok(), OTHER.decode(&changed).ok());
                    assert_eq!(ours, others, "{}", String::from_utf8_lossy(&changed));
                }
            }
        }
    }
}
