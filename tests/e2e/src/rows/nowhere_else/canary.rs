//! Canaries, and finding them in any bytes: as they are, in other encodings, compressed, packed, in FIT files, and in what
//! was sealed for somebody whose keys are known.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use aho_corasick::{AhoCorasick, MatchKind};
use anyhow::{Context, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, ToSpan};
use meridian_telemetry::domain::chunk;
use meridian_telemetry::domain::sample::Sample;
use meridian_telemetry::formats::Format;
use meridian_telemetry::synthetic::{Recorded, Ride};
use serde_json::Value;
use uuid::Uuid;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Random text of a profile.
    Text,
    /// Where a ride was.
    Position,
    /// A run of heart-rate values.
    HeartRate,
}

pub(super) const KINDS: [Kind; 3] = [Kind::Text, Kind::Position, Kind::HeartRate];
/// Values of a heart-rate series that count as the series: random ones, so no other ride has them.
const RUN: usize = 24;
/// Bytes that are no chance when they are found.
const SHORTEST: usize = 8;
/// What a compressed frame may unpack to; and frames within frames.
const UNPACKED: u64 = 32 << 20;
const DEPTH: u8 = 6;
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// version 1 | nonce | tag: nothing shorter was sealed.
const SEALED: usize = 1 + NONCE_LEN + 16;

/// Random text, and a ride of ten minutes at a random place with random heart rates.
pub(super) struct Canaries {
    pub(super) text: String,
    pub(super) ride: Recorded,
}

impl Canaries {
    pub(super) fn new() -> Self {
        let origin = (rand::random_range(47.0..54.0), rand::random_range(7.0..14.0));
        let start = Timestamp::now() - 2.hours();
        let mut ride = Ride {
            origin: Some(origin),
            ..Ride::outdoors(rand::random(), start.as_millisecond()).lasting(600)
        }
        .ride();
        for sample in &mut ride.samples {
            sample.heart_rate = Some(rand::random_range(70..180));
        }
        let text = format!("canary{}", Uuid::new_v4().simple());
        Self { text, ride }
    }

    /// Three moments of the ride with a whole run of heart rates after them.
    fn moments(&self) -> impl Iterator<Item = &[Sample]> {
        let samples = &self.ride.samples;
        let last = samples.len().saturating_sub(RUN);
        [last / 5, last / 2, last].into_iter().map(|at| &samples[at..])
    }

    /// Semicircles of the moments.
    pub(super) fn places(&self) -> Vec<(i32, i32)> {
        let position = |samples: &[Sample]| samples.first().and_then(|sample| sample.position);
        self.moments()
            .filter_map(position)
            .map(|place| place.semicircles())
            .collect()
    }

    /// Heart rates of the moments.
    pub(super) fn runs(&self) -> Vec<Vec<u8>> {
        let run = |samples: &[Sample]| {
            samples
                .iter()
                .take(RUN)
                .filter_map(|sample| sample.heart_rate)
                .collect()
        };
        self.moments().map(run).collect()
    }

    /// Everything that betrays a canary, as bytes; the flag: digits, which must not be part of a longer number.
    fn needles(&self) -> Vec<(Kind, bool, Vec<u8>)> {
        let mut needles = vec![(Kind::Text, false, self.text.clone().into_bytes())];
        for (lat, lon) in self.places() {
            let mut add = |digits: bool, bytes: Vec<u8>| needles.push((Kind::Position, digits, bytes));
            for (one, two) in [(lat, lon), (lon, lat)] {
                add(false, [one.to_le_bytes(), two.to_le_bytes()].concat());
                add(false, [one.to_be_bytes(), two.to_be_bytes()].concat());
                let (one, two) = (degrees(one), degrees(two));
                #[expect(clippy::cast_possible_truncation, reason = "the coarser form is what is looked for")]
                let (short_one, short_two) = (one as f32, two as f32);
                add(false, [short_one.to_le_bytes(), short_two.to_le_bytes()].concat());
                add(false, [short_one.to_be_bytes(), short_two.to_be_bytes()].concat());
                add(false, one.to_le_bytes().to_vec());
                add(false, one.to_be_bytes().to_vec());
            }
            for value in [lat, lon] {
                add(true, value.to_string().into_bytes());
                // Cut, not rounded: every longer way of writing it begins so. Shorter ones are the seconds of some timestamp.
                let text = format!("{:.9}", degrees(value));
                add(false, text.as_bytes()[..text.len() - 2].to_vec());
            }
        }
        for run in self.runs() {
            let mut add = |bytes: Vec<u8>| needles.push((Kind::HeartRate, false, bytes));
            add(run.iter().flat_map(|rate| u16::from(*rate).to_le_bytes()).collect());
            add(run.iter().flat_map(|rate| u16::from(*rate).to_be_bytes()).collect());
            add(run.iter().flat_map(|rate| u32::from(*rate).to_le_bytes()).collect());
            for between in [",", ", ", " ", "\n"] {
                let rates: Vec<String> = run.iter().map(u8::to_string).collect();
                add(rates.join(between).into_bytes());
            }
            add(run);
        }
        needles
    }

