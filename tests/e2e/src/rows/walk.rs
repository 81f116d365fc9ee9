//! Row 18, of the long runs alone: a random walk over the whole platform. Athletes come, share, consent and withdraw; a tenant
//! comes and goes; the edge is cut and put back; parts of both regions and the hub are killed with -9, and nobody waits until
//! they serve again. Clients repeat what was not answered, with the same key.
//!
//! After each cut us holds no copy once both sides have acknowledged it. At the end everything acknowledged is there; each
//! shared workout is in us once if it had to arrive, at most once if it could, and not at all if its athlete never consented;
//! the verifiers of both regions find nothing. `MERIDIAN_SEED` walks the same way again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::cut_edge::{self, LAWFUL, tenant_without_edges};
use super::operations::smuggled_row;
use super::shared_workout::{copies, edge_is_open, imported};
use super::{OPERATORS, Outcome, killed_parts, ready};
use crate::athlete::Athlete;
use crate::world::{Site, World, until};

const STEPS: usize = 60;
/// How long a client repeats one request, and how long what was shared may take to arrive at the end.
const PATIENCE: Duration = Duration::from_secs(180);
const ANSWER: Duration = Duration::from_secs(8);
/// The platform at work again after the walk.
const SETTLES: Duration = Duration::from_secs(300);
/// A tenant that comes and goes: at home in eu, and nothing of it leaves.
const GUEST: &str = "stride-guests";

/// What can be done next, each as often as it stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Comes,
    Shares,
    Consents,
    TurnsTheEdge,
    TurnsTheGuest,
    Kills,
    KillsTheHub,
}

const DICE: [Step; 20] = [
    Step::Comes,
    Step::Shares,
    Step::Shares,
    Step::Shares,
    Step::Shares,
    Step::Shares,
    Step::Shares,
    Step::Shares,
    Step::Consents,
    Step::Consents,
    Step::Consents,
    Step::Consents,
    Step::TurnsTheEdge,
    Step::TurnsTheGuest,
    Step::Kills,
    Step::Kills,
    Step::Kills,
    Step::Kills,
    Step::Kills,
    Step::KillsTheHub,
];

