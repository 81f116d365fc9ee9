//! The demo's resources as a hub holds them, and members that hold what the hub's own plans say. No API server is asked.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
use meridian_policy::{RegionName, compile};
use serde_json::{Value, json};

use super::observe::{Members, Silence};
use super::plan::{self, Files, PlanReport};
use crate::apply::{digest, observed};
use crate::hub::members::OBSERVED;
use crate::hub::region::{RegionPlan, Told};
use crate::hub::source::{Seen, gather};
use crate::hub::{RESOURCES, pool};
use crate::manifest::{
    APPLIED_ANNOTATION, FITNESS_REGION, INGEST_POOL, Kind, Manifest, ObjectKey, REGION_STACK, TENANT_DATA_RESIDENCY,
};
use crate::watch::Cache;

/// The moment at which the world is looked at.
pub(crate) fn now() -> Timestamp {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

fn regions(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../regions").join(path)
}

/// What a file of `regions/` holds.
pub(crate) fn demo(path: &str) -> String {
    std::fs::read_to_string(regions(path)).unwrap()
}

pub(crate) struct World {
    pub(crate) hub: Cache,
    pub(crate) members: Members,
}

impl World {
    /// The demo, settled: applying it again changes nothing.
    pub(crate) fn settled() -> Self {
        let hub = Cache::default();
        let files = plan::read(&[regions("jurisdictions"), regions("local")]).unwrap();
        for kind in RESOURCES {
            hub.take(*kind, []);
        }
        for applied in files.resources {
            let mut object = applied.object;
            object.metadata.uid = Some(format!("uid-of-{}", applied.key.name));
            object.metadata.generation = Some(1);
            if applied.key.kind == TENANT_DATA_RESIDENCY {
                object.data["status"] = json!({"epoch": 1});
            }
            hub.put(applied.key, object);
        }
        let mut world = Self {
            hub,
            members: BTreeMap::new(),
        };
        for cluster in ["eu", "us"] {
            world.empty_member(cluster);
        }
        // Keys and namespaces come after the stacks, placements and peers after those.
        for _ in 0..3 {
            world.reconcile();
        }
        world
    }

    /// A member in which the chart is installed and nothing else.
    pub(crate) fn empty_member(&mut self, cluster: &str) {
        let cache = Cache::default();
        OBSERVED.iter().for_each(|kind| cache.take(*kind, []));
        self.members.insert(cluster.to_owned(), Ok(cache));
    }

    pub(crate) fn silence(&mut self, cluster: &str) {
        let silence = Silence {
            reason: "MemberUnreachable",
            message: format!("cluster {cluster} does not answer: connection refused"),
        };
        self.members.insert(cluster.to_owned(), Err(silence));
    }

    pub(crate) fn held(&self, cluster: &str) -> &Cache {
        self.members[cluster]
            .as_ref()
            .unwrap_or_else(|silence| panic!("{silence:?}"))
    }

    /// What the hub and the regions would do.
    pub(crate) fn reconcile(&self) {
        let seen = |cluster: &str| Seen {
            held: self.members.get(cluster).and_then(|held| held.as_ref().ok()).cloned(),
            awaited: false,
        };
        let policy = compile(&gather(&self.hub, seen).unwrap(), now());
        let told = Told::of(&policy);
        for (key, object) in self.hub.of_kind(FITNESS_REGION) {
            let name: RegionName = key.name.parse().unwrap();
            let held = self.held(&key.name);
            let uid = object.uid().unwrap();
            let object = observed(&object);
            let plan = RegionPlan::of(&name, &uid, &object, &self.hub, (&policy, &told), held, now()).unwrap();
            plan.manifests().for_each(|manifest| write(held, manifest));
            for (key, pool) in self.hub.of_kind(INGEST_POOL) {
                if pool.data["spec"]["region"] == name.as_str() {
                    write(
                        held,
                        &pool::copy(&key.name, name.as_str(), &pool.uid().unwrap(), &observed(&pool)).unwrap(),
                    );
                }
            }
            self.answer(&name, plan.revision);
        }
    }

    /// What a region says once it has applied a revision.
    fn answer(&self, region: &RegionName, revision: u64) {
        let status = json!({
            "appliedRevision": revision, "namespaceReady": true, "policyForms": ["packed"],
            "caBundle": format!("-----CA of {region}-----"),
            "jwks": {"keys": [{"kid": format!("key of {region}")}]},
            "conditions": [condition("PolicyFresh", "True", "LeaseHeld", "the hub vouches for the policy in force")],
        });
        edit(self.held(region.as_str()), REGION_STACK, region.as_str(), |stack| {
            stack["status"] = status
        });
    }

    pub(crate) fn plan(&self, text: &str) -> PlanReport {
        self.plan_of(plan::parse("change.yaml", text).unwrap())
    }

    pub(crate) fn plan_of(&self, files: Files) -> PlanReport {
        plan::report(&self.hub, plan::admit(&self.hub, files, now()), &self.members, now())
    }
}

/// A condition of generation 1.
pub(crate) fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
        "lastTransitionTime": "2026-11-26T11:00:00Z"})
}

/// Changes an object as somebody else would.
pub(crate) fn edit(cache: &Cache, kind: Kind, name: &str, change: impl FnOnce(&mut Value)) {
    let key = ObjectKey::cluster(kind, name);
    let mut object = observed(&cache.get(&key).unwrap_or_else(|| panic!("no {key}")));
    change(&mut object);
    cache.put(key, serde_json::from_value(object).unwrap());
}

/// As the API server would keep it: the applied digest is on it, it has a UID, and generations count.
fn write(held: &Cache, manifest: &Manifest) {
    let key = manifest.key().clone();
    let before = held.get(&key).map(|object| observed(&object)).unwrap_or_default();
    let mut body = manifest
        .clone()
        .with_annotation(APPLIED_ANNOTATION, &digest(manifest.body()))
        .body()
        .clone();
    body["metadata"]["generation"] = json!(1);
    body["metadata"]["uid"] = json!(format!("uid-of-{key}"));
    if !before["status"].is_null() {
        body["status"] = before["status"].clone();
    }
    let object: DynamicObject = serde_json::from_value(body).unwrap();
    held.put(key, object);
}
