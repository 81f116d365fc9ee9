//! What there is of a cluster before anything is done to it, whose it is, and what must happen to it.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Spec;
use crate::cache::Cache;
use crate::docker::docker;
use crate::images::PREFIX;
use crate::progress::output;

/// The container of a cluster's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub id: String,
    pub state: State,
    /// The name of the image that it was made from.
    pub image: String,
    /// The ports of this machine that it holds while it runs, that of its API server among them.
    pub ports: Vec<u16>,
    /// When it was last started, as RFC 3339 in UTC.
    pub started: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    Paused,
    Stopped,
    /// The engine cannot start it again.
    Broken,
}

/// What must happen to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Keep,
    Start,
    Resume,
    Make,
}

/// How long the engine may list a container that it is still making, or already removing, and not know it by its id.
const CHANGING: Duration = Duration::from_secs(30);

/// The cluster's container, when there is one.
///
/// # Errors
/// When the engine cannot be asked.
pub fn find(spec: &Spec) -> Result<Option<Found>> {
    let began = Instant::now();
    loop {
        let Some(id) = containers(spec)?.into_iter().next() else {
            return Ok(None);
        };
        let text = match output(&mut docker(["inspect", &id])) {
            Ok(text) => text,
            // An interrupted run leaves the engine at work for a moment.
            Err(_) if began.elapsed() < CHANGING => {
                thread::sleep(Duration::from_millis(200));
                continue;
            }
            Err(error) => return Err(error),
        };
        return read(&text)
            .map(Some)
            .with_context(|| format!("`docker inspect {id}` does not say what it is"));
    }
}

/// The containers that carry the label of kind's cluster of this name.
///
/// # Errors
/// When the engine cannot be asked.
pub fn containers(spec: &Spec) -> Result<Vec<String>> {
    let filter = format!("label={}={}", super::LABEL, spec.name);
    let listed = output(&mut docker([
        "ps",
        "--all",
        "--no-trunc",
        "--quiet",
        "--filter",
        &filter,
    ]))
    .context("the Docker Engine does not list its containers")?;
    Ok(listed.split_whitespace().map(str::to_owned).collect())
}

fn read(inspected: &str) -> Option<Found> {
    let all: Value = serde_json::from_str(inspected).ok()?;
    let about = all.get(0)?;
    let text = |pointer: &str| about.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let bindings = about.pointer("/HostConfig/PortBindings").and_then(Value::as_object);
    let mut ports: Vec<u16> = bindings
        .into_iter()
        .flat_map(|all| all.values())
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(|binding| binding.get("HostPort")?.as_str()?.parse().ok())
        // 0 asks the engine for any free port.
        .filter(|port| *port != 0)
        .collect();
    ports.sort_unstable();
    Some(Found {
        id: text("/Id")?,
        state: match text("/State/Status")?.as_str() {
            "running" | "restarting" => State::Running,
            "paused" => State::Paused,
            "exited" | "created" => State::Stopped,
            _ => State::Broken,
        },
        image: text("/Config/Image")?,
        ports,
        started: text("/State/StartedAt")?,
    })
}

impl Found {
    /// Whether the node is of an image that was built here.
    pub fn built_here(&self) -> bool {
        self.image.starts_with(&format!("{PREFIX}/"))
    }

    /// Whether this project made it: from an image of ours, or from a stock one and noted down.
    fn is_ours(&self, note: Option<&str>) -> bool {
        self.built_here() || note.is_some_and(|note| note == MAKING || note == self.id)
    }
}

/// Fails when somebody else made a cluster of this name: it would be removed with everything in it.
///
/// # Errors
/// One sentence that says how to get it out of the way.
pub fn refuse_foreign(cache: &Cache, spec: &Spec, found: Option<&Found>) -> Result<()> {
    if found.is_some_and(|found| !is_ours(cache, spec, found)) {
        bail!(
            "there is a kind cluster called {0} that this project did not make: remove it first \
             (`kind delete cluster --name {0}`)",
            spec.name
        );
    }
    Ok(())
}

/// Whether this project made what was found.
pub fn is_ours(cache: &Cache, spec: &Spec, found: &Found) -> bool {
    let note = fs::read_to_string(note(cache, spec)).ok();
    found.is_ours(note.as_deref().map(str::trim))
}

/// Fails while another program listens on a port that the cluster will need.
///
/// # Errors
/// One sentence that names the port.
pub fn check_ports(spec: &Spec, found: Option<&Found>) -> Result<()> {
    let (needed, held) = ports(spec, found);
    spec.check_ports(&needed, &held)
}

