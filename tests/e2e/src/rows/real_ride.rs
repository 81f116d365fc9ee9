//! Row 3: a FIT file uploaded at eu: records in the file = samples stored, the track reads back value by value, the workout
//! has distance, ascent and heart rate. One file is made here, from a ride whose truth is known; real ones are taken from
//! `../shared/data/fit` where that folder is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::{Timestamp, ToSpan};
use meridian_telemetry::domain::sample::{Measured, Sample};
use meridian_telemetry::formats::Format;
use meridian_telemetry::synthetic::fit::{self, Encoding};
use meridian_telemetry::synthetic::{Recorded, Ride, Truth};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use crate::athlete::{Athlete, expect};
use crate::rows::Outcome;
use crate::world::{Site, World, until};

/// A ride that was uploaded, and what the platform says of it.
pub(super) struct Uploaded {
    pub(super) workout: Uuid,
    pub(super) summary: Value,
}

pub async fn prove(world: &World) -> Result<Outcome> {
    let eu = &world.eu;
    let athlete = Athlete::register(eu, "Rosa").await?;
    let ridden = ride();
    let Uploaded { summary, .. } = upload(eu, &athlete, &ridden).await?;
    like_the_truth(&summary, &ridden.truth)?;
    let own = format!(
        "{} records made = stored = read back; {:.1} km, {:.0} m up, {} bpm",
        ridden.samples.len(),
        number(&summary, "distance_meters")? / 1000.0,
        number(&summary, "ascent_meters")?,
        number(&summary, "avg_heart_rate")?
    );
    let real = match real_files()? {
        Some(files) => {
            let (mut records, mut read, mut refused) = (0, 0, 0);
            for file in &files {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                match real_file(eu, &athlete, file).await.with_context(|| name)? {
                    Some(samples) => (records, read) = (records + samples, read + 1),
                    None => refused += 1,
                }
            }
            format!("{read} real files with {records} records likewise, {refused} broken ones refused")
        }
        None => "no real files: ../shared/data/fit is not there".to_owned(),
    };
    Ok(Outcome::Proved(format!("{own}; {real}")))
}

/// A fresh ride of an hour that ended an hour ago. No two runs ride the same.
pub(super) fn ride() -> Recorded {
    let start = Timestamp::now() - 2.hours();
    Ride::outdoors(rand::random(), start.as_millisecond()).ride()
}

/// Uploads a ride as a FIT file and follows every record into the database and back.
pub(super) async fn upload(site: &Site, athlete: &Athlete, ride: &Recorded) -> Result<Uploaded> {
    followed(site, athlete, fit::write(&ride.samples, Encoding::Plain), &ride.samples).await
}

async fn followed(site: &Site, athlete: &Athlete, file: Vec<u8>, samples: &[Sample]) -> Result<Uploaded> {
    let answer = expect(upload_request(site, athlete, file), StatusCode::CREATED, "upload").await?;
    ensure!(
        answer["samples"] == samples.len(),
        "the file has {} records, the answer says {}",
        samples.len(),
        answer["samples"]
    );
    let track = id(&answer, "track_id")?;
    stored(site, athlete, track, samples.len()).await?;
    let back = read_back(site, athlete, track).await?;
    ensure!(
        back.len() == samples.len(),
        "{} samples of {} read back",
        back.len(),
        samples.len()
    );
    if let Some(index) = (0..samples.len()).find(|index| samples[*index] != back[*index]) {
        // Made for this proof or public: nobody's health is told here.
        bail!(
            "sample {index} was {:?} and reads back as {:?}",
            samples[index],
            back[index]
        );
    }
    let workout = id(&answer, "workout_id")?;
    let summary = athlete
        .get(site, &format!("/api/v1/workouts/{workout}/summary"))
        .await?;
    ensure!(
        summary["track_id"] == track.to_string(),
        "the workout names another track: {}",
        summary["track_id"]
    );
    Ok(Uploaded { workout, summary })
}

fn upload_request(site: &Site, athlete: &Athlete, file: Vec<u8>) -> RequestBuilder {
    athlete
        .request(site, Method::POST, "/api/v1/uploads")
        .header("Content-Type", "application/vnd.ant.fit")
        .body(file)
}

/// Waits until the writers have stored as many samples as the file has, and not one more.
async fn stored(site: &Site, athlete: &Athlete, track: Uuid, samples: usize) -> Result<()> {
    let sql = format!(
        "select coalesce(sum(count), 0) from chunk where tenant = '{}' and subject = '{}' and track_id = '{track}'",
        site.tenant, athlete.subject
    );
    let samples = u64::try_from(samples)?;
    let what = format!("{samples} stored samples of a track");
    until(Duration::from_secs(60), &what, || async {
        let sum = site.count("telemetry", &sql).await?;
        if sum < samples {
            bail!("{sum} are stored");
        }
        Ok(Some(()))
    })
    .await?;
    let sum = site.count("telemetry", &sql).await?;
    ensure!(
        sum == samples,
        "the file has {samples} records, the database {sum} samples"
    );
    Ok(())
}

