//! Members of JSON objects, written without what serializing them would cost.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
    let begin = out.len();
    out.resize(begin + bytes.len().div_ceil(3) * 4, b'=');
    // It has the length that padded base64 has.
    let _ = STANDARD.encode_slice(bytes, &mut out[begin..]);
}