/// The ports that a cluster will need, and those of them that its own container holds now.
fn ports(spec: &Spec, found: Option<&Found>) -> (Vec<u16>, Vec<u16>) {
    let mut needed: Vec<u16> = spec.ports.iter().map(|(port, _)| *port).collect();
    match found {
        Some(found) if matches!(found.state, State::Running | State::Paused) => (needed, found.ports.clone()),
        Some(found) if found.state == State::Stopped => {
            needed.extend(&found.ports);
            needed.sort_unstable();
            needed.dedup();
            (needed, Vec::new())
        }
        _ => (needed, Vec::new()),
    }
}

/// What must happen; `whole` tells whether a running node was finished and of the wanted kind.
///
/// # Errors
/// Those of `whole`: a node that cannot be asked is not taken for a half-made one.
pub fn decide(found: Option<&Found>, whole: impl FnOnce() -> Result<bool>) -> Result<Action> {
    Ok(match found.map(|found| found.state) {
        Some(State::Running) if whole()? => Action::Keep,
        // Whether a stopped node is whole shows only once it runs again.
        Some(State::Stopped) => Action::Start,
        Some(State::Paused) => Action::Resume,
        Some(State::Running | State::Broken) | None => Action::Make,
    })
}

/// In the place of a container's id while it is being made.
pub const MAKING: &str = "making";

/// The file that says which container is ours.
fn note(cache: &Cache, spec: &Spec) -> PathBuf {
    cache.file("clusters", spec.name)
}

/// Notes which container is the cluster's, or that one is being made.
///
/// # Errors
/// When the note cannot be written.
pub fn write_note(cache: &Cache, spec: &Spec, text: &str) -> Result<()> {
    cache.folder("clusters")?;
    let file = note(cache, spec);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Forgets the cluster.
pub fn remove_note(cache: &Cache, spec: &Spec) {
    // There is none where nothing was made.
    let _ = fs::remove_file(note(cache, spec));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::CLUSTERS;

    fn inspected(state: &str, image: &str) -> Found {
        let text = serde_json::json!([{
            "Id": "abc", "Config": {"Image": image},
            "State": {"Status": state, "StartedAt": "2026-01-02T03:04:05.123Z"},
            "HostConfig": {"PortBindings": {
                "30443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8443"}],
                "6443/tcp": [{"HostIp": "127.0.0.1", "HostPort": "35671"}],
                "1/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}],
            }},
        }]);
        read(&text.to_string()).unwrap()
    }

    fn eu() -> &'static Spec {
        CLUSTERS.iter().find(|spec| spec.name == "eu").unwrap()
    }

    #[test]
    fn a_stopped_cluster_needs_the_port_of_its_api_server_too() {
        let stopped = inspected("exited", "meridian.local/node:1");
        assert_eq!(ports(eu(), Some(&stopped)), (vec![8443, 35671], vec![]));
        let running = inspected("running", "meridian.local/node:1");
        assert_eq!(ports(eu(), Some(&running)), (vec![8443], vec![8443, 35671]));
        assert_eq!(ports(eu(), None), (vec![8443], vec![]));
    }

    #[test]
    fn a_cluster_is_ours_by_its_image_or_by_the_note_of_it() {
        assert!(inspected("running", "meridian.local/node:1").is_ours(None));
        let stock = inspected("running", "kindest/node:v1.36.0");
        assert!(!stock.is_ours(None));
        assert!(!stock.is_ours(Some("def")));
        assert!(stock.is_ours(Some("abc")));
        assert!(stock.is_ours(Some(MAKING)));
    }

    #[test]
    fn what_happens_follows_from_the_state() {
        let action =
            |state: &str, whole: bool| decide(Some(&inspected(state, "meridian.local/node:1")), || Ok(whole)).unwrap();
        assert_eq!(action("running", true), Action::Keep);
        assert_eq!(action("running", false), Action::Make);
        assert_eq!(action("exited", false), Action::Start);
        assert_eq!(action("paused", false), Action::Resume);
        assert_eq!(action("dead", true), Action::Make);
        assert_eq!(decide(None, || panic!("nothing to ask")).unwrap(), Action::Make);
    }

    #[test]
    fn a_node_that_cannot_be_asked_is_not_made_anew() {
        let running = inspected("running", "meridian.local/node:1");
        assert!(decide(Some(&running), || anyhow::bail!("no answer")).is_err());
    }
}