    /// Which of them samples hold.
    fn within(&self, samples: &[Sample]) -> impl Iterator<Item = Kind> {
        let places = self.places();
        let position = samples
            .iter()
            .filter_map(|sample| sample.position)
            .any(|place| places.contains(&place.semicircles()));
        let rates: Vec<u8> = samples.iter().filter_map(|sample| sample.heart_rate).collect();
        let rate = self
            .runs()
            .iter()
            .any(|run| rates.windows(RUN).any(|window| window == run));
        let position = position.then_some(Kind::Position);
        position.into_iter().chain(rate.then_some(Kind::HeartRate))
    }
}

pub(super) fn degrees(semicircles: i32) -> f64 {
    f64::from(semicircles) * 180.0 / 2_147_483_648.0
}

/// Opens what was sealed for one subject.
#[derive(Default)]
pub(super) struct Opener {
    keys: Vec<LessSafeKey>,
    contexts: Vec<String>,
}

impl Opener {
    pub(super) fn new(keys: &[Vec<u8>], contexts: Vec<String>) -> Result<Self> {
        let key = |bytes: &Vec<u8>| UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new);
        let keys = keys.iter().map(key).collect::<Result<_, _>>();
        Ok(Self {
            keys: keys.ok().context("a key that is no key")?,
            contexts,
        })
    }

    fn open(&self, sealed: &[u8], context: &str) -> Option<Vec<u8>> {
        let (head, body) = sealed.split_at_checked(1 + NONCE_LEN)?;
        self.keys.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(&head[1..]).ok()?;
            let mut clear = body.to_vec();
            let length = key
                .open_in_place(nonce, Aad::from(context.as_bytes()), &mut clear)
                .ok()?
                .len();
            clear.truncate(length);
            Some(clear)
        })
    }
}

/// Whose canaries: indices into what [`Scanner::new`] was given. Which kinds, and how each was found.
pub(super) type Found = BTreeMap<(usize, Kind), BTreeSet<&'static str>>;

/// Looks for sets of canaries in one pass.
pub(super) struct Scanner {
    sets: Vec<Canaries>,
    patterns: AhoCorasick,
    meanings: Vec<(usize, Kind, bool, &'static str)>,
    pub(super) opener: Opener,
}

impl Scanner {
    pub(super) fn new(sets: Vec<Canaries>) -> Result<Self> {
        let (mut patterns, mut meanings) = (Vec::new(), Vec::new());
        for (set, canaries) in sets.iter().enumerate() {
            for (kind, digits, needle) in canaries.needles() {
                let mut add = |digits: bool, how: &'static str, bytes: Vec<u8>| {
                    // What is left of a short needle within base64 may be anywhere by chance.
                    if bytes.len() >= SHORTEST {
                        patterns.push(bytes);
                        meanings.push((set, kind, digits, how));
                    }
                };
                add(false, "hex", hex::encode(&needle).into_bytes());
                add(false, "hex", hex::encode_upper(&needle).into_bytes());
                for offset in 0..3 {
                    add(false, "base64", base64_within(&needle, offset));
                }
                add(digits, "clear", needle);
            }
        }
        Ok(Self {
            sets,
            patterns: AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .build(&patterns)
                .context("the canaries' patterns")?,
            meanings,
            opener: Opener::default(),
        })
    }

    pub(super) fn set(&self, index: usize) -> &Canaries {
        &self.sets[index]
    }

    /// Looks through bytes of which nothing is known.
    pub(super) fn look(&self, bytes: &[u8], found: &mut Found) {
        self.look_into(bytes, "", DEPTH, found);
    }

