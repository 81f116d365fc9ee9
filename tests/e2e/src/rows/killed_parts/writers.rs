//! One writer a service. Each repeats what was not answered, or answered with 5xx, with the same key and the same body, and
//! keeps what was acknowledged.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::{Timestamp, ToSpan};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::athlete::{Athlete, login_request};
use crate::marketer::Marketer;
use crate::world::Site;

/// How long a client repeats one request.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits for one answer.
const ANSWER: Duration = Duration::from_secs(8);
/// Between repetitions.
const AGAIN: Duration = Duration::from_millis(100);
/// Between writes: the writers are to write throughout, not to load the machine.
const PACE: Duration = Duration::from_millis(250);
/// Passwords are slow to check on purpose.
const ACCOUNTS_PACE: Duration = Duration::from_secs(1);
pub(super) const SAMPLES: usize = 10;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Account,
    Consent,
    Workout,
    Batch,
    Follow,
    Campaign,
}

impl Kind {
    pub const ALL: &[Self] = &[
        Self::Account,
        Self::Consent,
        Self::Workout,
        Self::Batch,
        Self::Follow,
        Self::Campaign,
    ];
}

/// What the writers and who kills tell each other.
pub struct Journal {
    /// When the writers are to stop.
    pub stop: Cell<bool>,
    /// Requests that were sent once more.
    pub repeated: Cell<usize>,
    /// Where the batches go.
    pub track: Uuid,
    last: [Cell<Option<Instant>>; 6],
    count: [Cell<usize>; 6],
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            stop: Cell::new(false),
            repeated: Cell::new(0),
            track: Uuid::new_v4(),
            last: Default::default(),
            count: Default::default(),
        }
    }
}

impl Journal {
    /// When the last acknowledged write was begun: the attempt that was answered.
    pub fn last(&self, kind: Kind) -> Option<Instant> {
        self.last[kind as usize].get()
    }

    /// Acknowledged writes.
    pub fn count(&self, kind: Kind) -> usize {
        self.count[kind as usize].get()
    }

    fn acknowledge(&self, kind: Kind, begun: Instant) {
        self.last[kind as usize].set(Some(begun));
        let count = &self.count[kind as usize];
        count.set(count.get() + 1);
    }
}

/// Who writes.
pub struct People {
    pub(super) athlete: Athlete,
    pub(super) marketing: Marketer,
}

impl People {
    /// An athlete, and the tenant's marketing client.
    pub async fn gather(site: &Site) -> Result<Self> {
        Ok(Self {
            athlete: Athlete::register(site, "Nora").await?,
            marketing: Marketer::sign_in(site).await?,
        })
    }
}

/// An answer, and whether it was asked for more than once.
struct Answer {
    status: StatusCode,
    body: Value,
    repeated: bool,
    begun: Instant,
}

/// A client that does not give up while the platform is away.
struct Client<'a> {
    site: &'a Site,
    people: &'a People,
    journal: &'a Journal,
}

impl Client<'_> {
    /// Sends until it is answered with one of these. Connections that break and 5xx are repeated; anything else is final.
    async fn send(&self, request: RequestBuilder, accepted: &[StatusCode]) -> Result<Answer> {
        let (began, mut repeated) = (Instant::now(), false);
        loop {
            let begun = Instant::now();
            let attempt = request
                .try_clone()
                .context("the body can be sent again")?
                .timeout(ANSWER);
            let failed = match answer(attempt).await {
                Ok((status, body)) if accepted.contains(&status) => {
                    return Ok(Answer {
                        status,
                        body,
                        repeated,
                        begun,
                    });
                }
                Ok((status, body)) if status.is_server_error() => format!("{status}: {body}"),
                Ok((status, body)) => bail!("{status}: {body}"),
                Err(error) => format!("{error:#}"),
            };
            if began.elapsed() > PATIENCE {
                bail!("not acknowledged within {} s; last: {failed}", PATIENCE.as_secs());
            }
            repeated = true;
            self.journal.repeated.set(self.journal.repeated.get() + 1);
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        let request = self.people.athlete.request(self.site, Method::POST, path);
        request.header("Idempotency-Key", Uuid::new_v4().to_string()).json(body)
    }

    async fn write(&self, kind: Kind, request: RequestBuilder, accepted: &[StatusCode]) -> Result<Answer> {
        let answer = self
            .send(request, accepted)
            .await
            .with_context(|| format!("{kind:?}"))?;
        self.journal.acknowledge(kind, answer.begun);
        Ok(answer)
    }

    fn goes_on(&self) -> bool {
        !self.journal.stop.get()
    }
}

