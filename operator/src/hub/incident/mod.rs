//! PrivacyIncidents: opened for what a region's verifier finds, and the legal clocks of each.
//!
//! The hub opens an incident and writes its status, and nothing else: it changes no spec and deletes nothing, so what a
//! person has closed stays closed. Two controllers: by region, what is to be opened; by incident, how its clocks stand.
//!
//! | module | what it is for |
//! |---|---|
//! | [`found`] | a verifier's findings → incidents, by name (pure) |
//! | [`clocks`] | who has to be told by when (pure) |
//! | [`status`] | conditions and phase (pure) |
//! | [`admit`] | what is refused at `kubectl apply` (pure) |

pub(crate) mod admit;
pub(crate) mod clocks;
pub(crate) mod found;
mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use meridian_crds::{FitnessRegionSpec, PrivacyIncidentSpec};
use meridian_policy::{JurisdictionName, RegionName, TenantId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Hub;
use super::admission::named;
use super::adopt::claim::Holder;
use super::reports::News;
use super::source;
use crate::apply::{Applied, ApplyError, Purpose, observed};
use crate::conditions::Standing;
use crate::manifest::{
    FITNESS_REGION, JURISDICTION, NotAManifest, ObjectKey, PRIVACY_INCIDENT, REGION_STACK, TENANT_DATA_RESIDENCY,
};
use crate::reconcile::{Outcome, Pass, Queue};
use crate::trace;
use crate::watch::Cache;

use found::Incident;

/// Incidents of one region that are not closed. What is found beyond is in the region's own status, and opens one when others
/// are closed.
const MOST_OPEN: usize = 64;
/// When what could not be opened is tried again though no watch says so.
const AGAIN: Duration = Duration::from_secs(5);
/// A clock that turns later than this is looked at in between.
const LONGEST: Duration = Duration::from_hours(24);

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum IncidentError {
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The plan was not a manifest.
    #[error(transparent)]
    Plan(#[from] NotAManifest),
}

/// One pass over what a region's verifier says: opens what is not open yet, and has what is open looked at again.
///
/// # Errors
/// When an incident could not be opened.
pub async fn look(hub: Arc<Hub>, incidents: Queue<String>, region: String) -> Result<Pass, IncidentError> {
    let Some((name, stack)) = told(&hub, &region) else {
        return Ok(Pass::of(Outcome::Waiting));
    };
    let planned = found::incidents(&name, &stack["status"]["verified"]);
    let (open, changed) = to_look_at(&hub.cache, &name, &planned);
    changed.into_iter().for_each(|name| incidents.now(name));
    if planned.is_empty() {
        return Ok(Pass::of(Outcome::Steady));
    }
    if !hub.cache.is_synced(&[PRIVACY_INCIDENT]) {
        return Ok(Pass::of(Outcome::Waiting).again(AGAIN));
    }
    let (mut room, mut opened) = (MOST_OPEN.saturating_sub(open), 0);
    for incident in planned {
        let key = ObjectKey::cluster(PRIVACY_INCIDENT, &incident.name);
        if hub.cache.identity(&key).is_some() {
            continue;
        }
        let Some(laws) = laws_of(&hub, &name, &incident) else {
            return Ok(Pass::of(Outcome::Waiting).again(AGAIN));
        };
        if room == 0 {
            tracing::warn!(region = %region, count = MOST_OPEN, "no further incident is opened until others are closed");
            return Ok(Pass::of(Outcome::Waiting));
        }
        open_one(&hub, &incident.opened(&name, &stack, laws, Timestamp::now())?).await?;
        // What this process has written itself, no watch tells as news.
        incidents.now(incident.name);
        (room, opened) = (room - 1, opened + 1);
    }
    Ok(Pass::of(if opened == 0 {
        Outcome::Steady
    } else {
        Outcome::Progressed
    }))
}

/// The region's stack, where its member is known and this hub's.
fn told(hub: &Hub, region: &str) -> Option<(RegionName, Value)> {
    let name: RegionName = region.parse().ok()?;
    let object = hub.cache.get(&ObjectKey::cluster(FITNESS_REGION, region))?;
    let spec = FitnessRegionSpec::deserialize(&object.data["spec"]).ok()?;
    let member = hub.members.get(&spec.primary()?.name)?;
    if !member.is_known() || member.holder() != Holder::Us {
        return None;
    }
    let stack = member.cache().get(&ObjectKey::cluster(REGION_STACK, region))?;
    let told = json!({"status": {
        "verified": stack.data["status"]["verified"], "evidence": stack.data["status"]["evidence"],
    }});
    Some((name, told))
}

/// There may be one of that name that the cache does not show yet: then that is the incident, as it is.
async fn open_one(hub: &Hub, manifest: &crate::manifest::Manifest) -> Result<(), ApplyError> {
    match hub.applier.create(Purpose::HubIncident, manifest).await {
        Err(error) if error.is_there_already() => Ok(()),
        other => other,
    }
}

/// Of a region's incidents: how many are not closed, and the names of those whose status may say something else now: a closed
/// one's, where it says another number than is found.
fn to_look_at(cache: &Cache, region: &RegionName, planned: &[Incident]) -> (usize, Vec<String>) {
    let (mut open, mut names) = (0, Vec::new());
    for (key, object) in cache.of_kind(PRIVACY_INCIDENT) {
        if object.data["spec"]["region"] != region.as_str() {
            continue;
        }
        let status = &object.data["status"];
        let is_closed = status["phase"] == "Closed";
        open += usize::from(!is_closed);
        if !is_closed || status["stillFound"] != found::count(&key.name, planned) {
            names.push(key.name);
        }
    }
    (open, names)
}

/// Whose laws are concerned: that of the region and those of the tenants' homes. Where it is not known whose data it is, of
/// everybody whose data may be there. None while that cannot be told.
fn laws_of(hub: &Hub, region: &RegionName, incident: &Incident) -> Option<BTreeSet<JurisdictionName>> {
    let homes: Option<BTreeSet<RegionName>> = incident.tenants.iter().map(|tenant| home_of(hub, tenant)).collect();
    let homes = match homes {
        Some(homes) if !homes.is_empty() => homes,
        _ => {
            let compiled = hub.newest.get()?;
            let arriving = compiled.policy.edges().filter(|edge| edge.to == *region);
            arriving.map(|edge| edge.from.clone()).collect()
        }
    };
    let regions = homes.iter().chain([region]);
    Some(regions.filter_map(|region| law_of(hub, region)).collect())
}

fn law_of(hub: &Hub, region: &RegionName) -> Option<JurisdictionName> {
    let object = hub.cache.get(&ObjectKey::cluster(FITNESS_REGION, region.as_str()))?;
    object.data["spec"]["jurisdiction"].as_str()?.parse().ok()
}

fn home_of(hub: &Hub, tenant: &TenantId) -> Option<RegionName> {
    let object = hub
        .cache
        .get(&ObjectKey::cluster(TENANT_DATA_RESIDENCY, tenant.as_str()))?;
    object.data["spec"]["home"]["region"].as_str()?.parse().ok()
}

/// One pass over an incident: its clocks.
///
/// # Errors
/// When the status could not be written.
pub async fn reconcile(hub: Arc<Hub>, name: String) -> Result<Pass, IncidentError> {
    let key = ObjectKey::cluster(PRIVACY_INCIDENT, &name);
    let Some(object) = hub.cache.get(&key) else {
        hub.metrics.incident_gone(&name);
        hub.reports.forget(&key);
        return Ok(Pass::of(Outcome::Gone));
    };
    let object = observed(&object);
    trace::about(&object);
    let now = Timestamp::now();
    let spec = match PrivacyIncidentSpec::deserialize(&object["spec"]) {
        Ok(spec) => spec,
        Err(error) => return unreadable(&hub, &key, &object, &error).await,
    };
    let laws = named(source::specs(&hub.cache, JURISDICTION));
    let concerned = clocks::concerned(&spec, |region| law_of(&hub, region), |tenant| home_of(&hub, tenant));
    let clocks = clocks::clocks(&spec, &concerned, &laws, now);
    let still = told(&hub, spec.region.as_str())
        .and_then(|(region, stack)| found::still_found(&name, &region, &stack["status"]["verified"]));
    let mut status = status::rest(&spec, &clocks, still);
    status["observedGeneration"] = object["metadata"]["generation"].clone();
    status["conditions"] = json!(hub.conditions(&object, &status::observations(&spec, &clocks)));
    let written = hub
        .applier
        .apply_status(&key, &object["status"], status.clone())
        .await?;
    if let Some(news) = News::of_incident(&status) {
        hub.reports.tell(&key, &object, news).await;
    }
    match status["phase"] == "Closed" {
        true => hub.metrics.incident_gone(&name),
        false => hub
            .metrics
            .incident_open(&name, spec.region.as_str(), status::next_due(&clocks)),
    }
    let pass = Pass::of(match written {
        Applied::Unchanged => Outcome::Steady,
        Applied::Created | Applied::Changed => Outcome::Progressed,
    });
    let turns = clocks::turns_at(&spec, &clocks, now);
    let until = turns.and_then(|at| Duration::try_from(at.duration_since(Timestamp::now())).ok());
    // A moment late, so that it has turned; one that has turned meanwhile is looked at now.
    let again = turns.map(|_| until.unwrap_or_default().min(LONGEST) + Duration::from_millis(100));
    Ok(again.map_or(pass, |delay| pass.again(delay)))
}

/// The definition lets none through that cannot be read; an older one of another version might.
async fn unreadable(
    hub: &Hub,
    key: &ObjectKey,
    object: &Value,
    error: &serde_json::Error,
) -> Result<Pass, IncidentError> {
    let standing = Standing::Failed {
        reason: "Invalid",
        message: format!("spec cannot be read: {error}"),
    };
    let status = json!({
        "observedGeneration": object["metadata"]["generation"],
        "conditions": hub.conditions(object, &standing.observations()),
    });
    hub.applier.apply_status(key, &object["status"], status).await?;
    Ok(Pass::of(Outcome::Refused))
}
