//! Two regions, each with keyring and replicator; consent is a switch, social a sink that keeps what it reads.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jiff::{SignedDuration, Timestamp};
use meridian_kit::client::ServiceClient;
use meridian_kit::db::TenantTx;
use meridian_kit::event::{Draft, Event, EventSource};
use meridian_kit::kafka::{Consumer, Failure, Handled, Handler, Topic};
use meridian_kit::service::{self, Parts};
use meridian_kit::subject_keys::{Create, KeyScope, Keyring};
use meridian_kit::testing::{Athlete, Database, Region, until};
use meridian_kit::tls::PeerId;
use meridian_kit::{Start, StartError};
use meridian_policy::{CompiledEdge, DataClass, Epoch};
use serde_json::{Value, json};
use uuid::Uuid;

pub const EDGE: &str = "stride-eu.workout-summary.us";
pub const SHARED: &str = "sh.meridian.workout.shared.v1";
pub const FIELDS: [&str; 3] = ["sport_type", "distance_meters", "start_day"];

/// What the consent service in a region's place answers.
#[derive(Clone, Default)]
pub struct Consent(Arc<Mutex<ConsentState>>);

#[derive(Default)]
struct ConsentState {
    granted: bool,
    away: bool,
    open: Vec<String>,
    asked: usize,
    most_asked: usize,
}

impl Consent {
    fn state(&self) -> std::sync::MutexGuard<'_, ConsentState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn grant(&self) {
        self.state().granted = true;
    }

    pub fn withdraw(&self) {
        self.state().granted = false;
    }

    /// Answers nothing, or answers again.
    pub fn be_away(&self, away: bool) {
        self.state().away = away;
    }

    /// How many deliveries were asked about in one question at most.
    pub fn most_asked(&self) -> usize {
        self.state().most_asked
    }

    pub fn asked(&self) -> usize {
        self.state().asked
    }

    pub fn open_permits(&self) -> usize {
        self.state().open.len()
    }

    pub fn router(&self) -> Router {
        async fn open(State(consent): State<Consent>, axum::Json(request): axum::Json<Value>) -> Response {
            assert_eq!(request["deliverer"], "replicator");
            assert_eq!(
                (&request["purpose"], &request["class"]),
                (&json!("cross-border-sharing"), &json!("workout-summary"))
            );
            let mut state = consent.state();
            let deliveries = request["deliveries"].as_array().map_or(0, Vec::len);
            state.asked += deliveries;
            state.most_asked = state.most_asked.max(deliveries);
            if state.away {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            let permits: Vec<Value> = (0..deliveries)
                .map(|_| {
                    if !state.granted {
                        return json!({"rule": "not-granted"});
                    }
                    let id = Uuid::new_v4().to_string();
                    state.open.push(id.clone());
                    json!({"permit_id": id})
                })
                .collect();
            axum::Json(json!({"valid_for_ms": 1500, "permits": permits})).into_response()
        }
        async fn close(State(consent): State<Consent>, axum::Json(request): axum::Json<Value>) {
            let closed = request["permits"].as_array().expect("permits").clone();
            consent.state().open.retain(|open| !closed.contains(&json!(open)));
        }
        Router::new()
            .route("/internal/permits/open", post(open))
            .route("/internal/permits/close", post(close))
            .with_state(self.clone())
    }
}

/// What a region's social has read from imports.events.
#[derive(Clone, Default)]
pub struct Sink(Arc<Mutex<Vec<(Event, Value)>>>);

impl Sink {
    pub fn copies(&self) -> Vec<(Event, Value)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for `count` copies.
    pub async fn arrived(&self, count: usize) -> Vec<(Event, Value)> {
        until(|| async { Some(self.copies()).filter(|copies| copies.len() >= count) })
            .await
            .unwrap_or_else(|| panic!("{} of {count} copies arrived", self.copies().len()))
    }

    pub async fn run(self, start: Start) -> Result<(), StartError> {
        start.database()?;
        let handler = SinkHandler {
            sink: self,
            keyring: start.keyring()?,
            replicator: start.client("replicator")?,
        };
        let consumer = Consumer::new(&start, &["imports.events"])?;
        service::serve(
            start,
            Parts::new(Router::new()).background("the sink", consumer.run(handler)),
        )
        .await
    }
}