async fn answer(request: RequestBuilder) -> Result<(StatusCode, Value)> {
    let answer = request.send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
}

/// What was acknowledged.
pub struct Written {
    pub(super) accounts: Vec<Account>,
    pub(super) receipts: Vec<String>,
    pub(super) workouts: BTreeMap<String, u64>,
    pub(super) batches: usize,
    pub(super) follows: BTreeSet<String>,
    pub(super) campaigns: BTreeMap<String, String>,
    pub(super) track: Uuid,
}

pub(super) struct Account {
    pub(super) email: String,
    pub(super) password: String,
    pub(super) subject: String,
    pub(super) bio: String,
    pub(super) version: u64,
}

/// Writes to every service until the journal says stop.
pub async fn write_all(site: &Site, people: &People, journal: &Journal) -> Result<Written> {
    let client = Client { site, people, journal };
    let (accounts, receipts, workouts, batches, follows, campaigns) = tokio::try_join!(
        accounts(&client),
        consents(&client),
        workouts(&client),
        batches(&client),
        follows(&client),
        campaigns(&client)
    )?;
    Ok(Written {
        accounts,
        receipts,
        workouts,
        batches,
        follows,
        campaigns,
        track: journal.track,
    })
}

/// Registers, logs in, changes the profile.
async fn accounts(client: &Client<'_>) -> Result<Vec<Account>> {
    let (site, mut accounts) = (client.site, Vec::new());
    while client.goes_on() {
        let email = format!("{}@example.org", Uuid::new_v4().simple());
        let password = format!("pass-{}", Uuid::new_v4());
        let body = json!({
            "email": email, "password": password, "first_name": "Nora", "last_name": "Proof",
            "country": site.country, "birth_year": 1990,
        });
        let request = site.http.post(format!("{}/api/v1/accounts", site.url)).json(&body);
        let request = request.header("Meridian-Tenant", site.tenant);
        let request = request.header("Idempotency-Key", Uuid::new_v4().to_string());
        let registered = client.write(Kind::Account, request, &[StatusCode::CREATED]).await?;

        let session = client.send(login_request(site, site.tenant, &email, &password), &[StatusCode::OK]);
        let token = text(&session.await.context("login")?.body, "access_token")?;
        let me = |method| {
            site.http
                .request(method, format!("{}/api/v1/me", site.url))
                .bearer_auth(&token)
        };
        let before = client
            .send(me(Method::GET), &[StatusCode::OK])
            .await
            .context("GET me")?
            .body;
        let version = number(&before, "version")?;
        let bio = format!("rides {}", Uuid::new_v4().simple());
        let change = me(Method::PATCH).json(&json!({ "expected_version": version, "bio": bio }));
        let change = change.header("Idempotency-Key", Uuid::new_v4().to_string());
        client.send(change, &[StatusCode::OK]).await.context("PATCH me")?;
        accounts.push(Account {
            email,
            password,
            subject: text(&registered.body, "subject")?,
            bio,
            version: version + 1,
        });
        tokio::time::sleep(ACCOUNTS_PACE).await;
    }
    Ok(accounts)
}

/// Grants and withdraws by turns.
async fn consents(client: &Client<'_>) -> Result<Vec<String>> {
    let mut receipts = Vec::new();
    for action in ["grant", "withdraw"].into_iter().cycle() {
        if !client.goes_on() {
            break;
        }
        let body = json!({ "purpose": "cross-border-sharing", "class": "workout-summary", "action": action });
        let request = client.post("/api/v1/consents", &body);
        let answer = client.write(Kind::Consent, request, &[StatusCode::CREATED]).await?;
        receipts.push(text(&answer.body, "receipt_id")?);
        tokio::time::sleep(PACE).await;
    }
    Ok(receipts)
}