pub async fn prove(world: &World) -> Result<Outcome> {
    let seed = std::env::var("MERIDIAN_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    eprintln!("    MERIDIAN_SEED={seed}");
    let walked = tokio::select! {
        walked = walk(world, seed) => walked,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // Whatever was seen, the demo is put back as it was.
    apply(world, LAWFUL).await?;
    remove_guest(world).await?;
    walked
        .map(Outcome::Proved)
        .with_context(|| format!("MERIDIAN_SEED={seed} walks the same way again"))
}

async fn walk(world: &World, seed: u64) -> Result<String> {
    edge_is_open(world).await?;
    let mut walk = Walk {
        world,
        dice: StdRng::seed_from_u64(seed),
        reader: Athlete::register(&world.us, "Joe").await?,
        people: Vec::new(),
        shares: Vec::new(),
        open: true,
        guest: false,
        taken: BTreeMap::new(),
    };
    walk.comes().await?;
    for number in 1..=STEPS {
        let step = *DICE.choose(&mut walk.dice).context("there are steps")?;
        walk.take(step)
            .await
            .with_context(|| format!("step {number} of {STEPS}, {step:?}"))?;
        *walk.taken.entry(step).or_default() += 1;
    }
    walk.one_more_arrives().await.context("one more that has to arrive")?;
    walk.ends().await.context("after the walk")
}

/// An athlete, and whether there is a consent to sharing across borders.
struct Person {
    athlete: Athlete,
    consents: bool,
}

/// A workout whose sharing was acknowledged.
struct Share {
    person: usize,
    workout: String,
    /// No other workout of the walk has it.
    distance: f64,
    /// It was shared while the edge was open and with consent, and neither has ended since.
    must_arrive: bool,
    /// There was a consent when it was shared, or later.
    may_arrive: bool,
}

struct Walk<'a> {
    world: &'a World,
    dice: StdRng,
    reader: Athlete,
    people: Vec<Person>,
    shares: Vec<Share>,
    open: bool,
    guest: bool,
    taken: BTreeMap<Step, usize>,
}

impl Walk<'_> {
    async fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Comes => self.comes().await,
            Step::Shares => {
                let person = self.somebody();
                self.shares_of(person).await
            }
            Step::Consents => {
                let person = self.somebody();
                self.consents_of(person).await
            }
            Step::TurnsTheEdge => self.turns_the_edge().await,
            Step::TurnsTheGuest => self.turns_the_guest().await,
            Step::Kills => {
                let site = *[&self.world.eu, &self.world.us]
                    .choose(&mut self.dice)
                    .context("two regions")?;
                let part = killed_parts::kill_any(site, self.dice.random_range(0..1000)).await?;
                eprintln!("    {part} of {} killed", site.region);
                Ok(())
            }
            Step::KillsTheHub => kill_the_hub(self.world).await,
        }
    }

    async fn comes(&mut self) -> Result<()> {
        let athlete = until(PATIENCE, "a registration", || async {
            Athlete::register(&self.world.eu, "Ida").await.map(Some)
        })
        .await?;
        self.people.push(Person {
            athlete,
            consents: false,
        });
        Ok(())
    }

    fn somebody(&mut self) -> usize {
        self.dice.random_range(0..self.people.len())
    }

    async fn shares_of(&mut self, person: usize) -> Result<()> {
        // Exact in binary, and no ride that was uploaded has it.
        let distance =
            5_000.0 + f64::from(u32::try_from(self.shares.len())?) + self.dice.random_range(1..1024) as f64 / 1024.0;
        let Person { athlete, consents } = &self.people[person];
        let start = json!({ "sport_type": "running", "start_time": Timestamp::now().to_string() });
        let started = post(&self.world.eu, athlete, "/api/v1/workouts", &start).await?;
        let workout = started["workout_id"]
            .as_str()
            .context("a workout has an id")?
            .to_owned();
        let complete = json!({
            "command": "complete", "distance_meters": distance, "expected_version": started["version"],
        });
        post(
            &self.world.eu,
            athlete,
            &format!("/api/v1/workouts/{workout}/commands"),
            &complete,
        )
        .await?;
        let share = json!({ "workout_id": workout, "audience": "community" });
        post(&self.world.eu, athlete, "/api/v1/shares", &share).await?;
        self.shares.push(Share {
            person,
            workout,
            distance,
            must_arrive: *consents && self.open,
            may_arrive: *consents,
        });
        Ok(())
    }

    async fn consents_of(&mut self, number: usize) -> Result<()> {
        let person = &mut self.people[number];
        let action = if person.consents { "withdraw" } else { "grant" };
        let body = json!({ "purpose": "cross-border-sharing", "class": "workout-summary", "action": action });
        post(&self.world.eu, &person.athlete, "/api/v1/consents", &body).await?;
        person.consents = !person.consents;
        for share in self.shares.iter_mut().filter(|share| share.person == number) {
            share.must_arrive &= person.consents;
            share.may_arrive |= person.consents;
        }
        Ok(())
    }

    async fn turns_the_edge(&mut self) -> Result<()> {
        let world = self.world;
        self.open = !self.open;
        if self.open {
            apply(world, LAWFUL).await?;
            return until(PATIENCE, "the edge put back", || async {
                edge_is_open(world).await.map(Some)
            })
            .await;
        }
        let (at_eu, at_us) = (
            cut_edge::revision(&world.eu).await?,
            cut_edge::revision(&world.us).await?,
        );
        apply(world, &tenant_without_edges()?).await?;
        self.shares.iter_mut().for_each(|share| share.must_arrive = false);
        cut_edge::acknowledged(&world.eu, "exporter", at_eu).await?;
        cut_edge::acknowledged(&world.us, "importer", at_us).await?;
        let left = until(PATIENCE, "us's tables", || async { copies(&world.us).await.map(Some) }).await?;
        ensure!(
            left == (0, 0),
            "after both sides acknowledged the cut, us has {left:?} copies"
        );
        Ok(())
    }

    async fn turns_the_guest(&mut self) -> Result<()> {
        self.guest = !self.guest;
        if !self.guest {
            return remove_guest(self.world).await;
        }
        let guest = json!({
            "apiVersion": "meridian.sh/v1alpha1", "kind": "TenantDataResidency", "metadata": {"name": GUEST},
            "spec": {"organization": "stride", "tenant": GUEST, "home": {"region": "eu"}},
        });
        apply(self.world, &guest.to_string()).await
    }

    /// Shares with consent along an open edge, whatever the walk came to.
    async fn one_more_arrives(&mut self) -> Result<()> {
        if !self.open {
            let left = copies(&self.world.us).await?;
            ensure!(left == (0, 0), "the edge is cut, and us has {left:?} copies");
            self.turns_the_edge().await?;
        }
        let willing = self.people.iter().position(|person| person.consents);
        let person = willing.unwrap_or_default();
        if willing.is_none() {
            self.consents_of(person).await?;
        }
        self.shares_of(person).await
    }

    /// Waits until all is at rest, and holds it against what was acknowledged.
    async fn ends(&self) -> Result<String> {
        let world = self.world;
        ready(world, "fitnessregions,tenantdataresidencies,ingestpools", SETTLES).await?;
        for share in &self.shares {
            let athlete = &self.people[share.person].athlete;
            let path = format!("/api/v1/workouts/{}/summary", share.workout);
            let there = until(PATIENCE, "a workout", || async {
                athlete.get(&world.eu, &path).await.map(Some)
            })
            .await?;
            ensure!(
                there["status"] == "completed" && there["distance_meters"] == share.distance,
                "an acknowledged workout of {} m reads back as {there}",
                share.distance
            );
        }
        until(PATIENCE, "everything that was shared looked at", || async {
            cut_edge::consumed(&world.eu).await?;
            let waiting = world.eu.count("replicator", "select count(*) from delivery").await?;
            if waiting != 0 {
                bail!("{waiting} deliveries wait");
            }
            Ok(Some(()))
        })
        .await?;
        let arrived = until(PATIENCE, "what had to arrive", || async {
            let arrived = self.arrived().await?;
            for share in self.shares.iter().filter(|share| share.must_arrive) {
                if times(&arrived, share) == 0 {
                    bail!("a workout of {} m is not in us", share.distance);
                }
            }
            Ok(Some(arrived))
        })
        .await?;
        for share in &self.shares {
            let (there, most) = (times(&arrived, share), usize::from(share.may_arrive));
            ensure!(
                there <= most,
                "a workout of {} m is in us {there} times, and may be there {most} times",
                share.distance
            );
        }
        for site in [&world.eu, &world.us] {
            let run = smuggled_row::verify(site).await?;
            ensure!(
                run.code == 0,
                "the verifier of {} found {}",
                site.region,
                run.report["findings"]
            );
        }
        let had_to = self.shares.iter().filter(|share| share.must_arrive).count();
        let could = self.shares.iter().filter(|share| share.may_arrive).count();
        let there: usize = self.shares.iter().map(|share| times(&arrived, share)).sum();
        let steps: Vec<String> = self
            .taken
            .iter()
            .map(|(step, count)| format!("{step:?} {count}"))
            .collect();
        Ok(format!(
            "{}; {} workouts acknowledged and there, {there} of them in us ({had_to} had to be, {could} could), none twice; \
             verifiers of eu and us: nothing",
            steps.join(", "),
            self.shares.len(),
        ))
    }

    /// The distances of what is in us from eu. Each holds the edge's fields alone.
    async fn arrived(&self) -> Result<Vec<f64>> {
        let items = imported(&self.world.us, &self.reader).await?;
        items
            .iter()
            .map(|item| {
                let fields = item["workout"].as_object().context("an item has a workout")?;
                let allowed = ["distance_meters", "duration_sec", "sport_type", "start_day"];
                ensure!(
                    fields.keys().all(|field| allowed.contains(&field.as_str())),
                    "an item in us holds more than the edge lets out: {item}"
                );
                Ok(item["workout"]["distance_meters"].as_f64().unwrap_or_default())
            })
            .collect()
    }
}