struct SinkHandler {
    sink: Sink,
    keyring: Keyring,
    replicator: ServiceClient,
}

impl Handler for SinkHandler {
    async fn handle(&self, event: &Event, _: &mut TenantTx) -> Result<Handled, Failure> {
        let edge = event.edge.clone().ok_or_else(|| Failure::Dead("no edge".to_owned()))?;
        if event.kind == "sh.meridian.import.purged.v1" {
            let purged = {
                let mut copies = self.sink.0.lock().unwrap_or_else(PoisonError::into_inner);
                let before = copies.len();
                copies.retain(|(copy, _)| copy.edge.as_ref() != Some(&edge));
                before - copies.len()
            };
            let ack = json!({
                "tenant": event.tenant, "edge": edge, "purge_id": event.id, "sink": "social", "purged": purged,
            });
            self.replicator
                .post("/internal/purge-acks")
                .json(&ack)
                .idempotent()
                .send()
                .await?;
            return Ok(Handled::Done);
        }
        let payload: Value = event.open(&self.keyring).await?;
        self.sink
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((event.clone(), payload));
        Ok(Handled::Done)
    }
}

/// One region of the two.
pub struct Side {
    pub region: Region,
    pub consent: Consent,
    pub sink: Sink,
    pub database: Database,
    pub tenant: &'static str,
}

impl Side {
    async fn new(name: &'static str, tenant: &'static str) -> Self {
        let region = Region::new(name, &[tenant]).await;
        let topics = ["social.events", "imports.events"].map(Topic::events);
        region.kafka("social").ensure_topics(&topics).await.expect("the topics");
        region.run("keyring", meridian_keyring::run).await;
        let consent = Consent::default();
        region.serve("consent", consent.router()).await;
        let database = region.database("replicator", meridian_replicator::MIGRATIONS).await;
        region.database("social", &[]).await;
        Self {
            region,
            consent,
            sink: Sink::default(),
            database,
            tenant,
        }
    }

    async fn start(&self) {
        self.region.run("replicator", meridian_replicator::run).await;
        let sink = self.sink.clone();
        self.region.run("social", move |start| sink.run(start)).await;
    }

    pub fn athlete(&self) -> Athlete {
        self.region.athlete(self.tenant)
    }

    /// Puts a share of `athlete` on social.events, as social would.
    pub async fn share(&self, athlete: &Athlete, payload: &Value) -> Event {
        self.shares(athlete, payload, 1).await.pop().expect("one share")
    }

    /// As [`Side::share`], so many times.
    pub async fn shares(&self, athlete: &Athlete, payload: &Value, count: usize) -> Vec<Event> {
        let keyring = self.region.keyring("social");
        let key = keyring
            .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes)
            .await
            .expect("a key");
        let source = EventSource::new(self.region.name().parse().expect("a region"), "social");
        let producer = self.region.kafka("social").producer().expect("a producer");
        let (mut events, mut sent) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let draft = Draft {
                kind: SHARED,
                stream: Uuid::now_v7().to_string(),
                sequence: 1,
                class: DataClass::WorkoutSummary,
                epoch: athlete.epoch,
            };
            let event = Event::sealed(&source, draft, &key, payload).expect("an event");
            let (subject, bytes) = (athlete.subject.to_string(), event.to_bytes());
            let delivery = producer.enqueue("social.events", &subject, &bytes).await;
            sent.push(delivery.expect("room"));
            events.push(event);
        }
        for delivery in sent {
            delivery.await.expect("a send");
        }
        events
    }

    pub async fn count(&self, table: &'static str) -> i64 {
        let query = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar(query)
            .fetch_one(&self.database.superuser_pool())
            .await
            .expect("a count")
    }

    /// The evidence as the region operator reads it.
    pub async fn evidence(&self) -> Vec<Value> {
        let path = format!("/internal/evidence?tenant={}", self.tenant);
        let answer = self
            .region
            .client("region-operator", "replicator")
            .get(&path)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200);
        let page: Value = answer.json().await.expect("JSON");
        page["entries"].as_array().expect("entries").clone()
    }

    /// Bytes that the sockets for copies have taken, as the metrics say.
    pub async fn egress(&self) -> u64 {
        let text = self.region.metrics("replicator").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("meridian_replicator_egress_bytes_total"));
        let number = line.and_then(|line| line.split_whitespace().last());
        number.and_then(|number| number.parse().ok()).expect("the counter")
    }

    /// Waits for an entry of evidence of this kind and rule.
    pub async fn recorded(&self, kind: &str, rule: &str) -> Value {
        until(|| async {
            self.evidence()
                .await
                .into_iter()
                .find(|entry| entry["kind"] == kind && (rule.is_empty() || entry["rule"] == rule))
        })
        .await
        .unwrap_or_else(|| panic!("no {kind} by {rule} was recorded"))
    }
}

