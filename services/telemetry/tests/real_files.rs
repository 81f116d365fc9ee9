//! Files that real devices wrote, against what another program decoded from them. They live outside the project
//! (`MERIDIAN_SHARED_DATA`, else `../shared/data` beside the workspace); without them each test says so and passes.

#![expect(
    clippy::print_stderr,
    clippy::expect_used,
    clippy::panic,
    reason = "a skipped test says so; tests fail by panicking"
)]

use std::path::PathBuf;

use meridian_telemetry::domain::sample::Sample;
use meridian_telemetry::domain::{chunk, recording::Recording, summary::summarize};
use meridian_telemetry::formats::{Format, FormatError, fit::FitError};

fn data(path: &str) -> Option<Vec<u8>> {
    let root = std::env::var_os("MERIDIAN_SHARED_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")),
        PathBuf::from,
    );
    let file = std::fs::read(root.join(path)).ok();
    if file.is_none() {
        eprintln!("skipped: {path} is not there");
    }
    file
}

fn format(path: &str) -> Format {
    if path.ends_with(".fit") {
        Format::Fit
    } else {
        Format::Gpx
    }
}

fn read(path: &str) -> Option<Recording> {
    Some(
        format(path)
            .read(&data(path)?)
            .unwrap_or_else(|error| panic!("{path}: {error}")),
    )
}

type Row = Vec<Option<String>>;

