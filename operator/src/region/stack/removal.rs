//! The end of a RegionStack. What it laid down stays, since losing a custom resource must not lose data, unless its
//! `deletionPolicy` says `Delete`: then the stack is held until the region's namespace is gone, and its data with it.

use super::Stacks;
use super::validate::namespace;
use crate::apply::ApplyError;
use crate::finalizer;
use crate::manifest::{MANAGED_BY, MANAGED_BY_LABEL, NAMESPACE, ObjectKey, REGION_LABEL, REGION_STACK};
use crate::reconcile::{Outcome, Pass};
use meridian_policy::RegionName;
use serde_json::Value;

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
            if data_goes && let Some(pass) = self.remove_data(name).await? {
                return Ok(Some(pass));
            }
            finalizer::release(&self.applier, &key, object, FINALIZER).await?;
        }
        Ok(Some(Pass::of(Outcome::Gone)))
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
