//! An athlete's keys, as the region's keyring gives them to its services, and what was sealed with them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use meridian_telemetry::synthetic::Recorded;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::PATIENCE;
use crate::athlete::Athlete;
use crate::world::Site;

/// What the athlete's values in eu are sealed for, as the services that seal them say.
pub(super) async fn contexts(site: &Site, athlete: &Athlete) -> Result<Vec<String>> {
    let subject = athlete.subject;
    let owned = format!("where tenant = '{}' and subject = '{subject}'", site.tenant);
    let chunks = format!("select 'telemetry.chunk:{subject}/' || track_id || '/' || batch_id from chunk {owned}");
    let chunks = site.query("telemetry", &chunks).await?;
    let tracks = format!("select 'telemetry.summary:{subject}/' || track_id from track_summary {owned}");
    let tracks = site.query("telemetry", &tracks).await?;
    let mut contexts: Vec<String> = chunks.lines().chain(tracks.lines()).map(str::to_owned).collect();
    ensure!(!contexts.is_empty(), "eu stores no chunk of the athlete's ride");
    contexts.push(format!("identity.account.user:{subject}"));
    contexts.extend((0..8).map(|version| format!("identity.user_event:{subject}:{version}")));
    Ok(contexts)
}

/// The keys themselves: all must be there.
pub(super) async fn keys(site: &Site, athlete: &Athlete, ride: &Recorded) -> Result<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    for answer in resolve(site, site.tenant, athlete, ride).await? {
        let key = answer["key"]
            .as_str()
            .with_context(|| format!("a key of the athlete is {}", answer["status"]))?;
        keys.push(STANDARD.decode(key).ok().context("a key is base64")?);
    }
    Ok(keys)
}

/// Asks the region's keyring as its telemetry service does, with that service's certificate, for the athlete's keys: the
/// personal one and those of the months in which the ride was.
pub(super) async fn resolve(site: &Site, tenant: &str, athlete: &Athlete, ride: &Recorded) -> Result<Vec<Value>> {
    let part = |name| site.secret("tls-telemetry", name);
    let identity = [part("tls.crt").await?, b"\n".to_vec(), part("tls.key").await?].concat();
    let (_forward, port) = forward(site, "pod/keyring-0", 8443).await?;
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&part("ca.crt").await?).context("the region's CA")?])
        .identity(reqwest::Identity::from_pem(&identity).context("telemetry's certificate")?)
        .resolve("keyring", ([127, 0, 0, 1], port).into())
        .timeout(Duration::from_secs(10))
        .build()
        .context("HTTP client")?;
    let mut scopes = vec!["personal".to_owned()];
    for sample in [ride.samples.first(), ride.samples.last()].into_iter().flatten() {
        let moment = Timestamp::from_millisecond(sample.time_ms)?.to_zoned(TimeZone::UTC);
        scopes.push(format!("location-{:04}-{:02}", moment.year(), moment.month()));
    }
    scopes.dedup();
    // Where there is no key none is made: this asks for what may not be there.
    let key = |scope: &str| json!({ "tenant": tenant, "subject": athlete.subject, "scope": scope, "create": false });
    let answer = http
        .post(format!("https://keyring:{port}/v1/keys/resolve"))
        .json(&json!({ "keys": scopes.iter().map(|scope| key(scope)).collect::<Vec<_>>() }))
        .send()
        .await?;
    let status = answer.status();
    ensure!(status == StatusCode::OK, "the keyring answers {status}");
    let mut answer: Value = answer.json().await?;
    serde_json::from_value(answer["keys"].take()).context("the keyring's answer")
}

/// `kubectl port-forward`, ended when dropped. It writes a line for every connection, so its output stays open.
type Forward = (Child, Lines<BufReader<ChildStdout>>);

async fn forward(site: &Site, pod: &str, port: u16) -> Result<(Forward, u16)> {
    let mut child = site
        .cluster
        .kubectl
        .command()
        .args(["-n", &site.namespace(), "port-forward", "--address", "127.0.0.1", pod])
        .arg(format!(":{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("kubectl cannot be started")?;
    let output = child.stdout.take().context("kubectl's output")?;
    let mut lines = BufReader::new(output).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line())
        .await
        .context("kubectl port-forward says nothing")??
        .context("kubectl port-forward ended at once")?;
    let local = line
        .split_once("127.0.0.1:")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
    Ok((
        (child, lines),
        local.with_context(|| format!("kubectl port-forward says {line:?}"))?,
    ))
}