/// Both regions, and edges between them.
pub struct World {
    pub eu: Side,
    pub us: Side,
}

impl World {
    /// Two regions that know each other, with no edge.
    pub async fn without_edges() -> Self {
        let (eu, us) = tokio::join!(Side::new("eu", "stride-eu"), Side::new("us", "stride-us"));
        eu.region.add_peer(&us.region);
        us.region.add_peer(&eu.region);
        tokio::join!(eu.start(), us.start());
        Self { eu, us }
    }

    /// With the edge eu → us in force for an hour.
    pub async fn new() -> Self {
        let world = Self::without_edges().await;
        world.open(&edge(3600));
        world
    }

    /// Puts an edge into both policies.
    pub fn open(&self, edge: &CompiledEdge) {
        self.close(edge);
        let side = |name: &str| if name == "eu" { &self.eu } else { &self.us };
        side(edge.to.as_str())
            .region
            .change_policy(|policy| policy.imports.push(edge.clone()));
        side(edge.from.as_str())
            .region
            .change_policy(|policy| policy.exports.push(edge.clone()));
    }

    /// Takes an edge out of both policies.
    pub fn close(&self, edge: &CompiledEdge) {
        for side in [&self.eu, &self.us] {
            side.region.change_policy(|policy| {
                policy.exports.retain(|known| known.id != edge.id);
                policy.imports.retain(|known| known.id != edge.id);
            });
        }
    }

    /// eu's replicator as us sees it: any request along the border.
    pub fn eu_at_us(&self, caller: &str) -> ServiceClient {
        let expected = PeerId::new("us".parse().expect("a region"), "replicator");
        ServiceClient::peer(&self.eu.region.tls(caller), &self.us.region.url("replicator"), expected).expect("a client")
    }
}

/// Workout summaries, eu → us, lawful for so many seconds.
pub fn edge(seconds: i64) -> CompiledEdge {
    let now = Timestamp::now();
    serde_json::from_value(json!({
        "id": EDGE, "tenant": "stride-eu", "organization": "stride", "from": "eu", "to": "us",
        "exporter": "stride-europe", "importer": "stride-america",
        "importer_tenant": "stride-us", "class": "workout-summary", "purposes": ["cross-border-sharing"],
        "fields": FIELDS, "mechanism": "Certification", "instrument": "eu-us-dpf",
        "effective_from": now - SignedDuration::from_hours(1), "expires": now + SignedDuration::from_secs(seconds),
        "ends_with": "mechanism-expired", "pseudonymise": true, "onward": false, "needs_consent": true,
        "framework": "GDPR", "rule": "a certification is in force", "epoch": Epoch(1),
    }))
    .expect("an edge of the policy's shape")
}

/// The same, the other way.
pub fn edge_back(seconds: i64) -> CompiledEdge {
    let mut edge = edge(seconds);
    edge.id = "stride-us.workout-summary.eu".parse().expect("an edge");
    std::mem::swap(&mut edge.tenant, &mut edge.importer_tenant);
    std::mem::swap(&mut edge.from, &mut edge.to);
    edge
}

pub fn ride() -> Value {
    json!({
        "sport_type": "cycling", "distance_meters": 40123.5, "duration_sec": 3600, "ascent_meters": 512.0,
        "start_day": "2026-03-04", "title": "home and back",
    })
}

/// Long enough for a delivery that should not happen to have happened: several rounds of the exporter.
pub async fn several_rounds(side: &Side) {
    let mut asked = tokio::time::interval(Duration::from_millis(500));
    for _ in 0..5 {
        asked.tick().await;
    }
    drop(side.evidence().await);
}