/// The whole track through the public API.
async fn read_back(site: &Site, athlete: &Athlete, track: Uuid) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut from = String::new();
    loop {
        let page = athlete.get(site, &format!("/api/v1/tracks/{track}{from}")).await?;
        ensure!(page["complete"] == true, "the track says that it is not complete");
        for point in page["points"].as_array().context("a track has points")? {
            samples.push(sample(point)?);
        }
        match page["next"].as_i64() {
            Some(next) => from = format!("?from={next}"),
            None => return Ok(samples),
        }
    }
}

/// A point in the steps that devices record in (semicircles, millimetres), where equal means equal.
fn sample(point: &Value) -> Result<Sample> {
    let field = |name: &str| point[name].as_f64();
    let measured = Measured {
        time_ms: point["t"].as_i64().context("a point has a time")?,
        lat: field("lat"),
        lon: field("lon"),
        altitude: field("alt"),
        heart_rate: field("hr"),
        cadence: field("cadence"),
        power: field("power"),
        speed: field("speed"),
        distance: field("distance"),
        temperature: field("temperature"),
    };
    measured
        .check()
        .map_err(|wrong| anyhow::anyhow!("a point holds what no sensor can mean: {wrong:?}"))
}

/// The workout's totals against what really happened.
fn like_the_truth(summary: &Value, truth: &Truth) -> Result<()> {
    let near = |field: &str, expected: f64, tolerance: f64| {
        let got = number(summary, field)?;
        ensure!(
            (got - expected).abs() <= tolerance,
            "{field} is {got}, really it was {expected:.1} (± {tolerance:.1})"
        );
        Ok(())
    };
    near("distance_meters", truth.distance_meters, truth.distance_meters * 0.005)?;
    // A barometer drifts: a climb is known to a tenth or so.
    near("ascent_meters", truth.ascent_meters, truth.ascent_meters * 0.15)?;
    near("avg_heart_rate", truth.avg_heart_rate, 1.0)?;
    near("max_heart_rate", f64::from(truth.max_heart_rate), 0.0)
}

/// The FIT files of the folder, or none where it is absent.
fn real_files() -> Result<Option<Vec<PathBuf>>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/fit"));
    if !folder.is_dir() {
        return Ok(None);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "fit") {
            files.push(path);
        }
    }
    files.sort();
    Ok(Some(files))
}

/// Follows a real file and gives the number of its records; none where it is broken and was refused as that.
async fn real_file(site: &Site, athlete: &Athlete, path: &Path) -> Result<Option<usize>> {
    let file = fs::read(path)?;
    let Ok(recording) = Format::Fit.read(&file) else {
        let problem = expect(
            upload_request(site, athlete, file),
            StatusCode::UNPROCESSABLE_ENTITY,
            "upload",
        )
        .await?;
        ensure!(problem["code"] == "fit-unreadable", "refused as {}", problem["code"]);
        return Ok(None);
    };
    let samples = recording.samples;
    // What another program decoded from it. That program leaves out records that hold a time and nothing else.
    if let Ok(table) = fs::read_to_string(path.with_extension("").to_string_lossy().into_owned() + "-records.csv") {
        let rows = table.lines().filter(|line| !line.trim().is_empty()).count() - 1;
        let told = samples.iter().filter(|sample| {
            **sample
                != Sample {
                    time_ms: sample.time_ms,
                    ..Sample::default()
                }
        });
        ensure!(told.count() == rows, "another program found {rows} records");
    }
    let Uploaded { summary, .. } = followed(site, athlete, file, &samples).await?;
    let has = |measured: bool, field: &str| -> Result<()> {
        ensure!(
            !measured || number(&summary, field).is_ok(),
            "the file tells {field}, the workout does not"
        );
        Ok(())
    };
    has(
        samples.iter().any(|sample| sample.distance_tenth_mm > Some(0)),
        "distance_meters",
    )?;
    has(
        samples.iter().any(|sample| sample.altitude_mm.is_some()),
        "ascent_meters",
    )?;
    has(
        samples.iter().any(|sample| sample.heart_rate > Some(0)),
        "avg_heart_rate",
    )?;
    Ok(Some(samples.len()))
}

fn number(summary: &Value, field: &str) -> Result<f64> {
    summary[field]
        .as_f64()
        .with_context(|| format!("the workout has no {field}"))
}

fn id(answer: &Value, field: &str) -> Result<Uuid> {
    answer[field]
        .as_str()
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("the answer has no {field}"))
}
