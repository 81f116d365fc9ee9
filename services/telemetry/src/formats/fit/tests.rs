use proptest::prelude::*;

use super::*;
use crate::domain::sample::Sample;
use crate::domain::summary::summarize;
use crate::synthetic::fit::{Encoding, Writer, write, write_chained};
use crate::synthetic::{Recorded, Ride};

const START: i64 = 1_760_000_000_000;

fn ride() -> Recorded {
    Ride::outdoors(11, START).lasting(900).ride()
}

#[test]
fn every_record_reads_back_value_by_value() {
    let Recorded { samples, truth } = ride();
    for encoding in [
        Encoding::Plain,
        Encoding::BigEndian,
        Encoding::CompressedTimestamps,
        Encoding::Enhanced,
        Encoding::DeveloperPower,
    ] {
        let recording = read(&write(&samples, encoding)).expect("a good file");
        assert_eq!(recording.samples.len() as u64, truth.records);
        assert_eq!(recording.samples, samples, "{encoding:?}");
        assert_eq!(recording.sport.as_deref(), Some("cycling"));
        assert_eq!(recording.device.as_deref(), Some("Synthetic One"));
        assert_eq!(recording.totals.timer_sec, Some(truth.elapsed_sec));
        assert_eq!(recording.totals.calories, Some(600.0));
    }
}

#[test]
fn compressed_distance_rolls_over_and_keeps_its_sixteenths() {
    let Recorded { samples, .. } = ride();
    let recording = read(&write(&samples, Encoding::CompressedSpeedDistance)).expect("a good file");
    for (read, written) in recording.samples.iter().zip(&samples) {
        assert_eq!(
            read.distance_tenth_mm,
            written.distance_tenth_mm.map(|distance| distance / 625 * 625)
        );
        assert_eq!(read.speed_mm_s, written.speed_mm_s.map(|speed| speed / 10 * 10));
    }
}

#[test]
fn compressed_times_survive_gaps() {
    let ride = Ride {
        pause: Some((100, 400)),
        smart_recording: true,
        ..Ride::outdoors(5, START).lasting(900)
    };
    let Recorded { samples, .. } = ride.ride();
    assert_eq!(
        read(&write(&samples, Encoding::CompressedTimestamps))
            .expect("a good file")
            .samples,
        samples
    );
}

#[test]
fn files_in_a_row_are_one_recording() {
    let Recorded { samples, .. } = ride();
    let recording = read(&write_chained(&samples, &[0..300, 300..301, 301..900])).expect("good files");
    assert_eq!(recording.samples, samples);
    assert_eq!(recording.totals.calories, Some(1800.0));
}

#[test]
fn indoors_without_positions_is_an_activity() {
    let Recorded { samples, truth } = Ride::indoors(3, START).lasting(600).ride();
    let recording = read(&write(&samples, Encoding::Plain)).expect("a good file");
    assert_eq!(recording.samples, samples);
    let summary = summarize(&recording.samples);
    assert!((summary.distance_meters.expect("a distance") - truth.distance_meters).abs() < 0.02);
    assert_eq!(summary.ascent_meters, None);
}

#[test]
fn several_records_of_one_moment_are_kept() {
    let sample = |heart_rate| Sample {
        time_ms: START,
        heart_rate: Some(heart_rate),
        ..Sample::default()
    };
    let samples = [sample(100), sample(101), sample(101), sample(99)];
    assert_eq!(
        read(&write(&samples, Encoding::Plain)).expect("a good file").samples,
        samples
    );
}

#[test]
fn late_records_are_put_in_order() {
    let Recorded { mut samples, .. } = ride();
    samples.swap(10, 12);
    let recording = read(&write(&samples, Encoding::Plain)).expect("a good file");
    assert_eq!(recording.mended.late, 2);
    samples.swap(10, 12);
    assert_eq!(recording.samples, samples);
}

/// A file of records that hold a heart rate and, where given, a time.
fn heart_rates(records: &[(Option<u32>, u8)]) -> Vec<u8> {
    let mut writer = Writer::new(false);
    writer.define(0, 20, &[(253, 4, 0x86), (3, 1, 0x02)], &[]);
    writer.define(1, 20, &[(3, 1, 0x02)], &[]);
    for (time, rate) in records {
        match time {
            Some(time) => {
                writer.data(0);
                writer.uint32(*time);
            }
            None => writer.data(1),
        }
        writer.bytes(&[*rate]);
    }
    writer.finish()
}