#[expect(
    clippy::float_cmp,
    reason = "they are exact in binary and are passed on, not computed with"
)]
fn times(arrived: &[f64], share: &Share) -> usize {
    arrived.iter().filter(|distance| **distance == share.distance).count()
}

/// Sends until it is accepted: what was not answered, or with 5xx, with the same key; what is refused since a service has not
/// heard of it yet, with another.
async fn post(site: &Site, athlete: &Athlete, path: &str, body: &Value) -> Result<Value> {
    let (began, mut key) = (Instant::now(), Uuid::new_v4());
    loop {
        let request = athlete.request(site, Method::POST, path).json(body).timeout(ANSWER);
        let sent = request.header("Idempotency-Key", key.to_string()).send().await;
        let failed = match sent {
            Ok(answer) if answer.status().is_success() => match answer.json().await {
                Ok(told) => return Ok(told),
                Err(error) => format!("{error}"),
            },
            Ok(answer) => {
                let status = answer.status();
                let told = answer.text().await.unwrap_or_default();
                let unheard = status == StatusCode::NOT_FOUND || told.contains("workout-not-finished");
                if unheard {
                    key = Uuid::new_v4();
                }
                ensure!(unheard || status.is_server_error(), "POST {path}: {status}: {told}");
                format!("{status}: {told}")
            }
            Err(error) => format!("{error}"),
        };
        if began.elapsed() > PATIENCE {
            bail!(
                "POST {path}: not accepted within {} s; last: {failed}",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Applies until it is accepted: the webhook may be on its way back.
async fn apply(world: &World, manifest: &str) -> Result<()> {
    until(PATIENCE, "an accepted manifest", || async {
        let answer = world.hub.kubectl.apply(manifest).await?;
        if !answer.accepted {
            bail!("{}", answer.complaint);
        }
        Ok(Some(()))
    })
    .await
}

/// Waits until nothing of it is left: a deletion is done when every member has let it go.
async fn remove_guest(world: &World) -> Result<()> {
    let name = format!("tenantdataresidency/{GUEST}");
    until(SETTLES, "the guest gone", || async {
        let gone = ["delete", &name, "--ignore-not-found", "--timeout=60s"];
        world.hub.kubectl.run(&gone).await.map(|_| Some(()))
    })
    .await
}

/// Its process gets no time to end. Another pod takes its place: the kubelet would start a container that was killed before
/// only after a while.
async fn kill_the_hub(world: &World) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(world.hub.client.clone(), OPERATORS);
    let operators = ListParams::default().labels("app.kubernetes.io/name=meridian-operator");
    for pod in pods.list(&operators).await? {
        pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
            .await?;
    }
    Ok(())
}
