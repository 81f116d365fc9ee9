//! Puts the platform into the clusters: the chart in each, the demo's regions on the hub, and the proof that it works.

mod proved;
mod release;

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::cache::{Cache, Inputs, Key};
use crate::cluster::{self, CLUSTERS, Clusters, Spec, each};
use crate::images::app;
use crate::images::oci::Image;
use crate::on_path;
use crate::paths::Paths;
use crate::programs::Programs;
use crate::progress;
use crate::tools;
use crate::verify::Tally;

use release::Release;

/// The namespace of the operator, in every cluster.
const NAMESPACE: &str = "meridian-system";

/// How long the token controller of a member may take.
const TOKEN_LIMIT: Duration = Duration::from_secs(60);

/// Makes the platform's image of the built binary and loads it into every cluster.
///
/// # Errors
/// When it cannot be made or loaded.
pub fn image(paths: &Paths, cache: &Cache, programs: &Programs) -> Result<Image> {
    let image = app::image(paths, cache, &programs.meridian)?;
    cluster::load(paths, cache, "meridian", std::slice::from_ref(&image))?;
    Ok(image)
}

/// The platform in the clusters.
pub struct Deployed {
    /// Whether anything was not as it should be.
    changed: bool,
    /// Which demo it is: its clusters, and what is installed in them.
    demo: Key,
}

impl Deployed {
    /// The same, but nothing that was proved earlier counts.
    #[must_use]
    pub fn changed(mut self) -> Self {
        self.changed = true;
        self
    }
}

/// Installs or upgrades what is not as it should be.
///
/// # Errors
/// When a step fails; each names its log.
pub fn deploy(paths: &Paths, cache: &Cache, clusters: &Clusters, programs: &Programs) -> Result<Deployed> {
    let image = image(paths, cache, programs)?;
    let helm = tools::path(paths, cache, "helm")?;
    let kubectl = tools::path(paths, cache, "kubectl")?;
    let releases = CLUSTERS
        .iter()
        .map(|spec| Release::of(paths, (&helm, &kubectl), spec, &image, clusters))
        .collect::<Result<Vec<_>>>()?;
    let installed = each(releases.iter(), |release| {
        // A cluster that was just started may still say what was true before it stopped.
        if !clusters.changed && release.is_in_place() {
            return Ok(false);
        }
        release.install(paths).map(|()| true)
    })?;
    let members = CLUSTERS.iter().filter(|spec| spec.country.is_some());
    let given = each(members, |spec| {
        give_hub_access(&kubectl, spec)
            .with_context(|| format!("the hub cannot be given its kubeconfig for {}", spec.name))
    })?;
    let applied = apply_regions(paths, &kubectl)?;
    let parts = releases.iter().map(|release| release.inputs.short());
    let parts = parts.chain(clusters.containers.iter().map(String::as_str));
    Ok(Deployed {
        changed: clusters.changed || applied || installed.into_iter().chain(given).any(|changed| changed),
        demo: demo(parts, &region_folders(paths))?,
    })
}

/// Which demo this is: the parts that it is made of, and the policy that was applied to it. An `up` that was interrupted
/// after it had applied another policy has proved nothing under it, though the next finds it unchanged.
fn demo<'a>(parts: impl Iterator<Item = &'a str>, policy: &[PathBuf]) -> Result<Key> {
    let parts = parts.fold(Inputs::new(), |all, part| all.text("part", part));
    let all = policy.iter().try_fold(parts, |all, folder| all.folder(folder))?;
    Ok(all.key())
}

/// What is applied to the hub, in this order.
fn region_folders(paths: &Paths) -> [PathBuf; 2] {
    ["regions/jurisdictions", "regions/local"].map(|folder| paths.project.join(folder))
}

/// Gives the hub a kubeconfig for a member: the address that the member's node has on the clusters' network, its CA, and
/// the token of the service account that may write desired states there and nothing else. Tells whether it had another.
fn give_hub_access(kubectl: &Path, spec: &Spec) -> Result<bool> {
    let read = |context: &str, secret: &str, field: &str| {
        progress::output(
            Command::new(kubectl)
                .args(["--context", context, "--namespace", NAMESPACE])
                .args(["get", "secret", secret, "--ignore-not-found"])
                .args(["--output", &format!("jsonpath={{.data.{field}}}")]),
        )
    };
    let own = spec.context();
    let ca = read(&own, "meridian-hub-token", "ca\\.crt")?;
    // The token is written by a controller, some time after the Secret that asks for it.
    let deadline = Instant::now() + TOKEN_LIMIT;
    let token = loop {
        let token = read(&own, "meridian-hub-token", "token")?;
        if !token.trim().is_empty() {
            break token;
        }
        if Instant::now() > deadline {
            bail!("the service account has no token within {} s", TOKEN_LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    };
    let token = BASE64.decode(token.trim()).context("the hub's token is not base64")?;
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": spec.name,
        "clusters": [{"name": spec.name, "cluster": {
            "server": format!("https://{}:6443", spec.node()), "certificate-authority-data": ca.trim(),
        }}],
        "users": [{"name": "meridian-hub", "user": {"token": String::from_utf8_lossy(&token)}}],
        "contexts": [{"name": spec.name, "context": {"cluster": spec.name, "user": "meridian-hub"}}],
    });
    let (name, content) = (format!("member-{}", spec.name), BASE64.encode(kubeconfig.to_string()));
    if read("kind-hub", &name, "kubeconfig")?.trim() == content {
        return Ok(false);
    }
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {"kubeconfig": content},
    });
    apply(kubectl, "kind-hub", &secret.to_string()).map(|()| true)
}

