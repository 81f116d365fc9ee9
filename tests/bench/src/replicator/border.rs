//! Two regions with a broker each, and the edge between them. Their replicators, keyrings and consent are the platform's own
//! binary, each a process of its own; the policy comes from a feed as the region's operator serves it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};
use meridian_kit::db::Pool;
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::kafka::Topic;
use meridian_kit::subject_keys::{KeyRequest, KeyScope, SubjectKey};
use meridian_kit::testing::{Athlete, Client, Database, Region};
use meridian_policy::{CompiledEdge, DataClass, Epoch};
use serde_json::json;
use uuid::Uuid;

use super::service::Service;
use crate::Programs;

/// The topic that the exporter reads.
pub const SHARES: &str = "social.events";
/// The topic that the importer writes.
pub const IMPORTS: &str = "imports.events";
const SHARED: &str = "sh.meridian.workout.shared.v1";
/// Bytes of an event as it lies in the topic.
const EVENT_BYTES: usize = 1024;
const EU_TENANT: &str = "stride-eu";
/// The importing tenant.
pub const US_TENANT: &str = "stride-us";

/// The two regions with both replicators. Services stop before the regions do.
pub struct Border {
    /// What is measured: both replicators.
    pub ends: Vec<Service>,
    /// The importer's keyring.
    beyond: Service,
    /// The exporting region.
    pub eu: Exporting,
    /// The importing region.
    pub us: Region,
    /// The importer's rows.
    pub imports: Database,
}

/// The exporting region without its replicator.
pub struct Exporting {
    /// What a replicator asks: keyring and consent.
    pub asked: Vec<Service>,
    /// It.
    pub region: Region,
    /// The exporter's rows.
    pub exports: Database,
    /// Who sees every row of it.
    pub seen: Pool,
    /// Whose events are exported.
    pub athletes: Vec<Athlete>,
    keys: Vec<SubjectKey>,
}

/// The address in a variable that `cargo xtask bench` sets.
///
/// # Errors
/// When it is not set.
pub fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set; run cargo xtask bench replicator"))
}

impl Border {
    /// Lays out both regions with so many athletes, who all consent to sharing across the border.
    ///
    /// # Errors
    /// When a service does not start, or a consent is not taken.
    pub async fn new(programs: &Programs, folder: &Path, athletes: usize) -> Result<Self> {
        let other = variable("MERIDIAN_BENCH_OTHER_KAFKA")?;
        let us = Region::new("us", &[US_TENANT]).await;
        let eu = Exporting::new(programs, folder, athletes).await?;
        eu.region.add_peer(&us);
        us.add_peer(&eu.region);
        let edge = edge()?;
        us.change_policy(|policy| policy.imports.push(edge.clone()));
        eu.region.change_policy(|policy| policy.exports.push(edge));
        eu.consent_of_all("grant").await?;
        let imports = us.database("replicator", meridian_replicator::MIGRATIONS).await;
        let beyond = Service::of(&us, "keyring", &programs.meridian, folder, |_| {}).await?;
        let importer = Service::of(&us, "replicator", &programs.meridian, folder, |config| {
            config.kafka = meridian_kit::config::Brokers::Plain(other)
        })
        .await?;
        let ends = vec![importer, eu.replicator(programs, folder).await?];
        Ok(Self {
            ends,
            beyond,
            eu,
            us,
            imports,
        })
    }

    /// The processor time of all our processes since they started.
    ///
    /// # Errors
    /// When one has ended.
    pub fn used(&mut self) -> Result<Used> {
        let of = |service: &mut Service| Ok((service.name().to_owned(), service.cpu()?));
        let asked = self.eu.asked.iter_mut().chain([&mut self.beyond]);
        Ok(Used {
            ends: self.ends.iter_mut().map(of).collect::<Result<_>>()?,
            asked: asked.map(of).collect::<Result<_>>()?,
        })
    }
}

/// Processor time by process.
pub struct Used {
    ends: Vec<(String, Duration)>,
    asked: Vec<(String, Duration)>,
}

impl Used {
    /// What was used after another look at the same processes.
    pub fn since(mut self, before: &Self) -> Self {
        let processes = self.ends.iter_mut().chain(&mut self.asked);
        for ((_, used), (_, known)) in processes.zip(before.ends.iter().chain(&before.asked)) {
            *used -= *known;
        }
        self
    }

    /// By both replicators.
    pub fn by_ends(&self) -> Duration {
        self.ends.iter().map(|(_, used)| *used).sum()
    }

    /// By the services that they ask.
    pub fn by_asked(&self) -> Duration {
        self.asked.iter().map(|(_, used)| *used).sum()
    }
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, used) in self.ends.iter().chain(&self.asked) {
            write!(f, "{name} {used:?}, ")?;
        }
        Ok(())
    }
}

