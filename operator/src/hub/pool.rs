//! IngestPool → a copy of it in the member of its region, and the member's status back.

use std::sync::Arc;

use meridian_policy::RegionName;
use serde_json::{Value, json};

use super::adopt::claim::Holder;
use super::departure::FINALIZER;
use super::members::{Health, Member};
use super::source::Departing;
use super::{Hub, source};
use crate::apply::{Applied, ApplyError, Purpose, observed};
use crate::conditions::{Observation, Standing};
use crate::finalizer;
use crate::manifest::{
    FITNESS_REGION, INGEST_POOL, MANAGED_BY, MANAGED_BY_LABEL, Manifest, NotAManifest, OWNER_UID_LABEL, ObjectKey,
    REGION_LABEL,
};
use crate::reconcile::{Outcome, Pass};
use crate::trace;

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The plan was not a manifest.
    #[error(transparent)]
    Plan(#[from] NotAManifest),
}

/// One pass over a pool.
///
/// # Errors
/// When the copy or the status could not be written.
pub async fn reconcile(hub: Arc<Hub>, name: String) -> Result<Pass, PoolError> {
    let key = ObjectKey::cluster(INGEST_POOL, &name);
    let Some(object) = hub.cache.get(&key) else {
        hub.reports.forget(&key);
        return Ok(Pass::of(Outcome::Gone));
    };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let object = observed(&object);
    trace::about(&object);
    let region = object["spec"]["region"].as_str().unwrap_or_default().to_owned();
    if finalizer::is_deleting(&object) {
        return leave(&hub, &key, &object, &region).await;
    }
    let member = member_of(&hub, &region);
    let departing = Departing::of(&hub.cache)
        .regions
        .iter()
        .any(|name| name.as_str() == region);
    let copied = match &member {
        // A region that is being deleted takes its copies away; see `region::removal`.
        Some(member) if member.is_known() && member.holder() == Holder::Us && !departing => {
            let copy = copy(&name, &region, &uid, &object)?;
            // From here on the member holds something of the pool.
            match finalizer::hold(&hub.applier, &key, &object, FINALIZER).await {
                Ok(()) => member.applier.apply(Purpose::HubPool, &copy).await,
                Err(error) => Err(error),
            }
        }
        _ => Ok(Applied::Unchanged),
    };
    let held = member
        .as_ref()
        .and_then(|member| member.cache().get(&key))
        .map(|held| observed(&held))
        .unwrap_or(Value::Null);
    let status = status(&hub, &region, &object, &held, member.as_deref(), &copied);
    hub.applier
        .apply_status(&key, &object["status"], status.clone())
        .await?;
    hub.tell(&key, &object, &status, copied.as_ref().err()).await;
    Ok(Pass::of(match copied? {
        Applied::Unchanged => Outcome::Steady,
        Applied::Created | Applied::Changed => Outcome::Progressed,
    }))
}

/// One pass over a pool that is being deleted: its copy goes first. A region that is gone has taken it with it.
async fn leave(hub: &Hub, key: &ObjectKey, object: &Value, region: &str) -> Result<Pass, PoolError> {
    if !finalizer::is_held(object, FINALIZER) {
        return Ok(Pass::of(Outcome::Gone));
    }
    let Some((reason, message)) = what_remains(hub, key, region).await? else {
        finalizer::release(&hub.applier, key, object, FINALIZER).await?;
        return Ok(Pass::of(Outcome::Gone));
    };
    let mut observations = Standing::InProgress(message.clone()).observations();
    observations.push(Observation::new("Removable", false, reason, message));
    let mut status = match &object["status"] {
        Value::Null => json!({}),
        status => status.clone(),
    };
    status["observedGeneration"] = object["metadata"]["generation"].clone();
    status["conditions"] = json!(hub.conditions(object, &observations));
    let written = hub.applier.apply_status(key, &object["status"], status).await?;
    Ok(Pass::of(match written {
        Applied::Unchanged => Outcome::Waiting,
        Applied::Created | Applied::Changed => Outcome::Progressed,
    }))
}

/// Takes the copy out of the member, and says what that waits for: reason and message. Nothing when it is gone.
async fn what_remains(hub: &Hub, key: &ObjectKey, region: &str) -> Result<Option<(&'static str, String)>, ApplyError> {
    if hub
        .cache
        .identity(&ObjectKey::cluster(FITNESS_REGION, region))
        .is_none()
    {
        return Ok(None);
    }
    let unasked = |cause: String| {
        let message = format!(
            "the member of region {region} cannot be asked for its copy: {cause}; bring it back, or, if it is gone for good, \
             take the finalizer {FINALIZER} off by hand"
        );
        Ok(Some(("MemberUnreachable", message)))
    };
    let Some(member) = member_of(hub, region) else {
        return unasked("it is not connected".to_owned());
    };
    if let Health::Unreachable(cause) = member.health() {
        return unasked(cause);
    }
    if !member.is_known() || member.holder() != Holder::Us {
        return unasked("it has not been listed yet, or another hub writes there".to_owned());
    }
    let Some(copy) = member.cache().get(key) else {
        return Ok(None);
    };
    let label = |name: &str| copy.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    if label(REGION_LABEL).is_none_or(|of| of != region) || label(MANAGED_BY_LABEL).is_none_or(|by| by != MANAGED_BY) {
        return Ok(None);
    }
    if copy.metadata.deletion_timestamp.is_none() {
        member.applier.delete(key, copy.metadata.uid.clone()).await?;
    }
    Ok(Some((
        "Removing",
        format!("its copy is being removed from the member of region {region}"),
    )))
}

