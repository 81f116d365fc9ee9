//! Row 2: the same athlete at the us gateway. With a valid token: 421 with the eu address, the body not read. Without one:
//! the same answer, in the same time, as for an account that does not exist.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::seq::SliceRandom;
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::athlete::{Athlete, login_request};
use crate::rows::Outcome;
use crate::world::{Site, World};

/// Logins timed per kind of account.
const ROUNDS: usize = 20;
/// How often they are timed anew: a difference that is there is there each time, one that a busy machine makes is not.
const TRIES: usize = 3;

pub async fn prove(world: &World) -> Result<Outcome> {
    let athlete = Athlete::register(&world.eu, "Ada").await?;
    let home = misdirected_before_the_body(&world.us, &athlete).await?;
    ensure!(home == world.eu.url, "421 names {home} as home, not {}", world.eu.url);

    let wrong = format!("{}x", athlete.token);
    let garbled = world
        .us
        .http
        .get(format!("{}/api/v1/me", world.us.url))
        .bearer_auth(wrong)
        .send()
        .await?;
    ensure!(
        garbled.status() == StatusCode::UNAUTHORIZED,
        "a garbled token got {}",
        garbled.status()
    );
    ensure!(
        !garbled.text().await?.contains(&world.eu.url),
        "the answer to a garbled token names the home"
    );

    let alike =
        |(known, unknown): (Duration, Duration)| (0.8..=1.25).contains(&(known.as_secs_f64() / unknown.as_secs_f64()));
    let mut medians = timed_logins(&world.us, &athlete).await?;
    for _ in 1..TRIES {
        if alike(medians) {
            break;
        }
        medians = timed_logins(&world.us, &athlete).await?;
    }
    let (known, unknown) = medians;
    ensure!(
        alike(medians),
        "logins at us take {known:?} for the EU athlete and {unknown:?} for an account that does not exist: a difference tells where an account lives"
    );
    Ok(Outcome::Proved(format!(
        "421 with home {home} before any of 1 MiB announced was sent; login as the EU athlete and as nobody: same bytes, median {:.1} ms and {:.1} ms over {ROUNDS} each",
        known.as_secs_f64() * 1e3,
        unknown.as_secs_f64() * 1e3
    )))
}

/// Announces a body, never sends it, and reads the answer all the same.
async fn misdirected_before_the_body(us: &Site, athlete: &Athlete) -> Result<String> {
    let host = us.url.trim_start_matches("https://");
    let request = format!(
        "POST /api/v1/workouts HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 1048576\r\n\r\n",
        athlete.token
    );
    let mut stream = crate::world::tls_stream(us).await?;
    stream.write_all(request.as_bytes()).await.context("sending the head")?;
    let mut answer = Vec::new();
    let mut part = [0_u8; 4096];
    let body = loop {
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut part))
            .await
            .context("no answer while the body was held back: the gateway waits for it")?
            .context("reading the answer")?;
        if read == 0 {
            bail!(
                "the gateway closed without a whole answer: {}",
                String::from_utf8_lossy(&answer)
            );
        }
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        ensure!(head.starts_with("HTTP/1.1 421"), "expected 421, got {head}");
        if let Ok(problem) = serde_json::from_str::<serde_json::Value>(body) {
            break problem;
        }
    };
    body["home"]
        .as_str()
        .map(str::to_owned)
        .context("the 421's problem body names no home")
}

/// Median time of a refused login with the athlete's own credentials and with those of nobody, in random order. The two
/// answers must be the same to the byte.
async fn timed_logins(us: &Site, athlete: &Athlete) -> Result<(Duration, Duration)> {
    let mut order: Vec<bool> = (0..ROUNDS * 2).map(|round| round % 2 == 0).collect();
    order.shuffle(&mut rand::rng());
    let (mut known, mut unknown, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    for as_athlete in order {
        let nobody = format!("{}@example.org", Uuid::new_v4().simple());
        let email = if as_athlete { &athlete.email } else { &nobody };
        let began = Instant::now();
        let answer = login_request(us, us.tenant, email, &athlete.password).send().await?;
        ensure!(
            answer.status() == StatusCode::UNAUTHORIZED,
            "login at us got {}",
            answer.status()
        );
        bodies.push(answer.text().await?);
        if as_athlete { &mut known } else { &mut unknown }.push(began.elapsed());
    }
    bodies.dedup();
    ensure!(bodies.len() == 1, "refused logins differ: {bodies:?}");
    Ok((median(known), median(unknown)))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