impl Exporting {
    /// Lays it out with so many athletes.
    ///
    /// # Errors
    /// When a service does not start.
    pub async fn new(programs: &Programs, folder: &Path, athletes: usize) -> Result<Self> {
        let region = Region::new("eu", &[EU_TENANT]).await;
        region.kafka("social").ensure_topics(&[Topic::events(SHARES)]).await?;
        let exports = region.database("replicator", meridian_replicator::MIGRATIONS).await;
        region.database("consent", meridian_consent::MIGRATIONS).await;
        let mut asked = Vec::new();
        for service in ["keyring", "consent"] {
            asked.push(Service::of(&region, service, &programs.meridian, folder, |_| {}).await?);
        }
        let mut exporting = Self {
            asked,
            athletes: (0..athletes).map(|_| region.athlete(EU_TENANT)).collect(),
            region,
            seen: exports.superuser_pool(),
            exports,
            keys: Vec::new(),
        };
        exporting.keys = exporting.keys_of_athletes().await?;
        Ok(exporting)
    }

    /// Starts the region's replicator.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn replicator(&self, programs: &Programs, folder: &Path) -> Result<Service> {
        Service::of(&self.region, "replicator", &programs.meridian, folder, |_| {}).await
    }

    async fn keys_of_athletes(&self) -> Result<Vec<SubjectKey>> {
        let request = |athlete: &Athlete| KeyRequest {
            tenant: athlete.tenant.clone(),
            subject: athlete.subject,
            scope: KeyScope::Personal,
            create: true,
        };
        let keys = self
            .region
            .keyring("social")
            .keys(self.athletes.iter().map(request).collect())
            .await?;
        Ok(keys.into_iter().collect::<Result<_, _>>()?)
    }

    /// Has every athlete grant or withdraw consent to sharing across the border.
    ///
    /// # Errors
    /// When one is not taken.
    pub async fn consent_of_all(&self, action: &str) -> Result<()> {
        let api = self.region.client("gateway", "consent");
        let changes = self.athletes.iter().map(|athlete| change(&api, athlete, action));
        futures::stream::iter(changes)
            .buffer_unordered(8)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(())
    }

    /// So many shared workouts of all athletes in turn, each of 1 KiB, with its record's key.
    ///
    /// # Errors
    /// When one cannot be sealed.
    pub fn events(&self, count: usize) -> Result<Vec<(String, Vec<u8>)>> {
        let source = EventSource::new(self.region.name().parse()?, "social");
        let padding = EVENT_BYTES - self.event(&source, 0, 0)?.len();
        // What is sealed is written in base64: four characters for three bytes.
        let padding = padding * 3 / 4;
        (0..count)
            .map(|number| {
                let of = number % self.athletes.len();
                Ok((self.athletes[of].subject.to_string(), self.event(&source, of, padding)?))
            })
            .collect()
    }

    fn event(&self, source: &EventSource, of: usize, padding: usize) -> Result<Vec<u8>> {
        let draft = Draft {
            kind: SHARED,
            stream: Uuid::now_v7().to_string(),
            sequence: 1,
            class: DataClass::WorkoutSummary,
            epoch: self.athletes[of].epoch,
        };
        let payload = json!({
            "sport_type": "cycling", "distance_meters": 40123.5, "duration_sec": 3600, "ascent_meters": 512.0,
            "start_day": "2026-03-04", "title": "t".repeat(padding),
        });
        Ok(Event::sealed(source, draft, &self.keys[of], &payload)?.to_bytes())
    }
}

/// Grants or withdraws consent to sharing across the border, as an athlete.
///
/// # Errors
/// When it is not taken.
pub async fn change(api: &Client, athlete: &Athlete, action: &str) -> Result<()> {
    let body = json!({"purpose": "cross-border-sharing", "class": "workout-summary", "action": action});
    let request = api.post("/api/v1/consents").bearer_auth(&athlete.token).json(&body);
    request.send().await?.error_for_status()?;
    Ok(())
}

/// Workout summaries from eu to us, as the demo's policy has them.
///
/// # Errors
/// Never: it has the policy's shape.
pub fn edge() -> Result<CompiledEdge> {
    let (from, to) = (SignedDuration::from_hours(-1), SignedDuration::from_hours(12));
    let now = Timestamp::now();
    Ok(serde_json::from_value(json!({
        "id": "stride-eu.workout-summary.us", "tenant": EU_TENANT, "organization": "stride", "from": "eu", "to": "us",
        "exporter": "stride-europe", "importer": "stride-america",
        "importer_tenant": US_TENANT, "class": "workout-summary", "purposes": ["cross-border-sharing"],
        "fields": ["sport_type", "distance_meters", "start_day"], "mechanism": "Certification", "instrument": "eu-us-dpf",
        "effective_from": now + from, "expires": now + to,
        "ends_with": "mechanism-expired", "pseudonymise": true, "onward": false, "needs_consent": true,
        "framework": "GDPR", "rule": "a certification is in force", "epoch": Epoch(1),
    }))?)
}