    fn look_into(&self, bytes: &[u8], how: &'static str, depth: u8, found: &mut Found) {
        for hit in self.patterns.find_overlapping_iter(bytes) {
            let (set, kind, digits, encoding) = self.meanings[hit.pattern().as_usize()];
            let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
            if digits && (digit(hit.start().checked_sub(1)) || digit(Some(hit.end()))) {
                continue;
            }
            let how = if how.is_empty() { encoding } else { how };
            found.entry((set, kind)).or_default().insert(how);
        }
        if depth == 0 {
            return;
        }
        for at in positions(bytes, &ZSTD) {
            if let Some((clear, end)) = unpack(&bytes[at..]) {
                let how = if how.is_empty() { "compressed" } else { how };
                self.look_into(&clear, how, depth - 1, found);
                if let Some(samples) = at
                    .checked_sub(1)
                    .and_then(|begin| chunk::decode(&bytes[begin..at + end]).ok())
                {
                    let how = if how == "compressed" { "packed" } else { how };
                    self.samples(&samples, how, found);
                }
            }
        }
        for at in positions(bytes, b".FIT") {
            let file = at.checked_sub(8).and_then(|begin| fit_file(&bytes[begin..]));
            if let Some(recording) = file.and_then(|file| Format::Fit.read(file).ok()) {
                self.samples(&recording.samples, if how.is_empty() { "FIT" } else { how }, found);
            }
        }
    }

    fn samples(&self, samples: &[Sample], how: &'static str, found: &mut Found) {
        for (index, canaries) in self.sets.iter().enumerate() {
            for kind in canaries.within(samples) {
                found.entry((index, kind)).or_default().insert(how);
            }
        }
    }

    /// Looks through rows as `COPY` writes them: the text, and every `bytea` in it as the value that it is.
    pub(super) fn look_rows(&self, rows: &[u8], found: &mut Found) {
        self.look(rows, found);
        for at in positions(rows, br"\\x") {
            let digits = &rows[at + 3..];
            let length = digits.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            if let Ok(value) = hex::decode(&digits[..length & !1]) {
                self.look_value(&value, "", DEPTH, found);
            }
        }
    }

    /// Looks through what Kafka's log dump prints: every record's payload on a line.
    pub(super) fn look_records(&self, dump: &[u8], found: &mut Found) {
        self.look(dump, found);
        for at in positions(dump, b"payload: ") {
            let rest = &dump[at + 9..];
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            if let Ok(json) = serde_json::from_slice::<Value>(line) {
                self.look_json(&json, "", DEPTH, found);
            }
        }
    }

    /// One whole value: perhaps sealed, packed, or JSON that holds such.
    fn look_value(&self, value: &[u8], how: &'static str, depth: u8, found: &mut Found) {
        self.look_into(value, how, depth, found);
        if depth == 0 {
            return;
        }
        if let Ok(json) = serde_json::from_slice::<Value>(value) {
            self.look_json(&json, how, depth - 1, found);
        }
        if value.len() >= SEALED && value[0] == 1 {
            let opened = self
                .opener
                .contexts
                .iter()
                .find_map(|context| self.opener.open(value, context));
            if let Some(clear) = opened {
                self.look_value(&clear, "opened", depth - 1, found);
            }
        }
    }

    /// Every string of it that is base64, decoded; an event's payload, opened.
    fn look_json(&self, json: &Value, how: &'static str, depth: u8, found: &mut Found) {
        if depth == 0 {
            return;
        }
        match json {
            Value::Array(items) => items.iter().for_each(|item| self.look_json(item, how, depth, found)),
            Value::Object(fields) => {
                if let (Some(Value::String(id)), Some(Value::String(data))) =
                    (fields.get("id"), fields.get("data_base64"))
                    && let Ok(sealed) = STANDARD.decode(data)
                    && let Some(clear) = self.opener.open(&sealed, &format!("event:{id}"))
                {
                    self.look_value(&clear, "opened", depth - 1, found);
                }
                fields.values().for_each(|item| self.look_json(item, how, depth, found));
            }
            Value::String(text) if text.len() >= 16 => {
                if let Ok(bytes) = STANDARD.decode(text) {
                    self.look_value(&bytes, how, depth - 1, found);
                }
            }
            _ => {}
        }
    }
}

/// The part of a needle's base64 that is the same whatever stands around it, when it begins at `offset` of a group.
fn base64_within(needle: &[u8], offset: usize) -> Vec<u8> {
    let mut padded = vec![0; offset];
    padded.extend_from_slice(needle);
    let whole = padded.len() / 3 * 4;
    let text = STANDARD.encode(&padded);
    let begin = if offset == 0 { 0 } else { 4 };
    text.as_bytes()[begin..whole].to_vec()
}

fn positions<'a>(bytes: &'a [u8], what: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    memchr::memmem::find_iter(bytes, what)
}

/// One zstd frame at the beginning, and where it ends.
fn unpack(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes).ok()?.single_frame();
    let mut clear = Vec::new();
    decoder.by_ref().take(UNPACKED).read_to_end(&mut clear).ok()?;
    Some((clear, bytes.len() - decoder.finish().len()))
}

