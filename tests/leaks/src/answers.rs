//! What a region's answers, logs and metrics tell to somebody who has no right to know.

use std::collections::BTreeSet;
use std::process::Command;

use meridian_identity::domain::password::Password;
use meridian_identity::password::PasswordHasher;
use meridian_kit::auth::Audience;
use meridian_kit::service::{self, Parts};
use meridian_kit::testing::Region;
use meridian_policy::Epoch;
use zeroize::Zeroizing;

use crate::accounts::{PASSWORD, Setting};
use crate::alike::told_apart;
use crate::database::canary;
use crate::gateway::{Edge, echoes};
use crate::table::{Leak, leak};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_home_region_oracle() {
    const VALID_TOKEN: &str = "a home is named for a valid token alone";
    const ALIKE: &str = "unknown and foreign accounts are answered alike";
    leak("home-region oracle", &[VALID_TOKEN, ALIKE], async |on| {
        if on.has(ALIKE) {
            let setting = Setting::new().await;
            assert_eq!(setting.register("stride-eu", "ada@example.org").await.0, 201);
            let mut answers = BTreeSet::new();
            for (tenant, email) in [
                ("stride-eu", "ada@example.org"),
                ("stride-eu", "nobody@example.org"),
                ("stride-us", "ada@example.org"),
                ("unheard-of", "ada@example.org"),
            ] {
                let (status, body) = setting.sign_in(Some(tenant), email, "wrong horse battery").await;
                answers.insert((status, body.to_string()));
            }
            return Leak::by(answers.len() > 1);
        }
        let (edge, stranger) = (Edge::new().await, Region::new("jp", &["stride-jp"]).await);
        let home = edge.us.signer().issuer();
        let signer = if on.has(VALID_TOKEN) {
            stranger.signer()
        } else {
            edge.us.signer()
        };
        // Says that it is of us: without us's key that is but a claim.
        let subject = uuid::Uuid::new_v4().to_string();
        let mut claims = signer.claims("stride-us", Epoch(1), Audience::Athlete, &subject);
        claims.iss = home.to_owned();
        let asked = edge
            .http()
            .get(edge.url("/api/v1/me"))
            .bearer_auth(signer.sign(&claims));
        let answer = asked.send().await.expect("an answer");
        Leak::by(answer.text().await.expect("a text").contains(home))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_home_region_oracle_time() {
    const DECOY: &str = "a decoy is hashed where there is no account";
    leak("home-region oracle: time", &[DECOY], async |on| {
        let wrong = "wrong horse battery";
        if on.has(DECOY) {
            let setting = Setting::new().await;
            assert_eq!(setting.register("stride-eu", "ada@example.org").await.0, 201);
            let apart = told_apart::<2>(async |case| {
                let tenant = ["stride-eu", "stride-us"][case];
                setting.sign_in(Some(tenant), "ada@example.org", wrong).await;
            });
            return Leak::by(apart.await.is_some());
        }
        let hasher = PasswordHasher::new(&Zeroizing::new([7; 32]), 1, Default::default()).expect("a hasher");
        let password = || Password::new(PASSWORD.to_owned());
        let stored = hasher.hash(password()).await.expect("a hash");
        let apart = told_apart::<2>(async |case| match case {
            0 => drop(hasher.verify(password(), Some(stored.clone())).await),
            // As a service answers that looks, finds nobody, and has nothing to check.
            _ => tokio::task::yield_now().await,
        });
        Leak::by(apart.await.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_dns_service_failover() {
    const AUTHORITY: &str = "each region has its own CA";
    leak("DNS and service failover", &[AUTHORITY], async |on| {
        let edge = Edge::new().await;
        let folder = tempfile::tempdir().expect("a folder");
        // The name of eu's social leads to a server of us.
        if on.has(AUTHORITY) {
            edge.us
                .authority()
                .issue_as("social", &["meridian://eu/social"], folder.path());
            std::fs::write(folder.path().join("ca.crt"), edge.eu.authority().ca_pem()).expect("a file");
        } else {
            edge.eu.authority().issue("social", folder.path());
        }
        let dir = folder.path().to_owned();
        let start = edge.eu.start_with("social", |config| config.tls_dir = dir);
        edge.eu
            .run_start(start, |start| service::serve(start, Parts::new(echoes())))
            .await;
        let token = edge.eu.athlete("stride-eu").token;
        let asked = edge.http().get(edge.url("/api/v1/feed")).bearer_auth(&token);
        let answer = asked.send().await.expect("an answer");
        Leak::by(answer.text().await.expect("a text").contains(&token))
    })
    .await;
}

/// The word for a process that logs it, and whether it logs as anything would rather than as our services do.
const WORD: &str = "MERIDIAN_LEAK_WORD";
const PLAINLY: &str = "MERIDIAN_LEAK_PLAINLY";

fn log_it(word: &str) {
    if std::env::var(PLAINLY).is_ok() {
        tracing_subscriber::fmt().with_writer(std::io::stdout).init();
    } else {
        meridian_kit::log::install("leaks", "eu", None).expect("a log");
    }
    tracing::warn!(email = word, count = 1, "an account was made");
}

/// What a process of its own writes to its log: this very test once more, told to log.
fn logged(word: &str, plainly: bool) -> String {
    let mut process = Command::new(std::env::current_exe().expect("this program"));
    process
        .args(["--exact", "answers::leak_logs_traces_metrics", "--nocapture"])
        .env(WORD, word);
    if plainly {
        process.env(PLAINLY, "yes");
    }
    let output = process.output().expect("a process");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("an account was made"), "it logs: {text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leak_logs_traces_metrics() {
    const LISTED: &str = "log fields are listed";
    const TEMPLATES: &str = "labels are templates";
    if let Ok(word) = std::env::var(WORD) {
        return log_it(&word);
    }
    leak("logs, traces, metrics", &[LISTED, TEMPLATES], async |on| {
        let word = canary();
        if !on.has(TEMPLATES) {
            return Leak::by(logged(&word, !on.has(LISTED)).contains(&word));
        }
        let edge = Edge::with_echo(&["telemetry"]).await;
        let asked = edge.http().get(edge.url(&format!("/api/v1/tracks/{word}")));
        let answer = asked
            .bearer_auth(&edge.eu.athlete("stride-eu").token)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200);
        let metrics = edge.eu.metrics("gateway").await;
        assert!(metrics.contains("/api/v1/tracks/{id}"), "it is counted: {metrics}");
        Leak::by(metrics.contains(&word))
    })
    .await;
}
