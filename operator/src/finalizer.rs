//! Finalizers: a resource that is being deleted stays until what depends on it is gone.
//!
//! Written as a merge patch of a known resource version, not by server-side apply: that would make an object that went
//! meanwhile anew, and cannot take a finalizer off that somebody's copy of the manifest has put there too.

use crate::apply::{Applier, ApplyError, merge_by};
use crate::manifest::ObjectKey;
use kube::api::Patch;
use serde_json::{Value, json};

/// The field manager of all finalizers.
const MANAGER: &str = "meridian-finalizers";

/// Whether somebody has deleted the object.
#[must_use]
pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Whether the object stays for this finalizer.
#[must_use]
pub fn is_held(object: &Value, finalizer: &str) -> bool {
    names(object).any(|name| name == finalizer)
}

fn names(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Puts the finalizer on the object, unless it is there.
///
/// # Errors
/// See [`ApplyError`]; a conflict when the object has changed since it was observed.
pub async fn hold(applier: &Applier, key: &ObjectKey, object: &Value, finalizer: &str) -> Result<(), ApplyError> {
    if is_held(object, finalizer) {
        return Ok(());
    }
    let finalizers: Vec<&str> = names(object).chain([finalizer]).collect();
    write(applier, key, object, &finalizers).await
}

/// Takes the finalizer off the object; others' stay.
///
/// # Errors
/// See [`ApplyError`]; an object that is gone already is success.
pub async fn release(applier: &Applier, key: &ObjectKey, object: &Value, finalizer: &str) -> Result<(), ApplyError> {
    let others: Vec<&str> = names(object).filter(|name| *name != finalizer).collect();
    match write(applier, key, object, &others).await {
        Err(error) if error.is_not_found() => Ok(()),
        written => written,
    }
}

async fn write(applier: &Applier, key: &ObjectKey, object: &Value, finalizers: &[&str]) -> Result<(), ApplyError> {
    let version = &object["metadata"]["resourceVersion"];
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}}));
    let params = merge_by(MANAGER);
    let api = applier.api(key);
    let request = api.patch(&key.name, &params, &patch);
    // Not put into the cache: what the last finalizer leaves is gone, and the watch says so.
    applier.write("finalize", key, request).await?;
    tracing::info!(resource = %key, state = ?finalizers, "finalizers written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_deleting_once_somebody_has_deleted_it() {
        assert!(!is_deleting(&json!({"metadata": {}})));
        assert!(is_deleting(
            &json!({"metadata": {"deletionTimestamp": "2026-11-21T10:00:00Z"}})
        ));
    }

    #[test]
    fn only_its_own_finalizer_holds_an_object() {
        let object = json!({"metadata": {"finalizers": ["others/one"]}});
        assert!(is_held(&object, "others/one"));
        assert!(!is_held(&object, "meridian.sh/members"));
        assert!(!is_held(&json!({}), "meridian.sh/members"));
    }
}