#[test]
fn records_without_a_time_take_their_neighbours() {
    let recording = read(&heart_rates(&[
        (None, 1),
        (None, 2),
        (Some(10), 3),
        (None, 4),
        (Some(12), 5),
    ]))
    .expect("a good file");
    let times: Vec<_> = recording
        .samples
        .iter()
        .map(|sample| sample.time_ms / 1000 - 631_065_600)
        .collect();
    assert_eq!(times, [10, 10, 10, 10, 12]);
    assert_eq!(recording.mended.untimed, 3);
    assert_eq!(read(&heart_rates(&[(None, 1)])), Err(FitError::NoTime));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = write(&ride().samples[..20], Encoding::Plain);
    for length in 1..file.len() {
        let error = read(&file[..length]).expect_err("must be refused");
        let FitError::CutOff { offset, missing } = error else {
            panic!("{length}: {error}")
        };
        assert_eq!(offset, length);
        assert!(length < 14 || missing == (file.len() - length) as u64);
    }
    assert_eq!(read(&[]), Err(FitError::Empty));
}

#[test]
fn a_damaged_byte_is_found_and_its_checksum_named() {
    let file = write(&ride().samples[..20], Encoding::Plain);
    for index in 0..file.len() {
        let mut damaged = file.clone();
        damaged[index] ^= 0x10;
        let error = read(&damaged).expect_err("must be refused");
        if (14..file.len()).contains(&index) {
            assert_eq!(
                error,
                FitError::Checksum {
                    part: "data",
                    offset: file.len() - 2
                },
                "{index}"
            );
        }
    }
    let mut second = [file.clone(), file.clone()].concat();
    *second.last_mut().expect("bytes") ^= 1;
    assert_eq!(
        read(&second),
        Err(FitError::Checksum {
            part: "data",
            offset: 2 * file.len() - 2
        })
    );
}

#[test]
fn what_follows_a_file_must_be_another() {
    let mut file = write(&ride().samples[..20], Encoding::Plain);
    let offset = file.len();
    file.extend(b"trailing");
    assert_eq!(read(&file), Err(FitError::NoHeader { offset }));
    assert_eq!(read(b"PK\x03\x04 a zip archive"), Err(FitError::NoHeader { offset: 0 }));
}

#[test]
fn malformed_messages_are_named_by_their_place() {
    let mut orphan = Writer::new(false);
    orphan.data(5);
    assert_eq!(
        read(&orphan.finish()),
        Err(FitError::Malformed {
            offset: 14,
            problem: "nothing defines its layout"
        })
    );
    let mut hollow = Writer::new(false);
    hollow.define(0, 20, &[(3, 0, 0x02)], &[]);
    hollow.data(0);
    assert_eq!(
        read(&hollow.finish()),
        Err(FitError::Malformed {
            offset: 14,
            problem: "it defines a field of no bytes"
        })
    );
    let mut long = Writer::new(false);
    long.define(0, 20, &[(3, 1, 0x02)], &[]);
    long.data(0);
    assert_eq!(
        read(&long.finish()),
        Err(FitError::Malformed {
            offset: 23,
            problem: "it runs over the end of the data"
        })
    );
}

#[test]
fn a_file_may_end_with_a_definition_or_hold_no_records() {
    let mut writer = Writer::new(false);
    writer.define(0, 20, &[(253, 4, 0x86), (3, 1, 0x02)], &[]);
    writer.data(0);
    writer.uint32(1_000_000_000);
    writer.bytes(&[120]);
    writer.define(0, 20, &[(3, 1, 0x02)], &[]);
    assert_eq!(read(&writer.finish()).expect("a good file").samples.len(), 1);
    assert_eq!(read(&Writer::new(false).finish()), Err(FitError::NoRecords));
    assert_eq!(read(&write(&[], Encoding::Plain)), Err(FitError::NoRecords));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Damage that its checksum vouches for: the decoder itself must stand it.
    #[test]
    fn no_damage_makes_it_panic(at in prop::collection::vec((14..700_usize, any::<u8>()), 1..12), encoding in 0..6_usize) {
        let encodings = [
            Encoding::Plain, Encoding::BigEndian, Encoding::CompressedTimestamps, Encoding::CompressedSpeedDistance,
            Encoding::DeveloperPower, Encoding::Enhanced,
        ];
        let mut file = write(&ride().samples[..30], encodings[encoding]);
        let end = file.len() - 2;
        for (index, byte) in at {
            file[14 + index % (end - 14)] = byte;
        }
        let sum = checksum(&file[..end]).to_le_bytes();
        file[end..].copy_from_slice(&sum);
        if let Ok(recording) = read(&file) {
            prop_assert!(recording.samples.len() <= file.len());
            let _ = summarize(&recording.samples);
        }
    }
}