fn member_of(hub: &Hub, region: &str) -> Option<Arc<Member>> {
    let name: RegionName = region.parse().ok()?;
    let regions = source::regions(&hub.cache);
    hub.members.get(&regions.get(&name)?.primary()?.name)
}

pub(crate) fn copy(name: &str, region: &str, uid: &str, object: &Value) -> Result<Manifest, NotAManifest> {
    let labels = json!({
        MANAGED_BY_LABEL: MANAGED_BY, "app.kubernetes.io/part-of": "meridian", REGION_LABEL: region, OWNER_UID_LABEL: uid,
    });
    let mut spec = object["spec"].clone();
    // Told only where it is not the default: a member of an older version does not know the field.
    if let (Some(spec), Some(false)) = (spec.as_object_mut(), object["spec"]["paused"].as_bool()) {
        spec.remove("paused");
    }
    Manifest::new(json!({
        "apiVersion": INGEST_POOL.api_version(), "kind": INGEST_POOL.kind,
        "metadata": {"name": name, "labels": labels}, "spec": spec,
    }))
}

fn status(
    hub: &Hub,
    region: &str,
    object: &Value,
    held: &Value,
    member: Option<&Member>,
    copied: &Result<Applied, ApplyError>,
) -> Value {
    let standing = match (member.map(Member::health), copied) {
        _ if matches!(member.map(Member::holder), Some(Holder::Other(_))) => {
            Standing::InProgress(format!("the member of region {region} is written by another hub"))
        }
        (_, Err(error)) => Standing::InProgress(error.to_string()),
        (None, _) => Standing::InProgress(format!("region {region} has no connected member")),
        (Some(Health::Unreachable(cause)), _) => {
            Standing::InProgress(format!("the member of region {region} does not answer: {cause}"))
        }
        (Some(_), Ok(_)) => said(held),
    };
    // What the member says is the truth of a pool; only the conditions are the hub's own.
    let mut status = if held["status"].is_object() {
        held["status"].clone()
    } else {
        json!({})
    };
    status["observedGeneration"] = object["metadata"]["generation"].clone();
    let mut observations = standing.observations();
    observations.push(Observation::paused(object));
    status["conditions"] = json!(hub.conditions(object, &observations));
    status
}

/// What the region says of its copy, once that is what was asked for last.
fn said(held: &Value) -> Standing {
    let (seen, there) = (&held["status"]["observedGeneration"], &held["metadata"]["generation"]);
    if held["status"]["replicas"].is_null() || seen != there {
        return Standing::InProgress("the region has not said yet".to_owned());
    }
    let conditions = || held["status"]["conditions"].as_array().into_iter().flatten();
    let condition = |kind: &str| conditions().find(|one| one["type"] == kind);
    let holds = |kind: &str| condition(kind).is_some_and(|one| one["status"] == "True");
    let ready = condition("Ready")
        .and_then(|one| one["message"].as_str())
        .unwrap_or_default();
    match (holds("Ready"), holds("Stalled")) {
        (true, _) => Standing::Current,
        (false, true) => Standing::Failed {
            reason: "RegionStalled",
            message: ready.to_owned(),
        },
        (false, false) => Standing::InProgress(ready.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(generation: i64, ready: &str, stalled: &str) -> Value {
        json!({"metadata": {"generation": 2}, "status": {"observedGeneration": generation, "replicas": 1, "conditions": [
            {"type": "Ready", "status": ready, "message": "so it is"}, {"type": "Stalled", "status": stalled},
        ]}})
    }

    #[test]
    fn a_pause_is_copied_and_its_absence_is_not_told_to_a_member_that_may_not_know_it() {
        let copied = |paused: bool| {
            let pool = json!({"spec": {"region": "eu", "paused": paused}});
            copy("samples", "eu", "u", &pool).unwrap().body()["spec"].clone()
        };
        assert_eq!(copied(true), json!({"region": "eu", "paused": true}));
        assert_eq!(copied(false), json!({"region": "eu"}));
    }

    #[test]
    fn a_pool_stands_as_its_region_says() {
        assert_eq!(said(&held(2, "True", "False")), Standing::Current);
        assert_eq!(
            said(&held(2, "False", "False")),
            Standing::InProgress("so it is".to_owned())
        );
        assert!(matches!(said(&held(2, "False", "True")), Standing::Failed { message, .. } if message == "so it is"));
    }

    #[test]
    fn what_a_region_said_of_an_older_spec_is_not_taken_for_the_newer() {
        assert!(matches!(said(&held(1, "True", "False")), Standing::InProgress(_)));
    }
}