/// Starts a workout, says how it goes, completes it. Gives each with its version.
async fn workouts(client: &Client<'_>) -> Result<BTreeMap<String, u64>> {
    let mut workouts = BTreeMap::new();
    while client.goes_on() {
        let start = json!({ "sport_type": "running", "start_time": Timestamp::now().to_string() });
        let request = client.post("/api/v1/workouts", &start);
        let started = client.write(Kind::Workout, request, &[StatusCode::CREATED]).await?;
        let id = text(&started.body, "workout_id")?;
        let mut version = number(&started.body, "version")?;
        for mut command in [
            json!({ "command": "update", "current_distance_meters": 120.0 }),
            json!({ "command": "pause" }),
            json!({ "command": "resume" }),
            json!({ "command": "complete", "distance_meters": 250.0 }),
        ] {
            command["expected_version"] = json!(version);
            let request = client.post(&format!("/api/v1/workouts/{id}/commands"), &command);
            let obeyed = client.write(Kind::Workout, request, &[StatusCode::OK]).await?;
            version = number(&obeyed.body, "version")?;
            tokio::time::sleep(PACE).await;
        }
        workouts.insert(id, version);
    }
    Ok(workouts)
}

async fn batches(client: &Client<'_>) -> Result<usize> {
    let start = (Timestamp::now() - 24.hours()).as_millisecond();
    let mut seconds = 0_i64..;
    let mut batches = 0;
    while client.goes_on() {
        let sample = |second: i64| json!({ "t": start + second * 1000, "hr": 120 + second % 60 });
        let samples: Vec<Value> = seconds.by_ref().take(SAMPLES).map(sample).collect();
        let body = json!({ "session_id": client.journal.track, "batch_id": Uuid::new_v4(), "samples": samples });
        let request = client.post("/api/v1/telemetry", &body);
        let answer = client.write(Kind::Batch, request, &[StatusCode::ACCEPTED]).await?;
        ensure!(
            answer.body["accepted"] == SAMPLES,
            "{} samples accepted",
            answer.body["accepted"]
        );
        batches += 1;
        tokio::time::sleep(PACE).await;
    }
    Ok(batches)
}

async fn follows(client: &Client<'_>) -> Result<BTreeSet<String>> {
    let mut follows = BTreeSet::new();
    while client.goes_on() {
        let subject = Uuid::new_v4().to_string();
        let request = client.post("/api/v1/follows", &json!({ "subject": subject }));
        let answer = client
            .write(Kind::Follow, request, &[StatusCode::CREATED, StatusCode::OK])
            .await?;
        ensure!(
            answer.repeated || answer.status == StatusCode::CREATED,
            "a new follow was there already"
        );
        follows.insert(subject);
        tokio::time::sleep(PACE).await;
    }
    Ok(follows)
}

/// Campaigns for nobody. Gives the title of each by its id.
async fn campaigns(client: &Client<'_>) -> Result<BTreeMap<String, String>> {
    let (site, mut campaigns) = (client.site, BTreeMap::new());
    while client.goes_on() {
        let title = format!("Brooms {}", Uuid::new_v4().simple());
        let name = format!("kept-{}-{}", client.journal.track.simple(), campaigns.len());
        let body = json!({ "name": name, "title": title, "body": "New.", "segment": { "sport_type": "curling" } });
        let request = site.http.post(format!("{}/api/v1/campaigns", site.url));
        let request = request.bearer_auth(&client.people.marketing.token).json(&body);
        let answer = client
            .write(Kind::Campaign, request, &[StatusCode::CREATED, StatusCode::OK])
            .await?;
        ensure!(
            answer.repeated || answer.status == StatusCode::CREATED,
            "a new campaign was there already"
        );
        campaigns.insert(text(&answer.body, "id")?, title);
        tokio::time::sleep(PACE).await;
    }
    Ok(campaigns)
}

pub(super) fn text(answer: &Value, field: &str) -> Result<String> {
    answer[field]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("the answer has no {field}"))
}

fn number(answer: &Value, field: &str) -> Result<u64> {
    answer[field]
        .as_u64()
        .with_context(|| format!("the answer has no {field}"))
}
