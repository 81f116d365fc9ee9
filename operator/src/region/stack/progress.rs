//! How far a stack is, from what is observed. Pure: a function of the plan and a way to look objects up.

use super::plan::{Gate, Phase, Plan};
use crate::conditions::Observation;
use crate::manifest::{DEPLOYMENT, JOB, KAFKA_CLUSTER, ObjectKey, POSTGRES_CLUSTER, STATEFUL_SET};
use serde_json::Value;

/// What one workload or job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// As planned, and ready.
    Ready,
    /// Not yet.
    Pending,
    /// It will not get there by itself.
    Failed,
}

/// Looks an observed object up.
pub trait Observed {
    /// The object, if it is there.
    fn get(&self, key: &ObjectKey) -> Option<Value>;
}

/// Progress of one object; kinds that have none are ready when they are there.
#[must_use]
pub fn of(key: &ObjectKey, object: Option<&Value>) -> Progress {
    let Some(object) = object else { return Progress::Pending };
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let seen = number("/status/observedGeneration") >= number("/metadata/generation");
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let condition = |kind: &str, status: &str| {
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        conditions
            .into_iter()
            .flatten()
            .any(|c| c["type"] == kind && c["status"] == status)
    };
    let ready = match key.kind {
        // Of a change that has been looked at: what failed before it says nothing.
        DEPLOYMENT if seen && condition("Progressing", "False") => return Progress::Failed,
        DEPLOYMENT => {
            seen && number("/status/updatedReplicas") >= wanted
                && number("/status/availableReplicas") >= wanted
                && number("/status/replicas") <= wanted
        }
        STATEFUL_SET => {
            seen && number("/status/readyReplicas") >= wanted && number("/status/updatedReplicas") >= wanted
        }
        JOB if condition("Failed", "True") => return Progress::Failed,
        JOB => condition("Complete", "True"),
        POSTGRES_CLUSTER => condition("Ready", "True"),
        KAFKA_CLUSTER => seen && condition("Ready", "True"),
        _ => true,
    };
    if ready { Progress::Ready } else { Progress::Pending }
}

/// The names of a phase's objects that are not ready, and whether any has failed.
fn unready(phase: &Phase, observed: &dyn Observed) -> (Vec<String>, bool) {
    let (mut names, mut failed) = (Vec::new(), false);
    for manifest in &phase.manifests {
        let key = manifest.key();
        if !matches!(
            key.kind,
            DEPLOYMENT | STATEFUL_SET | JOB | POSTGRES_CLUSTER | KAFKA_CLUSTER
        ) {
            continue;
        }
        match of(key, observed.get(key).as_ref()) {
            Progress::Ready => {}
            Progress::Pending => names.push(stable_name(key)),
            Progress::Failed => {
                failed = true;
                names.push(format!("{} (failed)", stable_name(key)));
            }
        }
    }
    (names, failed)
}

/// Jobs without their digest: messages say the same for every image.
fn stable_name(key: &ObjectKey) -> String {
    match (key.kind, key.name.rsplit_once('-')) {
        (JOB, Some((base, _))) => base.to_owned(),
        _ => key.name.clone(),
    }
}

/// How many phases may be written now, and what the next one waits for.
#[must_use]
pub fn reached(plan: &Plan, observed: &dyn Observed) -> (usize, Option<String>) {
    for (index, phase) in plan.phases.iter().enumerate() {
        let earlier = plan.phases.get(..index).unwrap_or_default();
        let blocking: Vec<String> = earlier
            .iter()
            .flat_map(|earlier| match phase.gate {
                Gate::Open => vec![],
                Gate::WorkloadsReady | Gate::JobsComplete => unready(earlier, observed).0,
            })
            .collect();
        if !blocking.is_empty() {
            return (index, Some(format!("{} wait for {}", phase.name, blocking.join(", "))));
        }
    }
    (plan.phases.len(), None)
}