/// The FIT file at the beginning, by the lengths in its header.
fn fit_file(bytes: &[u8]) -> Option<&[u8]> {
    let header = usize::from(*bytes.first()?);
    let data = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    bytes.get(..header + usize::try_from(data).ok()? + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_telemetry::synthetic::fit::{self, Encoding};

    fn found(scanner: &Scanner, look: impl FnOnce(&Scanner, &mut Found)) -> Vec<Kind> {
        let mut found = Found::new();
        look(scanner, &mut found);
        found.into_keys().map(|(_, kind)| kind).collect()
    }

    fn scanner() -> Scanner {
        Scanner::new(vec![Canaries::new()]).unwrap()
    }

    #[test]
    fn other_canaries_are_not_found() {
        let (scanner, other) = (scanner(), Canaries::new());
        let file = fit::write(&other.ride.samples, Encoding::Plain);
        assert_eq!(found(&scanner, |scanner, found| scanner.look(&file, found)), []);
        assert_eq!(
            found(&scanner, |scanner, found| scanner.look(other.text.as_bytes(), found)),
            []
        );
    }

    #[test]
    fn text_is_found_in_hex_and_at_every_place_of_base64() {
        let scanner = scanner();
        for before in ["", "a", "ab", "abc"] {
            let text = format!("{before}{}xyz", scanner.set(0).text);
            for encoded in [STANDARD.encode(&text), hex::encode(&text), hex::encode_upper(&text)] {
                let kinds = found(&scanner, |scanner, found| scanner.look(encoded.as_bytes(), found));
                assert_eq!(kinds, [Kind::Text], "{encoded}");
            }
        }
    }

    #[test]
    fn a_ride_is_found_in_a_fit_file_in_a_packed_chunk_and_in_a_row() {
        let scanner = scanner();
        let samples = &scanner.set(0).ride.samples;
        let both = [Kind::Position, Kind::HeartRate];
        let file = [
            b"before".to_vec(),
            fit::write(samples, Encoding::Plain),
            b"after".to_vec(),
        ]
        .concat();
        assert_eq!(found(&scanner, |scanner, found| scanner.look(&file, found)), both);
        let packed = [b"x".to_vec(), chunk::encode(samples).unwrap(), b"y".to_vec()].concat();
        assert_eq!(found(&scanner, |scanner, found| scanner.look(&packed, found)), both);
        let row = format!("1\t\\\\x{}\tx\n", hex::encode(chunk::encode(samples).unwrap()));
        assert_eq!(
            found(&scanner, |scanner, found| scanner.look_rows(row.as_bytes(), found)),
            both
        );
    }

    #[test]
    fn every_pattern_is_too_long_to_be_there_by_chance() {
        let scanner = scanner();
        let shortest = scanner.patterns.min_pattern_len();
        assert!(shortest >= SHORTEST, "{shortest} bytes");
        // No encoding of a place or a series is lost by that; a place's digits are as long as that.
        let kinds: BTreeSet<(Kind, &str)> = scanner.meanings.iter().map(|(_, kind, _, how)| (*kind, *how)).collect();
        assert_eq!(kinds.len(), KINDS.len() * ["clear", "hex", "base64"].len());
    }

    #[test]
    fn digits_within_a_longer_number_are_no_position() {
        let scanner = scanner();
        let (lat, _) = scanner.set(0).places()[0];
        let look = |text: String| found(&scanner, |scanner, found| scanner.look(text.as_bytes(), found));
        assert_eq!(look(format!("lat={lat};")), [Kind::Position]);
        assert_eq!(look(format!("7{lat}")), []);
    }

    #[test]
    fn what_was_sealed_is_found_with_its_key_and_context_only() {
        let mut scanner = scanner();
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
        let mut sealed = scanner.set(0).text.clone().into_bytes();
        let nonce = Nonce::assume_unique_for_key([3; NONCE_LEN]);
        key.seal_in_place_append_tag(nonce, Aad::from(b"place:1"), &mut sealed)
            .unwrap();
        let row = format!("\\\\x01{}{}", hex::encode([3; NONCE_LEN]), hex::encode(&sealed));
        for (context, expected) in [("place:1", vec![Kind::Text]), ("place:2", vec![])] {
            scanner.opener = Opener::new(&[vec![7; 32]], vec![context.to_owned()]).unwrap();
            assert_eq!(
                found(&scanner, |scanner, found| scanner.look_rows(row.as_bytes(), found)),
                expected
            );
        }
    }
}
