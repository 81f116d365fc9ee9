//! The end of a RegionStack. What it laid down stays, since losing a custom resource must not lose data, unless its
//! `deletionPolicy` says `Delete`: then the stack is held until the region's namespace is gone, and its data with it. Not
//! while tenants have their home here: the hub deletes no such stack, so somebody else has, or has deleted its definition.

use super::Stacks;
use super::validate::namespace;
use crate::apply::ApplyError;
use crate::conditions::{Standing, merge};
use crate::finalizer;
use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL, NAMESPACE, ObjectKey, REGION_LABEL, REGION_STACK};
use crate::policy_form;
use crate::reconcile::{Outcome, Pass};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use meridian_policy::RegionName;
use serde_json::{Value, json};

/// The finalizer of a stack whose data goes with it.
pub const FINALIZER: &str = "meridian.sh/region-data";

impl Stacks {
    /// Holds a stack whose data is to go with it, and takes that away once it is deleted. The pass ends here for every
    /// stack that is being deleted: nothing is laid down for it any more.
    pub(super) async fn end(&self, name: &str, object: &Value) -> Result<Option<Pass>, ApplyError> {
        let key = ObjectKey::cluster(REGION_STACK, name);
        let data_goes = object["spec"]["deletionPolicy"] == "Delete";
        let held = finalizer::is_held(object, FINALIZER);
        if !finalizer::is_deleting(object) {
            if data_goes {
                finalizer::hold(&self.applier, &key, object, FINALIZER).await?;
            } else if held {
                finalizer::release(&self.applier, &key, object, FINALIZER).await?;
            }
            return Ok(None);
        }
        if held {
            let mut policy = object["spec"]["policy"].clone();
            if let Err(error) = policy_form::open(&mut policy) {
                tracing::error!(region = name, %error, "the policy is not understood");
            }
            let homes = policy["homes"].as_array().map_or(0, Vec::len);
            // Of a policy that cannot be opened nobody knows whose home this is.
            if data_goes && (homes > 0 || policy_form::is_packed(&policy)) {
                return Ok(Some(self.refuse_to_remove(&key, object, homes).await?));
            }
            if data_goes && let Some(pass) = self.remove_data(name).await? {
                return Ok(Some(pass));
            }
            finalizer::release(&self.applier, &key, object, FINALIZER).await?;
        }
        Ok(Some(Pass::of(Outcome::Gone)))
    }

    async fn refuse_to_remove(&self, key: &ObjectKey, object: &Value, homes: usize) -> Result<Pass, ApplyError> {
        let tenants = match homes {
            0 => "unreadable tenants".to_owned(),
            homes => format!("{homes} tenants"),
        };
        let message = format!(
            "deleted while {tenants} have their home here: their data is not removed; delete the FitnessRegion on the \
             hub, or take the finalizer {FINALIZER} off by hand, which leaves the data where it is"
        );
        tracing::warn!(resource = %key, count = homes, "the removal of a region's data is refused");
        let standing = Standing::Failed {
            reason: "TenantsHomed",
            message,
        };
        let previous: Vec<Condition> =
            serde_json::from_value(object["status"]["conditions"].clone()).unwrap_or_default();
        let mut seen = object["status"].clone();
        if let Some(map) = seen.as_object_mut() {
            for theirs in super::OF_OTHER_WRITERS {
                map.remove(*theirs);
            }
        }
        let mut status = if seen.is_object() { seen.clone() } else { json!({}) };
        let generation = object["metadata"]["generation"].as_i64();
        status["observedGeneration"] = json!(generation);
        status["conditions"] = json!(merge(&previous, &standing.observations(), generation, Timestamp::now()));
        self.applier.apply_status(key, &seen, status).await?;
        Ok(Pass::of(Outcome::Refused))
    }

    /// Nothing, when there is no data left.
    async fn remove_data(&self, name: &str) -> Result<Option<Pass>, ApplyError> {
        let Ok(region) = name.parse::<RegionName>() else {
            return Ok(None);
        };
        let key = ObjectKey::cluster(NAMESPACE, &namespace(&region));
        let Some(found) = self.applier.read(&key).await? else {
            return Ok(None);
        };
        let label = |key: &str| found.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let ours = label(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY)
            && label(REGION_LABEL).is_some_and(|value| value == name);
        if !ours {
            return Err(ApplyError::Foreign { key: Box::new(key) });
        }
        if found.metadata.deletion_timestamp.is_some() {
            return Ok(Some(Pass::of(Outcome::Waiting)));
        }
        self.applier.delete(&key, found.metadata.uid.clone()).await?;
        tracing::warn!(region = %region, "the region's data is being removed, as its deletionPolicy says");
        Ok(Some(Pass::of(Outcome::Progressed)))
    }
}
