//! IngestPool → a copy of it in the member of its region, and the member's status back.

use std::sync::Arc;

use meridian_policy::RegionName;
use serde_json::{Value, json};

use super::adopt::claim::Holder;
use super::members::{Health, Member};
use super::source::Departing;
use super::{Hub, source};
use crate::apply::{Applied, ApplyError, Purpose, observed};
use crate::conditions::Standing;
use crate::manifest::{
    INGEST_POOL, MANAGED_BY, MANAGED_BY_LABEL, Manifest, NotAManifest, OWNER_UID_LABEL, ObjectKey, REGION_LABEL,
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
    let member = member_of(&hub, &region);
    let departing = Departing::of(&hub.cache)
        .regions
        .iter()
        .any(|name| name.as_str() == region);
    let copied = match &member {
        // A region that is being deleted takes its copies away; see `region::removal`.
        Some(member) if member.is_known() && member.holder() == Holder::Us && !departing => {
            member
                .applier
                .apply(Purpose::HubPool, &copy(&name, &region, &uid, &object)?)
                .await
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

fn member_of(hub: &Hub, region: &str) -> Option<Arc<Member>> {
    let name: RegionName = region.parse().ok()?;
    let regions = source::regions(&hub.cache);
    hub.members.get(&regions.get(&name)?.primary()?.name)
}

pub(crate) fn copy(name: &str, region: &str, uid: &str, object: &Value) -> Result<Manifest, NotAManifest> {
    let labels = json!({
        MANAGED_BY_LABEL: MANAGED_BY, "app.kubernetes.io/part-of": "meridian", REGION_LABEL: region, OWNER_UID_LABEL: uid,
    });
    Manifest::new(json!({
        "apiVersion": INGEST_POOL.api_version(), "kind": INGEST_POOL.kind,
        "metadata": {"name": name, "labels": labels}, "spec": object["spec"],
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
        (Some(_), Ok(_)) if held["status"]["replicas"].is_null() => {
            Standing::InProgress("the region has not said yet".to_owned())
        }
        (Some(_), Ok(_)) => Standing::Current,
    };
    // What the member says is the truth of a pool; only the conditions are the hub's own.
    let mut status = if held["status"].is_object() {
        held["status"].clone()
    } else {
        json!({})
    };
    status["observedGeneration"] = object["metadata"]["generation"].clone();
    status["conditions"] = json!(hub.conditions(object, &standing.observations()));
    status
}
