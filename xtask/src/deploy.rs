//! Puts the platform into the clusters: the chart in each, the demo's regions on the hub, and the proof that it works.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::cache::Cache;
use crate::cluster::{self, CLUSTERS, Clusters, Spec};
use crate::images::app;
use crate::images::oci::Image;
use crate::paths::Paths;
use crate::progress::{self, Log};
use crate::tools;
use crate::verify::Tally;

/// The namespace of the operator, in every cluster.
const NAMESPACE: &str = "meridian-system";

/// Builds and loads the platform's image.
///
/// # Errors
/// When it does not build or cannot be loaded.
pub fn image(paths: &Paths, cache: &Cache) -> Result<Image> {
    let image = app::image(paths, cache)?;
    cluster::load(paths, cache, "meridian", std::slice::from_ref(&image))?;
    Ok(image)
}

/// Installs or upgrades everything, and runs the proof.
///
/// # Errors
/// When a step fails; each names its log.
pub fn deploy(paths: &Paths, cache: &Cache, clusters: &Clusters) -> Result<()> {
    let image = image(paths, cache)?;
    let chart = paths.project.join("charts/meridian");
    let helm = tools::path(paths, cache, "helm")?;
    let each = thread::scope(|scope| {
        let running: Vec<_> = CLUSTERS
            .iter()
            .map(|spec| {
                let (helm, chart, image) = (&helm, &chart, &image);
                scope.spawn(move || install(paths, helm, chart, spec, image, clusters))
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<Result<()>>>()
    });
    each.into_iter().collect::<Result<()>>()?;
    give_hub_access(paths, cache)?;
    apply_regions(paths, cache)
}

/// Installs the chart with the role that the cluster has.
fn install(paths: &Paths, helm: &Path, chart: &Path, spec: &Spec, image: &Image, clusters: &Clusters) -> Result<()> {
    let role = if spec.country.is_some() { "region" } else { "hub" };
    let log = Log::fresh(paths, &format!("helm-{}", spec.name))?;
    progress::step(
        &format!("installing the {role} role in {}", spec.name),
        Some(log.shown()),
        || {
            log.run(
                Command::new(helm)
                    .args(["upgrade", "--install", "meridian"])
                    .arg(chart)
                    .args([
                        "--kube-context",
                        &spec.context(),
                        "--namespace",
                        NAMESPACE,
                        "--create-namespace",
                    ])
                    .args([
                        "--set",
                        &format!("role={role}"),
                        "--set",
                        &format!("image.reference={}", image.tag),
                    ])
                    .args([
                        "--set",
                        &format!("dataPlane.postgresImage={}", clusters.data.postgres.tag),
                    ])
                    .args(["--set", &format!("dataPlane.kafkaImage={}", clusters.data.kafka.tag)])
                    .args(["--force-conflicts", "--wait", "--timeout", "180s"]),
            )
        },
    )
}

/// Gives the hub a kubeconfig for each member: the address that the member's node has on the clusters' network, its CA,
/// and the token of the service account that may write desired states there and nothing else.
fn give_hub_access(paths: &Paths, cache: &Cache) -> Result<()> {
    let kubectl = tools::path(paths, cache, "kubectl")?;
    for spec in CLUSTERS.iter().filter(|spec| spec.country.is_some()) {
        let read = |field: &str| {
            progress::output(
                Command::new(&kubectl)
                    .args([
                        "--context",
                        &spec.context(),
                        "--namespace",
                        NAMESPACE,
                        "get",
                        "secret",
                        "meridian-hub-token",
                    ])
                    .args(["--output", &format!("jsonpath={{.data.{field}}}")]),
            )
        };
        let (ca, token) = (read("ca\\.crt")?, read("token")?);
        let token = BASE64.decode(token.trim()).context("the hub's token is not base64")?;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": spec.name,
            "clusters": [{"name": spec.name, "cluster": {
                "server": format!("https://{}:6443", spec.node()), "certificate-authority-data": ca.trim(),
            }}],
            "users": [{"name": "meridian-hub", "user": {"token": String::from_utf8_lossy(&token)}}],
            "contexts": [{"name": spec.name, "context": {"cluster": spec.name, "user": "meridian-hub"}}],
        });
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": format!("member-{}", spec.name), "namespace": NAMESPACE},
            "stringData": {"kubeconfig": kubeconfig.to_string()},
        });
        apply(&kubectl, "kind-hub", &secret.to_string())
            .with_context(|| format!("the hub cannot be given its kubeconfig for {}", spec.name))?;
    }
    Ok(())
}

/// Applies the demo's jurisdictions, parties, regions, tenants and pools to the hub, in the order of the files' names.
fn apply_regions(paths: &Paths, cache: &Cache) -> Result<()> {
    let kubectl = tools::path(paths, cache, "kubectl")?;
    let log = Log::fresh(paths, "regions")?;
    progress::step(
        "applying regions/jurisdictions and regions/local",
        Some(log.shown()),
        || {
            for folder in ["regions/jurisdictions", "regions/local"] {
                log.run(
                    Command::new(&kubectl)
                        .args(["--context", "kind-hub", "apply", "--filename"])
                        .arg(paths.project.join(folder)),
                )?;
            }
            Ok(())
        },
    )
}

fn apply(kubectl: &Path, context: &str, manifest: &str) -> Result<()> {
    let mut child = Command::new(kubectl)
        .args([
            "--context",
            context,
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename",
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("kubectl cannot be started")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(manifest.as_bytes()).context("kubectl's input")?;
    }
    let done = child.wait_with_output().context("kubectl")?;
    if !done.status.success() {
        bail!("kubectl apply: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

/// Says where to go on from here.
///
/// # Errors
/// When kubectl cannot be had.
pub fn say_where(paths: &Paths, cache: &Cache) -> Result<()> {
    let kubectl = tools::path(paths, cache, "kubectl")?;
    for spec in CLUSTERS.iter().filter(|spec| spec.country.is_some()) {
        for (port, _) in spec.ports {
            let ca = paths.target.join(format!("meridian/{}-ca.crt", spec.name));
            progress::say(&format!(
                "{0}: https://{0}.meridian.localhost:{port} (CA: {1})",
                spec.name,
                paths.shown(&ca)
            ));
        }
    }
    progress::say(&format!(
        "contexts: kind-hub, kind-eu, kind-us; kubectl: {}",
        kubectl.display()
    ));
    Ok(())
}

/// Sends real traffic and prints the table of what was proved. Gives the closing counts.
///
/// # Errors
/// When the proof cannot be run at all.
pub fn prove(paths: &Paths, cache: &Cache, rows: &[u8]) -> Result<Tally> {
    let kubectl = tools::path(paths, cache, "kubectl")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(&paths.project)
        .args([
            "run",
            "--quiet",
            "--package",
            "meridian-e2e",
            "--bin",
            "meridian-e2e",
            "--",
            "--kubectl",
        ])
        .arg(kubectl)
        .arg("--folder")
        .arg(paths.target.join("meridian"));
    if !rows.is_empty() {
        let rows: Vec<String> = rows.iter().map(u8::to_string).collect();
        command.args(["--rows", &rows.join(",")]);
    }
    let done = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("the proof cannot be started")?;
    let text = String::from_utf8_lossy(&done.stdout);
    // The closing line is the caller's to print, once, with everything else that it counted.
    let (table, closing) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    #[expect(clippy::print_stdout, reason = "the table is what the command is run for")]
    {
        println!("{table}");
    }
    Tally::parse(closing).with_context(|| format!("the proof ended with {} and no closing line", done.status))
}