/// Conditions about the parts: DataPlaneReady, MigrationsComplete, ServicesReady.
#[must_use]
pub fn conditions(plan: &Plan, observed: &dyn Observed) -> Vec<Observation> {
    let planned = |name: &str| {
        let data_plane = plan.phases.iter().filter(|phase| phase.name == "data plane");
        let mut manifests = data_plane.flat_map(|phase| &phase.manifests);
        manifests.any(|manifest| manifest.key().name == name)
    };
    let external: Vec<&str> = [("PostgreSQL", "postgres"), ("Kafka", "kafka")]
        .into_iter()
        .filter(|(_, name)| !planned(name))
        .map(|(title, _)| title)
        .collect();
    let there = match external.as_slice() {
        [] => "PostgreSQL, Kafka and the keyring are ready".to_owned(),
        external => format!(
            "what runs here is ready; {} is somebody else's, and seen by who connects to it",
            external.join(" and ")
        ),
    };
    let part = |condition, names: &[&str], there: &str| {
        let phases = plan.phases.iter().filter(|phase| names.contains(&phase.name));
        let (mut waiting, mut failed) = (Vec::new(), false);
        for phase in phases {
            let (names, any_failed) = unready(phase, observed);
            waiting.extend(names);
            failed |= any_failed;
        }
        match (waiting.is_empty(), failed) {
            (true, _) => Observation::new(condition, true, "AsPlanned", there),
            (false, false) => Observation::new(
                condition,
                false,
                "Progressing",
                format!("waiting for {}", waiting.join(", ")),
            ),
            (false, true) => Observation::new(condition, false, "Failed", format!("see {}", waiting.join(", "))),
        }
    };
    vec![
        part("DataPlaneReady", &["data plane"], &there),
        part(
            "MigrationsComplete",
            &["databases", "migrations"],
            "all databases have their current schema",
        ),
        part(
            "ServicesReady",
            &["services", "gateway"],
            "all services are rolled out and available",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::stack::plan::{Material, plan};
    use crate::region::stack::validate::example;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct World(BTreeMap<ObjectKey, Value>);

    impl Observed for World {
        fn get(&self, key: &ObjectKey) -> Option<Value> {
            self.0.get(key).cloned()
        }
    }

    impl World {
        fn ready(&mut self, plan: &Plan, phase: &str) {
            for manifest in plan
                .phases
                .iter()
                .filter(|p| p.name == phase)
                .flat_map(|p| &p.manifests)
            {
                self.0.insert(manifest.key().clone(), ready(manifest.body()));
            }
        }
    }

    fn ready(body: &Value) -> Value {
        let mut object = body.clone();
        let n = body.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        object["metadata"]["generation"] = json!(1);
        object["status"] = json!({"observedGeneration": 1, "replicas": n, "readyReplicas": n, "updatedReplicas": n,
            "availableReplicas": n, "conditions": [{"type": "Complete", "status": "True"}]});
        object
    }

    #[test]
    fn each_phase_opens_when_the_earlier_ones_are_ready_and_not_before() {
        let plan = plan(&example(), &Material::default()).unwrap();
        let mut world = World::default();
        let mut seen = vec![reached(&plan, &world).0];
        for phase in ["data plane", "databases", "migrations", "services", "gateway"] {
            world.ready(&plan, phase);
            seen.push(reached(&plan, &world).0);
        }
        assert_eq!(seen, [2, 3, 4, 5, 6, 7]);
        assert!(conditions(&plan, &world).iter().all(Observation::holds));
    }

    #[test]
    fn what_is_waited_for_is_named_without_random_names() {
        let plan = plan(&example(), &Material::default()).unwrap();
        let mut world = World::default();
        world.ready(&plan, "data plane");
        assert_eq!(
            reached(&plan, &world).1.as_deref(),
            Some("migrations wait for migrate-cluster")
        );
    }

    #[test]
    fn a_deployment_that_is_rolling_out_or_was_changed_after_it_was_seen_is_not_ready() {
        let key = ObjectKey::namespaced(DEPLOYMENT, "n", "a");
        let deployment = ready(&json!({"metadata": {"name": "a"}, "spec": {"replicas": 2}}));
        assert_eq!(of(&key, Some(&deployment)), Progress::Ready);
        for (pointer, value) in [
            ("/status/updatedReplicas", 1),
            ("/metadata/generation", 2),
            ("/status/replicas", 3),
        ] {
            let mut other = deployment.clone();
            *other.pointer_mut(pointer).unwrap() = json!(value);
            assert_eq!(of(&key, Some(&other)), Progress::Pending, "{pointer}");
        }
        assert_eq!(of(&key, None), Progress::Pending);
    }

    #[test]
    fn a_failed_job_is_said_to_have_failed() {
        let plan = plan(&example(), &Material::default()).unwrap();
        let mut world = World::default();
        world.ready(&plan, "databases");
        for job in world.0.values_mut() {
            job["status"] = json!({"conditions": [{"type": "Failed", "status": "True"}]});
        }
        let conditions = conditions(&plan, &world);
        let migrations = conditions.iter().find(|c| c.kind == "MigrationsComplete").unwrap();
        assert_eq!(migrations.reason, "Failed");
        assert!(
            migrations.message.contains("migrate-cluster (failed)"),
            "{}",
            migrations.message
        );
    }
}