/// Rows of an oracle: its header's names and each row's values, none for `null` or nothing.
fn oracle(path: &str) -> Option<(Vec<String>, Vec<Row>)> {
    let text = String::from_utf8(data(path)?).expect("text");
    let mut lines = text
        .lines()
        .map(|line| line.split(',').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    let header = lines.next().expect("a header");
    let filled = |cell: String| Some(cell).filter(|cell| !cell.is_empty() && cell != "null" && cell != "None");
    Some((header, lines.map(|row| row.into_iter().map(filled).collect()).collect()))
}

fn near(value: Option<f64>, expected: Option<&str>) -> bool {
    match (value, expected) {
        (Some(value), Some(expected)) => (value - expected.parse::<f64>().expect("a number")).abs() < 1e-9,
        (None, None) => true,
        _ => false,
    }
}

fn matches(sample: &Sample, column: &str, expected: Option<&str>) -> bool {
    let measured = sample.measured();
    let semicircles = sample.position.map(|position| position.semicircles());
    match column
        .split(" [")
        .next()
        .unwrap_or_default()
        .to_lowercase()
        .replace(' ', "_")
        .as_str()
    {
        "heart_rate" => near(measured.heart_rate, expected),
        // The oracle writes 0 where the device wrote its mark for "not measured".
        "cadence" if expected == Some("0") && sample.cadence.is_none() => true,
        "cadence" => near(measured.cadence, expected),
        "speed" => near(measured.speed, expected),
        "distance" => near(measured.distance, expected),
        "altitude" => near(measured.altitude, expected),
        "temperature" => near(measured.temperature, expected),
        "position_lat" => semicircles.map(|(lat, _)| lat.to_string()).as_deref() == expected,
        "position_long" => semicircles.map(|(_, lon)| lon.to_string()).as_deref() == expected,
        "timestamp" => expected.is_none_or(|expected| match expected.parse::<i64>() {
            Ok(device_seconds) => sample.time_ms / 1000 - 631_065_600 == device_seconds,
            // `Sun Sep 25 06:00:22 PDT 2011`: Pacific Daylight Time is seven hours behind.
            Err(_) => {
                let civil = jiff::civil::DateTime::strptime("%a %b %d %H:%M:%S %Y", expected.replace("PDT ", ""))
                    .expect("a time");
                let time = jiff::tz::Offset::constant(-7).to_timestamp(civil).expect("a time");
                time.as_millisecond() == sample.time_ms
            }
        }),
        other => panic!("the oracle has a column that this test does not know: {other}"),
    }
}

#[test]
fn records_are_what_another_program_decoded() {
    for name in [
        "compressed-speed-distance",
        "garmin-edge-500-activity",
        "garmin-edge-820-bike",
        "garmin-fenix-5-run",
    ] {
        let Some((header, rows)) = oracle(&format!("fit/{name}-records.csv")) else {
            continue;
        };
        let Some(recording) = read(&format!("fit/{name}.fit")) else {
            continue;
        };
        // One file begins with a record that holds a time and nothing else; the oracle leaves it out, we keep it.
        let nothing = |sample: &&Sample| {
            **sample
                != Sample {
                    time_ms: sample.time_ms,
                    ..Sample::default()
                }
        };
        let samples: Vec<_> = recording.samples.iter().filter(nothing).collect();
        assert_eq!(samples.len(), rows.len(), "{name}");
        // Where the device wrote its mark for "no position", the oracle repeats the last one; we leave it out.
        let mut last = None;
        for (index, (sample, row)) in samples.into_iter().zip(&rows).enumerate() {
            last = sample.position.or(last);
            let sample = &Sample {
                position: last,
                ..*sample
            };
            for (column, expected) in header.iter().zip(row) {
                assert!(
                    matches(sample, column, expected.as_deref()),
                    "{name}, record {index}, {column}: {expected:?}, {sample:?}"
                );
            }
        }
    }
}

#[test]
fn rarer_files_are_read() {
    for path in [
        "fit/developer-types-sample.fit",
        "fit/sample_mulitple_header.fit",
        "fit/sample-activity-indoor-trainer.fit",
        "gpx/garmin_with_extensions.gpx",
        "gpx/wahoo_example.gpx",
        "gpx/with_accuracy.gpx",
    ] {
        let Some(recording) = read(path) else { continue };
        let summary = summarize(&recording.samples);
        eprintln!(
            "{path}: {} {:?} {:?} {:?} {:?}",
            recording.samples.len(),
            recording.sport,
            recording.device,
            recording.mended,
            recording.totals
        );
        eprintln!(
            "  {:?}",
            meridian_telemetry::domain::summary::Summary {
                splits: Vec::new(),
                ..summary
            }
        );
        assert!(!recording.samples.is_empty(), "{path}");
        let indoors = path.contains("indoor");
        assert_eq!(
            recording.samples.iter().all(|sample| sample.position.is_none()),
            indoors,
            "{path}"
        );
    }
}

#[test]
fn broken_files_are_refused_with_their_place() {
    if let Some(file) = data("fit/activity-unexpected-eof.fit") {
        let error = Format::Fit.read(&file).expect_err("must be refused");
        assert!(matches!(error, FormatError::Fit(FitError::CutOff { .. })), "{error}");
    }
    if let Some(file) = data("fit/activity-filecrc.fit") {
        let error = Format::Fit.read(&file).expect_err("must be refused");
        assert!(
            matches!(error, FormatError::Fit(FitError::Checksum { part: "data", .. })),
            "{error}"
        );
    }
    // Somebody's line-end conversion took 19 carriage returns out of this one.
    if let Some(file) = data("fit/strava-android-app-201.10-b1218918.fit") {
        let error = Format::Fit.read(&file).expect_err("must be refused");
        assert!(
            matches!(error, FormatError::Fit(FitError::CutOff { missing: 19, .. })),
            "{error}"
        );
    }
    if let Some(file) = data("fit/activity-settings-corruptheader.fit") {
        let error = Format::Fit.read(&file).expect_err("must be refused");
        // The first file in it is whole; the second has no header where one must be.
        assert_eq!(error, FormatError::Fit(FitError::NoHeader { offset: 771 }));
    }
    for path in [
        "gpx/badcharacter.xml",
        "gpx/empty_name_tag.gpx",
        "gpx/mousehole_to_paul.gpx",
        "gpx/outdooractive-export.gpx",
    ] {
        if let Some(file) = data(path) {
            eprintln!("{path}: {}", Format::Gpx.read(&file).expect_err("must be refused"));
        }
    }
}

#[test]
fn chunks_of_real_files_unpack_and_are_small() {
    for path in [
        "fit/garmin-edge-500-activity.fit",
        "fit/sample-activity-indoor-trainer.fit",
        "fit/developer-types-sample.fit",
        "gpx/garmin_with_extensions.gpx",
    ] {
        let (Some(recording), Some(file)) = (read(path), data(path)) else {
            continue;
        };
        let mut size = 0;
        for batch in recording.samples.chunks(3600) {
            let packed = chunk::encode(batch).expect("a batch");
            size += packed.len();
            assert_eq!(chunk::decode(&packed).as_deref(), Ok(batch));
        }
        let per_sample = |bytes: usize| bytes as f64 / recording.samples.len() as f64;
        eprintln!(
            "{path}: {:.1} bytes per sample of {:.1} in the file",
            per_sample(size),
            per_sample(file.len())
        );
        assert!(size * 3 < file.len(), "{path}: {size} of {}", file.len());
    }
}
