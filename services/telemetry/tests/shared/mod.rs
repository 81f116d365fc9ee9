//! A region with telemetry and a writer in it, and how an athlete speaks to them.
#![allow(dead_code, reason = "each test file uses its part")]

use std::future::Future;
use std::time::Duration;

use meridian_kit::config::Secret;
use meridian_kit::testing::{Athlete, Client, Database, Region};
use meridian_telemetry::domain::sample::{Measured, Sample};
use meridian_telemetry::settings::Settings;
use serde_json::{Value, json};
use uuid::Uuid;

pub const TENANT: &str = "stride-eu";
/// The longest that a test waits for what should happen.
const PATIENCE: Duration = Duration::from_secs(150);

pub struct Scene {
    pub region: Region,
    pub database: Database,
    pub api: Client,
    pub athlete: Athlete,
}

impl Scene {
    /// Keyring, API and writer.
    pub async fn new() -> Self {
        let scene = Self::without_writer(Settings::default()).await;
        scene.start_writer().await;
        scene
    }

    pub async fn without_writer(settings: Settings) -> Self {
        let region = Region::new("eu", &[TENANT]).await;
        region.run("keyring", meridian_keyring::run).await;
        let database = region.database("telemetry", meridian_telemetry::MIGRATIONS).await;
        region
            .run("telemetry", |start| meridian_telemetry::run_with(start, settings))
            .await;
        let athlete = region.athlete(TENANT);
        let api = region.client("gateway", "telemetry");
        Self {
            region,
            database,
            api,
            athlete,
        }
    }

    pub async fn start_writer(&self) {
        let url = Secret::new(self.database.url());
        let start = self
            .region
            .start_with("telemetry-writer", |config| config.database_url = Some(url));
        self.region.run_start(start, meridian_telemetry::run_writer).await;
    }

    pub async fn send(&self, body: &Value) -> (u16, Value) {
        answer(
            self.api
                .post("/api/v1/telemetry")
                .bearer_auth(&self.athlete.token)
                .json(body),
        )
        .await
    }

    pub async fn read(&self, track: Uuid, query: &str) -> (u16, Value) {
        answer(
            self.api
                .get(&format!("/api/v1/tracks/{track}{query}"))
                .bearer_auth(&self.athlete.token),
        )
        .await
    }

    /// Reads a track once it says that it is complete.
    pub async fn complete(&self, track: Uuid) -> Value {
        eventually("the track is complete", || async {
            let (status, track) = self.read(track, "").await;
            (status == 200 && track["complete"] == true).then_some(track)
        })
        .await
    }

    pub async fn upload(&self, media_type: &str, file: Vec<u8>) -> (u16, Value) {
        let training = self.region.client("training", "telemetry");
        let request = training
            .post("/internal/tracks")
            .header("content-type", media_type)
            .header("meridian-tenant", TENANT)
            .header("meridian-subject", self.athlete.subject.to_string())
            .header("meridian-epoch", self.athlete.epoch.to_string())
            .body(file);
        answer(request).await
    }

    /// What a query of one number says, seen by the superuser.
    pub async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query)
            .fetch_one(&self.database.superuser_pool())
            .await
            .expect("a number")
    }

    pub async fn chunks(&self) -> i64 {
        self.number("select count(*) from chunk").await
    }

    pub async fn stored(&self) -> i64 {
        self.number("select coalesce(sum(count), 0)::bigint from chunk").await
    }

    /// A metric of a process, zero when it is not there.
    pub async fn metric(&self, service: &str, name: &str) -> f64 {
        let text = self.region.metrics(service).await;
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0.0)
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("text");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Waits until something holds.
pub async fn eventually<T, F, R>(what: &str, look: F) -> T
where
    F: Fn() -> R,
    R: Future<Output = Option<T>>,
{
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Samples as a device sends them, every field that was measured.
pub fn points(samples: &[Sample]) -> Vec<Value> {
    samples
        .iter()
        .map(|sample| {
            let measured = sample.measured();
            let mut point = json!({"t": sample.time_ms});
            for (name, value) in [
                ("lat", measured.lat),
                ("lon", measured.lon),
                ("alt", measured.altitude),
                ("speed", measured.speed),
                ("distance", measured.distance),
                ("temperature", measured.temperature),
            ] {
                if let Some(value) = value {
                    point[name] = json!(value);
                }
            }
            for (name, value) in [("hr", sample.heart_rate), ("cadence", sample.cadence)] {
                if let Some(value) = value {
                    point[name] = json!(value);
                }
            }
            if let Some(power) = sample.power {
                point["power"] = json!(power);
            }
            point
        })
        .collect()
}

/// Points as they are shown, back in whole units: what they were printed from, exactly.
pub fn samples(points: &Value) -> Vec<Sample> {
    let points = points.as_array().expect("points");
    points
        .iter()
        .map(|point| {
            let number = |name: &str| point.get(name).and_then(Value::as_f64);
            let measured = Measured {
                time_ms: point["t"].as_i64().expect("a time"),
                lat: number("lat"),
                lon: number("lon"),
                altitude: number("alt"),
                heart_rate: number("hr"),
                cadence: number("cadence"),
                power: number("power"),
                speed: number("speed"),
                distance: number("distance"),
                temperature: number("temperature"),
            };
            measured.check().expect("a plausible sample")
        })
        .collect()
}

/// Says where two tracks differ, without printing them.
pub fn assert_same(read: &[Sample], expected: &[Sample]) {
    let differs = read
        .iter()
        .zip(expected)
        .enumerate()
        .find(|(_, (read, expected))| read != expected);
    assert_eq!((read.len(), differs), (expected.len(), None));
}

pub fn batch(session: Uuid, batch: Uuid, samples: &[Sample]) -> Value {
    json!({"session_id": session, "batch_id": batch, "samples": points(samples)})
}
