//! What we write ourselves, read without looking for what any JSON may have: members come in our order, with no blanks
//! between them and nothing to unescape; their values are parsed as those of any JSON. Whatever is written otherwise is
//! nothing here, and is read as JSON after all.

use std::str::FromStr;

use base64_simd::STANDARD;

use super::{ContentType, Event, SpecVersion};
use crate::ids::SubjectId;

/// Reads members of objects one after the other, as [`super::member`] writes them.
#[derive(Debug)]
pub struct MemberReader<'a>(&'a [u8]);

impl<'a> MemberReader<'a> {
    /// At the beginning.
    #[must_use]
    pub fn new(text: &'a [u8]) -> Self {
        Self(text)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// Goes past what comes next, if it is this.
    pub fn past(&mut self, next: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(next.as_bytes())?;
        Some(())
    }

    /// What a string holds, as it is written, after the name of its member.
    fn string(&mut self, name: &str) -> Option<&'a [u8]> {
        self.past(name)?;
        self.past("\"")?;
        let (string, rest) = self.0.split_at(memchr::memchr(b'"', self.0)?);
        self.0 = rest.get(1..)?;
        Some(string)
    }

    /// A member that is a text.
    pub fn text(&mut self, name: &str) -> Option<&'a str> {
        let string = self.string(name)?;
        let plain = |plain: bool, byte: &u8| plain & (*byte >= b' ') & (*byte != b'\\');
        if string.iter().fold(true, plain) {
            std::str::from_utf8(string).ok()
        } else {
            None
        }
    }

    /// A member that is always the same text.
    fn constant(&mut self, name: &str, value: &str) -> Option<()> {
        (self.text(name)? == value).then_some(())
    }

    /// A member that is something else, written as a text.
    pub fn parsed<T: FromStr>(&mut self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// As [`Self::parsed`], if it is there.
    fn perhaps<T: FromStr>(&mut self, name: &str) -> Option<Option<T>> {
        if self.0.starts_with(name.as_bytes()) {
            self.parsed(name).map(Some)
        } else {
            Some(None)
        }
    }

    /// A member that is a whole number.
    pub fn number(&mut self, name: &str) -> Option<u64> {
        self.past(name)?;
        let length = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(length);
        if digits.len() > 1 && digits.first() == Some(&b'0') {
            return None;
        }
        self.0 = rest;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// A member that is bytes in base64.
    pub(super) fn base64(&mut self, name: &str) -> Option<Vec<u8>> {
        STANDARD.decode_to_vec(self.string(name)?).ok()
    }
}

/// An event, as [`Event::write_to`] writes it.
pub(super) fn event(bytes: &[u8]) -> Option<Event> {
    let mut from = MemberReader::new(bytes);
    from.constant("{\"specversion\":", SpecVersion::One.as_str())?;
    // The fields of a struct are read in the order that they are written down here.
    let event = Event {
        specversion: SpecVersion::One,
        id: from.parsed(",\"id\":")?,
        source: from.text(",\"source\":")?.to_owned(),
        kind: from.text(",\"type\":")?.to_owned(),
        subject: from.text(",\"subject\":")?.to_owned(),
        time: from.parsed(",\"time\":")?,
        datacontenttype: {
            from.constant(",\"datacontenttype\":", ContentType::SealedJson.as_str())?;
            ContentType::SealedJson
        },
        sealed: from.base64(",\"data_base64\":")?,
        tenant: from.parsed(",\"tenant\":")?,
        region: from.parsed(",\"region\":")?,
        class: from.parsed(",\"dataclass\":")?,
        epoch: from.number(",\"epoch\":")?.into(),
        data_subject: SubjectId(from.parsed(",\"datasubject\":")?),
        key_scope: from.parsed(",\"keyscope\":")?,
        sequence: from.number(",\"sequence\":")?,
        traceparent: from.perhaps(",\"traceparent\":")?,
        origin: from.perhaps(",\"origin\":")?,
        edge: from.perhaps(",\"edge\":")?,
        expires: from.perhaps(",\"expires\":")?,
    };
    from.past("}")?;
    from.is_at_end().then_some(event)
}

#[cfg(test)]
mod tests {
    use super::super::Imported;
    use super::super::tests::event as sealed;
    use super::*;

    #[test]
    fn whatever_is_read_without_a_reader_of_any_json_is_read_by_it_as_the_same() {
        let (plain, _) = sealed();
        let imported = plain.clone().imported(Imported {
            origin: "eu".parse().expect("a region"),
            edge: "stride-eu.workout-summary.us".parse().expect("an edge"),
            expires: "2026-03-04T17:45:12.25Z".parse().expect("a time"),
        });
        let (mut same, mut other) = (0, 0);
        for bytes in [plain.to_bytes(), imported.to_bytes()] {
            for place in 0..bytes.len() {
                let put = b"\"\\{},: 0a\n\xff".iter().map(|byte| vec![*byte]);
                let ways = put.chain([vec![], vec![bytes[place]; 2], bytes[..place].to_vec()]);
                for way in ways {
                    let changed = [&bytes[..place], &way, &bytes[place + 1..]].concat();
                    match (event(&changed), serde_json::from_slice::<Event>(&changed)) {
                        (Some(read), Ok(expected)) => {
                            assert_eq!(read, expected);
                            same += 1;
                        }
                        (None, _) => other += 1,
                        (Some(_), Err(error)) => panic!("{}: {error}", String::from_utf8_lossy(&changed)),
                    }
                }
            }
        }
        assert!(same > 1000 && other > 1000, "{same} {other}");
    }
}
