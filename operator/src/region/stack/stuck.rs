//! Pods that keep a StatefulSet from its change. Kubernetes replaces a pod only when the one before is ready, so a pod that
//! can never become ready also holds up the change that takes back what broke it (kubernetes/kubernetes#67250); it has to
//! be deleted.

use super::plan::Plan;
use super::progress::Progress;
use super::rollout::{self, State};
use crate::apply::{Applier, ApplyError, observed};
use crate::manifest::{ObjectKey, POD, STATEFUL_SET};
use serde_json::Value;

/// Deletes pods that hold up a StatefulSet which is planned as it stands; gives how many.
///
/// # Errors
/// See [`ApplyError`].
pub async fn free(applier: &Applier, plan: &Plan) -> Result<usize, ApplyError> {
    let mut deleted = 0;
    let sets = plan.manifests().filter(|manifest| manifest.key().kind == STATEFUL_SET);
    for manifest in sets {
        let state = rollout::state(manifest, applier.cache())?;
        let set = applier.cache().get(manifest.key());
        let Some(set) = set.filter(|_| state == State::Changed(Progress::Pending)) else {
            continue;
        };
        let (pods, revision) = suspects(manifest.key(), &observed(&set));
        for key in pods {
            let Some(pod) = applier.read(&key).await? else {
                continue;
            };
            if is_stuck(&observed(&pod), &revision) {
                applier.delete(&key, pod.metadata.uid.clone()).await?;
                deleted += 1;
            }
        }
    }
    Ok(deleted)
}

/// Pods that may be stuck, of a StatefulSet that has looked at what it is to be and has not reached it; and the revision
/// that they are to have.
#[must_use]
fn suspects(key: &ObjectKey, set: &Value) -> (Vec<ObjectKey>, String) {
    let number = |pointer: &str| set.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let revision = set["status"]["updateRevision"].as_str().unwrap_or_default();
    let wanted = set["spec"]["replicas"].as_u64().unwrap_or(1);
    let seen = number("/status/observedGeneration") >= number("/metadata/generation");
    if !seen || revision.is_empty() || number("/status/updatedReplicas") >= wanted {
        return (Vec::new(), String::new());
    }
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let pods = (0..wanted).map(|ordinal| ObjectKey::namespaced(POD, namespace, &format!("{}-{ordinal}", key.name)));
    (pods.collect(), revision.to_owned())
}

/// Whether a pod of another revision waits for something that its own revision will hardly get.
#[must_use]
fn is_stuck(pod: &Value, revision: &str) -> bool {
    let other = pod["metadata"]["labels"]["controller-revision-hash"] != revision;
    let list = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let ready = list("/status/conditions").any(|found| found["type"] == "Ready" && found["status"] == "True");
    let waiting = list("/status/containerStatuses")
        .chain(list("/status/initContainerStatuses"))
        .any(|container| !container["state"]["waiting"].is_null());
    let pending = pod["status"]["phase"] == "Pending";
    other && !ready && (pending || waiting) && pod["metadata"]["deletionTimestamp"].is_null()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_set_that_has_seen_its_change_and_not_reached_it_has_suspects() {
        let key = ObjectKey::namespaced(STATEFUL_SET, "meridian-eu", "keyring");
        let set = |generation: u64, updated: u64| {
            json!({"metadata": {"generation": generation}, "spec": {"replicas": 1},
                "status": {"observedGeneration": 3, "updateRevision": "keyring-a", "updatedReplicas": updated}})
        };
        let names = |set: &Value| -> Vec<String> { suspects(&key, set).0.into_iter().map(|pod| pod.name).collect() };
        assert_eq!(names(&set(3, 0)), ["keyring-0"]);
        assert_eq!(names(&set(4, 0)), [""; 0], "it has not looked yet");
        assert_eq!(names(&set(3, 1)), [""; 0]);
    }

    #[test]
    fn only_a_pod_of_another_revision_that_waits_is_stuck() {
        let pod = |revision: &str, phase: &str, ready: &str, state: Value| {
            json!({"metadata": {"labels": {"controller-revision-hash": revision}}, "status": {"phase": phase,
                "conditions": [{"type": "Ready", "status": ready}], "containerStatuses": [{"state": state}]}})
        };
        let waiting = || json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let running = || json!({"running": {}});
        assert!(is_stuck(&pod("b", "Pending", "False", waiting()), "a"));
        assert!(is_stuck(&pod("b", "Running", "False", waiting()), "a"));
        assert!(
            !is_stuck(&pod("a", "Pending", "False", waiting()), "a"),
            "it is what it is to be"
        );
        assert!(!is_stuck(&pod("b", "Running", "True", running()), "a"));
        assert!(
            !is_stuck(&pod("b", "Running", "False", running()), "a"),
            "it may come up yet"
        );
    }
}