/// Applies the demo's jurisdictions, parties, regions, tenants and pools to the hub, in the order of the files' names.
/// Tells whether one of them was not so before.
fn apply_regions(paths: &Paths, kubectl: &Path) -> Result<bool> {
    progress::step("applying regions/jurisdictions and regions/local", None, || {
        let mut apply = Command::new(kubectl);
        apply.args(["--context", "kind-hub", "apply"]);
        for folder in region_folders(paths) {
            apply.arg("--filename").arg(folder);
        }
        progress::output(&mut apply).map(|said| changed_any(&said))
    })
}

/// Whether `kubectl apply` changed an object: it says of each one what it did.
fn changed_any(said: &str) -> bool {
    let mut lines = said.lines().filter(|line| !line.trim().is_empty());
    lines.any(|line| !line.trim_end().ends_with(" unchanged"))
}

fn apply(kubectl: &Path, context: &str, manifest: &str) -> Result<()> {
    let mut command = Command::new(kubectl);
    command
        .args(["--context", context, "apply", "--server-side", "--force-conflicts"])
        .args(["--filename", "-"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let done = feed(&mut command, manifest)?;
    if !done.status.success() {
        bail!("kubectl apply: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

/// Runs a command with a text as its input.
fn feed(command: &mut Command, text: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .context("kubectl cannot be started")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).context("kubectl's input")?;
    }
    child.wait_with_output().context("kubectl")
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

/// What to prove.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    /// These rows; all, if none is named.
    pub rows: &'a [u8],
    /// Nothing was changed since an earlier run: rows that take long and were proved by it are not proved anew.
    pub again: bool,
    /// The rows about operating the platform too.
    pub operations: bool,
}

impl Wanted<'_> {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if !self.rows.is_empty() {
            let rows: Vec<String> = self.rows.iter().map(u8::to_string).collect();
            arguments.extend(["--rows".to_owned(), rows.join(",")]);
        }
        if self.again {
            arguments.push("--again".to_owned());
        }
        if self.operations {
            arguments.push("--operations".to_owned());
        }
        arguments
    }
}

/// Proves every row, except that on a demo which an earlier run proved to the end and in which nothing had to be changed
/// since, the proofs may leave out what takes long.
///
/// # Errors
/// When the proof cannot be run at all.
pub fn prove_all(
    paths: &Paths,
    cache: &Cache,
    programs: &Programs,
    deployed: &Deployed,
    operations: bool,
) -> Result<Tally> {
    let wanted = Wanted {
        again: !deployed.changed && proved::was(paths, &deployed.demo),
        operations,
        ..Wanted::default()
    };
    let counted = prove(paths, cache, programs, &wanted)?;
    proved::write(paths, &deployed.demo)?;
    Ok(counted)
}

/// Sends real traffic and prints the table of what was proved. Gives the closing counts.
///
/// # Errors
/// When the proof cannot be run at all.
pub fn prove(paths: &Paths, cache: &Cache, programs: &Programs, wanted: &Wanted<'_>) -> Result<Tally> {
    let mut command = Command::new(&programs.e2e);
    command
        .current_dir(&paths.project)
        .arg("--kubectl")
        .arg(tools::path(paths, cache, "kubectl")?)
        .arg("--folder")
        .arg(paths.target.join("meridian"))
        .arg("--xtask")
        .arg(env::current_exe().context("this program's own path")?)
        .args(wanted.arguments())
        .env("PATH", on_path::path(paths, cache, programs)?);
    // A proof stops nodes and kills processes: it must not go on when nobody waits for it.
    let done = progress::mortal(&command)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apply_that_says_unchanged_of_everything_changed_nothing() {
        assert!(!changed_any(
            "party.meridian.sh/a unchanged\nfitnessregion.meridian.sh/eu unchanged\n"
        ));
        assert!(changed_any(
            "party.meridian.sh/a unchanged\nfitnessregion.meridian.sh/eu configured\n"
        ));
        assert!(changed_any("party.meridian.sh/a created\n"));
        assert!(!changed_any(""));
    }

    #[test]
    fn another_policy_is_another_demo() {
        let folder = tempfile::tempdir().unwrap();
        let tenants = folder.path().join("40-tenants.yaml");
        let of = |container: &str| demo([container].into_iter(), &[folder.path().to_path_buf()]).unwrap();
        std::fs::write(&tenants, "fields: [sport_type]").unwrap();
        let before = of("a");
        assert_eq!(of("a"), before);
        assert_ne!(of("b"), before);
        std::fs::write(&tenants, "fields: [sport_type, title]").unwrap();
        assert_ne!(of("a"), before);
    }

    #[test]
    fn the_proof_is_told_which_rows_and_whether_anything_changed() {
        assert!(Wanted::default().arguments().is_empty());
        let some = Wanted {
            rows: &[2, 8],
            again: true,
            operations: true,
        };
        assert_eq!(some.arguments(), ["--rows", "2,8", "--again", "--operations"]);
    }
}
